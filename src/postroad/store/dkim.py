"""Units of the keys that domains sign with (RFC 6376): added, put to use, retired, removed.

Invariant: `private` is a key of `algorithm` whose arithmetic was verified by the unit that took it in, so whoever reads
it later need not verify it again. Like those of `store.accounts`, units answer with a word and never raise.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

from postroad.store.account_records import (
    DONE,
    KEY_IN_USE,
    KEY_UNUSABLE,
    NO_DOMAIN,
    NO_KEY,
    NO_KEY_WAITS,
    NOT_A_DOMAIN,
    NOT_A_SELECTOR,
    SELECTOR_IN_USE,
    TOO_MANY_KEYS,
)
from postroad.store.dkim_records import (
    ACTIVE,
    KEYS_MAX,
    PUBLISHED,
    RETIRED,
    DkimActivate,
    DkimAdd,
    DkimChanged,
    DkimKey,
    DkimSelect,
)
from postroad.store.engine import Connection
from postroad.store.units import UNITS, Tx, unit
from postroad.store.writer import OK, Call, Writer
from postroad.trust.dkim.keys import ALGORITHMS, KeyUnusable, load_key, make_key
from postroad.values.address import AddressError, domain_to_ascii
from postroad.values.ports import Clock

SELECTOR: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")
"""RFC 6376 section 3.1: sub-domains joined by dots, as a host name has them."""
LOOK_EVERY_S: Final = 60.0
"""Between two looks for domains without a key, when there was none."""

SELECTOR_MAX: Final = 63
"""Octets of a selector: more leaves a long domain no room in a name of 253."""


def month_of(at_us: int) -> str:
    """Year and month in UTC, as selectors begin: "202611"."""
    return time.strftime("%Y%m", time.gmtime(at_us / 1_000_000))


def new_pair(
    month: str, taken: set[str], state: int = ACTIVE, make: Callable[[str], bytes] | None = None
) -> list[DkimKey]:
    """An RSA-2048 and an Ed25519 key under selectors nobody has: pr202611r and pr202611e in November 2026, then
    pr202611r2 and so on. Takes about 25 ms."""
    number = 1
    while True:
        names = [f"pr{month}{algorithm[0]}{number if number > 1 else ''}" for algorithm in ALGORITHMS]
        if taken.isdisjoint(names):
            return [
                DkimKey(name, alg, (make or make_key)(alg), state) for name, alg in zip(names, ALGORITHMS, strict=True)
            ]
        number += 1


def _domain(tx: Tx, text: str) -> tuple[int, str]:
    """Id of a served domain, or 0 and the word for why not."""
    try:
        name = domain_to_ascii(text)
    except AddressError:
        return 0, NOT_A_DOMAIN
    rows = tx.execute("SELECT id FROM domains WHERE name = ?", (name,))
    return (rows[0][0], "") if rows else (0, NO_DOMAIN)


def _unusable(key: DkimKey) -> str:
    if len(key.selector) > SELECTOR_MAX or not SELECTOR.fullmatch(key.selector):
        return NOT_A_SELECTOR
    try:
        load_key(key.algorithm, key.private)
    except KeyUnusable:
        return KEY_UNUSABLE
    return ""


@unit
def dkim_add(tx: Tx, args: DkimAdd) -> DkimChanged:
    """Gives a domain keys; answers NO_DOMAIN, NOT_A_SELECTOR, KEY_UNUSABLE, SELECTOR_IN_USE or TOO_MANY_KEYS.

    Verifies the arithmetic of each, 33 ms for RSA-2048: keys are added some times a year.
    """
    domain, word = _domain(tx, args.domain)
    if not domain:
        return DkimChanged(word)
    known = {selector for (selector,) in tx.execute("SELECT selector FROM dkim_keys WHERE domain = ?", (domain,))}
    selectors = [key.selector for key in args.keys]
    if (args.first and known) or not known.isdisjoint(selectors):
        return DkimChanged(SELECTOR_IN_USE)
    if len(known) + len(selectors) > KEYS_MAX:
        return DkimChanged(TOO_MANY_KEYS)
    for key in args.keys:
        word = _unusable(key)
        if word:
            return DkimChanged(word)
    tx.executemany(
        "INSERT INTO dkim_keys (domain, selector, algorithm, state, created_us, changed_us, private)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(domain, key.selector, key.algorithm, key.state, tx.now_us, tx.now_us, key.private) for key in args.keys],
    )
    tx.hint("directory")
    return DkimChanged(DONE, selectors)


@unit
def dkim_activate(tx: Tx, args: DkimActivate) -> DkimChanged:
    """Lets the published keys of a domain sign and retires those that signed, at one moment; names those that sign.

    Answers NO_DOMAIN, or NO_KEY_WAITS when none is published and then changes nothing.
    """
    domain, word = _domain(tx, args.domain)
    if not domain:
        return DkimChanged(word)
    if not tx.execute("SELECT 1 FROM dkim_keys WHERE domain = ? AND state = ? LIMIT 1", (domain, PUBLISHED)):
        return DkimChanged(NO_KEY_WAITS)
    move = "UPDATE dkim_keys SET state = ?, changed_us = ? WHERE domain = ? AND state = ? RETURNING selector"
    tx.execute(move, (RETIRED, tx.now_us, domain, ACTIVE))
    rows = tx.execute(move, (ACTIVE, tx.now_us, domain, PUBLISHED))
    tx.hint("directory")
    return DkimChanged(DONE, sorted(selector for (selector,) in rows))


@unit
def dkim_retire(tx: Tx, args: DkimSelect) -> DkimChanged:
    """Takes one key out of use; answers NO_DOMAIN or NO_KEY. A retired key stays as it is."""
    domain, word = _domain(tx, args.domain)
    if not domain:
        return DkimChanged(word)
    selector = args.selector.lower()
    known = tx.execute("SELECT state FROM dkim_keys WHERE domain = ? AND selector = ?", (domain, selector))
    if not known:
        return DkimChanged(NO_KEY)
    if known[0][0] != RETIRED:
        tx.execute(
            "UPDATE dkim_keys SET state = ?, changed_us = ? WHERE domain = ? AND selector = ?",
            (RETIRED, tx.now_us, domain, selector),
        )
        tx.hint("directory")
    return DkimChanged(DONE, [selector])


@unit
def dkim_remove(tx: Tx, args: DkimSelect) -> DkimChanged:
    """Deletes a retired key for good; answers NO_DOMAIN, NO_KEY, or KEY_IN_USE for one that is not retired."""
    domain, word = _domain(tx, args.domain)
    if not domain:
        return DkimChanged(word)
    selector = args.selector.lower()
    known = tx.execute("SELECT state FROM dkim_keys WHERE domain = ? AND selector = ?", (domain, selector))
    if not known:
        return DkimChanged(NO_KEY)
    if known[0][0] != RETIRED:
        return DkimChanged(KEY_IN_USE)
    tx.execute("DELETE FROM dkim_keys WHERE domain = ? AND selector = ?", (domain, selector))
    return DkimChanged(DONE, [selector])


class MissingKeys:
    """Housekeeping of the store process: domains without any key get their first pair, one domain at a step."""

    def __init__(
        self, connection: Connection, writer: Writer, clock: Clock, make: Callable[[str], bytes] | None = None
    ) -> None:
        self._connection = connection
        self._writer = writer
        self._clock = clock
        self._make = make
        self.due = 0.0

    def step(self, now: float) -> None:
        """Makes the keys of one domain; again at once while it finds any."""
        rows = self._connection.execute(
            "SELECT name FROM domains WHERE NOT EXISTS"
            " (SELECT 1 FROM dkim_keys WHERE dkim_keys.domain = domains.id) ORDER BY id LIMIT 1"
        )
        if not rows:
            self.due = now + LOOK_EVERY_S
            return
        keys = new_pair(month_of(self._clock.wall_us()), set(), make=self._make)
        [result] = self._writer.run([Call(UNITS["dkim_add"], DkimAdd(rows[0][0], keys, first=True))])
        # After a failure the disk is full or broken, and others say so.
        self.due = now if result.status == OK else now + LOOK_EVERY_S
