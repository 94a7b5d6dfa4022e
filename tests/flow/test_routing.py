"""Which route a delivery takes, from where and under which name."""

from __future__ import annotations

import pytest

from postroad.config.routes import Loaded
from postroad.config.routes import Route as Table
from postroad.flow.routing import Course, Guise, Routes
from postroad.values.next_hop import NextHop
from postroad.wire.sasl import Credentials

SMARTHOST = Table(
    senders=("news@ours.test", ".shop.test"), via="smtp.relay.test:587", login="key", password_file="/x",
    fallback="backup.test", fallback_after=2, source=("192.0.2.9",), ehlo="out9.ours.test",
)  # fmt: skip
ROUTES = Routes.of(
    Loaded(
        {
            "partner": Table(recipients=("partner.test", ".partner.test", "ceo@far.test"), via="lmtp:/run/x"),
            "relay": SMARTHOST,
            "sales": Table(users=("sales@ours.test",), via="mx"),
            "reports": Table(senders=("<>",), ehlo="reports.ours.test"),
            "staging": Table(recipients=("example",), via="discard", why="a test machine"),
        },
        {"relay": Credentials("key", "secret")},
    ),
    ["192.0.2.1", "192.0.2.2", "2001:db8::1"],
)


@pytest.mark.parametrize(
    "recipient, sender, login, name",
    [
        ("b@partner.test", "a@ours.test", "", "partner"),
        ("B@Partner.TEST", "a@ours.test", "", "partner"),
        ("b@x.partner.test", "news@ours.test", "", "partner"),
        ("b@notpartner.test", "a@ours.test", "", ""),
        ("CEO@far.test", "a@ours.test", "", "partner"),
        ("b@far.test", "News@ours.test", "", "relay"),
        ("b@far.test", "x@deep.shop.test", "", "relay"),
        ("b@far.test", "x@shop.test", "", ""),
        ("b@far.test", "a@ours.test", "sales@ours.test", "sales"),
        ("b@far.test", "", "", "reports"),
        ("b@example", "a@ours.test", "", "staging"),
    ],
)
def test_the_first_route_that_fits(recipient: str, sender: str, login: str, name: str) -> None:
    found = ROUTES.find(recipient, recipient.rpartition("@")[2].lower(), sender, login)
    assert (found.name if found else "") == name


def test_the_other_source_addresses_follow_in_the_order_of_choice() -> None:
    course: Course | None = ROUTES.course("b@far.test", "far.test", "a@ours.test", "")
    chosen = []
    while course is not None:
        chosen.append(course.guise.sources)
        course = course.following
    assert sorted(v4 for v4, _ in chosen) == ["192.0.2.1", "192.0.2.2"]
    assert {v6 for _, v6 in chosen} == {"2001:db8::1"}


def test_a_route_with_one_address_has_no_other() -> None:
    course = ROUTES.course("b@far.test", "far.test", "news@ours.test", "")
    assert (course.guise.sources, course.following) == (("192.0.2.9",), None)


@pytest.mark.parametrize(
    "source, table, choice",
    [
        ((), (), False),
        (("192.0.2.1", "2001:db8::1"), (), False),
        (("192.0.2.1", "192.0.2.2"), (), True),
        (("192.0.2.1",), ("192.0.2.8", "192.0.2.9"), True),
        (("192.0.2.1",), ("192.0.2.8",), False),
    ],
)
def test_whether_there_is_a_choice_at_all(source: tuple[str, ...], table: tuple[str, ...], choice: bool) -> None:
    assert Routes.of(Loaded({"one": Table(source=table)}, {}), source).has_choice is choice


def test_a_fallback_takes_over_and_gets_no_password() -> None:
    first = ROUTES.course("b@far.test", "far.test", "news@ours.test", "", attempt=2)
    assert first.hop == NextHop("smtp.relay.test", 587)
    assert first.guise == Guise(("192.0.2.9",), "out9.ours.test", Credentials("key", "secret"))
    assert first.route is not None
    assert first.route.tls == "verify"
    later = ROUTES.course("b@far.test", "far.test", "news@ours.test", "", attempt=3)
    assert later.hop == NextHop("backup.test", 25)
    assert later.guise.login is None
    assert first.key != later.key


def test_each_sender_domain_keeps_one_address_of_each_family() -> None:
    seen = set()
    for number in range(50):
        sources = ROUTES.course("b@far.test", "far.test", f"x@d{number}.test", "").guise.sources
        assert len(sources) == 2
        assert "2001:db8::1" in sources
        assert sources == ROUTES.course("c@y.test", "y.test", f"y@d{number}.test", "").guise.sources
        seen.add(sources)
    assert len(seen) == 2


def test_taking_an_address_away_moves_only_those_who_had_it() -> None:
    fewer = Routes((), ("192.0.2.1", "192.0.2.2"))
    more = Routes((), ("192.0.2.1", "192.0.2.2", "192.0.2.3"))
    for number in range(50):
        before = more.course("b@x.test", "x.test", f"x@d{number}.test", "").guise.sources
        after = fewer.course("b@x.test", "x.test", f"x@d{number}.test", "").guise.sources
        assert before == after or before == ("192.0.2.3",)


def test_without_routes_nobody_is_asked() -> None:
    assert Routes().trivial
    assert Routes((), ("192.0.2.1", "2001:db8::1")).trivial
    assert not Routes((), ("192.0.2.1", "192.0.2.2")).trivial
    assert not ROUTES.trivial


def test_nothing_shows_a_password() -> None:
    course = ROUTES.course("b@far.test", "far.test", "news@ours.test", "")
    assert "secret" not in repr(course) + repr(ROUTES) + course.key
    assert Course().key == ""


def test_a_login_is_never_taken_for_a_name() -> None:
    """Connections are shared by this text: mail without the login must not travel over one that has it."""
    named = Guise(ehlo="shop.example.org")
    logged_in = Guise(login=Credentials("shop.example.org", "secret"))
    assert named.key != logged_in.key


def test_two_accounts_of_one_name_share_no_connection() -> None:
    """Providers exist that know every customer as "apikey", and by the password alone which one it is."""
    news, shop = (Guise(login=Credentials("apikey", password)) for password in ("of the news", "of the shop"))
    assert news.key != shop.key
    assert news.key == Guise(login=Credentials("apikey", "of the news")).key
