"""Units and reads of what lets somebody log in and send: app passwords, grants, known networks.

Every unit that people call answers with a word of `account_records.WORDS`. An app password is stored as a SHA-256
digest because it is generated with 100 bits; what people choose themselves is stored as argon2 (`accounts`).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from postroad.store.account_records import (
    DONE,
    LABEL_IN_USE,
    NO_ACCOUNT,
    NO_APP_PASSWORD,
    NO_GRANT,
    NOT_A_LABEL,
    NOT_A_NETWORK,
    NOT_A_SCOPE,
    NOT_A_SENDER,
    REMOVED,
    TOO_MANY,
    Changed,
    Credential,
)
from postroad.store.accounts import account_id, parsed
from postroad.store.credential_records import (
    APP_PASSWORDS_MAX,
    DAY_US,
    GRANTS_MAX,
    HOUR_US,
    KNOWN_NETWORKS_MAX,
    KNOWN_US,
    LABEL_MAX,
    NETWORKS_MAX,
    SERVICES,
    AppOnly,
    AppPassword,
    AppPasswordAdd,
    AppPasswordRemove,
    AppPasswordUsed,
    Grant,
    LoginEntry,
    NetworkKnown,
    Revoke,
    Secret,
)
from postroad.store.directory import ACCOUNT_COLUMNS, Rows, account_of
from postroad.store.engine import Row
from postroad.store.mailbox_rows import next_number
from postroad.store.units import Tx, unit
from postroad.values.address import AddressError, domain_to_ascii

_label = re.compile(r"[a-z0-9][a-z0-9._-]*").fullmatch


# -- app passwords ---------------------------------------------------------------------------------------------------


@unit
def app_password_add(tx: Tx, args: AppPasswordAdd) -> Changed:
    """Adds an app password; answers NO_ACCOUNT, NOT_A_LABEL, LABEL_IN_USE, NOT_A_SCOPE, NOT_A_NETWORK or TOO_MANY."""
    account = account_id(tx, args.address)
    if not account:
        return Changed(NO_ACCOUNT)
    wrong = _wrong_with(args)
    if wrong:
        return Changed(wrong)
    labels = [label for (label,) in tx.execute("SELECT label FROM app_passwords WHERE account = ?", (account,))]
    if args.label in labels:
        return Changed(LABEL_IN_USE)
    if len(labels) >= APP_PASSWORDS_MAX:
        return Changed(TOO_MANY)
    number = next_number(tx, "app_password")
    tx.execute(
        "INSERT INTO app_passwords (id, account, label, digest, scram_salt, scram_iterations, scram_stored_key,"
        " scram_server_key, scopes, networks, expires_us, created_us, used_us, used_from)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, '')",
        (
            number,
            account,
            args.label,
            args.digest,
            args.scram_salt,
            args.scram_iterations,
            args.scram_stored_key,
            args.scram_server_key,
            " ".join(scope for scope in SERVICES if scope in args.scopes),
            " ".join(args.networks),
            args.expires_us,
            tx.now_us,
        ),
    )
    tx.hint("directory")
    return Changed(DONE, number)


def _wrong_with(args: AppPasswordAdd) -> str:
    if len(args.label) > LABEL_MAX or not _label(args.label):
        return NOT_A_LABEL
    if not args.scopes or not set(args.scopes) <= set(SERVICES):
        return NOT_A_SCOPE
    if len(args.networks) > NETWORKS_MAX or not all(map(_is_network, args.networks)):
        return NOT_A_NETWORK
    return ""


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


@unit
def app_password_remove(tx: Tx, args: AppPasswordRemove) -> Changed:
    """Removes an app password; answers NO_ACCOUNT or NO_APP_PASSWORD."""
    account = account_id(tx, args.address)
    if not account:
        return Changed(NO_ACCOUNT)
    sql = "DELETE FROM app_passwords WHERE account = ? AND label = ? RETURNING id"
    rows = tx.execute(sql, (account, args.label))
    tx.hint("directory")
    return Changed(DONE, rows[0][0]) if rows else Changed(NO_APP_PASSWORD)


@unit
def app_password_used(tx: Tx, args: AppPasswordUsed) -> None:
    """Notes when and from where an app password was last used, at most once an hour."""
    tx.execute(
        "UPDATE app_passwords SET used_us = ?, used_from = ? WHERE id = ? AND used_us <= ?",
        (args.at_us, args.source, args.id, args.at_us - HOUR_US),
    )


@unit
def user_app_only(tx: Tx, args: AppOnly) -> Changed:
    """Says whether an account's own password lets it into mail services; answers NO_ACCOUNT."""
    account = account_id(tx, args.address)
    if not account:
        return Changed(NO_ACCOUNT)
    tx.execute("UPDATE accounts SET app_only = ? WHERE id = ?", (int(args.app_only), account))
    tx.hint("directory")
    return Changed(DONE, account)


_APP_PASSWORD: Final = (
    "p.id, p.label, p.digest, p.scram_salt, p.scram_iterations, p.scram_stored_key, p.scram_server_key, p.scopes,"
    " p.networks, p.expires_us, p.created_us, p.used_us, p.used_from"
)
_LOGIN: Final = (
    f"SELECT {ACCOUNT_COLUMNS}, a.app_only, c.argon2, c.scram_salt, c.scram_iterations, c.scram_stored_key,"
    f" c.scram_server_key, {_APP_PASSWORD} FROM accounts a LEFT JOIN credentials c ON c.account = a.id"
    " LEFT JOIN app_passwords p ON p.account = a.id WHERE a.address_key = ? ORDER BY p.label"
)


def _app_password(row: Row) -> AppPassword:
    columns = [*row[:7], frozenset(row[7].split()), tuple(row[8].split()), *row[9:]]
    return AppPassword(*columns)


# -- grants ----------------------------------------------------------------------------------------------------------


def pattern_of(text: str) -> str:
    """The stored form of a sender somebody typed: the key of an address, or "@" and a domain; empty for neither."""
    if text.startswith("@"):
        try:
            name = domain_to_ascii(text[1:])
        except AddressError:
            return ""
        return "" if name.startswith("[") else f"@{name}"
    address = parsed(text)
    return address.key if address else ""


@unit
def grant(tx: Tx, args: Grant) -> Changed:
    """Lets an account send in more names; answers NO_ACCOUNT, NOT_A_SENDER or TOO_MANY, and then changes nothing."""
    account = account_id(tx, args.address)
    if not account:
        return Changed(NO_ACCOUNT)
    patterns = list(dict.fromkeys(pattern_of(text) for text in args.senders))
    if not patterns or "" in patterns:
        return Changed(NOT_A_SENDER)
    known = {pattern for (pattern,) in tx.execute("SELECT pattern FROM grants WHERE account = ?", (account,))}
    new = [pattern for pattern in patterns if pattern not in known]
    if len(known) + len(new) > GRANTS_MAX:
        return Changed(TOO_MANY)
    tx.executemany(
        "INSERT INTO grants (account, pattern, created_us) VALUES (?, ?, ?)",
        [(account, pattern, tx.now_us) for pattern in new],
    )
    tx.hint("directory")
    return Changed(DONE, account)


@unit
def revoke(tx: Tx, args: Revoke) -> Changed:
    """Takes grants back; answers NO_ACCOUNT, or NO_GRANT and then changes nothing."""
    account = account_id(tx, args.address)
    if not account:
        return Changed(NO_ACCOUNT)
    known = {pattern for (pattern,) in tx.execute("SELECT pattern FROM grants WHERE account = ?", (account,))}
    gone = {pattern_of(text) for text in args.senders} if args.senders else known
    if not gone or not gone <= known:
        return Changed(NO_GRANT)
    tx.executemany("DELETE FROM grants WHERE account = ? AND pattern = ?", [(account, gone_) for gone_ in sorted(gone)])
    tx.hint("directory")
    return Changed(DONE, account)


# -- known networks and the secret -----------------------------------------------------------------------------------


@unit
def network_known(tx: Tx, args: NetworkKnown) -> None:
    """Remembers a network of an account, at most once a day; beyond `KNOWN_NETWORKS_MAX` the oldest is forgotten."""
    if not tx.execute("SELECT 1 FROM accounts WHERE id = ? AND state <> ?", (args.account, REMOVED)):
        return
    tx.execute(
        "INSERT INTO known_networks (account, network, at_us) VALUES (?, ?, ?) ON CONFLICT (account, network)"
        " DO UPDATE SET at_us = excluded.at_us WHERE known_networks.at_us <= excluded.at_us - ?",
        (args.account, args.network, args.at_us, DAY_US),
    )
    tx.execute(
        "DELETE FROM known_networks WHERE account = ? AND network NOT IN"
        " (SELECT network FROM known_networks WHERE account = ? ORDER BY at_us DESC, network LIMIT ?)",
        (args.account, args.account, KNOWN_NETWORKS_MAX),
    )


@unit
def secret(tx: Tx, args: Secret) -> bytes:
    """The secret of a name: the first proposal that came."""
    sql = "INSERT INTO secrets (name, octets) VALUES (?, ?) ON CONFLICT (name) DO NOTHING"
    tx.execute(sql, (args.name, args.proposal))
    octets: bytes = tx.execute("SELECT octets FROM secrets WHERE name = ?", (args.name,))[0][0]
    return octets


# -- reads -----------------------------------------------------------------------------------------------------------


class Credentials:
    """What proves a login and what it may do, read through one connection; each answer is one statement."""

    __slots__ = ("_rows",)

    def __init__(self, reader: Rows) -> None:
        self._rows = reader.rows

    async def login_entry(self, key: str) -> LoginEntry | None:
        """What can prove the login of an account, by the key of its address; None when there is no such account."""
        rows = await self._rows(_LOGIN, (key,))
        if not rows:
            return None
        first = rows[0]
        credential = None if first[9] is None else Credential(*first[9:14])
        app_passwords = tuple(_app_password(row[14:]) for row in rows if row[14] is not None)
        return LoginEntry(account_of(first[:8]), credential, bool(first[8]), app_passwords)

    async def knows_network(self, account: int, network: str, now_us: int) -> bool:
        """Whether a login of this account has succeeded from this network within the last year."""
        sql = "SELECT 1 FROM known_networks WHERE account = ? AND network = ? AND at_us > ?"
        return bool(await self._rows(sql, (account, network, now_us - KNOWN_US)))

    async def grants(self, account: int) -> list[tuple[str, int]]:
        """Patterns granted to an account in order, with the wall time of each in microseconds."""
        rows = await self._rows("SELECT pattern, created_us FROM grants WHERE account = ? ORDER BY pattern", (account,))
        return [(pattern, created_us) for pattern, created_us in rows]
