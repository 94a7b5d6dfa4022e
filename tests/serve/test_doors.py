"""From accept to greeting: TLS that comes first, who is turned away and how, proxies, strangers who wait, errors that
cost time. The doors listen on loopback, so clients from elsewhere come through a PROXY header.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop

from postroad.serve import conversation as conversations
from postroad.serve import doors as doors_module
from postroad.serve import tarpit
from postroad.serve.doors import Doors, smtp_sessions, turned_away
from postroad.serve.greeting import EarlyTalkers
from postroad.values.facts import Facts
from postroad.values.networks import Networks
from tests.fuzz.fuzz_proxy import _V4, _block
from tests.serve.harness import ANNA, Peer, breathe, trusting
from tests.serve.post_office import PostOffice, ehlo
from tests.serve.test_admission import WORLD, admission
from tests.serve.test_conversation import open_office
from tests.serve.test_smtp_gate import judged

CLIENT = "192.0.2.1"
"""Whom `_block(0x21, 0x11, _V4)` names."""
V2 = _block(0x21, 0x11, _V4)


def v1(address: str) -> bytes:
    family = 6 if ":" in address else 4
    return f"PROXY TCP{family} {address} {'::1' if family == 6 else '127.0.0.1'} 4711 25\r\n".encode()


@dataclass
class Front:
    """SMTP doors on loopback over a post office."""

    office: PostOffice
    doors: Doors
    admission: Any
    addresses: dict[str, tuple[str, int]]

    @classmethod
    async def open(cls, folder: Path, *, proxied: bool = True, xclient: bool = False, **limits: Any) -> Front:
        office = open_office(folder)
        counts = admission(**limits)
        speakers = Networks(["192.0.2.0/24"] if xclient else [])
        doors = Doors(
            smtp_sessions(office.service, limits=office.limits, speakers=speakers),
            admission=counts,
            counters=office.service.counters,
            watch=office.house.watch,
            tls=office.service.tls,
            turn_away=turned_away(),
            proxies=Networks(["127.0.0.0/8"] if proxied else []),
        )
        listeners = {}
        for service in ("mx", "submission", "submissions"):
            listeners[service] = [socket.create_server(("127.0.0.1", 0))]
            listeners[service][0].setblocking(False)
        addresses = {service: socks[0].getsockname() for service, socks in listeners.items()}
        await doors.open(listeners)
        return cls(office, doors, counts, addresses)

    async def connect(self, service: str = "mx", header: bytes = b"", tls: bool = False) -> Peer:
        """A client whose greeting is not yet read."""
        reader, writer = await asyncio.open_connection(*self.addresses[service])
        writer.write(header)
        if tls:
            await writer.start_tls(trusting())
        peer = Peer(reader, writer)
        self.office.house.peers.append(peer)
        return peer

    @property
    def watched(self) -> set[conversations.Conversation]:
        """Connections that are not over."""
        return self.office.house.watch.conversations

    async def emptied(self) -> None:
        """Waits until nobody is counted any more."""
        for _ in range(400):
            if not self.admission.open and not self.watched:
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"{self.admission.open} counted, {len(self.watched)} watched")

    async def close(self) -> None:
        """Ends everything."""
        self.doors.close()
        for one in list(self.watched):
            one.transport.abort()
        await self.office.house.close()


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    made = await Front.open(tmp_path)
    yield made
    await made.close()


Scene = Callable[[Front], Coroutine[Any, Any, None]]


def on_both_loops(scene: Scene, tmp_path: Path, run: Callable[..., Any], **options: Any) -> None:
    """Plays a scene on asyncio or uvloop."""

    async def play() -> None:
        front = await Front.open(tmp_path, **options)
        try:
            await scene(front)
        finally:
            await front.close()

    run(play())


both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


@both_loops
def test_a_client_that_pours_behind_its_handshake_costs_little_while_we_make_up_our_mind(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    """64 kB before the login, also at the door where TLS comes first."""

    async def scene(front: Front) -> None:
        go_on = asyncio.Event()

        async def slow(facts: Facts) -> None:
            await go_on.wait()

        judged(front.office, connect=slow)
        client = await front.connect("submissions", V2, tls=True)
        line = b"NOOP " + b"x" * 400 + b"\r\n"
        client.send(line * 20_000)
        for _ in range(50):
            await asyncio.sleep(0.001)
        [conversation] = front.watched
        assert 0 < len(conversation._early or b"") <= conversations.EARLY_MAX + 32 * 1024
        go_on.set()
        assert (await client.line()).startswith(b"220 ")
        assert (await client.line()).startswith(b"250 ")

    on_both_loops(scene, tmp_path, run)


# -- TLS from the first octet ------------------------------------------------------------------------------------------


@both_loops
@pytest.mark.parametrize("proxied", [False, True])
def test_tls_that_comes_first_is_spoken_behind_admission(
    tmp_path: Path, run: Callable[..., Any], proxied: bool
) -> None:
    async def scene(front: Front) -> None:
        client = await front.connect("submissions", V2 if proxied else b"", tls=True)
        assert (await client.line()).startswith(b"220 ")
        assert "STARTTLS" not in str(await ehlo(client))
        [conversation] = front.watched
        assert conversation.tls_text().startswith("TLSv1.3 ")
        assert conversation.peer == (CLIENT if proxied else "127.0.0.1")
        assert conversation.via == ("127.0.0.1" if proxied else "")
        assert (await client.ask(b"QUIT")).startswith(b"221 ")
        client.writer.close()
        await front.emptied()

    on_both_loops(scene, tmp_path, run, proxied=proxied)


@both_loops
def test_row_s42_half_open_handshakes_are_counted_and_end_in_time(
    tmp_path: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "TLS_HANDSHAKE_S", 0.5)

    async def scene(front: Front) -> None:
        for octets in (b"", b"\x16\x03\x01") * 10:
            await front.connect("submissions", octets)
        while front.admission.open < 20:
            await asyncio.sleep(0.002)
        client = await front.connect("submissions", tls=True)
        assert (await client.line()).startswith(b"220 ")
        assert front.admission.open == len(front.watched) == 21
        client.writer.close()
        await front.emptied()

    on_both_loops(scene, tmp_path, run, proxied=False)


@both_loops
def test_who_hangs_up_in_the_handshake_is_counted_out(tmp_path: Path, run: Callable[..., Any]) -> None:
    async def scene(front: Front) -> None:
        for octets in (b"", b"\x16\x03\x01\x00", b"EHLO this is no TLS\r\n"):
            client = await front.connect("submissions", octets)
            await breathe()
            client.writer.transport.abort()
        await front.emptied()

    on_both_loops(scene, tmp_path, run, proxied=False)


async def test_drain_cuts_handshakes_off(tmp_path: Path) -> None:
    front = await Front.open(tmp_path, proxied=False)
    client = await front.connect("submissions")
    while not front.watched:
        await asyncio.sleep(0.002)
    front.doors.close()
    assert await client.rest() == b""
    await front.emptied()
    await front.close()


async def test_class_e4_a_session_of_one_service_is_not_resumed_at_another(tmp_path: Path) -> None:
    front = await Front.open(tmp_path, proxied=False)
    context = trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # its session is whole at the end of the handshake

    async def resumed(service: str, session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession]:
        return await asyncio.to_thread(shake, front.addresses[service], context, session, service == "submission")

    _, session = await resumed("submissions", None)
    assert (await resumed("submissions", session))[0]
    assert not (await resumed("submission", session))[0]
    front.office.service.tls.reload()
    assert (await resumed("submissions", session))[0]
    await front.close()


def shake(
    address: tuple[str, int], context: ssl.SSLContext, session: ssl.SSLSession | None, starttls: bool
) -> tuple[bool, ssl.SSLSession]:
    """A handshake that offers a session: whether it was taken, and the session that stands now."""
    with socket.create_connection(address, 5) as plain:
        if starttls:
            for command in (b"EHLO c.test\r\n", b"STARTTLS\r\n", b""):
                while not plain.recv(4096).endswith(b"\r\n"):
                    continue
                plain.sendall(command)
        with context.wrap_socket(plain, session=session) as secure:
            assert secure.session is not None
            return bool(secure.session_reused), secure.session


# -- turned away -------------------------------------------------------------------------------------------------------


async def test_row_s63_who_comes_too_often_hears_421_and_others_are_served(front: Front) -> None:
    flood = [await front.connect("mx", v1("203.0.113.9")) for _ in range(8)]
    lines = [await client.line() for client in flood]
    assert [line[:3] for line in lines] == [b"220"] * WORLD.per_address + [b"421"] * 6
    assert lines[-1].startswith(b"421 4.7.0 ")
    other = await front.connect("mx", v1("198.51.100.1"))
    assert (await other.line()).startswith(b"220 ")
    flood[0].writer.close()
    for _ in range(200):
        again = await front.connect("mx", v1("203.0.113.9"))
        if (await again.line()).startswith(b"220 "):
            break
    else:
        raise AssertionError("not let in again")


@both_loops
def test_behind_tls_a_client_beyond_its_limit_is_told_so(tmp_path: Path, run: Callable[..., Any]) -> None:
    async def scene(front: Front) -> None:
        clients = [await front.connect("submissions", v1("203.0.113.9"), tls=True) for _ in range(5)]
        assert [(await client.line())[:9] for client in clients][3:] == [b"220 mx.ex", b"421 4.7.0"]
        assert await clients[4].rest() == b""
        for client in clients:
            client.writer.close()
        await front.emptied()
        assert front.doors._telling == 0

    on_both_loops(scene, tmp_path, run)


async def test_beyond_what_may_be_told_and_in_want_of_room_no_handshake_is_spent(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors_module, "TELLING_MAX", 0)
    for _ in range(4):
        await front.connect("submissions", v1("203.0.113.9"), tls=True)
    with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
        await front.connect("submissions", v1("203.0.113.9"), tls=True)
    monkeypatch.undo()
    front.admission.own = 4
    with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
        await front.connect("submissions", v1("198.51.100.1"), tls=True)
    full = await front.connect("mx", v1("198.51.100.1"))
    assert (await full.line()).startswith(b"421 4.3.2 ")
    assert await full.rest() == b""


# -- proxies -----------------------------------------------------------------------------------------------------------


async def test_policy_and_journal_see_the_client_behind_a_proxy(front: Front) -> None:
    client = await front.connect("mx", V2)
    await client.line()
    assert (await client.ask(b"RCPT TO:<" + ANNA.encode() + b">")).startswith(b"503 ")
    await client.ask(b"QUIT")
    await breathe()
    [event] = front.office.refused()
    assert CLIENT in str(event)
    assert "127.0.0.1" not in str(event)


async def test_a_client_in_a_relay_network_is_one_only_behind_the_proxy(front: Front) -> None:
    client = await front.connect("mx", v1("10.1.2.3"))
    await client.line()
    await ehlo(client)
    await client.ask(b"MAIL FROM:<a@sender.test>")
    assert (await client.ask(b"RCPT TO:<b@else.test>")).startswith(b"250 ")


@pytest.mark.parametrize("header", [v1("10.1.2.3"), _block(0x21, 0x11, bytes((10, 1, 2, 3)) + _V4[4:])])
async def test_row_s65_a_header_from_a_stranger_is_an_unknown_command(tmp_path: Path, header: bytes) -> None:
    front = await Front.open(tmp_path, proxied=False)
    client = await front.connect("mx")
    await client.line()
    client.send(header)
    assert (await client.line())[:3] in (b"500", b"521")
    [conversation] = front.watched or [None]
    assert conversation is None or conversation.peer == "127.0.0.1"
    await front.close()


async def test_a_listed_peer_without_a_header_gets_no_greeting(front: Front) -> None:
    client = await front.connect("mx", b"EHLO client.test\r\n")
    try:
        assert await client.rest() == b""
    except ConnectionResetError:
        pass
    assert not front.watched


# -- XCLIENT -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def listed(tmp_path: Path) -> AsyncIterator[Front]:
    made = await Front.open(tmp_path, xclient=True)
    made.office.service.account = made.office.house.store.directory.account
    yield made
    await made.close()


async def test_a_listed_peer_speaks_for_its_client(listed: Front) -> None:
    client = await listed.connect("mx", v1("192.0.2.9"))
    await client.line()
    assert b"XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT" in await ehlo(client)
    answer = await client.ask(b"XCLIENT ADDR=10.1.2.3 PORT=99 HELO=inner.test PROTO=SMTP")
    assert answer.startswith(b"220 mx.example.com ")
    assert (await client.ask(b"MAIL FROM:<a@sender.test>")).startswith(b"503 ")
    await ehlo(client)
    [conversation] = listed.watched
    assert (conversation.peer, conversation.port, conversation.via) == ("10.1.2.3", 99, "127.0.0.1")
    assert conversation.session._helo.name == "inner.test"  # type: ignore[attr-defined]
    await client.ask(b"MAIL FROM:<a@sender.test>")
    assert (await client.ask(b"RCPT TO:<b@else.test>")).startswith(b"250 ")  # 10.0.0.0/8 may relay
    client.writer.close()
    await listed.emptied()


async def test_the_client_that_is_named_is_counted_as_if_it_had_come_itself(listed: Front) -> None:
    for _ in range(WORLD.per_address):
        await (await listed.connect("mx", v1("203.0.113.9"))).line()
    client = await listed.connect("mx", v1("192.0.2.9"))
    await client.line()
    await ehlo(client)
    assert (await client.ask(b"XCLIENT ADDR=203.0.113.9")).startswith(b"421 4.7.0 ")
    assert await client.rest() == b""
    for peer in listed.office.house.peers:
        peer.writer.close()
    await listed.emptied()


async def test_a_login_is_taken_over_when_it_is_one_of_ours(listed: Front) -> None:
    client = await listed.connect("submission", v1("192.0.2.9"))
    await client.line()
    await ehlo(client)
    assert (await client.ask(b"XCLIENT LOGIN=nobody@example.com")).startswith(b"501 5.1.3 ")
    assert (await client.ask(b"XCLIENT ADDR=203.0.113.9 LOGIN=" + ANNA.encode())).startswith(b"220 ")
    await ehlo(client)
    assert (await client.ask(b"MAIL FROM:<" + ANNA.encode() + b">")).startswith(b"250 ")
    # A further client is somebody else.
    await client.ask(b"RSET")
    assert (await client.ask(b"XCLIENT ADDR=203.0.113.10")).startswith(b"220 ")
    await ehlo(client)
    assert (await client.ask(b"MAIL FROM:<" + ANNA.encode() + b">")).startswith(b"530 ")


async def test_row_s66_nobody_else_may(listed: Front) -> None:
    client = await listed.connect("mx", v1("198.51.100.1"))
    await client.line()
    assert not [line for line in await ehlo(client) if b"XCLIENT" in line]
    assert (await client.ask(b"XCLIENT ADDR=10.1.2.3")).startswith(b"502 ")


# -- strangers who wait ------------------------------------------------------------------------------------------------


async def test_a_stranger_waits_for_its_greeting_once(front: Front) -> None:
    front.office.service.early = EarlyTalkers(0.05, asyncio.get_running_loop().time)
    loop = asyncio.get_running_loop()
    for least in (0.045, 0.0):
        began = loop.time()
        client = await front.connect("mx", V2)
        assert (await client.line()).startswith(b"220 ")
        assert loop.time() - began >= least
        client.writer.close()
    assert front.office.service.early.wait_s(CLIENT) == 0.0


@pytest.mark.parametrize("octets", [b"E", b"EHLO client.test\r\nMAIL FROM:<a@b.test>\r\n", b"\r\n"])
async def test_rows_s13_and_s15_who_does_not_wait_is_refused_and_stays_a_stranger(front: Front, octets: bytes) -> None:
    front.office.service.early = EarlyTalkers(0.05, asyncio.get_running_loop().time)
    client = await front.connect("mx", V2 + octets)
    assert (await client.line()).startswith(b"521 5.5.1 ")
    assert await client.rest() == b""
    assert front.office.service.early.wait_s(CLIENT) > 0


async def test_who_leaves_while_waiting_is_counted_out(front: Front) -> None:
    front.office.service.early = EarlyTalkers(0.02, asyncio.get_running_loop().time)
    client = await front.connect("mx", V2)
    await asyncio.sleep(0.01)
    client.writer.transport.abort()
    await front.emptied()
    assert front.office.service.early.wait_s(CLIENT) > 0


# -- errors that cost time ---------------------------------------------------------------------------------------------


@pytest.fixture
def quick_tar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarpit, "STEP_S", 0.02)


async def bad_commands(client: Peer, count: int) -> list[float]:
    """Seconds until each of so many unknown commands was answered."""
    loop, took = asyncio.get_running_loop(), []
    for _ in range(count):
        began = loop.time()
        assert (await client.ask(b"BOGUS")).startswith(b"500 ")
        took.append(loop.time() - began)
    return took


async def tarred(front: Front, header: bytes = V2) -> Peer:
    front.office.service.tarpit = True
    client = await front.connect("mx", header)
    await client.line()
    await ehlo(client)
    return client


async def test_row_s29_errors_of_a_stranger_cost_more_and_more_time(front: Front, quick_tar: None) -> None:
    client = await tarred(front)
    took = await bad_commands(client, 6)
    assert all(step >= least - 0.005 for step, least in zip(took[3:], (0.02, 0.04, 0.06), strict=True))
    assert sum(took[:3]) < 0.1
    began = asyncio.get_running_loop().time()
    assert (await client.ask(b"NOOP")).startswith(b"250 ")  # what is right costs nothing
    assert asyncio.get_running_loop().time() - began < 0.04


async def test_row_s29_a_pipeline_of_errors_waits_and_is_answered_in_order(front: Front, quick_tar: None) -> None:
    client = await tarred(front)
    began = asyncio.get_running_loop().time()
    client.send(b"BOGUS\r\n" * 5 + b"NOOP\r\n" + b"BOGUS\r\n" + b"QUIT\r\n")
    lines = [(await client.line())[:3] for _ in range(8)]
    assert lines == [b"500"] * 5 + [b"250", b"500", b"221"]
    assert asyncio.get_running_loop().time() - began >= 0.055
    assert await client.rest() == b""


@pytest.mark.parametrize("header", [v1("10.1.2.3"), b"PROXY UNKNOWN\r\n"])
async def test_listed_networks_and_this_machine_pay_nothing(front: Front, header: bytes) -> None:
    front.office.service.tarpit = True
    client = await front.connect("mx", header)
    await client.line()
    await bad_commands(client, 8)  # at a second each this would take 15 s
    assert not [one for one in front.watched if one._hold is not None]


async def held(front: Front) -> tuple[Peer, conversations.Conversation]:
    """A stranger whose reply is being held back for seconds."""
    client = await tarred(front)
    await bad_commands(client, 3)
    client.send(b"BOGUS\r\n")
    [conversation] = front.watched
    while conversation._hold is None:
        await asyncio.sleep(0.002)
    return client, conversation


async def test_while_a_reply_is_held_nothing_is_read_beyond_the_limit_nor_timed_out(front: Front) -> None:
    client, conversation = await held(front)
    assert conversation.due == math.inf
    client.send(b"NOOP\r\n" * 50_000)
    await asyncio.sleep(0.02)
    assert not conversation.transport.is_reading()
    conversation.pause_writing()
    conversation.resume_writing()
    assert conversation._hold is not None
    conversation.release()
    assert (await client.line()).startswith(b"500 ")


async def test_the_end_of_the_server_lets_held_replies_go(front: Front) -> None:
    client, _ = await held(front)
    front.doors.close()
    assert (await client.line()).startswith(b"500 ")
    assert (await client.line()).startswith(b"421 4.3.2 ")
    assert await client.rest() == b""
    await front.emptied()


async def test_a_client_that_leaves_while_its_reply_is_held_is_counted_out(front: Front) -> None:
    client, conversation = await held(front)
    timer = conversation._hold
    client.writer.transport.abort()
    await front.emptied()
    assert timer is not None
    assert timer.cancelled()


async def test_a_client_that_has_said_all_it_wanted_still_hears_the_held_reply(front: Front, quick_tar: None) -> None:
    client = await tarred(front)
    client.send(b"BOGUS\r\n" * 5 + b"QUIT\r\n")
    client.writer.write_eof()
    assert (await client.rest()).count(b"500 ") == 5
