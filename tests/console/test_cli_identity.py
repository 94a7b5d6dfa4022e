"""`postroad domain dns`, `check` and `dkim`: what a domain says of itself, and the keys it signs with."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.zone
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from postroad.net.https import Fetched, Https
from postroad.store import dkim as units
from postroad.store.opening import OpenStore
from postroad.store.reader import Reader
from postroad.trust.dkim.keys import RSA, load_key
from tests.console.conftest import CommandLine
from tests.fakes.zones import World, Zone
from tests.trust.dkim.pairs import private

DOMAIN = "example.com"


@pytest.fixture
def home(run: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """A data folder that serves example.com, its host configured."""
    monkeypatch.setattr(units, "make_key", private)
    configure(tmp_path, monkeypatch)
    run("domain", "add", DOMAIN)
    return run


def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str = "") -> None:
    file = tmp_path / "postroad.toml"
    file.write_text(f'hostname = "mail.example.com"\n[relay]\nbind = ["192.0.2.7"]\n{more}')
    monkeypatch.setenv("POSTROAD_CONFIG", str(file))


def keys(run: CommandLine) -> list[tuple[str, str]]:
    return [(row["algorithm"], row["state"]) for row in run.json("domain", "dkim", DOMAIN)["rows"]]


def secrets(run: CommandLine) -> list[bytes]:
    reader = Reader(run.data)
    rows = asyncio.run(reader.rows("SELECT private FROM dkim_keys"))
    reader.close()
    return [octets for (octets,) in rows]


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_domain_gets_its_keys_when_it_is_added(home: CommandLine) -> None:
    assert keys(home) == [("rsa", "active"), ("ed25519", "active")]
    (first, second) = home.json("domain", "dkim", DOMAIN, "list")["rows"]
    assert first["name"] == f"{first['selector']}._domainkey.{DOMAIN}"
    assert first["record"].startswith("v=DKIM1; k=rsa; p=")
    assert (first["selector"][:2], first["selector"][-1], second["selector"][-1]) == ("pr", "r", "e")
    assert "already" not in home("domain", "dkim", DOMAIN).stdout


def test_keys_change_in_two_steps(home: CommandLine) -> None:
    said = home("domain", "dkim", DOMAIN, "rotate").stdout
    assert "they sign nothing yet" in said
    assert sorted(state for _, state in keys(home)) == ["active", "active", "published", "published"]
    said = home("domain", "dkim", DOMAIN, "rotate", "--now").stdout
    assert "Keep the records of the retired keys for 7 days" in said
    assert sorted(state for _, state in keys(home)) == ["active", "active", "retired", "retired"]
    home("domain", "dkim", DOMAIN, "rotate", "--now")
    assert sorted(state for _, state in keys(home)) == ["active"] * 2 + ["retired"] * 4


def test_a_key_retires_and_is_forgotten(home: CommandLine) -> None:
    first, second = [row["selector"] for row in home.json("domain", "dkim", DOMAIN)["rows"]]
    assert "retire it first" in home("domain", "dkim", DOMAIN, "remove", first, status=1).stderr
    result = home("domain", "dkim", DOMAIN, "retire", first)
    assert "signs no more" in result.stdout
    assert "unsigned" not in result.stderr
    assert "leaves unsigned" in home("domain", "dkim", DOMAIN, "retire", second).stderr
    assert not any(first in row["name"] for row in home.json("domain", "dns", DOMAIN)["rows"])
    assert "Keep its record until 20" in home("domain", "dkim", DOMAIN, "remove", first).stdout
    assert keys(home) == [("ed25519", "retired")]


def test_a_domain_without_keys_is_given_some(home: CommandLine) -> None:
    for selector in [row["selector"] for row in home.json("domain", "dkim", DOMAIN)["rows"]]:
        home("domain", "dkim", DOMAIN, "retire", selector)
        home("domain", "dkim", DOMAIN, "remove", selector)
    assert f"postroad domain dkim {DOMAIN} make" in home("domain", "dkim", DOMAIN).output
    assert "is signed with" in home("domain", "dkim", DOMAIN, "make").stdout
    assert len(keys(home)) == 2
    home("domain", "dkim", DOMAIN, "make", status=1)


def test_a_key_of_another_server_is_taken_over(home: CommandLine, tmp_path: Path) -> None:
    key = load_key(RSA, private(RSA))
    assert isinstance(key, RSAPrivateKey)
    file = tmp_path / "old.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    home("domain", "dkim", DOMAIN, "import", "Old-1", "--file", str(file))
    assert ("old-1", "active") in [
        (row["selector"], row["state"]) for row in home.json("domain", "dkim", DOMAIN)["rows"]
    ]
    home("domain", "dkim", DOMAIN, "import", "old-1", "--file", str(file), status=1)
    file.write_bytes(b"nothing")
    assert "no private key" in home("domain", "dkim", DOMAIN, "import", "x", "--file", str(file), status=1).stderr
    assert "cannot be read" in home("domain", "dkim", DOMAIN, "import", "x", "--file", "/none", status=1).stderr


@pytest.mark.parametrize(
    "words, status",
    [
        ((DOMAIN, "retire"), 2),
        ((DOMAIN, "list", "s1"), 2),
        ((DOMAIN, "import", "s1"), 2),
        ((DOMAIN, "rotate", "--file", "x"), 2),
        ((DOMAIN, "burn"), 2),
        (("no domain",), 2),
        (("else.test",), 1),
        (("else.test", "make"), 1),
        (("else.test", "rotate"), 1),
        ((DOMAIN, "retire", "none"), 1),
    ],
)
def test_what_cannot_be_done_to_keys(home: CommandLine, words: tuple[str, ...], status: int) -> None:
    assert home("domain", "dkim", *words, status=status).stderr
    assert keys(home) == [("rsa", "active"), ("ed25519", "active")]


def test_no_command_shows_a_private_key(home: CommandLine) -> None:
    shown = ""
    for words in (("dkim", DOMAIN), ("dns", DOMAIN), ("list",)):
        shown += home("domain", *words).output + home("domain", *words, "--json").output
    import base64

    for octets in secrets(home):
        for form in (base64.b64encode(octets[-33:]).decode(), octets[-32:].hex(), repr(octets[-32:])[2:-1]):
            assert form not in shown


# -- dns ---------------------------------------------------------------------------------------------------------------


def test_zone_text_is_a_zone(home: CommandLine) -> None:
    text = home("domain", "dns", "Example.COM").stdout
    zone = dns.zone.from_text("@ 1 IN SOA a b 1 1 1 1 1\n@ 1 IN NS a\n" + text, origin=f"{DOMAIN}.")
    assert {name.to_text() for name in zone} >= {"@", "_dmarc", "_mta-sts", "_smtp._tls", "mail", "_imaps._tcp"}
    assert "; 7.2.0.192.in-addr.arpa. 3600 IN PTR mail.example.com." in text
    assert ";   mode: testing" in text


def test_records_as_json(home: CommandLine) -> None:
    told = home.json("domain", "dns", DOMAIN)
    assert (told["schema"], told["domain"]) == ("domain-dns/1", DOMAIN)
    by_record = {row["record"]: row for row in told["rows"]}
    assert by_record["mx"]["value"] == "10 mail.example.com"
    rsa = next(row for row in told["rows"] if row["value"].startswith("v=DKIM1; k=rsa"))
    assert ["".join(rsa["strings"]), len(rsa["strings"])] == [rsa["value"], 2]
    assert told["mta_sts_policy"].startswith("version: STSv1\r\n")


def test_a_host_without_a_real_name_is_spoken_of(
    home: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "postroad.toml").write_text('hostname = "localhost"\n')
    assert "set hostname" in home("domain", "dns", DOMAIN).stderr


def test_only_domains_that_are_served(home: CommandLine) -> None:
    for command in ("dns", "check"):
        assert "not served here" in home("domain", command, "else.test", status=1).stderr
        home("domain", command, "no domain", status=2)


# -- check -------------------------------------------------------------------------------------------------------------


class Threaded:
    """Nameservers that go on while a command runs its own loop; `change` is called there."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.world: World

    def __enter__(self) -> Threaded:
        self.thread.start()
        self.world = self._run(self._open)
        return self

    def _run(self, work: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(10)

    async def _open(self) -> World:
        return await World(self.zone).__aenter__()

    def __exit__(self, *_: object) -> None:
        self._run(lambda: self.world.__aexit__())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


def packets(run: CommandLine) -> Zone:
    """What `domain dns` prints, entered."""
    zone: Zone = {}
    for row in run.json("domain", "dns", DOMAIN)["rows"]:
        value = row["value"]
        if row["type"] == "TXT":
            value = " ".join(f'"{part}"' for part in row["strings"])
        elif row["type"] not in ("A", "AAAA"):
            value += "."
        zone.setdefault(row["name"], {}).setdefault(row["type"], []).append(value)
    return zone


@pytest.fixture
def published(home: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Threaded]:
    """Nameservers that say all that `domain dns` wants, and a configuration that asks them."""
    with Threaded(packets(home)) as servers:
        more = f'[dns]\nnameservers = ["{servers.world.resolver.address}"]\ntimeout_s = 0.4\n'
        configure(tmp_path, monkeypatch, more)
        policy = home.json("domain", "dns", DOMAIN)["mta_sts_policy"].encode()

        async def get(self: Https, url: str) -> Fetched:
            assert url == f"https://mta-sts.{DOMAIN}/.well-known/mta-sts.txt"
            return Fetched(200, "text/plain", policy)

        monkeypatch.setattr(Https, "get", get)
        yield servers


def check(run: CommandLine, servers: Threaded, *words: str, status: int) -> Any:
    return run("domain", "check", DOMAIN, "--port", str(servers.world.port), *words, status=status)


def test_what_was_published_is_right(home: CommandLine, published: Threaded) -> None:
    lines = [line for line in check(home, published, status=0).stdout.split("\n") if line and line[0] != " "]
    assert len(lines) == len(home.json("domain", "dns", DOMAIN)["rows"]) + 1
    assert lines[-1].split() == ["yes", "HTTPS", f"https://mta-sts.{DOMAIN}/.well-known/mta-sts.txt"]
    assert all(line.startswith("yes ") for line in lines)


def test_what_is_wrong_is_said_with_what_to_do(home: CommandLine, published: Threaded) -> None:
    for server in published.world.servers:
        server.records["_dmarc.example.com"] = {"TXT": ['"v=dmarc1; p=none"']}
    said = check(home, published, status=1).stdout
    start = said.index("no              TXT    _dmarc.example.com")
    assert [line.split()[0] for line in said[start:].split("\n")[1:4]] == ["wanted", "found", "do"]
    import json

    rows = json.loads(check(home, published, "--json", status=1).stdout)["rows"]
    wrong = [row for row in rows if row["verdict"] == "no"]
    assert [(row["record"], row["found"]) for row in wrong] == [("dmarc", "v=dmarc1; p=none")]
    assert "exactly so" in wrong[0]["advice"]


def test_what_nobody_tells_is_no_mistake(home: CommandLine, published: Threaded) -> None:
    from tests.fakes.dns import Fault

    for server in published.world.servers:
        server.faults["_smtp._tls.example.com"] = Fault.SERVFAIL
    assert "could not tell  TXT    _smtp._tls.example.com" in check(home, published, status=3).stdout


def test_what_has_several_lines_stays_in_its_column(
    home: CommandLine, published: Threaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def get(self: Https, url: str) -> Fetched:
        return Fetched(404, "text/plain", b"")

    monkeypatch.setattr(Https, "get", get)
    lines = check(home, published, status=1).stdout.splitlines()
    assert all(line.startswith(("yes ", "no ", "could not tell ", "                ")) for line in lines)
    assert [line.strip() for line in lines if "mode: testing" in line] == ["mode: testing"]


def test_the_record_of_a_key_retired_long_ago_may_go(home: CommandLine) -> None:
    first, _ = [row["selector"] for row in home.json("domain", "dkim", DOMAIN)["rows"]]
    home("domain", "dkim", DOMAIN, "retire", first)
    store = OpenStore(home.data)
    store.connection.execute("UPDATE dkim_keys SET changed_us = 1 WHERE selector = ?", (first,))
    store.close()
    assert "Its record may go." in home("domain", "dkim", DOMAIN, "remove", first).stdout


def test_new_keys_sign_only_when_dns_has_them(home: CommandLine, published: Threaded) -> None:
    home("domain", "dkim", DOMAIN, "rotate")
    rotate = ("domain", "dkim", DOMAIN, "rotate", "--port", str(published.world.port))
    assert "Nothing was changed" in home(*rotate, status=1).stderr
    assert sorted(state for _, state in keys(home)) == ["active", "active", "published", "published"]
    for server in published.world.servers:
        server.records |= packets(home)
    home(*rotate)
    assert sorted(state for _, state in keys(home)) == ["active", "active", "retired", "retired"]
