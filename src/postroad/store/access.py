"""The store for the command line: through the store process when one runs, otherwise by itself for a moment."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

import msgspec

from postroad.store import folder
from postroad.store.client import failure
from postroad.store.frames import Unframer, decode_answers, frame
from postroad.store.opening import OpenStore
from postroad.store.register import Registered
from postroad.store.units import UNITS, Tx, load_units
from postroad.store.writer import OK, Call
from postroad.values.errors import StoreBroken

A = TypeVar("A")
R = TypeVar("R")


class StoreAccess(Protocol):
    """A way to run units, one at a time, without an event loop; a context manager.

    Whoever writes body files or owns deliveries calls `register` first, as a worker does: the number it returns is
    alive until `close`.
    """

    def call(self, unit: Callable[[Tx, A], R], args: A) -> R:
        """Runs a unit; raises `StoreBroken`, `StoreFull` or `client.UnitFailed`."""
        ...

    def close(self) -> None:
        """Lets go of the store."""
        ...

    def __enter__(self) -> StoreAccess: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


def open_store(data_dir: Path) -> StoreAccess:
    """Opens a data folder for writing, whether or not a server runs on it.

    Raises `folder.WrongUser` with the right command, `StoreBroken` when the store cannot be used or the process that
    holds it does not answer, and FileNotFoundError when there is no such folder. Root may use a running process of
    another user, but opens nothing itself.
    """
    try:
        return Remote(data_dir)
    except (StoreBroken, OSError) as silent:
        folder.require_owner(data_dir)
        try:
            return Own(data_dir)
        except folder.StoreLocked:
            raise StoreBroken(f"a process holds {data_dir} but does not answer yet") from silent


class _Closing:
    def close(self) -> None:
        raise NotImplementedError

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Remote(_Closing):
    """Units sent to the store process."""

    def __init__(self, data_dir: Path) -> None:
        load_units()
        self._sock: socket.socket = folder.connect(data_dir)
        self._unframer = Unframer()

    def __enter__(self) -> Remote:
        return self

    def call(self, unit: Callable[[Tx, A], R], args: A) -> R:
        """See `StoreAccess.call`."""
        name = unit.__name__
        try:
            self._sock.sendall(frame([(1, name, args)]))
            answer = self._answer()
        except OSError as error:
            raise StoreBroken(f"the connection to the store ended during {name}") from error
        if answer[0] == OK:
            return UNITS[name].decode_result(answer[1])  # type: ignore[no-any-return]
        raise failure(answer[0], str(msgspec.msgpack.decode(answer[1])))

    def _answer(self) -> tuple[int, Any]:
        while True:
            octets = self._sock.recv(1 << 18)
            if not octets:
                raise ConnectionResetError
            for content in self._unframer.feed(octets):
                for answer in decode_answers(content).answers:
                    return answer.status, answer.value

    def close(self) -> None:
        """Ends the connection."""
        self._sock.close()


class Own(_Closing):
    """Units run by this process, which holds the folder's lock meanwhile."""

    def __init__(self, data_dir: Path) -> None:
        self._store = OpenStore(data_dir)

    def __enter__(self) -> Own:
        return self

    def call(self, unit: Callable[[Tx, A], R], args: A) -> R:
        """See `StoreAccess.call`."""
        [result] = self._store.writer.run([Call(UNITS[unit.__name__], args)])
        if result.status != OK:
            raise failure(result.status, str(result.value))
        if isinstance(result.value, Registered):
            self._store.writer.live.add(result.value.incarnation)
        return result.value  # type: ignore[no-any-return]

    def close(self) -> None:
        """Closes the store and lets go of the lock."""
        self._store.close()
