"""The queue as people read it: groups with their ages, selections page by page, one message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from postroad.store import selection as selections
from postroad.store import tallies
from postroad.store.actions import Act, ActionBegin, act, action_begin
from postroad.store.opening import OpenStore
from postroad.store.reader import Reader
from postroad.store.records import DEFERRED, DROPPED, HELD, NEVER_US, QUEUED, THROTTLED
from postroad.store.selection import NOTHING, Chosen, Selection, first_id, pages
from postroad.store.tallies import AGES_MIN, BY, Group, Overview, overview
from postroad.store.units import UNITS
from postroad.store.waiting import actions, deliveries, envelope, last_undoable
from postroad.store.whole import whole_message
from postroad.store.writer import Call
from postroad.values.ids import made_at_us
from postroad.values.reason import reason_number
from tests.fakes.clock import FakeClock

NOW_US = 1_800_000_000_000_000
MINUTE_US = 60_000_000
BUSY, FULL = "451 4.7.1 Too busy for message 17", "452 4.2.2 Mailbox full"


class Rows:
    """A store with rows as a test wants them."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder
        self.store = OpenStore(folder, clock=FakeClock(NOW_US))
        self.count = 0

    def message(self, age_min: float, *legs: dict[str, Any], **changes: Any) -> int:
        self.count += 1
        ident = first_id(NOW_US - int(age_min * MINUTE_US)) + self.count
        fields = {
            "sender": "x@ours.test",
            "login": "anna@ours.test",
            "size": 77,
            "body": b"Ho",
            "body_file": "",
        } | changes
        run = self.store.connection.execute
        run(
            "INSERT INTO messages (id, received_us, expires_us, size, smtputf8, eightbit, sender, ret, envid, login,"
            " body_file, header, body) VALUES (?, ?, ?, ?, 0, 1, ?, 'FULL', '', ?, ?, x'413a0d0a0d0a', ?)",
            (ident, made_at_us(ident), NOW_US, fields["size"], fields["sender"], fields["login"], fields["body_file"],
             fields["body"]),
        )  # fmt: skip
        for leg in legs:
            self.count += 1
            self._leg(ident, leg, str(fields["login"]))
        return ident

    def _leg(self, message: int, leg: dict[str, Any], login: str) -> None:
        plain = {
            "to": "b@a.test",
            "due_us": NOW_US + 5,
            "owner": 0,
            "state": DEFERRED,
            "reply": BUSY,
            "held": "",
            "hop": "",
        }
        one: dict[str, Any] = plain | leg
        if one["state"] >= HELD:
            one["due_us"] = NEVER_US
        reason = reason_number(one["held"] if one["state"] >= HELD else one["reply"])
        self.store.connection.execute(
            "INSERT INTO deliveries (id, message, due_us, owner, attempts, kind, account, domain, recipient, notify,"
            " orcpt, prefix, last_reply, state, login, reason, held, next_hop)"
            " VALUES (?, ?, ?, ?, 2, 0, 0, ?, ?, '', '', x'', ?, ?, ?, ?, ?, ?)",
            (message + self.count, message, one["due_us"], one["owner"], one["to"].rpartition("@")[2], one["to"],
             one["reply"], one["state"], login, reason, one["held"], one["hop"]),
        )  # fmt: skip

    def site(self, domain: str, site: str) -> None:
        self.store.connection.execute("INSERT INTO sites (domain, site, seen_us) VALUES (?, ?, 0)", (domain, site))

    def overview(self, by: str, limit: int = 100) -> Overview:
        return overview(self.data_dir, by, NOW_US, limit)

    def chosen(self, selection: Selection) -> list[str]:
        reader = Reader(self.data_dir)
        found = [one.recipient for page in pages(reader, selection, NOW_US) for one in page]
        reader.close()
        return found


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    made = Rows(tmp_path)
    yield made
    made.store.close()


def several(rows: Rows) -> None:
    """Mail of each state to three domains at two sites."""
    rows.site("a.test", "mx.big.test:25")
    rows.site("b.test", "mx.big.test:25")
    rows.message(3, {"to": "one@a.test"}, {"to": "two@b.test", "state": THROTTLED, "reply": "enough for now"})
    rows.message(30, {"to": "three@a.test", "due_us": NOW_US - 1, "reply": FULL}, login="", sender="")
    rows.message(5000, {"to": "four@c.test", "state": HELD, "held": "held by bob"}, login="eva@ours.test")
    rows.message(100, {"to": "five@c.test", "state": DROPPED, "held": "dropped by bob"})
    rows.message(1, {"to": "six@a.test", "owner": 9, "state": QUEUED, "reply": ""})
    rows.message(2, {"to": "seven@d.test", "hop": "relay.test:25"})


def by_name(found: Overview) -> dict[str, Group]:
    return {group.name: group for group in found.groups}


# -- groups ------------------------------------------------------------------------------------------------------------


def test_groups_by_domain_have_their_states_ages_and_reasons(rows: Rows) -> None:
    several(rows)
    found = rows.overview("domain")
    a, c = by_name(found)["a.test"], by_name(found)["c.test"]
    assert [group.name for group in found.groups] == ["a.test", "c.test", "b.test", "d.test"]
    assert (a.deliveries, a.due, a.under_way, a.throttled, a.held, a.dropped) == (3, 1, 1, 0, 0, 0)
    assert a.heat == (2, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    assert made_at_us(a.oldest) == NOW_US - 30 * MINUTE_US
    assert a.next_us == NOW_US - 1
    assert a.reason in (BUSY, FULL)
    assert (c.deliveries, c.held, c.dropped, c.next_us) == (2, 1, 1, 0)
    assert c.heat == (0, 0, 0, 0, 0, 1, 0, 0, 0, 1)
    total = found.total
    assert (total.deliveries, total.due, total.under_way, total.throttled, total.held, total.dropped) == (
        7,
        1,
        1,
        1,
        1,
        1,
    )
    assert sum(total.heat) == 7


def test_groups_by_site_know_who_shares_hosts_and_what_was_moved(rows: Rows) -> None:
    several(rows)
    found = by_name(rows.overview("site"))
    assert {name: group.deliveries for name, group in found.items()} == {
        "mx.big.test:25": 4, "c.test": 2, "relay.test:25": 1,
    }  # fmt: skip


def test_groups_by_user_and_by_reason(rows: Rows) -> None:
    several(rows)
    users = {name: group.deliveries for name, group in by_name(rows.overview("user")).items()}
    assert users == {"anna@ours.test": 5, "eva@ours.test": 1, "": 1}
    reasons = {name: group.deliveries for name, group in by_name(rows.overview("reason")).items()}
    assert reasons == {
        "451 4.7.1 Too busy for message #": 2, "452 4.2.2 Mailbox full": 1, "enough for now": 1, "held by bob": 1,
        "dropped by bob": 1, "": 1,
    }  # fmt: skip


def test_the_fullest_groups_come_first_and_the_rest_is_counted(rows: Rows) -> None:
    several(rows)
    found = rows.overview("domain", limit=2)
    assert ([group.name for group in found.groups], found.more, found.total.deliveries) == (["a.test", "c.test"], 2, 7)


def test_an_empty_queue_has_no_groups(rows: Rows) -> None:
    found = rows.overview("site")
    assert (found.groups, found.total.deliveries, found.total.heat) == ([], 0, (0,) * (len(AGES_MIN) + 1))


@pytest.mark.parametrize("by", BY)
def test_counting_in_pieces_is_counting_at_once(rows: Rows, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    several(rows)
    for number in range(40):
        legs = [{"to": f"u{n}@d{number % 7}.test", "reply": f"45{n} later"} for n in range(number % 4)]
        rows.message(number * 40, *legs, login=f"u{number % 3}")
    whole = rows.overview(by)
    for piece in (1, 3, 16):
        monkeypatch.setattr(tallies, "PIECE", piece)
        assert by_name(rows.overview(by)).keys() == by_name(whole).keys()
        for name, group in by_name(rows.overview(by)).items():
            assert group._replace(reason="") == by_name(whole)[name]._replace(reason="")


def test_a_counter_holds_a_whole_piece() -> None:
    """Four counters share one number: none may run over into its neighbour, nor the last into the sign."""
    assert tallies.PIECE < 1 << tallies._BITS
    assert tallies._counters(sum(tallies.PIECE << tallies._BITS * at for at in range(4))) == [tallies.PIECE] * 4
    assert sum(tallies.PIECE << tallies._BITS * at for at in range(4)) < 1 << 63


# -- selections --------------------------------------------------------------------------------------------------------

WHOLE = ["one@a.test", "two@b.test", "three@a.test", "four@c.test", "six@a.test", "seven@d.test"]
SELECTIONS: list[tuple[Selection, set[str]]] = [
    (Selection(every=True), set(WHOLE)),
    (Selection(every=True, dropped=True), {*WHOLE, "five@c.test"}),
    (Selection(domain="a.test"), {"one@a.test", "three@a.test", "six@a.test"}),
    (Selection(recipient="ONE@a.test"), {"one@a.test"}),
    (Selection(recipient="@a.test"), {"one@a.test", "three@a.test", "six@a.test"}),
    (Selection(sender="<>"), {"three@a.test"}),
    (Selection(sender="X@ours.test"), set(WHOLE) - {"three@a.test"}),
    (Selection(sender="@ours.test", domain="c.test"), {"four@c.test"}),
    (Selection(user="eva@ours.test"), {"four@c.test"}),
    (Selection(site="mx.big.test:25"), {"one@a.test", "two@b.test", "three@a.test", "six@a.test"}),
    (Selection(site="relay.test:25"), {"seven@d.test"}),
    (Selection(site="c.test"), {"four@c.test"}),
    (Selection(reason="mailbox FULL"), {"three@a.test"}),
    (Selection(reason="451 4.7.1 Too busy for message #"), {"one@a.test", "seven@d.test"}),
    (Selection(reason="held by"), {"four@c.test"}),
    (Selection(state="held"), {"four@c.test"}),
    (Selection(state="dropped"), {"five@c.test"}),
    (Selection(state="throttled"), {"two@b.test"}),
    (Selection(state="due"), {"three@a.test"}),
    (Selection(state="trying"), {"six@a.test"}),
    (Selection(older_us=60 * MINUTE_US), {"four@c.test"}),
    (Selection(younger_us=2 * MINUTE_US + 1), {"six@a.test", "seven@d.test"}),
    (Selection(reason="50%"), set()),
    (NOTHING, set()),
]


@pytest.mark.parametrize("selection, expected", SELECTIONS, ids=[str(n) for n in range(len(SELECTIONS))])
def test_a_selection_finds_what_fits_every_condition(rows: Rows, selection: Selection, expected: set[str]) -> None:
    several(rows)
    assert set(rows.chosen(selection)) == expected


def test_pages_hold_everything_once(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        rows.message(50 - number, {"to": f"u{number}@{'ab'[number % 5 == 0]}.test"})
    monkeypatch.setattr(selections, "LOOKED_AT", 7)
    reader = Reader(rows.data_dir)
    for most in (1, 3, 7, 100):
        found = list(pages(reader, Selection(domain="b.test"), NOW_US, most=most))
        assert all(0 < len(page) <= most for page in found)
        assert [one.recipient for page in found for one in page] == [f"u{number}@b.test" for number in range(0, 50, 5)]
    reader.close()


@pytest.mark.parametrize(
    "state, owner, due_us, word",
    [
        (QUEUED, 0, NOW_US, "due"), (DEFERRED, 0, NOW_US + 1, "deferred"), (THROTTLED, 0, NOW_US + 1, "throttled"),
        (DEFERRED, 5, NOW_US + 1, "trying"), (QUEUED, 5, NOW_US, "due"), (HELD, 5, NEVER_US, "held"),
        (DROPPED, 0, NEVER_US, "dropped"), (QUEUED, 0, NOW_US + 1, "queued"),
    ],
)  # fmt: skip
def test_the_word_for_a_state(state: int, owner: int, due_us: int, word: str) -> None:
    one = Chosen(1, 1, "b@x.test", "x.test", 1, owner, due_us, state, "", "why held", "451", "", 1, "")
    assert one.state_word(NOW_US) == word
    assert one.reason == ("why held" if state >= HELD else "451")


# -- one message, and what was done ------------------------------------------------------------------------------------


def test_a_message_with_its_open_deliveries(rows: Rows) -> None:
    ident = rows.message(3, {"to": "one@a.test"}, {"to": "two@b.test", "state": DROPPED, "held": "dropped by bob"})
    reader = Reader(rows.data_dir)
    found = envelope(reader, ident)
    assert found is not None
    assert (found.sender, found.login, found.size, found.ret, found.eightbit, found.smtputf8, found.deliveries) == (
        "x@ours.test", "anna@ours.test", 77, "FULL", True, False, 2,
    )  # fmt: skip
    assert [one.recipient for one in deliveries(reader, ident, NOW_US)] == ["one@a.test", "two@b.test"]
    assert envelope(reader, ident + 1) is None
    reader.close()


def test_the_newest_actions_come_first(rows: Rows) -> None:
    ident = rows.message(3, {"to": "one@a.test"})
    reader = Reader(rows.data_dir)
    assert last_undoable(reader, NOW_US) == 0

    def run(unit: Callable[..., Any], args: Any) -> Any:
        [result] = rows.store.writer.run([Call(UNITS[unit.__name__], args)])
        return result.value

    for what in ("hold", "retry"):
        run(act, Act(run(action_begin, ActionBegin(what, "anna", "to a.test", "why")), [ident + rows.count]))
    newest, oldest = actions(reader, 10)
    assert (newest.number, newest.what, newest.deliveries, newest.until_us) == (2, "retry", 0, 0)
    assert (oldest.number, oldest.by, oldest.selection, oldest.detail, oldest.deliveries) == (
        1,
        "anna",
        "to a.test",
        "why",
        1,
    )
    assert last_undoable(reader, NOW_US) == 1
    assert last_undoable(reader, NOW_US + 61_000_000) == 0
    assert [one.number for one in actions(reader, 10, number=1)] == [1]
    reader.close()


def test_a_whole_message_wherever_its_body_is(rows: Rows) -> None:
    inline = rows.message(1, {})
    (rows.data_dir / "spool" / "bodies" / "01").mkdir(parents=True, exist_ok=True)
    (rows.data_dir / "spool" / "bodies" / "01" / "9-1").write_bytes(b"large")
    large = rows.message(1, {}, body=None, body_file="bodies/01/9-1")
    gone = rows.message(1, {}, body=None, body_file="bodies/01/9-2")
    assert whole_message(rows.data_dir, inline) == (b"A:\r\n\r\n", b"Ho")
    assert whole_message(rows.data_dir, large) == (b"A:\r\n\r\n", b"large")
    assert whole_message(rows.data_dir, gone) is None
    assert whole_message(rows.data_dir, 1) is None
