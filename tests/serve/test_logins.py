"""Logins: what proves one, what an app password may do, what failures cost, and that they all look alike."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from scramp import ScramClient

from postroad.serve.brakes import PAUSE_MAX_S, RULES
from postroad.serve.logins import Attempt, LoggedIn, Logins, Trouble
from postroad.serve.passwords import Passwords, app_password_digest, scram_keys
from postroad.store.account_records import Account, Credential
from postroad.store.credential_records import HOUR_US, AppPassword, AppPasswordUsed, LoginEntry, NetworkKnown
from postroad.wire.scram import ScramKeys, ScramServer
from tests.fakes.clock import FakeClock
from tests.testdata import REPOSITORY

ANNA = Account(7, "anna@example.com", "anna@example.com", 0, 0, 0, disabled=False, created_us=0)
PHONE = "abcd-efgh-jkmn-pqrs-tuvw"
HOME, ELSEWHERE = "192.0.2.7", "198.51.100.9"


def credential(password: str) -> Credential:
    return Credential(
        f"proof of {password}", b"salt of own.....", 4096, *scram_keys(password, b"salt of own.....", 4096)
    )


def app_password(label: str = "phone", password: str = PHONE, **changes: Any) -> AppPassword:
    keys = scram_keys(password, b"salt of an app..", 4096)
    made = AppPassword(
        3, label, app_password_digest(password), b"salt of an app..", 4096, *keys,
        frozenset(("smtp", "imap")), (), 0, 0, 0, "",
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


class Store:
    """The reads of `store.credentials.Credentials`, and what was posted."""

    def __init__(self) -> None:
        self.entries = {ANNA.key: LoginEntry(ANNA, credential("secret"), False, (app_password(),))}
        self.known: set[tuple[int, str]] = set()
        self.reads: list[str] = []
        self.posted: list[object] = []

    def change(self, **changes: Any) -> None:
        self.entries[ANNA.key] = msgspec.structs.replace(self.entries[ANNA.key], **changes)

    async def login_entry(self, key: str) -> LoginEntry | None:
        self.reads.append("entry")
        return self.entries.get(key)

    async def knows_network(self, account: int, network: str, now_us: int) -> bool:
        self.reads.append("network")
        return (account, network) in self.known

    def post(self, name: str, args: object) -> None:
        self.posted.append(args)


class Desk:
    """One `Logins` whose slow proofs and pauses are counted instead of waited for."""

    def __init__(self) -> None:
        self.store = Store()
        self.clock = FakeClock()
        self.proofs: list[str] = []
        self.pauses: list[float] = []
        self.passwords = Passwords(self.clock, proves=self.prove)
        self.logins = Logins(
            self.store, self.passwords, store=self.store, clock=self.clock, secret=b"s" * 32, sleep=self.sleep
        )

    def prove(self, argon2: str, prepared: str) -> bool:
        self.proofs.append(argon2)
        return argon2 == f"proof of {prepared}"

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def verify(
        self, login: str = ANNA.address, password: str = "secret", service: str = "smtp", peer: str = HOME
    ) -> LoggedIn | Trouble:
        return await self.logins.verify(login, password, service, peer)

    async def scram(
        self, login: str = ANNA.address, password: str = "secret", service: str = "smtp", peer: str = HOME
    ) -> LoggedIn | Trouble:
        """A whole exchange with scramp as the client."""
        attempt = await self.logins.scram_attempt(login, service, peer)
        if isinstance(attempt, Trouble):
            return attempt
        client, server = ScramClient(["SCRAM-SHA-256"], login, password), ScramServer("", nonce="n", bindings={})
        server.take_first(client.get_client_first().encode())
        client.set_server_first(server.challenge(keys_of(attempt)).decode())
        return await self.logins.scram_ended(attempt, server.take_final(client.get_client_final().encode()) is not None)


def keys_of(attempt: Attempt | Trouble) -> ScramKeys:
    assert isinstance(attempt, Attempt)
    assert attempt.keys is not None
    return attempt.keys


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.passwords.close()


OWN = LoggedIn(7, ANNA.address)
BY_PHONE = LoggedIn(7, ANNA.address, 3, "phone", frozenset(("smtp", "imap")))


# -- what gets in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "login, password, found",
    [
        ("anna@example.com", "secret", OWN),
        ("Anna@Example.com", "secret", OWN),
        ("anna@example.com", PHONE, BY_PHONE),
        ("anna@example.com#phone", PHONE, BY_PHONE),
        ("anna@example.com#PHONE", PHONE, BY_PHONE),
        ("anna@example.com#laptop", PHONE, Trouble.WRONG),
        ("anna@example.com#phone", "secret", Trouble.WRONG),
        ("anna@example.com", "wrong", Trouble.WRONG),
        ("anna@example.com", "x\0", Trouble.WRONG),
        ("bob@example.com", "secret", Trouble.UNKNOWN),
        ("anna", "secret", Trouble.UNKNOWN),
        ("", "", Trouble.UNKNOWN),
    ],
)
async def test_a_login_with_a_password(desk: Desk, login: str, password: str, found: LoggedIn | Trouble) -> None:
    assert await desk.verify(login, password) == found


@pytest.mark.parametrize(
    "login, password, found",
    [
        ("anna@example.com", "secret", OWN),
        ("anna@example.com#phone", PHONE, BY_PHONE),
        ("anna@example.com", PHONE, Trouble.WRONG),
        ("anna@example.com#laptop", PHONE, Trouble.WRONG),
        ("anna@example.com#phone", "secret", Trouble.WRONG),
        ("anna@example.com", "wrong", Trouble.WRONG),
        ("bob@example.com", "secret", Trouble.UNKNOWN),
    ],
)
async def test_a_login_by_scram(desk: Desk, login: str, password: str, found: LoggedIn | Trouble) -> None:
    assert await desk.scram(login, password) == found
    assert not desk.proofs, "SCRAM needs no slow proof"


ROWS = [
    # changes of the app password, service, peer, what comes of it
    ({}, "imap", HOME, None),
    ({}, "pop3", HOME, Trouble.SCOPE),
    ({"expires_us": FakeClock().wall_us() + 1}, "smtp", HOME, None),
    ({"expires_us": FakeClock().wall_us()}, "smtp", HOME, Trouble.EXPIRED),
    ({"networks": ("192.0.2.0/24",)}, "smtp", HOME, None),
    ({"networks": ("192.0.2.0/24",)}, "smtp", "::ffff:192.0.2.7", None),
    ({"networks": ("192.0.2.0/24",)}, "smtp", ELSEWHERE, Trouble.NETWORK),
    ({"networks": ("192.0.2.0/24", "2001:db8::/32")}, "smtp", "2001:db8::1%eth0", None),
    ({"networks": ("192.0.2.0/24",)}, "smtp", "uid 1000", Trouble.NETWORK),
]


@pytest.mark.parametrize("changes, service, peer, trouble", ROWS)
@pytest.mark.parametrize("way", ["verify", "scram"])
async def test_what_an_app_password_may_do(
    desk: Desk, way: str, changes: dict[str, Any], service: str, peer: str, trouble: Trouble | None
) -> None:
    desk.store.change(app_passwords=(app_password(**changes),))
    found = await getattr(desk, way)(f"{ANNA.address}#phone", PHONE, service, peer)
    assert found == (trouble or BY_PHONE)
    assert trouble is None or trouble.kind == "wrong"


async def test_an_account_of_app_passwords_only(desk: Desk) -> None:
    desk.store.change(app_only=True)
    assert await desk.verify() is Trouble.APP_ONLY
    assert await desk.scram() is Trouble.APP_ONLY
    assert await desk.verify(password=PHONE) == BY_PHONE


async def test_an_account_without_a_password_of_its_own(desk: Desk) -> None:
    desk.store.change(credential=None)
    assert await desk.verify(password="") is Trouble.WRONG
    assert await desk.scram() is Trouble.WRONG
    assert await desk.verify(password=PHONE) == BY_PHONE


async def test_a_disabled_account_gets_in_by_nothing(desk: Desk) -> None:
    desk.store.change(account=msgspec.structs.replace(ANNA, disabled=True))
    for password in ("secret", PHONE):
        assert await desk.verify(password=password) is Trouble.DISABLED
    assert await desk.scram() is Trouble.DISABLED
    assert await desk.scram(f"{ANNA.address}#phone", PHONE) is Trouble.DISABLED


# -- they all look alike ---------------------------------------------------------------------------------------------


async def test_every_failure_costs_one_slow_proof_each_time(desk: Desk) -> None:
    """Class E4: the time of an answer tells neither which logins exist nor that a password would be right."""
    expired, narrow = (
        app_password("old", "old words", expires_us=1),
        app_password("home", "home words", networks=("10.0.0.0/8",)),
    )
    desk.store.change(app_passwords=(app_password(), expired, narrow))
    only_app = LoginEntry(
        Account(8, "o@example.com", "o@example.com", 0, 0, 0, False, 0), credential("secret"), True, ()
    )
    disabled = LoginEntry(
        Account(9, "d@example.com", "d@example.com", 0, 0, 0, True, 0), credential("secret"), False, ()
    )
    desk.store.entries |= {"o@example.com": only_app, "d@example.com": disabled}
    failing = [
        ("anna@example.com", "wrong"),
        ("anna@example.com", "old words"),
        ("anna@example.com", "home words"),
        ("anna@example.com#phone", "wrong"),
        ("anna@example.com#nothing", "wrong"),
        ("anna@example.com", "\u0007"),
        ("bob@example.com", "secret"),
        ("nobody", "secret"),
        ("o@example.com", "secret"),
        ("d@example.com", "secret"),
    ]
    for number, (login, password) in enumerate(failing):
        for again in range(2):
            desk.proofs.clear()
            found = await desk.verify(login, password, peer=f"203.0.{number}.{again}")
            assert isinstance(found, Trouble)
            assert found.kind == "wrong"
            assert len(desk.proofs) == 1, (login, password)


async def test_a_right_app_password_needs_no_slow_proof(desk: Desk) -> None:
    assert await desk.verify(password=PHONE) == BY_PHONE
    assert not desk.proofs


async def test_an_unknown_login_is_challenged_like_a_known_one(desk: Desk) -> None:
    async def keys(login: str) -> ScramKeys:
        return keys_of(await desk.logins.scram_attempt(login, "smtp", HOME))

    known, unknown, again = [await keys(name) for name in (ANNA.address, "bob@example.com", "BOB@example.com")]
    assert unknown == again, "a salt that changes tells that nobody is there"
    assert (len(unknown.salt), unknown.iterations) == (len(known.salt), known.iterations)
    assert unknown.salt != (await keys("carl@example.com")).salt
    assert (await keys(f"{ANNA.address}#nothing")).salt != known.salt
    other = Logins(desk.store, desk.passwords, store=desk.store, clock=desk.clock, secret=b"t" * 32)
    assert keys_of(await other.scram_attempt("bob@example.com", "smtp", HOME)).salt != unknown.salt
    assert desk.store.reads == ["entry"] * 6


async def test_nothing_shows_a_secret(desk: Desk) -> None:
    attempt = await desk.logins.scram_attempt(ANNA.address, "smtp", HOME)
    for shown in (repr(attempt), repr(desk.logins), repr(desk.store.entries)):
        assert "proof of" not in shown
        assert str(scram_keys("secret", b"salt of own.....", 4096)[0]) not in shown


# -- brakes ----------------------------------------------------------------------------------------------------------


async def test_pauses_grow_with_failures_and_end_at_ten_seconds(desk: Desk) -> None:
    for number in range(7):
        assert await desk.verify(password=f"wrong {number}", peer=ELSEWHERE) is Trouble.WRONG
    assert desk.pauses == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


async def test_a_network_that_guesses_is_refused_without_a_proof(desk: Desk) -> None:
    for number in range(RULES["address"].refuse_at):
        await desk.verify(f"u{number}@example.com", "wrong", peer=ELSEWHERE)
    desk.proofs.clear()
    assert await desk.verify(peer=ELSEWHERE) is Trouble.BRAKED
    assert await desk.scram(peer=ELSEWHERE) is Trouble.BRAKED
    assert not desk.proofs
    assert await desk.verify(peer=HOME) == OWN


async def test_the_owner_is_neither_slowed_nor_locked_out_by_strangers(desk: Desk) -> None:
    desk.store.known.add((7, "192.0.2.0/24"))
    for number in range(300):
        await desk.verify(password=f"guess {number}", peer=f"203.0.{number % 250}.1")
    for number in range(40):
        await desk.verify("someone@example.com", f"guess {number}", peer=HOME)
    desk.pauses.clear()
    assert await desk.verify(peer=HOME) == OWN
    assert await desk.scram(peer="192.0.2.200") == OWN
    assert desk.pauses == []
    assert await desk.verify(peer=ELSEWHERE) == OWN, "a stranger with the right password gets in"
    assert desk.pauses == [PAUSE_MAX_S], "but slowly"


async def test_scram_failures_count_too(desk: Desk) -> None:
    for _ in range(3):
        assert await desk.scram(password="wrong", peer=ELSEWHERE) is Trouble.WRONG
    assert desk.pauses == [1.0, 2.0, 4.0]


async def test_a_success_of_a_guesser_does_not_help_him(desk: Desk) -> None:
    for number in range(4):
        await desk.verify("bob@example.com", f"guess {number}", peer=ELSEWHERE)
        await desk.verify(peer=ELSEWHERE)
    desk.pauses.clear()
    await desk.verify("bob@example.com", "one more", peer=ELSEWHERE)
    assert desk.pauses == [PAUSE_MAX_S]


async def test_busy_is_nobodys_fault(desk: Desk) -> None:
    desk.passwords._waiting_max = 0
    assert await desk.verify(password="wrong") is Trouble.BUSY
    assert not desk.pauses
    assert desk.store.reads == ["entry"]


async def test_a_login_without_failures_costs_one_read(desk: Desk) -> None:
    await desk.verify()
    assert desk.store.reads == ["entry"]


# -- notes -----------------------------------------------------------------------------------------------------------


async def test_a_network_is_noted_once_a_day(desk: Desk) -> None:
    for peer in (HOME, "192.0.2.8", "2001:db8::1", "2001:db8::2", HOME):
        await desk.verify(peer=peer)
    networks = [noted.network for noted in desk.store.posted if isinstance(noted, NetworkKnown)]
    assert networks == ["192.0.2.0/24", "2001:db8::/64"]
    assert all(ipaddress.ip_network(network) for network in networks)
    desk.clock.advance(86_400)
    await desk.verify()
    assert len(desk.store.posted) == 3


async def test_failures_note_nothing(desk: Desk) -> None:
    await desk.verify(password="wrong")
    await desk.scram(password="wrong")
    assert not desk.store.posted


async def test_the_use_of_an_app_password_is_noted_once_an_hour(desk: Desk) -> None:
    def uses() -> list[AppPasswordUsed]:
        return [noted for noted in desk.store.posted if isinstance(noted, AppPasswordUsed)]

    await desk.verify(password=PHONE)
    now_us = desk.clock.wall_us()
    assert uses() == [AppPasswordUsed(3, now_us, HOME)]
    desk.store.change(app_passwords=(app_password(used_us=now_us - HOUR_US + 1),))
    await desk.verify(password=PHONE)
    assert len(uses()) == 1
    desk.store.change(app_passwords=(app_password(used_us=now_us - HOUR_US),))
    await desk.scram(f"{ANNA.address}#phone", PHONE, peer=ELSEWHERE)
    assert uses()[1:] == [AppPasswordUsed(3, now_us, ELSEWHERE)]


def test_every_reason_stands_on_the_page() -> None:
    page = (REPOSITORY / "docs/logins.md").read_text()
    for trouble in Trouble:
        assert f"| `{trouble.value}` |" in page
