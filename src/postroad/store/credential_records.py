"""App passwords, grants and known networks as they travel to the store and back: arguments and results of units."""

from __future__ import annotations

from typing import Final

from postroad.store.account_records import Account, Credential
from postroad.store.records import Record

SERVICES: Final = ("smtp", "imap", "pop3")
"""What an app password may be good for."""

APP_PASSWORDS_MAX: Final = 50
"""App passwords of one account: each login reads them all."""
GRANTS_MAX: Final = 200
"""Grants of one account: more are an address book, for which a domain is granted."""
NETWORKS_MAX: Final = 20
"""Networks of one app password."""
LABEL_MAX: Final = 32
"""Letters of a label; it is typed behind the login."""
KNOWN_NETWORKS_MAX: Final = 100
"""Networks remembered of one account, the latest ones."""

DAY_US: Final = 86_400_000_000
HOUR_US: Final = 3_600_000_000
KNOWN_US: Final = 365 * DAY_US
"""How long a network stays known after the last login from it."""


# -- app passwords ---------------------------------------------------------------------------------------------------


class AppPasswordAdd(Record, frozen=True):
    """Give an account one more password: generated, shown once, and known here by what proves it."""

    address: str
    label: str
    """Lower-case letters, digits, ".", "_" and "-"."""
    digest: bytes
    """SHA-256 of the password."""
    scram_salt: bytes
    scram_iterations: int
    scram_stored_key: bytes
    scram_server_key: bytes
    scopes: list[str]
    """Of `SERVICES`."""
    networks: list[str] = []
    """CIDR blocks it may come from; empty: any."""
    expires_us: int = 0
    """0: never."""

    def __repr__(self) -> str:
        return f"AppPasswordAdd({self.address!r}, {self.label!r}, ...)"


class AppPasswordRemove(Record, frozen=True):
    """Make an app password worth nothing, at once."""

    address: str
    label: str


class AppPasswordUsed(Record, frozen=True):
    """A login with an app password succeeded; posted, never waited for."""

    id: int
    at_us: int
    source: str
    """The address it came from."""


class AppOnly(Record, frozen=True):
    """Let an account into mail services by app passwords only, or by its own password again."""

    address: str
    app_only: bool


class AppPassword(Record, frozen=True):
    """One app password, without the password."""

    id: int
    label: str
    digest: bytes
    scram_salt: bytes
    scram_iterations: int
    scram_stored_key: bytes
    scram_server_key: bytes
    scopes: frozenset[str]
    networks: tuple[str, ...]
    expires_us: int
    created_us: int
    used_us: int
    """0: never."""
    used_from: str

    def __repr__(self) -> str:
        return f"AppPassword({self.id}, {self.label!r})"


class LoginEntry(Record, frozen=True):
    """Everything that can prove one login."""

    account: Account
    credential: Credential | None
    """None while the account has no password of its own."""
    app_only: bool
    app_passwords: tuple[AppPassword, ...]


# -- grants ----------------------------------------------------------------------------------------------------------


class Grant(Record, frozen=True):
    """Let an account send in the name of these addresses, or of all of a domain written as "@example.org"."""

    address: str
    senders: list[str]


class Revoke(Record, frozen=True):
    """Take grants back; all of them when the list is empty."""

    address: str
    senders: list[str] = []


# -- known networks and the secret -----------------------------------------------------------------------------------


class NetworkKnown(Record, frozen=True):
    """A login of an account succeeded from a network; posted, never waited for."""

    account: int
    network: str
    at_us: int


class Secret(Record, frozen=True):
    """Ask for a secret of this installation; `proposal` becomes it when there is none yet."""

    name: str
    proposal: bytes

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"
