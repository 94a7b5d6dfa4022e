"""A whole outbound side for a test: real runner, store units on SQLite and connections; time and DNS are fakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from postroad.flow.journal import Journal
from postroad.flow.local import Plan as LocalPlan
from postroad.flow.meters import Meters
from postroad.flow.outbound import Manner
from postroad.flow.route import read_signposts
from postroad.flow.runner import Runner
from postroad.store.clock_steps import KeptWaits
from postroad.store.directory import Directory
from postroad.store.engine import Params, Row
from postroad.store.migrate import migrate
from postroad.store.queue import accept
from postroad.store.reader import StoredMessage
from postroad.store.records import HELD, Accept, Leg, Recorded
from postroad.store.sqlite import SqliteConnection
from postroad.store.units import UNITS, load_units
from postroad.store.writer import OK, Call, Writer
from postroad.values.address import Address
from postroad.values.envelope import Recipient
from postroad.values.event import Event, pack, unpack
from postroad.values.ids import IdMaker
from tests.fakes.clock import FakeClock
from tests.fakes.lookup import FAILED, FakeLookup
from tests.fakes.smtp_server import FakeSmtp

load_units()

ME = 7
"""Our incarnation."""

DAY_US = 86_400_000_000
DELAYS = (2.0, 300.0, 3600.0)


class DirectStore:
    """The store's units run at once in this process; `calls` counts them, `fail` makes the next ones raise."""

    incarnation = ME

    def __init__(self, path: Path, clock: FakeClock) -> None:
        self.clock = clock
        self.connection = SqliteConnection(path)
        migrate(self.connection, clock.wall_us())
        self.writer = Writer(self.connection, remove_body=lambda name: None, clock=clock)
        self.writer.live.add(ME)
        self.waits = KeptWaits(self.writer)
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.calls: list[str] = []
        self.recorded: list[Recorded] = []
        self.fail: list[Exception] = []
        self.slow: asyncio.Event | None = None
        """While set and not released, `record` waits."""

    async def call(self, unit: Callable[..., Any], args: Any) -> Any:
        await asyncio.sleep(0)
        self.calls.append(unit.__name__)
        if isinstance(args, Recorded):
            self.recorded.append(args)
        if self.slow is not None and unit.__name__ == "record":
            await self.slow.wait()
        if self.fail:
            raise self.fail.pop(0)
        return self.run(unit, args)

    def run(self, unit: Callable[..., Any], args: Any, owner: int = ME) -> Any:
        [result] = self.writer.run([Call(UNITS[unit.__name__], args, owner)])
        assert result.status == OK, result
        if self.waits.due <= self.clock.monotonic():
            # As the store process does between its batches.
            self.waits.step(self.clock.monotonic())
        return result.value

    def rows(self, sql: str, *params: Any) -> list[Any]:
        return self.connection.execute(sql, params)

    async def message(self, ident: int) -> StoredMessage | None:
        rows = self.rows(
            "SELECT header, body, body_file, size, received_us, sender, eightbit, smtputf8 FROM messages WHERE id = ?",
            ident,
        )
        return StoredMessage(*rows[0]) if rows else None

    async def changed_by_hand(self, deliveries: Sequence[int]) -> list[tuple[int, bool, str]]:
        marks = ", ".join("?" * len(deliveries))
        rows = self.rows(f"SELECT id, state, next_hop FROM deliveries WHERE id IN ({marks})", *deliveries)
        return [(ident, state >= HELD, next_hop) for ident, state, next_hop in rows]


class Reads:
    """The port of a worker's reads, on the store's own connection between its transactions."""

    def __init__(self, store: DirectStore) -> None:
        self.connection = store.connection
        self.message = store.message
        self.changed_by_hand = store.changed_by_hand

    async def rows(self, sql: str, params: Params = ()) -> list[Row]:
        """The rows of one SELECT."""
        return self.connection.execute(sql, params)


class FileBodies:
    """Body files of a folder, read in small pieces."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fail: Exception | None = None

    async def read(self, body_file: str) -> AsyncIterator[bytes]:
        with open(self.folder / body_file, "rb") as file:
            while piece := file.read(100_000):
                if self.fail is not None:
                    raise self.fail
                yield piece


class Yard:
    """Everything, by name. `dns` holds the zones; `host` adds a server to them."""

    def __init__(self, folder: Path, *, clock: FakeClock | None = None, **changes: Any) -> None:
        self.clock = clock or FakeClock()
        self.store = DirectStore(folder / "postroad.db", self.clock)
        self.bodies = FileBodies(folder)
        self.directory = Directory(Reads(self.store))
        # Where reports go cannot be looked up for now, so they stay where a test can see them.
        self.dns = FakeLookup({"ours.test": FAILED})
        self.ids = IdMaker(ME)
        self.story = Journal(Meters.private())
        self.plans: dict[str, LocalPlan] = {}
        """Where reports to a sender go; without an entry the sender is on another host."""
        settings: dict[str, Any] = {
            "signposts": read_signposts(allow_private=["127.0.0.0/8"], own_names=["mail.ours.test"]),
            "manner": Manner(ehlo_name="mail.ours.test", tls=None, connect_timeout_s=5.0, patience_s=5.0),
            "delays_s": DELAYS,
        }
        self.runner = Runner(
            store=self.store,
            letters=self.store,
            bodies=self.bodies,
            note=self.story.note,
            ids=self.ids,
            clock=self.clock,
            plan_for=self.plan_for,
            lookup=self.dns,
            next_hop_of=self.directory.next_hop,
            hostname="mail.ours.test",
            lifetime_s=5 * 86_400.0,
            rng=Random(1),
            **(settings | changes),
        )

    async def plan_for(self, address: Address) -> LocalPlan:
        return self.plans.get(str(address)) or LocalPlan(remotes=[address])

    def host(self, domain: str, server: FakeSmtp) -> None:
        """Makes a server the fixed next hop of a domain; hosts of one domain by MX share a port and need no route."""
        routes = {name: str(hop) for name, hop in self.runner._signposts.routes.items() if hop}
        routes[domain] = f"127.0.0.1:{server.port}"
        self.runner._signposts = read_signposts(allow_private=["127.0.0.0/8"], routes=routes)

    def compose(self, *recipients: str | Recipient, **changes: Any) -> Accept:
        """A message born with a leg for each recipient, owned by us."""
        now = self.clock.wall_us()
        ident = self.ids.make(now)
        header, body = b"Subject: hello\r\nFrom: a@ours.test\r\n\r\n", b"Good day.\r\n..dots\r\n"
        legs = []
        for recipient in recipients:
            one = recipient if isinstance(recipient, Recipient) else Recipient(Address.parse(recipient, utf8=True))
            legs.append(
                Leg(
                    self.ids.make(now),
                    str(one.address),
                    one.address.domain_ascii,
                    due_us=now + int(DELAYS[0] * 1e6),
                    owner=ME,
                    notify=one.notify,
                    orcpt=one.orcpt,
                )
            )
        fields: dict[str, Any] = {
            "id": ident,
            "received_us": now,
            "sender": "a@ours.test",
            "header": header,
            "body": body,
            "body_file": "",
            "copies": [],
            "legs": legs,
            "expires_us": now + 5 * DAY_US,
            "keys": "",
            "events": pack([Event(kind="received", at_us=now)]),
        }
        fields |= changes
        fields.setdefault("size", len(fields["header"]) + len(fields["body"] or b""))
        return Accept(**fields)

    def send(self, *recipients: str | Recipient, **changes: Any) -> Accept:
        """Accepts a message and hands it to the runner, as the intake does."""
        message = self.compose(*recipients, **changes)
        self.admit(message)
        return message

    def admit(self, message: Accept) -> None:
        """Accepts a message that was composed before."""
        self.store.run(accept, message)
        self.runner.enqueue_fresh(message)

    def open(self) -> list[tuple[str, int, str]]:
        """Open deliveries: recipient, owner, last reply."""
        return self.store.rows("SELECT recipient, owner, last_reply FROM deliveries ORDER BY id")

    def events(self, message: int) -> list[Event]:
        """The journal of a message behind its acceptance."""
        rows = self.store.rows("SELECT events FROM journal WHERE message = ? ORDER BY position", message)
        return [event for (packed,) in rows for event in unpack(packed)][1:]

    def kinds(self, message: int) -> list[str]:
        return [event.kind for event in self.events(message)]

    def reports(self) -> list[bytes]:
        """Reports in the queue."""
        return [h + b for h, b in self.store.rows("SELECT header, body FROM messages WHERE sender = '' ORDER BY id")]

    async def settled(self) -> None:
        """Waits until the runner holds nothing any more."""
        await until(lambda: self.runner.in_flight == 0)

    async def later(self, seconds: float) -> None:
        """Lets time go by, has the queue looked at, and waits until what was due is settled."""
        self.clock.advance(seconds)
        before = self.store.calls.count("claim")
        self.runner.wake()
        await until(lambda: self.store.calls.count("claim") > before)
        await self.settled()


async def until(true: Callable[[], object], seconds: float = 5.0) -> None:
    """Waits for something to become true, and fails when it does not."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.001)


def only(found: Sequence[Any]) -> Any:
    """The one element of a list."""
    [one] = found
    return one
