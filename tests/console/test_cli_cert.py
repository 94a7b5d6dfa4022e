"""`postroad cert`: what is told of each kind of certificate, and of a renewal that failed."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from postroad.config import Acme
from postroad.net.tls import ensure_self_signed, make_authority, write_private
from postroad.serve.certificates import FOLDER, NOTES, PAIR, Notes, prepare_folder, wish_of
from tests.console.conftest import CommandLine

NOW_US = time.time_ns() // 1000
ACME = Acme(names=("mail.example.org",), agree_terms=True)
CONFIG = '[acme]\nnames = ["mail.example.org"]\nagree_terms = true\n'


def issued(days: int) -> bytes:
    certificate, key = make_authority("Fake Authority", NOW_US).issue(["mail.example.org"], NOW_US, days)
    return key + certificate


@pytest.fixture
def acme(run: CommandLine) -> list[str]:
    """Options that name a configuration with ACME; the data folder has a certificate of 90 days."""
    file = run.data.parent / "postroad.toml"
    file.write_text(CONFIG)
    run.data.mkdir(mode=0o700)
    prepare_folder(run.data, ACME.names, NOW_US)
    write_private(run.data / FOLDER / PAIR, issued(90))
    return ["--config", str(file)]


def note(run: CommandLine, **fields: object) -> None:
    notes = Notes(wish=wish_of(ACME), **fields)  # type: ignore[arg-type]
    write_private(run.data / FOLDER / NOTES, msgspec.json.encode(notes))


def test_before_the_first_start_there_is_none(run: CommandLine) -> None:
    run.data.mkdir(mode=0o700)
    assert "The server makes one at its first start." in run("cert", status=69).stderr


def test_a_self_signed_one(run: CommandLine) -> None:
    (run.data / "tls").mkdir(parents=True, mode=0o700)
    files = (run.data / "tls" / "self-signed.pem", run.data / "tls" / "self-signed.key")
    ensure_self_signed(["mail.example.org"], *files, NOW_US)
    text = run("cert").output
    assert "issued by   itself: mail programs warn about it\n" in text
    assert "renewed by  nobody\n" in text


def test_one_of_your_own_that_has_ended_is_status_1(run: CommandLine, tmp_path: Path) -> None:
    run.data.mkdir(mode=0o700)
    (tmp_path / "own.pem").write_bytes(issued(0))
    file = tmp_path / "own.toml"
    file.write_text(f'[tls]\ncertificate = "{tmp_path}/own.pem"\nkey = "{tmp_path}/own.pem"\n')
    text = run("--config", str(file), "cert", status=1).output
    assert "issued by   CN=Fake Authority\n" in text
    assert "which is over" in text
    assert "systemctl reload postroad" in text


def test_a_good_one_by_acme(run: CommandLine, acme: list[str]) -> None:
    note(run, renewed_us=NOW_US, tried_us=NOW_US)
    text = run(*acme, "cert").output
    assert "for         mail.example.org\n" in text
    assert "89 days left" in text
    assert f"renewed by  ACME, {ACME.directory}\n" in text
    assert ", when a third of its life remains\n" in text
    assert "last        renewed " in text


def test_a_failed_renewal_is_told_with_its_reason_and_status_1(run: CommandLine, acme: list[str]) -> None:
    note(
        run, tried_us=NOW_US, failures=3, why="the authority refused: it was asked too often", retry_us=NOW_US + 10**10
    )
    text = run(*acme, "cert", "show", status=1).output
    assert "3 failures in a row: the authority refused: it was asked too often\n" in text
    told = run.json(*acme, "cert", "show", status=1)
    assert told["schema"] == "cert/1"
    assert told["why"] == "the authority refused: it was asked too often"
    assert told["names"] == ["mail.example.org"]
    assert not told["self_signed"]


def test_renew_without_acme_or_without_a_server(run: CommandLine, acme: list[str]) -> None:
    assert "Set acme.names" in run("cert", "renew", status=1).stderr
    assert f"No server runs on {run.data}." in run(*acme, "cert", "renew", status=69).stderr
    assert not list((run.data / FOLDER).glob("*.request"))


def test_a_file_that_holds_no_certificate(run: CommandLine, acme: list[str]) -> None:
    (run.data / FOLDER / PAIR).write_text("junk")
    assert "holds no certificate in PEM form" in run(*acme, "cert", status=69).stderr
