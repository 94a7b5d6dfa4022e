"""`postroad send`, `why`, `verify`, `backup`: mail in hand."""

from __future__ import annotations

import json
import smtplib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from postroad.store.opening import OpenStore
from postroad.store.records import Refusal
from postroad.store.refusals import Refusals
from postroad.values.event import Event, pack
from postroad.values.ids import IdMaker, id_text
from tests.console.conftest import CommandLine

Queued = Callable[[str], str]
WRITTEN = ("--subject", "Hi", "--body", "Ho")


# -- why -------------------------------------------------------------------------------------------------------------


def test_why_by_everything_people_have(dev_test: CommandLine, queued: Queued) -> None:
    name = queued("bob@else.test")
    for what in (name, name.lower(), f"Ref {name}", "bob@else.test", "BOB@else.test", "<bob@else.test>"):
        assert dev_test.json("why", what)["message"]["id"] == name


def test_why_by_message_id(dev_test: CommandLine) -> None:
    raw = "From: a@b.test\r\nMessage-ID: <Some.Thing@b.test>\r\n\r\nHo\r\n"
    dev_test("send", "--direct", "--from", "a@b.test", "--to", "anna@dev.test", stdin=raw)
    for what in ("<Some.Thing@b.test>", "Message-ID: <Some.Thing@b.test>", "some.thing@b.test"):
        assert dev_test.json("why", what)["matches"] == 1


def test_why_lists_several_newest_first(dev_test: CommandLine, queued: Queued) -> None:
    names = [queued("bob@else.test") for _ in range(3)]
    result = dev_test("why", "anna@dev.test")
    assert [line.split("\t")[0] for line in result.stdout.split("\n")[:3]] == names[::-1]
    assert f"postroad why {names[-1]}" in result.stderr
    told = dev_test.json("why", "anna@dev.test")
    assert told["matches"] == 3
    assert [message["id"] for message in told["messages"]] == names[::-1]


def test_why_tells_the_story_as_text(dev_test: CommandLine, queued: Queued) -> None:
    name = queued("anna@dev.test")
    output = dev_test("why", name).stdout
    assert output.startswith(f"Message {name}")
    assert "Delivered, 0 s after it was received." in output
    assert "at mailbox INBOX" in output


def test_why_of_a_refusal(dev_test: CommandLine) -> None:
    ident = IdMaker(1).make(1_800_000_000_000_000)
    event = Event(
        kind="refused",
        at_us=1_800_000_000_000_000,
        recipient="no@dev.test",
        cause="no such mailbox, from <x@else.test>",
        evidence="RCPT TO:<no@dev.test> -> 550 5.1.1 No mailbox",
    )
    refusals = Refusals(dev_test.data / "refusals.db")
    refusals.add(Refusal(ident, event.at_us, "192.0.2.9", "no such mailbox", "x@else.test\nno@dev.test", pack([event])))
    refusals.step(float("inf"))
    refusals.close()
    for what in (id_text(ident), "192.0.2.9", "no@dev.test"):
        assert dev_test.json("why", what)["message"]["state"] == "refused"
    assert "Refused: nothing was stored." in dev_test("why", "192.0.2.9").stdout


def test_refusal_of_this_moment_gets_a_second_look(dev_test: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = id_text(IdMaker(1).make(time.time_ns() // 1000))
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    dev_test("why", fresh, status=1)
    dev_test("why", "nobody@nowhere.test", status=1)
    assert len(naps) == 1


def test_why_of_nothing_says_what_was_searched(dev_test: CommandLine) -> None:
    result = dev_test("why", "nobody@nowhere.test", status=1)
    assert 'Nothing is known of "nobody@nowhere.test".' in result.stderr
    assert "Searched: queue ids" in result.stderr
    assert json.loads(dev_test("why", "nobody@nowhere.test", "--json", status=1).stdout)["matches"] == 0


# -- send ------------------------------------------------------------------------------------------------------------


def test_direct_message_reaches_the_mailbox_and_the_queue(dev_test: CommandLine) -> None:
    result = dev_test(
        "send", "--direct", "--from", "x@y.test", "--to", "anna@dev.test", "--to", "bob@else.test", *WRITTEN
    )
    name = result.stdout.split()[0]
    assert f"What becomes of it: postroad why {name}" in result.stderr
    assert dev_test.json("user", "list")["rows"][0]["messages"] == 1
    assert dev_test.json("why", name)["message"]["state"] == "partly"


def test_direct_message_to_nobody_is_refused(dev_test: CommandLine) -> None:
    result = dev_test("send", "--direct", "--from", "x@y.test", "--to", "no@dev.test", *WRITTEN, status=1)
    assert "Not sent: 550 5.1.1" in result.stderr


def test_one_refused_recipient_is_told_and_fails(dev_test: CommandLine) -> None:
    words = ("send", "--direct", "--from", "x@y.test", "--to", "anna@dev.test", "--to", "no@dev.test", *WRITTEN)
    told = json.loads(dev_test(*words, "--json", status=1).stdout)
    assert told["accepted"] == ["anna@dev.test"]
    assert told["refused"][0]["recipient"] == "no@dev.test"
    assert told["id"]


@pytest.mark.parametrize(
    "words, stdin",
    [
        (("--from", "no address", "--to", "a@b.test"), "x"),
        (("--from", "a@b.test", "--to", "a"), "x"),
        (("--from", "a@b.test", "--to", "a@b.test"), ""),
        (("--from", "a@b.test", "--to", "a@b.test"), "x\0y"),
        (("--from", "a@b.test", "--to", "a@b.test", "--subject", "two\nlines", "--body", ""), ""),
        (("--from", "a@b.test", "--to", "a@b.test", "--direct", "--server", "x:25"), "x"),
        (("--from", "a@b.test", "--to", "a@b.test", "--user", "a@b.test"), "x"),
        (("--from", "a@b.test", "--to", "a@b.test", "--server", "no port"), "x"),
    ],
)
def test_what_cannot_be_sent(dev_test: CommandLine, words: tuple[str, ...], stdin: str) -> None:
    dev_test("send", *words, stdin=stdin, status=2)


class FakeServer:
    """Stands for smtplib.SMTP: answers from a table and remembers what it was told."""

    made: list[FakeServer] = []
    replies: dict[str, tuple[int, bytes]] = {}

    def __init__(self, host: str, port: int, **_: Any) -> None:
        self.told: list[Any] = [(host, port)]
        self.command_encoding = "ascii"
        FakeServer.made.append(self)

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ehlo_or_helo_if_needed(self) -> None: ...

    def ehlo(self) -> None: ...

    def has_extn(self, name: str) -> bool:
        return name in ("size", "8bitmime", "smtputf8")

    def starttls(self, **_: Any) -> None:
        self.told.append("starttls")

    def login(self, user: str, password: str) -> None:
        self.told.append((user, password))
        code, said = self.replies.get("login", (235, b"ok"))
        if code != 235:
            raise smtplib.SMTPAuthenticationError(code, said)

    def mail(self, sender: str, options: list[str]) -> tuple[int, bytes]:
        self.told.append((sender, options))
        return self.replies.get("mail", (250, b"ok"))

    def rcpt(self, recipient: str) -> tuple[int, bytes]:
        return self.replies.get(recipient, (250, b"ok"))

    def data(self, message: bytes) -> tuple[int, bytes]:
        self.told.append(message)
        return self.replies.get("data", (250, b"2.0.0 Queued as 0ACF4S8VJ5C05"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> type[FakeServer]:
    FakeServer.made, FakeServer.replies = [], {}
    monkeypatch.setattr(smtplib, "SMTP", FakeServer)
    monkeypatch.setattr(smtplib, "SMTP_SSL", type("FakeSsl", (FakeServer,), {}))
    return FakeServer


def test_without_a_login_the_mx_port_gets_it(dev_test: CommandLine, server: type[FakeServer]) -> None:
    result = dev_test("send", "--from", "x@y.test", "--to", "anna@dev.test", *WRITTEN)
    assert result.stdout.startswith("0ACF4S8VJ5C05   250 2.0.0 Queued")
    place, mail, message = server.made[0].told
    assert place == ("127.0.0.1", 25)
    assert mail == ("x@y.test", [f"SIZE={len(message)}"])
    assert b"Subject: Hi\r\n" in message
    assert message.endswith(b"\r\n\r\nHo\r\n")


def test_with_a_login_the_submission_port_gets_it_over_tls(dev_test: CommandLine, server: type[FakeServer]) -> None:
    words = ("--from", "anna@dev.test", "--to", "b@c.test", "--user", "anna@dev.test", "--password-stdin", *WRITTEN)
    dev_test("send", *words, stdin="secret words\n")
    assert server.made[0].told[:3] == [("127.0.0.1", 587), "starttls", ("anna@dev.test", "secret words")]


def test_wrong_password_is_status_77_and_not_shown(dev_test: CommandLine, server: type[FakeServer]) -> None:
    server.replies["login"] = (535, b"5.7.8 Wrong user name or password.")
    words = ("--from", "anna@dev.test", "--to", "b@c.test", "--user", "anna@dev.test", "--password-stdin", *WRITTEN)
    result = dev_test("send", *words, stdin="wrong words\n", status=77)
    assert "535 5.7.8 Wrong user name" in result.stderr
    assert "wrong words" not in result.output


def test_refusals_for_now_and_for_good_have_their_status(dev_test: CommandLine, server: type[FakeServer]) -> None:
    server.replies["data"] = (452, b"4.3.1 full")
    dev_test("send", "--from", "x@y.test", "--to", "a@dev.test", *WRITTEN, status=75)
    server.replies["data"] = (554, b"5.7.1 no")
    dev_test("send", "--from", "x@y.test", "--to", "a@dev.test", *WRITTEN, status=1)
    server.replies["mail"] = (550, b"5.1.8 no")
    dev_test("send", "--from", "", "--to", "a@dev.test", *WRITTEN, status=1)
    assert server.made[-1].told[1][0] == ""


def test_whole_message_from_standard_input(dev_test: CommandLine, server: type[FakeServer]) -> None:
    raw = b"Subject: raw\nX: \xe9\n\n.dot\nend"
    dev_test("send", "--server", "mail.test:2525", "--from", "x@y.test", "--to", "a@dev.test", stdin=raw)
    assert server.made[0].told[0] == ("mail.test", 2525)
    assert server.made[0].told[1][1] == ["SIZE=33", "BODY=8BITMIME"]
    assert server.made[0].told[2] == b"Subject: raw\r\nX: \xe9\r\n\r\n.dot\r\nend\r\n"


def test_nobody_answers(dev_test: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(smtplib, "SMTP", refuse)
    result = dev_test("send", "--from", "x@y.test", "--to", "a@dev.test", *WRITTEN, status=69)
    assert "Connection refused" in result.stderr
    assert "postroad serve" in result.stderr


# -- verify and backup -----------------------------------------------------------------------------------------------


def test_whole_store_is_proved(dev_test: CommandLine, queued: Queued) -> None:
    queued("anna@dev.test")
    assert "whole, every rule holds" in dev_test("verify").output
    assert dev_test.json("verify")["findings"] == []


def test_broken_rule_is_found_and_fails(dev_test: CommandLine) -> None:
    store = OpenStore(dev_test.data)
    store.connection.execute("UPDATE accounts SET used_bytes = 12345")
    store.close()
    assert "anna@dev.test" in dev_test("verify", status=1).output
    assert dev_test.json("verify", status=1)["ok"] is False


@pytest.mark.slow
def test_backup_is_a_folder_that_verifies(dev_test: CommandLine, queued: Queued, tmp_path: Path) -> None:
    queued("bob@else.test")
    copy = tmp_path / "copy"
    assert "1 message" in dev_test("backup", str(copy)).output
    other = CommandLine(copy)
    assert "whole" in other("verify").output
    assert len(other.json("queue", "list")["rows"]) == 1
    assert "is not empty" in dev_test("backup", str(copy), status=73).stderr
