"""The store's socket: calls and answers, hints, leases, limits, and what a lost connection means."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from postroad.store import folder
from postroad.store.access import open_store
from postroad.store.actions import Act, ActionBegin, act, action_begin
from postroad.store.client import StoreClient, UnitFailed
from postroad.store.frames import Unframer, frame
from postroad.store.opening import OpenStore
from postroad.store.queue import accept, claim, record
from postroad.store.reader import Reader
from postroad.store.records import Claim, Done, Recorded, Refusal
from postroad.store.register import Register, register
from postroad.store.stories import Stories
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.event import Event, pack
from postroad.values.ids import IdMaker, id_text
from tests.store.serving import ServedStore
from tests.store.stores import START_US, leg, sample


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedStore]:
    with ServedStore(tmp_path / "data") as store:
        yield store


# -- calls -----------------------------------------------------------------------------------------------------------


async def test_an_accepted_message_can_be_read_claimed_and_ended(served: ServedStore) -> None:
    client = await StoreClient.connect(served.data_dir, name="worker")
    assert client.incarnation > served.store.writer.number
    assert (await client.call(accept, sample(1))).copies == []
    reader = Reader(served.data_dir)
    message = await reader.message(1)
    assert message is not None
    assert (message.header, message.body, message.sender) == (
        b"Subject: hello\r\n\r\n",
        b"Good day.\r\n",
        "a@example.org",
    )
    found = await client.call(claim, Claim(client.incarnation, 10, [60.0]))
    assert [due.id for due in found.deliveries] == [1001]
    assert (await client.call(record, Recorded(client.incarnation, [Done(1001)], [], []))).deliveries == []
    assert await reader.message(1) is None
    reader.close()
    client.close()


async def test_calls_of_one_tick_and_of_several_clients_all_get_their_own_answers(served: ServedStore) -> None:
    clients = [await StoreClient.connect(served.data_dir, name=f"worker {n}") for n in range(3)]
    calls = [client.call("register", Register("again")) for client in clients for _ in range(200)]
    numbers = [answer.incarnation for answer in await asyncio.gather(*calls)]
    assert len(set(numbers)) == 600
    for client in clients:
        client.close()


async def test_a_large_call_crosses_in_pieces(served: ServedStore) -> None:
    client = await StoreClient.connect(served.data_dir, name="worker")
    header = b"X: " + b"y" * 5_000_000 + b"\r\n\r\n"
    await client.call(accept, sample(1, header=header, size=len(header) + 10))
    reader = Reader(served.data_dir)
    message = await reader.message(1)
    assert message is not None
    assert message.header == header
    reader.close()
    client.close()


async def test_a_failing_unit_tells_its_caller_alone(served: ServedStore) -> None:
    client = await StoreClient.connect(served.data_dir)
    outcomes = await asyncio.gather(
        client.call(accept, sample(1)), client.call(accept, sample(1)), client.call(accept, sample(2)),
        return_exceptions=True,
    )  # fmt: skip
    assert [type(outcome).__name__ for outcome in outcomes] == ["Accepted", "UnitFailed", "Accepted"]
    client.close()


async def test_unknown_units_and_wrong_arguments_are_answered(served: ServedStore) -> None:
    client = await StoreClient.connect(served.data_dir)
    with pytest.raises(UnitFailed, match="there is no unit"):
        await client.call("nonsense", None)
    with pytest.raises(UnitFailed, match="accept"):
        await client.call("accept", ["too", "short"])
    assert (await client.call(register, Register("still here"))).incarnation
    client.close()


async def test_who_sends_no_frames_is_dropped_and_nobody_else(served: ServedStore) -> None:
    client = await StoreClient.connect(served.data_dir)
    for rubbish in (b"\xff" * 64, b"\0\0\0\1\xc1"):
        stranger = folder.connect(served.data_dir)
        stranger.sendall(rubbish)
        assert await asyncio.to_thread(stranger.recv, 1) == b""
        stranger.close()
    assert (await client.call(register, Register("still here"))).incarnation
    client.close()


# -- hints and leases ------------------------------------------------------------------------------------------------


async def test_no_descriptor_for_a_new_client_leaves_the_others_served(
    served: ServedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await StoreClient.connect(served.data_dir, name="worker")
    real = socket.socket.accept
    fails = iter([OSError(errno.EMFILE, "Too many open files")] * 3)

    def accept_later(listener: socket.socket) -> tuple[socket.socket, object]:
        for failure in fails:
            raise failure
        return real(listener)

    monkeypatch.setattr(socket.socket, "accept", accept_later)
    second = await StoreClient.connect(served.data_dir, name="another")
    assert (await first.call(accept, sample(1))).copies == []
    assert second.incarnation > first.incarnation
    first.close()
    second.close()


async def test_hints_reach_every_registered_client_after_the_commit(served: ServedStore) -> None:
    heard: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    other = await StoreClient.connect(
        served.data_dir, name="other", on_hint=lambda kind, key: heard.put_nowait((kind, key))
    )
    client = await StoreClient.connect(served.data_dir)
    await client.call(accept, sample(1))
    number = await client.call(action_begin, ActionBegin("retry", "anna", "a test"))
    await client.call(act, Act(number, [1001]))
    assert await heard.get() == ("queue", 0)
    client.close()
    other.close()


async def test_a_lease_ends_with_its_socket_and_the_others_hear_of_it(served: ServedStore) -> None:
    heard: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    dying = await StoreClient.connect(served.data_dir, name="dying")
    heir = await StoreClient.connect(
        served.data_dir, name="heir", on_hint=lambda kind, key: heard.put_nowait((kind, key))
    )
    far = START_US * 2
    await dying.call(accept, sample(1, legs=[leg(10, owner=dying.incarnation, due_us=far)]))
    # The first attempt is in memory of the owner: its next time lies ahead, and nobody else may have it.
    assert (await heir.call(claim, Claim(heir.incarnation, 10, [60.0]))).deliveries == []
    dying.close()
    assert await heard.get() == ("queue", 0)
    while not (taken := (await heir.call(claim, Claim(heir.incarnation, 10, [60.0]))).deliveries):
        await heard.get()
    assert [due.id for due in taken] == [10]
    heir.close()


async def test_who_takes_no_answers_is_dropped_before_memory_runs_out(
    served: ServedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroad.store.server.UNREAD_MAX", 100_000)
    client = await StoreClient.connect(served.data_dir)
    deaf = folder.connect(served.data_dir)

    def ask_without_listening() -> None:
        questions = frame([(number, "x" * 200, None) for number in range(1, 200)])
        for _ in range(10_000):
            deaf.sendall(questions)

    with pytest.raises(ConnectionError):
        await asyncio.to_thread(ask_without_listening)
    deaf.close()
    assert (await client.call(register, Register("still here"))).incarnation
    client.close()


# -- ends ------------------------------------------------------------------------------------------------------------


async def test_a_lost_connection_fails_every_open_call(served: ServedStore) -> None:
    client = await StoreClient.connect(served.data_dir, name="worker")
    served.server.stop()
    served.stop()
    with pytest.raises(StoreBroken):
        await client.call(accept, sample(1))
    await client.closed
    with pytest.raises(StoreBroken):
        await client.call(accept, sample(1))
    client.post("refuse", None)
    assert client.dropped == 1


async def test_a_call_without_an_answer_is_never_taken_for_a_success(tmp_path: Path) -> None:
    """A store that takes calls and dies before it answers."""
    folder.prepare(tmp_path)
    listener = folder.listen(tmp_path)
    client = await StoreClient.connect(tmp_path)
    calls = [asyncio.ensure_future(client.call(accept, sample(n))) for n in range(3)]
    connection, _ = await asyncio.to_thread(listener.accept)
    assert await asyncio.to_thread(connection.recv, 100)
    connection.close()
    assert [type(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)] == [StoreBroken] * 3
    listener.close()


async def test_nobody_listening_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(StoreBroken, match="no store process listens"):
        await StoreClient.connect(tmp_path)


async def test_a_cancelled_caller_does_not_disturb_the_others(served: ServedStore) -> None:
    client = await StoreClient.connect(served.data_dir)
    impatient = asyncio.ensure_future(client.call(accept, sample(1)))
    await asyncio.sleep(0)
    impatient.cancel()
    await client.call(accept, sample(2))
    assert len(Stories(served.data_dir).find("a@example.org")) == 2
    client.close()


async def test_a_worker_whose_disk_fails_stops_all_writing(served: ServedStore) -> None:
    client = await StoreClient.connect(served.data_dir)
    client.post("break_off", "spool: Input/output error")
    with pytest.raises(StoreBroken, match="Input/output error"):
        await client.call(accept, sample(1))
    client.close()


class Clumsy:
    """Housekeeping that fails."""

    def __init__(self, error: Exception) -> None:
        self.due = 0.0
        self.steps = 0
        self.error = error

    def step(self, now: float) -> None:
        self.steps += 1
        raise self.error


@pytest.mark.parametrize(
    ("error", "broken"), [(StoreFull("full"), False), (KeyError("a bug"), False), (StoreBroken("EIO"), True)]
)
async def test_housekeeping_that_fails_pauses_and_only_a_broken_disk_ends_writing(
    tmp_path: Path, error: Exception, broken: bool
) -> None:
    clumsy = Clumsy(error)
    served = ServedStore(tmp_path / "data")
    served.store.chores.insert(0, clumsy)
    with served:
        client = await StoreClient.connect(served.data_dir)
        outcomes = [await asyncio.gather(client.call(accept, sample(n)), return_exceptions=True) for n in (1, 2, 3)]
        assert (type(outcomes[-1][0]) is StoreBroken) == broken
        client.close()
    assert clumsy.steps == 1


# -- refusals --------------------------------------------------------------------------------------------------------


async def test_posted_refusals_are_found_by_reference_and_address(served: ServedStore) -> None:
    client = await StoreClient.connect(served.data_dir, name="worker")
    reference = IdMaker(client.incarnation).make(START_US)
    events = pack([Event(kind="refused", at_us=START_US, cause="no such user")])
    client.post("refuse", Refusal(reference, START_US, "192.0.2.7", "unknown user", "x@dev.test", events))
    await client.call(register, Register("a turn of the loop"))
    served.stop()
    stories = Stories(served.data_dir)
    assert stories.find(id_text(reference)) == stories.find("192.0.2.7") == stories.find("x@dev.test") == [reference]
    story = stories.story(reference)
    assert story is not None
    assert (story.refused, [event.cause for event in story.events]) == (True, ["no such user"])
    client.close()


# -- the folder ------------------------------------------------------------------------------------------------------


def test_only_one_process_writes_in_a_folder(served: ServedStore) -> None:
    with pytest.raises(folder.StoreLocked):
        OpenStore(served.data_dir)


def test_the_command_line_uses_the_process_that_runs_and_otherwise_the_folder_itself(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with ServedStore(data_dir), open_store(data_dir) as remote:
        remote.call(accept, sample(1))
        with pytest.raises(UnitFailed):
            remote.call(accept, sample(1))
    with open_store(data_dir) as own:
        own.call(accept, sample(2))
        with pytest.raises(UnitFailed):
            own.call(accept, sample(2))
    assert len(Stories(data_dir).find("a@example.org")) == 2


def test_whoever_registers_is_alive_until_the_store_is_closed(tmp_path: Path) -> None:
    """Body files of the dead are swept: `postroad send` must not be taken for one of them."""
    with open_store(tmp_path) as own:
        incarnation = own.call(register, Register("send")).incarnation
        own.call(accept, sample(1, legs=[leg(10, owner=incarnation)]))
        assert own.call(claim, Claim(999, 10, [60.0])).deliveries == []


def test_a_folder_of_somebody_else_is_named_with_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    OpenStore(tmp_path / "data").close()
    (tmp_path / "data" / folder.SOCKET).unlink(missing_ok=True)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(folder.WrongUser, match="sudo -u"):
        open_store(tmp_path / "data")


def test_a_socket_below_a_very_long_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 200) / "data"
    with ServedStore(deep), open_store(deep) as store:
        store.call(accept, sample(1))


# -- frames ----------------------------------------------------------------------------------------------------------


def test_frames_are_cut_alike_wherever_the_stream_is_split() -> None:
    contents = [b"", b"x", b"y" * 300]
    stream = b"".join(bytes(frame(msgspec.Raw(msgspec.msgpack.encode(content)))) for content in contents)
    for size in (1, 2, 3, 5, 64, len(stream)):
        unframer = Unframer()
        cut: list[bytes] = []
        for start in range(0, len(stream), size):
            cut += unframer.feed(stream[start : start + size])
        assert [msgspec.msgpack.decode(each) for each in cut] == contents


def test_a_frame_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="octets"):
        Unframer().feed(b"\xff\xff\xff\xff")
