"""Where the recipients of one message go, merged over all of them, and what its sender wants to be told of each.

Plans are added recipient by recipient while the envelope grows; the intake makes copies and deliveries of the result.
Invariant: no mailbox and no address stands in the lists twice, however many recipients lead to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from postroad.flow.dsn import original_recipient, without_success
from postroad.flow.local import Plan
from postroad.flow.return_path import Returned
from postroad.values.envelope import Recipient


@dataclass(frozen=True, slots=True)
class Wish:
    """What the sender wants to be told of one recipient (RFC 3461 section 4)."""

    recipient: str
    notify: str
    orcpt: str


@dataclass(slots=True)
class Destinations:
    """Where the accepted recipients of one message go, merged over all of them."""

    copies: list[tuple[str, int, str]] = field(default_factory=list)
    """Recipient text, account, mailbox."""
    remotes: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Recipient text, A-label domain, NOTIFY, ORCPT."""
    expansions: list[tuple[str, str]] = field(default_factory=list)
    """Recipient as given, and what it was turned into, for the journal."""
    seen: set[str | tuple[int, str]] = field(default_factory=set)
    """Addresses and mailboxes that are in the lists: a thousand recipients of a large list are a million looks."""
    wishes: dict[int, list[Wish]] = field(default_factory=dict)
    """By place in `copies`: what was wished of it, where anything was."""
    returned: list[Returned] = field(default_factory=list)
    """Return paths of ours among the recipients."""
    expanded: list[Wish] = field(default_factory=list)
    """Recipients that became several, and whose sender asked to hear of success."""

    def add(self, recipient: Recipient, plan: Plan) -> None:
        """Adds where one recipient's mail goes; a mailbox or address that is there already is not added twice."""
        text, notify, orcpt = str(recipient.address), recipient.notify, recipient.orcpt
        if plan.returned is not None and plan.returned not in self.returned:
            self.returned.append(plan.returned)
        if "SUCCESS" in notify and len(plan.copies) + len(plan.remotes) > 1:
            # RFC 3461 section 5.2.7.3 (c): ENVID, RET and ORCPT go with the message to every address of the alias,
            # NOTIFY without SUCCESS, and the sender gets an "expanded" report.
            self.expanded.append(Wish(text, notify, orcpt))
            notify = without_success(notify)
        for account, mailbox, reached in plan.copies:
            met = (account, mailbox) in self.seen
            if not met:
                self.seen.add((account, mailbox))
                self.copies.append((reached, account, mailbox))
            if notify or orcpt:
                self._add_wish(Wish(reached, notify, orcpt), (account, mailbox) if met else None)
        for target in plan.remotes:
            to = str(target)
            # RFC 3461 section 5.2.1 (d): "an ORCPT parameter MAY be added [...] it MUST contain the recipient address
            # from the RCPT command". Behind an alias it tells the sender whom they had written to.
            original = orcpt or ("" if to == text else original_recipient(text))
            self._add_remote((to, target.domain_ascii, notify, original))
        self.expansions += [(was or text, now) for was, now in plan.expansions]

    def _add_wish(self, wish: Wish, met: tuple[int, str] | None) -> None:
        """Of the copy added last, or of the one for the mailbox `met` before, which may have come without wishes."""
        if met is None:
            self.wishes[len(self.copies) - 1] = [wish]
            return
        at = next(place for place, copy in enumerate(self.copies) if copy[1:] == met)
        wishes = self.wishes.setdefault(at, [Wish(self.copies[at][0], "", "")])
        if wish not in wishes:
            wishes.append(wish)

    def _add_remote(self, remote: tuple[str, str, str, str]) -> None:
        """RFC 3461 section 5.2.7.2: what an alias sends on keeps the wishes of the one who sent it."""
        text, _, notify, _ = remote
        if text not in self.seen:
            self.seen.add(text)
            self.remotes.append(remote)
        elif "SUCCESS" in notify:
            # Of two recipients that are one address the one that asks to hear of success counts.
            at = next(place for place, known in enumerate(self.remotes) if known[0] == text)
            if "SUCCESS" not in self.remotes[at][2]:
                self.remotes[at] = remote

    def wish(self, at: int) -> Wish | None:
        """What counts for a copy that is delivered later: the wish to hear of success, else the first."""
        wishes = self.wishes.get(at, [])
        return next((wish for wish in wishes if "SUCCESS" in wish.notify), wishes[0] if wishes else None)
