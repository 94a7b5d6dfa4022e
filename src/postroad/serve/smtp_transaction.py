"""One mail transaction of a session: thrown away whole after every end, reset or refusal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from postroad.flow.destinations import Destinations
from postroad.flow.local import Plan
from postroad.flow.submission import Submission
from postroad.store.spool import Draft
from postroad.trust.dkim.canonical import BodyHash
from postroad.values.address import Address
from postroad.values.envelope import Envelope, Recipient
from postroad.values.reply import Reply

TARGETS_MAX: Final = 5_000
"""Mailboxes and addresses that the recipients of one message may lead to before no further one is taken: five of the
largest aliases. The accepting transaction holds up all others for 0.1 s per thousand."""


class Planned(NamedTuple):
    """One accepted recipient and where its mail goes."""

    recipient: Recipient
    plan: Plan


class Transaction:
    """From MAIL to its end. Invariant: `destinations` is what the plans of `planned` come to together."""

    __slots__ = (
        "began", "destinations", "doubts", "draft", "eightbit", "envelope", "planned", "refusal", "submission",
        "targets",
    )  # fmt: skip

    def __init__(self, envelope: Envelope, submission: Submission | None = None) -> None:
        self.envelope = envelope
        self.submission = submission
        """Of a sender whom we know: what the message is known again by, and whom it counts against."""
        self.planned: list[Planned] = []
        self.destinations = Destinations()
        self.targets = 0
        """Mailboxes and addresses of all plans together, as often as they come up."""
        self.draft: Draft | None = None
        self.eightbit = False
        self.began = 0.0
        self.doubts: list[tuple[str, str]] = []
        """Checks that could not tell and held nothing up: stable word, and what was found."""
        self.refusal: tuple[Reply, str] | None = None
        """Why the content cannot be kept, found while it was still coming."""

    def begin(self, draft: Draft, now: float, *, signed: bool) -> None:
        """Takes the draft that the content goes to; a large body is hashed while it comes when it may be signed."""
        draft.body_hash = BodyHash() if signed and self.destinations.remotes else None
        self.draft = draft
        self.began = now

    def add(self, recipient: Recipient, plan: Plan) -> None:
        """Takes one more recipient."""
        self.envelope.recipients.append(recipient)
        self.planned.append(Planned(recipient, plan))
        self.destinations.add(recipient, plan)
        self.targets += len(plan.copies) + len(plan.remotes)

    def remove(self, addresses: Iterable[Address]) -> None:
        """Takes recipients out again, by the addresses they were given as."""
        keys = {address.key for address in addresses}
        kept = [one for one in self.planned if one.recipient.address.key not in keys]
        self.envelope.recipients = []
        self.planned = []
        self.destinations = Destinations()
        self.targets = 0
        for recipient, plan in kept:
            self.add(recipient, plan)

    def discard(self) -> None:
        """Drops the draft, if there is one."""
        if self.draft is not None:
            self.draft.discard()
