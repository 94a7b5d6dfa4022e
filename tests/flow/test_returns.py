"""What comes back to signed return paths: from RCPT to the story of the message it is about."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from postroad.config.routes import Loaded
from postroad.config.routes import Route as Table
from postroad.flow.destinations import Destinations
from postroad.flow.intake import Arrival, Intake, Taken
from postroad.flow.local import Planner
from postroad.flow.return_path import LIFETIME_US, ReturnPaths
from postroad.flow.returns import Returns, told
from postroad.flow.routing import Routes
from postroad.store.records import NEVER_US
from postroad.values.address import Address
from postroad.values.envelope import Envelope, Recipient
from postroad.values.ids import id_text
from tests.flow.test_reports import ANNA, Office, Words
from tests.flow.yard import only

PATHS = ReturnPaths(b"secret", ["here.test"])
REPORT_HEADER = (
    b"From: MAILER-DAEMON@far.test\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n"
)
REPORT_BODY = (
    b"--b\r\n\r\nIt failed.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n"
    b"Reporting-MTA: dns; mx.far.test\r\n\r\n"
    b"Final-Recipient: rfc822; bob@far.test\r\nAction: failed\r\nStatus: 5.1.1\r\n"
    b"Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n\r\n--b--\r\n"
)


class Desk(Office):
    """An office that knows its own return paths."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.planner = Planner(self.directory, return_paths=PATHS, now_us=self.clock.wall_us)
        self.intake._returns = Returns(store=self.store, story=self.story, bodies=self.bodies, clock=self.clock)

    async def arrive(self, address: Address, header: bytes, body: bytes) -> int:
        """A message from the null sender to an address, as the MX takes it."""
        recipient = Recipient(address)
        destinations = Destinations()
        destinations.add(recipient, await self.planner.plan(address))
        taken = await self.intake.accept(
            Words(header, body), Envelope(None, [recipient]), destinations, Arrival("ESMTP", "mx")
        )
        assert isinstance(taken, Taken)
        return taken.id


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    made = Desk(tmp_path)
    yield made
    await made.runner.drain(0.0)
    made.store.connection.close()


async def test_a_late_bounce_finds_its_message_and_its_sender(desk: Desk) -> None:
    message = desk.send("bob@far.test", sender=ANNA)
    path = PATHS.make(Address.parse(ANNA), message.id, ["bob@far.test"])
    report = await desk.arrive(path, REPORT_HEADER, REPORT_BODY)
    event = next(event for event in desk.events(message.id) if event.kind == "returned")
    assert (event.recipient, event.cause) == ("bob@far.test", "unknown recipient, for good")
    assert event.evidence == "5.1.1 550 5.1.1 no such user"
    assert (event.where, event.link) == ("mx.far.test", id_text(report))
    # And Anna can read it.
    assert desk.filed() == 1
    assert desk.kinds(report)[0] == "expanded"


@pytest.mark.parametrize("late_us", [0, LIFETIME_US + 1_000_000])
async def test_forged_and_expired_return_paths_are_refused(desk: Desk, late_us: int) -> None:
    """Promise P19: reports about mail that somebody else sent in our name stay outside."""
    message = desk.ids.make(desk.clock.wall_us())
    maker = PATHS if late_us else ReturnPaths(b"guess", ["here.test"])
    path = maker.make(Address.parse(ANNA), message, ["bob@far.test"])
    desk.clock.advance(late_us / 1e6)
    plan = await desk.planner.plan(path)
    assert plan.refusal is not None
    assert (plan.refusal.code, plan.refusal.enhanced, plan.why) == (550, "5.1.1", "no return path")


async def test_return_paths_of_others_are_none_of_our_business(desk: Desk) -> None:
    path = ReturnPaths(b"theirs", ["far.test"]).make(Address.parse("list@far.test"), 1 << 40, ["a@here.test"])
    plan = await desk.planner.plan(path, may_relay=True)
    assert plan.remotes == [path]


async def test_a_letter_to_a_return_path_is_noted_too(desk: Desk) -> None:
    message = desk.send("bob@far.test", sender=ANNA)
    path = PATHS.make(Address.parse(ANNA), message.id, ["bob@far.test"])
    await desk.arrive(path, b"From: bob@far.test\r\nSubject: I am on holiday\r\n\r\n", b"Until May.\r\n")
    assert "answered" in desk.kinds(message.id)
    assert "returned" not in desk.kinds(message.id)


def test_what_reports_say_as_events() -> None:
    path = PATHS.make(Address.parse(ANNA), 5 << 30, ["bob@far.test"])
    returned = PATHS.read(path, (5 << 30 >> 12) + 1_704_067_200_000_000)
    assert returned is not None
    other = only(told(returned, REPORT_HEADER, REPORT_BODY.replace(b"bob@far", b"eve@far"), 1, 0))
    # One recipient was in that transaction, and it was not Eve: somebody there forwards his mail to her.
    assert (other.kind, other.recipient) == ("returned", "")
    late = only(
        told(returned, REPORT_HEADER, REPORT_BODY.replace(b"failed\r\nStatus: 5.", b"delayed\r\nStatus: 4."), 1, 0)
    )
    assert (late.kind, late.cause) == ("answered", "reported as late: unknown recipient")
    good = only(
        told(
            returned, REPORT_HEADER, REPORT_BODY.replace(b"failed\r\nStatus: 5.1.1", b"relayed\r\nStatus: 2.0.0"), 1, 0
        )
    )
    assert (good.kind, good.cause) == ("answered", "a report of success")


async def test_what_a_route_holds_waits_for_a_hand_and_the_rest_leaves(desk: Desk) -> None:
    routes = Routes.of(Loaded({"legal": Table(recipients=("far.test",), via="hold", why="until Monday")}, {}))
    desk.intake = Intake(
        hostname="mail.ours.test",
        store=desk.store,  # type: ignore[arg-type]
        story=desk.story,
        runner=desk.runner,
        ids=desk.ids,
        clock=desk.clock,
        first_retry_s=2.0,
        lifetime_s=5 * 86_400.0,
        max_hops=50,
        routes=routes,
    )
    ident = await desk.submit(("bob@far.test", ""), ("carol@near.test", ""))
    await desk.settled()
    held = [event for event in desk.events(ident) if event.kind == "held"]
    assert [(event.recipient, event.cause, event.by) for event in held] == [
        ("bob@far.test", "route legal: until Monday", "routes file")
    ]
    [(due_us, reason)] = desk.store.rows("SELECT due_us, held FROM deliveries WHERE recipient = ?", "bob@far.test")
    assert (due_us, reason) == (NEVER_US, "route legal: until Monday")
