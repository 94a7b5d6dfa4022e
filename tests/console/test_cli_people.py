"""`postroad domain`, `postroad user`, `postroad alias`: who gets mail here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from postroad.console.cli.secrets import made_up
from postroad.console.cli.show import parse_size, size_text
from postroad.serve.passwords import proves
from postroad.store.credentials import Credentials
from postroad.store.reader import Reader
from tests.console.conftest import CommandLine


async def password_holds(run: CommandLine, address: str, password: str) -> bool:
    reader = Reader(run.data)
    found = await Credentials(reader).login_entry(address)
    reader.close()
    assert found is not None
    assert found.credential is not None
    return proves(found.credential.argon2, password)


def test_domains_come_and_go(run: CommandLine) -> None:
    run("domain", "add", "dev.test")
    run("domain", "add", "Bücher.example", "--postmaster", "eva@dev.test")
    names = [(row["name"], row["postmaster"]) for row in run.json("domain", "list")["rows"]]
    assert names == [("dev.test", ""), ("xn--bcher-kva.example", "eva@dev.test")]
    run("domain", "remove", "dev.test")
    assert [row["name"] for row in run.json("domain", "list")["rows"]] == ["xn--bcher-kva.example"]


def test_domain_that_is_there_or_wrong(run: CommandLine) -> None:
    run("domain", "add", "dev.test")
    assert "already served here" in run("domain", "add", "dev.test", status=1).stderr
    assert "not a domain name" in run("domain", "add", "no domain", status=2).stderr
    assert "not served here" in run("domain", "remove", "else.test", status=1).stderr


def test_domain_with_accounts_is_removed_only_by_force(dev_test: CommandLine) -> None:
    result = dev_test("domain", "remove", "dev.test", status=1)
    assert "still has 1 account and 0 aliases" in result.stderr
    assert "Add --yes" in dev_test("domain", "remove", "dev.test", "--force", status=2).stderr
    dev_test("domain", "remove", "dev.test", "--force", "--yes")
    assert dev_test.json("user", "list")["rows"] == []


def test_catch_all_and_postmaster(dev_test: CommandLine) -> None:
    dev_test("domain", "set", "dev.test", "--catch-all", "anna@dev.test", "--postmaster", "anna@dev.test")
    (row,) = dev_test.json("domain", "list")["rows"]
    assert (row["catch_all"], row["postmaster"]) == ("anna@dev.test", "anna@dev.test")
    dev_test("domain", "set", "dev.test", "--catch-all", "")
    assert dev_test.json("domain", "list")["rows"][0]["catch_all"] == ""
    dev_test("domain", "set", "dev.test", status=2)


def test_a_domain_is_passed_to_a_host_and_kept_again(dev_test: CommandLine) -> None:
    said = dev_test("domain", "gateway", "dev.test", "--to", "inner.test").stdout
    assert "Mail for dev.test is passed to inner.test from now on" in said
    (row,) = dev_test.json("domain", "list")["rows"]
    assert row["gateway"] == {"to": "inner.test:25", "check": "callout", "in_doubt": "known"}
    assert "inner.test:25 by callout" in dev_test("domain", "list").stdout
    words = ("--to", "lmtp:/run/lmtp", "--check", "list", "--in-doubt", "defer")
    assert "domain recipients" in dev_test("domain", "gateway", "dev.test", *words).stdout
    (row,) = dev_test.json("domain", "list")["rows"]
    assert row["gateway"] == {"to": "lmtp:/run/lmtp", "check": "list", "in_doubt": "defer"}
    dev_test("domain", "gateway", "dev.test", "--off")
    assert dev_test.json("domain", "list")["rows"][0]["gateway"] is None


@pytest.mark.parametrize(
    "words, status, said",
    [
        (("dev.test",), 2, "--to"),
        (("dev.test", "--to", "a.test", "--off"), 2, "--to"),
        (("dev.test", "--off", "--check", "all"), 2, "--to"),
        (("dev.test", "--to", "a.test:x"), 2, "That is no host"),
        (("dev.test", "--to", "a.test", "--check", "guess"), 2, "guess"),
        (("else.test", "--to", "a.test"), 1, "not served here"),
    ],
)
def test_a_gateway_that_cannot_be_says_why(
    dev_test: CommandLine, words: tuple[str, ...], status: int, said: str
) -> None:
    assert said in dev_test("domain", "gateway", *words, status=status).stderr


def test_the_list_of_a_gateway_domain(dev_test: CommandLine, tmp_path: Path) -> None:
    people = tmp_path / "people.txt"
    people.write_text("# staff\n" + "".join(f"u{number}@Dev.Test\n\n" for number in range(1100)))
    assert "1,100 recipients added" in dev_test("domain", "recipients", "dev.test", "--add-from", str(people)).stdout
    rows = dev_test.json("domain", "recipients", "dev.test")["rows"]
    assert len(rows) == 1100
    assert {"address": "u1099@dev.test"} in rows
    changes = ("--add", "eva@dev.test", "--remove", "u1@dev.test", "--remove", "u2@dev.test")
    assert "1 recipient added and 2 recipients removed" in dev_test("domain", "recipients", "dev.test", *changes).stdout
    assert len(dev_test.json("domain", "recipients", "dev.test")["rows"]) == 1099
    assert "eva@dev.test" in dev_test("domain", "recipients", "dev.test").stdout


@pytest.mark.parametrize(
    "words, status, said",
    [
        (("dev.test", "--add", "ok@dev.test", "--add", "no address"), 2, "no address"),
        (("dev.test", "--add", "ok@dev.test", "--add", "b@else.test"), 2, "is no address of dev.test"),
        (("else.test", "--add", "b@else.test"), 1, "not served here"),
        (("else.test",), 1, "not served here"),
        (("no domain",), 2, "no domain"),
    ],
)
def test_a_list_that_is_wrong_changes_nothing(
    dev_test: CommandLine, words: tuple[str, ...], status: int, said: str
) -> None:
    assert said in dev_test("domain", "recipients", *words, status=status).stderr
    assert dev_test.json("domain", "recipients", "dev.test")["rows"] == []


async def test_password_from_standard_input(dev_test: CommandLine) -> None:
    assert await password_holds(dev_test, "anna@dev.test", "secret words")


async def test_password_is_made_up_and_shown_once(dev_test: CommandLine) -> None:
    output = dev_test("user", "add", "bob@dev.test").stdout
    found = re.search(r"Password: (\S+)", output)
    assert found is not None
    assert re.fullmatch(r"(?:[a-z2-9]{4}-){4}[a-z2-9]{4}", found[1])
    assert await password_holds(dev_test, "bob@dev.test", found[1])


def test_passwords_made_up_differ() -> None:
    assert len({made_up() for _ in range(50)}) == 50


async def test_new_password_counts(dev_test: CommandLine) -> None:
    dev_test("user", "passwd", "anna@dev.test", "--password-stdin", stdin="other words\n")
    assert await password_holds(dev_test, "anna@dev.test", "other words")
    assert not await password_holds(dev_test, "anna@dev.test", "secret words")


def test_password_given_is_never_shown(dev_test: CommandLine) -> None:
    result = dev_test("user", "passwd", "anna@dev.test", "--password-stdin", stdin="other words\n")
    assert "other words" not in result.output


def test_password_that_cannot_be_used(dev_test: CommandLine) -> None:
    result = dev_test("user", "passwd", "anna@dev.test", "--password-stdin", stdin="tab\there\n", status=2)
    assert "This password cannot be used" in result.stderr
    assert "tab" not in result.stderr
    dev_test("user", "passwd", "anna@dev.test", "--password-stdin", stdin="", status=2)


def test_accounts_are_listed_with_their_quota(dev_test: CommandLine) -> None:
    dev_test("user", "add", "bob@dev.test", "--quota", "5GB", "--generate")
    rows = dev_test.json("user", "list")["rows"]
    assert [(row["address"], row["quota_bytes"]) for row in rows] == [
        ("anna@dev.test", 0),
        ("bob@dev.test", 5_000_000_000),
    ]
    assert dev_test.json("user", "list", "else.test")["rows"] == []
    assert dev_test("user", "list").output.split("\n")[1].split("\t")[:4] == ["bob@dev.test", "0", "0 B", "5 GB"]


def test_quota_and_state_change(dev_test: CommandLine) -> None:
    assert "may hold 1 GB" in dev_test("user", "quota", "anna@dev.test", "1GB").output
    dev_test("user", "disable", "anna@dev.test")
    (row,) = dev_test.json("user", "list")["rows"]
    assert (row["quota_bytes"], row["disabled"]) == (1_000_000_000, True)
    dev_test("user", "enable", "anna@dev.test")
    dev_test("user", "quota", "anna@dev.test", "none")
    assert dev_test.json("user", "list")["rows"][0]["quota_bytes"] == 0
    assert "is not a size. Write it as 5GB" in dev_test("user", "quota", "anna@dev.test", "lots", status=2).output


def test_limits_are_shown_and_set_one_by_one(dev_test: CommandLine) -> None:
    lines = dev_test("user", "limits", "anna@dev.test").output.splitlines()
    assert lines[0] == "messages per hour\t200\t0\tconfiguration"
    assert lines[3] == "recipients per message\t200\t-\tconfiguration"
    dev_test("user", "limits", "anna@dev.test", "--messages-per-hour", "1000", "--recipients-per-day", "none")
    rows = dev_test.json("user", "limits", "anna@dev.test", "--messages-per-hour", "7")["rows"]
    assert rows[:2] == [
        {"limit": "messages_per_hour", "value": 7, "own": True, "used": 0},
        {"limit": "recipients_per_day", "value": 0, "own": True, "used": 0},
    ]
    assert [row["own"] for row in rows[2:]] == [False, False]
    lines = dev_test("user", "limits", "anna@dev.test", "--messages-per-hour", "default").output.splitlines()
    assert lines[:2] == ["messages per hour\t200\t0\tconfiguration", "recipients per day\tnone\t0\taccount"]
    wrong = dev_test("user", "limits", "anna@dev.test", "--messages-per-hour", "-3", status=2)
    assert "Write a number, none or default" in wrong.output


def test_limits_know_every_field() -> None:
    from postroad.console.cli.user import LIMITS
    from postroad.store.records import Allowed

    assert tuple(LIMITS) == Allowed.__struct_fields__


@pytest.mark.parametrize(
    "words, status, said",
    [
        (("user", "add", "anna@dev.test"), 1, "already is an account or an alias"),
        (("user", "add", "anna@else.test"), 1, "not served here"),
        (("user", "add", "anna"), 2, "not a mail address"),
        (("user", "passwd", "nobody@dev.test"), 67, "no such account"),
        (("user", "quota", "nobody@dev.test", "1GB"), 67, "no such account"),
        (("user", "limits", "nobody@dev.test"), 67, "no such account"),
        (("user", "limits", "nobody@dev.test", "--messages-per-hour", "1"), 67, "no such account"),
        (("user", "remove", "nobody@dev.test", "--yes"), 67, "no such account"),
        (("alias", "remove", "nobody@dev.test"), 67, "no such alias"),
        (("alias", "add", "anna@dev.test", "x@y.test"), 1, "already is an account or an alias"),
        (("alias", "add", "info@else.test", "x@y.test"), 1, "not served here"),
    ],
)
def test_what_cannot_be_done_says_why(dev_test: CommandLine, words: tuple[str, ...], status: int, said: str) -> None:
    result = dev_test(*words, status=status)
    assert said in result.stderr
    assert "Nothing was changed" in result.stderr


def test_account_is_removed_after_a_yes(dev_test: CommandLine) -> None:
    dev_test("user", "remove", "anna@dev.test", status=2)
    assert dev_test.json("user", "list")["rows"]
    dev_test("user", "remove", "anna@dev.test", "--yes")
    assert dev_test.json("user", "list")["rows"] == []
    assert "No account yet" in dev_test("user", "list").stderr


def test_aliases_come_and_go(dev_test: CommandLine) -> None:
    dev_test("alias", "add", "info@dev.test", "anna@dev.test", "bob@else.test")
    assert dev_test.json("alias", "list")["rows"] == [
        {"address": "info@dev.test", "targets": ["anna@dev.test", "bob@else.test"]}
    ]
    dev_test("alias", "remove", "info@dev.test", "bob@else.test")
    assert dev_test("alias", "list").output == "info@dev.test\tanna@dev.test\n"
    dev_test("alias", "remove", "info@dev.test")
    assert dev_test.json("alias", "list")["rows"] == []


@pytest.mark.parametrize(
    "text, octets",
    [
        ("5GB", 5_000_000_000),
        ("5 gb", 5_000_000_000),
        ("1.5M", 1_500_000),
        ("2GiB", 2 << 30),
        ("100", 100),
        ("none", 0),
        ("lots", None),
        ("-1", None),
        ("", None),
        ("nan", None),
    ],
)
def test_sizes_are_read(text: str, octets: int | None) -> None:
    assert parse_size(text) == octets


@pytest.mark.parametrize(
    "octets, text", [(0, "0 B"), (999, "999 B"), (1400, "1.4 kB"), (5 * 10**9, "5 GB"), (123456, "123 kB")]
)
def test_sizes_are_written(octets: int, text: str) -> None:
    assert size_text(octets) == text
