"""TLS over a socket pair, on both loops: handshakes in pieces, much data both ways, every end, bounded memory."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop

from postroad.net.tls_link import READ_OCTETS, Receiver, TlsLink, shared_buffer
from tests.serve.harness import own_tls, trusting

both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
SHARED = shared_buffer()


class Taker(Receiver):
    """The protocol behind the link; remembers what it is told."""

    def __init__(self) -> None:
        super().__init__(SHARED)
        self.came: list[bytes] = []
        self.ends: list[str] = []
        self.clogged = False
        self.plain: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.plain = transport

    def data_received(self, data: bytes) -> None:
        self.came.append(data)

    def eof_received(self) -> None:
        self.ends.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends.append("lost")

    def pause_writing(self) -> None:
        self.clogged = True

    def resume_writing(self) -> None:
        self.clogged = False


@dataclass
class Pair:
    """Our end as link and protocol, and the other end as client's TLS over a bare socket."""

    taker: Taker
    link: TlsLink
    sock: socket.socket
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    tls: ssl.SSLObject

    @classmethod
    async def open(cls, folder: Path) -> Pair:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        taker = Taker()
        plain, _ = await loop.connect_accepted_socket(lambda: taker, ours)
        link = TlsLink(loop, plain, taker, own_tls(folder).context)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        return cls(taker, link, theirs, incoming, outgoing, trusting().wrap_bio(incoming, outgoing))

    async def send(self, octets: bytes, piece: int = 1 << 20) -> None:
        """Bare octets in pieces, each as its own read at the other end."""
        loop = asyncio.get_running_loop()
        for at in range(0, len(octets), piece):
            await loop.sock_sendall(self.sock, octets[at : at + piece])
            await asyncio.sleep(0)

    async def shake(self, piece: int = 1 << 20) -> None:
        """The handshake from both sides."""
        shaking = asyncio.ensure_future(self.link.shake(5.0))
        await asyncio.sleep(0)
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.send(self.outgoing.read(), piece)
                self.incoming.write(await asyncio.get_running_loop().sock_recv(self.sock, 65536))
        await self.send(self.outgoing.read(), piece)
        await shaking

    def ciphered(self, octets: bytes) -> bytes:
        """What the client would send."""
        assert self.tls.write(octets) == len(octets)
        return self.outgoing.read()

    async def read(self, size: int) -> bytes:
        """What the server said, deciphered; less at the end of the stream."""
        said = b""
        while len(said) < size:
            try:
                piece = self.tls.read(size - len(said))
            except ssl.SSLWantReadError:
                octets = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
                if not octets:
                    return said
                self.incoming.write(octets)
                continue
            if not piece:
                return said
            said += piece
        return said

    async def until(self, look: Callable[[], Any]) -> None:
        """Lets the loop run until something is true."""
        for _ in range(2000):
            if look():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("it never became true")

    def close(self) -> None:
        """Ends both sides."""
        self.link.abort()
        self.sock.close()


Scene = Callable[[Pair], Coroutine[Any, Any, None]]


def play(scene: Scene, folder: Path, run: Callable[..., Any]) -> None:
    """A scene on one of the loops."""

    async def all_of_it() -> None:
        pair = await Pair.open(folder)
        try:
            await scene(pair)
        finally:
            pair.close()
            await asyncio.sleep(0.01)

    run(all_of_it())


@both_loops
@pytest.mark.parametrize("piece", [1, 50, 1 << 20])
def test_a_handshake_in_pieces_and_data_right_behind_it(tmp_path: Path, run: Callable[..., Any], piece: int) -> None:
    async def scene(pair: Pair) -> None:
        await pair.shake(piece)
        await pair.send(pair.ciphered(b"EHLO client.test\r\n"), piece)
        await pair.until(lambda: b"".join(pair.taker.came) == b"EHLO client.test\r\n")
        pair.link.write(b"250 mx.test\r\n")
        assert await pair.read(13) == b"250 mx.test\r\n"
        tls = pair.link.get_extra_info("ssl_object")
        assert tls.version() == "TLSv1.3"
        assert pair.link.get_extra_info("socket") is not None

    play(scene, tmp_path, run)


@both_loops
def test_much_data_arrives_whole_and_in_bounded_pieces(tmp_path: Path, run: Callable[..., Any]) -> None:
    async def scene(pair: Pair) -> None:
        await pair.shake()
        content = bytes(range(256)) * 8000
        sending = asyncio.ensure_future(pair.send(pair.ciphered(content)))
        await pair.until(lambda: sum(map(len, pair.taker.came)) == len(content))
        await sending
        assert b"".join(pair.taker.came) == content
        assert max(map(len, pair.taker.came)) <= READ_OCTETS
        assert pair.link._incoming.pending == 0

    play(scene, tmp_path, run)


@both_loops
def test_a_pause_stops_reading_and_keeps_what_came(tmp_path: Path, run: Callable[..., Any]) -> None:
    async def scene(pair: Pair) -> None:
        await pair.shake()
        pair.link.pause_reading()
        content = b"x" * 2_000_000
        sending = asyncio.ensure_future(pair.send(pair.ciphered(content)))
        await asyncio.sleep(0.05)
        assert pair.taker.came == []
        assert not sending.done()
        assert pair.link._incoming.pending <= READ_OCTETS
        assert not pair.link.is_reading()
        pair.link.resume_reading()
        await pair.until(lambda: sum(map(len, pair.taker.came)) == len(content))
        await sending
        assert pair.link.is_reading()

    play(scene, tmp_path, run)


@both_loops
def test_a_protocol_that_pauses_in_the_middle_gets_the_rest_later(tmp_path: Path, run: Callable[..., Any]) -> None:
    async def scene(pair: Pair) -> None:
        await pair.shake()
        first = pair.taker.data_received

        def take_one(data: bytes) -> None:
            first(data)
            pair.link.pause_reading()

        pair.taker.data_received = take_one  # type: ignore[method-assign]
        await pair.send(pair.ciphered(b"a" * 10) + pair.ciphered(b"b" * 40_000))
        await pair.until(lambda: pair.taker.came)
        await asyncio.sleep(0.02)
        got = sum(map(len, pair.taker.came))
        assert 0 < got < 40_010
        for _ in range(10):
            pair.link.resume_reading()
            await asyncio.sleep(0.005)
        assert b"".join(pair.taker.came) == b"a" * 10 + b"b" * 40_000

    play(scene, tmp_path, run)


@both_loops
def test_row_s61_a_peer_that_does_not_read_clogs_the_writer(tmp_path: Path, run: Callable[..., Any]) -> None:
    async def scene(pair: Pair) -> None:
        await pair.shake()
        pair.link.set_write_buffer_limits(high=65_536)
        content = b"y" * 60_000
        written = 0
        while not pair.taker.clogged and written < 100:
            pair.link.write(content)
            written += 1
            await asyncio.sleep(0)
        assert pair.taker.clogged
        assert pair.link.get_write_buffer_size() <= 65_536 + 61_000
        assert await pair.read(written * len(content)) == content * written
        await pair.until(lambda: not pair.taker.clogged)

    play(scene, tmp_path, run)


@both_loops
def test_last_words_and_close_notify_are_sent_before_the_end(tmp_path: Path, run: Callable[..., Any]) -> None:
    async def scene(pair: Pair) -> None:
        await pair.shake()
        pair.link.write(b"221 Bye\r\n")
        pair.link.close()
        pair.link.write(b"never")
        assert pair.link.is_closing()
        assert await pair.read(9) == b"221 Bye\r\n"
        assert await pair.read(1) == b""
        assert pair.tls.read(1) == b""  # close_notify has come; without it this would ask for more
        await pair.until(lambda: pair.taker.ends == ["lost"])

    play(scene, tmp_path, run)


@both_loops
def test_a_peer_that_says_goodbye_is_heard_and_answered(tmp_path: Path, run: Callable[..., Any]) -> None:
    async def scene(pair: Pair) -> None:
        await pair.shake()
        octets = pair.ciphered(b"QUIT\r\n")
        with pytest.raises(ssl.SSLWantReadError):
            pair.tls.unwrap()
        await pair.send(octets + pair.outgoing.read())
        await pair.until(lambda: pair.taker.ends == ["eof", "lost"])
        assert pair.taker.came == [b"QUIT\r\n"]

    play(scene, tmp_path, run)


@both_loops
def test_a_stream_cut_off_without_goodbye_ends_too(tmp_path: Path, run: Callable[..., Any]) -> None:
    async def scene(pair: Pair) -> None:
        await pair.shake()
        pair.sock.shutdown(socket.SHUT_WR)
        await pair.until(lambda: pair.taker.ends == ["eof", "lost"])

    play(scene, tmp_path, run)


@both_loops
def test_octets_that_were_changed_on_the_way_are_the_end(tmp_path: Path, run: Callable[..., Any]) -> None:
    async def scene(pair: Pair) -> None:
        await pair.shake()
        octets = bytearray(pair.ciphered(b"MAIL FROM:<a@b.test>\r\n"))
        octets[-1] ^= 1
        await pair.send(bytes(octets))
        await pair.until(lambda: pair.taker.ends == ["lost"])
        assert pair.taker.came == []

    play(scene, tmp_path, run)


@both_loops
@pytest.mark.parametrize("octets", [b"EHLO this is no TLS\r\n", b"\x16\x03\x01\x00\x05hello"])
def test_what_is_no_handshake_fails(tmp_path: Path, run: Callable[..., Any], octets: bytes) -> None:
    async def scene(pair: Pair) -> None:
        shaking = asyncio.ensure_future(pair.link.shake(5.0))
        await asyncio.sleep(0)
        await pair.send(octets)
        with pytest.raises(ssl.SSLError):
            await shaking

    play(scene, tmp_path, run)


@both_loops
def test_row_s42_silence_and_hanging_up_fail_the_handshake(tmp_path: Path, run: Callable[..., Any]) -> None:
    async def silent(pair: Pair) -> None:
        with pytest.raises(ConnectionAbortedError):
            await pair.link.shake(0.02)

    async def gone(pair: Pair) -> None:
        pair.sock.close()
        with pytest.raises(ConnectionResetError):
            await pair.link.shake(5.0)

    play(silent, tmp_path, run)
    play(gone, tmp_path, run)
