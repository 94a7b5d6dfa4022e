"""Units of gateway domains: to which host their mail is passed, and which of their recipients exist there.

A gateway domain is a served domain with a next hop. Accounts and aliases below it come first: a domain may be split
between mailboxes here and mailboxes there. Like those of `store.accounts`, units answer with a word and never raise.
"""

from __future__ import annotations

from typing import Final

from postroad.store.account_records import (
    DONE,
    NO_DOMAIN,
    NOT_A_CHECK,
    NOT_A_DOMAIN,
    NOT_A_HOP,
    NOT_AN_ADDRESS,
    OTHER_DOMAIN,
    TOO_MANY_AT_ONCE,
    Changed,
    DomainGateway,
    GatewayKnown,
    GatewayRecipients,
)
from postroad.store.units import ROWS_PER_UNIT, Tx, unit
from postroad.values.address import Address, AddressError, domain_to_ascii
from postroad.values.next_hop import parse_next_hop

CHECKS: Final = ("callout", "list", "all")
"""How a recipient is checked: its host is asked, a list says it, or not at all."""

IN_DOUBT: Final = ("known", "accept", "defer")
"""What becomes of a recipient when its host could not be asked: taken if the host ever took it, taken, or put off."""

KNOWN_MAX: Final = 50_000
"""Recipients of one domain that are remembered as taken by its host; those confirmed longest ago go first."""

FRESH_US: Final = 86_400_000_000
"""A recipient confirmed within the last day is not written down again."""


@unit
def domain_gateway(tx: Tx, args: DomainGateway) -> Changed:
    """Passes a domain's mail to a host, or keeps it again; answers NO_DOMAIN, NOT_A_HOP or NOT_A_CHECK."""
    name = _name(args.domain)
    if not name:
        return Changed(NOT_A_DOMAIN)
    settings = ("", "", "")
    if args.next_hop:
        if args.check not in CHECKS or args.in_doubt not in IN_DOUBT:
            return Changed(NOT_A_CHECK)
        try:
            settings = (str(parse_next_hop(args.next_hop)), args.check, args.in_doubt)
        except ValueError:
            return Changed(NOT_A_HOP)
    rows = tx.execute(
        "UPDATE domains SET next_hop = ?, recipient_check = ?, in_doubt = ? WHERE name = ? RETURNING id",
        (*settings, name),
    )
    if not rows:
        return Changed(NO_DOMAIN)
    tx.hint("directory")
    tx.hint("gateway", rows[0][0])
    return Changed(DONE, rows[0][0])


@unit
def gateway_recipient_add(tx: Tx, args: GatewayRecipients) -> Changed:
    """Adds recipients to a domain's list, or none of them; those it has already stay.

    Answers NO_DOMAIN, NOT_AN_ADDRESS, OTHER_DOMAIN or TOO_MANY_AT_ONCE.
    """
    domain, keys = _listed(tx, args)
    if isinstance(keys, str):
        return Changed(keys)
    tx.executemany(
        "INSERT INTO gateway_recipients (address_key, domain) VALUES (?, ?) ON CONFLICT (address_key) DO NOTHING",
        [(key, domain) for key in keys],
    )
    tx.hint("directory")
    return Changed(DONE, domain)


@unit
def gateway_recipient_remove(tx: Tx, args: GatewayRecipients) -> Changed:
    """Takes recipients from a domain's list; those it does not have make no difference. Answers as the other does."""
    domain, keys = _listed(tx, args)
    if isinstance(keys, str):
        return Changed(keys)
    tx.executemany(
        "DELETE FROM gateway_recipients WHERE address_key = ? AND domain = ?", [(key, domain) for key in keys]
    )
    tx.hint("directory")
    return Changed(DONE, domain)


def _listed(tx: Tx, args: GatewayRecipients) -> tuple[int, list[str] | str]:
    """The domain's id and the keys of its addresses, or the word for what is wrong."""
    name = _name(args.domain)
    if not name:
        return 0, NOT_A_DOMAIN
    if len(args.addresses) > ROWS_PER_UNIT:
        return 0, TOO_MANY_AT_ONCE
    keys: dict[str, None] = {}
    for text in args.addresses:
        try:
            address = Address.parse(text, utf8=True)
        except AddressError:
            return 0, NOT_AN_ADDRESS
        if address.domain_ascii != name:
            return 0, OTHER_DOMAIN
        keys[address.key] = None
    rows = tx.execute("SELECT id FROM domains WHERE name = ?", (name,))
    return (rows[0][0], list(keys)) if rows else (0, NO_DOMAIN)


@unit
def gateway_known(tx: Tx, args: GatewayKnown) -> None:
    """Writes down recipients that a domain's host has taken, and forgets one that it refuses.

    Without effect when the domain has another host meanwhile.
    """
    rows = tx.execute("SELECT id FROM domains WHERE name = ? AND next_hop = ?", (args.domain, args.next_hop))
    if not rows:
        return
    domain = rows[0][0]
    for key in args.refused:
        # Looked at first: somebody who guesses addresses must not cost a commit each.
        if tx.execute("SELECT 1 FROM gateway_known WHERE address_key = ?", (key,)):
            tx.execute("DELETE FROM gateway_known WHERE address_key = ?", (key,))
    fresh = "SELECT 1 FROM gateway_known WHERE address_key = ? AND next_hop = ? AND seen_us > ?"
    taken = [key for key in args.taken if not tx.execute(fresh, (key, args.next_hop, tx.now_us - FRESH_US))]
    if not taken:
        return
    tx.executemany(
        "INSERT INTO gateway_known (address_key, domain, next_hop, seen_us) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (address_key) DO UPDATE"
        " SET domain = excluded.domain, next_hop = excluded.next_hop, seen_us = excluded.seen_us",
        [(key, domain, args.next_hop, tx.now_us) for key in taken],
    )
    beyond = "SELECT address_key FROM gateway_known WHERE domain = ? ORDER BY seen_us DESC LIMIT ? OFFSET ?"
    old = tx.execute(beyond, (domain, ROWS_PER_UNIT, KNOWN_MAX))
    tx.executemany("DELETE FROM gateway_known WHERE address_key = ?", old)


def drop_gateway(tx: Tx, domain: int) -> bool:
    """Deletes what is written of a domain's recipients elsewhere; returns whether all of it is gone."""
    for table in ("gateway_recipients", "gateway_known"):
        first = f"SELECT address_key FROM {table} WHERE domain = ? LIMIT ?"
        rows = tx.execute(first, (domain, ROWS_PER_UNIT))
        tx.executemany(f"DELETE FROM {table} WHERE address_key = ?", rows)
        if len(rows) == ROWS_PER_UNIT:
            return False
    tx.hint("gateway", domain)
    return True


def _name(text: str) -> str:
    """A domain in A-labels; empty when the text is none."""
    try:
        return domain_to_ascii(text)
    except AddressError:
        return ""
