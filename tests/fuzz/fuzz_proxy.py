"""Invariant: a PROXY header is refused by `PeerError` or told whole, whatever follows it, and at no split otherwise."""

from __future__ import annotations

import ipaddress

from postroad.values.errors import PeerError
from postroad.wire.proxy import MAX_BLOCK, MAX_LINE, SIGNATURE, Header, crc32c, read_header

_V4 = bytes((192, 0, 2, 1, 198, 51, 100, 7)) + (4711).to_bytes(2) + (25).to_bytes(2)
_V6 = ipaddress.IPv6Address("2001:db8::1").packed * 2 + (4711).to_bytes(2) + (25).to_bytes(2)


def _block(command: int, kind: int, body: bytes) -> bytes:
    return SIGNATURE + bytes((command, kind)) + len(body).to_bytes(2) + body


def _summed(body: bytes) -> bytes:
    zeroed = _block(0x21, 0x11, body + b"\x03\x00\x04" + bytes(4))
    return zeroed[:-4] + crc32c(zeroed).to_bytes(4)


SEEDS = (
    b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 25\r\nEHLO x\r\n",
    b"PROXY TCP6 2001:db8::1 ::ffff:198.51.100.7 4711 25\r\n",
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN ffff:: ffff:: 65535 65535\r\n",
    _block(0x20, 0x00, b""),
    _block(0x21, 0x11, _V4),
    _block(0x21, 0x11, _V4 + b"\x04\x00\x02ab\x20\x00\x05\x01\0\0\0\0"),
    _block(0x21, 0x21, _V6),
    _block(0x21, 0x31, bytes(216)),
    _block(0x21, 0x21, b""),
    _summed(_V4),
)
WORDS = (b"PROXY ", b"TCP4 ", b"UNKNOWN", b"\r\n", b" ", SIGNATURE, b"\x21\x11\x00\x0c", b"\x03\x00\x04", b"::ffff:")


def check(octets: bytes) -> None:
    """The same answer from the whole and from its first half, and nothing of what follows in it."""
    cut, octets = (octets[0] if octets else 0), octets[1:]
    whole = _read(octets)
    part = _read(octets[: cut % (len(octets) + 1)])
    if isinstance(whole, Header):
        assert 15 <= whole.length <= max(MAX_LINE, 16 + MAX_BLOCK)
        assert whole.length <= len(octets)
        assert _read(octets[: whole.length]) == whole
        assert _read(octets[: whole.length] + b"EHLO x\r\n") == whole
        assert part in (whole, None)
        assert 0 <= whole.port <= 65535
        if whole.address:
            assert str(ipaddress.ip_address(whole.address)) == whole.address
        else:
            assert whole.port == 0
    elif whole is None:
        assert len(octets) < 16 + MAX_BLOCK
        assert part is None
    else:
        assert not isinstance(part, Header)


def _read(octets: bytes) -> Header | str | None:
    try:
        return read_header(octets)
    except PeerError as error:
        return str(error)
