"""The envelope: who sends and who shall get a message, apart from what its headers claim."""

from __future__ import annotations

from dataclasses import dataclass, field

from postroad.values.address import Address


@dataclass(frozen=True, slots=True)
class Recipient:
    """One RCPT as it was accepted, with its DSN wishes (RFC 3461 section 4)."""

    address: Address
    notify: str = ""
    """NOTIFY as sent, upper case ("NEVER", "SUCCESS,FAILURE"); empty when not given."""
    orcpt: str = ""
    """ORCPT as sent ("rfc822;anna@example.org", still in xtext); empty when not given."""


@dataclass(slots=True)
class Envelope:
    """One mail transaction while it is open; thrown away whole after every end, reset or refusal."""

    sender: Address | None
    """None is the null reverse-path `<>` of notifications (RFC 5321 section 4.5.5)."""
    recipients: list[Recipient] = field(default_factory=list)
    declared_size: int = 0
    body: str = ""
    """"8BITMIME", "7BIT" or empty when the client did not say."""
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    release_us: int = 0
    """Wall time before which nothing may be delivered (RFC 4865), in microseconds since 1970; 0 for at once."""
    requiretls: bool = False
    """The message travels under TLS alone, to the end (RFC 8689)."""

    @property
    def sender_text(self) -> str:
        """The sender as wire text without brackets; empty for the null sender."""
        return "" if self.sender is None else str(self.sender)
