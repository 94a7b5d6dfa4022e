"""Brakes on guessing, as tables: failures go in, a pause or a refusal comes out; no clock, no waiting."""

from __future__ import annotations

import re

import pytest

from postroad.serve import brakes as module
from postroad.serve.brakes import PAUSE_MAX_S, REFUSED_S, RULES, TRIED_MAX, Brake, Brakes, Source, source_of
from tests.testdata import REPOSITORY

PEER = source_of("192.0.2.7")
FREE = Brake(0.0, False)


@pytest.mark.parametrize(
    "peer, source",
    [
        ("192.0.2.7", ("192.0.2.7", "192.0.2.0/24", False)),
        ("::ffff:192.0.2.7", ("192.0.2.7", "192.0.2.0/24", False)),
        ("2001:db8:1:2:3::4", ("2001:db8:1:2::/64", "2001:db8:1:2::/64", False, "2001:db8:1::/48")),
        ("fe80::1%eth0", ("fe80::/64", "fe80::/64", False, "fe80::/48")),
        ("uid 1000", ("uid 1000", "uid 1000", False)),
        ("", ("", "", False)),
        ("127.0.0.9", ("127.0.0.9", "127.0.0.0/24", True)),
        ("::1", ("::/64", "::/64", True, "::/48")),
    ],
)
def test_where_an_attempt_is_counted(peer: str, source: tuple[str | bool, ...]) -> None:
    assert source_of(peer) == Source(*source)  # type: ignore[arg-type]


# failures of a stranger at one address, and what holds the next answer back
STRANGER = [(0, 0.0), (1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 10.0), (19, 10.0)]


@pytest.mark.parametrize("failures, pause", STRANGER)
def test_the_pause_doubles_up_to_its_bound(failures: int, pause: float) -> None:
    brakes = Brakes()
    for number in range(failures):
        brakes.failed(PEER, f"u{number}", 0.0, known=False)
    assert brakes.brake(PEER, "anna", 0.0, known=False) == Brake(pause, False)


@pytest.mark.parametrize(
    "kind, sources, logins, refused",
    [
        ("address", [PEER], [f"u{n}" for n in range(20)], True),
        ("address", [PEER], [f"u{n}" for n in range(19)], False),
        ("network", [source_of(f"192.0.2.{n}") for n in range(100, 200)], ["u"], True),
        ("network", [source_of(f"192.0.2.{n}") for n in range(100, 199)], ["u"], False),
        ("login", [source_of(f"10.{n}.0.1") for n in range(200)], ["anna"], False),
    ],
)
def test_who_is_refused(kind: str, sources: list[Source], logins: list[str], refused: bool) -> None:
    brakes = Brakes()
    for source in sources:
        for login in logins:
            brakes.failed(source, login, 0.0, known=False)
    assert brakes.brake(PEER, "anna", 0.0, known=False).refused is refused
    assert not brakes.brake(source_of("198.51.100.1"), "bob", 0.0, known=False).refused


def test_a_guesser_gains_nothing_by_the_many_networks_that_one_customer_has() -> None:
    brakes = Brakes()
    for number in range(100):
        brakes.failed(source_of(f"2001:db8:1:{number:x}::7"), f"u{number}", 0.0, known=False)
    assert brakes.brake(source_of("2001:db8:1:ffff::1"), "anna", 0.0, known=False).refused
    assert not brakes.brake(source_of("2001:db8:1:ffff::1"), "anna", 0.0, known=True).refused
    assert not brakes.brake(source_of("2001:db8:2::1"), "anna", 0.0, known=False).refused


def test_a_refusal_ends_and_failures_fade() -> None:
    brakes, rule = Brakes(), RULES["address"]
    for number in range(rule.refuse_at):
        brakes.failed(PEER, f"u{number}", 100.0, known=False)
    assert brakes.brake(PEER, "anna", 100.0 + REFUSED_S - 1, known=False).refused
    assert not brakes.brake(PEER, "anna", 100.0 + REFUSED_S, known=False).refused
    assert brakes.brake(PEER, "anna", 100.0 + REFUSED_S, known=False).pause_s == PAUSE_MAX_S
    assert brakes.brake(PEER, "anna", 100.0 + rule.refuse_at * rule.fade_s, known=False) == FREE


def test_a_login_that_many_guess_slows_strangers_only() -> None:
    brakes = Brakes()
    for number in range(500):
        brakes.failed(source_of(f"10.{number % 250}.{number // 250}.1"), "anna", 0.0, known=False)
    fresh = source_of("203.0.113.5")
    assert brakes.brake(fresh, "anna", 0.0, known=False) == Brake(PAUSE_MAX_S, False)
    assert brakes.brake(fresh, "bob", 0.0, known=False) == FREE
    assert brakes.brake(fresh, "anna", 0.0, known=True) == FREE


def test_programs_on_this_machine_are_counted_by_login_only() -> None:
    brakes, webmail = Brakes(), source_of("127.0.0.1")
    for number in range(200):
        brakes.failed(webmail, f"u{number % 50}" if number % 2 else "bob", 0.0, known=False)
    assert brakes.brake(webmail, "anna", 0.0, known=False) == FREE
    for known in (False, True):
        assert brakes.brake(webmail, "bob", 0.0, known=known) == Brake(PAUSE_MAX_S, False)


def test_a_colleague_behind_the_same_address_does_not_lock_the_owner_out() -> None:
    brakes = Brakes()
    for number in range(200):
        brakes.failed(PEER, f"u{number}", 0.0, known=False)
    assert brakes.brake(PEER, "anna", 0.0, known=False).refused
    assert brakes.brake(PEER, "anna", 0.0, known=True) == FREE


def test_guessing_from_a_known_network_is_braked_too() -> None:
    brakes = Brakes()
    for number in range(RULES["own"].refuse_at):
        brakes.failed(PEER, "anna", 0.0, known=True, tried=b"%d" % number)
    assert brakes.brake(PEER, "anna", 0.0, known=True) == Brake(PAUSE_MAX_S, True)
    assert brakes.brake(source_of("192.0.2.8"), "anna", 0.0, known=True) == FREE
    assert brakes.brake(PEER, "bob", 0.0, known=False) == FREE, "the fault of one is not that of his neighbours"


def test_the_same_wrong_password_counts_once() -> None:
    brakes = Brakes()
    for _ in range(1000):
        brakes.failed(PEER, "anna", 0.0, known=True, tried=b"the old one")
    assert brakes.brake(PEER, "anna", 0.0, known=True) == FREE
    for number in range(TRIED_MAX + 1):
        brakes.failed(PEER, "anna", 0.0, known=True, tried=b"%d" % number)
    assert brakes.brake(PEER, "anna", 0.0, known=True).pause_s == PAUSE_MAX_S


def test_a_success_forgives_one_address_with_one_login_and_nothing_else() -> None:
    brakes = Brakes()
    for number in range(3):
        brakes.failed(PEER, "anna", 0.0, known=True, tried=b"%d" % number)
        brakes.failed(PEER, "bob", 0.0, known=False)
    brakes.succeeded(PEER, "anna")
    assert brakes.brake(PEER, "anna", 0.0, known=True) == FREE
    assert brakes.brake(PEER, "anna", 0.0, known=False).pause_s == 4.0


def test_nothing_is_asked_where_nothing_is_counted() -> None:
    brakes = Brakes()
    assert brakes.clear_for(PEER, "anna")
    brakes.failed(source_of("192.0.2.99"), "bob", 0.0, known=False)
    assert not brakes.clear_for(PEER, "anna"), "the network is counted"
    assert not brakes.clear_for(source_of("10.0.0.1"), "bob"), "the login is counted"
    assert brakes.clear_for(source_of("10.0.0.1"), "anna")


def test_memory_is_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUCKETS_MAX", 10)
    brakes = Brakes()
    for number in range(100):
        brakes.failed(source_of(f"10.{number}.0.1"), f"u{number}", float(number), known=False)
    assert len(brakes) == 30
    assert brakes.brake(source_of("10.0.0.1"), "u", 99.0, known=False) == FREE
    assert brakes.brake(source_of("10.99.0.1"), "u", 99.0, known=False).pause_s == 1.0


def test_the_page_shows_the_rules() -> None:
    page = (REPOSITORY / "docs/logins.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| (\d+) failures? \| (\d+|never) \| (\d+) (minutes|seconds) \|$", page, re.MULTILINE)
    shown = [
        (int(behind) - 1, 0 if refused == "never" else int(refused), int(fade) * (60 if unit == "minutes" else 1))
        for behind, refused, fade, unit in rows
    ]
    assert shown == [(rule.free, rule.refuse_at, rule.fade_s) for rule in RULES.values()]
