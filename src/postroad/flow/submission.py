"""What the mail of our own users brings along: a fingerprint by which a repetition is known, and an allowance.

A client whose connection ended before the answer sends its message again. `Submission` gathers, while the message
comes, what the store needs to know it again: the key that the client chose (`X-Postroad-Key`), or who sent what to
whom, when the message has a Message-ID of its client's. The store decides (`store.submissions`), in the transaction
that would accept the message.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

import msgspec

from postroad.flow.allowance import Allowances, Budget, Denied
from postroad.store.records import Sending
from postroad.values.address import Address
from postroad.values.envelope import Envelope
from postroad.values.reply import Reply
from postroad.wire.mime.headers import HeaderIndex, HeaderTooLarge

KEY_FIELD: Final = b"x-postroad-key"
KEY_MAX: Final = 128
"""Octets of a key: room for two UUIDs and a word."""
HASH_OCTETS: Final = 16
"""One account's submissions of one day cannot collide by accident, and only with its own on purpose."""

# RFC 3463 section 3.7, 5.6.0: "Something about the content of a message caused it to be considered undeliverable"
BAD_KEY: Final = Reply(
    554, "5.6.0", f"X-Postroad-Key must stand once and be 1 to {KEY_MAX} visible ASCII characters without blanks."
)
LONG_HEADER: Final = Reply(552, "5.3.4", "The header has more than 2,000 lines. Send fewer header fields.")

_key_word: Final = re.compile(rb"[!-~]{1,%d}" % KEY_MAX).fullmatch


def key_taken(first: str) -> Reply:
    """What a key is refused with that a client uses for a second message; `first` is the id of the first one."""
    return Reply(
        554,
        "5.6.0",
        f"This X-Postroad-Key belongs to another message of the last 24 hours, {first}. Nothing was sent: "
        "repeat that message unchanged, or give this one a key of its own.",
    )


class Fingerprint:
    """A hash over the content as it is received, chunk by chunk; how it is cut makes no difference."""

    __slots__ = ("_hash", "update")

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=32, person=b"content")
        self.update = self._hash.update
        """Takes the next octets."""

    def of(self, envelope: Envelope) -> bytes:
        """What stands for this content in this envelope; the order of recipients and their wishes count."""
        recipients = [(str(one.address), one.notify, one.orcpt) for one in envelope.recipients]
        whole = (
            self._hash.digest(),
            envelope.sender_text,
            envelope.body,
            envelope.smtputf8,
            envelope.ret,
            envelope.envid,
            recipients,
        )
        return blake2b(msgspec.msgpack.encode(whole), digest_size=HASH_OCTETS, person=b"submission").digest()


class Submission:
    """One transaction of a user of ours, from MAIL to its end.

    Invariant: keys of two accounts never meet, because the scope is part of each.
    """

    __slots__ = ("_budget", "_fingerprint", "_key", "_scope", "header", "update")

    def __init__(self, scope: str, budget: Budget | None = None) -> None:
        """`scope` is whose it is, "account 7"; without a budget nothing is counted."""
        self._scope = scope
        self._budget = budget
        self._fingerprint = Fingerprint()
        self.update = self._fingerprint.update
        """Takes the next octets of the content."""
        self._key = b""
        self.header = b""
        """The header without the key, once that was taken out."""

    def may_begin(self) -> Denied | None:
        """What MAIL is refused with, or None."""
        return self._budget.may_begin() if self._budget is not None else None

    async def may_add(self, recipient: Address) -> Denied | None:
        """What a recipient is refused with; or None, and then it counts as one of this message."""
        return await self._budget.may_add(recipient) if self._budget is not None else None

    def take_key(self, header: bytes) -> Reply | None:
        """Takes X-Postroad-Key out of the header: it is for us, and nobody else shall see it. Or what is wrong with it.

        Header fields that are no key's stay octet for octet.
        """
        self.header = header
        if KEY_FIELD not in header.lower():
            return None
        try:
            index = HeaderIndex(header)
        except HeaderTooLarge:
            return LONG_HEADER
        values = index.all(KEY_FIELD)
        if not values:
            return None
        if len(values) > 1 or not _key_word(values[0]):
            return BAD_KEY
        at = index.names.index(KEY_FIELD)
        self.header = header[: index.starts[at]] + header[index.ends[at] :]
        self._key = values[0]
        return None

    def sending(self, envelope: Envelope, message_id: str, repeated: bytes) -> Sending:
        """What the store is told; `message_id` is that of the header as it came, or empty."""
        content = self._fingerprint.of(envelope)
        budget = self._budget
        if budget is None or budget.unlimited:
            return Sending(self._known_by(content, message_id), content, repeated)
        return Sending(
            self._known_by(content, message_id),
            content,
            repeated,
            budget.account,
            list(budget.recipients),
            budget.general,
        )

    def _known_by(self, content: bytes, message_id: str) -> bytes:
        """The key of the store: the client's own where there is one, else the content's when it names itself."""
        own = b"key\0" + self._key if self._key else b"content\0" + content if message_id else b""
        if not own:
            return b""
        return blake2b(self._scope.encode() + b"\0" + own, digest_size=HASH_OCTETS, person=b"key").digest()


class Submissions:
    """Begins the submissions of one worker."""

    __slots__ = ("_allowances",)

    def __init__(self, allowances: Allowances) -> None:
        self._allowances = allowances

    async def begin(self, account: int) -> Submission:
        """A transaction of a logged-in account."""
        return Submission(f"account {account}", await self._allowances.budget(account))


def local_submission(uid: int) -> Submission:
    """A transaction of a user of this machine, who has no account and no limits."""
    return Submission(f"uid {uid}")
