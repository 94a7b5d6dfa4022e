"""Every call by which the spool touches the file system, in one place: a test makes the n-th of them fail.

Each raises OSError as the kernel says it. Callers write `syscalls.fsync(fd)`, never a name imported from here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

CREATE_MODE: Final = 0o600


def create(path: Path) -> int:
    """Makes a new file for writing; fails when there is one already."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, CREATE_MODE)


def open_to_read(path: Path) -> int:
    """Opens a file for reading."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def duplicate(descriptor: int) -> int:
    """A second descriptor of an open file, which outlives the first."""
    return os.dup(descriptor)


def write(descriptor: int, octets: bytes | memoryview) -> int:
    """Writes as much as the kernel takes; returns the count."""
    return os.write(descriptor, octets)


def read(descriptor: int, count: int) -> bytes:
    """Reads up to `count` octets; empty at the end."""
    return os.read(descriptor, count)


def read_at(descriptor: int, count: int, offset: int) -> bytes:
    """Reads up to `count` octets from a place in the file, wherever writing goes on; empty at the end."""
    return os.pread(descriptor, count, offset)


def fsync(descriptor: int) -> None:
    """Returns when the file or folder is on the disk."""
    os.fsync(descriptor)


def rename(old: Path, new: Path) -> None:
    """Gives a file its final name; durable after `fsync_folder` of the new folder."""
    os.rename(old, new)


def fsync_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def unlink(path: Path) -> None:
    """Removes a name."""
    os.unlink(path)


def close(descriptor: int) -> None:
    """Gives a descriptor back."""
    os.close(descriptor)


def free_space(path: Path) -> tuple[int, int]:
    """Octets free for us and octets in all, of the file system that holds `path`."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
