"""Units that say who is served here: domains, accounts with their mailboxes and passwords, aliases.

Every unit looks before it writes and answers with a word of `account_records.WORDS`, never by raising.
An address is an account or an alias, never both, so nobody has to know which of them would win.
"""

from __future__ import annotations

from typing import Final

from postroad.store.account_records import (
    ADDRESS_IN_USE,
    ALIAS_TARGETS_MAX,
    DISABLED,
    DOMAIN_EXISTS,
    DOMAIN_IN_USE,
    DONE,
    ENABLED,
    NO_ACCOUNT,
    NO_ALIAS,
    NO_DOMAIN,
    NO_TARGET,
    NOT_A_DOMAIN,
    NOT_A_LIMIT,
    NOT_A_QUOTA,
    NOT_AN_ADDRESS,
    REMOVED,
    TOO_MANY,
    AliasAdd,
    AliasRemove,
    CatchAll,
    Changed,
    Credential,
    DomainAdd,
    DomainRemove,
    DomainRemoved,
    Postmaster,
    SetPassword,
    UserAdd,
    UserDisable,
    UserLimits,
    UserQuota,
    UserRemove,
)
from postroad.store.allowances import set_limits
from postroad.store.gateways import drop_gateway
from postroad.store.mailbox_records import SPECIAL_MAILBOXES
from postroad.store.mailbox_rows import ERASE_ACCOUNT, add_mailbox, begin_job, next_number
from postroad.store.units import Tx, unit
from postroad.values.address import Address, AddressError, domain_to_ascii

QUOTA_MAX: Final = 1 << 60
"""Octets: far above any disk, and below what a 63-bit sum could overflow."""

ACCOUNTS_AT_ONCE: Final = 100
"""Accounts one call removes: each takes five statements."""


def parsed(text: str) -> Address | None:
    """The address of a text a person typed, None when it is none."""
    try:
        return Address.parse(text, utf8=True)
    except AddressError:
        return None


def _targets(texts: list[str]) -> list[str] | None:
    """Targets with their domains in A-labels, the first of equal ones; None when one of them is no address."""
    found: dict[str, str] = {}
    for text in texts:
        address = parsed(text)
        if address is None:
            return None
        found.setdefault(address.key, address.to_ascii())
    return list(found.values())


def _domain_id(tx: Tx, name: str) -> int:
    """Id of a served domain, 0 when it is not served here."""
    rows = tx.execute("SELECT id FROM domains WHERE name = ?", (name,))
    return rows[0][0] if rows else 0


def account_id(tx: Tx, address: str) -> int:
    """Id of an account by the address somebody typed, 0 when there is none."""
    found = parsed(address)
    rows = tx.execute("SELECT id FROM accounts WHERE address_key = ?", (found.key,)) if found else []
    return rows[0][0] if rows else 0


# -- domains ---------------------------------------------------------------------------------------------------------


@unit
def domain_add(tx: Tx, args: DomainAdd) -> Changed:
    """Serves a domain from now on; answers NOT_A_DOMAIN, NOT_AN_ADDRESS (of the postmaster) or DOMAIN_EXISTS."""
    try:
        name = domain_to_ascii(args.name)
    except AddressError:
        return Changed(NOT_A_DOMAIN)
    if name.startswith("["):
        return Changed(NOT_A_DOMAIN)
    postmaster = _targets([args.postmaster]) if args.postmaster else [""]
    if postmaster is None:
        return Changed(NOT_AN_ADDRESS)
    known = _domain_id(tx, name)
    if known:
        return Changed(DOMAIN_EXISTS, known)
    domain = next_number(tx, "domain")
    tx.execute(
        "INSERT INTO domains (id, name, postmaster, catch_all, created_us) VALUES (?, ?, ?, '', ?)",
        (domain, name, postmaster[0], tx.now_us),
    )
    tx.hint("directory")
    return Changed(DONE, domain)


@unit
def domain_remove(tx: Tx, args: DomainRemove) -> DomainRemoved:
    """Stops serving a domain; unless forced it answers DOMAIN_IN_USE with what still stands below it."""
    try:
        name = domain_to_ascii(args.name)
    except AddressError:
        return DomainRemoved(NOT_A_DOMAIN)
    domain = _domain_id(tx, name)
    if not domain:
        return DomainRemoved(NO_DOMAIN)
    accounts, aliases, pointing = tx.execute(
        "SELECT (SELECT count(*) FROM accounts WHERE domain = ?),"
        " (SELECT count(DISTINCT address_key) FROM aliases WHERE domain = ?),"
        " (SELECT count(DISTINCT address_key) FROM aliases WHERE domain <> ? AND target LIKE ?)",
        (domain, domain, domain, f"%@{name}"),
    )[0]
    if (accounts or aliases) and not args.force:
        return DomainRemoved(DOMAIN_IN_USE, accounts, aliases, pointing)
    tx.hint("directory")
    first = "SELECT id FROM accounts WHERE domain = ? ORDER BY id LIMIT ?"
    for (account,) in tx.execute(first, (domain, ACCOUNTS_AT_ONCE)):
        _remove_account(tx, account)
    if accounts > ACCOUNTS_AT_ONCE:
        return DomainRemoved(DONE, ACCOUNTS_AT_ONCE, 0, pointing, more=True)
    if not drop_gateway(tx, domain):
        return DomainRemoved(DONE, accounts, 0, pointing, more=True)
    tx.execute("DELETE FROM aliases WHERE domain = ?", (domain,))
    tx.execute("DELETE FROM dkim_keys WHERE domain = ?", (domain,))
    tx.execute("DELETE FROM domains WHERE id = ?", (domain,))
    return DomainRemoved(DONE, accounts, aliases, pointing)


@unit
def domain_catch_all(tx: Tx, args: CatchAll) -> Changed:
    """Sets where mail to unknown addresses of a domain goes; answers NO_DOMAIN or NOT_AN_ADDRESS."""
    return _set_target(tx, "catch_all", args.domain, args.target)


@unit
def domain_postmaster(tx: Tx, args: Postmaster) -> Changed:
    """Sets who gets mail to postmaster@ and abuse@ of a domain; answers NO_DOMAIN or NOT_AN_ADDRESS."""
    return _set_target(tx, "postmaster", args.domain, args.target)


def _set_target(tx: Tx, column: str, domain: str, target: str) -> Changed:
    targets = _targets([target]) if target else [""]
    if targets is None:
        return Changed(NOT_AN_ADDRESS)
    try:
        name = domain_to_ascii(domain)
    except AddressError:
        return Changed(NOT_A_DOMAIN)
    rows = tx.execute(f"UPDATE domains SET {column} = ? WHERE name = ? RETURNING id", (targets[0], name))
    tx.hint("directory")
    return Changed(DONE, rows[0][0]) if rows else Changed(NO_DOMAIN)


# -- accounts --------------------------------------------------------------------------------------------------------


@unit
def user_add(tx: Tx, args: UserAdd) -> Changed:
    """Makes an account with its mailboxes; answers NOT_AN_ADDRESS, NOT_A_QUOTA, NO_DOMAIN or ADDRESS_IN_USE."""
    address = parsed(args.address)
    if address is None:
        return Changed(NOT_AN_ADDRESS)
    if not 0 <= args.quota_bytes <= QUOTA_MAX:
        return Changed(NOT_A_QUOTA)
    key = address.key
    domain = _domain_id(tx, address.domain_ascii)
    if not domain:
        return Changed(NO_DOMAIN)
    if _in_use(tx, key):
        return Changed(ADDRESS_IN_USE)
    account = next_number(tx, "account")
    tx.execute(
        "INSERT INTO accounts (id, domain, address_key, address, state, quota_bytes, used_bytes, messages, created_us)"
        " VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?)",
        (account, domain, key, str(address), ENABLED, args.quota_bytes, tx.now_us),
    )
    for name, special_use in SPECIAL_MAILBOXES:
        add_mailbox(tx, account, name, special_use)
    if args.credential is not None:
        _store_credential(tx, account, args.credential)
    tx.hint("directory")
    return Changed(DONE, account)


def _in_use(tx: Tx, key: str) -> bool:
    for table in ("accounts", "aliases"):
        if tx.execute(f"SELECT 1 FROM {table} WHERE address_key = ? LIMIT 1", (key,)):
            return True
    return False


@unit
def user_remove(tx: Tx, args: UserRemove) -> Changed:
    """Frees an address; what the account held is erased in slices by `sweep_mailboxes`. Answers NO_ACCOUNT."""
    account = account_id(tx, args.address)
    if not account:
        return Changed(NO_ACCOUNT)
    _remove_account(tx, account)
    tx.hint("directory")
    return Changed(DONE, account)


def _remove_account(tx: Tx, account: int) -> None:
    # A key without "@" is none that an address can have, so the address is free for somebody else at once.
    tx.execute(
        "UPDATE accounts SET state = ?, domain = NULL, address_key = ? WHERE id = ?",
        (REMOVED, f"removed {account}", account),
    )
    for table in ("credentials", "app_passwords", "grants", "known_networks"):
        tx.execute(f"DELETE FROM {table} WHERE account = ?", (account,))
    begin_job(tx, ERASE_ACCOUNT, account, 0, due_us=tx.now_us)


@unit
def user_quota(tx: Tx, args: UserQuota) -> Changed:
    """Sets what an account may hold; answers NO_ACCOUNT or NOT_A_QUOTA."""
    account = account_id(tx, args.address)
    if not account:
        return Changed(NO_ACCOUNT)
    if not 0 <= args.quota_bytes <= QUOTA_MAX:
        return Changed(NOT_A_QUOTA, account)
    tx.execute("UPDATE accounts SET quota_bytes = ? WHERE id = ?", (args.quota_bytes, account))
    tx.hint("directory")
    return Changed(DONE, account)


@unit
def user_limits(tx: Tx, args: UserLimits) -> Changed:
    """Sets how much an account may send; what it has sent stays counted. Answers NO_ACCOUNT or NOT_A_LIMIT."""
    account = account_id(tx, args.address)
    if not account:
        return Changed(NO_ACCOUNT)
    if not set_limits(tx, account, args.limits):
        return Changed(NOT_A_LIMIT, account)
    return Changed(DONE, account)


@unit
def user_disable(tx: Tx, args: UserDisable) -> Changed:
    """Stops an account from logging in and from taking mail, or lets it again; answers NO_ACCOUNT."""
    account = account_id(tx, args.address)
    if not account:
        return Changed(NO_ACCOUNT)
    state = DISABLED if args.disabled else ENABLED
    tx.execute("UPDATE accounts SET state = ? WHERE id = ?", (state, account))
    tx.hint("directory")
    return Changed(DONE, account)


@unit
def set_password(tx: Tx, args: SetPassword) -> Changed:
    """Replaces both proofs of an account's password; answers NO_ACCOUNT."""
    account = account_id(tx, args.address)
    if not account:
        return Changed(NO_ACCOUNT)
    tx.execute("DELETE FROM credentials WHERE account = ?", (account,))
    _store_credential(tx, account, args.credential)
    tx.hint("directory")
    return Changed(DONE, account)


def _store_credential(tx: Tx, account: int, credential: Credential) -> None:
    tx.execute(
        "INSERT INTO credentials (account, argon2, scram_salt, scram_iterations, scram_stored_key, scram_server_key,"
        " changed_us) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            account,
            credential.argon2,
            credential.scram_salt,
            credential.scram_iterations,
            credential.scram_stored_key,
            credential.scram_server_key,
            tx.now_us,
        ),
    )


# -- aliases ---------------------------------------------------------------------------------------------------------


@unit
def alias_add(tx: Tx, args: AliasAdd) -> Changed:
    """Leads an address of ours to more targets; answers NOT_AN_ADDRESS, NO_DOMAIN, ADDRESS_IN_USE or TOO_MANY."""
    address = parsed(args.address)
    targets = _targets(args.targets)
    if address is None or not targets:
        return Changed(NOT_AN_ADDRESS)
    domain = _domain_id(tx, address.domain_ascii)
    if not domain:
        return Changed(NO_DOMAIN)
    key = address.key
    if tx.execute("SELECT 1 FROM accounts WHERE address_key = ?", (key,)):
        return Changed(ADDRESS_IN_USE)
    known = {target for (target,) in tx.execute("SELECT target FROM aliases WHERE address_key = ?", (key,))}
    new = [target for target in targets if target not in known]
    if len(known) + len(new) > ALIAS_TARGETS_MAX:
        return Changed(TOO_MANY)
    tx.executemany(
        "INSERT INTO aliases (address_key, target, domain, created_us) VALUES (?, ?, ?, ?)",
        [(key, target, domain, tx.now_us) for target in new],
    )
    tx.hint("directory")
    return Changed(DONE)


@unit
def alias_remove(tx: Tx, args: AliasRemove) -> Changed:
    """Takes targets, or all of them, from an alias; answers NO_ALIAS, or NO_TARGET and then changes nothing."""
    address = parsed(args.address)
    if address is None:
        return Changed(NOT_AN_ADDRESS)
    key = address.key
    known = {target for (target,) in tx.execute("SELECT target FROM aliases WHERE address_key = ?", (key,))}
    if not known:
        return Changed(NO_ALIAS)
    # Compared by meaning: nobody remembers how a target was spelled.
    by_key = {found.key: target for target in known if (found := parsed(target))}
    keys = [found.key if (found := parsed(target)) else "" for target in args.targets]
    if not by_key.keys() >= set(keys):
        return Changed(NO_TARGET)
    gone = [by_key[wanted] for wanted in dict.fromkeys(keys)] if keys else sorted(known)
    tx.executemany("DELETE FROM aliases WHERE address_key = ? AND target = ?", [(key, target) for target in gone])
    tx.hint("directory")
    return Changed(DONE)
