"""A file system that fails at the n-th call: for the database as an apsw VFS, for the spool around `store.syscalls`."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from postroad.store import syscalls

NAME = "failing"
"""The name the VFS is registered under."""


class Fault:
    """Counts calls, and makes the n-th fail once; with `lasting` every call of that kind after it fails too."""

    def __init__(self, number: int, code: int, *, kinds: frozenset[str], lasting: bool = False) -> None:
        self.number = number
        self.code = code
        self.kinds = kinds
        self.lasting = lasting
        self.count = 0
        self.failed = ""
        """The kind of the call that failed, with what it was about."""
        self._kind = ""
        self._lock = threading.Lock()

    def strikes(self, kind: str, subject: str) -> bool:
        """Counts one call; True when it must fail."""
        if kind not in self.kinds:
            return False
        with self._lock:
            if self.failed:
                return self.lasting and kind == self._kind
            self.count += 1
            if self.count != self.number:
                return False
            self.failed, self._kind = f"{kind} {subject}", kind
            return True

    @property
    def of_fsync(self) -> bool:
        """Whether the failed call was one after which the kernel may have thrown pages away."""
        return "sync" in self._kind.lower()


DATABASE_CALLS = frozenset({"xOpen", "xRead", "xWrite", "xSync", "xTruncate", "xDelete"})
SPOOL_CALLS = frozenset({"create", "open_to_read", "read", "write", "fsync", "rename", "fsync_folder", "unlink"})


# -- the database ------------------------------------------------------------------------------------------------------


def failure_of(kind: str, code: int) -> apsw.Error:
    """What SQLite's own file system would say."""
    if code == errno.ENOSPC:
        return apsw.FullError("no space left on device")
    error = apsw.IOError(f"input/output error in {kind}")
    extended = {
        "xRead": apsw.SQLITE_IOERR_READ,
        "xWrite": apsw.SQLITE_IOERR_WRITE,
        "xSync": apsw.SQLITE_IOERR_FSYNC,
        "xTruncate": apsw.SQLITE_IOERR_TRUNCATE,
        "xDelete": apsw.SQLITE_IOERR_DELETE,
    }
    error.extendedresult = extended.get(kind, apsw.SQLITE_IOERR)  # type: ignore[attr-defined]
    return apsw.CantOpenError("unable to open the file") if kind == "xOpen" else error


class FailingFile(apsw.VFSFile):
    """A file of `FailingVfs`."""

    def __init__(self, vfs: FailingVfs, name: Any, flags: list[int]) -> None:
        self._vfs = vfs
        self._name = Path(name.filename() if isinstance(name, apsw.URIFilename) else str(name)).name
        super().__init__(vfs.base, name, flags)

    def _pass(self, kind: str) -> None:
        self._vfs.passing(kind, self._name)

    def xRead(self, amount: int, offset: int) -> bytes:
        self._pass("xRead")
        return super().xRead(amount, offset)

    def xWrite(self, octets: bytes, offset: int) -> None:
        self._pass("xWrite")
        super().xWrite(octets, offset)

    def xSync(self, flags: int) -> None:
        self._pass("xSync")
        super().xSync(flags)

    def xTruncate(self, size: int) -> None:
        self._pass("xTruncate")
        super().xTruncate(size)


class FailingVfs(apsw.VFS):
    """The system's VFS with a fault; registered under `NAME` for as long as it lives."""

    def __init__(self) -> None:
        self.base = apsw.vfs_names()[0]
        self.fault: Fault | None = None
        super().__init__(NAME, self.base)

    def passing(self, kind: str, subject: str) -> None:
        """Raises when the fault says so."""
        fault = self.fault
        if fault is not None and fault.strikes(kind, subject):
            raise failure_of(kind, fault.code)

    def xOpen(self, name: Any, flags: list[int]) -> FailingFile:
        self.passing("xOpen", "")
        return FailingFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.passing("xDelete", Path(filename).name)
        super().xDelete(filename, syncdir)


# -- the spool ---------------------------------------------------------------------------------------------------------


def break_spool(fault: Fault, set_name: Callable[[Any, str, Any], None]) -> None:
    """Puts the fault around the spool's calls; `set_name` is pytest's `monkeypatch.setattr`."""
    for kind in SPOOL_CALLS:
        set_name(syscalls, kind, _failing(getattr(syscalls, kind), kind, fault))


def _failing(call: Callable[..., Any], kind: str, fault: Fault) -> Callable[..., Any]:
    def guarded(*arguments: Any) -> Any:
        if fault.strikes(kind, "spool"):
            raise OSError(fault.code, f"injected in {kind}")
        return call(*arguments)

    return guarded
