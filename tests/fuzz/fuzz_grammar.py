"""Invariant: any command line is read into a value that prints back, or refused by `CommandError` with a 5yz reply."""

from __future__ import annotations

from postroad.values.address import Address
from postroad.values.reply import Reply
from postroad.wire.smtp import grammar
from postroad.wire.smtp.commands import read_mail, read_rcpt, refuse_argument
from postroad.wire.smtp.grammar import CommandError

SEEDS = (
    b"MAIL FROM:<a@example.org> SIZE=100 BODY=8BITMIME SMTPUTF8",
    b'MAIL FROM:<"a b"@example.org> RET=HDRS ENVID=QQ+3D1 AUTH=<>',
    b"MAIL FROM:<@a.test,@b.test:u@[IPv6:2001:db8::1]>",
    b"RCPT TO:<b@dev.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b+2Bx@dev.test",
    "RCPT TO:<ä@bücher.example> ORCPT=utf-8;ä@bücher.example".encode(),
    b"RCPT TO:<Postmaster>",
    b"BDAT 1000 LAST",
    b"RSET",
)
WORDS = (b"<", b">", b"@", b'"', b"\\", b" ", b"=", b";", b"+3D", b"SIZE=", b"BODY=", b"NOTIFY=", b"ORCPT=", b"ENVID=")


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
            _same_again(read_mail(octets)[0])
        elif verb == b"RCPT":
            for utf8 in (False, True):
                _same_again(read_rcpt(octets, utf8, "mx.test").address)
        elif verb == b"BDAT":
            asked = grammar.read_bdat(octets)
            assert asked is None or 0 <= asked[0] < 10**20
        else:
            refuse_argument(octets)
            grammar.read_text(octets[4:])
    except CommandError as error:
        return error.reply
    return None


def _same_again(address: Address | None) -> None:
    if address is not None:
        assert Address.parse(str(address), utf8=True) == address
