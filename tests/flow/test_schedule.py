"""When mail is tried again and when it ends."""

from __future__ import annotations

import pytest

from postroad.flow.schedule import count_hops, delay_s, is_late, is_over, next_time

DELAYS = (120.0, 300.0, 7200.0)
DAY_US = 86_400_000_000
NOW = 1_800_000_000_000_000


@pytest.mark.parametrize("attempts, seconds", [(0, 120), (1, 120), (2, 300), (3, 7200), (4, 7200), (1000, 7200)])
def test_the_last_delay_repeats(attempts: int, seconds: float) -> None:
    assert delay_s(attempts, DELAYS) == seconds


def test_chance_adds_a_tenth_at_most_and_takes_nothing() -> None:
    waits = {next_time(seed, 1, NOW, NOW + DAY_US, DELAYS) - NOW for seed in range(100)}
    assert 120_000_000 <= min(waits) < max(waits) <= 132_000_000
    assert len(waits) > 90


def test_the_same_attempt_of_a_delivery_is_always_made_at_the_same_time() -> None:
    assert next_time(7, 2, NOW, NOW + DAY_US, DELAYS) == next_time(7, 2, NOW, NOW + DAY_US, DELAYS)
    assert next_time(7, 2, NOW, NOW + DAY_US, DELAYS) != next_time(8, 2, NOW, NOW + DAY_US, DELAYS)


@pytest.mark.parametrize("attempts, over", [(1, False), (2, False), (20, False), (32, False), (33, True), (60, True)])
def test_promise_p12_time_alone_ends_nothing(attempts: int, over: bool) -> None:
    # 120 + 300 + 30 * 7200 s are the first to be half of five days.
    assert is_over(attempts, NOW + 6 * DAY_US, NOW, 5 * 86_400.0, DELAYS) is over
    assert not is_over(attempts, NOW - 1, NOW, 5 * 86_400.0, DELAYS)


def test_the_last_attempt_comes_when_the_time_is_up() -> None:
    assert next_time(1, 3, NOW, NOW + 60_000_000, DELAYS) == NOW + 60_000_000


def test_row_d15_a_message_deferred_for_ever_is_tried_until_its_lifetime_and_then_over() -> None:
    now, attempts, expires = NOW, 0, NOW + 5 * DAY_US
    times = []
    while True:
        attempts += 1
        times.append(now)
        if is_over(attempts, now, expires, 5 * 86_400.0, DELAYS):
            break
        now = next_time(77, attempts, now, expires, DELAYS)
    assert now == expires
    assert times[1] - times[0] < 133_000_000
    assert 50 < len(times) < 65


@pytest.mark.parametrize(
    "header, hops",
    [
        (b"", 0),
        (b"Received: a\r\nreceived: b\r\nX-Received: c\r\nSubject: received: d\r\n", 2),
        (b"Subject: x\r\nRECEIVED: by a\r\n\tReceived: folded\r\n", 1),
    ],
)
def test_hops_are_received_fields(header: bytes, hops: int) -> None:
    assert count_hops(header) == hops


@pytest.mark.parametrize(
    "attempts, at_s, warn_at_s, after_s, late",
    [
        (4, 8000, 7000, 7000.0, True),
        (4, 6999, 7000, 7000.0, False),
        # Only 420 seconds were waited for between attempts: the clock was set ahead.
        (3, 8000, 7000, 7000.0, False),
        (1, 8000, 7000, 7000.0, False),
        # Told before, or never to be told.
        (9, 8000, 0, 7000.0, False),
        (9, 8000, 7000, 0.0, False),
        (1000, 8000, 7000, 1e9, False),
    ],
)
def test_when_a_sender_is_told_of_a_delay(attempts: int, at_s: int, warn_at_s: int, after_s: float, late: bool) -> None:
    assert is_late(attempts, at_s * 1_000_000, warn_at_s * 1_000_000, after_s, DELAYS) is late
