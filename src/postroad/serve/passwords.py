"""Passwords: proving one at a login, and making what is stored of a new one.

The slow proof (argon2id, 18 ms and 19 MiB) runs in a small pool of named threads with a bounded queue; a flood of
logins is answered "busy" and never slows the event loop. A password proved once is remembered for five minutes as a
keyed hash (0.6 us to check), bound to the stored proof, so that a changed password counts at once.

Which proof a login needs, and what an unknown one costs, is decided in `serve.logins`. Nothing in here logs, and no
object that holds a password or a key shows it.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import stringprep
import unicodedata
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import blake2b, pbkdf2_hmac, sha256
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type

from postroad.store.account_records import Account, Credential
from postroad.values.address import Address, AddressError
from postroad.values.ports import Clock

# RFC 9106 section 4 with the smaller memory of OWASP's table: argon2-cffi's default takes 149 ms and 64 MiB a login.
HASHER: Final = PasswordHasher(
    time_cost=2, memory_cost=19 * 1024, parallelism=1, hash_len=32, salt_len=16, type=Type.ID
)

# RFC 7677 section 3: "the hash iteration-count announced by a server SHOULD be at least 4096"
SCRAM_ITERATIONS: Final = 4096
"""Argon2 guards the stored password; a higher count here would only cost every client that uses SCRAM."""
SCRAM_SALT: Final = 16
"""Octets."""

PASSWORD_MAX: Final = 1024
"""Octets of a password, before and after preparation: longer ones are made to cost time."""

THREADS: Final = 2
"""Argon2 fills a core and 19 MiB per thread."""
WAITING_MAX: Final = 64
"""Proofs waiting or under way; at two cores the last of them waits about 0.6 s."""

CACHE_S: Final = 300.0
"""How long a proved password is remembered."""
CACHE_MAX: Final = 10_000
"""Logins remembered, about 2 MB."""


class PasswordError(ValueError):
    """A new password that cannot be used; the text says why and does not repeat it."""


# -- making ----------------------------------------------------------------------------------------------------------


def hash_password(password: str) -> Credential:
    """What is stored of a new password: both proofs, made together. Takes about 20 ms.

    Raises `PasswordError` for one that is empty, too long or holds control characters.
    """
    prepared = prepare(password)
    if prepared is None:
        raise PasswordError("the password holds characters that cannot be typed everywhere")
    if not prepared:
        raise PasswordError("the password is empty")
    salt = os.urandom(SCRAM_SALT)
    stored_key, server_key = scram_keys(prepared, salt, SCRAM_ITERATIONS)
    return Credential(HASHER.hash(prepared), salt, SCRAM_ITERATIONS, stored_key, server_key)


def scram_keys(prepared: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """StoredKey and ServerKey of SCRAM-SHA-256 (RFC 5802 section 3, RFC 7677)."""
    salted = pbkdf2_hmac("sha256", prepared.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return sha256(client_key).digest(), hmac.digest(salted, b"Server Key", "sha256")


def prepare(password: str) -> str | None:
    """A password in the one spelling that is compared: SASLprep (RFC 4013); None when it is not allowed or too long.

    Characters newer than Unicode 3.2 are let through as they are, as RFC 8265 section 4.2 has it: people use them.
    """
    if len(password) > PASSWORD_MAX:
        return None
    if password.isascii():
        return password if password.isprintable() else None
    mapped = "".join(
        # RFC 4013 section 2.1
        " " if stringprep.in_table_c12(char) else char
        for char in password
        if not stringprep.in_table_b1(char)
    )
    prepared = unicodedata.normalize("NFKC", mapped)
    # RFC 4013 sections 2.3 and 2.4
    if any(_prohibited(char) for char in prepared) or not _directions_agree(prepared):
        return None
    return prepared if len(prepared.encode()) <= PASSWORD_MAX else None


_PROHIBITED: Final = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def _prohibited(char: str) -> bool:
    return any(table(char) for table in _PROHIBITED)


def _directions_agree(text: str) -> bool:
    """RFC 3454 section 6: right-to-left text has no left-to-right letters, and begins and ends right-to-left."""
    if not any(map(stringprep.in_table_d1, text)):
        return True
    if any(map(stringprep.in_table_d2, text)):
        return False
    return stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])


# -- proving ---------------------------------------------------------------------------------------------------------


@cache
def nobodys_hash() -> str:
    """A hash that no password proves, checked in place of an unknown login's."""
    return HASHER.hash(os.urandom(32))


def proves(argon2: str, prepared: str) -> bool:
    """Whether a password is the one behind a stored hash; about 18 ms, without the GIL."""
    try:
        return HASHER.verify(argon2, prepared)
    except (VerificationError, InvalidHashError):
        return False


class Passwords:
    """Proves logins for one worker.

    Invariant: the cache holds no password, only hashes under a key that never leaves this process. The stored proof is
    hashed along, so an entry is never found again once the credential has changed.
    """

    __slots__ = ("_cache", "_clock", "_key", "_open", "_pool", "_proves", "_waiting_max", "nobodys")

    def __init__(
        self,
        clock: Clock,
        *,
        threads: int = THREADS,
        waiting_max: int = WAITING_MAX,
        proves: Callable[[str, str], bool] = proves,
    ) -> None:
        self._clock = clock
        self._proves = proves
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._waiting_max = waiting_max
        self._key = os.urandom(32)
        self._cache: dict[bytes, float] = {}
        """Keyed hash of login, password and the stored proof it passed: when it is forgotten."""
        self.nobodys = nobodys_hash()
        """What is proved in place of a login that must not get in: it takes as long and never holds."""
        self._open: dict[bytes, asyncio.Future[bool]] = {}
        """Proofs waiting or under way; a client that opens ten connections at once pays for one."""

    def __repr__(self) -> str:
        return f"Passwords({len(self._cache)} remembered, {len(self._open)} open)"

    async def prove(self, login: str, prepared: str, argon2: str) -> bool | None:
        """Whether the password is the one behind the hash; None when there are too many to find out."""
        digest = self.digest(login, prepared, argon2)
        if self._cache.get(digest, 0.0) > self._clock.monotonic():
            return True
        proof = self._open.get(digest)
        if proof is None:
            if len(self._open) >= self._waiting_max:
                return None
            proof = asyncio.get_running_loop().run_in_executor(self._pool, self._proves, argon2, prepared)
            self._open[digest] = proof
            proof.add_done_callback(lambda done: self._remember(digest, done))
        # A session that goes away must not take the answer from others that wait for the same one.
        return await asyncio.shield(proof)

    def digest(self, *words: str) -> bytes:
        """A keyed hash that stands for words nobody may keep; worth nothing outside this process."""
        return blake2b(b"\0".join(word.encode("utf-8", "surrogatepass") for word in words), key=self._key).digest()

    def _remember(self, digest: bytes, proof: asyncio.Future[bool]) -> None:
        del self._open[digest]
        if proof.cancelled() or proof.exception() is not None or not proof.result():
            return
        if len(self._cache) >= CACHE_MAX:
            self._forget()
        self._cache[digest] = self._clock.monotonic() + CACHE_S

    def _forget(self) -> None:
        """Drops what is too old, and the oldest half when that is not enough."""
        now = self._clock.monotonic()
        self._cache = {digest: until for digest, until in self._cache.items() if until > now}
        if len(self._cache) >= CACHE_MAX:
            for digest in list(self._cache)[: CACHE_MAX // 2]:
                del self._cache[digest]

    def close(self) -> None:
        """Ends the pool; proofs that have not begun are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def known_login(find: Callable[[str], Awaitable[Account | None]] | None, login: str | None) -> Account | None:
    """The account of a login that was proved elsewhere; None when nobody here has it, or it is disabled."""
    key = login_key(login) if login else ""
    account = await find(key) if find is not None and key else None
    return None if account is None or account.disabled else account


def app_password_digest(prepared: str) -> bytes:
    """What is stored of an app password: it has 100 random bits, so a fast hash can be searched as little as a slow."""
    return sha256(prepared.encode()).digest()


def login_key(login: str) -> str:
    """The key of the address somebody logs in with; empty when it is no address."""
    try:
        return Address.parse(login.strip(), utf8=True).key
    except AddressError:
        return ""


def split_label(login: str) -> tuple[str, str]:
    """`anna@example.org#phone` in two: the address, and the label of the app password that is meant, if any."""
    # A local part may hold "#", a domain may not.
    at, mark = login.rfind("@"), login.rfind("#")
    return (login[:mark], login[mark + 1 :].strip().lower()) if mark > at >= 0 else (login, "")
