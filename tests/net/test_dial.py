"""One outgoing connection: octets, patience, backpressure, ends."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from postroad.net.dial import Link, Unreachable, dial


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[tuple[Link, socket.socket]]:
    """A link and the raw socket of its peer."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    loop = asyncio.get_running_loop()
    link, (peer, _) = await asyncio.gather(
        dial("127.0.0.1", listener.getsockname()[1], patience=5), loop.sock_accept(listener)
    )
    yield link, peer
    link.abort()
    peer.close()
    listener.close()
    await asyncio.sleep(0)


async def test_octets_come_as_they_were_sent_and_then_the_end(pair: tuple[Link, socket.socket]) -> None:
    link, peer = pair
    peer.sendall(b"one")
    assert await link.receive(5) == b"one"
    peer.sendall(b"two")
    peer.close()
    assert await link.receive(5) == b"two"
    assert await link.receive(5) == b""
    assert link.ended
    link.write(b"into the void")


async def test_what_came_is_acknowledged_at_once_on_request(pair: tuple[Link, socket.socket]) -> None:
    link, peer = pair
    assert link._transport is not None
    own = link._transport.get_extra_info("socket")
    # As the kernel does by itself once a connection is used for questions and answers.
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
    peer.sendall(b"250 sender ok")
    assert await link.receive(5) == b"250 sender ok"
    assert unacknowledged(peer) == 1
    link.acknowledge()
    assert unacknowledged(peer) == 0


def unacknowledged(sock: socket.socket) -> int:
    """Segments of which the kernel does not know that they arrived: tcpi_unacked of struct tcp_info."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)[24:28], sys.byteorder)


async def test_patience_ends(pair: tuple[Link, socket.socket]) -> None:
    link, peer = pair
    with pytest.raises(TimeoutError):
        await link.receive(0.01)
    peer.sendall(b"late")
    assert await link.receive(5) == b"late"
    with pytest.raises(TimeoutError):
        await link.receive(0.01)


async def test_a_peer_that_does_not_read_makes_us_wait(pair: tuple[Link, socket.socket]) -> None:
    link, peer = pair
    link.write(b"x" * 8_000_000)
    with pytest.raises(TimeoutError):
        await link.room(0.01)
    waiting = asyncio.ensure_future(link.room(5))
    loop = asyncio.get_running_loop()
    read = 0
    peer.setblocking(False)
    while read < 8_000_000:
        read += len(await loop.sock_recv(peer, 1_000_000))
    await waiting


async def test_a_connection_that_breaks_wakes_the_reader(pair: tuple[Link, socket.socket]) -> None:
    link, peer = pair
    waiting = asyncio.ensure_future(link.receive(5))
    await asyncio.sleep(0)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    assert await waiting == b""
    assert link.why in ("", "connection reset by peer")


async def test_nobody_there_says_so_in_words() -> None:
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    with pytest.raises(Unreachable, match="connection refused"):
        await dial("127.0.0.1", port, patience=5)


async def test_the_source_address_is_ours_to_choose() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    link, (peer, source) = await asyncio.gather(
        dial("127.0.0.1", listener.getsockname()[1], patience=5, bind=["::1", "127.0.0.9"]),
        asyncio.get_running_loop().sock_accept(listener),
    )
    assert source[0] == "127.0.0.9"
    link.close()
    peer.close()
    listener.close()


async def test_a_peer_that_talks_instead_of_reading_buys_no_time(pair: tuple[Link, socket.socket]) -> None:
    link, peer = pair
    link.write(b"x" * 8_000_000)

    async def talk() -> None:
        while True:
            peer.send(b"x")
            await asyncio.sleep(0.01)

    talking = asyncio.ensure_future(talk())
    async with asyncio.timeout(2.0):
        with pytest.raises(TimeoutError):
            await link.room(0.05)
    talking.cancel()
    await asyncio.gather(talking, return_exceptions=True)
