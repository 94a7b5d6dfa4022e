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

from postroad.flow.allowance import Denied
from postroad.store.allowances import known_by
from postroad.store.records import Allowed, Sending
from postroad.values.envelope import Envelope
from postroad.wire.mime.headers import HeaderIndex, HeaderTooLarge
from postroad.wire.mime.message_id import find_message_id

KEY_FIELD: Final = b"x-postroad-key"
KEY_MAX: Final = 128
"""Octets of a key: room for two UUIDs and a word."""
NO_LIMITS: Final = Allowed()
HASH_OCTETS: Final = 16
"""One account's submissions of one day cannot collide by accident, and only with its own on purpose."""

# RFC 3463 section 3.7, 5.6.0: "Something about the content of a message caused it to be considered undeliverable"
BAD_KEY: Final = Denied(
    554,
    "5.6.0",
    f"X-Postroad-Key must stand once and be 1 to {KEY_MAX} visible ASCII characters without blanks.",
    why="bad key",
)
LONG_HEADER: Final = Denied(
    552, "5.3.4", "The header has more than 2,000 lines. Send fewer header fields.", why="message refused"
)

_key_word: Final = re.compile(rb"[!-~]{1,%d}" % KEY_MAX).fullmatch


def key_taken(first: str) -> Denied:
    """What a key is refused with that a client uses for a second message; `first` is the id of the first one."""
    return Denied(
        554,
        "5.6.0",
        f"This X-Postroad-Key belongs to another message of the last 24 hours, {first}. Nothing was sent: "
        "repeat that message unchanged, or give this one a key of its own.",
        why="key taken",
    )


def key_in(header: bytes) -> tuple[bytes, bytes] | Denied:
    """The key in a header that may have one (empty: it has none), and the header without it."""
    try:
        index = HeaderIndex(header)
    except HeaderTooLarge:
        return LONG_HEADER
    values = index.all(KEY_FIELD)
    if not values:
        return b"", header
    if len(values) > 1 or not _key_word(values[0]):
        return BAD_KEY
    at = index.names.index(KEY_FIELD)
    return values[0], header[: index.starts[at]] + header[index.ends[at] :]


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

    Invariant: keys of two accounts never meet, because the scope is part of each; and what policy or completion change
    in a message makes it no other, because `read` comes before them.
    """

    __slots__ = (
        "_account",
        "_allowed",
        "_content",
        "_fingerprint",
        "_key",
        "_recipients",
        "_scope",
        "header",
        "update",
    )

    def __init__(self, scope: str, account: int = 0, allowed: Allowed = NO_LIMITS) -> None:
        """`scope` is whose it is, "account 7"; without an account nothing is counted. `allowed` are the limits of the
        configuration."""
        self._scope = scope
        self._account = account
        self._allowed = allowed
        self._fingerprint = Fingerprint()
        self.update = self._fingerprint.update
        """Takes the next octets of the content."""
        self._content = b""
        self._key = b""
        self._recipients: list[bytes] = []
        self.header = b""
        """The header without the key of the client, once it was read."""

    def read(self, header: bytes, envelope: Envelope) -> Denied | None:
        """Takes what a message is known by from its header as it came, and from its envelope; or says what is wrong.

        X-Postroad-Key is taken out: it is for us, and nobody else shall see it. All else stays octet for octet.
        """
        key = b""
        self.header = header
        if KEY_FIELD in header.lower():
            found = key_in(header)
            if isinstance(found, Denied):
                return found
            key, self.header = found
        self._content = self._fingerprint.of(envelope)
        self._key = self._known_by(key, find_message_id(header))
        self._recipients = list(dict.fromkeys(known_by(one.address) for one in envelope.recipients))
        return None

    def _known_by(self, key: bytes, message_id: str) -> bytes:
        """The key of the store: the client's own where there is one, else the content's when it names itself."""
        own = b"key\0" + key if key else b"content\0" + self._content if message_id else b""
        if not own:
            return b""
        return blake2b(self._scope.encode() + b"\0" + own, digest_size=HASH_OCTETS, person=b"key").digest()

    def sending(self, repeated: bytes) -> Sending:
        """What the store is told of a message that was read; `repeated` are the packed events of a repetition."""
        if not self._account:
            return Sending(self._key, self._content, repeated)
        return Sending(self._key, self._content, repeated, self._account, self._recipients, self._allowed)


class Submissions:
    """Begins the submissions of one worker; `allowed` are the limits of the configuration."""

    __slots__ = ("_allowed",)

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed

    def begin(self, account: int) -> Submission:
        """A transaction of a logged-in account."""
        return Submission(f"account {account}", account, self._allowed)


def local_submission(uid: int) -> Submission:
    """A transaction of a user of this machine, who has no account and no limits."""
    return Submission(f"uid {uid}")
