"""SMTP replies as values: one code, one enhanced code, one text, rendered once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

# RFC 5321 section 4.5.3.1.5: "The maximum total length of a reply line including the reply code and the <CRLF> is 512
# octets."
MAX_REPLY_LINE = 512


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server says to one command: code, enhanced code (RFC 3463) and text.

    `text` is the (last) line without codes; `lines` are further lines that come before it, as in EHLO.
    """

    code: int
    enhanced: str
    text: str
    lines: tuple[str, ...] = ()
    _wire: bytes = field(default=b"", init=False, repr=False, compare=False)

    @property
    def positive(self) -> bool:
        """Whether the command was carried out or may go on: 2yz and 3yz."""
        return self.code < 400

    @property
    def temporary(self) -> bool:
        """Whether the same command may succeed later: 4yz."""
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        """Whether repeating the command is pointless: 5yz."""
        return self.code >= 500

    def wire(self) -> bytes:
        """Every line with code, enhanced code where there is one, and CRLF, as bytes ready to send."""
        if not self._wire:
            octets = b"".join([*(self._line("-", line) for line in self.lines), self._line(" ", self.text)])
            object.__setattr__(self, "_wire", octets)
        return self._wire

    def _line(self, mark: str, text: str) -> bytes:
        enhanced = f"{self.enhanced} " if self.enhanced else ""
        raw = f"{self.code}{mark}{enhanced}{text}".encode("utf-8", "replace")
        if len(raw) > MAX_REPLY_LINE - 2:
            raw = raw[: MAX_REPLY_LINE - 2].decode("utf-8", "ignore").encode()
        return raw.translate(None, b"\r\n\0") + b"\r\n"

    def with_text(self, text: str) -> Reply:
        """The same codes with another text."""
        return replace(self, text=text)

    def ending(self, words: str) -> Reply:
        """The same reply whose last line ends with `words`; its text is cut where the line would grow too long."""
        codes = f"{self.code} {self.enhanced} " if self.enhanced else f"{self.code} "
        room = MAX_REPLY_LINE - len(codes) - len(words.encode()) - len(" \r\n")
        text = self.text
        if len(text) * 4 > room:  # one letter is at most four octets
            text = text.encode("utf-8", "replace")[:room].decode("utf-8", "ignore")
        return self.with_text(f"{text} {words}")

    def __str__(self) -> str:
        """One readable line, further lines joined by a slash: for the journal and for DSNs."""
        text = " / ".join((*self.lines, self.text)) if self.lines else self.text
        return f"{self.code} {self.enhanced} {text}" if self.enhanced else f"{self.code} {text}"
