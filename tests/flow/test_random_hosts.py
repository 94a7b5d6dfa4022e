"""Whatever hosts say, in whatever order: nothing is lost, nothing goes twice, and once they behave all mail leaves."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from postroad.config.providers import Provider, ReplyRule
from postroad.flow.providers import Providers
from postroad.flow.route import read_signposts
from tests.fakes.smtp_server import OK, Drop, FakeSmtp, Raw, Step
from tests.flow.yard import Yard, until

DOMAINS = 6
MOODS: dict[str, list[Step]] = {
    "CONNECT": ["421 4.3.2 closing", "554 5.7.1 wait for me", "421 4.7.0 slower", Drop()],
    "EHLO": ["550 5.5.0 no", "421 4.3.2 closing"],
    "MAIL": ["451 4.3.0 later", "421 4.7.0 slower", "450 4.7.1 wait for me", Drop()],
    "RCPT": ["450 4.2.0 later", "452 4.5.3 too many recipients", "421 4.3.2 closing", Raw(b"nonsense\r\n")],
    "DATA": ["451 4.3.0 later", Drop()],
    "DOT": ["451 4.3.0 later", "421 4.3.2 closing", "554 5.7.1 wait for me"],
}
USUAL = {"CONNECT": "220 fake.test ESMTP", "EHLO": "250-fake.test\r\n250 8BITMIME", "DATA": "354 go on"}


def rule(action: str, for_s: float, text: str) -> ReplyRule:
    return ReplyRule(text=text, means=action, action=action, for_s=for_s)


LIMITS: list[dict[str, Any]] = [{}, {"connections": 1}, {"connections": 2, "messages_per_minute": 20}]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2, 9, 40, 44])
async def test_all_mail_leaves_once_when_the_hosts_have_calmed_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = Random(seed)
    monkeypatch.setattr("postroad.flow.pool.LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr("postroad.flow.pool.HOLD_S", 0.0)  # a connection would sleep on the real clock
    monkeypatch.setattr("postroad.flow.idle.SWEEP_S", 0.01)
    monkeypatch.setattr("postroad.flow.runner.CONNECTIONS_MAX", rng.choice([1, 3, 500]))
    replies = {"wait": rule("suspend", 300.0, "wait for me"), "slower": rule("slow", 120.0, "slower")}
    large = Provider(hosts=(".large.test",), **rng.choice(LIMITS))
    providers = Providers({"large": large, "everybody": Provider(replies=replies)})
    calm = False

    def mood(step: str) -> Any:
        def answer(line: str) -> Step:
            if calm or rng.random() < 0.8:
                return USUAL.get(step, OK)
            return rng.choice(MOODS[step])

        return answer

    async with FakeSmtp(**{step: mood(step) for step in MOODS}) as host:
        signposts = read_signposts(port=host.port, allow_private=["127.0.0.0/8"])
        yard = Yard(tmp_path, providers=providers, signposts=signposts, idle_s=0.05)
        for number in range(DOMAINS):
            yard.dns.mx_records[f"d{number}.test"] = [(10, f"d{number}.{'large' if number % 2 else 'other'}.test")]
            for end in ("large", "other"):
                yard.dns.address_records[f"d{number}.{end}.test"] = ["127.0.0.1"]
        yard.runner.start()
        pool, sent = yard.runner._pool, []

        async def pass_time(seconds: float) -> None:
            """Time goes by, and what was to be looked at in it is."""
            yard.clock.advance(seconds)
            for site, timer in list(pool._wakes.items()):
                timer.cancel()
                pool._wake(site)
            claims = yard.store.calls.count("claim")
            yard.runner.wake()
            await until(lambda: yard.store.calls.count("claim") > claims)

        for number in range(60):
            recipients = [f"r{number}x{n}@d{rng.randrange(DOMAINS)}.test" for n in range(rng.choice([1, 1, 3]))]
            yard.send(*recipients)
            sent += recipients
            await pass_time(rng.choice([0.1, 1.0, 5.0, 60.0, 400.0]))
        calm = True
        for _ in range(400):
            if not yard.open():
                break
            await pass_time(30.0)
            await asyncio.sleep(0.005)  # the sockets' turn
        assert yard.open() == []
        assert yard.runner.in_flight == 0
        arrived = Counter(host.recipients)
        assert set(arrived) == set(sent), "nothing is lost"
        assert sum(arrived.values()) == len(sent), "and nothing went twice: no final answer was lost"
        await yard.runner.drain(0.0)
        yard.store.connection.close()
