"""A next hop that accepts everything, offers STARTTLS where it has a certificate, and looks at what it gets.

    python bench/tls_sink.py PORT [--certificate FILE --key FILE] [--keep FOLDER]

Prints `messages distinct recipients strangers signatures carriers handshakes resumed clear most` as one line whenever
it has changed, the first four as the harness's sink does: messages, those of different Message-IDs, recipients, and
messages that no load of ours wrote; then DKIM-Signature fields in all of them, connections that carried one or more,
TLS handshakes and those that resumed a session, messages that came in the clear, and the most messages of one
connection. No tickets are handed out, so no client can resume a session. The first `KEPT` messages are written into the
folder as they came.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import ssl
from pathlib import Path
from typing import Any, Final

import uvloop

KEPT: Final = 6
HEADER_MAX: Final = 16_384
"""Octets of a message that are searched for fields."""
MESSAGE_ID: Final = re.compile(rb"\nmessage-id:\s*<([^>\r]*)@load\.test>", re.IGNORECASE)
SIGNATURE: Final = re.compile(rb"(?:^|\n)dkim-signature:", re.IGNORECASE)
EXTENSIONS: Final = b"250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 100000000\r\n"


class Counts:
    """What all connections together have seen."""

    def __init__(self, keep: Path | None) -> None:
        self.idents: set[bytes] = set()
        self.messages = self.recipients = self.strangers = self.signatures = 0
        self.carriers = self.handshakes = self.resumed = self.clear = self.most = 0
        self._keep = keep

    def message(self, octets: bytes, recipients: int) -> None:
        found = MESSAGE_ID.search(octets, 0, HEADER_MAX)
        if found is None:
            self.strangers += 1
            return
        self.idents.add(found[1])
        if self._keep is not None and self.messages < KEPT:
            (self._keep / f"{self.messages}.eml").write_bytes(octets.replace(b"\r\n..", b"\r\n."))
        self.messages += 1
        self.recipients += recipients
        self.signatures += len(SIGNATURE.findall(octets[: octets.find(b"\r\n\r\n")]))

    def line(self) -> str:
        numbers = (self.messages, len(self.idents), self.recipients, self.strangers, self.signatures, self.carriers,
                   self.handshakes, self.resumed, self.clear, self.most)  # fmt: skip
        return " ".join(map(str, numbers))


class Session(asyncio.Protocol):
    """One connection."""

    def __init__(self, counts: Counts, context: ssl.SSLContext | None) -> None:
        self._counts = counts
        self._context = context
        self._buffer = bytearray()
        self._in_data = self._secure = False
        self._recipients = self._carried = 0
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        if self._transport is None:
            transport.write(b"220 sink.test ESMTP\r\n")
        self._transport = transport

    def data_received(self, octets: bytes) -> None:
        buffer, scan, out = self._buffer, max(0, len(self._buffer) - 4), []
        buffer += octets
        while True:
            if self._in_data:
                end = buffer.find(b"\r\n.\r\n", scan)
                if end < 0:
                    break
                self._take(bytes(buffer[: end + 2]))
                del buffer[: end + 5]
                self._in_data, scan = False, 0
                out.append(b"250 2.0.0 Ok\r\n")
                continue
            end = buffer.find(b"\n")
            if end < 0:
                break
            verb = bytes(buffer[:8]).upper()
            del buffer[: end + 1]
            if verb.startswith(b"STARTTLS") and self._context is not None and not self._secure:
                # RFC 3207 section 4: nothing that came before the handshake counts.
                buffer.clear()
                self._transport.pause_reading()
                self._transport.write(b"220 2.0.0 Go on\r\n")
                self._upgrading = asyncio.ensure_future(self._upgrade(self._context))
                return
            out.append(self._answer(verb[:4]))
            if verb.startswith(b"QUIT"):
                self._transport.write(b"".join(out))
                self._transport.close()
                return
        if out:
            self._transport.write(b"".join(out))

    def _answer(self, verb: bytes) -> bytes:
        if verb == b"DATA":
            self._in_data = True
            return b"354 Go on\r\n"
        if verb == b"EHLO":
            offered = b"250-STARTTLS\r\n" if self._context is not None and not self._secure else b""
            return EXTENSIONS + offered + b"250 ENHANCEDSTATUSCODES\r\n"
        if verb == b"QUIT":
            return b"221 2.0.0 Bye\r\n"
        if verb in (b"MAIL", b"RSET"):
            self._recipients = 0
        self._recipients += verb == b"RCPT"
        return b"250 2.1.0 Ok\r\n"

    def _take(self, octets: bytes) -> None:
        counts = self._counts
        counts.message(octets, self._recipients)
        counts.clear += not self._secure
        counts.carriers += not self._carried
        self._carried += 1
        counts.most = max(counts.most, self._carried)

    async def _upgrade(self, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._transport = await loop.start_tls(self._transport, self, context, server_side=True)
        except (OSError, ssl.SSLError):
            return
        self._secure = True
        self._counts.handshakes += 1
        self._counts.resumed += bool(self._transport.get_extra_info("ssl_object").session_reused)


def tls(certificate: str, key: str) -> ssl.SSLContext:
    """A context with one certificate, in which no session is ever resumed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    return context


async def serve(options: argparse.Namespace) -> None:
    context = tls(options.certificate, options.key) if options.certificate else None
    counts, last = Counts(options.keep), ""
    await asyncio.get_running_loop().create_server(
        lambda: Session(counts, context), "127.0.0.1", options.port, backlog=2000
    )
    while True:
        if (line := counts.line()) != last:
            print(line, flush=True)
            last = line
        await asyncio.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description="A next hop that looks at what it gets.")
    parser.add_argument("port", type=int)
    parser.add_argument("--certificate", default="")
    parser.add_argument("--key", default="")
    parser.add_argument("--keep", type=Path)
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
