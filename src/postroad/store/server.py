"""The store process's loop: reads calls from all sockets, runs them as one transaction, answers.

While a commit waits for the disk the next calls gather in the socket buffers. On a fast disk that alone makes small
batches, so behind a batch of several calls the next one is given a moment more; a client that is alone never waits.
What one client can leave with us is bounded twice: by what is read of it in one pass, and by the answers it has not
taken.
A worker's lease is its connection: the number it registered under is alive from its answer until the socket ends.
"""

from __future__ import annotations

import logging
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec

from postroad.store.frames import Unframer, decode_calls, frame
from postroad.store.units import UNITS
from postroad.store.writer import FAILED, OK, Call, Result, Writer
from postroad.values.errors import StoreBroken
from postroad.values.ports import Clock

log = logging.getLogger(__name__)

BATCH_UNITS: Final = 500
"""Units in one transaction: about 25 ms of work, which is what the last of them waits."""
BATCH_OCTETS: Final = 8 * 1024 * 1024
GATHER_S: Final = 0.001
"""Pause behind a batch of several calls: a commit by itself costs as much CPU time as several messages."""
WELCOME_AGAIN_S: Final = 0.01
"""Pause behind a failed accept: without it a lack of descriptors would keep the loop spinning."""
READ_OCTETS: Final = 1024 * 1024
"""What is read of one client in one pass, so that one that sends without pause does not shut out the others."""
UNSENT_MAX: Final = 8 * 1024 * 1024
"""Answers a client may leave unread before nothing more is read from it."""
UNREAD_MAX: Final = 4 * UNSENT_MAX
"""Answers and hints after which a client that takes none of them is held for dead."""
BEAT_S: Final = 2.0
"""How often `on_beat` is called while the loop goes round."""
TEND_S: Final = 0.2
"""Silence after which the log is checkpointed although it is short."""
CHORE_SHARE: Final = 10
"""Under load a chore's slice is followed by at least this many times its own length without one."""
CHORE_PAUSE_S: Final = 5.0
"""After a slice that failed: a full disk is not filled any faster by asking again."""


class Chore(Protocol):
    """Housekeeping done in slices of a few milliseconds between batches."""

    due: float
    """Monotonic time of the next slice."""

    def step(self, now: float) -> None:
        """Does one slice and sets `due`; `now` is monotonic."""
        ...


class Peer:
    """One connected client."""

    __slots__ = ("incarnation", "sock", "unframer", "unsent")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.unframer = Unframer()
        self.unsent = bytearray()
        self.incarnation = 0


Waiting = tuple[Peer, int, Call]


class Server:
    """Serves one writer on one listening socket until `stop`."""

    def __init__(
        self,
        listener: socket.socket,
        writer: Writer,
        clock: Clock,
        *,
        tend: Callable[[bool], None],
        chores: Sequence[Chore] = (),
        aside: dict[str, Callable[[msgspec.Raw], None]] | None = None,
        beside: dict[str, Callable[[int, Any], Any]] | None = None,
    ) -> None:
        """`tend(idle)` is called between batches. `aside` names calls that go round the transaction: they are never
        answered, and their arguments are handed over undecoded. `beside` names units that are answered at once and
        without a transaction, by a function of the caller's incarnation and the arguments."""
        self._listener = listener
        self._writer = writer
        self._clock = clock
        self._tend = tend
        self._chores = chores
        self._aside = aside or {}
        self._beside = beside or {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._peers: set[Peer] = set()
        self._closing: list[Peer] = []
        self._buffer = bytearray(READ_OCTETS)
        self._stopping = False
        self._chore_after = 0.0
        self._next_beat = 0.0
        self.on_beat: Callable[[], None] | None = None
        """Called every BEAT_S: the sign of life of this process, for whoever watches it."""
        self.on_death: Callable[[int], None] = lambda incarnation: None
        """Called with the number of each worker whose connection ended."""

    def stop(self) -> None:
        """Ends `serve` after the batch that runs now."""
        self._stopping = True

    def stop_on(self, *signals: signal.Signals) -> None:
        """Ends `serve` when one of these signals arrives."""
        wake_read, wake_write = socket.socketpair()
        for end in (wake_read, wake_write):
            end.setblocking(False)
        self._wake_write = wake_write
        signal.set_wakeup_fd(wake_write.fileno())
        for each in signals:
            signal.signal(each, lambda *_: self.stop())
        self._selector.register(wake_read, selectors.EVENT_READ)

    def stop_with(self, descriptor: int) -> None:
        """Ends `serve` when the other end of a pipe is closed: whoever started us is gone."""
        self._selector.register(descriptor, selectors.EVENT_READ, self)

    # -- the loop ----------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Runs until stopped; then every call that was read is answered and every connection closed."""
        dirty = crowded = False
        while not self._stopping:
            if crowded:
                time.sleep(GATHER_S)
            waiting = self._gather(0.0 if self._chores_due() else self._patience(dirty))
            crowded = len(waiting) > 1
            if waiting:
                dirty = True
                for start in range(0, len(waiting), BATCH_UNITS):
                    self._run(waiting[start : start + BATCH_UNITS])
                self._guarded(lambda: self._tend(False))
            elif dirty and not self._chores_due():
                dirty = False
                self._guarded(lambda: self._tend(True))
            self._bury()
            self._do_chore(busy=bool(waiting))
            if self.on_beat is not None and self._clock.monotonic() >= self._next_beat:
                self._next_beat = self._clock.monotonic() + BEAT_S
                self.on_beat()
        for peer in list(self._peers):
            self._send(peer, b"")
            self._drop(peer)
        self._bury()
        self._selector.close()

    def _patience(self, dirty: bool) -> float | None:
        """Seconds to wait for calls: until the next chore, or the end of a silence."""
        waits = [TEND_S] if dirty else []
        if self.on_beat is not None:
            waits.append(max(self._next_beat - self._clock.monotonic(), 0.0))
        if self._chores and not self._writer.broken:
            waits.append(max(min(chore.due for chore in self._chores) - self._clock.monotonic(), 0.0))
        return min(waits) if waits else None

    def _chores_due(self) -> bool:
        now = self._clock.monotonic()
        return not self._writer.broken and any(chore.due <= now for chore in self._chores)

    def _do_chore(self, *, busy: bool) -> None:
        now = self._clock.monotonic()
        if busy and now < self._chore_after:
            return
        chore = min(self._chores, key=lambda each: each.due, default=None)
        if chore is None or chore.due > now or self._writer.broken:
            return
        sound = self._guarded(lambda: chore.step(now))
        after = self._clock.monotonic()
        if not sound:
            chore.due = after + CHORE_PAUSE_S
        elif chore.due <= now:
            chore.due = after
        self._chore_after = after + (after - now) * CHORE_SHARE
        self._tell(self._take_hints())

    def _guarded(self, housekeeping: Callable[[], None]) -> bool:
        """Runs what nobody waits for: its failure may break the store, never the loop. False when it failed."""
        try:
            housekeeping()
            return True
        except StoreBroken as error:
            self._writer.break_off(str(error))
        except Exception:
            log.exception("housekeeping failed")
        return False

    # -- reading -----------------------------------------------------------------------------------------------------

    def _gather(self, timeout: float | None) -> list[Waiting]:
        """Everything that can be read now, at most `BATCH_OCTETS`, as calls."""
        waiting: list[Waiting] = []
        room = BATCH_OCTETS
        for key, mask in self._selector.select(timeout):
            peer = key.data
            if isinstance(peer, Peer):
                if mask & selectors.EVENT_WRITE:
                    self._send(peer, b"")
                if mask & selectors.EVENT_READ and room > 0:
                    room -= self._read(peer, waiting)
            elif key.fileobj is self._listener:
                self._welcome()
            elif peer is self:
                self.stop()
        return waiting

    def _welcome(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:  # nobody there any more, or no descriptor left: the clients we have go on
            if not isinstance(error, BlockingIOError):
                log.warning("a client could not be let in: %s", error.strerror)
                time.sleep(WELCOME_AGAIN_S)
            return
        sock.setblocking(False)
        peer = Peer(sock)
        self._peers.add(peer)
        self._selector.register(sock, selectors.EVENT_READ, peer)

    def _read(self, peer: Peer, waiting: list[Waiting]) -> int:
        """Reads one client once; returns the number of octets."""
        try:
            count = peer.sock.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            count = 0
        if count == 0:
            self._drop(peer)
            return 0
        try:
            for content in peer.unframer.feed(bytes(memoryview(self._buffer)[:count])):
                for called in decode_calls(content):
                    self._take(peer, called.number, called.unit, called.args, waiting)
        except (ValueError, msgspec.DecodeError) as error:
            log.error("a client of the store sent what is no call: %s", error)
            self._drop(peer)
        return count

    def _take(self, peer: Peer, number: int, name: str, args: msgspec.Raw, waiting: list[Waiting]) -> None:
        unit = UNITS.get(name)
        if unit is None:
            aside = self._aside.get(name)
            if aside is not None:
                aside(args)
            elif number:
                self._send(peer, frame([[(number, FAILED, f"there is no unit {name}")], []]))
            return
        try:
            decoded = unit.decode(args)
        except msgspec.DecodeError as error:
            if number:
                self._send(peer, frame([[(number, FAILED, f"{name}: {error}")], []]))
            return
        beside = self._beside.get(name)
        if beside is not None:
            self._answer_beside(peer, number, beside, decoded)
            return
        waiting.append((peer, number, Call(unit, decoded, peer.incarnation)))

    def _answer_beside(self, peer: Peer, number: int, beside: Callable[[int, Any], Any], args: Any) -> None:
        try:
            answer = (number, OK, beside(peer.incarnation, args))
        except Exception as error:
            log.exception("a call beside the transactions failed")
            answer = (number, FAILED, f"{type(error).__name__}: {error}")
        self._send(peer, frame([[answer], []]))
        self._tell(self._take_hints())

    # -- running and answering ---------------------------------------------------------------------------------------

    def _run(self, waiting: list[Waiting]) -> None:
        results = self._writer.run([call for _, _, call in waiting])
        answers: dict[Peer, list[tuple[int, int, Any]]] = {}
        for (peer, number, call), result in zip(waiting, results, strict=True):
            if call.unit.name == "register" and result.status == OK:
                self._enlist(peer, result)
            if number:
                answers.setdefault(peer, []).append((number, result.status, result.value))
        hints = self._take_hints()
        for peer, own in answers.items():
            self._send(peer, frame([own, hints if peer.incarnation else []]))
        if hints:
            self._tell(hints, but=answers)

    def _enlist(self, peer: Peer, result: Result) -> None:
        if peer.incarnation:
            self._writer.live.discard(peer.incarnation)
        peer.incarnation = result.value.incarnation
        if peer in self._peers:
            self._writer.live.add(peer.incarnation)

    def _take_hints(self) -> list[tuple[str, int]]:
        hints, self._writer.hints = self._writer.hints, []
        return hints

    def _tell(self, hints: list[tuple[str, int]], but: dict[Peer, Any] | None = None) -> None:
        """Sends hints to every worker but those who got them with their answers."""
        if not hints:
            return
        content = frame([[], hints])
        for peer in list(self._peers):
            if peer.incarnation and (but is None or peer not in but):
                self._send(peer, content)

    def _send(self, peer: Peer, octets: bytes | bytearray) -> None:
        """Sends what the socket takes and keeps the rest; a client that leaves too much unread is not read either."""
        if peer not in self._peers:
            return
        unsent = peer.unsent
        if unsent or not octets:
            unsent += octets
            octets = unsent
        try:
            sent = peer.sock.send(octets) if octets else 0
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._drop(peer)
            return
        if octets is unsent:
            del unsent[:sent]
        elif sent < len(octets):
            unsent += memoryview(octets)[sent:]
        if len(unsent) > UNREAD_MAX:
            self._drop(peer)
        else:
            self._watch(peer)

    def _watch(self, peer: Peer) -> None:
        unsent = len(peer.unsent)
        wanted = selectors.EVENT_READ if unsent < UNSENT_MAX else 0
        if unsent:
            wanted |= selectors.EVENT_WRITE
        if self._selector.get_key(peer.sock).events != wanted:
            self._selector.modify(peer.sock, wanted, peer)

    # -- ends --------------------------------------------------------------------------------------------------------

    def _drop(self, peer: Peer) -> None:
        """Ends a connection; its worker's number dies after the batch that may still hold its calls."""
        if peer in self._peers:
            self._peers.discard(peer)
            self._selector.unregister(peer.sock)
            peer.sock.close()
            self._closing.append(peer)

    def _bury(self) -> None:
        closing, self._closing = self._closing, []
        for peer in closing:
            if peer.incarnation:
                self._writer.live.discard(peer.incarnation)
                self.on_death(peer.incarnation)
                self._tell([("queue", 0)])
