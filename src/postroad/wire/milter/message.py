"""A message as the milters before have left it: what the next one sees, and what is kept at the end.

Each milter's changes are made on a copy, which takes the place of the message when all of them could be made: of a
milter that asks for something impossible nothing stays (class E12).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from postroad.values.address import Address
from postroad.wire.milter.packets import (
    AddHeader,
    AddRecipient,
    Change,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    InsertHeader,
    MilterError,
    Quarantine,
    ReplaceBody,
)
from postroad.wire.mime.edit import EditedHeader, UnsafeEdit

CRLF: Final = b"\r\n"


class EditedMessage:
    """One message on its way through the milters. Raises `HeaderTooLarge` for a header that cannot be indexed.

    `recipients` are those of the envelope as it was accepted.
    """

    __slots__ = ("_recipients", "added", "body", "header", "quarantine", "removed", "sender", "sender_changed")

    def __init__(self, header: EditedHeader, sender: Address | None, recipients: Iterable[Address]) -> None:
        self.header = header
        self.sender = sender
        self.sender_changed = False
        self._recipients = {recipient.key: recipient for recipient in recipients}
        self.added: dict[str, Address] = {}
        self.removed: dict[str, Address] = {}
        self.body: bytes | None = None
        """The body that takes the place of the one that came; None where that one stays."""
        self.quarantine = ""

    def _copy(self) -> EditedMessage:
        other = EditedMessage(self.header.copy(), self.sender, ())
        other.sender_changed = self.sender_changed
        other._recipients = self._recipients
        other.added, other.removed = dict(self.added), dict(self.removed)
        other.body, other.quarantine = self.body, self.quarantine
        return other

    def changed(self, changes: Iterable[Change], *, leading_space: bool) -> EditedMessage:
        """The message with one milter's changes; itself when there are none. Raises MilterError.

        Without `leading_space` header values came without the blank behind the colon (SMFIP_HDR_LEADSPC).
        """
        changes = list(changes)
        if not changes:
            return self
        other = self._copy()
        for change in changes:
            if isinstance(change, ReplaceBody):
                other.body = wire_body(change.chunk)
                other.header.end()
            elif isinstance(change, AddHeader | InsertHeader | ChangeHeader):
                other._change_header(change, b"" if leading_space else b" ")
            else:
                other._change_envelope(change)
        return other

    def _change_header(self, change: AddHeader | InsertHeader | ChangeHeader, blank: bytes) -> None:
        value = change.value
        try:
            if isinstance(change, AddHeader):
                self.header.add(change.name, blank + value)
            elif isinstance(change, InsertHeader):
                self.header.insert(change.index, change.name, blank + value)
            else:
                # smfi_chgheader: no value at all removes the field.
                self.header.change(change.index, change.name, blank + value if value else b"")
        except UnsafeEdit as error:
            raise MilterError(f"{type(change).__name__}: {error}") from None

    def _change_envelope(self, change: ChangeSender | AddRecipient | DeleteRecipient | Quarantine) -> None:
        if isinstance(change, ChangeSender):
            self.sender, self.sender_changed = change.sender, True
        elif isinstance(change, Quarantine):
            self.quarantine = self.quarantine or change.reason or "a mail filter said so"
        elif isinstance(change, AddRecipient):
            key = change.recipient.key
            if key in self._recipients:
                self.removed.pop(key, None)
            else:
                self.added[key] = change.recipient
        else:
            key = change.recipient.key
            if key in self._recipients:
                self.removed[key] = self._recipients[key]
            self.added.pop(key, None)


def wire_body(octets: bytes) -> bytes:
    """A body in wire form: an LF alone becomes CRLF, and the last line gets one. Raises MilterError for a bare CR or a
    NUL, which could end the message or begin a command elsewhere (class E1)."""
    if octets.count(b"\n") != octets.count(CRLF):
        octets = octets.replace(CRLF, b"\n").replace(b"\n", CRLF)
    if octets.count(b"\r") != octets.count(CRLF) or b"\0" in octets:
        raise MilterError("a new body with a bare CR or a NUL")
    return octets if not octets or octets.endswith(CRLF) else octets + CRLF
