"""Leaving mail in the maildrop while the server is down: `flow.maildrop` says what a file holds and who takes it up.

Written by a process that may be killed at any moment, so a file has its final name only when all of it is on the disk.
"""

from __future__ import annotations

import os
import time
from typing import Any, Final

from postroad.console.sysexits import TRY_AGAIN, Failure

FILE_MODE: Final = 0o640
"""The folder's group is that of the service, which may read."""


def leave(folder: str, slip: dict[str, Any], message: bytes) -> str:
    """Write one file and return its name when it is durable; raises Failure(TRY_AGAIN), and then nothing is left."""
    import json

    name = f"{time.time_ns() // 1000:x}-{os.getpid()}-{os.urandom(4).hex()}"
    unfinished, ready = f"{folder}/tmp.{name}", f"{folder}/{name}.mail"
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        raise Failure(TRY_AGAIN, f"it cannot be left in {folder} either ({error.strerror})") from error
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, FILE_MODE)
            file.write(json.dumps(slip).encode())
            file.write(b"\n")
            file.write(message)
            file.flush()
            os.fsync(descriptor)
            os.rename(unfinished, ready)
            # Once more: with the file's own record the new name goes to the disk too, and the folder, which hides its
            # names from us, cannot be opened to be synced.
            os.fsync(descriptor)
    except OSError as error:
        _forget(unfinished, ready)
        raise Failure(TRY_AGAIN, f"it cannot be left in {folder} either ({error.strerror})") from error
    return name


def _forget(*paths: str) -> None:
    for path in paths:
        try:
            os.unlink(path)
        except OSError:
            continue
