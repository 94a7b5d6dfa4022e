"""Signed return paths: what is made, what is read again, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.flow.return_path import LIFETIME_US, LOCAL_MAX, ReturnPaths, is_marked, recipient_mark
from postroad.values.address import Address
from postroad.values.ids import EPOCH_US, IdMaker

NOW = EPOCH_US + 10**15
MESSAGE = IdMaker(7).make(NOW)
NEWS = Address.parse("news@ours.test")
PATHS = ReturnPaths(b"secret", ["ours.test", "xn--bcher-kva.test"])


def test_there_and_back() -> None:
    path = PATHS.make(NEWS, MESSAGE, ["bob@far.test"])
    assert path.domain == "ours.test"
    assert len(path.local) <= LOCAL_MAX
    assert is_marked(path.local)
    returned = PATHS.read(path, NOW + 1)
    assert returned is not None
    assert (returned.sender, returned.message, returned.recipient) == (NEWS, MESSAGE, recipient_mark("Bob@far.test"))


def test_hosts_that_change_the_case_of_letters() -> None:
    path = PATHS.make(NEWS, MESSAGE, ["bob@far.test"])
    loud = Address(path.local.upper(), path.domain)
    returned = PATHS.read(loud, NOW)
    assert returned is not None
    assert returned.message == MESSAGE


def test_several_recipients_share_a_transaction_and_its_return_path() -> None:
    path = PATHS.make(NEWS, MESSAGE, ["bob@far.test", "carol@far.test"])
    assert path == PATHS.make(NEWS, MESSAGE, ["dave@far.test", "erin@far.test"])
    returned = PATHS.read(path, NOW)
    assert returned is not None
    assert returned.recipient == 0


@pytest.mark.parametrize(
    "sender, wanted", [("a@ours.test", True), ("a@OURS.test", True), ("a@far.test", False), ("", False)]
)
def test_whose_mail_gets_one(sender: str, wanted: bool) -> None:
    assert PATHS.wants(sender) is wanted


@pytest.mark.parametrize("sender", ["x" * 33 + "@ours.test", '"odd name"@ours.test', "bücher@ours.test"])
def test_senders_without_room_for_a_mark_stay_as_they_are(sender: str) -> None:
    address = Address.parse(sender, utf8=True)
    assert PATHS.make(address, MESSAGE, ["bob@far.test"]) == address


def test_a_return_path_is_not_marked_twice() -> None:
    path = PATHS.make(NEWS, MESSAGE, ["bob@far.test"])
    assert PATHS.make(path, MESSAGE, ["bob@far.test"]) == path


@given(at=st.integers(min_value=8, max_value=36), letter=st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_one_changed_letter_makes_it_a_forgery(at: int, letter: str) -> None:
    path = PATHS.make(NEWS, MESSAGE, ["bob@far.test"])
    start = path.local.index("+b=") + 3
    at = start + (at - 8)
    forged = Address(path.local[:at] + letter + path.local[at + 1 :], path.domain)
    if forged != path and forged.local[-1] == path.local[-1]:
        assert PATHS.read(forged, NOW) is None


def test_forgeries_of_other_kinds() -> None:
    path = PATHS.make(NEWS, MESSAGE, ["bob@far.test"])
    mark = path.local[path.local.index("+b=") :]
    assert PATHS.read(Address(f"sales{mark}", "ours.test"), NOW) is None
    assert PATHS.read(Address(path.local, "theirs.test"), NOW) is None
    assert ReturnPaths(b"another", ["ours.test"]).read(path, NOW) is None
    assert PATHS.read(NEWS, NOW) is None
    assert PATHS.read(Address("news+b=short", "ours.test"), NOW) is None


@pytest.mark.parametrize(
    "late_us, good", [(0, True), (LIFETIME_US, True), (LIFETIME_US + 1_000_000, False), (-4 * 10**9, False)]
)
def test_they_end(late_us: int, good: bool) -> None:
    path = PATHS.make(NEWS, MESSAGE, ["bob@far.test"])
    assert (PATHS.read(path, NOW + late_us) is not None) is good


def test_nothing_shows_the_secret() -> None:
    assert "secret" not in repr(PATHS)
