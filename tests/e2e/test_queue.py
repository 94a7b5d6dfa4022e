"""The queue of a running server by hand: held, moved, failed and dropped while workers send.

Nothing that was accepted goes away without somebody having said so, and nothing arrives twice.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from postroad.store.access import open_store
from postroad.store.actions import DROP, Act, ActionBegin, act, action_begin
from postroad.store.opening import OpenStore
from postroad.store.reader import Reader
from postroad.store.selection import Selection, pages
from tests.e2e.conftest import Loop, Office, with_certificate
from tests.e2e.mail import arrived, messages, until
from tests.fakes.smtp_server import FakeSmtp
from tests.live import LiveServer, live_server

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

ANNA = "anna@local.test"
MANY = 1200


@pytest.fixture(scope="module")
def busy(loop: Loop) -> Iterator[FakeSmtp]:
    """A host that says not now to every recipient."""
    made = FakeSmtp(RCPT="451 4.7.1 Too busy for you")
    loop.run(made.start())
    yield made
    loop.run(made.close())


@pytest.fixture
def fine(loop: Loop) -> Iterator[FakeSmtp]:
    """A host that takes everything, another one for each test."""
    made = FakeSmtp()
    loop.run(made.start())
    yield made
    loop.run(made.close())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, busy: FakeSmtp) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("queue")
    policy = folder / "policy.py"
    policy.write_text(
        "from postroad.rules.policy import quarantine\n\n\n"
        "def message(m):\n"
        '    return [quarantine("looks like a scam")] if "scam" in m.subject else None\n'
    )
    config = (
        f'{with_certificate(folder)}\n[relay]\nroutes = {{ "busy.test" = "127.0.0.1:{busy.port}" }}\n'
        f'[policy]\nfile = "{policy}"\n'
    )
    with live_server(folder, kind=Office, workers=2, config=config) as made:
        yield made


def rows(server: LiveServer, *words: str) -> list[Any]:
    found: list[Any] = json.loads(server.run("queue", "list", *words, "--json"))["rows"]
    return found


def states(server: LiveServer, ident: str) -> list[str]:
    return [row["state"] for row in rows(server, ident)]


def kinds(server: LiveServer, ident: str) -> list[str]:
    events = json.loads(server.run("why", ident, "--json"))["message"]["events"]
    return [event["kind"] for event in events if event["kind"] != "signed"]


def put(server: LiveServer, *recipients: str) -> str:
    words = [word for recipient in recipients for word in ("--to", recipient)]
    written = ("--subject", "Hi", "--body", "Ho", "--json")
    return str(json.loads(server.run("send", "--direct", "--from", ANNA, *words, *written))["id"])


def deferred(server: LiveServer, *recipients: str) -> str:
    """A message whose first attempts have failed."""
    ident = put(server, *recipients)
    until(lambda: set(states(server, ident)) == {"deferred"})
    return ident


def quarantined(server: LiveServer, subject: str) -> str:
    """A message from the world that the policy quarantines; it is answered with 250."""
    with server.smtp() as client:
        client.mail("x@else.test")
        client.rcpt(ANNA)
        code, said = client.data(f"Subject: {subject} scam\r\n\r\nhi\r\n".encode())
    assert code == 250
    found = re.search(rb"[0-9A-Z]{13}", said)
    assert found is not None
    return found[0].decode()


# -- the policy's quarantine -------------------------------------------------------------------------------------------


def test_quarantined_mail_is_acknowledged_held_and_released_or_dropped_by_hand(server: LiveServer) -> None:
    before = len(messages(server, ANNA))
    first, second = quarantined(server, "first"), quarantined(server, "second")
    assert len(messages(server, ANNA)) == before
    for ident in (first, second):
        (row,) = rows(server, ident)
        assert (row["state"], row["reason"], row["recipient"]) == ("held", "looks like a scam", ANNA)
    assert [(row["name"], row["held"]) for row in rows(server, "--by", "reason")] == [("looks like a scam", 2)]
    server.run("queue", "release", first)
    assert b"Subject: first scam" in arrived(server, ANNA, before + 1)[-1]
    server.run("queue", "drop", second, "--yes")
    assert len(messages(server, ANNA)) == before + 1
    assert kinds(server, first) == ["received", "held", "released", "delivered"]
    assert kinds(server, second) == ["received", "held", "dropped"]


# -- a host that is busy -----------------------------------------------------------------------------------------------


def test_held_moved_and_released_it_arrives_once_at_the_other_host(
    server: LiveServer, busy: FakeSmtp, fine: FakeSmtp
) -> None:
    ident = deferred(server, "one@busy.test", "two@busy.test")
    site = f"127.0.0.1:{busy.port}"
    until(lambda: site in [row["name"] for row in rows(server, "--by", "site")])
    assert "451 4.7.1 Too busy for you" in [row["name"] for row in rows(server, "--by", "reason")]
    server.run("queue", "hold", "--site", site, "--yes")
    assert states(server, ident) == ["held", "held"]
    server.run("queue", "move", ident, "--to", f"127.0.0.1:{fine.port}", "--yes")
    assert states(server, ident) == ["held", "held"]
    server.run("queue", "release", ident)
    until(lambda: not rows(server, ident))
    assert sorted(fine.recipients) == ["one@busy.test", "two@busy.test"]
    assert kinds(server, ident)[-2:] == ["delivered", "delivered"]


def test_what_was_failed_comes_back_to_its_sender(server: LiveServer) -> None:
    before = len(messages(server, ANNA))
    ident = deferred(server, "gone@busy.test")
    server.run("queue", "fail", ident, "--why", "the company has closed", "--yes")
    report = arrived(server, ANNA, before + 1)[-1]
    assert b"the company has closed" in report
    assert b"Status: 5.3.0" in report
    assert rows(server, ident) == []


def test_what_is_under_way_is_named_and_ends_as_its_host_says(server: LiveServer, loop: Loop, fine: FakeSmtp) -> None:
    async def close_the_gate() -> asyncio.Event:
        fine.hold = asyncio.Event()
        return fine.hold

    gate = loop.run(close_the_gate())
    ident = deferred(server, "slow@busy.test")
    server.run("queue", "move", ident, "--to", f"127.0.0.1:{fine.port}", "--yes")
    until(lambda: any("DATA" in line for line in fine.commands))
    assert states(server, ident) == ["trying"]
    output = server.run("queue", "drop", ident, "--yes")
    delivery = rows(server, ident)[0]["delivery"]
    assert f"Under way at this moment: {delivery}. What is being tried is dropped if this attempt fails." in output

    async def open_the_gate() -> None:
        gate.set()

    loop.run(open_the_gate())
    until(lambda: not rows(server, ident))
    assert fine.recipients == ["slow@busy.test"]
    assert kinds(server, ident)[-2:] == ["dropped", "delivered"]


# -- a large drop ------------------------------------------------------------------------------------------------------


def test_a_large_drop_that_a_crash_cuts_off_is_finished_for_what_it_reached(server: LiveServer) -> None:
    for at in range(0, MANY, 200):
        put(server, *(f"user{number}@busy.test" for number in range(at, at + 200)))
    until(lambda: counted(server) == {"deferred": MANY})
    ids = waiting(server)
    with open_store(server.data_dir) as store:
        number = store.call(action_begin, ActionBegin(DROP, "anna", "to busy.test"))
        store.call(act, Act(number, ids[:500]))
    server.kill_group()
    # The minute goes by while nobody runs.
    down = OpenStore(server.data_dir)
    down.connection.execute("UPDATE queue_actions SET until_us = 1 WHERE number = ?", (number,))
    down.close()
    server.start()
    until(lambda: len(waiting(server)) == MANY - 500)
    assert waiting(server) == ids[500:]
    server.run("queue", "drop", "busy.test", "--yes")
    assert counted(server) == {"dropped": MANY - 500}
    assert server.run("queue", "undo") == f"{MANY - 500} deliveries as before.\n"
    assert set(counted(server)) <= {"deferred", "due", "trying"}
    assert sum(counted(server).values()) == MANY - 500
    server.run("queue", "drop", "busy.test", "--yes")
    assert "whole" in server.run("verify")


def counted(server: LiveServer) -> dict[str, int]:
    """How many deliveries to busy.test are in which state."""
    found: dict[str, int] = {}
    for row in rows(server, "busy.test", "--limit", str(10 * MANY)):
        found[row["state"]] = found.get(row["state"], 0) + 1
    return found


def waiting(server: LiveServer) -> list[int]:
    """Ids of all open deliveries to busy.test, dropped ones too."""
    reader = Reader(server.data_dir)
    selection = Selection(domain="busy.test", dropped=True)
    ids = [one.id for page in pages(reader, selection, 1 << 60) for one in page]
    reader.close()
    return ids
