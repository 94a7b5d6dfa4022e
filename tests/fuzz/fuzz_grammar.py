"""Invariant: any command line is read into a value that prints back, or refused by `CommandError` with a 5yz reply."""

from __future__ import annotations

from postroad.values.address import Address
from postroad.values.reply import Reply
from postroad.wire.smtp import grammar
from postroad.wire.smtp.commands import read_mail, read_rcpt, refuse_argument
from postroad.wire.smtp.extensions import Door
from postroad.wire.smtp.grammar import CommandError, decode_xtext
from postroad.wire.smtp.xclient import read_xclient

SEEDS = (
    b"MAIL FROM:<a@example.org> SIZE=100 BODY=8BITMIME SMTPUTF8",
    b'MAIL FROM:<"a b"@example.org> RET=HDRS ENVID=QQ+3D1 AUTH=<>',
    b"MAIL FROM:<@a.test,@b.test:u@[IPv6:2001:db8::1]>",
    b"RCPT TO:<b@dev.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b+2Bx@dev.test",
    "RCPT TO:<ä@bücher.example> ORCPT=utf-8;ä@bücher.example".encode(),
    b"RCPT TO:<Postmaster>",
    b"MAIL FROM:<> HOLDFOR=3600 BODY=BINARYMIME",
    b"MAIL FROM:<> HOLDUNTIL=2026-11-27T12:00:00.5+01:00",
    b"XCLIENT NAME=spike.example.org ADDR=192.0.2.1 PORT=25 PROTO=ESMTP HELO=spike LOGIN=anna+40example.org",
    b"XCLIENT NAME=[TEMPUNAVAIL] ADDR=IPV6:2001:db8::1 DESTADDR=[UNAVAILABLE] DESTPORT=25",
    b"BDAT 1000 LAST",
    b"RSET",
)
WORDS = (b"<", b">", b"@", b'"', b"\\", b" ", b"=", b";", b"+3D", b"SIZE=", b"BODY=", b"NOTIFY=", b"ORCPT=", b"ENVID=")

EVERYTHING = Door("submission", dsn=True, binarymime=True, future_release_s=86_400)
NOW_US = 1_795_760_285_000_000
"""2026-11-27T06:18:05Z."""


def check(octets: bytes) -> None:
    """A line as the framer hands it out, to whatever its verb says reads it."""
    refusal = _refusal(octets)
    if refusal is not None:
        assert 500 <= refusal.code < 600
        assert refusal.wire().endswith(b"\r\n")


def _refusal(octets: bytes) -> Reply | None:
    """Read a line; the reply it deserves when it is none."""
    verb = octets[:4].upper()
    try:
        if verb == b"MAIL":
            _mail(octets)
        elif verb == b"RCPT":
            for utf8 in (False, True):
                _same_again(read_rcpt(octets, utf8, "mx.test").address)
        elif verb == b"XCLI":
            said = read_xclient(octets)
            assert not set("\r\n\0") & set(f"{said.name}{said.helo}{said.login}{said.address}{said.local_address}")
        elif verb == b"BDAT":
            asked = grammar.read_bdat(octets)
            assert asked is None or 0 <= asked[0] < 10**20
        else:
            refuse_argument(octets)
            grammar.read_text(octets[4:])
    except CommandError as error:
        return error.reply
    return None


def _mail(octets: bytes) -> None:
    sender, params = read_mail(octets, EVERYTHING, lambda: NOW_US)
    _same_again(sender)
    assert params.hold_until_us == 0 or NOW_US < params.hold_until_us <= NOW_US + 86_400_000_000
    assert not set("\r\n\0") & set(decode_xtext(params.envid) + (params.auth or ""))


def _same_again(address: Address | None) -> None:
    if address is not None:
        assert Address.parse(str(address), utf8=True) == address
