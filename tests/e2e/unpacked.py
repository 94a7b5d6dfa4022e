"""Servers whose Debian packages conflict: each runs where its files lie over /usr and /etc, unseen by all others."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.programs import TREES, UNPACKED

PRIVATE = ["unshare", "--mount", "--propagation", "private"]

LAY_OVER = """
set -e
mount -t overlay -o "lowerdir=$1/usr:/usr" none /usr
mount -t overlay -o "lowerdir=$2/etc:/etc" none /etc
mount --bind "$2/var" /var
mount --bind "$2/run" /run
shift 2
exec "$@"
"""
"""In a mount namespace of its own: the packages' /usr, and /etc, /var and /run of this one server."""


@contextmanager
def server_folder(name: str, users: Mapping[str, int]) -> Iterator[Path]:
    """A folder for the files of one server, with the users that only it knows.

    It must be open to the accounts of its processes, who may not enter those of pytest.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"postroad-{name}-"))
    folder.chmod(0o755)
    for part in ("etc", "run", "var/tmp", "log", "mail"):
        (folder / part).mkdir(parents=True)
    (folder / "var/run").symlink_to("/run")
    for file, ending in (("passwd", "::/nonexistent:/usr/sbin/nologin"), ("group", "")):
        known = Path("/etc", file).read_text()
        entries = (f"{user}:x:{uid}:{f'{uid}{ending}' if ending else ''}\n" for user, uid in users.items())
        (folder / "etc" / file).write_text(known + "".join(entries))
    (folder / "etc/resolv.conf").write_text("")
    (folder / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def command(program: str, folder: Path, *words: str) -> list[str]:
    """The command line of a program of an unpacked package, with the files of `folder`."""
    tree = UNPACKED / TREES[program]
    return [*PRIVATE, "sh", "-c", LAY_OVER, "sh", str(tree), str(folder), *words]


@contextmanager
def running(program: str, folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server in the foreground, its output in `log/output`; ended with all its children."""
    with open(folder / "log/output", "ab") as output:
        process = subprocess.Popen(
            command(program, folder, *words),
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and all that it has started: nothing of theirs is needed any more."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(10)


def needs_private_mounts() -> None:
    """Skips, with the reason, where the machine does not let root lay folders over others; CI=true changes nothing."""
    if why := _refusal():
        pytest.skip(f"this machine does not let root lay one folder over another: {why}")


@functools.cache
def _refusal() -> str:
    probe = "mount -t overlay -o lowerdir=/etc:/usr none /usr"
    done = subprocess.run([*PRIVATE, "sh", "-c", probe], capture_output=True, text=True, timeout=20, check=False)
    return "" if done.returncode == 0 else done.stderr.strip()[-200:] or f"status {done.returncode}"
