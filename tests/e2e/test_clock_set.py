"""Promise P12 in a running server: somebody sets its clock, an hour on and back again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Loop, Office, with_certificate
from tests.e2e.mail import message, submission, until
from tests.fakes.smtp_server import FakeSmtp
from tests.live import LiveServer, live_server

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

ANNA = "anna@local.test"
MESSAGES = 20
HOUR_S = 3600
DELAY_S = 600


SET = """
import os, time

true_ns = time.time_ns

def set_ns():
    with open({file!r}) as file:
        return true_ns() + int(file.read()) * 10**9

time.time_ns = set_ns
time.time = lambda: set_ns() / 1e9
"""
"""What each process of the server runs before anything else: wall time is the true one and what stands in a file."""


class Clock:
    """What a server of ours believes the time to be, in seconds beside the true one; intervals are left alone."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "seconds"
        self.set(0)
        (folder / "first").mkdir()
        (folder / "first" / "sitecustomize.py").write_text(SET.format(file=str(self._file)))
        self.environment = {"PYTHONPATH": str(folder / "first")}

    def set(self, seconds: int) -> None:
        """Sets the clock, from one moment to the next."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.replace(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


def send(server: LiveServer, to: str) -> None:
    with submission(server, ANNA) as client:
        client.send_message(message(ANNA, to, "hello"))


def next_times(server: LiveServer) -> dict[str, float]:
    """Seconds since 1970 of the next attempt, by recipient, of what waits for one."""
    rows = json.loads(server.run("queue", "list", "--each", "--state", "deferred", "--json"))["rows"]
    return {row["recipient"]: row["next_us"] / 1e6 for row in rows}


def test_promise_p12_a_server_whose_clock_is_set_lets_nothing_loose_and_keeps_nothing(
    tmp_path: Path, loop: Loop, clock: Clock
) -> None:
    host = FakeSmtp(RCPT="451 4.7.1 not now")
    loop.run(host.start())
    config = (
        with_certificate(tmp_path)
        + f'[relay]\nnext_hop = "127.0.0.1:{host.port}"\n[retry]\ndelays_s = [{DELAY_S}]\n'
        + "[sending]\nfirst_time_recipients_per_day = 0\n"
    )

    def tried() -> int:
        return sum(line.startswith("RCPT") for line in host.commands)

    with live_server(tmp_path, kind=Office, config=config, environment=clock.environment) as server:
        for n in range(MESSAGES):
            send(server, f"b{n}@far.test")
        before = until(lambda: len(found := next_times(server)) == MESSAGES and tried() == MESSAGES and found)
        assert before
        for seconds, words in ((HOUR_S, "set ahead by"), (0, "set back by")):
            clock.set(seconds)
            until(lambda words=words: words in server.log())  # type: ignore[misc]
            moved = {to: at - before[to] for to, at in next_times(server).items() if to in before}
            assert moved.keys() == before.keys()
            assert all(abs(by - seconds) < 5 for by in moved.values()), moved
            # Fresh mail goes at once, so the worker does look; and it goes alone.
            known = tried()
            send(server, f"c{seconds}@far.test")
            until(lambda known=known: tried() > known)  # type: ignore[misc]
            # Its answer must be written down before the clock is set again: what is on its way then is tried once more.
            until(lambda to=f"c{seconds}@far.test": to in next_times(server))  # type: ignore[misc]
            assert tried() == known + 1
        assert tried() == MESSAGES + 2
        assert "Traceback" not in server.log()
    loop.run(host.close())
