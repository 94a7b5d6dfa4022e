"""`mailq`, `postqueue` and the -M and -q of sendmail, on a queue of their own."""

from __future__ import annotations

import getpass
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from postroad.console.mailq import block, json_line, queue_name
from postroad.console.sendmail import run
from postroad.console.sendmail_options import FLUSH, QUEUE, QUEUE_JSON, read
from postroad.console.sysexits import USAGE, Failure
from postroad.store.records import DEFERRED, HELD, NEVER_US, QUEUED
from postroad.store.selection import Chosen, first_id
from tests.console.conftest import CommandLine
from tests.console.test_cli_queue import change, defer, kinds

Queued = Callable[[str], str]
Shim = Callable[..., str]

AT = time.mktime((2026, 9, 23, 10, 11, 12, 0, 0, -1))
NOW_US = int(AT * 1e6) + 60_000_000
MESSAGE = first_id(int(AT * 1e6))


def one(recipient: str, reply: str = "", state: int = DEFERRED, due_us: int = NOW_US + 1) -> Chosen:
    held = "held by anna" if state == HELD else ""
    due_us = NEVER_US if state == HELD else due_us
    return Chosen(
        1, MESSAGE, recipient, "x.test", 1, 0, due_us, state, "", held, reply, "anna@ours.test", 4567, ""
    )  # fmt: skip


@pytest.mark.parametrize("flag", ["-p", "-j"])
def test_a_reader_who_has_seen_enough_is_no_bug(dev_test: CommandLine, queued: Queued, flag: str) -> None:
    """`mailq | head -1`: the pipe is closed before all of the queue is written."""
    queued("bob@else.test")
    config = dev_test.data.with_name("postroad.toml")
    config.write_text(f'data_dir = "{dev_test.data}"\n')
    script = "import sys; sys.argv[0] = 'postqueue'; from postroad.console.sendmail import main; sys.exit(main())"
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-c", script, flag, "-c", str(config)]
    ended = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, check=False)
    os.close(write_end)
    assert (ended.returncode, ended.stderr) == (0, b"")


# -- the documented forms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "legs, queue, mark",
    [
        ([one("b@x.test", "451 later")], "deferred", " "),
        ([one("b@x.test", due_us=NOW_US)], "active", "*"),
        ([one("b@x.test"), one("c@x.test", state=QUEUED, due_us=NOW_US)], "active", "*"),
        ([one("b@x.test", state=HELD)], "hold", "!"),
        ([one("b@x.test", state=HELD), one("c@x.test")], "deferred", " "),
    ],
)
def test_the_mark_behind_an_id_says_which_queue_it_is_in(legs: list[Chosen], queue: str, mark: str) -> None:
    """postqueue(1): "*" is the active queue, "!" the hold queue."""
    assert queue_name(legs, NOW_US) == queue
    first = block(legs, NOW_US)[0]
    assert (first[13], first[14:]) == (mark, "      4567  Wed Sep 23 10:11:12  anna@ours.test")


def test_a_message_in_the_traditional_form() -> None:
    assert block([one("b@x.test", "451 later\n451 please"), one("c@x.test")], NOW_US)[1:] == [
        "    (451 later 451 please)",
        "                                               b@x.test",
        "                                               c@x.test",
    ]


def test_a_message_as_json() -> None:
    """postqueue(1), JSON object format: one object a line, times in seconds, a reason only where there is one."""
    told = json.loads(json_line([one("b@x.test", "451 later"), one("c@x.test")], NOW_US))
    assert re.fullmatch("[0-9A-Z]{13}", told.pop("queue_id"))
    assert told == {
        "queue_name": "deferred",
        "arrival_time": int(AT),
        "message_size": 4567,
        "forced_expire": False,
        "sender": "anna@ours.test",
        "recipients": [{"address": "b@x.test", "delay_reason": "451 later"}, {"address": "c@x.test"}],
    }


@pytest.mark.parametrize(
    "words, mode, what",
    [
        ("-p", QUEUE, ""), ("-j", QUEUE_JSON, ""), ("-f", FLUSH, "f"), ("-i 0A", FLUSH, "i0A"), ("-i0A", FLUSH, "i0A"),
        ("-v -s x.test", FLUSH, "sx.test"), ("-c /x -p", QUEUE, ""), ("-c/x -p", QUEUE, ""),
    ],
)  # fmt: skip
def test_options_of_postqueue(words: str, mode: str, what: str) -> None:
    call = read("postqueue", words.split())
    assert (call.mode, call.what, call.config) == (mode, what, "/x" if "/x" in words else "")


@pytest.mark.parametrize("words", ["", "-x", "-p -j", "-i", "-s", "-pj", "x", "-c", "--", "-"])
def test_what_postqueue_does_not_know(words: str) -> None:
    with pytest.raises(Failure) as failure:
        read("postqueue", words.split())
    assert failure.value.status == USAGE


# -- doing it ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shim(dev_test: CommandLine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shim:
    """Runs the program under a name on the store of `dev_test`; returns what it printed."""
    file = dev_test.data.parent / "postroad.toml"
    file.write_text(f'data_dir = "{dev_test.data}"\n[local]\nmaildrop = "{dev_test.data.parent}/none"\n')
    monkeypatch.setenv("POSTROAD_CONFIG", str(file))

    def call(name: str, *words: str, status: int = 0) -> str:
        capfd.readouterr()
        try:
            got, said = run(name, list(words), io.BytesIO()), ""
        except Failure as failure:
            got, said = failure.status, failure.text
        assert got == status, said
        return said or capfd.readouterr().out

    return call


def test_the_queue_under_every_name(dev_test: CommandLine, shim: Shim, queued: Queued) -> None:
    assert shim("mailq") == shim("sendmail", "-bp") == shim("postqueue", "-p") == "Mail queue is empty\n"
    assert shim("postqueue", "-j") == ""
    names = [queued("bob@else.test"), queued("ida@third.test")]
    defer(dev_test)
    listing = shim("mailq")
    assert listing == shim("postqueue", "-p")
    assert [line.split()[0] for line in listing.split("\n") if "anna@dev.test" in line] == names
    assert re.search(r"\n-- \d+ Kbytes in 2 Requests\.\n$", listing)
    assert [json.loads(line)["queue_id"] for line in shim("postqueue", "-j").rstrip().split("\n")] == names


def test_flushing_all_one_message_or_one_site(dev_test: CommandLine, shim: Shim, queued: Queued) -> None:
    first, second = queued("bob@else.test"), queued("ida@third.test")

    def due(*words: str) -> list[str]:
        defer(dev_test)
        shim(*words)
        return [row["id"] for row in dev_test.json("queue", "list", "--state", "due")["rows"]]

    assert due("postqueue", "-f") == due("sendmail", "-q") == [first, second]
    assert due("postqueue", "-i", first) == due("sendmail", f"-qI{first}") == due("sendmail", "-M", first) == [first]
    assert due("postqueue", "-s", "third.test") == due("sendmail", "-qRthird.test") == [second]
    assert due("sendmail", "-Mc", second) == [second]
    assert shim("postqueue", "-s", "nowhere.test") == ""
    shim("postqueue", "-i", "0ACF4S8VJ5C05", status=1)


def test_freezing_thawing_and_removing(dev_test: CommandLine, shim: Shim, queued: Queued) -> None:
    names = [queued("bob@else.test"), queued("ida@third.test")]
    shim("sendmail", "-Mf", *names)
    assert [line.split()[0] for line in shim("mailq").split("\n") if "anna@" in line] == [f"{name}!" for name in names]
    shim("sendmail", "-Mt", names[0])
    assert f"{names[0]}*" in shim("mailq")
    shim("sendmail", "-Mrm", names[0])
    shim("sendmail", "-Mmad", names[1])
    assert shim("mailq") == "Mail queue is empty\n"
    assert [kinds(dev_test, name)[-1] for name in names] == ["dropped", "dropped"]
    shim("sendmail", "-Mrm", names[0], status=1)


def test_giving_up_makes_a_report(dev_test: CommandLine, shim: Shim, queued: Queued) -> None:
    name = queued("bob@else.test")
    shim("sendmail", "-Mg", name)
    assert dev_test.json("why", name)["message"]["state"] == "bounced"
    assert kinds(dev_test, name)[-1] == "reported"


def test_looking_at_a_message(dev_test: CommandLine, shim: Shim, queued: Queued) -> None:
    name = queued("bob@else.test")
    header, body = shim("sendmail", "-Mvh", name), shim("sendmail", "-Mvb", name)
    assert header.startswith("Received: ")
    assert "\nSubject: Hi\n" in header
    assert "\r" not in header + body
    assert body == "Ho\n"
    assert shim("sendmail", "-Mvc", name) == header + body
    assert f"Message {name}" in shim("sendmail", "-Mvl", name)
    for letters in ("vh", "vb", "vc", "vl"):
        shim("sendmail", f"-M{letters}", "0ACF4S8VJ5C05", status=1)
    shim("sendmail", "-Mvh", "nonsense", status=1)


def test_changing_the_envelope(dev_test: CommandLine, shim: Shim, queued: Queued) -> None:
    name = queued("bob@else.test")
    shim("sendmail", "-Mes", name, "eva@new.test")
    shim("sendmail", "-Mar", name, "ida@third.test", "uwe@third.test")
    shim("sendmail", "-Mmd", name, "bob@else.test", "uwe@third.test")
    (row,) = dev_test.json("queue", "list", "--each", "--state", "due")["rows"]
    assert (row["sender"], row["recipient"]) == ("eva@new.test", "ida@third.test")
    shim("sendmail", "-Mes", name, status=64)
    shim("sendmail", "-Mes", name, "a@b.test", "c@d.test", status=64)
    shim("sendmail", "-Mar", name, "no@dev.test", status=67)
    shim("sendmail", "-Mmd", name, "nobody@here.test", status=1)


def test_the_one_who_froze_it_is_named(dev_test: CommandLine, shim: Shim, queued: Queued) -> None:
    name = queued("bob@else.test")
    shim("sendmail", "-Mf", name)
    (row,) = dev_test.json("queue", "list", name)["rows"]
    assert row["reason"] == f"held by {getpass.getuser()}"


def test_a_store_that_is_not_there(dev_test: CommandLine, shim: Shim) -> None:
    change(dev_test, "DELETE FROM deliveries")
    for file in dev_test.data.glob("postroad.db*"):
        file.unlink()
    words: list[tuple[Any, ...]] = [("mailq",), ("postqueue", "-j"), ("sendmail", "-Mvh", "0ACF4S8VJ5C05")]
    for call in words:
        shim(*call, status=69)
