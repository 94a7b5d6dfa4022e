"""The first wall against spoofing: whoever logs in sends in his own name, or in one that was granted to him."""

from __future__ import annotations

from postroad.rules.ports import Ports
from postroad.values.address import Address, AddressError
from postroad.values.facts import Facts
from postroad.values.verdict import Verdict, refuse
from postroad.wire.mime.headers import HeaderIndex, HeaderTooLarge
from postroad.wire.mime.submitted import Unclear, claimed_addresses

AUTHORS = (b"from", b"sender")
"""Fields that a reader takes for whoever wrote or sent the message (RFC 5322 section 3.6.2)."""


async def envelope_sender_is_yours(facts: Facts, ports: Ports) -> Verdict | None:
    """The envelope sender belongs to the login. The null sender is everybody's (RFC 5321 section 4.5.5)."""
    sender = facts.sender
    if not facts.account or sender is None or await ports.senders.may_send_as(facts.account, sender):
        return None
    return refuse(
        "sender not granted",
        553,
        "5.7.1",
        f"{facts.login} may not send as {sender}. Send as {facts.login}, or ask your postmaster to grant it.",
    )


async def authors_are_yours(facts: Facts, ports: Ports) -> Verdict | None:
    """Every address of From and Sender belongs to the login, and there is one From field that reads in one way.

    A message without From passes: it is given one before it is kept.
    """
    if facts.content is None:
        return None
    try:
        index = HeaderIndex(facts.content.header)
    except HeaderTooLarge:
        # What cannot be read is nobody's own.
        return refuse("message refused", 552, "5.3.4", "The header is too large to be read. Send fewer header fields.")
    # RFC 5322 section 3.6: From occurs exactly once. Programs differ in which of two they show.
    if index.count(b"from") > 1 or index.count(b"sender") > 1:
        return refuse("from twice", 550, "5.6.0", "The message has two From or two Sender fields. Send it with one.")
    for name in AUTHORS:
        verdict = await _one_field(index, name, facts, ports)
        if verdict is not None:
            return verdict
    return None


async def _one_field(index: HeaderIndex, name: bytes, facts: Facts, ports: Ports) -> Verdict | None:
    if name not in index.names or not facts.account:
        return None
    shown = name.decode().capitalize()
    try:
        claimed = claimed_addresses(index.raw_value(index.names.index(name)))
    except Unclear:
        return refuse(
            "from unclear", 550, "5.6.0", f"The {shown} field can be read in two ways. Send it as Name <address>."
        )
    if not claimed:
        return refuse("from missing", 550, "5.6.0", f"The {shown} field names no address. Set it in your mail program.")
    for one in claimed:
        try:
            author = Address.parse(one.decode("utf-8"), utf8=True)
        except (AddressError, UnicodeDecodeError):
            return refuse(
                "from missing", 550, "5.6.0", f"The {shown} field holds no mail address. Set it in your mail program."
            )
        if not await ports.senders.may_send_as(facts.account, author):
            return refuse(
                "from not granted",
                550,
                "5.7.1",
                f"{facts.login} may not send with {shown}: {author}. "
                f"Write from {facts.login}, or ask your postmaster to grant it.",
            )
    return None
