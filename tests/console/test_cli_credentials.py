"""`postroad user app-password`, `grant`, `revoke`, `grants` and `passwd --app-only`."""

from __future__ import annotations

import re
import time

import pytest

from postroad.serve.passwords import app_password_digest, scram_keys
from postroad.store.credential_records import LoginEntry
from postroad.store.credentials import Credentials
from postroad.store.reader import Reader
from tests.console.conftest import CommandLine

ANNA = "anna@dev.test"
ADD = ("user", "app-password", "add", ANNA, "--label")


async def entry(run: CommandLine) -> LoginEntry:
    reader = Reader(run.data)
    found = await Credentials(reader).login_entry(ANNA)
    reader.close()
    assert found is not None
    return found


async def test_app_password_is_shown_once_and_proved_by_both_proofs(dev_test: CommandLine) -> None:
    output = dev_test(*ADD, "Phone").stdout
    assert f"{ANNA}#phone" in output
    found = re.search(r"Password: ((?:[a-z2-9]{4}-){5}[a-z2-9]{4})\n", output)
    assert found is not None
    (stored,) = (await entry(dev_test)).app_passwords
    assert (stored.label, stored.networks) == ("phone", ())
    assert stored.scopes == {"smtp", "imap", "pop3"}
    assert stored.digest == app_password_digest(found[1])
    keys = scram_keys(found[1], stored.scram_salt, stored.scram_iterations)
    assert keys == (stored.scram_stored_key, stored.scram_server_key)
    listed = dev_test("user", "app-password", "list", ANNA).output
    assert listed.startswith("phone\tsmtp,imap,pop3\tanywhere\tnever\tnever\t-")
    assert found[1] not in listed


async def test_app_password_with_scope_time_and_networks(dev_test: CommandLine) -> None:
    words = ("--scope", "imap, SMTP", "--expires", "90d", "--from", "192.0.2.9/24", "--from", "2001:db8::/32")
    dev_test(*ADD, "phone", *words)
    (row,) = dev_test.json("user", "app-password", "list", ANNA)["rows"]
    assert row["scopes"] == ["smtp", "imap"]
    assert row["networks"] == ["192.0.2.0/24", "2001:db8::/32"]
    assert abs(row["expires_us"] / 1e6 - time.time() - 90 * 86_400) < 60
    assert (row["used_us"], row["used_from"]) == (0, "")
    assert "digest" not in row


def test_app_password_is_removed(dev_test: CommandLine) -> None:
    dev_test(*ADD, "phone")
    assert "already has" in dev_test(*ADD, "phone", status=1).stderr
    dev_test("user", "app-password", "remove", ANNA, "Phone")
    assert dev_test.json("user", "app-password", "list", ANNA)["rows"] == []
    assert "has no app password" in dev_test("user", "app-password", "remove", ANNA, "phone", status=1).stderr


@pytest.mark.parametrize(
    "words, status, said",
    [
        ((*ADD, "a b"), 2, "lower-case letters"),
        ((*ADD, "phone", "--scope", "http"), 2, "smtp, imap, pop3"),
        ((*ADD, "phone", "--expires", "soon"), 2, "not a length of time"),
        ((*ADD, "phone", "--expires", "0d"), 2, "not a length of time"),
        ((*ADD, "phone", "--from", "home"), 2, "not a network"),
        (("user", "app-password", "add", "x@dev.test", "--label", "phone"), 67, "no such account"),
        (("user", "app-password", "list", "x@dev.test"), 67, "no such account"),
        (("user", "passwd", ANNA, "--app-only", "--generate"), 2, "Choose one"),
        (("user", "grant", ANNA, "nothing"), 2, "neither a mail address"),
        (("user", "grant", "x@dev.test", "a@dev.test"), 67, "no such account"),
        (("user", "revoke", ANNA), 1, "no such grant"),
        (("user", "grants", "x@dev.test"), 67, "no such account"),
    ],
)
def test_what_cannot_be_done_is_said(dev_test: CommandLine, words: tuple[str, ...], status: int, said: str) -> None:
    assert said in dev_test(*words, status=status).stderr


async def test_only_app_passwords_and_back(dev_test: CommandLine) -> None:
    before = (await entry(dev_test)).credential
    dev_test("user", "passwd", ANNA, "--app-only")
    assert (await entry(dev_test)).app_only
    dev_test("user", "passwd", ANNA, "--not-app-only")
    found = await entry(dev_test)
    assert (found.app_only, found.credential) == (False, before)


def test_grants_come_and_go(dev_test: CommandLine) -> None:
    dev_test("user", "grant", ANNA, "Sales@dev.test", "@else.test")
    senders = [row["sender"] for row in dev_test.json("user", "grants", ANNA)["rows"]]
    assert senders == ["@else.test", "sales@dev.test"]
    dev_test("user", "revoke", ANNA, "sales@dev.test")
    assert dev_test("user", "grants", ANNA).output.startswith("@else.test\t")
    dev_test("user", "revoke", ANNA)
    assert "No grant" in dev_test("user", "grants", ANNA).output
