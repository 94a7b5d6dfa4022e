"""What sessions count ends up under the documented names."""

from __future__ import annotations

from postroad.flow.meters import Meters
from postroad.serve.counters import SessionCounters


def test_every_count_has_its_series() -> None:
    meters = Meters.private()
    counters = SessionCounters(meters)
    counters.session_opened("mx")
    counters.session_opened("mx")
    counters.session_opened("imaps")
    counters.session_closed("mx")
    counters.message_received("mx", 5000)
    counters.refused("mx", 550, "no such user")
    counters.logged_in("pop3", "wrong")
    assert {text: value for text, value in meters.series() if value} == {
        'postroad_connections{service="mx"}': 1,
        'postroad_connections{service="imaps"}': 1,
        'postroad_smtp_in_connections_total{listener="mx"}': 2,
        'postroad_smtp_in_messages_total{listener="mx"}': 1,
        'postroad_smtp_in_bytes_total{listener="mx"}': 5000,
        'postroad_smtp_in_rejections_total{listener="mx",reason="no such user"}': 1,
        'postroad_auth_total{protocol="pop3",result="wrong"}': 1,
    }


def test_closing_what_never_opened_counts_nothing() -> None:
    meters = Meters.private()
    SessionCounters(meters).session_closed("pop3")
    assert not any(value for _, value in meters.series())
