"""The maildrop: every file becomes one message, whatever fails; nothing hostile gets through, nothing is lost."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from postroad.console.sendmail_drop import leave
from postroad.flow import maildrop as module
from postroad.flow.destinations import Destinations
from postroad.flow.intake import Arrival, Taken
from postroad.flow.local import Plan
from postroad.flow.local import Planner as RealPlanner
from postroad.flow.local_users import SenderRules, local_user
from postroad.flow.maildrop import Maildrop, prepare_folder
from postroad.flow.submission import Submission
from postroad.store import folder as data_folder
from postroad.store.spool import Spool
from postroad.values.address import Address
from postroad.values.clock import SystemClock
from postroad.values.envelope import Envelope
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.ids import IdMaker, id_text
from postroad.values.reply import Reply

HOST = "mx.h.test"
ME = local_user(os.getuid())
OWN = f"{ME.name}@{HOST}"
MESSAGE = b"Subject: s\r\n\r\nhello\r\n"


class Accepted:
    """An intake that remembers, and fails as a test wants."""

    def __init__(self) -> None:
        self.messages: dict[int, tuple[bytes, Envelope, Destinations, Arrival]] = {}
        self.answer: Reply | Exception | None = None

    async def accept(
        self,
        draft: Any,
        envelope: Envelope,
        destinations: Destinations,
        arrival: Arrival,
        *,
        eightbit: bool,
        ident: int,
        submission: Submission,
    ) -> Taken | Reply:
        if isinstance(self.answer, Exception):
            raise self.answer
        header, body, _ = await draft.settle()
        if self.answer is not None:
            draft.discard()
            return self.answer
        assert ident not in self.messages
        self.messages[ident] = (header + (body or b""), envelope, destinations, arrival)
        return Taken(ident, draft.size)

    @property
    def only(self) -> tuple[bytes, Envelope, Destinations, Arrival]:
        """The one message there is."""
        [message] = self.messages.values()
        return message


class Planner:
    """anna is here, "nobody" is not, "later" is not known yet; other domains are elsewhere."""

    plan_ours = RealPlanner.plan_ours

    async def plan(self, address: Address, *, size: int, may_relay: bool) -> Plan:
        assert may_relay
        if address.domain != HOST:
            return Plan(remotes=[address])
        if address.local == "nobody":
            return Plan(refusal=Reply(550, "5.1.1", "No mailbox"), why="no such mailbox")
        if address.local == "later":
            return Plan(refusal=Reply(451, "4.3.0", "Nobody yet"), why="nobody yet")
        return Plan([(1, "INBOX", str(address))])


class Clock(SystemClock):
    """The time of day, and a monotonic time that the test moves."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Scene:
    """A maildrop over an intake that remembers."""

    def __init__(self, folder: Path, spool: Spool, grants: dict[str, str]) -> None:
        self.folder = folder
        self.intake = Accepted()
        self.clock = Clock()
        self.ids = IdMaker(7)
        self.spool = spool
        self.rules = SenderRules(HOST, (), grants)
        self.drop = self.again()

    def again(self) -> Maildrop:
        """The maildrop of a worker that was just started."""
        return Maildrop(
            self.folder,
            intake=self.intake,  # type: ignore[arg-type]
            planner=Planner(),  # type: ignore[arg-type]
            spool=self.spool,
            rules=self.rules,
            ids=self.ids,
            clock=self.clock,
            known=self.intake.messages.__contains__,
            working=nullcontext,
            message_size=300_000,
        )

    def leave(self, message: bytes = MESSAGE, **slip: Any) -> None:
        """A file as postroad-sendmail writes it."""
        leave(str(self.folder), {"recipients": ["anna"]} | slip, message)

    def put(self, octets: bytes, name: str = "1-hostile.mail") -> Path:
        """A file that somebody wrote by hand."""
        path = self.folder / name
        path.write_bytes(octets)
        return path

    @property
    def names(self) -> list[str]:
        """What lies in the folder."""
        return sorted(os.listdir(self.folder))


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    folder = tmp_path / "maildrop"
    folder.mkdir()
    data_folder.prepare(tmp_path / "data")
    spool = Spool(tmp_path / "data", 1, SystemClock(), message_size=1_000_000)
    # Who runs the tests may be root, who may send as anybody.
    monkeypatch.setattr("postroad.flow.local_users.ROOT", -1)
    made = Scene(folder, spool, {ME.name: "shop@x.test"})
    yield made
    await made.drop.stop()
    spool.close()


# -- one file, one message ---------------------------------------------------------------------------------------------


async def test_a_file_becomes_a_complete_message_and_goes(scene: Scene) -> None:
    scene.leave(full_name="Anna B", notify="NEVER", ret="HDRS", envid="e", recipients=["anna", "bob@y.test"])
    assert await scene.drop.look() == 1
    content, envelope, destinations, arrival = scene.intake.only
    assert content.startswith(b"Subject: s\r\nFrom: Anna B <" + OWN.encode() + b">\r\nDate: ")
    assert content.endswith(f"@{HOST}>\r\n\r\nhello\r\n".encode())
    assert (envelope.sender_text, envelope.ret, envelope.envid) == (OWN, "HDRS", "e")
    assert destinations.copies == [(f"anna@{HOST}", 1, "INBOX")]
    assert destinations.remotes == [("bob@y.test", "y.test", "NEVER", "")]
    assert arrival == Arrival("LOCAL", "maildrop", user=str(ME), login=OWN, ours=True)
    assert scene.names == []
    assert await scene.drop.look() == 0


@pytest.mark.parametrize("sender, text", [(None, OWN), ("", ""), (ME.name, OWN), ("shop@x.test", "shop@x.test")])
async def test_senders_of_ones_own(scene: Scene, sender: str | None, text: str) -> None:
    scene.leave(sender=sender)
    assert await scene.drop.look() == 1
    assert scene.intake.only[1].sender_text == text


async def test_a_gateway_message_stays_as_it_is(scene: Scene) -> None:
    scene.leave(gateway=True, message=b"To: root\r\nBcc: x\r\n\r\nhi\r\n")
    await scene.drop.look()
    assert scene.intake.only[0] == b"To: root\r\nBcc: x\r\n\r\nhi\r\n"


@pytest.mark.parametrize("message", [b"\r\nbody\r\n", b"A: b\r\n", b"\r\n"])
async def test_messages_that_lack_a_half(scene: Scene, message: bytes) -> None:
    scene.leave(gateway=True, message=message)
    await scene.drop.look()
    assert scene.intake.only[0].startswith(message)


async def test_a_large_body_goes_through_a_file(scene: Scene) -> None:
    scene.leave(gateway=True, message=b"A: b\r\n\r\n" + b"x" * 998 + b"\r\n" * 140_000)
    assert await scene.drop.look() == 1


async def test_a_refused_recipient_becomes_a_delivery_that_fails_and_is_reported(scene: Scene) -> None:
    scene.leave(recipients=["anna", "nobody", "no address@"])
    assert await scene.drop.look() == 1
    destinations = scene.intake.only[2]
    assert [(text, account) for text, account, _ in destinations.copies] == [
        (f"anna@{HOST}", 1), (f"nobody@{HOST}", 0), ("no address@", 0),
    ]  # fmt: skip
    assert destinations.expansions[0] == (f"nobody@{HOST}", "refused: 550 5.1.1 No mailbox")


# -- failures and crashes ----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The worker is gone: nothing behind this point runs."""


STEPS = ["os.rename", "os.fsync", "accept before", "accept after", "os.unlink"]


@pytest.mark.parametrize("step", STEPS)
async def test_a_worker_killed_at_any_step_makes_one_message(
    scene: Scene, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.leave()

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        if step.startswith("os."):
            patched.setattr(os, step[3:], killed)
        elif step == "accept before":
            patched.setattr(Spool, "draft", killed)
        else:
            patched.setattr(Accepted, "accept", _then_killed(Accepted.accept))
        with pytest.raises(Killed):
            await scene.drop.look()
    assert len(scene.names) == 1
    os.close(scene.drop._lock)
    scene.drop._lock = -1
    successor = scene.again()
    await successor.look()
    await successor.stop()
    assert len(scene.intake.messages) == 1
    assert scene.names == []


def _then_killed(accept: Callable[..., Any]) -> Callable[..., Any]:
    async def accept_and_die(self: Accepted, *words: Any, **named: Any) -> None:
        await accept(self, *words, **named)
        raise Killed

    return accept_and_die


@pytest.mark.parametrize(
    "trouble", [StoreFull("disk"), StoreBroken("gone"), Reply(452, "4.3.1", "full")], ids=lambda one: type(one).__name__
)
async def test_what_passes_by_itself_is_waited_for(scene: Scene, trouble: Any) -> None:
    scene.leave()
    scene.intake.answer = trouble
    assert await scene.drop.look() == 0
    scene.intake.answer = None
    assert await scene.drop.look() == 0, "it waits a while first"
    scene.clock.now += module.PAUSE_S
    assert await scene.drop.look() == 1
    assert scene.names == []


async def test_one_that_waits_does_not_hold_up_the_others(scene: Scene) -> None:
    scene.leave(recipients=["later"])
    scene.leave()
    assert await scene.drop.look() == 1
    assert len(scene.names) == 1


async def test_a_message_already_known_is_not_sent_again(scene: Scene) -> None:
    scene.leave()
    [name] = scene.names
    ident = scene.ids.make(scene.clock.wall_us())
    scene.intake.messages[ident] = (b"", Envelope(None), Destinations(), Arrival("LOCAL", "maildrop"))
    os.rename(scene.folder / name, scene.folder / f"{name}.{id_text(ident)}")
    assert await scene.drop.look() == 0
    assert len(scene.intake.messages) == 1
    assert scene.names == []


async def test_two_servers_do_not_share_a_folder(scene: Scene) -> None:
    await scene.drop.look()
    other = scene.again()
    scene.leave()
    assert await other.look() == 0
    assert await scene.drop.look() == 1


async def test_a_refused_message_is_set_aside(scene: Scene) -> None:
    scene.leave()
    scene.intake.answer = Reply(554, "5.4.6", "Too many hops")
    assert await scene.drop.look() == 0
    [name] = scene.names
    assert name.endswith(".mail.refused")
    assert MESSAGE in (scene.folder / name).read_bytes()


async def test_a_file_that_was_never_finished_goes_after_a_day(scene: Scene) -> None:
    old, young = scene.put(b"x", "tmp.old"), scene.put(b"x", "tmp.young")
    os.utime(old, (1, 1))
    await scene.drop.look()
    assert scene.names == [young.name]


async def test_a_folder_that_is_not_there_is_an_error_of_the_round(scene: Scene) -> None:
    scene.folder.rmdir()
    with pytest.raises(FileNotFoundError):
        await scene.drop.look()


# -- hostile files -----------------------------------------------------------------------------------------------------

SLIP = json.dumps({"recipients": ["anna"]}).encode() + b"\n"


def slip(**words: Any) -> bytes:
    return json.dumps({"recipients": ["anna"]} | words).encode() + b"\n"


HOSTILE = {
    "empty": b"",
    "no slip": b"From: x\r\n\r\nhi\r\n",
    "unknown word": slip(uid=0) + MESSAGE,
    "wrong type": slip(recipients="anna") + MESSAGE,
    "nobody": slip(recipients=[]) + MESSAGE,
    "line end in a recipient": slip(recipients=["a@x\r\nDelivered-To: b"]) + MESSAGE,
    "line end in the name": slip(full_name="x\nBcc: y") + MESSAGE,
    "not UTF-8": b'{"recipients":["\xff"]}\n' + MESSAGE,
    "somebody else's name": slip(sender="boss@bank.test") + MESSAGE,
    "another user's name": slip(sender=f"other@{HOST}") + MESSAGE,
    "no address": slip(sender="a b@@c") + MESSAGE,
    "bare LF": SLIP + b"A: b\n\nhi\r\n",
    "bare CR": SLIP + b"A: b\r\n\r\nhi\r.\rx\r\n",
    "NUL": SLIP + b"A: b\r\n\r\n\0\r\n",
    "no end": SLIP + b"A: b\r\n\r\nhi",
    "no message": SLIP,
    "too large": SLIP + b"x\r\n" * 100_001,
    "a huge slip": b" " * (module.SLIP_OCTETS + 10),
    "deep slip": b"[" * 100_000 + b"\n" + MESSAGE,
    "too many header lines": SLIP + b"A: b\r\n" * 2001 + b"\r\n",
}


@pytest.mark.parametrize("octets", HOSTILE.values(), ids=HOSTILE)
async def test_what_can_never_be_sent_is_set_aside(scene: Scene, octets: bytes) -> None:
    scene.put(octets)
    scene.leave()
    assert await scene.drop.look() == 1
    assert scene.names == ["1-hostile.mail.refused"]
    assert len(scene.intake.messages) == 1


async def test_links_and_pipes_are_set_aside_unread(scene: Scene, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SLIP + MESSAGE)
    os.symlink(secret, scene.folder / "1-symbolic.mail")
    os.link(secret, scene.folder / "2-hard.mail")
    os.mkfifo(scene.folder / "3-pipe.mail")
    assert await scene.drop.look() == 0
    assert scene.intake.messages == {}
    assert scene.names == ["1-symbolic.mail.refused", "2-hard.mail.refused", "3-pipe.mail.refused"]


async def test_other_names_are_left_alone(scene: Scene) -> None:
    for name in ("x.mail.tmp", "..mail", "a b.mail", "x.mail.refused", "README"):
        scene.put(SLIP + MESSAGE, name)
    before = scene.names
    assert await scene.drop.look() == 0
    assert scene.names == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
async def test_the_owner_of_a_file_is_who_sends(scene: Scene) -> None:
    scene.leave(sender=None)
    [name] = scene.names
    os.chown(scene.folder / name, 54321, 54321)
    assert await scene.drop.look() == 1
    _, envelope, _, arrival = scene.intake.only
    assert envelope.sender_text == f"uid54321@{HOST}"
    assert arrival.user == "uid 54321 (uid54321)"


# -- its life ----------------------------------------------------------------------------------------------------------


async def test_it_looks_by_itself_and_ends_when_told(scene: Scene) -> None:
    scene.leave()
    scene.drop.start()
    threads = ThreadPoolExecutor(1)

    def wait_empty() -> bool:
        while scene.names:
            pass
        return True

    assert await asyncio.wait_for(asyncio.wrap_future(threads.submit(wait_empty)), 5)
    threads.shutdown()
    await scene.drop.stop()
    assert len(scene.intake.messages) == 1


def test_a_folder_is_made_for_everybody_to_write_and_nobody_to_read(tmp_path: Path) -> None:
    assert prepare_folder(tmp_path / "a" / "maildrop", None) == ""
    assert (tmp_path / "a" / "maildrop").stat().st_mode & 0o7777 == 0o3733
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad").chmod(0o777)
    assert "chmod +t" in prepare_folder(tmp_path / "bad", None)
    (tmp_path / "file").write_text("")
    assert "cannot be made" in prepare_folder(tmp_path / "file" / "x", None)
