"""Journal events: the steps of a message's life, in the words every surface uses.

All events of one message and one transaction are packed together (msgspec JSON) into one journal row.
"""

from __future__ import annotations

from typing import Final

import msgspec

#: Words an event may have, with what each says; documents and tests read this table.
KINDS: Final = {
    "received": "a session handed the message over and it was taken",
    "repeated": "its sender submitted it again and was answered with the same id; it is sent once",
    "checked": "a check could not tell, and the message was taken all the same",
    "signed": "the fields by which the author's domain answers for the message were made",
    "refused": "a command or a message was turned away; nothing was stored",
    "queued": "the message is durable and one or more deliveries are open",
    "held": "nothing is tried before the next time, or before somebody releases it where there is none",
    "released": "somebody ended the hold; an attempt is due",
    "attempted": "a delivery was tried",
    "deferred": "an attempt failed for now; a next time is set",
    "throttled": "not tried yet: its destination may get no more just now, and its turn comes later",
    "slowed": "a reply asked for less: mail for this destination goes slower for a while",
    "suspended": "a reply said that nothing is wanted: no mail goes to this destination for a while",
    "delivered": "the next host or the mailbox took responsibility",
    "bounced": "a delivery ended undelivered",
    "returned": "whoever had taken the message reported later that it could not be delivered",
    "answered": "something else came to its return path: a report of delay, an automatic answer",
    "reported": "a delivery status notification was made",
    "discarded": "a delivery ended without a report, by the rule named",
    "expanded": "an alias or catch-all turned one recipient into others",
    "retried": "somebody asked for an immediate attempt",
    "moved": "somebody sent the delivery to another next hop",
    "dropped": "somebody removed the delivery from the queue",
    "restored": "somebody took back what was done by hand",
    "amended": "somebody changed the sender or added recipients",
    "fetched": "a mailbox client deleted the message after reading it",
}


class Event(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One step in the life of a message or of a refused session."""

    kind: str
    at_us: int
    """Wall time in microseconds since 1970."""
    recipient: str = ""
    cause: str = ""
    """What decided it, in plain words."""
    evidence: str = ""
    """The SMTP line or lines that show it, as said by the peer or by us."""
    by: str = ""
    """Who or what decided: a rule, a host, a login, the schedule."""
    where: str = ""
    """Host and address of the other side, and how the connection was protected."""
    next_us: int = 0
    """Wall time of the next step; 0 when there is none."""
    attempt: int = 0
    link: str = ""
    """Queue id of a related message (the report's, the original's)."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(list[Event])


def pack(events: list[Event]) -> bytes:
    """The journal form of a list of events: one JSON array."""
    return _encoder.encode(events)


def unpack(raw: bytes) -> list[Event]:
    """The events of a packed journal row, in order; raises `msgspec.DecodeError` on a damaged row."""
    return _decoder.decode(raw)
