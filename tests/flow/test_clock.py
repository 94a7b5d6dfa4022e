"""Promise P12: a wall clock that is set neither lets mail loose all at once, nor keeps it, nor ends it.

Counted against a control run whose clock nobody touches: attempts in every ten minutes of true time.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.fakes.smtp_server import FakeSmtp
from tests.flow.yard import Yard

MINUTE_S = 60.0
STEP_S = 2 * MINUTE_S
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
SPAN_S = 600.0
"""What attempts are counted in."""

MESSAGES = 180
"""Three a minute for an hour, each then tried once an hour: thirty attempts in every span."""


class Watched:
    """A yard whose mail nobody takes; it counts the attempts of each span of true time."""

    def __init__(self, yard: Yard, host: FakeSmtp) -> None:
        self.yard = yard
        self.host = host
        self.now_s = 0.0
        self.attempts: Counter[int] = Counter()
        self._seen = 0

    async def pass_by(self, seconds: float) -> None:
        """Lets time go by, a step at a time."""
        for _ in range(round(seconds / STEP_S)):
            self.now_s += STEP_S
            await self.yard.later(STEP_S)
            tried = sum(line.startswith("RCPT") for line in self.host.commands)
            self.attempts[int(self.now_s // SPAN_S)] += tried - self._seen
            self._seen = tried

    def since(self, began_s: float) -> list[int]:
        """Attempts of each whole span from then to now."""
        return [self.attempts[span] for span in range(int(began_s // SPAN_S), int(self.now_s // SPAN_S))]


USUAL: list[int] = []
"""What the control run has shown; it is the same every time."""


async def play(folder: Path, jumps: list[tuple[float, float]]) -> list[int]:
    """Three hours of a queue in which nothing succeeds; after an hour and a half the wall clock is set, each time by so
    many seconds and then left alone for so many minutes. Returns the attempts of each span since then."""
    folder.mkdir()
    yard = Yard(folder, delays_s=(HOUR_S,))
    yard.runner.start()
    async with FakeSmtp(RCPT="450 4.2.0 later") as host:
        yard.host("far.test", host)
        watched = Watched(yard, host)
        for n in range(MESSAGES):
            yard.send(f"b{n}@far.test")
            if n % 6 == 5:
                await watched.pass_by(STEP_S)
        await watched.pass_by(HOUR_S / 2)
        began_s = watched.now_s
        for seconds, minutes in jumps:
            yard.clock.jump_wall(seconds)
            await watched.pass_by(minutes * MINUTE_S)
        await watched.pass_by(3 * HOUR_S - watched.now_s)
        found = watched.since(began_s)
        assert yard.reports() == []
        assert len(yard.open()) == MESSAGES
        await yard.runner.drain(0.0)
    yard.store.connection.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "jumps",
    [
        [(-HOUR_S, 30)],
        [(HOUR_S, 30)],
        [(HOUR_S / 3, 30)],
        [(6 * DAY_S, 30)],
        [(6 * DAY_S, 30), (-6 * DAY_S, 30)],
        [(-6 * DAY_S, 30), (6 * DAY_S, 30)],
        [(HOUR_S, 2), (-HOUR_S, 2), (HOUR_S, 2), (-HOUR_S, 2)],
    ],
    ids=["an hour back", "an hour on", "20 minutes on", "six days on", "on and back", "back and on", "to and fro"],
)
async def test_promise_p12_a_clock_that_is_set_changes_the_pace_of_retries_by_no_more_than_twice(
    tmp_path: Path, jumps: list[tuple[float, float]]
) -> None:
    USUAL[:] = usual = USUAL or await play(tmp_path / "control", [])
    found = await play(tmp_path / "set", jumps)
    assert min(usual) > 15, "the control run shows no pace to compare with"
    assert max(found) <= 2 * max(usual)
    # And nothing is left lying: over the time all in all about as much is tried as without.
    assert sum(found) >= 0.8 * sum(usual)
