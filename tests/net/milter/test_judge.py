"""Milters asked over sockets: what is said, what is obeyed, and that a milter that fails decides nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from postroad.config import Config, Listen, Milter
from postroad.config.endpoints import MilterPlace
from postroad.net.milter import judge
from postroad.net.milter.judge import Milters
from postroad.net.milter.session import Patience
from postroad.serve.eager import run_eagerly
from postroad.values.address import Address
from postroad.values.errors import StoreBroken
from postroad.values.facts import Content, Facts, Stage
from postroad.values.reply import Reply
from postroad.values.verdict import NO_CHANGES, Changes, Ruling, Verdict
from postroad.wire.milter.words import Steps
from tests.fakes.lookup import FakeLookup
from tests.fakes.milter import (
    ACCEPT,
    CONNECTION_FAILED,
    CONTINUE,
    DISCARD,
    PROGRESS,
    REJECT,
    SHUTDOWN,
    SKIP,
    TEMPFAIL,
    Drop,
    FakeMilter,
    Silent,
    Slowly,
    Step,
    add,
    body,
    change,
    insert,
    reply,
    say,
)

ANNA, BOB, CARL = (Address.parse(f"{name}@example.org") for name in ("anna", "bob", "carl"))
HEADER = b"From: anna@example.org\r\nSubject: hi\r\n there\r\n\r\n"
STAGES = (Stage.CONNECT, Stage.HELLO, Stage.MAIL, Stage.RCPT, Stage.MESSAGE)
COMMANDS = ("NEGOTIATE", "CONNECT", "HELO", "MAIL", "RCPT", "DATA", "HEADER", "EOH", "BODY", "EOM")
NOBODY_THERE = MilterPlace("", "127.0.0.1", 1)
QUICK = Patience(5.0, 5.0, 5.0)


def facts(stage: Stage, *, text: bytes = b"Hello\r\n", header: bytes = HEADER) -> Facts:
    """What the server knows at a stage of one session on port 25."""
    known = Facts(stage, session=7, door="mx", peer="192.0.2.1", port=4025)
    if stage is not Stage.CONNECT:
        known = structs.replace(known, helo="there.example.org", tls="TLSv1.3 TLS_AES_256_GCM_SHA384")
    if stage in (Stage.MAIL, Stage.RCPT, Stage.MESSAGE):
        known = structs.replace(known, sender=ANNA, size=99)
    if stage is Stage.RCPT:
        known = structs.replace(known, recipient=BOB)
    if stage is Stage.MESSAGE:
        content = Content(header, len(header) + len(text), lambda: in_pieces(text))
        known = structs.replace(known, recipients=(BOB,), message=1 << 40, content=content)
    return known


async def in_pieces(text: bytes, size: int = 200_000) -> AsyncIterator[bytes]:
    for at in range(0, len(text), size):
        yield text[at : at + size]


def milters(*asked: FakeMilter | MilterPlace, on_failure: str = "tempfail", patience: Patience = QUICK) -> Milters:
    places = [one.place if isinstance(one, FakeMilter) else one for one in asked]
    return Milters(
        mx=places,
        submission=[],
        hostname="mx.example.net",
        lookup=FakeLookup(addresses={"milter.test": ["127.0.0.1"]}),
        patience=patience,
        on_failure=on_failure,
        body_max=1_000_000,
    )


async def go(asked: Milters, stages: Sequence[Stage] = STAGES) -> Verdict:
    """Asks at each stage until one does not pass; the last verdict."""
    for stage in stages:
        verdict = await asked.ask(facts(stage))
        assert verdict is not None
        if stage is stages[-1] or not verdict.passes:
            return verdict
    raise AssertionError("no stage was asked about")


# -- what is said ------------------------------------------------------------------------------------------------------


async def test_whole_dialogue() -> None:
    async with FakeMilter(actions=0) as milter:
        asked = milters(milter)
        assert await go(asked) == Verdict(Ruling.ACCEPT, "accepted")
        asked.ended(7)
        await until(lambda: milter.names[-1] == "QUIT")
    assert milter.names == [
        "NEGOTIATE", "CONNECT", "HELO", "MAIL", "RCPT", "DATA", "HEADER", "HEADER", "EOH", "BODY", "EOM", "QUIT",
    ]  # fmt: skip
    assert milter.told("CONNECT") == [b"[192.0.2.1]\x004\x0f\xb9192.0.2.1\0"]
    assert milter.told("HELO") == [b"there.example.org\0"]
    assert milter.told("MAIL") == [b"<anna@example.org>\0SIZE=99\0"]
    assert milter.told("RCPT") == [b"<bob@example.org>\0"]
    assert milter.told("HEADER") == [b"From\0anna@example.org\0", b"Subject\0hi\n there\0"]
    assert milter.told("BODY") == [b"Hello\r\n"]
    assert dict(milter.macros) == {
        "CONNECT": {
            "j": "mx.example.net", "_": "unknown [192.0.2.1]", "v": "Postroad", "{daemon_name}": "mx.example.net",
            "{client_addr}": "192.0.2.1", "{client_name}": "unknown", "{client_port}": "4025",
            "{client_ptr}": "unknown",
        },
        "HELO": {"{tls_version}": "TLSv1.3", "{cipher}": "TLS_AES_256_GCM_SHA384"},
        "MAIL": {
            "{mail_addr}": "anna@example.org", "{mail_host}": "example.org", "{mail_mailer}": "esmtp",
            "{tls_version}": "TLSv1.3", "{cipher}": "TLS_AES_256_GCM_SHA384",
        },
        "RCPT": {"{rcpt_addr}": "bob@example.org", "{rcpt_host}": "example.org", "{rcpt_mailer}": "esmtp"},
        "DATA": {"i": "0000100000000"},
        "EOH": {"i": "0000100000000"},
        "EOM": {"i": "0000100000000"},
    }  # fmt: skip


async def test_asked_outside_of_a_task_as_sessions_do() -> None:
    async with FakeMilter() as milter:
        asked = milters(milter)
        seen: list[Verdict | None] = []

        async def ask() -> None:
            seen.append(await asked.ask(facts(Stage.CONNECT)))

        loop = asyncio.get_running_loop()
        begun: asyncio.Future[Awaitable[None] | None] = loop.create_future()
        loop.call_soon(lambda: begun.set_result(run_eagerly(ask())))
        rest = await begun
        assert rest is not None
        await rest
        asked.ended(7)
    assert seen == [Verdict(Ruling.ACCEPT, "accepted")]


async def test_login_and_utf8_are_told() -> None:
    async with FakeMilter() as milter:
        asked = milters(milter)
        known = structs.replace(
            facts(Stage.MAIL), login="anna@example.org", mechanism="PLAIN", smtputf8=True, sender=None
        )
        await asked.ask(known)
        asked.ended(7)
    assert milter.told("MAIL") == [b"<>\0SIZE=99\0SMTPUTF8\0"]
    told = dict(milter.macros)["MAIL"]
    assert (told["{auth_type}"], told["{auth_authen}"]) == ("PLAIN", "anna@example.org")
    assert "{mail_addr}" not in told


@pytest.mark.parametrize(
    "peer, told",
    [
        ("2001:db8::1", b"[2001:db8::1]\x006\x0f\xb92001:db8::1\0"),
        ("::ffff:192.0.2.1", b"[192.0.2.1]\x004\x0f\xb9192.0.2.1\0"),
        ("127.0.0.1", b"localhost\x004\x0f\xb9127.0.0.1\0"),
        ("uid 1000", b"localhost\x004\0\x00127.0.0.1\0"),
    ],
)
async def test_client_is_told_by_name_and_address(peer: str, told: bytes) -> None:
    async with FakeMilter() as milter:
        asked = milters(milter)
        await asked.ask(structs.replace(facts(Stage.CONNECT), peer=peer))
        asked.ended(7)
    assert milter.told("CONNECT") == [told]


async def test_unanswered_steps_are_sent_together() -> None:
    every = sum(step for step in Steps if step.name and step.name.startswith("UNANSWERED"))
    async with FakeMilter(dict.fromkeys(COMMANDS[1:9], b""), steps=every, EOM=add("A", "1") + CONTINUE) as milter:
        verdict = await go(asked := milters(milter))
        asked.ended(7)
    assert verdict.changes.header == HEADER[:-2] + b"A: 1\r\n\r\n"
    assert milter.names[:11] == [
        "NEGOTIATE", "CONNECT", "HELO", "MAIL", "RCPT", "DATA", "HEADER", "HEADER", "EOH", "BODY", "EOM",
    ]  # fmt: skip


async def test_body_comes_in_pieces_that_fit_a_packet() -> None:
    text = bytes(range(48, 58)) * 30_000
    async with FakeMilter() as milter:
        asked = milters(milter)
        await go(asked, STAGES[:4])
        verdict = await asked.ask(facts(Stage.MESSAGE, text=text))
        asked.ended(7)
    assert verdict is not None
    assert verdict.passes
    assert b"".join(milter.told("BODY")) == text
    assert max(map(len, milter.told("BODY"))) == 65_535


@pytest.mark.parametrize("script, steps", [({"BODY": SKIP}, Steps.SKIP), ({}, Steps.NO_BODY)])
async def test_body_that_nobody_wants_is_not_read(script: dict[str, Step], steps: Steps) -> None:
    read = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"x" * 1000

    async with FakeMilter(script, steps=int(steps)) as milter:
        asked = milters(milter)
        await go(asked, STAGES[:4])
        known = facts(Stage.MESSAGE)
        assert known.content is not None
        verdict = await asked.ask(structs.replace(known, content=replace(known.content, body=counted)))
        asked.ended(7)
    assert verdict is not None
    assert verdict.passes
    assert read == (1 if script else 0)
    assert milter.names.count("EOM") == 1


async def test_unix_socket_and_host_name(tmp_path: Path) -> None:
    async with FakeMilter() as milter:
        server = await asyncio.start_unix_server(milter._serve, tmp_path / "m.sock")
        asked = milters(MilterPlace(str(tmp_path / "m.sock")), MilterPlace("", "milter.test", milter.port))
        asked_at_home = milters(MilterPlace("", "localhost", milter.port))
        assert (await go(asked)).passes
        assert (await go(asked_at_home)).passes
        asked.ended(7)
        asked_at_home.ended(7)
        server.close()
    assert milter.connections == 3


async def test_old_milter_that_hangs_up_is_offered_version_2() -> None:
    async with FakeMilter(version=2, actions=0x3F, knows=2) as milter:
        asked = milters(milter)
        assert (await go(asked)).passes
        asked.ended(7)
    assert milter.connections == 2
    assert "DATA" not in milter.names


# -- what is obeyed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command, stage", [*zip(COMMANDS[1:5], STAGES[:4], strict=True), ("EOM", Stage.MESSAGE)])
@pytest.mark.parametrize(
    "octets, why, said",
    [
        (REJECT, "milter refused", "550 5.7.1 Refused by a mail filter of this server."),
        (TEMPFAIL, "milter deferred", "451 4.7.1 A mail filter of this server asks you to come back later."),
        (reply("554 5.7.9 Bad day"), "milter refused", "554 5.7.9 Bad day"),
        (reply("450 4.2.0 Greylisted"), "milter deferred", "450 4.2.0 Greylisted"),
        (SHUTDOWN, "milter deferred", "421 4.7.1 A mail filter of this server asks you to come back later."),
        (CONNECTION_FAILED, "milter deferred", "421 4.7.1 A mail filter of this server asks you to come back later."),
    ],
)
async def test_refusals_are_passed_on(command: str, stage: Stage, octets: bytes, why: str, said: str) -> None:
    async with FakeMilter({command: octets}) as milter, FakeMilter() as second:
        asked = milters(milter, second)
        for before in STAGES[: STAGES.index(stage)]:
            verdict = await asked.ask(facts(before))
            assert verdict is not None
            assert verdict.passes
        verdict = await asked.ask(facts(stage))
        asked.ended(7)
    assert verdict is not None
    assert (verdict.ruling, verdict.why, str(verdict.say)) == (Ruling.REFUSE, why, said)
    assert verdict.changes == NO_CHANGES
    assert command not in second.names


@pytest.mark.parametrize("command, lasts", [("CONNECT", True), ("HELO", True), ("MAIL", False), ("EOM", False)])
async def test_refusal_of_the_session_stands_for_all_that_follows(command: str, lasts: bool) -> None:
    """A client that goes on after a refused HELO does not get past the filter."""
    async with FakeMilter({command: [REJECT, CONTINUE]}) as milter:
        asked = milters(milter)
        refused = await go(asked)
        assert not refused.passes
        verdict = await go(asked, STAGES[1:])
        assert verdict.passes is not lasts
        if lasts:
            assert verdict == refused
        asked.ended(7)


async def test_refused_recipient_leaves_the_others() -> None:
    async with FakeMilter(RCPT=[reply("550 5.1.1 Not him"), CONTINUE]) as milter:
        asked = milters(milter)
        assert not (await go(asked, STAGES[:4])).passes
        assert (await go(asked, STAGES[3:])).passes
        asked.ended(7)
    assert milter.names.count("RCPT") == 2


@pytest.mark.parametrize(
    "command, heard",
    [("CONNECT", 2), ("HELO", 3), ("MAIL", 4), ("RCPT", 5), ("DATA", 6), ("HEADER", 7), ("EOH", 9), ("BODY", 10)],
)
async def test_accept_ends_the_asking(command: str, heard: int) -> None:
    async with FakeMilter({command: ACCEPT}) as milter:
        asked = milters(milter)
        assert await go(asked) == Verdict(Ruling.ACCEPT, "accepted")
        asked.ended(7)
    assert len([name for name in milter.names if name not in ("ABORT", "QUIT")]) == heard


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA", "HEADER", "EOH", "BODY", "EOM"])
async def test_discarded_message_is_acknowledged_and_shown_to_nobody_else(command: str) -> None:
    async with FakeMilter({command: [DISCARD, CONTINUE]}) as milter, FakeMilter() as second:
        asked = milters(milter, second)
        verdict = await go(asked)
        assert verdict.passes
        assert verdict.changes == Changes(discard=True)
        assert "EOM" not in second.names
        assert (await go(asked, STAGES[2:])).changes == NO_CHANGES
        assert second.names.count("EOM") == 1
        asked.ended(7)


async def test_all_changes_of_a_message() -> None:
    wanted = [
        add("X-Last", "1"), insert(0, "X-Top", "2"), insert(2, "X-First", "3"), change(1, "subject", "bye\n now"),
        change(1, "From", ""), say("e", "<>"), say("+", "<carl@example.org>"), say("-", "<BOB@example.org>"),
        body(b"new\n"), body(b"body"), say("q", "odd"),
    ]  # fmt: skip
    async with FakeMilter(EOM=b"".join(wanted) + CONTINUE) as milter:
        asked = milters(milter)
        verdict = await go(asked)
        asked.ended(7)
    assert verdict.passes
    assert verdict.changes == Changes(
        header=b"X-First: 3\r\nsubject: bye\r\n now\r\nX-Last: 1\r\n\r\n",
        above=b"X-Top: 2\r\n",
        body=b"new\r\nbody\r\n",
        null_sender=True,
        recipients_added=(CARL,),
        recipients_removed=(BOB,),
        quarantine="odd",
    )


async def test_large_new_body_comes_whole() -> None:
    chunk = b"x" * 998 + b"\r\n"
    async with FakeMilter(EOM=body(chunk * 60) * 15 + CONTINUE) as milter:
        asked = milters(milter)
        verdict = await go(asked)
        asked.ended(7)
    assert verdict.changes.body == chunk * 900


async def test_refused_recipients_are_told_to_who_wants_to_know() -> None:
    wants = FakeMilter(RCPT=[CONTINUE, REJECT, CONTINUE], steps=int(Steps.REFUSED_RCPT))
    async with wants, FakeMilter() as other:
        asked = milters(wants, other)
        await go(asked, STAGES[:4])
        await asked.refused(structs.replace(facts(Stage.RCPT), recipient=CARL), Reply(550, "5.1.1", "No such user"))
        assert (await go(asked, STAGES[3:])).passes
        asked.ended(7)
    assert wants.told("RCPT") == [b"<bob@example.org>\0", b"<carl@example.org>\0", b"<bob@example.org>\0"]
    assert [told for name, told in wants.macros if name == "RCPT"][1] == {
        "{rcpt_addr}": "No such user",
        "{rcpt_host}": "5.1.1",
        "{rcpt_mailer}": "error",
    }
    assert other.told("RCPT") == [b"<bob@example.org>\0"] * 2


async def test_unknown_commands_are_told_and_may_be_answered() -> None:
    async with FakeMilter(UNKNOWN=[CONTINUE, reply("500 5.5.1 Not here"), Drop()]) as milter:
        asked = milters(milter)
        await go(asked, STAGES[:2])
        said = [await asked.unknown(7, b"XYZZY 1") for _ in range(4)]
        assert (await go(asked, STAGES[2:])).passes
        asked.ended(7)
    assert [str(one.say) for one in said if one is not None] == ["None", "500 5.5.1 Not here", "None", "None"]
    assert milter.told("UNKNOWN") == [b"XYZZY 1\0"] * 3
    assert await asked.unknown(7, b"XYZZY") is None


async def test_each_milter_sees_what_those_before_it_changed() -> None:
    first = FakeMilter(EOM=insert(0, "X-Top", "1") + change(1, "Subject", "bye") + body(b"new\r\n") + CONTINUE)
    second = FakeMilter(EOM=change(1, "X-Top", "2") + add("X-Last", "3") + CONTINUE, steps=int(Steps.LEADING_SPACE))
    async with first, second:
        asked = milters(first, second)
        verdict = await go(asked)
        asked.ended(7)
    assert second.told("HEADER") == [b"X-Top\0 1\0", b"From\0 anna@example.org\0", b"Subject\0 bye\0"]
    assert second.told("BODY") == [b"new\r\n"]
    assert verdict.changes == Changes(
        header=b"From: anna@example.org\r\nSubject: bye\r\nX-Last:3\r\n\r\n", above=b"X-Top:2\r\n", body=b"new\r\n"
    )


async def test_messages_of_one_session_share_the_connection() -> None:
    async with FakeMilter(EOM=[add("A", "1") + CONTINUE, CONTINUE]) as milter:
        asked = milters(milter)
        await go(asked)
        assert (await go(asked, STAGES[2:])).changes == NO_CHANGES
        await go(asked, STAGES[2:4])  # a client that says RSET
        await go(asked, STAGES[1:])  # or EHLO
        asked.ended(7)
    assert milter.connections == 1
    assert milter.names.count("ABORT") == 1
    assert milter.names.index("ABORT") + 1 == len(milter.names) - 1 - milter.names[::-1].index("HELO")


# -- failures ----------------------------------------------------------------------------------------------------------

FAILURES: dict[str, Step] = {
    "drops": Drop(),
    "garbage": b"\xff\xff\xff\xff\0",
    "unknown word": say("?"),
    "two answers": CONTINUE + CONTINUE,
    "silent": Silent(),
    "half a packet": b"\0\0\0\x05hA",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize("on_failure", ["tempfail", "accept", "reject"])
async def test_milter_that_fails_at_any_step_decides_nothing(
    how: str, command: str, on_failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Class E12, Postfix 20260821: 451, and never a message with half of its changes; or what the owner prefers."""
    caplog.set_level(logging.WARNING)
    waits = how in ("silent", "half a packet")
    patience = Patience(5.0, 0.02, 0.02) if waits else QUICK
    async with FakeMilter({command: FAILURES[how]}) as milter:
        asked = milters(milter, on_failure=on_failure, patience=patience)
        verdict = await go(asked)
        asked.ended(7)
    assert verdict.changes == NO_CHANGES
    assert str(milter.place) in verdict.evidence
    assert verdict.why == "milter failed"
    said = {"tempfail": "451 4.7.1", "reject": "550 5.7.1", "accept": "None"}[on_failure]
    assert str(verdict.say).startswith(said)
    ruling = {"tempfail": Ruling.COULD_NOT_TELL, "reject": Ruling.REFUSE, "accept": Ruling.ACCEPT}[on_failure]
    assert verdict.ruling is ruling
    assert "milter failed" in caplog.text


@pytest.mark.parametrize("end", [Drop(), say("?"), add("B", "x\r\ny") + CONTINUE, body(b"a\rb") + CONTINUE])
async def test_changes_of_a_milter_that_fails_are_forgotten(end: Step) -> None:
    """Class E12: those of the milters before it stay, its own do not."""
    half = add("X-Half", "1") + body(b"half a bo") + say("+", "carl@example.org") + say("q", "odd")
    broken: Step = half + end if isinstance(end, bytes) else end
    async with FakeMilter(EOM=add("X-Whole", "1") + CONTINUE) as whole, FakeMilter(EOM=broken) as breaks:
        asked = milters(whole, breaks, on_failure="accept")
        verdict = await go(asked)
        asked.ended(7)
        refusing = milters(whole, breaks)
        refused = await go(refusing)
        refusing.ended(7)
    assert verdict.changes == Changes(header=HEADER[:-2] + b"X-Whole: 1\r\n\r\n")
    assert (verdict.why, str(breaks.place) in verdict.evidence) == ("milter failed", True)
    assert (refused.ruling, refused.changes) == (Ruling.COULD_NOT_TELL, NO_CHANGES)


async def test_next_message_of_the_session_dials_again() -> None:
    async with FakeMilter(EOM=[Drop(), CONTINUE]) as milter:
        asked = milters(milter)
        assert (await go(asked)).why == "milter failed"
        again = await go(asked, STAGES[2:])
        asked.ended(7)
    assert again.passes
    assert milter.names[-6:] == ["DATA", "HEADER", "HEADER", "EOH", "BODY", "EOM"]
    assert milter.names.count("HELO") == 2


async def test_milter_that_has_gone_between_two_messages_is_dialled_again() -> None:
    async with FakeMilter() as milter:
        asked = milters(milter)
        await go(asked)
        for writer in milter._writers:
            writer.close()
        await until(lambda: not milter._writers)
        await asyncio.sleep(0)
        assert (await go(asked, STAGES[2:])).passes
        asked.ended(7)
    assert milter.connections == 2


async def test_milter_that_leaves_in_the_middle_of_a_message_has_failed() -> None:
    async with FakeMilter() as milter:
        asked = milters(milter)
        await go(asked, STAGES[:4])
        for writer in milter._writers:
            writer.close()
        await until(lambda: not milter._writers)
        await asyncio.sleep(0)
        assert (await go(asked, STAGES[3:])).why == "milter failed"
        assert (await go(asked, STAGES[4:])).why == "milter failed"
        asked.ended(7)
    assert "EOM" not in milter.names


@pytest.mark.parametrize("place", [NOBODY_THERE, MilterPlace("/nonexistent/m.sock"), MilterPlace("", "no.test", 1)])
async def test_milter_that_is_not_there(place: MilterPlace) -> None:
    asked = milters(place)
    verdict = await go(asked, STAGES[:1])
    asked.ended(7)
    assert (verdict.ruling, verdict.why) == (Ruling.COULD_NOT_TELL, "milter failed")
    assert verdict.evidence.startswith(str(place))


@pytest.mark.slow
async def test_progress_gives_a_step_its_patience_anew() -> None:
    progress = Slowly(0.15, (PROGRESS, PROGRESS, CONTINUE))
    async with FakeMilter(EOM=progress) as milter:
        asked = milters(milter, patience=Patience(5.0, 5.0, 0.4))
        assert (await go(asked)).passes
        asked.ended(7)


async def test_progress_does_not_outlast_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeMilter(EOM=Slowly(0.01, (PROGRESS,) * 100)) as milter:
        asked = milters(milter)
        await go(asked, STAGES[:4])
        monkeypatch.setattr(judge, "STAGE_MAX_S", 0.1)
        assert (await go(asked, STAGES[4:])).why == "milter failed"
        asked.ended(7)


async def test_what_reading_the_body_raises_is_no_failure_of_the_milter() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"Hello"
        raise StoreBroken

    async with FakeMilter() as milter:
        asked = milters(milter, on_failure="accept")
        await go(asked, STAGES[:4])
        known = facts(Stage.MESSAGE)
        assert known.content is not None
        with pytest.raises(StoreBroken):
            await asked.ask(structs.replace(known, content=replace(known.content, body=broken)))
        assert (await go(asked, STAGES[2:])).passes
        asked.ended(7)
    assert milter.connections == 2


async def test_session_that_ends_while_a_milter_thinks_leaves_nothing_open() -> None:
    async with FakeMilter(MAIL=Silent()) as milter:
        asked = milters(milter)
        thinking = asyncio.ensure_future(go(asked, STAGES[:3]))
        await until(lambda: "MAIL" in milter.names)
        asked.ended(7)
        assert (await thinking).why == "milter failed"
        await until(lambda: not milter._writers)


async def test_header_of_too_many_lines_is_refused_for_good() -> None:
    async with FakeMilter() as milter:
        asked = milters(milter)
        await go(asked, STAGES[:4])
        verdict = await asked.ask(facts(Stage.MESSAGE, header=b"A: 1\r\n" * 2001 + b"\r\n"))
        asked.ended(7)
    assert verdict is not None
    assert str(verdict.say).startswith("552 5.3.4")


# -- which milters -----------------------------------------------------------------------------------------------------


async def test_doors_have_their_own_milters() -> None:
    async with FakeMilter() as world, FakeMilter() as users:
        milter = Milter(mx=(f"inet:127.0.0.1:{world.port}",), submission=(f"inet:127.0.0.1:{users.port}",))
        asked = Milters.from_config(Config(hostname="mx.test", listen=Listen(), milter=milter), FakeLookup())
        assert asked is not None
        for number, (door, trusted) in enumerate(
            [("mx", False), ("lmtp", False), ("mx", True), ("submission", False), ("local", False)]
        ):
            known = structs.replace(facts(Stage.CONNECT), door=door, trusted=trusted, session=number)
            assert await asked.ask(known) is not None
            asked.ended(number)
        assert await asked.ask(facts(Stage.AUTH)) is None
        assert await milters().ask(facts(Stage.CONNECT)) is None
    assert (world.connections, users.connections) == (2, 3)


def test_configuration_without_milters_has_no_judge() -> None:
    assert Milters.from_config(Config(), FakeLookup()) is None


async def until(condition: object) -> None:
    """Lets the loop go on until something is true."""
    assert callable(condition)
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)
