"""`postroad shaping`: which hosts take no mail for a while, and lifting that."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from postroad.store.opening import OpenStore
from postroad.store.suspensions import Slowdown, Suspension, note_slowdown, note_suspension
from postroad.store.units import UNITS
from postroad.store.writer import OK, Call
from tests.console.conftest import CommandLine

HOUR_US = 3_600_000_000
BLOCKED = "google: blocked: a list"
Queued = Callable[[str], str]


def suspend(run: CommandLine, site: str, *domains: str, cause: str = BLOCKED, own: bool = False) -> int:
    """Notes a suspension of an hour, as a worker does; returns its end."""
    until_us = time.time_ns() // 1000 + HOUR_US
    store = OpenStore(run.data)
    args = Suspension(site, list(domains), until_us, cause, by_source=own)
    [result] = store.writer.run([Call(UNITS[note_suspension.__name__], args)])
    assert result.status == OK
    store.close()
    return until_us


@pytest.fixture
def put_off(dev_test: CommandLine, queued: Queued) -> CommandLine:
    """A message to far.test waits for the end of a suspension of its hosts."""
    queued("bob@far.test")
    until_us = suspend(dev_test, "192.0.2.10>google", "far.test", "else.test")
    store = OpenStore(dev_test.data)
    store.connection.execute("UPDATE deliveries SET state = 2, due_us = ?", (until_us,))
    store.connection.execute("INSERT INTO sites (domain, site, seen_us) VALUES ('far.test', 'google', 0)", ())
    store.close()
    return dev_test


def test_what_is_suspended_is_listed_with_its_end_and_its_mail(put_off: CommandLine) -> None:
    [row] = put_off.json("shaping", "list")["rows"]
    until_us = row.pop("until_us")
    assert abs(until_us - time.time_ns() // 1000 - HOUR_US) < 60_000_000
    assert row == {
        "site": "google", "source": ["192.0.2.10"], "state": "suspended", "cause": BLOCKED, "domains": 2, "waiting": 1,
        "from_another_address": False,
    }  # fmt: skip
    assert BLOCKED in put_off("shaping").stdout


def test_that_another_source_address_helps_out_is_said(dev_test: CommandLine) -> None:
    suspend(dev_test, "192.0.2.10>google", "far.test", own=True)
    assert "another address" in dev_test("shaping").stdout


def test_what_is_slowed_is_listed_and_ends_by_itself(put_off: CommandLine) -> None:
    store = OpenStore(put_off.data)
    args = Slowdown("google", time.time_ns() // 1000 + HOUR_US, "google: busy")
    [result] = store.writer.run([Call(UNITS[note_slowdown.__name__], args)])
    assert result.status == OK
    store.close()
    row = put_off.json("shaping", "list")["rows"][-1]
    assert (row["site"], row["source"], row["state"], row["waiting"]) == ("google", [], "slowed", 1)
    put_off("shaping", "lift", "google")
    assert "only slower" in put_off("shaping", "lift", "google", status=1).stderr


def test_a_long_cause_is_whole_for_programs(dev_test: CommandLine) -> None:
    cause = "google: blocked: " + "a list of many words " * 8 + "end"
    suspend(dev_test, "google", "far.test", cause=cause)
    assert cause in dev_test("shaping").stdout


def test_nothing_is_suspended(dev_test: CommandLine) -> None:
    assert "Every site takes mail" in dev_test("shaping").stderr
    assert "Nothing keeps mail from google." in dev_test("shaping", "lift", "google", status=1).stderr


def test_a_retry_says_what_it_cannot_hasten(put_off: CommandLine, queued: Queued) -> None:
    told = put_off("queue", "retry", "far.test", "--yes")
    assert "Nothing goes to google from 192.0.2.10 until " in told.stderr
    assert "postroad shaping lift google" in told.stderr
    queued("bob@near.test")
    assert put_off("queue", "retry", "near.test", "--yes").stderr == ""
    put_off("shaping", "lift", "google")
    assert put_off("queue", "retry", "far.test", "--yes").stderr == ""


def test_a_lift_opens_the_site_and_what_waits_is_tried_now(put_off: CommandLine) -> None:
    said = put_off("shaping", "lift", "google").stdout
    assert "Mail goes to google from 192.0.2.10 again (it was to wait until " in said
    assert "1 delivery to site google will be tried now" in said
    assert put_off.json("shaping", "list")["rows"] == []
    [delivery] = put_off.json("queue", "list", "--each")["rows"]
    assert delivery["state"] == "due"
    actions = put_off.json("queue", "actions")["rows"]
    assert [(one["what"], one["selection"]) for one in actions] == [
        ("retry", "to site google"),
        ("lift", "suspension of 192.0.2.10>google"),
    ]


def test_one_of_several_source_addresses(dev_test: CommandLine) -> None:
    for source in ("192.0.2.10", "192.0.2.11"):
        suspend(dev_test, f"{source}>google", "far.test")
    assert "from 192.0.2.9" in dev_test("shaping", "lift", "google", "--source", "192.0.2.9", status=1).stderr
    dev_test("shaping", "lift", "google", "--source", "192.0.2.11")
    assert [row["source"] for row in dev_test.json("shaping", "list")["rows"]] == [["192.0.2.10"]]
    dev_test("shaping", "lift", "google")
    assert dev_test.json("shaping", "list")["rows"] == []


def test_words_of_a_host_cannot_move_the_cursor(dev_test: CommandLine) -> None:
    suspend(dev_test, "google", "far.test", cause="x: \x1b[2J")
    # What a sequence leaves when only its beginning is taken out: in a pipe the library would drop all of it.
    assert "x: ?[2J" in dev_test("shaping").stdout


def test_try_tells_of_it(put_off: CommandLine) -> None:
    suspend(put_off, "127.0.0.1:9", "far.test", cause="everybody: wait: too much")
    file = put_off.data.parent / "postroad.toml"
    file.write_text(f'hostname = "mail.ours.test"\ndata_dir = "{put_off.data}"\n[relay]\nnext_hop = "127.0.0.1:9"\n')
    said = put_off("try", "--config", str(file), "bob@far.test").stdout
    assert "127.0.0.1:9 takes nothing until then (everybody: wait: too much)" in said
