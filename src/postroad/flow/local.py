"""Where one recipient's mail goes: into mailboxes here, on to other hosts, or nowhere, and then what to answer.

The plan is made at RCPT and carried out by the accepting transaction, which checks mailbox and quota once more.
Expanding is a walk over a list, never recursion; an address that was met before is passed over, so every walk ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from postroad.flow.gateway import Callouts, Heard, Standing, by_list, could_not_ask
from postroad.flow.return_path import Returned, ReturnPaths, is_marked
from postroad.store.account_records import Alias, Empty, Gateway, Local, NotOurs, Resolved, Unknown
from postroad.values.address import Address, AddressError
from postroad.values.ids import id_text
from postroad.values.reply import Reply

DEPTH_MAX: Final = 10
"""Aliases that may lead to one another: more is a mistake, and costs a read each."""

TARGETS_MAX: Final = 1000
"""Mailboxes and addresses one recipient may become: what one transaction can accept without holding up others."""

INBOX: Final = "INBOX"

ANY_QUOTA: Final = -(1 << 62)
"""Size to plan with where nobody can be told that a mailbox is full: the mail waits as an open local delivery."""

# RFC 3463 section 3.6, X.5.3: too many recipients. Final, because no repetition would help.
TOO_MANY: Final = Reply(554, "5.5.3", "This address leads to too many others. Write to fewer.")
NOBODY_YET: Final = Reply(451, "4.3.0", "No mailbox exists here yet. Please retry.")
OVER_QUOTA: Final = Reply(452, "4.2.2", "Mailbox is full. We will accept again when space is freed; please retry.")


@dataclass(slots=True)
class Plan:
    """What one recipient becomes. Either `refusal` says why nothing is accepted, or there is at least one target."""

    copies: list[tuple[int, str, str]] = field(default_factory=list)
    """Account, mailbox, and the address it was reached by (for Delivered-To)."""
    remotes: list[Address] = field(default_factory=list)
    """Addresses that other hosts serve."""
    expansions: list[tuple[str, str]] = field(default_factory=list)
    """For the journal: an address, and what it was turned into or why it was passed over."""
    refusal: Reply | None = None
    why: str = ""
    """Stable word of the refusal."""
    evidence: str = ""
    """Who said what to make it so, where it was not we."""
    returned: Returned | None = None
    """The address is a return path that we made."""


class Resolver(Protocol):
    """The part of `store.directory.Directory` that planning needs."""

    async def recipient(self, address: Address, delimiter: str = "+") -> Resolved: ...
    async def bare_postmaster(self) -> Resolved: ...
    async def anybody(self, domain: str) -> Local | None: ...
    async def was_taken(self, gateway: Gateway) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Refused:
    """Why one branch of a walk ended; temporary reasons outrank permanent ones."""

    reply: Reply
    why: str


class Planner:
    """Makes plans with the directory of one worker.

    `hostname` is our own name: postmaster@ of it is always somebody, even when it is no mail domain (RFC 5321 4.5.1).
    Without `callouts` the hosts of gateway domains are not asked, and every answer of theirs is a doubt. Without
    `return_paths` an address that looks like one is a mailbox's; `now_us` tells the wall time they are judged by.
    """

    __slots__ = ("_callouts", "_delimiter", "_directory", "_hostname", "_now_us", "_return_paths")

    def __init__(
        self,
        directory: Resolver,
        *,
        hostname: str = "",
        delimiter: str = "+",
        callouts: Callouts | None = None,
        return_paths: ReturnPaths | None = None,
        now_us: Callable[[], int] = lambda: 0,
    ) -> None:
        self._directory = directory
        self._callouts = callouts
        self._return_paths = return_paths
        self._now_us = now_us
        self._hostname = hostname.lower()
        self._delimiter = delimiter

    async def plan(self, address: Address, *, size: int = 0, may_relay: bool = False, peer: str = "") -> Plan:
        """The plan of one recipient; `size` is the message's declared size in octets, 0 when unknown."""
        meaning = await self._directory.recipient(address, self._delimiter)
        if is_marked(address.local) and self._return_paths is not None and type(meaning) is not NotOurs:
            return await self._come_back(self._return_paths, address, size)
        # The two cases that nearly all mail is need no walk.
        if type(meaning) is Local and not meaning.disabled and (meaning.unfailing or meaning.has_room(size)):
            return Plan([(meaning.account, INBOX, str(address))])
        if type(meaning) is NotOurs:
            if address.domain == self._hostname and address.local.lower() == "postmaster":
                meaning = await self._directory.bare_postmaster()
            elif may_relay:
                return Plan(remotes=[address])
            else:
                return _refusal(relay_refused(address, peer), "relay refused")
        if type(meaning) is Gateway:
            return await self._pass_on(meaning, may_relay)
        return await _Walk(self._directory, self._delimiter, address, size).run(meaning)

    async def plan_ours(self, address: Address) -> Plan:
        """The plan of mail that is ours to place, such as a report: it may go anywhere, and into a full mailbox."""
        return await self.plan(address, size=ANY_QUOTA, may_relay=True)

    async def _come_back(self, paths: ReturnPaths, address: Address, size: int) -> Plan:
        """The plan of mail to a return path: that of the sender it was made for."""
        returned = paths.read(address, self._now_us())
        if returned is None:
            return _refusal(no_return_path(address), "no return path")
        plan = await self.plan(returned.sender, size=size, may_relay=True)
        if plan.refusal is None:
            plan.returned = returned
            words = f"return path of message {id_text(returned.message)}: {returned.sender}"
            plan.expansions.insert(0, (str(address), words))
        return plan

    async def _pass_on(self, gateway: Gateway, may_relay: bool) -> Plan:
        """The plan of a recipient that another host serves behind us.

        Of somebody who may send through us a doubt refuses nothing: a report reaches its sender for sure.
        """
        address = Address.parse(gateway.address, utf8=True)
        heard = by_list(gateway)
        if gateway.check == "callout" and not gateway.unfailing:
            heard = await self._call_out(gateway, address)
        passed = Plan(remotes=[address], expansions=[(gateway.address, f"gateway: {gateway.next_hop}")])
        if heard.standing is Standing.TAKEN:
            return passed
        if heard.standing is Standing.REFUSED:
            return Plan(refusal=no_mailbox(address), why="no such mailbox", evidence=heard.words)
        if may_relay or gateway.in_doubt == "accept":
            because = "nobody knows whether it exists there"
        elif gateway.in_doubt == "known" and await self._directory.was_taken(gateway):
            because = "it existed there before"
        else:
            return Plan(refusal=could_not_ask(address), why="recipient in doubt", evidence=heard.words)
        passed.expansions.append((gateway.address, f"{because}: {heard.words}"))
        return passed

    async def _call_out(self, gateway: Gateway, address: Address) -> Heard:
        if self._callouts is None:
            return Heard(Standing.DOUBT, "hosts are not asked here")
        return await self._callouts.ask(gateway, address)


class _Walk:
    """One expansion: breadth first, each address once, at most `DEPTH_MAX` deep."""

    __slots__ = ("_delimiter", "_directory", "_met", "_plan", "_refused", "_root", "_size", "_unfailing")

    def __init__(self, directory: Resolver, delimiter: str, root: Address, size: int) -> None:
        self._directory = directory
        self._delimiter = delimiter
        self._root = root
        self._size = size
        self._plan = Plan()
        self._met = {root.key}
        self._refused: list[_Refused] = []
        self._unfailing = False

    async def run(self, meaning: Resolved) -> Plan:
        """The plan from what the root address means."""
        self._unfailing = isinstance(meaning, Alias | Local | Gateway) and meaning.unfailing
        level = self._take(self._root, meaning)
        depth = 0
        while level and depth < DEPTH_MAX:
            depth += 1
            following: list[Address] = []
            for address in level:
                following += self._take(address, await self._directory.recipient(address, self._delimiter))
            level = following
            if len(self._met) > TARGETS_MAX:
                return _refusal(TOO_MANY, "alias too large")
        if level:
            self._refuse(_loop(self._root, f"more than {DEPTH_MAX} aliases lead to one another"), "alias loop")
        return await self._finish()

    def _take(self, address: Address, meaning: Resolved) -> list[Address]:
        """Adds what an address means to the plan; returns the addresses to look at next."""
        match meaning:
            case Local():
                self._take_local(address, meaning)
            case Alias():
                return self._expand(address, meaning)
            case Gateway():
                self._take_gateway(meaning)
            case NotOurs():
                self._plan.remotes.append(address)
            case Unknown():
                self._refuse(no_mailbox(address), "no such mailbox")
            case Empty():
                self._refuse(NOBODY_YET, "nobody yet")
        return []

    def _take_local(self, address: Address, local: Local) -> None:
        if local.disabled:
            self._refuse(disabled(address), "mailbox disabled")
            return
        if any(account == local.account for account, _, _ in self._plan.copies):
            return
        if not (self._unfailing or local.has_room(self._size)):
            self._refuse(OVER_QUOTA, "mailbox full")
            if address is self._root:
                return
            # One full mailbox among several targets waits in the queue; the others get their mail now.
        self._plan.copies.append((local.account, INBOX, str(address)))

    def _take_gateway(self, gateway: Gateway) -> None:
        """A recipient behind us that an alias leads to: whoever made the alias vouches for it, so no host is asked."""
        address = Address.parse(gateway.address, utf8=True)
        heard = by_list(gateway)
        if heard.standing is Standing.REFUSED:
            self._plan.expansions.append((gateway.address, f"passed over: {heard.words}"))
            self._refuse(no_mailbox(address), "no such mailbox")
            return
        self._plan.expansions.append((gateway.address, f"gateway: {gateway.next_hop}"))
        self._plan.remotes.append(address)

    def _expand(self, address: Address, alias: Alias) -> list[Address]:
        self._plan.expansions.append((str(address), f"{alias.why}: {', '.join(alias.targets)}"))
        following = []
        for text in alias.targets:
            try:
                target = Address.parse(text, utf8=True)
            except AddressError as error:
                self._plan.expansions.append((text, f"passed over: {error.reason}"))
                continue
            if target.key not in self._met:
                self._met.add(target.key)
                following.append(target)
        return following

    def _refuse(self, reply: Reply, why: str) -> None:
        self._refused.append(_Refused(reply, why))

    async def _finish(self) -> Plan:
        plan = self._plan
        full = sum(refused.why == "mailbox full" for refused in self._refused)
        if len(plan.remotes) + len(plan.copies) > full:
            return plan
        if self._unfailing:
            # RFC 5321 section 4.5.1: "SMTP systems are expected to make every reasonable effort to accept mail
            # directed to Postmaster from any other system on the Internet."
            somebody = await self._directory.anybody(self._root.domain_ascii)
            if somebody is not None:
                plan.expansions.append((str(self._root), f"nobody it leads to takes mail: {somebody.address}"))
                plan.copies = [(somebody.account, INBOX, somebody.address)]
                return plan
            return _refusal(NOBODY_YET, "nobody yet")
        if not self._refused:
            return _refusal(_loop(self._root, "its aliases lead back to themselves"), "alias loop")
        chosen = min(self._refused, key=lambda refused: refused.reply.permanent)
        return _refusal(chosen.reply, chosen.why)


def _refusal(reply: Reply, why: str) -> Plan:
    return Plan(refusal=reply, why=why)


def no_mailbox(address: Address) -> Reply:
    """Nobody has this address here."""
    return Reply(550, "5.1.1", f"No mailbox {address} here. Check the spelling.")


def no_return_path(address: Address) -> Reply:
    """An address that looks like a return path and is not: nothing was sent with it, or too long ago."""
    # RFC 3463 section 3.2: X.1.1 bad destination mailbox address
    return Reply(550, "5.1.1", f"Nothing was sent from {address}, or too long ago. We take no such reports.")


def disabled(address: Address) -> Reply:
    """An account that was switched off."""
    return Reply(550, "5.2.1", f"Mailbox {address} is disabled. Reach its owner in another way.")


def relay_refused(address: Address, peer: str) -> Reply:
    """Mail for elsewhere from somebody who may not send it through us."""
    # RFC 5321 section 3.6.2: a server that declines to relay answers 550
    by = f" from {peer}" if peer else ""
    return Reply(550, "5.7.1", f"We do not relay to {address.domain}{by}. Log in on port 465 or 587.")


def _loop(address: Address, why: str) -> Reply:
    # RFC 3463 section 3.5, X.4.6: routing loop detected
    return Reply(554, "5.4.6", f"Mail to {address} runs in a circle: {why}. Tell the postmaster there.")


def delivery_lines(sender: str, recipient: str) -> bytes:
    """What stands above the header of one mailbox's copy: who sent it, and whom it came for.

    RFC 5321 section 4.4: "When the delivery SMTP server makes the "final delivery" of a message, it inserts a
    return-path line at the beginning of the mail data." Delivered-To is what `delivered_before` finds loops by.
    """
    return f"Return-Path: <{sender}>\r\nDelivered-To: {recipient}\r\n".encode()


def delivered_before(header: bytes, recipients: Iterable[str]) -> str:
    """The first of these addresses that a Delivered-To line of the header names; empty when none does.

    A message that comes back to a mailbox or an alias it was already delivered to runs in a circle.
    """
    lowered = header.lower()
    if b"delivered-to:" not in lowered:
        return ""
    for recipient in recipients:
        line = b"delivered-to: " + recipient.lower().encode() + b"\r\n"
        if lowered.startswith(line) or b"\n" + line in lowered:
            return recipient
    return ""
