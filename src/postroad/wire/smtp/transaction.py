"""One mail transaction as the server machine keeps it: thrown away whole, so nothing of it can outlive its end."""

from __future__ import annotations

from postroad.wire.data import BinaryCheck, ContentCheck, DataReader
from postroad.wire.smtp.events import MailParams
from postroad.wire.smtp.limits import MachineLimits


class Transaction:
    """From an accepted MAIL to its end. Invariant: `check` exists once content has begun, by DATA or by BDAT."""

    __slots__ = ("accepted", "check", "chunks", "params")

    def __init__(self, params: MailParams) -> None:
        self.params = params
        """What MAIL asked for: with SMTPUTF8 recipients may be in UTF-8, with BINARYMIME content comes by BDAT only."""
        self.accepted = 0
        """Recipients accepted so far."""
        self.chunks = 0
        """BDAT commands so far."""
        self.check: ContentCheck | None = None

    @property
    def binary(self) -> bool:
        """Whether the content may be any octets (RFC 3030 section 3)."""
        return self.params.body == "BINARYMIME"

    def begin_data(self, limits: MachineLimits) -> DataReader:
        """The reader of the content behind a 354."""
        self.check = ContentCheck(limits.size, limits.content_line)
        return DataReader(self.check)

    def begin_chunk(self, limits: MachineLimits) -> ContentCheck:
        """The check that one more chunk shares with those before it."""
        self.chunks += 1
        if self.check is None:
            self.check = BinaryCheck(limits.size) if self.binary else ContentCheck(limits.size, limits.content_line)
        return self.check
