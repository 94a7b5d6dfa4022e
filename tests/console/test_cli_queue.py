"""`postroad queue`: what waits, and what people do to it."""

from __future__ import annotations

import getpass
import importlib
import os
import re
import time
from collections.abc import Callable
from typing import Any

import click
import pytest

from postroad.console.cli import queue_hands
from postroad.console.cli.queue_selection import span_us, who
from postroad.store import actions
from postroad.store.actions import Finishing
from postroad.store.opening import OpenStore
from postroad.store.records import HELD, NEVER_US
from postroad.store.tallies import overview
from postroad.values.reason import reason_number
from tests.console.conftest import CommandLine

queue = importlib.import_module("postroad.console.cli.queue")
Queued = Callable[[str], str]
ME = getpass.getuser()


def change(run: CommandLine, sql: str, *params: Any) -> None:
    """Changes rows as a running server would have."""
    store = OpenStore(run.data)
    store.connection.execute(sql, params)
    store.close()


def defer(run: CommandLine, reply: str = "451 4.7.1 Too busy for 17") -> None:
    change(
        run, "UPDATE deliveries SET state = 1, attempts = 1, last_reply = ?, reason = ?, due_us = ?", reply,
        reason_number(reply), (time.time_ns() // 1000) + 3_600_500_000,
    )  # fmt: skip


def finish(run: CommandLine) -> None:
    """Lets a minute go by and the store make final what is due."""
    change(run, "UPDATE queue_actions SET until_us = 1 WHERE until_us > 0")
    store = OpenStore(run.data)
    chore = Finishing(store.writer)
    while chore.due <= 0.0:
        chore.step(0.0)
    store.close()


def rows(run: CommandLine, *words: str) -> list[Any]:
    found: list[Any] = run.json("queue", "list", *words)["rows"]
    return found


def kinds(run: CommandLine, name: str) -> list[str]:
    events = run.json("why", name)["message"]["events"]
    return [event["kind"] for event in events if event["kind"] != "signed"]


# -- lists -------------------------------------------------------------------------------------------------------------


def test_queue_by_destination(dev_test: CommandLine, queued: Queued) -> None:
    queued("bob@else.test")
    queued("eva@else.test")
    queued("ida@third.test")
    told = dev_test.json("queue", "list")
    assert [(row["name"], row["deliveries"], row["due"]) for row in told["rows"]] == [
        ("else.test", 2, 2),
        ("third.test", 1, 1),
    ]
    assert (told["schema"], told["by"], told["total"]["deliveries"], told["more"]) == ("queue-groups/1", "domain", 3, 0)
    assert told["rows"][0]["heat"] == {"5m": 2} | dict.fromkeys(
        ["10m", "20m", "40m", "80m", "160m", "320m", "640m", "1280m", "1280m+"], 0
    )
    assert dev_test("queue").output.split("\t")[:3] == ["else.test", "2", "2"]


def test_queue_by_reason_site_and_user(dev_test: CommandLine, queued: Queued) -> None:
    queued("bob@else.test")
    queued("eva@third.test")
    defer(dev_test)
    change(dev_test, "UPDATE deliveries SET login = 'anna@dev.test'")
    change(dev_test, "INSERT INTO sites (domain, site, seen_us) VALUES ('else.test', 'mx.test:25', 0)")
    names = {by: [row["name"] for row in rows(dev_test, "--by", by)] for by in ("reason", "site", "user")}
    assert names == {
        "reason": ["451 4.7.1 Too busy for #"], "site": ["mx.test:25", "third.test"], "user": ["anna@dev.test"],
    }  # fmt: skip


def test_without_a_command_the_options_are_those_of_the_list(dev_test: CommandLine, queued: Queued) -> None:
    queued("bob@else.test")
    assert dev_test.json("queue", "--by", "user") == dev_test.json("queue", "list", "--by", "user")
    assert "else.test" in dev_test("queue", "--state", "due").stdout
    assert "Commands:" in dev_test("queue", "--help").stdout
    assert dev_test.json("shaping")["rows"] == []


def test_the_groups_on_a_terminal(dev_test: CommandLine, queued: Queued, monkeypatch: pytest.MonkeyPatch) -> None:
    queued("bob@else.test")
    queued("ida@third.test")
    defer(dev_test, "451 4.7.1 " + "long " * 40)
    printed: list[list[str]] = []
    monkeypatch.setattr(
        queue, "print_rows", lambda head, cells, empty: printed.extend(list(row) for row in [head, *cells])
    )
    monkeypatch.setattr(queue.sys, "stdout", type("Terminal", (), {"isatty": lambda self: True})())
    now_us = time.time_ns() // 1000
    queue._print_groups(overview(dev_test.data, "domain", now_us, 1), "domain", now_us)
    head, total, first = printed
    assert head == [
        "domain", "waiting", "due", "trying", "thrttl", "held", "5m", "10m", "20m", "40m", "80m", "160m", "320m",
        "640m", "1280m", "1280m+", "oldest", "next try", "reason",
    ]  # fmt: skip
    assert total[:7] == ["TOTAL", "2", "0", "0", "0", "0", "2"]
    assert first[:3] == ["else.test", "1", "0"]
    assert first[-2] == "in 1 h"
    assert len(first[-1]) == queue.REASON_WIDTH


def test_queue_by_message(dev_test: CommandLine, queued: Queued) -> None:
    first = queued("bob@else.test")
    queued("ida@third.test")
    (row,) = rows(dev_test, first)
    assert (row["id"], row["recipient"], row["sender"], row["attempts"], row["state"]) == (
        first, "bob@else.test", "anna@dev.test", 0, "due",
    )  # fmt: skip
    assert [row["recipient"] for row in rows(dev_test, "third.test")] == ["ida@third.test"]
    assert [row["id"] for row in rows(dev_test, "bob@else.test")] == [first]
    assert len(rows(dev_test, "--each")) == 2
    assert len(rows(dev_test, "--each", "--limit", "1")) == 1
    assert first in dev_test("queue", "list", "else.test").output


def test_empty_queue_says_so(dev_test: CommandLine) -> None:
    assert "The queue is empty." in dev_test("queue").stderr
    assert "Nobody did anything" in dev_test("queue", "actions").stderr


def test_one_message_in_full(dev_test: CommandLine, queued: Queued) -> None:
    name = queued("bob@else.test")
    defer(dev_test)
    dev_test("queue", "move", name, "--to", "relay.test:2525", "--yes")
    output = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d, [\d.]+ m?s ago", "NOW", dev_test("queue", "show", name).output)
    output = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "THEN", re.sub(r"\b0[0-9A-Z]{12}\b", "ID", output))
    assert output == (
        "message   ID\n"
        "from      anna@dev.test\n"
        "user      -\n"
        f"size      {rows(dev_test, name)[0]['size']} B\n"
        "received  NOW\n"
        "ends      THEN, unless it is held\n"
        "\n"
        "to        bob@else.test\n"
        "delivery  ID\n"
        "state     due\n"
        "tries     1\n"
        "next      now\n"
        "goes to   relay.test:2525\n"
        "reason    451 4.7.1 Too busy for 17\n"
    )
    told = dev_test.json("queue", "show", name)
    assert (told["schema"], told["id"], told["rows"][0]["next_hop"]) == ("queue-message/1", name, "relay.test:2525")
    assert "postroad why" in dev_test("queue", "show", "0ACF4S8VJ5C05", status=1).stderr
    dev_test("queue", "show", "what", status=2)


def test_words_that_mean_nothing(dev_test: CommandLine) -> None:
    dev_test("queue", "drop", status=2)
    assert (
        "neither a queue id nor an address nor a domain" in dev_test("queue", "retry", "what is this", status=2).output
    )
    assert "no age" in dev_test("queue", "hold", "--older", "soon", status=2).output
    assert "no id of a delivery" in dev_test("queue", "hold", "--delivery", "x", status=2).output
    assert "is not host:port" in dev_test("queue", "move", "a.test", "--to", "no host", status=2).output


@pytest.mark.parametrize("text, seconds", [("30s", 30), ("5m", 300), ("4h", 14_400), ("2d", 172_800), ("1 W", 604_800)])
def test_ages(text: str, seconds: int) -> None:
    assert span_us(text) == seconds * 1_000_000


@pytest.mark.parametrize("text", ["", "5", "m", "-1h", "1.5h", "1000000000d"])
def test_no_ages(text: str) -> None:
    with pytest.raises(click.UsageError):
        span_us(text)


# -- retry, hold, release ----------------------------------------------------------------------------------------------


def test_retry_is_asked_for_and_journaled(dev_test: CommandLine, queued: Queued) -> None:
    name = queued("bob@else.test")
    assert dev_test("queue", "retry", name).output == f"1 delivery of {name} will be tried now.\n"
    told = dev_test.json("why", name)["message"]
    assert [event["kind"] for event in told["events"]] == ["received", "signed", "queued", "retried"]
    assert told["events"][-1]["by"] == f"postroad queue, {ME}"
    assert "Nothing waits to nowhere.test." in dev_test("queue", "retry", "nowhere.test", status=1).stderr
    dev_test("queue", "retry", "else.test", status=2)
    dev_test("queue", "retry", "else.test", "--yes")


def test_hold_and_release(dev_test: CommandLine, queued: Queued) -> None:
    name = queued("bob@else.test")
    assert "held." in dev_test("queue", "hold", "else.test", "--why", "look at it", "--yes").output
    (row,) = rows(dev_test, name)
    assert (row["state"], row["next_us"], row["reason"]) == ("held", 0, f"held by {ME}: look at it")
    assert [row["held"] for row in rows(dev_test)] == [1]
    told = dev_test.json("why", name)["message"]
    assert told["state"] == "held"
    assert told["headline"] == f"Held back until somebody releases it. Held by {ME}: look at it."
    assert f"To let it go: postroad queue release {name}" in told["advice"]
    assert "Nothing was changed" in dev_test("queue", "retry", name, status=1).stderr
    assert "released." in dev_test("queue", "release", name).output
    assert kinds(dev_test, name) == ["received", "queued", "held", "released"]
    assert rows(dev_test, name)[0]["state"] == "due"
    assert f"Nothing is held of {name}." in dev_test("queue", "release", name, status=1).stderr


def test_what_the_policy_quarantined_is_shown_released_and_dropped(dev_test: CommandLine, queued: Queued) -> None:
    first, second = queued("bob@else.test"), queued("eva@else.test")
    change(
        dev_test, "UPDATE deliveries SET state = ?, due_us = ?, held = 'looks like a scam', reason = ?, left_us = 77",
        HELD, NEVER_US, reason_number("looks like a scam"),
    )  # fmt: skip
    assert [(row["name"], row["held"]) for row in rows(dev_test, "--by", "reason")] == [("looks like a scam", 2)]
    dev_test("queue", "release", first)
    dev_test("queue", "drop", second, "--yes")
    finish(dev_test)
    assert [row["id"] for row in rows(dev_test, "--each")] == [first]
    assert (kinds(dev_test, first)[-1], kinds(dev_test, second)[-1]) == ("released", "dropped")


# -- drop, move, undo --------------------------------------------------------------------------------------------------


def test_drop_shows_first_and_asks(dev_test: CommandLine, queued: Queued) -> None:
    names = [queued(f"u{number}@else.test") for number in range(7)]
    result = dev_test("queue", "drop", "else.test", status=2)
    assert [line.split("\t")[0] for line in result.stdout.split("\n")[:5]] == names[:5]
    assert "... and 2 more" in result.stdout
    assert "Nothing was changed" in result.stderr
    result = dev_test("queue", "drop", "else.test", "--yes")
    assert result.stdout == "7 deliveries to else.test dropped.\n"
    assert re.search(r"Until \d\d:\d\d:\d\d it can be taken back: postroad queue undo 1\n", result.stderr)
    assert {row["state"] for row in rows(dev_test, "--each")} == {"dropped"}
    assert dev_test.json("why", names[0])["message"]["state"] == "dropped"
    finish(dev_test)
    assert rows(dev_test) == []
    assert dev_test.json("why", names[0])["message"]["state"] == "dropped"
    assert "whole" in dev_test("verify").output


def test_the_question_says_what_will_happen(
    dev_test: CommandLine, queued: Queued, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued("bob@else.test")
    asked: list[str] = []
    monkeypatch.setattr(queue_hands, "confirm", lambda question, yes: asked.append(question))
    for words in (["hold"], ["release"], ["move", "--to", "r.test:25"], ["move", "--to", "dns"], ["fail"], ["drop"]):
        dev_test("queue", words[0], "else.test", *words[1:])
        if words[0] == "fail":
            queued("bob@else.test")
    assert asked == [
        f"Hold 1 delivery to else.test? {queue_hands._HOLD.effect}",
        "Release 1 delivery to else.test? They are tried now, with the lifetime they had left.",
        "Move 1 delivery to else.test? They go to r.test:25, now.",
        "Move 1 delivery to else.test? They go to where DNS and configuration say, now.",
        "Fail 1 delivery to else.test? They end undelivered now, and the senders get a report.",
        "Drop 1 delivery to else.test? They end without an attempt, and the senders get no report.",
    ]


def test_a_drop_is_taken_back(dev_test: CommandLine, queued: Queued) -> None:
    name = queued("bob@else.test")
    dev_test("queue", "drop", name, "--yes")
    assert dev_test("queue", "undo").output == "1 delivery as before.\n"
    assert kinds(dev_test, name) == ["received", "queued", "dropped", "restored"]
    assert dev_test.json("why", name)["message"]["state"] == "due"
    assert rows(dev_test, name)[0]["state"] == "due"
    assert "Nothing can be taken back" in dev_test("queue", "undo", status=1).stderr
    assert "Action 1 is final" in dev_test("queue", "undo", "1", status=1).stderr
    assert "There is no action 9" in dev_test("queue", "undo", "9", status=1).stderr


def test_what_touched_nothing_says_why_and_is_not_what_undo_takes_back(dev_test: CommandLine, queued: Queued) -> None:
    queued("bob@else.test")
    dev_test("queue", "hold", "else.test", "--yes")
    again = dev_test("queue", "hold", "else.test", "--yes", status=1)
    assert "Nothing was changed. They are held already." in again.stderr
    assert dev_test("queue", "undo").output == "1 delivery as before.\n"
    assert "Nothing is held in the queue." in dev_test("queue", "release", "--all", "--yes", status=1).stderr


def test_what_was_dropped_can_be_looked_for_until_it_is_gone(dev_test: CommandLine, queued: Queued) -> None:
    name = queued("bob@else.test")
    queued("eva@else.test")
    dev_test("queue", "drop", name, "--yes")
    assert [row["id"] for row in rows(dev_test, "--state", "dropped")] == [name]
    wrong = dev_test("queue", "list", "--state", "helt", status=2).stderr
    assert "'helt' is not one of 'queued', " in wrong
    assert "is not one of" in dev_test("queue", "hold", "--state", "dropped", status=2).stderr


def test_a_move_remembers_the_old_route(dev_test: CommandLine, queued: Queued) -> None:
    name = queued("bob@else.test")
    dev_test("queue", "move", name, "--to", "first.test", "--yes")
    dev_test("queue", "move", name, "--to", "lmtp:/run/second.sock", "--yes")
    assert rows(dev_test, name)[0]["next_hop"] == "lmtp:/run/second.sock"
    assert [row["name"] for row in rows(dev_test, "--by", "site")] == ["lmtp:/run/second.sock"]
    dev_test("queue", "undo", "2")
    assert rows(dev_test, name)[0]["next_hop"] == "first.test:25"
    dev_test("queue", "move", "--site", "first.test:25", "--to", "dns", "--yes")
    assert rows(dev_test, name)[0]["next_hop"] == ""


def test_every_action_leaves_a_line(dev_test: CommandLine, queued: Queued) -> None:
    queued("bob@else.test")
    dev_test("queue", "hold", "else.test", "--younger", "1h", "--yes")
    dev_test("queue", "release", "--all", "--yes")
    newest, oldest = dev_test.json("queue", "actions")["rows"]
    assert (newest["number"], newest["what"], newest["by"], newest["deliveries"]) == (2, "release", ME, 1)
    assert (oldest["selection"], oldest["detail"]) == ("to else.test, younger than 1h", f"held by {ME}")
    assert dev_test("queue", "actions").output.split("\t")[3] == "release"


def test_what_is_under_way_is_named(dev_test: CommandLine, queued: Queued, monkeypatch: pytest.MonkeyPatch) -> None:
    queued("bob@else.test")
    owner = 4
    change(dev_test, "UPDATE deliveries SET owner = ?, due_us = ?", owner, NEVER_US >> 1)
    assert rows(dev_test, "else.test")[0]["state"] == "trying"
    real = actions._opened

    def opened_while_it_lives(tx: Any, number: int) -> Any:
        tx.live = {owner}
        return real(tx, number)

    monkeypatch.setattr(actions, "_opened", opened_while_it_lives)
    output = dev_test("queue", "hold", "else.test", "--yes").output
    delivery = rows(dev_test, "else.test")[0]["delivery"]
    assert f"Under way at this moment: {delivery}. What is being tried is held if this attempt fails." in output
    result = dev_test("queue", "drop", "else.test", status=2)
    assert "Nothing was changed" in result.stderr


# -- fail --------------------------------------------------------------------------------------------------------------


def test_fail_ends_with_a_report_to_the_sender(dev_test: CommandLine, queued: Queued) -> None:
    name = queued("bob@else.test")
    words = ("queue", "fail", name, "--why", "the company has closed", "--yes")
    assert dev_test(*words).output == f"1 delivery of {name} ended undelivered.\n"
    assert rows(dev_test) == []
    told = dev_test.json("why", name)["message"]
    assert told["state"] == "bounced"
    bounced = next(event for event in told["events"] if event["kind"] == "bounced")
    assert (bounced["by"], bounced["cause"]) == (f"postroad queue, {ME}", "the company has closed")
    assert told["events"][-1]["kind"] == "reported"
    # The sender lives here, so the report is in her mailbox already.
    assert dev_test.json("user", "list")["rows"][0]["messages"] == 1
    (action,) = dev_test.json("queue", "actions")["rows"]
    assert (action["what"], action["deliveries"], action["detail"]) == ("fail", 1, "the company has closed")
    assert "whole" in dev_test("verify").output


# -- amend -------------------------------------------------------------------------------------------------------------


def test_another_sender_and_more_recipients(dev_test: CommandLine, queued: Queued) -> None:
    name = queued("bob@else.test")
    dev_test("queue", "amend", "sender", name, "eva@new.test")
    dev_test("queue", "amend", "recipients", name, "ida@third.test", "anna@dev.test")
    assert [(row["sender"], row["recipient"]) for row in rows(dev_test, name)] == [
        ("eva@new.test", "bob@else.test"),
        ("eva@new.test", "ida@third.test"),
        ("eva@new.test", "anna@dev.test"),
    ]
    assert kinds(dev_test, name)[2:] == ["amended", "amended", "amended"]
    assert dev_test.json("why", "ida@third.test")["matches"] == 1
    assert "takes no mail" in dev_test("queue", "amend", "recipients", name, "no@dev.test", status=67).stderr
    dev_test("queue", "amend", "sender", "0ACF4S8VJ5C05", "a@b.test", status=1)
    dev_test("queue", "amend", "recipients", "0ACF4S8VJ5C05", "a@b.test", status=1)
    dev_test("queue", "amend", "sender", name, "no address", status=2)
    dev_test("queue", "amend", "sender", name, "<>")
    assert rows(dev_test, name)[0]["sender"] == ""


def test_who_is_what_the_kernel_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "somebody")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "anna")
    assert who() == "root (anna)"
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    assert who() == "uid 4000000"
