"""Messages that break signatures: what relays, old programs and attackers make of headers and bodies."""

from __future__ import annotations

from typing import Final


def lines(*texts: str) -> bytes:
    """Lines of a header as they travel."""
    return "".join(text + "\r\n" for text in texts).encode()


FROM: Final = lines("From: Anna <anna@example.com>")
PLAIN: Final = FROM + lines(
    "To: bob@example.net", "Subject: Dinner", "Date: Fri, 27 Nov 2026 06:00:00 +0000", "Message-ID: <1@example.com>"
)
HI: Final = b"Hi.\r\n"
LIST: Final = lines(
    "List-Id: <l.example.com>",
    "List-Unsubscribe: <https://example.com/u>",
    "List-Unsubscribe-Post: List-Unsubscribe=One-Click",
)
EIGHT_BIT: Final = lines("Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit")
REFERENCES: Final = lines("References:" + "\r\n\t".join(f" <{n}.{'x' * 60}@example.com>" for n in range(60)))
RECIPIENTS: Final = lines("To: " + ",\r\n  ".join(f"r{n}@example.net" for n in range(100)))

NASTY: Final[dict[str, tuple[bytes, bytes]]] = {
    "plain": (PLAIN, HI),
    "no body": (PLAIN, b""),
    "one empty line": (PLAIN, b"\r\n"),
    "empty lines only": (PLAIN, b"\r\n\r\n\r\n"),
    "blanks only": (PLAIN, b" \r\n\t \r\n"),
    "trailing empty lines": (PLAIN, b"Hi.\r\n\r\n\r\n"),
    "trailing lines of blanks": (PLAIN, b"Hi.\r\n  \r\n\t\r\n"),
    "leading empty lines": (PLAIN, b"\r\n\r\nHi.\r\n"),
    "bare blanks": (PLAIN, b" a  b\t\tc \t \r\n\r\n  d\r\n"),
    "dots": (PLAIN, b".\r\n..\r\n.x\r\n"),
    "long lines": (PLAIN, b"x" * 900 + b" " * 90 + b"\r\n"),
    "8-bit": (PLAIN + EIGHT_BIT, "Grüße\r\n".encode()),
    "utf-8 header": (FROM + lines("To: Jürgen <j@example.net>", "Subject: Grüße"), HI),
    "only From": (FROM, HI),
    "long header": (PLAIN + REFERENCES, HI),
    "many recipients": (FROM + RECIPIENTS, HI),
    "duplicate headers": (PLAIN + lines("To: c@example.net", "Subject: Again", "Cc: d@x.test", "Cc: e@x.test"), HI),
    "empty values": (FROM + lines("To:", "Subject: ", "Cc: \t ", "Reply-To:"), HI),
    "tabs": (FROM + lines("To:\tbob@example.net", "Subject:\t\ta\tb \t c\t"), b"\ta\t\tb\r\n"),
    "folded": (FROM + lines("To: b@example.net,", " c@example.net", "Subject: two", "\t lines  ", "  three"), HI),
    "no blank behind the colon": (lines("From:anna@example.com", "To:bob@example.net", "Subject:x"), HI),
    "odd case": (lines("FROM: anna@example.com", "tO: bob@example.net", "sUBJECT: x"), HI),
    "mailing list": (PLAIN + LIST, HI),
}
"""By name: the fields without the empty line behind them, and the body."""


def message(fields: bytes, body: bytes) -> bytes:
    """The two in one."""
    return fields + b"\r\n" + body
