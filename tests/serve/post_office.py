"""SMTP sessions over an in-process store: the real session, planner, intake and units; only the runner is a list."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from postroad.app.gates import make_gates
from postroad.flow.intake import Intake
from postroad.flow.journal import Journal
from postroad.flow.local import Planner
from postroad.flow.meters import Meters
from postroad.flow.sign import Signer
from postroad.flow.submission import Submissions
from postroad.net.tls import ServerTls, ensure_self_signed
from postroad.rules.ports import Ports
from postroad.serve.conversation import Conversation
from postroad.serve.counters import SessionCounters
from postroad.serve.doors import smtp_sessions
from postroad.serve.refusals import Refusals
from postroad.serve.smtp_service import Service
from postroad.store.dkim_reads import DkimKeys
from postroad.store.records import Accept, Allowed, Refusal
from postroad.values.clock import SystemClock
from postroad.values.event import Event, unpack
from postroad.values.ids import IdMaker
from postroad.values.reply import Reply
from postroad.wire.smtp.limits import MachineLimits
from tests.serve.harness import ANNA, House, KnownLogins, Peer


class ListRunner:
    """A runner that keeps what it is given."""

    def __init__(self) -> None:
        self.fresh: list[Accept] = []
        self.room = True

    def room_for(self, legs: int, size: int, user: str = "") -> bool:
        return self.room

    def enqueue_fresh(self, accepted: Accept) -> None:
        self.fresh.append(accepted)


class StoreDoor:
    """The store as a worker's client shows it, without a socket."""

    incarnation = 7

    def __init__(self, house: House) -> None:
        self._house = house
        self.refusals: list[Refusal] = []
        self.fail: Exception | None = None

    async def call(self, unit: Any, args: Any) -> Any:
        if self.fail is not None:
            raise self.fail
        return self._house.store.run(unit, args, owner=self.incarnation)

    def post(self, name: str, args: Any) -> None:
        assert name == "refuse"
        self.refusals.append(args)


@dataclass
class PostOffice:
    """A house with SMTP doors; `service` may be changed before a connection is made."""

    house: House
    service: Service
    runner: ListRunner
    store: StoreDoor
    logins: KnownLogins
    insecure_auth: bool = False
    limits: MachineLimits = field(default_factory=MachineLimits)

    async def connect(self, door: str = "mx", peer: str = "192.0.2.9") -> Peer:
        """A client at a door, its greeting not yet read; `peer` is the address it seems to come from."""
        make = smtp_sessions(self.service, limits=self.limits)[door]

        def from_peer(conversation: Conversation) -> Any:
            conversation.peer = peer
            return make(conversation)

        return await self.house.connect(from_peer)

    async def greeted(self, door: str = "mx", peer: str = "192.0.2.9") -> Peer:
        """A client that has said EHLO and read the answer."""
        client = await self.connect(door, peer)
        assert (await client.line()).startswith(b"220 mx.example.com ")
        await ehlo(client)
        return client

    def events(self) -> list[Event]:
        """Everything journaled so far, in order."""
        rows = self.house.store.sql("SELECT events FROM journal ORDER BY position")
        return [event for (raw,) in rows for event in unpack(raw)]

    def refused(self) -> list[Event]:
        """Every refusal that was written down."""
        return [event for refusal in self.store.refusals for event in unpack(refusal.events)]

    def count(self, table: str) -> int:
        """Rows of a table."""
        counted: int = self.house.store.sql(f"SELECT count(*) FROM {table}")[0][0]
        return counted


async def ehlo(client: Peer) -> list[bytes]:
    """Says EHLO; returns the extension lines."""
    client.send(b"EHLO client.test\r\n")
    lines = []
    while (line := await client.line()).startswith(b"250-"):
        lines.append(line[4:])
    assert line.startswith(b"250 "), line
    return [*lines[1:], line[4:]]


def open_post_office(house: House, folder: Path) -> PostOffice:
    """SMTP doors for `house`, with anna@example.com as the only account."""
    account = house.store.account(ANNA)
    clock = SystemClock()
    ids = IdMaker(StoreDoor.incarnation)
    runner, store, logins = ListRunner(), StoreDoor(house), KnownLogins({ANNA: account})
    story = Journal(Meters.private())
    certificate, key = folder / "c.pem", folder / "k.pem"
    ensure_self_signed(["mx.example.com"], certificate, key, clock.wall_us())
    intake = Intake(
        hostname="mx.example.com",
        store=store,  # type: ignore[arg-type]
        story=story,
        runner=runner,
        ids=ids,
        clock=clock,
        first_retry_s=120,
        lifetime_s=5 * 86400,
        max_hops=50,
        signer=Signer(DkimKeys(house.store).signing, house.spool, clock),
    )
    service = Service(
        hostname="mx.example.com",
        intake=intake,
        planner=Planner(house.store.directory, hostname="mx.example.com"),
        logins=logins,  # type: ignore[arg-type]
        spool=house.spool,
        refusals=Refusals(store=store, story=story, ids=ids, clock=clock),
        counters=SessionCounters(Meters.private()),
        lifecycle=house.lifecycle,
        tls=ServerTls(certificate, key),
        clock=clock,
        relay_networks=[ipaddress.ip_network("10.0.0.0/8")],
        data_timeout_s=600,
        data_rate_min=500,
        session_s=3600,
        submissions=Submissions(Allowed()),
        full=_never_full,
        gates=make_gates(Ports()),
    )
    return PostOffice(house, service, runner, store, logins)


def _never_full(size: int) -> Reply | None:
    return None
