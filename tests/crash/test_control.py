"""The controls of the kill set: a checker that never found a loss proves nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from tests.crash.scene import faults, open_scene, seed_of
from tests.fakes.ledger import Ledger


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(120)
async def test_a_server_that_answers_before_the_commit_is_reported_as_losing(tmp_path: Path) -> None:
    environment = faults(tmp_path, lie="answer-early")
    async with open_scene(tmp_path, seed_of(7), environment=environment) as scene:
        for _ in range(2):
            await scene.load.acknowledged(200)
            await asyncio.sleep(scene.rng.random() * 0.2)
            await scene.kill_all()
            await scene.restart()
        await scene.load.stop()
        # An honest one cleans up: the liar may have sent mail before it had it, and then cannot end it.
        await scene.kill_all()
        scene.server.environment = {}
        await scene.restart()
        verdict = await scene.settle()
        assert verdict.lost, f"{verdict} ({scene.words()})"
        assert not verdict.clean
        assert not verdict.torn, str(verdict)


def ledger_of_one(*recipients: str) -> tuple[Ledger, bytes]:
    """A ledger with one acknowledged message, and what arrives of it."""
    ledger = Ledger()
    entry, raw = ledger.compose(recipients or ("a@b.test",), 300, Random(1))
    ledger.answered(entry, 250, "2.0.0 ok")
    return ledger, b"Received: by mx.test;\r\n\tsome day\r\n" + raw


def test_what_arrived_once_and_whole_is_clean() -> None:
    ledger, content = ledger_of_one()
    ledger.arrived("a@b.test", content)
    assert ledger.judge().clean


def test_a_recipient_without_its_copy_is_a_loss() -> None:
    ledger, content = ledger_of_one("a@b.test", "c@d.test")
    ledger.arrived("a@b.test", content)
    assert ledger.judge().lost == ["m-0 to c@d.test"]


@pytest.mark.parametrize("spoil", [lambda raw: raw[:-1], lambda raw: b"X-Odd: 1\r\n" + raw, lambda raw: raw + b"."])
def test_an_octet_more_or_less_is_torn(spoil: object) -> None:
    ledger, content = ledger_of_one()
    ledger.arrived("a@b.test", spoil(content))  # type: ignore[operator]
    assert ledger.judge().torn == ["m-0 to a@b.test"]


def test_a_second_copy_needs_an_excuse() -> None:
    ledger, content = ledger_of_one()
    ledger.arrived("a@b.test", content)
    ledger.arrived("a@b.test", content)
    assert ledger.judge().doubled == ["m-0 to a@b.test"]


def test_a_lost_reply_excuses_one_copy_and_not_two() -> None:
    ledger, content = ledger_of_one()
    for lost in (True, False, False):
        ledger.arrived("a@b.test", content, reply_lost=lost)
    verdict = ledger.judge()
    assert (verdict.excused, verdict.doubled) == (1, ["m-0 to a@b.test"])


@pytest.mark.parametrize("still_open, excused", [(True, 1), (False, 0)])
def test_a_death_excuses_only_what_was_open_in_the_store(still_open: bool, excused: int) -> None:
    ledger, content = ledger_of_one()
    ledger.arrived("a@b.test", content)
    at = ledger.arrivals[0].at
    ledger.died("worker-0", at, [("m-0", "a@b.test")] if still_open else [])
    ledger.arrived("a@b.test", content)
    assert ledger.judge().excused == excused
    assert ledger.judge().clean == still_open


def test_what_was_never_sent_or_never_finished_must_not_arrive() -> None:
    ledger, content = ledger_of_one()
    ledger.arrived("a@b.test", content)
    ledger.arrived("a@b.test", content.replace(b"<m-0@", b"<m-9@"))
    ledger.arrived("a@b.test", b"Subject: who are you\r\n\r\n")
    begun, raw = ledger.compose(("a@b.test",), 300, Random(2))
    ledger.arrived("a@b.test", raw)
    refused, raw = ledger.compose(("a@b.test",), 300, Random(3))
    ledger.answered(refused, 452, "no space")
    ledger.arrived("a@b.test", raw)
    names = [words.partition(" ")[0] for words in ledger.judge().extra]
    assert names == ["m-9", "a", begun.ident, refused.ident]


def test_an_unclear_answer_allows_both() -> None:
    ledger = Ledger()
    for number in range(2):
        entry, raw = ledger.compose(("a@b.test",), 300, Random(number))
        ledger.answered(entry, 451, "try again")
    ledger.arrived("a@b.test", b"Received: by mx.test; now\r\n" + raw)
    assert ledger.judge().clean
