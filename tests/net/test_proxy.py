"""A listening socket behind a proxy: headers in pieces, strangers, silence, and what is left for the door to read."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator

import pytest

from postroad.net import proxy
from postroad.net.proxy import Origin, ProxyListener
from postroad.values.networks import Networks
from tests.serve.harness import breathe

HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.7 4711 25\r\n"


class Door:
    """What came through a listener on loopback."""

    def __init__(self, listed: list[str]) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.address = self.sock.getsockname()
        self.came: list[tuple[socket.socket, Origin]] = []
        self.refused: list[str] = []
        self.arrived = asyncio.Event()
        self.listener = ProxyListener(self.sock, Networks(listed), self._accepted, self._refused)
        self.clients: list[socket.socket] = []

    def _accepted(self, sock: socket.socket, origin: Origin) -> None:
        self.came.append((sock, origin))
        self.arrived.set()

    def _refused(self, why: str) -> None:
        self.refused.append(why)
        self.arrived.set()

    def connect(self, octets: bytes = b"") -> socket.socket:
        """A client that has sent something."""
        client = socket.create_connection(self.address)
        client.sendall(octets)
        self.clients.append(client)
        return client

    async def arrival(self) -> None:
        """Waits until something was accepted or refused."""
        async with asyncio.timeout(5):
            await self.arrived.wait()
        self.arrived.clear()

    def close(self) -> None:
        """Ends everything."""
        self.listener.close()
        for one in [*self.clients, *(sock for sock, _ in self.came)]:
            one.close()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    made = Door(["127.0.0.0/8"])
    yield made
    made.close()


async def test_the_header_names_the_client_and_the_rest_stays_in_the_socket(door: Door) -> None:
    door.connect(HEADER + b"\x16\x03\x01 what follows")
    await door.arrival()
    [(sock, origin)] = door.came
    assert origin == Origin("192.0.2.7", 4711, "127.0.0.1")
    assert sock.recv(100) == b"\x16\x03\x01 what follows"


async def test_a_header_may_come_octet_by_octet(door: Door) -> None:
    client = door.connect()
    for octet in HEADER:
        client.sendall(bytes((octet,)))
        await breathe()
    client.sendall(b"EHLO")
    await door.arrival()
    [(sock, origin)] = door.came
    assert origin.address == "192.0.2.7"
    assert sock.recv(100) in (b"", b"EHLO")


async def test_half_a_header_does_not_keep_the_loop_awake(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    door.connect(HEADER[:20])
    await asyncio.sleep(0.05)
    [waiting] = door.listener._waiting
    assert waiting._came == HEADER[:20]
    with pytest.raises(BlockingIOError):
        waiting._sock.recv(1, socket.MSG_PEEK)


async def test_a_connection_of_the_proxy_itself_keeps_its_address(door: Door) -> None:
    client = door.connect(b"PROXY UNKNOWN\r\n")
    await door.arrival()
    assert door.came[0][1] == Origin("127.0.0.1", client.getsockname()[1], "127.0.0.1")


async def test_a_listed_peer_without_a_header_is_closed(door: Door) -> None:
    client = door.connect(b"EHLO client.test\r\n")
    await door.arrival()
    assert door.refused == ["no PROXY header"]
    assert ended(client)


async def test_a_listed_peer_that_says_nothing_is_closed_in_time(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(proxy, "HEADER_S", 0.02)
    client = door.connect(b"PROXY ")
    await door.arrival()
    assert door.refused == ["no PROXY header in time"]
    assert ended(client)
    assert not door.listener._waiting
    assert "127.0.0.1 is in listen.proxy_from, so it has to send one" in caplog.text


async def test_a_probe_that_only_connects_is_no_fault(door: Door) -> None:
    door.connect().close()
    await asyncio.sleep(0.02)
    assert door.refused == []
    assert not door.listener._waiting


async def test_row_s65_a_stranger_is_who_he_is() -> None:
    door = Door(["10.0.0.0/8"])
    client = door.connect(HEADER)
    await door.arrival()
    [(sock, origin)] = door.came
    assert origin == Origin("127.0.0.1", client.getsockname()[1], "")
    assert sock.recv(100) == HEADER
    door.close()


async def test_want_of_descriptors_is_waited_out_without_spinning(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "AGAIN_S", 0.02)
    tried = 0

    class Exhausted:
        def accept(self) -> None:
            nonlocal tried
            tried += 1
            raise OSError(errno.EMFILE, "too many open files")

        def fileno(self) -> int:
            return door.sock.fileno()

    real, door.listener._sock = door.listener._sock, Exhausted()  # type: ignore[assignment]
    door.connect(HEADER)
    await asyncio.sleep(0.1)
    assert 1 <= tried <= 7
    door.listener._sock = real
    await door.arrival()
    assert door.came[0][1].address == "192.0.2.7"


async def test_closing_ends_those_that_wait() -> None:
    door = Door(["127.0.0.1/32"])
    client = door.connect(b"PROXY")
    await asyncio.sleep(0.02)
    door.close()
    assert door.listener._waiting == set()
    del client


def ended(client: socket.socket) -> bool:
    """Whether the other side has closed, with or without a reset for what it did not read."""
    client.settimeout(5)
    try:
        return client.recv(100) == b""
    except ConnectionResetError:
        return True
