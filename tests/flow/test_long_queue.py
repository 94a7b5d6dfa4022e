"""Promise P16 in small: ten thousand messages wait for a hundred domains; a restart, a domain that comes back, mail
that passes them, and some thrown away by what they have in common. `bench/million.py` has the figures of a million."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from postroad.flow.route import read_signposts
from postroad.store.actions import DROP, RETRY, Act, ActionBegin, Finishing, act, action_begin
from postroad.store.queue import accept
from postroad.store.selection import Selection, pages
from postroad.store.units import UNITS
from postroad.store.writer import OK, Call
from tests.fakes.smtp_server import FakeSmtp
from tests.flow.yard import ME, Yard, until

MESSAGES = 10_000
DOMAINS = 100
EACH = MESSAGES // DOMAINS
HOUR_US = 3_600_000_000

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    """Everything was tried once and is due in an hour; the worker has just been started, and knows nothing of it."""
    made = Yard(tmp_path, delays_s=(3600.0,))
    now_us = made.clock.wall_us()
    calls = []
    for n in range(MESSAGES):
        message = made.compose(f"b{n}@d{n % DOMAINS}.test", sender=f"a@{'even' if n % 2 == 0 else 'odd'}.test")
        legs = [replace(leg, owner=0, due_us=now_us + HOUR_US + n) for leg in message.legs]
        calls.append(Call(UNITS[accept.__name__], replace(message, legs=legs), ME))
    for start in range(0, MESSAGES, 500):
        assert all(result.status == OK for result in made.store.writer.run(calls[start : start + 500]))
    made.store.rows("UPDATE deliveries SET attempts = 1, state = 1, last_reply = '451 4.4.1 no answer'")
    made.runner.start()
    yield made
    await made.runner.drain(0.0)
    made.store.connection.close()


def waiting(yard: Yard) -> int:
    return int(yard.store.rows("SELECT count(*) FROM deliveries")[0][0])


def do(yard: Yard, what: str, selection: Selection) -> int:
    """Does something to all that is selected, in pages as the command line does; returns to how many."""
    reader: Any = SimpleNamespace(rows_now=lambda sql, params=(): yard.store.connection.execute(sql, params))
    now_us = yard.clock.wall_us()
    chosen = [[one.id for one in page] for page in pages(reader, selection, now_us)]
    number = yard.store.run(action_begin, ActionBegin(what, "anna", "by hand"))
    done: int = sum(yard.store.run(act, Act(number, page)).touched for page in chosen)
    yard.runner.wake()
    return done


async def test_promise_p16_a_domain_that_comes_back_gets_all_its_mail_and_the_rest_stays(yard: Yard) -> None:
    async with FakeSmtp() as host:
        yard.host("d7.test", host)
        assert do(yard, RETRY, Selection(domain="d7.test")) == EACH
        await until(lambda: len(host.messages) == EACH, 20.0)
        await yard.settled()
        assert {recipient.rpartition("@")[2] for recipient in host.recipients} == {"d7.test"}
        assert len(set(host.recipients)) == EACH
        assert waiting(yard) == MESSAGES - EACH
        # Nothing that is not due was read: only what was asked for has been in this worker's hands.
        assert yard.store.rows("SELECT count(*) FROM deliveries WHERE attempts <> 1 OR owner <> 0") == [(0,)]


async def test_promise_p16_fresh_mail_passes_a_long_queue(yard: Yard) -> None:
    async with FakeSmtp() as host:
        yard.host("fresh.test", host)
        for n in range(50):
            yard.send(f"c{n}@fresh.test")
        await until(lambda: len(host.messages) == 50)
        assert waiting(yard) >= MESSAGES


async def test_promise_p16_all_of_it_leaves_when_it_is_due_and_every_message_once(yard: Yard) -> None:
    async with FakeSmtp() as host:
        yard.dns.address_records |= {f"d{n}.test": ["127.0.0.1"] for n in range(DOMAINS)}
        yard.runner._signposts = read_signposts(port=host.port, allow_private=["127.0.0.0/8"])
        yard.clock.advance(3600.0 + 1.0)
        yard.runner.wake()
        await until(lambda: len(host.messages) >= MESSAGES, 50.0)
        await yard.settled()
        assert waiting(yard) == 0
        assert len(host.recipients) == len(set(host.recipients)) == MESSAGES


async def test_promise_p16_mail_is_thrown_away_by_what_it_has_in_common(yard: Yard) -> None:
    assert do(yard, DROP, Selection(sender="@odd.test")) == MESSAGES // 2
    yard.clock.advance(61.0)
    finishing = Finishing(yard.store.writer)
    for _ in range(2 * MESSAGES // 500):
        finishing.step(yard.clock.monotonic())
    assert waiting(yard) == MESSAGES // 2
    assert yard.store.rows("SELECT count(*) FROM messages WHERE sender = 'a@odd.test'") == [(0,)]
    assert yard.reports() == []
