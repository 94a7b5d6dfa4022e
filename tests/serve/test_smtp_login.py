"""AUTH over TLS through the whole session: SCRAM with a client of another make, app passwords, brakes, one text."""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from scramp import ScramClient

from postroad.net.tls import ServerTls, make_self_signed
from postroad.serve.brakes import RULES
from postroad.serve.logins import Logins
from postroad.serve.passwords import Passwords, app_password_digest, hash_password, prepare
from postroad.store.account_records import Credential, SetPassword
from postroad.store.accounts import set_password
from postroad.store.credential_records import AppPasswordAdd
from postroad.store.credentials import Credentials, app_password_add
from postroad.store.migrate import migrate
from postroad.store.sqlite import SqliteConnection
from postroad.values.clock import SystemClock
from tests.serve.harness import ANNA, PASSWORD, Peer, open_house
from tests.serve.post_office import PostOffice, ehlo, open_post_office

PHONE = "abcd-efgh-jkmn-pqrs-tuvw"
STORED = hash_password(PASSWORD)
PHONE_STORED = hash_password(PHONE)


def fast(argon2: str, prepared: str) -> bool:
    """In place of 18 ms of argon2."""
    return argon2 == STORED.argon2 and prepared == prepare(PASSWORD)


async def no_pause(seconds: float) -> None:
    """The tarpit, without waiting."""


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[PostOffice]:
    """A post office with real logins: anna has a password and an app password for sending."""
    connection = SqliteConnection(tmp_path / "postroad.db")
    migrate(connection, 1_800_000_000_000_000)
    house = open_house(tmp_path, connection)
    office = open_post_office(house, tmp_path)
    give(office, STORED, PHONE_STORED)
    passwords = Passwords(SystemClock(), proves=fast)
    office.service.logins = Logins(
        Credentials(house.store),
        passwords,
        store=Ignored(),
        clock=SystemClock(),
        secret=b"s" * 32,
        sleep=no_pause,
    )
    try:
        yield office
    finally:
        passwords.close()
        await house.close()


class Ignored:
    """What is posted is of no interest here."""

    def post(self, name: str, args: object) -> None: ...


def give(office: PostOffice, own: Credential, phone: Credential) -> None:
    office.house.store.run(set_password, SetPassword(ANNA, own))
    keys = (phone.scram_salt, phone.scram_iterations, phone.scram_stored_key, phone.scram_server_key)
    made = AppPasswordAdd(ANNA, "phone", app_password_digest(PHONE), *keys, ["smtp"])
    assert office.house.store.run(app_password_add, made).done


async def secured(office: PostOffice, peer: str = "192.0.2.9") -> tuple[Peer, list[bytes], bytes]:
    """A client behind STARTTLS; the extensions it saw, and the hash of the certificate it saw."""
    client = await office.greeted("submission", peer)
    assert (await client.ask(b"STARTTLS")).startswith(b"220 ")
    context = ssl.create_default_context(cafile=str(office.service.tls.certificate))
    await client.writer.start_tls(context, server_hostname="mx.example.com")
    seen = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return client, await ehlo(client), hashlib.sha256(seen).digest()


def b64(text: str) -> bytes:
    return base64.b64encode(text.encode()) or b"="


def answer(reply: bytes) -> str:
    """The text behind a 334."""
    assert reply.startswith(b"334 "), reply
    return base64.b64decode(reply[4:]).decode()


async def scram(client: Peer, scramp: ScramClient, *, initial: bool = True) -> bytes:
    """One exchange; returns the reply that ends it."""
    name = scramp.mechanism_name.encode()
    if initial:
        reply = await client.ask(b"AUTH " + name + b" " + b64(scramp.get_client_first()))
    else:
        # RFC 4954 section 4: without an initial response the server's first challenge is empty
        assert await client.ask(b"AUTH " + name) == b"334 "
        reply = await client.ask(b64(scramp.get_client_first()))
    if not reply.startswith(b"334 "):
        return reply
    scramp.set_server_first(answer(reply))
    reply = await client.ask(b64(scramp.get_client_final()))
    if not reply.startswith(b"334 "):
        return reply
    # RFC 4954 section 4: the server's last message is a challenge too, and the client's answer is empty
    scramp.set_server_final(answer(reply))
    return await client.ask(b"")


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"])
@pytest.mark.parametrize("user, password", [(ANNA, PASSWORD), (f"{ANNA}#phone", PHONE)])
@pytest.mark.parametrize("initial", [True, False])
async def test_scram_lets_in(office: PostOffice, mechanism: str, user: str, password: str, initial: bool) -> None:
    client, extensions, end_point = await secured(office)
    assert b"AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN" in extensions
    binding: Any = ("tls-server-end-point", end_point) if mechanism.endswith("PLUS") else None
    done = await scram(client, ScramClient([mechanism], user, password, channel_binding=binding), initial=initial)
    assert done.startswith(b"235 2.7.0")
    assert (await client.ask(b"MAIL FROM:<anna@example.com>")).startswith(b"250 ")
    assert (await client.ask(b"RCPT TO:<x@elsewhere.test>")).startswith(b"250 ")
    assert office.refused() == []


@pytest.mark.parametrize("user", [ANNA, f"{ANNA}#phone", f"{ANNA}#none", "nobody@example.com", "nobody"])
async def test_whatever_is_wrong_scram_says_the_same(office: PostOffice, user: str) -> None:
    client, _, _ = await secured(office)
    reply = await scram(client, ScramClient(["SCRAM-SHA-256"], user, "wrong words"))
    assert re.fullmatch(rb"535 5\.7\.8 Wrong user name or password\. Log in with your [a-z ]+\. Ref \w+", reply)
    (event,) = office.refused()
    assert event.cause in ("wrong password", "no such login")
    assert event.evidence.startswith(f"login as {user} by SCRAM-SHA-256 -> 535")


async def test_another_certificate_in_the_middle_is_found_out(office: PostOffice) -> None:
    client, _, _ = await secured(office)
    binding = ("tls-server-end-point", hashlib.sha256(b"theirs").digest())
    reply = await scram(client, ScramClient(["SCRAM-SHA-256-PLUS"], ANNA, PASSWORD, channel_binding=binding))
    assert reply.startswith(b"535 5.7.8")
    assert office.refused()[0].cause == "login over another channel"


async def test_a_hidden_offer_of_plus_is_found_out(office: PostOffice) -> None:
    """RFC 5802 section 6: flag "y" where PLUS was offered means that somebody took it out of the reply to EHLO."""
    client, _, _ = await secured(office)
    assert (await client.ask(b"AUTH SCRAM-SHA-256 " + b64(f"y,,n={ANNA},r=abc"))).startswith(b"535 5.7.8")
    assert office.refused()[0].cause == "login over another channel"


async def test_plus_is_offered_where_it_can_be_bound(office: PostOffice) -> None:
    office.service.tls.end_point = b""
    client, extensions, _ = await secured(office)
    assert b"AUTH SCRAM-SHA-256 PLAIN LOGIN" in extensions
    assert (await client.ask(b"AUTH SCRAM-SHA-256-PLUS")).startswith(b"504 5.5.4")
    done = await scram(client, ScramClient(["SCRAM-SHA-256"], ANNA, PASSWORD))
    assert done.startswith(b"235 2.7.0")


async def test_a_certificate_loaded_meanwhile_changes_nothing_for_a_living_connection(
    office: PostOffice, tmp_path: Path
) -> None:
    client, _, end_point = await secured(office)
    certificate, key = make_self_signed(["mx.example.com"], SystemClock().wall_us())
    office.service.tls.certificate.write_bytes(certificate)
    office.service.tls.key.write_bytes(key)
    office.service.tls.reload()
    assert office.service.tls.end_point != end_point
    for connected, seen in [(client, end_point), (await secured(office))[::2]]:
        binding = ("tls-server-end-point", seen)
        scramp = ScramClient(["SCRAM-SHA-256-PLUS"], ANNA, PASSWORD, channel_binding=binding)
        assert (await scram(connected, scramp)).startswith(b"235 2.7.0")


JUNK = [b"", b"AA==", b64("n,,"), b64("n,,n=anna,r=" + "x" * 5000), b64("c=biws,r=abc,p=AAAA"), b64("\0a\0b")]


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("steps", [0, 1])
async def test_s44_junk_in_the_exchange_ends_it(office: PostOffice, junk: bytes, steps: int) -> None:
    """Row S44."""
    client, _, _ = await secured(office)
    first = b64(f"n,,n={ANNA},r=abc") if steps else junk
    reply = await client.ask(b"AUTH SCRAM-SHA-256 " + (first or b"="))
    if steps:
        answer(reply)
        reply = await client.ask(junk)
    assert reply.startswith(b"501 5.5.2")
    assert (await client.ask(b"AUTH LOGIN")).startswith(b"334 "), "nothing of the exchange is left"


async def test_something_behind_the_last_message_is_no_login(office: PostOffice) -> None:
    client, _, _ = await secured(office)
    scramp = ScramClient(["SCRAM-SHA-256"], ANNA, PASSWORD)
    scramp.set_server_first(answer(await client.ask(b"AUTH SCRAM-SHA-256 " + b64(scramp.get_client_first()))))
    answer(await client.ask(b64(scramp.get_client_final())))
    assert (await client.ask(b64("more"))).startswith(b"501 5.5.2")
    assert (await client.ask(b"MAIL FROM:<anna@example.com>")).startswith(b"530 5.7.0")


async def test_a_cancelled_exchange_leaves_nothing(office: PostOffice) -> None:
    client, _, _ = await secured(office)
    answer(await client.ask(b"AUTH SCRAM-SHA-256 " + b64(f"n,,n={ANNA},r=abc")))
    assert (await client.ask(b"*")).startswith(b"501 5.7.0")
    done = await scram(client, ScramClient(["SCRAM-SHA-256"], ANNA, PASSWORD))
    assert done.startswith(b"235 2.7.0")


@pytest.mark.parametrize(
    "mechanism, message", [("PLAIN", f"root\0{ANNA}\0{PASSWORD}"), ("SCRAM-SHA-256", f"n,a=root,n={ANNA},r=abc")]
)
async def test_nobody_acts_for_another(office: PostOffice, mechanism: str, message: str) -> None:
    client, _, _ = await secured(office)
    assert (await client.ask(f"AUTH {mechanism} ".encode() + b64(message))).startswith(b"535 5.7.8")
    assert office.refused()[0].cause == "on behalf of another"


@pytest.mark.parametrize("user", [ANNA, f"{ANNA}#phone"])
async def test_an_app_password_works_with_plain_and_login(office: PostOffice, user: str) -> None:
    client, _, _ = await secured(office)
    assert (await client.ask(b"AUTH PLAIN " + b64(f"\0{user}\0{PHONE}"))).startswith(b"235 ")
    client, _, _ = await secured(office)
    assert await client.ask(b"AUTH LOGIN " + b64(user)) == b"334 UGFzc3dvcmQ6"
    assert (await client.ask(b64(PHONE))).startswith(b"235 ")


async def test_a_network_that_guesses_gets_421_and_no_secret_is_written_down(office: PostOffice) -> None:
    for number in range(RULES["address"].refuse_at + 1):  # the first fades a little meanwhile
        client, _, _ = await secured(office)
        reply = await client.ask(b"AUTH PLAIN " + b64(f"\0{ANNA}\0guess {number}"))
        assert reply.startswith(b"535 5.7.8")
        client.writer.close()
    client, _, _ = await secured(office)
    assert (await client.ask(b"AUTH PLAIN " + b64(f"\0{ANNA}\0{PASSWORD}"))).startswith(b"421 4.7.0")
    assert await client.rest() == b""
    assert office.refused()[-1].cause == "too many failed logins"
    assert "guess" not in repr(office.store.refusals)
    client, _, _ = await secured(office, "198.51.100.1")
    assert (await client.ask(b"AUTH PLAIN " + b64(f"\0{ANNA}\0{PASSWORD}"))).startswith(b"235 ")


def test_the_end_point_is_that_of_the_certificate(office: PostOffice) -> None:
    tls = office.service.tls
    assert ServerTls(tls.certificate, tls.key).end_point == tls.end_point != b""
