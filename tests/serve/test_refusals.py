"""A refusal is told with a reference, and the reference is what is written down."""

from __future__ import annotations

from postroad.serve.refusals import Refusals
from postroad.store.records import Refusal
from postroad.values.event import Event
from postroad.values.ids import IdMaker, id_text
from postroad.values.reply import MAX_REPLY_LINE, Reply
from tests.fakes.clock import FakeClock


class Posted:
    """A store that keeps what it is sent, and a story that nobody reads."""

    def __init__(self) -> None:
        self.refusals: list[Refusal] = []
        self.events: list[Event] = []

    def post(self, unit: str, args: object) -> None:
        assert unit == "refuse"
        assert isinstance(args, Refusal)
        self.refusals.append(args)

    def note(self, ident: int, events: list[Event]) -> bytes:
        self.events += events
        return b""


def noted(reply: Reply) -> tuple[Reply, Posted]:
    posted = Posted()
    refusals = Refusals(store=posted, story=posted, ids=IdMaker(1), clock=FakeClock())  # type: ignore[arg-type]
    said = refusals.note(
        reply, why="sender not granted", command="MAIL", door="submission", peer="192.0.2.1", helo="c.test",
        sender="a@b.test", recipient="", login="c@d.test",
    )  # fmt: skip
    return said, posted


def test_the_reference_that_is_told_is_the_one_that_is_kept() -> None:
    said, posted = noted(Reply(553, "5.7.1", "No."))
    assert str(said) == f"553 5.7.1 No. Ref {id_text(posted.refusals[0].reference)}"


def test_two_long_addresses_in_a_text_do_not_cost_the_reference() -> None:
    address = f"{'x' * 64}@{'.'.join(['y' * 60] * 3)}.test"
    said, posted = noted(Reply(553, "5.7.1", f"{address} may not send as {address}. Send as {address}."))
    assert len(said.wire()) <= MAX_REPLY_LINE
    assert said.wire().endswith(f" Ref {id_text(posted.refusals[0].reference)}\r\n".encode())
    assert posted.events[0].evidence.count(address) == 3, "the journal has all of it"
