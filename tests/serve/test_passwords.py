"""Passwords: what is stored of them, how they are compared, and how a login is proved without slowing others."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import threading
from base64 import b64decode
from collections.abc import Iterator

import pytest
from scramp import ScramClient, ScramMechanism

from postroad.serve import passwords as module
from postroad.serve.passwords import (
    CACHE_S,
    SCRAM_ITERATIONS,
    PasswordError,
    Passwords,
    hash_password,
    login_key,
    prepare,
    proves,
    scram_keys,
    split_label,
)
from tests.fakes.clock import FakeClock

ANNA = "anna@example.com"
PROOF = "proof of secret"
"""What is stored of the password "secret", for `Prover`."""


class Prover:
    """In place of argon2: counts what it is asked and can be held up."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.threads: set[str] = set()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, argon2: str, prepared: str) -> bool:
        self.asked.append((argon2, prepared))
        self.threads.add(threading.current_thread().name)
        self.go_on.wait(5)
        return argon2 == f"proof of {prepared}"


@pytest.fixture
def prover() -> Prover:
    return Prover()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def desk(clock: FakeClock, prover: Prover) -> Iterator[Passwords]:
    passwords = Passwords(clock, waiting_max=3, proves=prover)
    yield passwords
    prover.go_on.set()
    passwords.close()


# -- what is stored --------------------------------------------------------------------------------------------------


def test_both_proofs_of_a_password_are_made_together() -> None:
    made = hash_password("correct horse")
    assert made.argon2.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert proves(made.argon2, "correct horse")
    assert not proves(made.argon2, "correct house")
    assert scram_keys("correct horse", made.scram_salt, made.scram_iterations) == (
        made.scram_stored_key,
        made.scram_server_key,
    )
    assert made.scram_iterations == SCRAM_ITERATIONS
    assert "argon2" not in repr(made)


def test_the_scram_verifier_lets_a_client_of_another_make_in() -> None:
    made = hash_password("pencil")
    verifier = (made.scram_salt, made.scram_stored_key, made.scram_server_key, made.scram_iterations)
    server = ScramMechanism("SCRAM-SHA-256").make_server(lambda user: verifier)
    client = ScramClient(["SCRAM-SHA-256"], "anna", "pencil")
    server.set_client_first(client.get_client_first())
    client.set_server_first(server.get_server_first())
    server.set_client_final(client.get_client_final())
    client.set_server_final(server.get_server_final())


def test_scram_keys_are_those_of_the_rfc() -> None:
    # RFC 7677 section 3: the example exchange, user "user", password "pencil"
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    said = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}".encode()
    stored, server = scram_keys("pencil", b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    assert hmac.digest(server, said, "sha256") == b64decode("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    proof = b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client_key = bytes(a ^ b for a, b in zip(proof, hmac.digest(stored, said, "sha256"), strict=True))
    assert hashlib.sha256(client_key).digest() == stored


def test_two_hashes_of_one_password_share_nothing() -> None:
    one, two = hash_password("pencil"), hash_password("pencil")
    assert one.argon2 != two.argon2
    assert one.scram_salt != two.scram_salt
    assert one.scram_stored_key != two.scram_stored_key


@pytest.mark.parametrize("password", ["", "\u00ad", "line\nbreak", "nul\0", "x" * 1025, "\ufb2a" * 400])
def test_passwords_nobody_can_use_are_refused_without_repeating_them(password: str) -> None:
    with pytest.raises(PasswordError) as refused:
        hash_password(password)
    assert not password or password not in str(refused.value)


@pytest.mark.parametrize("stored", ["", "plain", "$argon2id$v=19$m=19456,t=2,p=1$x$y"])
def test_a_damaged_hash_proves_nothing(stored: str) -> None:
    assert not proves(stored, "secret")


# -- how they are compared -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, prepared",
    [
        ("user", "user"),
        ("USER", "USER"),
        # RFC 4013 section 3: the examples
        ("I\u00adX", "IX"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("\u0007", None),
        ("\u0627\u0031", None),
        ("\u0627\u0031\u0628", "\u0627\u0031\u0628"),
        ("a\u00a0b", "a b"),
        ("Gru\u0308ße", "Grüße"),
        ("a\u202eb", None),
        ("\ue000", None),
        ("\ud800", None),
        ("pass🔑word", "pass🔑word"),
        ("tab\t", None),
    ],
)
def test_passwords_are_compared_in_one_spelling(given: str, prepared: str | None) -> None:
    assert prepare(given) == prepared


@pytest.mark.parametrize(
    "login, key",
    [("Anna@Example.com", "anna@example.com"), (" anna@example.com ", "anna@example.com"), ("anna", ""), ("a\0@b", "")],
)
def test_a_login_is_an_address_in_any_case(login: str, key: str) -> None:
    assert login_key(login) == key


@pytest.mark.parametrize(
    "login, parts",
    [
        ("anna@example.com", ("anna@example.com", "")),
        ("anna@example.com#Phone ", ("anna@example.com", "phone")),
        ("anna#x@example.com", ("anna#x@example.com", "")),
        ("anna#x@example.com#phone", ("anna#x@example.com", "phone")),
        ("anna#phone", ("anna#phone", "")),
        ("", ("", "")),
    ],
)
def test_the_label_of_an_app_password_stands_behind_the_domain(login: str, parts: tuple[str, str]) -> None:
    assert split_label(login) == parts


# -- proving ---------------------------------------------------------------------------------------------------------


async def test_a_password_is_proved_in_a_thread_of_its_own(desk: Passwords, prover: Prover) -> None:
    assert await desk.prove(ANNA, "secret", PROOF) is True
    assert await desk.prove(ANNA, "wrong", PROOF) is False
    assert all(name.startswith("argon2") for name in prover.threads)


async def test_nobodys_hash_is_proved_by_nothing(clock: FakeClock) -> None:
    desk = Passwords(clock)
    assert desk.nobodys.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await desk.prove("", "", desk.nobodys) is False
    desk.close()


async def test_a_proved_password_is_remembered_for_a_while(desk: Passwords, prover: Prover, clock: FakeClock) -> None:
    for _ in range(3):
        assert await desk.prove(ANNA, "secret", PROOF)
    assert len(prover.asked) == 1
    clock.advance(CACHE_S + 1)
    assert await desk.prove(ANNA, "secret", PROOF)
    assert len(prover.asked) == 2


async def test_a_wrong_password_is_never_remembered(desk: Passwords, prover: Prover) -> None:
    for _ in range(2):
        assert await desk.prove(ANNA, "wrong", PROOF) is False
    assert len(prover.asked) == 2


async def test_a_changed_password_counts_at_once(desk: Passwords) -> None:
    assert await desk.prove(ANNA, "secret", PROOF)
    assert await desk.prove(ANNA, "secret", "proof of better") is False
    assert await desk.prove(ANNA, "better", "proof of better")


async def test_too_many_at_once_are_told_to_come_again(desk: Passwords, prover: Prover) -> None:
    prover.go_on.clear()
    waiting = [asyncio.ensure_future(desk.prove(f"u{number}@example.com", "x", PROOF)) for number in range(3)]
    await asyncio.sleep(0)
    assert await desk.prove(ANNA, "secret", PROOF) is None
    prover.go_on.set()
    assert await asyncio.gather(*waiting) == [False] * 3
    assert await desk.prove(ANNA, "secret", PROOF)


async def test_one_client_with_many_connections_pays_for_one_proof(desk: Passwords, prover: Prover) -> None:
    prover.go_on.clear()
    waiting = [asyncio.ensure_future(desk.prove(ANNA, "secret", PROOF)) for _ in range(20)]
    await asyncio.sleep(0)
    waiting.pop().cancel()
    prover.go_on.set()
    assert await asyncio.gather(*waiting) == [True] * 19
    assert len(prover.asked) == 1


async def test_the_memory_of_logins_is_bounded(desk: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_MAX", 4)
    for number in range(10):
        assert await desk.prove(f"u{number}@example.com", "secret", PROOF)
    assert repr(desk) == "Passwords(4 remembered, 0 open)"
    assert "secret" not in repr(desk)
