"""When a certificate is asked for, what a failure leaves behind, and what the workers are told."""

from __future__ import annotations

import os
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from postroad.config import Acme
from postroad.net.acme import HTTP_01, TLS_ALPN_01, Answer
from postroad.net.acme_words import AcmeError
from postroad.serve.certificates import (
    FOLDER,
    NOTES,
    PAIR,
    REQUEST,
    RETRY_S,
    CertificateKeeper,
    Holding,
    Notes,
    next_try_us,
    pause_s,
    prepare_folder,
    read_holding,
    read_notes,
    wish_of,
)
from tests.fakes.acme import DIRECTORY, FakeAuthority, Shown, problem
from tests.fakes.clock import FakeClock

DAY_US = 86_400_000_000
NOW_US = FakeClock().wall_us()
NAMES = ("mail.example.org", "imap.example.org")
ACME = Acme(names=NAMES, agree_terms=True, directory=DIRECTORY)
WISH = wish_of(ACME)


def held(days: int = 90, names: tuple[str, ...] = NAMES, self_signed: bool = False) -> Holding:
    return Holding(names, "CN=Fake", NOW_US, NOW_US + days * DAY_US, self_signed)


AT_60_DAYS = NOW_US + 60 * DAY_US
LATER = NOW_US + DAY_US


@pytest.mark.parametrize(
    "holding, notes, when",
    [
        (None, Notes(), 0),
        (held(self_signed=True), Notes(), 0),
        (held(names=NAMES[:1]), Notes(), 0),
        (held(names=(*NAMES, "more.example.org")), Notes(), AT_60_DAYS),
        (held(), Notes(), AT_60_DAYS),
        (held(days=6), Notes(), NOW_US + 4 * DAY_US),
        (held(), Notes(issued_by=DIRECTORY), AT_60_DAYS),
        (held(), Notes(issued_by="https://other.test/"), 0),
        # after a failure: not before the pause has ended, and never earlier than without it
        (None, Notes(wish=WISH, why="no", retry_us=LATER), LATER),
        (held(), Notes(wish=WISH, why="no", retry_us=LATER), AT_60_DAYS),
        (held(days=1), Notes(wish=WISH, why="no", retry_us=LATER), LATER),
        # another wish does not wait for the pause of the old one
        (None, Notes(wish="other", why="no", retry_us=LATER), 0),
    ],
)
def test_when_a_certificate_is_asked_for(holding: Holding | None, notes: Notes, when: int) -> None:
    assert next_try_us(holding, ACME, notes) == when


@pytest.mark.parametrize(
    "failures, asked, chance, seconds",
    [
        (1, None, 0.5, RETRY_S[0]),
        (1, None, 0.0, RETRY_S[0] * 0.8),
        (1, None, 1.0, RETRY_S[0] * 1.2),
        (3, None, 0.5, RETRY_S[2]),
        (99, None, 0.5, RETRY_S[-1]),
        (1, 86_400.0, 0.5, 86_400.0),
        (1, 1.0, 0.5, RETRY_S[0]),
    ],
)
def test_pauses_grow_and_follow_the_authority(
    failures: int, asked: float | None, chance: float, seconds: float
) -> None:
    assert pause_s(failures, asked, chance) == pytest.approx(seconds)


def test_names_may_be_written_in_capitals() -> None:
    shouted = msgspec.structs.replace(ACME, names=("MAIL.example.org",))
    assert next_try_us(held(), shouted, Notes()) == AT_60_DAYS


class Turns(Shown):
    """What the keeper asks of `Challenges`."""

    def __init__(self) -> None:
        super().__init__(HTTP_01, TLS_ALPN_01)
        self.turns: list[int] = []

    def prefer(self, turn: int) -> None:
        self.turns.append(turn)


class Scene:
    """A keeper on a folder of its own, with an authority in memory and a clock that the test moves."""

    def __init__(self, folder: Path, acme: Acme = ACME) -> None:
        self.data = folder / "data"
        self.data.mkdir(mode=0o700, exist_ok=True)
        self.clock = FakeClock()
        self.pair = prepare_folder(self.data, NAMES, self.clock.wall_us())
        self.authority = FakeAuthority(self.clock.wall_us())
        self.reloads = 0
        self.shown = Turns()
        self.acme = acme
        self.restart()

    def restart(self, **options: Any) -> None:
        self.keeper = CertificateKeeper(
            self.acme,
            self.data,
            self.shown,  # type: ignore[arg-type]
            self.clock,
            connect=options.get("connect", self.authority.connect),
            sleep=self._sleep,
            chance=lambda: 0.5,
        )

    async def look(self) -> None:
        await self.keeper.look(self._reload)

    async def after(self, seconds: float) -> int:
        """Requests made by a look this much later."""
        before = len(self.authority.requests)
        self.clock.advance(seconds)
        self.authority.now_us = self.clock.wall_us()
        await self.look()
        return len(self.authority.requests) - before

    @property
    def notes(self) -> Notes:
        return read_notes(self.data / FOLDER)

    def refuse(self, answer: Answer) -> None:
        self.authority.faults["/order"] = [answer]

    def _reload(self) -> None:
        # What the workers do: the pair must always be usable.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.pair, self.pair)
        self.reloads += 1

    async def _sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_the_first_certificate_replaces_the_self_signed_one(scene: Scene) -> None:
    assert read_holding(scene.pair).self_signed
    await scene.look()
    holding = read_holding(scene.pair)
    assert sorted(holding.names) == sorted(NAMES)
    assert not holding.self_signed
    assert scene.reloads == 1
    assert {stat.S_IMODE(file.stat().st_mode) for file in (scene.data / FOLDER).iterdir()} == {0o600}
    assert (scene.notes.why, scene.notes.issued_by) == ("", DIRECTORY)


async def test_it_is_renewed_when_a_third_remains_with_a_new_key(scene: Scene) -> None:
    await scene.look()
    first = scene.pair.read_bytes()
    assert await scene.after(59 * 86_400) == 0
    scene.restart()
    assert await scene.after(0.9 * 86_400) == 0
    assert await scene.after(0.1 * 86_400) > 0
    assert scene.pair.read_bytes().partition(b"-----END PRIVATE KEY")[0] != first.partition(b"-----END PRIVATE KEY")[0]
    assert scene.reloads == 2
    assert scene.authority.accounts == 2  # the same account was found again: its key is kept


async def test_the_key_stays_where_dns_names_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path, msgspec.structs.replace(ACME, keep_key=True))
    key = scene.pair.read_bytes().partition(b"-----END PRIVATE KEY")[0]
    await scene.look()
    await scene.after(61 * 86_400)
    assert scene.reloads == 2
    assert scene.pair.read_bytes().startswith(key)


async def test_a_failure_keeps_the_old_one_and_is_remembered_over_a_restart(scene: Scene) -> None:
    await scene.look()
    old = scene.pair.read_bytes()
    scene.refuse(problem("rateLimited", "slow down", 429, retry_after="7200"))
    await scene.after(61 * 86_400)
    assert scene.pair.read_bytes() == old
    assert scene.reloads == 1
    assert 'it was asked too often (it said: "slow down")' in scene.notes.why
    assert scene.notes.renewed_us > 0
    scene.restart()
    assert await scene.after(7100) == 0
    assert await scene.after(200) > 0
    assert (scene.notes.why, scene.notes.failures, scene.reloads) == ("", 0, 2)


async def test_failures_in_a_row_wait_longer_and_take_the_other_way(scene: Scene) -> None:
    for failures, pause in enumerate(RETRY_S[:3], start=1):
        scene.refuse(problem("malformed"))
        assert await scene.after(0) > 0
        assert scene.notes.failures == failures
        assert await scene.after(pause - 1) == 0
        scene.clock.advance(1)
    assert scene.shown.turns == [0, 1, 2]


async def test_a_request_does_not_wait_and_is_answered_once(scene: Scene) -> None:
    scene.refuse(problem("malformed"))
    await scene.look()
    (scene.data / FOLDER / REQUEST).touch()
    assert await scene.after(1) > 0
    assert not (scene.data / FOLDER / REQUEST).exists()
    assert scene.notes.why == ""
    assert await scene.after(1) == 0


async def test_a_clock_that_is_set_forward_is_noticed(scene: Scene) -> None:
    await scene.look()
    before = len(scene.authority.requests)
    scene.clock.jump_wall(70 * 86_400)
    scene.authority.now_us = scene.clock.wall_us()
    await scene.look()
    assert len(scene.authority.requests) > before


async def test_a_useless_certificate_is_not_put_in_place(scene: Scene) -> None:
    old = scene.pair.read_bytes()
    scene.authority.issues = lambda csr: b"<html>"
    await scene.look()
    assert scene.pair.read_bytes() == old
    assert "something that is no certificate" in scene.notes.why
    assert scene.reloads == 0


def raising(error: Exception) -> Callable[[str, str], Any]:
    @asynccontextmanager
    async def connect(directory: str, ca_file: str) -> Any:
        raise error
        yield

    return connect


@pytest.mark.parametrize(
    "error, why",
    [
        (AcmeError("authority.test could not be reached: no route"), "authority.test could not be reached: no route"),
        (TimeoutError(), "the authority did not finish within 15 minutes"),
        (OSError(28, "No space left on device", "/data/x"), "/data/x cannot be used: No space left on device"),
        (RuntimeError("a bug"), "an error of ours, with the reference "),
    ],
)
async def test_whatever_goes_wrong_the_keeper_goes_on(scene: Scene, error: Exception, why: str) -> None:
    scene.restart(connect=raising(error))
    await scene.look()
    assert why in scene.notes.why
    scene.restart()
    assert await scene.after(RETRY_S[0] + 1) > 0
    assert scene.reloads == 1


async def test_notes_that_cannot_be_written_do_not_make_it_ask_all_the_time(scene: Scene) -> None:
    (scene.data / FOLDER / NOTES).mkdir()
    scene.refuse(problem("malformed"))
    await scene.look()
    assert await scene.after(1) == 0


async def test_an_external_account_whose_key_is_none(tmp_path: Path) -> None:
    file = tmp_path / "binding.key"
    file.write_text("x")
    scene = Scene(tmp_path, msgspec.structs.replace(ACME, binding_id="id", binding_key_file=str(file)))
    await scene.look()
    assert scene.notes.why == f"{file} holds no key in base64url"


def test_without_agreement_there_is_no_keeper(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="terms"):
        Scene(tmp_path, msgspec.structs.replace(ACME, agree_terms=False))


def test_a_pair_that_somebody_damaged_is_replaced_at_the_start(tmp_path: Path) -> None:
    pair = prepare_folder(tmp_path, NAMES, NOW_US)
    whole = pair.read_bytes()
    assert prepare_folder(tmp_path, NAMES, NOW_US).read_bytes() == whole
    for damage in (b"", whole[:300], b"junk"):
        pair.write_bytes(damage)
        prepare_folder(tmp_path, NAMES, NOW_US)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pair, pair)
    assert pair.name == PAIR


@pytest.mark.slow
def test_workers_do_not_load_the_http_client() -> None:
    code = "import sys, postroad.app.worker, postroad.serve.certificates; print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "False"
