"""The gate inside an SMTP session: when it is asked, what it is told, and what becomes of its verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from postroad.app.gates import make_gates
from postroad.rules.ports import Ports
from postroad.serve.conversation import Conversation
from postroad.serve.doors import smtp_sessions
from postroad.store.migrate import migrate
from postroad.store.sqlite import SqliteConnection
from postroad.values.address import Address
from postroad.values.facts import Facts, Stage
from postroad.values.networks import Networks
from postroad.values.reply import Reply
from postroad.values.verdict import Changes, Verdict, accept, doubt, refuse
from tests.serve.harness import ANNA, Peer, breathe, open_house
from tests.serve.post_office import PostOffice, ehlo, open_post_office
from tests.serve.test_smtp import MESSAGE, log_in, send


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[PostOffice]:
    connection = SqliteConnection(tmp_path / "postroad.db")
    migrate(connection, 1_800_000_000_000_000)
    house = open_house(tmp_path, connection)
    try:
        yield open_post_office(house, tmp_path)
    finally:
        await house.close()


class Scripted:
    """A judge who says what a test wrote down for a stage, and keeps what it was asked."""

    def __init__(self, **says: Verdict | Callable[[Facts], Awaitable[Verdict | None]]) -> None:
        self.says = says
        self.asked: list[Facts] = []
        self.over: list[int] = []

    async def ask(self, facts: Facts) -> Verdict | None:
        self.asked.append(facts)
        said = self.says.get(facts.stage.value)
        return await said(facts) if callable(said) else said

    def ended(self, session: int) -> None:
        self.over.append(session)


def judged(office: PostOffice, **says: Verdict | Callable[[Facts], Awaitable[Verdict | None]]) -> Scripted:
    judge = Scripted(**says)
    office.service.gates = make_gates(Ports(policy=judge))
    return judge


NO = refuse("check failed", 550, "5.7.1", "Not from you.")


async def test_every_stage_is_asked_in_order_with_what_is_known_by_then(office: PostOffice) -> None:
    seen: list[bytes] = []

    async def read(facts: Facts) -> None:
        assert facts.content is not None
        seen.append(facts.content.header + b"".join([piece async for piece in facts.content.body()]))

    judge = judged(office, message=read)
    client = await office.greeted()
    assert (await send(client)).startswith(b"250 ")
    await client.hang_up()
    assert [facts.stage for facts in judge.asked] == [
        Stage.CONNECT, Stage.HELLO, Stage.MAIL, Stage.RCPT, Stage.MESSAGE,
    ]  # fmt: skip
    connect, hello, mail, rcpt, message = judge.asked
    assert (connect.door, connect.peer, connect.helo) == ("mx", "192.0.2.9", "")
    assert (hello.helo, hello.esmtp) == ("client.test", True)
    assert (mail.sender_text, mail.recipient) == ("a@sender.test", None)
    assert rcpt.recipient == Address.parse(ANNA)
    assert message.recipients == (Address.parse(ANNA),)
    assert seen == [MESSAGE.replace(b"..dots", b".dots")]
    assert len({facts.session for facts in judge.asked}) == 1
    assert judge.over == [connect.session]


async def test_users_are_asked_by_their_own_list(office: PostOffice) -> None:
    judge = judged(office)
    client = await office.greeted("submission")
    await log_in(client, office)
    assert (await send(client, sender=ANNA)).startswith(b"250 ")
    auth = next(facts for facts in judge.asked if facts.stage is Stage.AUTH)
    assert (auth.login, auth.account > 0) == (ANNA, True)


async def test_a_refused_connection_is_greeted_with_554_and_may_only_quit(office: PostOffice) -> None:
    judged(office, connect=refuse("check failed", 554, "5.7.1", "Not from your network."))
    client = await office.connect()
    assert (await client.line()).startswith(b"554 5.7.1 Not from your network. Ref ")
    assert (await client.ask(b"EHLO x")).startswith(b"503 ")
    assert (await client.ask(b"QUIT")).startswith(b"221 ")
    assert [event.cause for event in office.refused()][:1] == ["check failed"]


async def test_a_connection_that_is_put_off_is_closed(office: PostOffice) -> None:
    judged(office, connect=refuse("check failed", 421, "4.7.0", "Later."))
    client = await office.connect()
    assert (await client.line()).startswith(b"421 4.7.0 Later. Ref ")
    assert await client.rest() == b""


@pytest.mark.parametrize(
    ("stage", "commands"),
    [
        ("hello", [b"EHLO x"]),
        ("mail", [b"EHLO x", b"MAIL FROM:<a@b.test>"]),
        ("rcpt", [b"EHLO x", b"MAIL FROM:<a@b.test>", b"RCPT TO:<anna@example.com>"]),
    ],
)
async def test_a_refused_command_changes_nothing(office: PostOffice, stage: str, commands: list[bytes]) -> None:
    judged(office, **{stage: NO})
    client = await office.connect()
    await client.line()
    for command in commands:
        client.send(command + b"\r\n")
        while (reply := await client.line())[3:4] == b"-":
            pass
    assert reply.startswith(b"550 5.7.1 Not from you. Ref ")
    # Class E2: nothing of what was refused is left
    last = await client.ask(b"DATA" if stage == "rcpt" else b"RCPT TO:<anna@example.com>")
    assert last[:3] in (b"503", b"554")


async def test_a_refused_hello_leaves_the_session_as_it_was(office: PostOffice) -> None:
    async def says(facts: Facts) -> Verdict | None:
        return NO if facts.helo == "evil" else None

    judge = judged(office, hello=says)
    client = await office.greeted()
    assert (await client.ask(b"MAIL FROM:<a@b.test>")).startswith(b"250 ")
    assert (await client.ask(b"EHLO evil")).startswith(b"550 ")
    assert (await client.ask(b"RCPT TO:<anna@example.com>")).startswith(b"250 ")
    assert (await client.ask(b"DATA")).startswith(b"354 ")
    client.send(MESSAGE + b".\r\n")
    assert (await client.line()).startswith(b"250 ")
    assert {facts.helo for facts in judge.asked if facts.stage not in (Stage.CONNECT, Stage.HELLO)} == {"client.test"}
    assert office.house.store.sql("SELECT header FROM messages")[0][0].startswith(b"Received: from client.test ")


async def spoken_for(office: PostOffice) -> Peer:
    """A peer at the MX that may say XCLIENT."""
    make = smtp_sessions(office.service, limits=office.limits, speakers=Networks(["192.0.2.9"]))["mx"]

    def from_speaker(conversation: Conversation) -> Any:
        conversation.peer = "192.0.2.9"
        return make(conversation)

    client = await office.house.connect(from_speaker)
    assert (await client.line()).startswith(b"220 ")
    await ehlo(client)
    return client


async def test_a_client_that_policy_refuses_is_refused_behind_xclient_too(office: PostOffice) -> None:
    async def says(facts: Facts) -> Verdict | None:
        return NO if facts.peer == "203.0.113.5" else None

    judged(office, connect=says)
    client = await spoken_for(office)
    assert (await client.ask(b"XCLIENT ADDR=203.0.113.5")).startswith(b"554 5.7.1 Not from you.")
    assert (await client.ask(b"MAIL FROM:<a@b.test>")).startswith(b"503 ")
    assert (await client.ask(b"QUIT")).startswith(b"221 ")


async def test_judges_meet_the_client_behind_xclient_as_a_session_of_its_own(office: PostOffice) -> None:
    judge = judged(office)
    client = await spoken_for(office)
    assert (await client.ask(b"XCLIENT ADDR=203.0.113.5")).startswith(b"220 ")
    numbers = {facts.peer: facts.session for facts in judge.asked}
    assert numbers["192.0.2.9"] != numbers["203.0.113.5"]
    assert judge.over == [numbers["192.0.2.9"]]


async def test_milters_hear_of_a_recipient_that_was_refused_before_they_were_asked(office: PostOffice) -> None:
    heard: list[tuple[str, str]] = []

    class Milter(Scripted):
        async def refused(self, facts: Facts, reply: Reply) -> None:
            heard.append((str(facts.recipient), reply.enhanced))

    office.service.gates = make_gates(Ports(milters=Milter()))
    client = await office.greeted()
    assert (await client.ask(b"MAIL FROM:<a@b.test>")).startswith(b"250 ")
    assert (await client.ask(b"RCPT TO:<nobody@example.com>")).startswith(b"550 ")
    assert heard == [("nobody@example.com", "5.1.1")]


async def test_policy_sees_a_submission_completed(office: PostOffice) -> None:
    seen: list[bytes] = []

    async def read(facts: Facts) -> None:
        assert facts.content is not None
        seen.append(facts.content.header)

    judged(office, message=read)
    client = await office.greeted("submission")
    await log_in(client, office)
    message = b"Subject: hi\r\nBcc: ben@example.com\r\n\r\nx\r\n"
    assert (await send(client, message=message, sender=ANNA)).startswith(b"250 ")
    assert b"Message-ID: <" in seen[0]
    assert b"Bcc" not in seen[0]


async def test_a_refused_message_leaves_nothing(office: PostOffice) -> None:
    judged(office, message=NO)
    client = await office.greeted()
    assert (await send(client)).startswith(b"550 5.7.1 Not from you. Ref ")
    assert office.count("messages") == 0
    # Rows S36 and S37: the next one begins anew
    assert (await client.ask(b"RCPT TO:<anna@example.com>")).startswith(b"503 ")


async def test_a_doubt_defers_and_a_noted_one_is_told_in_the_story(office: PostOffice) -> None:
    judged(office, message=doubt("check failed", "resolver timed out"))
    client = await office.greeted()
    assert (await send(client)).startswith(b"451 4.7.0 A check could not be completed.")
    judged(office, message=doubt("check failed", "resolver timed out", say=None))
    assert (await send(client)).startswith(b"250 ")
    [checked] = [event for event in office.events() if event.kind == "checked"]
    assert (checked.cause, checked.evidence) == ("check failed", "resolver timed out")


async def test_a_check_that_raises_is_a_doubt_and_no_lost_mail(office: PostOffice) -> None:
    async def broken(facts: Facts) -> Verdict:
        raise ZeroDivisionError

    judged(office, message=broken)
    client = await office.greeted()
    assert (await send(client)).startswith(b"451 4.7.0 ")
    assert office.count("messages") == 0


async def test_changes_reach_what_is_kept(office: PostOffice) -> None:
    office.house.store.account("ben@example.com")
    changes = Changes(
        header=b"X-Checked: yes\r\nSubject: other\r\n\r\n",
        body=b"other body\r\n" * 30_000,
        sender=Address.parse("bounce@sender.test"),
        recipients_added=(Address.parse("ben@example.com"),),
        recipients_removed=(Address.parse(ANNA),),
    )
    judged(office, message=accept(changes=changes))
    client = await office.greeted()
    assert (await send(client)).startswith(b"250 ")
    header, body_file, sender = office.house.store.sql("SELECT header, body_file, sender FROM messages")[0]
    assert header.endswith(b"\r\nX-Checked: yes\r\nSubject: other\r\n\r\n")
    assert office.house.spool.body_path(body_file).read_bytes() == changes.body
    assert sender == "bounce@sender.test"
    [prefix] = [row[0] for row in office.house.store.sql("SELECT prefix FROM mailbox_messages")]
    assert b"Delivered-To: ben@example.com\r\n" in prefix


async def test_a_discarded_message_is_acknowledged_and_told_but_kept_nowhere(office: PostOffice) -> None:
    judged(office, message=accept(changes=Changes(discard=True)))
    client = await office.greeted()
    assert (await send(client)).startswith(b"250 2.0.0 Queued as ")
    assert office.count("messages") == office.count("mailbox_messages") == 0
    assert [event.kind for event in office.events()] == ["received", "discarded"]


async def test_no_recipient_left_is_a_refusal(office: PostOffice) -> None:
    judged(office, message=accept(changes=Changes(recipients_removed=(Address.parse(ANNA),))))
    assert (await send(await office.greeted())).startswith(b"554 5.7.1 No recipient is left")
    assert office.count("messages") == 0


async def test_a_client_that_leaves_while_policy_thinks_has_its_message_kept_once(office: PostOffice) -> None:
    thinking, go_on = asyncio.Event(), asyncio.Event()

    async def slow(facts: Facts) -> None:
        thinking.set()
        await go_on.wait()

    judged(office, message=slow)
    client = await office.greeted()
    for command in (b"MAIL FROM:<a@sender.test>", b"RCPT TO:<anna@example.com>", b"DATA"):
        await client.ask(command)
    client.send(MESSAGE + b".\r\n")
    await thinking.wait()
    await client.hang_up()
    go_on.set()
    for _ in range(100):
        await asyncio.sleep(0)
    assert office.count("mailbox_messages") == 1  # row S59


@pytest.mark.parametrize("stage", ["connect", "mail", "rcpt"])
async def test_nothing_is_kept_for_a_client_that_left_while_policy_thought(office: PostOffice, stage: str) -> None:
    thinking, go_on = asyncio.Event(), asyncio.Event()

    async def slow(facts: Facts) -> None:
        thinking.set()
        await go_on.wait()

    kept: set[int] = set()

    class Milter(Scripted):
        async def ask(self, facts: Facts) -> None:
            kept.add(facts.session)

        async def refused(self, facts: Facts, reply: Reply) -> None: ...

        def ended(self, session: int) -> None:
            kept.discard(session)

    office.service.gates = make_gates(Ports(policy=Scripted(**{stage: slow}), milters=Milter()))
    client = await (office.connect() if stage == "connect" else office.greeted())
    if stage != "connect":
        client.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<anna@example.com>\r\n")
    await thinking.wait()
    office.house.conversations[-1].transport.abort()  # as after a reset
    await breathe()
    go_on.set()
    await breathe()
    assert not kept


async def test_a_bug_between_the_final_dot_and_the_intake_leaves_no_draft(
    office: PostOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*words: object, **more: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr("postroad.serve.smtp_message.completed", broken)
    client = await office.greeted("submission")
    await log_in(client, office)
    reply = await send(client, message=MESSAGE + b"x" * 60_000 + b"\r\n", sender=ANNA)
    assert reply.startswith(b"421 4.3.0 Internal problem, nothing was lost.")
    assert office.house.spool.in_memory == 0


async def test_who_speaks_while_we_make_up_our_mind_about_the_connection_has_spoken_too_early(
    office: PostOffice,
) -> None:
    go_on = asyncio.Event()

    async def slow(facts: Facts) -> None:
        await go_on.wait()

    judged(office, connect=slow)
    client = await office.connect()
    client.send(b"EHLO early\r\n")
    for _ in range(20):
        await asyncio.sleep(0)
    go_on.set()
    assert (await client.line()).startswith(b"521 5.5.1 ")  # row S13
    assert await client.rest() == b""


async def test_a_login_that_policy_refuses_is_none(office: PostOffice) -> None:
    import base64

    from tests.serve.harness import PASSWORD
    from tests.serve.test_smtp import over_tls

    judged(office, auth=refuse("check failed", 535, "5.7.8", "Not today."))
    client = await office.greeted("submission")
    await over_tls(client, office)
    token = base64.b64encode(f"\0{ANNA}\0{PASSWORD}".encode())
    assert (await client.ask(b"AUTH PLAIN " + token)).startswith(b"535 5.7.8 Not today.")
    assert (await client.ask(b"MAIL FROM:<anna@example.com>")).startswith(b"530 ")


async def test_without_anybody_to_ask_only_the_form_is_looked_at(office: PostOffice) -> None:
    client = await office.greeted()
    assert (await send(client, message=b"no header at all\r\n")).startswith(b"554 5.6.0 ")  # row S54
    assert (await send(client)).startswith(b"250 ")


async def test_submission_completes_and_hides_the_client_on_request(office: PostOffice) -> None:
    office.service.hide_clients = True
    client = await office.greeted("submission")
    await log_in(client, office)
    assert (await send(client, message=b"Subject: hi\r\nBcc: ben@example.com\r\n\r\nx\r\n", sender=ANNA)).startswith(
        b"250"
    )
    header = office.house.store.sql("SELECT header FROM messages")[0][0]
    assert header.startswith(b"Received: by mx.example.com with ESMTPSA id ")
    assert b"192.0.2.9" not in header
    assert b"Bcc" not in header
    assert b"\r\nFrom: anna@example.com\r\n" in header
    assert "192.0.2.9" in office.events()[0].where, "the story still tells the administrator"


def test_a_doubt_never_refuses_for_good() -> None:
    with pytest.raises(ValueError, match="never"):
        doubt("check failed", say=Reply(550, "5.7.1", "no"))
