"""The header with which a proxy says whose connection it passes on (PROXY protocol, versions 1 and 2).

Source: HAProxy's proxy-protocol.txt, whose sections are cited below. The decoder is total: any octets give a header,
"more is needed", or `PeerError`; nothing outside the given octets is ever looked at, whatever the lengths in them say
(EXIM-Security-2026-05-19.1 read past a block that was shorter than its address family).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from postroad.values.errors import PeerError
from postroad.values.reply import Reply

MAX_LINE: Final = 107
"""Octets of a header of version 1 with its CRLF (section 2.1)."""

MAX_BLOCK: Final = 4096
"""Octets behind the first 16 of version 2: addresses and notes. A proxy that passes on a client certificate needs most
of it."""

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"

_FIXED: Final = 16
_LINE_START: Final = b"PROXY "
_REPLY: Final = Reply(421, "4.3.0", "No PROXY header")
"""Never sent: the peer is a proxy of our own, and speaks another protocol than this reply."""


@dataclass(frozen=True, slots=True)
class Header:
    """A whole header: its length in octets, and the client; an empty address is the proxy itself, or unknown."""

    length: int
    address: str = ""
    port: int = 0


def read_header(octets: bytes) -> Header | None:
    """The header at the beginning of what a proxy sent, or None while more octets are needed to tell.

    While it is None, every octet given belongs to the header. Raises PeerError as soon as the octets cannot become a
    header.
    """
    if octets[:6] == _LINE_START[: len(octets)]:
        return _read_line(octets)
    if octets[:12] == SIGNATURE[: len(octets)]:
        return _read_block(octets)
    raise _bad("no PROXY header")


def _bad(why: str) -> PeerError:
    return PeerError(_REPLY, why)


# -- version 1: a line -------------------------------------------------------------------------------------------------

_PORT: Final = r"(0|[1-9][0-9]{0,4})"
_TCP: Final = re.compile(rf"PROXY TCP([46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) {_PORT} {_PORT}", re.ASCII)


def _read_line(octets: bytes) -> Header | None:
    end = octets.find(b"\r\n", 0, MAX_LINE)
    if end < 0:
        # "If the CRLF sequence is not found in the first 107 characters, the receiver should declare the line invalid."
        if len(octets) >= MAX_LINE or b"\n" in octets or b"\r" in octets[:-1]:
            raise _bad("PROXY line without an end")
        return None
    line = octets[:end]
    if b"\r" in line or b"\n" in line:
        raise _bad("bare CR or LF in the PROXY line")
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        # "the receiver must ignore anything presented before the CRLF is found"
        return Header(end + 2)
    found = _TCP.fullmatch(line.decode("latin-1"))
    if found is None:
        raise _bad("PROXY line of another form")
    version, source, target, source_port, target_port = found.groups()
    _address(version, target)
    _port(target_port)
    return Header(end + 2, _address(version, source), _port(source_port))


def _address(version: str, text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text)) if version == "4" else _plain(ipaddress.IPv6Address(text))
    except ValueError:
        raise _bad("no address in the PROXY line") from None


def _port(text: str) -> int:
    port = int(text)
    if port > 65535:
        raise _bad("no port in the PROXY line")
    return port


def _plain(ip: ipaddress.IPv6Address) -> str:
    return str(ip.ipv4_mapped or ip)


# -- version 2: a block ------------------------------------------------------------------------------------------------

_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_INET: Final = 1
_INET6: Final = 2
_STREAM: Final = 1
_ADDRESS_OCTETS: Final = {0: 0, _INET: 12, _INET6: 36, 3: 216}
"""Octets of both addresses with their ports, by family: unspecified, IPv4, IPv6, unix (section 2.2)."""
_TRANSPORTS: Final = (0, _STREAM, 2)
_CRC32C: Final = 0x03
_NOTE_HEAD: Final = 3


def _read_block(octets: bytes) -> Header | None:
    if len(octets) < _FIXED:
        return None
    command, kind, size = octets[12], octets[13], int.from_bytes(octets[14:16])
    if command not in (_LOCAL, _PROXY):
        # "Receivers must drop connections presenting unexpected values here."
        raise _bad("PROXY header of another version or command")
    if size > MAX_BLOCK:
        raise _bad("PROXY header too long")
    family, transport = kind >> 4, kind & 15
    named = command == _PROXY
    if named:
        if family not in _ADDRESS_OCTETS or transport not in _TRANSPORTS:
            # "other values are unspecified ... and must be rejected as invalid by receivers"
            raise _bad("PROXY header of an unknown family")
        if size < _ADDRESS_OCTETS[family]:
            raise _bad("PROXY header shorter than its addresses")
    length = _FIXED + size
    if len(octets) < length:
        return None
    # LOCAL: "must use the real connection endpoints and discard the protocol block including the family"
    if not named or family == 0:
        return Header(length)
    _check_notes(octets[:length], _FIXED + _ADDRESS_OCTETS[family])
    if transport != _STREAM:
        return Header(length)
    block = octets[_FIXED:length]
    if family == _INET:
        return Header(length, str(ipaddress.IPv4Address(block[:4])), int.from_bytes(block[8:10]))
    if family == _INET6:
        return Header(length, _plain(ipaddress.IPv6Address(block[:16])), int.from_bytes(block[32:34]))
    return Header(length)


def _check_notes(header: bytes, at: int) -> None:
    """Walks the TLVs (section 2.2) and checks the checksum among them (section 2.2.3), if there is one."""
    sum_at = -1
    while at < len(header):
        if len(header) - at < _NOTE_HEAD:
            raise _bad("note of the PROXY header cut off")
        size = int.from_bytes(header[at + 1 : at + 3])
        begins = at + _NOTE_HEAD
        if size > len(header) - begins:
            raise _bad("note of the PROXY header longer than the header")
        if header[at] == _CRC32C:
            if size != 4 or sum_at >= 0:
                raise _bad("checksum of the PROXY header of another form")
            sum_at = begins
        at = begins + size
    if sum_at >= 0:
        # "replace the 32 bits of the checksum field in the received PROXY header with all '0's"
        zeroed = header[:sum_at] + bytes(4) + header[sum_at + 4 :]
        if crc32c(zeroed).to_bytes(4) != header[sum_at : sum_at + 4]:
            raise _bad("PROXY header with a wrong checksum")


def crc32c(octets: bytes) -> int:
    """The checksum of RFC 4960 appendix B over at most a few kilobytes, 0.1 us an octet.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    remainder = 0xFFFFFFFF
    for octet in octets:
        remainder = remainder >> 8 ^ _CRC_TABLE[(remainder ^ octet) & 0xFF]
    return remainder ^ 0xFFFFFFFF


def _crc_of(octet: int) -> int:
    for _ in range(8):
        octet = octet >> 1 ^ (0x82F63B78 if octet & 1 else 0)
    return octet


_CRC_TABLE: Final = tuple(map(_crc_of, range(256)))
