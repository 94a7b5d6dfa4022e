"""Reads of domains, accounts and aliases: what an address of an envelope means here, who may send as it, and lists.

Methods are `async` because PostgreSQL answers later; on SQLite they never suspend. Each answer comes from one statement
and so from one moment.
"""

from __future__ import annotations

from typing import Final, Protocol

from postroad.store.account_records import (
    DISABLED,
    ENABLED,
    REMOVED,
    Account,
    Alias,
    AliasEntry,
    Domain,
    Empty,
    Gateway,
    Local,
    NotOurs,
    Resolved,
    Unknown,
)
from postroad.store.engine import Params, Row
from postroad.values.address import Address, AddressError
from postroad.values.ports import Clock


class Rows(Protocol):
    """A read-only connection (`store.reader.Reader`): one statement, one moment, and no transaction left open."""

    async def rows(self, sql: str, params: Params = ()) -> list[Row]:
        """The rows of one SELECT."""
        ...


# RFC 5321 section 4.5.1 (postmaster), RFC 2142 section 4 (abuse)
REQUIRED: Final = ("postmaster", "abuse")
"""Local parts that exist in every domain; mail to them is never refused."""

ELSEWHERE_S: Final = 5.0
"""How long a domain is known to be none of ours without asking again: what a lost hint may cost."""
ELSEWHERE_MAX: Final = 10_000
"""Domains that are remembered so."""

SENDERS_S: Final = 5.0
"""How long an answer of `may_send_as` is kept: what a lost hint may cost."""
SENDERS_MAX: Final = 10_000
"""Such answers that are kept."""

LIST_PAGE: Final = 1000
"""Rows of one page of a list."""

# One statement for all an envelope address can mean; the address with and without its tag are asked for together.
_MEANING: Final = (
    "SELECT 0, CASE next_hop WHEN '' THEN '' ELSE recipient_check || ' ' || in_doubt || ' ' || next_hop END,"
    " id, postmaster, catch_all, 0, 0, CASE recipient_check WHEN 'list' THEN"
    " (SELECT count(*) FROM gateway_recipients WHERE address_key IN (?, ?)) ELSE 0 END FROM domains WHERE name = ?"
    " UNION ALL SELECT 1, address_key, id, address, '', quota_bytes, used_bytes, state FROM accounts"
    " WHERE address_key IN (?, ?)"
    " UNION ALL SELECT 2, address_key, 0, target, '', 0, 0, 0 FROM aliases WHERE address_key IN (?, ?)"
)
# The account of the domain that was made first; without any, the one of the whole server.
_ANYBODY: Final = (
    "SELECT id, address, address_key, quota_bytes, used_bytes FROM accounts WHERE state = 0"
    " ORDER BY CASE WHEN domain = (SELECT id FROM domains WHERE name = ?) THEN 0 ELSE 1 END, id LIMIT 1"
)
_DOMAIN: Final = "SELECT id, name, postmaster, catch_all, created_us, next_hop, recipient_check, in_doubt FROM domains"
ACCOUNT_COLUMNS: Final = (
    "a.id, a.address, a.address_key, a.quota_bytes, a.used_bytes, a.messages, a.state, a.created_us"
)
_ACCOUNT: Final = f"SELECT {ACCOUNT_COLUMNS} FROM accounts a"
# One statement for all that can let an account send in a name; the address without its tag is asked for along.
_SENDER: Final = (
    "SELECT 0, address_key, '' FROM accounts WHERE id = ?"
    " UNION ALL SELECT 1, address_key, '' FROM accounts WHERE address_key IN (?, ?)"
    " UNION ALL SELECT 2, address_key, target FROM aliases WHERE address_key IN (?, ?)"
    " UNION ALL SELECT 3, pattern, '' FROM grants WHERE account = ? AND pattern IN (?, ?, ?)"
)


def account_of(row: Row) -> Account:
    """The account of a row of `ACCOUNT_COLUMNS`."""
    ident, address, key, quota, used, messages, state, created_us = row
    return Account(ident, address, key, quota, used, messages, state != ENABLED, created_us)


class Directory:
    """Who is served here, read through one connection.

    With a clock it remembers which domains are none of ours, which is all that relayed mail asks, and who may send in
    whose name; whoever gives one calls `forget` for every hint about the directory.
    """

    __slots__ = ("_clock", "_elsewhere", "_elsewhere_until", "_rows", "_senders", "_senders_until")

    def __init__(self, reader: Rows, clock: Clock | None = None) -> None:
        self._rows = reader.rows
        self._clock = clock
        self._elsewhere: set[str] = set()
        self._elsewhere_until = 0.0
        self._senders: dict[tuple[int, Address, str], bool] = {}
        self._senders_until = 0.0

    def forget(self) -> None:
        """Something in the directory has changed."""
        self._elsewhere.clear()
        self._senders.clear()

    def _is_elsewhere(self, domain: str) -> bool:
        return self._clock is not None and domain in self._elsewhere and self._clock.monotonic() < self._elsewhere_until

    def _not_ours(self, domain: str) -> NotOurs:
        if self._clock is not None:
            now = self._clock.monotonic()
            if now >= self._elsewhere_until or len(self._elsewhere) >= ELSEWHERE_MAX:
                self._elsewhere.clear()
                self._elsewhere_until = now + ELSEWHERE_S
            self._elsewhere.add(domain)
        return NotOurs(domain)

    # -- what an address means ---------------------------------------------------------------------------------------

    async def recipient(self, address: Address, delimiter: str = "+") -> Resolved:
        """What a recipient address means, in this order: account, alias, the same without its tag, postmaster and
        abuse, the domain's catch-all; one step only, so an `Alias` has its targets as they are written. In a gateway
        domain whoever is no account or alias is a `Gateway`, postmaster too unless somebody here was named for it.

        A catch-all that leads to an address nobody has is not followed here: expanding is `flow.local`'s part.
        """
        domain = address.domain_ascii
        if self._is_elsewhere(domain):
            return NotOurs(domain)
        key = address.key
        user, tag = _untagged(key[: -len(domain) - 1], delimiter)
        plain = f"{user}@{domain}" if tag else key
        rows = await self._rows(_MEANING, (key, plain, domain, key, plain, key, plain))
        if not rows or rows[0][0]:
            return self._not_ours(domain)
        if len(rows) > 1:
            found = _named(rows, key, "") or _named(rows, plain, tag)
            if found is not None:
                return found
        _, gateway, _, postmaster, catch_all, _, _, listed = rows[0]
        required = user in REQUIRED
        if gateway and not (required and postmaster):
            check, in_doubt, next_hop = gateway.split(" ", 2)
            return Gateway(str(address), key, domain, next_hop, check, in_doubt, listed > 0, required)
        if required:
            return await self._required(user, key, domain, postmaster)
        return Alias(key, [catch_all], "catch-all") if catch_all else Unknown(str(address))

    async def next_hop(self, domain: str) -> str:
        """Where a gateway domain's mail is passed to, as a text of `values.next_hop`; empty for every other domain."""
        rows = await self._rows("SELECT next_hop FROM domains WHERE name = ?", (domain,))
        return rows[0][0] if rows else ""

    async def was_taken(self, gateway: Gateway) -> bool:
        """Whether the host of a gateway domain has ever taken this recipient."""
        sql = "SELECT 1 FROM gateway_known WHERE address_key = ? AND next_hop = ?"
        return bool(await self._rows(sql, (gateway.key, gateway.next_hop)))

    async def bare_postmaster(self) -> Resolved:
        """Whom `<Postmaster>` without a domain means: the postmaster of the domain that was added first."""
        rows = await self._rows(_DOMAIN + " ORDER BY id LIMIT 1")
        if not rows:
            return Empty("postmaster")
        return await self.recipient(Address.parse(f"postmaster@{rows[0][1]}"), "")

    async def _required(self, user: str, key: str, domain: str, postmaster: str) -> Alias | Empty:
        if postmaster:
            return Alias(key, [postmaster], user, unfailing=True)
        somebody = await self.anybody(domain)
        return Empty(key) if somebody is None else Alias(key, [somebody.address], user, unfailing=True)

    async def anybody(self, domain: str) -> Local | None:
        """Who gets the mail that must not be refused: the domain's first account, else the first one here."""
        rows = await self._rows(_ANYBODY, (domain,))
        if not rows:
            return None
        ident, address, key, quota, used = rows[0]
        return Local(ident, address, key, quota, used, disabled=False, unfailing=True)

    # -- single rows -------------------------------------------------------------------------------------------------

    async def domain(self, name: str) -> Domain | None:
        """A served domain by its name in A-labels and lower case."""
        rows = await self._rows(_DOMAIN + " WHERE name = ?", (name,))
        return Domain(*rows[0]) if rows else None

    async def account(self, key: str) -> Account | None:
        """An account by the key of its address."""
        rows = await self._rows(_ACCOUNT + " WHERE address_key = ?", (key,))
        return account_of(rows[0]) if rows else None

    async def account_by_id(self, account: int) -> Account | None:
        """An account by its id; None once it was removed."""
        rows = await self._rows(_ACCOUNT + " WHERE id = ? AND state <> ?", (account, REMOVED))
        return account_of(rows[0]) if rows else None

    # -- in whose name an account may send -----------------------------------------------------------------------------

    async def may_send_as(self, account: int, address: Address, delimiter: str = "+") -> bool:
        """Whether an account may use an address as envelope sender or in From.

        It may use its own address, with any tag; an alias that leads to it directly and to nobody else; and what was
        granted to it. The address of somebody else stays his, tag or not, unless it was granted.
        """
        if self._clock is None:
            return await self._may_send_as(account, address, delimiter)
        now = self._clock.monotonic()
        if now >= self._senders_until or len(self._senders) >= SENDERS_MAX:
            self._senders.clear()
            self._senders_until = now + SENDERS_S
        asked = account, address, delimiter
        known = self._senders.get(asked)
        if known is None:
            known = self._senders[asked] = await self._may_send_as(account, address, delimiter)
        return known

    async def _may_send_as(self, account: int, address: Address, delimiter: str) -> bool:
        key, domain = address.key, address.domain_ascii
        user, tag = _untagged(key[: -len(domain) - 1], delimiter)
        plain = f"{user}@{domain}" if tag else key
        names = (key, plain)
        rows = await self._rows(_SENDER, (account, *names, *names, account, *names, f"@{domain}"))
        own = [name for kind, name, _ in rows if kind == 0]
        if not own:
            return False
        if any(kind == 3 for kind, _, _ in rows):
            return True
        # As mail to it would be delivered: what stands there with its tag goes before what stands there without.
        named = key if any(kind in (1, 2) and name == key for kind, name, _ in rows) else plain
        targets = [target for kind, name, target in rows if kind == 2 and name == named]
        return named == own[0] or (len(targets) == 1 and _key(targets[0]) == own[0])

    # -- lists for people --------------------------------------------------------------------------------------------

    async def domains(self) -> list[Domain]:
        """All served domains by name."""
        return [Domain(*row) for row in await self._rows(_DOMAIN + " ORDER BY name")]

    async def accounts(self, domain: str = "", after: str = "") -> list[Account]:
        """A page of accounts (of one domain, or all) ordered by key; `after` is the last key of the page before."""
        where = " WHERE address_key > ? AND state <> ?"
        params: list[object] = [after, REMOVED]
        if domain:
            where += " AND domain = (SELECT id FROM domains WHERE name = ?)"
            params.append(domain)
        rows = await self._rows(f"{_ACCOUNT}{where} ORDER BY address_key LIMIT {LIST_PAGE}", params)
        return [account_of(row) for row in rows]

    async def gateway_recipients(self, domain: str, after: str = "") -> list[str]:
        """A page of a gateway domain's list, ordered; `after` is the last key of the page before."""
        rows = await self._rows(
            "SELECT address_key FROM gateway_recipients WHERE domain = (SELECT id FROM domains WHERE name = ?)"
            f" AND address_key > ? ORDER BY address_key LIMIT {LIST_PAGE}",
            (domain, after),
        )
        return [key for (key,) in rows]

    async def aliases(self, domain: str = "", after: str = "") -> list[AliasEntry]:
        """A page of aliases (of one domain, or all) ordered by key, each with all its targets."""
        where = " WHERE address_key > ?"
        params: list[object] = [after]
        if domain:
            where += " AND domain = (SELECT id FROM domains WHERE name = ?)"
            params.append(domain)
        keys = f"SELECT DISTINCT address_key FROM aliases{where} ORDER BY address_key LIMIT {LIST_PAGE}"
        rows = await self._rows(
            f"SELECT address_key, target FROM aliases WHERE address_key IN ({keys}) ORDER BY address_key, target",
            params,
        )
        found: dict[str, list[str]] = {}
        for key, target in rows:
            found.setdefault(key, []).append(target)
        return [AliasEntry(key, targets) for key, targets in found.items()]


def _key(text: str) -> str:
    """The key of an alias target; empty for a text that is no address."""
    try:
        return Address.parse(text, utf8=True).key
    except AddressError:
        return ""


def _untagged(local: str, delimiter: str) -> tuple[str, str]:
    """`user+tag` in two; the tag is empty when there is none, or nobody before it."""
    if not delimiter:
        return local, ""
    user, _, tag = local.partition(delimiter)
    return (user, tag) if user else (local, "")


def _named(rows: list[Row], key: str, tag: str) -> Local | Alias | None:
    """The account or alias of exactly this key among the rows of `_MEANING`."""
    targets = []
    for kind, found, ident, text, _, quota, used, state in rows:
        if found != key or not kind:
            continue
        if kind == 1:
            unfailing = key.partition("@")[0] in REQUIRED
            return Local(ident, text, key, quota, used, state == DISABLED, tag, unfailing)
        targets.append(text)
    if not targets:
        return None
    return Alias(key, targets, "alias", unfailing=key.partition("@")[0] in REQUIRED)
