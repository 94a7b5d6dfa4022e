"""PROXY headers of both versions at every split, and every way to be none (proxy-protocol.txt section 2)."""

from __future__ import annotations

import pytest

from postroad.values.errors import PeerError
from postroad.wire.proxy import MAX_BLOCK, MAX_LINE, SIGNATURE, Header, crc32c, read_header
from tests.fuzz import fuzz_proxy
from tests.fuzz.fuzz_proxy import _V4, _V6, _block, _summed

NOTE = b"\x05\x00\x03abc"

GOOD = {
    b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 25\r\n": ("192.0.2.1", 4711),
    b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n": ("255.255.255.255", 65535),
    b"PROXY TCP6 2001:DB8:0:0::1 2001:db8::2 0 25\r\n": ("2001:db8::1", 0),
    b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.7 4711 25\r\n": ("192.0.2.1", 4711),
    b"PROXY UNKNOWN\r\n": ("", 0),
    b"PROXY UNKNOWN anything at all, also \0\r\n": ("", 0),
    b"PROXY UNKNOWN " + b"f" * (MAX_LINE - 16) + b"\r\n": ("", 0),
    _block(0x21, 0x11, _V4): ("192.0.2.1", 4711),
    _block(0x21, 0x11, _V4 + NOTE + NOTE): ("192.0.2.1", 4711),
    _block(0x21, 0x21, _V6): ("2001:db8::1", 4711),
    _block(0x21, 0x21, bytes(10) + b"\xff\xff\xc0\x00\x02\x01" + _V6[16:]): ("192.0.2.1", 4711),
    _block(0x21, 0x11, _V4 + b"\x04" + (MAX_BLOCK - 15).to_bytes(2) + bytes(MAX_BLOCK - 15)): ("192.0.2.1", 4711),
    _summed(_V4): ("192.0.2.1", 4711),
    _summed(_V4 + NOTE): ("192.0.2.1", 4711),
    _block(0x20, 0x00, b""): ("", 0),
    _block(0x20, 0x11, _V4): ("", 0),
    _block(0x20, 0xFF, b"whatever a health check sends"): ("", 0),
    _block(0x21, 0x00, b""): ("", 0),
    _block(0x21, 0x00, b"no notes"): ("", 0),
    _block(0x21, 0x12, _V4): ("", 0),
    _block(0x21, 0x31, bytes(216)): ("", 0),
}

BAD = {
    "empty line": b"\r\nEHLO",
    "SMTP": b"EHLO example.com\r\n",
    "TLS": b"\x16\x03\x01\x02\x00",
    "small letters": b"proxy TCP4 192.0.2.1 198.51.100.7 4711 25\r\n",
    "two blanks": b"PROXY  TCP4 192.0.2.1 198.51.100.7 4711 25\r\n",
    "blank at the end": b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 25 \r\n",
    "bare LF": b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 25\n",
    "bare CR": b"PROXY UNKNOWN \r x\r\n",
    "leading zero": b"PROXY TCP4 192.0.2.01 198.51.100.7 4711 25\r\n",
    "port with a leading zero": b"PROXY TCP4 192.0.2.1 198.51.100.7 04711 25\r\n",
    "port too large": b"PROXY TCP4 192.0.2.1 198.51.100.7 65536 25\r\n",
    "other port too large": b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 99999\r\n",
    "no port": b"PROXY TCP4 192.0.2.1 198.51.100.7 4711\r\n",
    "other family": b"PROXY TCP4 2001:db8::1 2001:db8::2 4711 25\r\n",
    "families mixed": b"PROXY TCP6 2001:db8::1 198.51.100.7 4711 25\r\n",
    "zone": b"PROXY TCP6 fe80::1%eth0 fe80::2 4711 25\r\n",
    "name": b"PROXY TCP4 example.com 198.51.100.7 4711 25\r\n",
    "digits of another script": "PROXY TCP4 192.0.2.1 198.51.100.7 ٤٧١١ 25\r\n".encode(),
    "unknown word": b"PROXY UNKNOWNS\r\n",
    "UDP in a line": b"PROXY UDP4 192.0.2.1 198.51.100.7 4711 25\r\n",
    "line too long": b"PROXY UNKNOWN " + b"f" * (MAX_LINE - 15) + b"\r\n",
    "version 1 in a block": SIGNATURE + b"\x11\x11\x00\x0c" + _V4,
    "version 3": SIGNATURE + b"\x31\x11\x00\x0c" + _V4,
    "unknown command": SIGNATURE + b"\x22\x11\x00\x0c" + _V4,
    "unknown family": _block(0x21, 0x41, bytes(300)),
    "unknown transport": _block(0x21, 0x13, _V4),
    "block too long": SIGNATURE + b"\x21\x11" + (MAX_BLOCK + 1).to_bytes(2),
    "note without a length": _block(0x21, 0x11, _V4 + b"\x04"),
    "note with half a length": _block(0x21, 0x11, _V4 + b"\x04\x00"),
    "note beyond the end": _block(0x21, 0x11, _V4 + b"\x04\x00\x04abc"),
    "note far beyond the end": _block(0x21, 0x11, _V4 + b"\x04\xff\xff"),
    "wrong checksum": _block(0x21, 0x11, _V4 + b"\x03\x00\x04\x01\x02\x03\x04"),
    "short checksum": _block(0x21, 0x11, _V4 + b"\x03\x00\x02\x01\x02"),
    "two checksums": _summed(_summed(_V4)[16:]),
    "address changed behind its checksum": _summed(_V4).replace(b"\xc0\x00\x02\x01", b"\xc0\x00\x02\x02"),
}


@pytest.mark.parametrize(("octets", "client"), GOOD.items())
def test_a_header_is_read_at_every_split_and_takes_nothing_behind_it(octets: bytes, client: tuple[str, int]) -> None:
    expected = Header(len(octets), *client)
    assert read_header(octets) == expected
    assert read_header(octets + b"EHLO client.test\r\n") == expected
    for end in range(len(octets)):
        assert read_header(octets[:end]) is None


@pytest.mark.parametrize("octets", BAD.values(), ids=BAD)
def test_anything_else_is_refused(octets: bytes) -> None:
    with pytest.raises(PeerError):
        read_header(octets)


@pytest.mark.parametrize(("kind", "needed"), [(0x11, 12), (0x12, 12), (0x21, 36), (0x22, 36), (0x31, 216), (0x32, 216)])
def test_row_s64_a_block_shorter_than_its_addresses_is_refused(kind: int, needed: int) -> None:
    # EXIM-Security-2026-05-19.1: TCP6 with length 0 told what stood in memory behind it.
    for size in range(needed):
        head = SIGNATURE + bytes((0x21, kind)) + size.to_bytes(2)
        with pytest.raises(PeerError, match="shorter than its addresses"):
            read_header(head)
        with pytest.raises(PeerError):
            read_header(head + bytes(300))
    assert read_header(_block(0x21, kind, bytes(needed))) is not None


def test_a_line_without_an_end_is_given_up_at_its_limit() -> None:
    assert read_header(b"PROXY UNKNOWN " + b"x" * (MAX_LINE - 15)) is None
    with pytest.raises(PeerError):
        read_header(b"PROXY UNKNOWN " + b"x" * (MAX_LINE - 14))


def test_checksum_is_that_of_rfc_4960() -> None:
    # RFC 3720 appendix B.4: 32 octets of zeroes.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("seed", fuzz_proxy.SEEDS)
def test_invariant_of_the_fuzz_target_holds_for_its_seeds(seed: bytes) -> None:
    for cut in range(0, 256, 7):
        fuzz_proxy.check(bytes((cut,)) + seed)
