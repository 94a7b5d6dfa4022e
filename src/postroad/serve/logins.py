"""Logins of all services: what proves one, what an app password may do, and how guessing is slowed.

Whatever a login fails by, it is told the same words after the same work: one slow proof for PLAIN and LOGIN, a
challenge with a salt that stays the same for SCRAM. The true reason goes to the journal.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from postroad.serve.brakes import Brake, Brakes, Source, source_of
from postroad.serve.passwords import (
    SCRAM_ITERATIONS,
    SCRAM_SALT,
    Passwords,
    app_password_digest,
    login_key,
    prepare,
    split_label,
)
from postroad.store.credential_records import (
    DAY_US,
    HOUR_US,
    SERVICES,
    AppPassword,
    AppPasswordUsed,
    LoginEntry,
    NetworkKnown,
)
from postroad.values.ports import Clock
from postroad.wire.sasl import MAX_FIELD
from postroad.wire.scram import ScramKeys

SECRET: Final = "scram"
"""The name of the secret from which the salts of unknown logins are made, alike in every worker and for ever."""

NOTED_MAX: Final = 10_000
"""Accounts and networks that were noted as known within the last day; about 2 MB."""

ALL_SERVICES: Final = frozenset(SERVICES)


class Trouble(Enum):
    """Why a login was not let in: the stable word of the journal. The peer is told `kind` only."""

    WRONG = "wrong password"
    UNKNOWN = "no such login"
    DISABLED = "account disabled"
    APP_ONLY = "app passwords only"
    EXPIRED = "app password expired"
    SCOPE = "app password out of scope"
    NETWORK = "app password out of its networks"
    BEHALF = "on behalf of another"
    CHANNEL = "login over another channel"
    BUSY = "logins busy"
    BRAKED = "too many failed logins"

    @property
    def kind(self) -> str:
        """ "busy", "braked" or, for everything else, "wrong"; also the word of the metric."""
        return {Trouble.BUSY: "busy", Trouble.BRAKED: "braked"}.get(self, "wrong")


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A login that holds."""

    account: int
    address: str
    """The account's, as it was written when the account was made."""
    app_password: int = 0
    """Id of the app password; 0 for the account's own."""
    label: str = ""
    scopes: frozenset[str] = ALL_SERVICES


class Credentials(Protocol):
    """The part of `store.credentials.Credentials` that logins need."""

    async def login_entry(self, key: str) -> LoginEntry | None: ...
    async def knows_network(self, account: int, network: str, now_us: int) -> bool: ...


class Post(Protocol):
    """The store's unawaited entrance: no login waits for the disk."""

    def post(self, name: str, args: object) -> None: ...


@dataclass(slots=True)
class Attempt:
    """One try to log in, from its name to its end."""

    login: str
    """The key of the address, or the text when it is none: what failures are counted by."""
    label: str
    service: str
    peer: str
    source: Source
    entry: LoginEntry | None
    brake: Brake
    known: bool | None = None
    """Whether the login has succeeded from this network before; None while nobody had to ask."""
    keys: ScramKeys | None = field(default=None, repr=False)

    @property
    def account(self) -> int:
        """Id of the account, 0 for an unknown login."""
        return self.entry.account.id if self.entry else 0


class Logins:
    """The logins of one worker, shared by SMTP, IMAP and POP3."""

    def __init__(
        self,
        credentials: Credentials,
        passwords: Passwords,
        *,
        store: Post,
        clock: Clock,
        secret: bytes,
        brakes: Brakes | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._credentials = credentials
        self._passwords = passwords
        self._store = store
        self._clock = clock
        self._secret = secret
        self._brakes = brakes or Brakes()
        self._sleep = sleep
        self._noted: OrderedDict[tuple[int, str], int] = OrderedDict()

    def __repr__(self) -> str:
        return "Logins(...)"

    # -- PLAIN, LOGIN, and the commands of IMAP and POP3 -------------------------------------------------------------

    async def verify(self, login: str, password: str, service: str, peer: str) -> LoggedIn | Trouble:
        """Who logs in with a password: the account's own, or one of its app passwords.

        `service` is one of `SERVICES`, `peer` the client's address. A failure is answered late on purpose.
        """
        attempt = await self._attempt(login, service, peer)
        if attempt.brake.refused:
            return Trouble.BRAKED
        prepared = prepare(password)
        found = await self._proved(attempt, prepared)
        tried = b"" if isinstance(found, LoggedIn) else self._passwords.digest(attempt.login, prepared or "")
        return await self._ended(attempt, found, tried)

    async def _proved(self, attempt: Attempt, prepared: str | None) -> LoggedIn | Trouble:
        entry, passwords = attempt.entry, self._passwords
        found: LoggedIn | Trouble = Trouble.UNKNOWN
        argon2 = passwords.nobodys
        app_password = self._matching(attempt, prepared)
        if app_password is not None:
            found = self._by_app_password(attempt, app_password)
            if isinstance(found, LoggedIn):
                return found
        elif entry is not None and (attempt.label or prepared is None or entry.credential is None):
            found = Trouble.WRONG
        elif entry is not None and entry.credential is not None:
            found = self._by_own_password(attempt)
            # A right password that does not count must not be remembered: the second try would come back faster.
            argon2 = entry.credential.argon2 if isinstance(found, LoggedIn) else argon2
        proved = await passwords.prove(attempt.login, prepared or "", argon2)
        if proved is None:
            return Trouble.BUSY
        if isinstance(found, LoggedIn) and not proved:
            return Trouble.WRONG
        return found

    @staticmethod
    def _matching(attempt: Attempt, prepared: str | None) -> AppPassword | None:
        """The app password that this is; all are compared, whichever it is."""
        if attempt.entry is None or prepared is None:
            return None
        digest = app_password_digest(prepared)
        matching = [one for one in attempt.entry.app_passwords if hmac.compare_digest(one.digest, digest)]
        return next((one for one in matching if attempt.label in ("", one.label)), None)

    # -- SCRAM -------------------------------------------------------------------------------------------------------

    async def scram_attempt(self, login: str, service: str, peer: str) -> Attempt | Trouble:
        """The keys with which a client is challenged; an unknown login gets some too, always the same."""
        attempt = await self._attempt(login, service, peer)
        if attempt.brake.refused:
            return Trouble.BRAKED
        attempt.keys = self._scram_keys(attempt)
        return attempt

    async def scram_ended(self, attempt: Attempt, proved: bool) -> LoggedIn | Trouble:
        """What came of it: `proved` says whether the client's proof holds for the keys of the attempt."""
        entry = attempt.entry
        app_password = self._named(attempt)
        found: LoggedIn | Trouble = Trouble.WRONG if entry else Trouble.UNKNOWN
        if proved and app_password is not None:
            found = self._by_app_password(attempt, app_password)
        elif proved and entry is not None and entry.credential is not None and not attempt.label:
            found = self._by_own_password(attempt)
        return await self._ended(attempt, found, b"")

    def _scram_keys(self, attempt: Attempt) -> ScramKeys:
        name = f"{attempt.login}#{attempt.label}".encode("utf-8", "surrogatepass")
        # Made for everybody, so that they take no time of their own. A salt that changed at each try would tell that
        # nobody is there.
        salt, stored_key, server_key = (
            hmac.digest(self._secret, purpose + name, "sha256") for purpose in (b"salt ", b"stored ", b"server ")
        )
        app_password = self._named(attempt)
        own = attempt.entry.credential if attempt.entry and not attempt.label else None
        found = app_password or own
        if found is None:
            return ScramKeys(salt[:SCRAM_SALT], SCRAM_ITERATIONS, stored_key, server_key)
        return ScramKeys(found.scram_salt, found.scram_iterations, found.scram_stored_key, found.scram_server_key)

    @staticmethod
    def _named(attempt: Attempt) -> AppPassword | None:
        """The app password whose label stands behind the login."""
        if attempt.entry is None or not attempt.label:
            return None
        return next((one for one in attempt.entry.app_passwords if one.label == attempt.label), None)

    # -- what holds ----------------------------------------------------------------------------------------------------

    def _by_own_password(self, attempt: Attempt) -> LoggedIn | Trouble:
        assert attempt.entry is not None
        account = attempt.entry.account
        if account.disabled:
            return Trouble.DISABLED
        return Trouble.APP_ONLY if attempt.entry.app_only else LoggedIn(account.id, account.address)

    def _by_app_password(self, attempt: Attempt, used: AppPassword) -> LoggedIn | Trouble:
        assert attempt.entry is not None
        account = attempt.entry.account
        if account.disabled:
            return Trouble.DISABLED
        if used.expires_us and used.expires_us <= self._clock.wall_us():
            return Trouble.EXPIRED
        if attempt.service not in used.scopes:
            return Trouble.SCOPE
        if used.networks and not _within(attempt.peer, used.networks):
            return Trouble.NETWORK
        return LoggedIn(account.id, account.address, used.id, used.label, used.scopes)

    # -- brakes and notes --------------------------------------------------------------------------------------------

    async def _attempt(self, login: str, service: str, peer: str) -> Attempt:
        name, label = split_label(login)
        key = login_key(name)
        entry = await self._credentials.login_entry(key) if key else None
        attempt = Attempt(key or login[:MAX_FIELD], label, service, peer, source_of(peer), entry, Brake(0.0, False))
        if not self._brakes.clear_for(attempt.source, attempt.login):
            known = await self._is_known(attempt)
            now = self._clock.monotonic()
            attempt.brake = self._brakes.brake(attempt.source, attempt.login, now, known=known)
        return attempt

    async def _is_known(self, attempt: Attempt) -> bool:
        if attempt.known is None:
            network, now_us = attempt.source.network, self._clock.wall_us()
            attempt.known = await self._credentials.knows_network(attempt.account, network, now_us)
        return attempt.known

    async def _ended(self, attempt: Attempt, found: LoggedIn | Trouble, tried: bytes) -> LoggedIn | Trouble:
        pause = attempt.brake.pause_s
        if isinstance(found, LoggedIn):
            self._brakes.succeeded(attempt.source, attempt.login)
            self._note(attempt, found)
        elif found is not Trouble.BUSY:
            known = await self._is_known(attempt)
            source, login, now = attempt.source, attempt.login, self._clock.monotonic()
            self._brakes.failed(source, login, now, known=known, tried=tried)
            pause = max(pause, self._brakes.brake(source, login, now, known=known).pause_s)
        if pause:
            await self._sleep(pause)
        return found

    def _note(self, attempt: Attempt, found: LoggedIn) -> None:
        """Tell the store what a later login will want to know: from where this one came, and by which password."""
        now_us = self._clock.wall_us()
        noted = (found.account, attempt.source.network)
        if now_us - self._noted.get(noted, -DAY_US) >= DAY_US:
            self._noted[noted] = now_us
            self._noted.move_to_end(noted)
            if len(self._noted) > NOTED_MAX:
                self._noted.popitem(last=False)
            self._store.post("network_known", NetworkKnown(*noted, now_us))
        if not found.app_password or attempt.entry is None:
            return
        last_us = next(one.used_us for one in attempt.entry.app_passwords if one.id == found.app_password)
        if now_us - last_us >= HOUR_US:
            self._store.post("app_password_used", AppPasswordUsed(found.app_password, now_us, attempt.peer))


def _within(peer: str, networks: tuple[str, ...]) -> bool:
    """Whether a client's address lies in one of these networks."""
    try:
        ip = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return any(ip in ipaddress.ip_network(network) for network in networks)
