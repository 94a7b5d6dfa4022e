"""Command lines of SMTP read into values; a line that is none raises `CommandError` with the reply it deserves."""

from __future__ import annotations

import re
from typing import Final

from postroad.values.address import NEEDS_UTF8, Address, AddressError
from postroad.values.reply import Reply

# RFC 5321 section 4.5.3.1.4
MAX_COMMAND: Final = 512
"""Octets of a command line with its CRLF, where no extension says more."""

MAX_LONG_COMMAND: Final = 2_048
"""Octets of a MAIL or RCPT line.

512, and by extension: SIZE 26 (RFC 1870), BODY 17 (RFC 6152), SMTPUTF8 10 (RFC 6531), AUTH 500 (RFC 4954), ORCPT 500
and NOTIFY 28 (RFC 3461), ENVID 107 and RET 9, HOLDUNTIL 34 (RFC 4865), REQUIRETLS 11 (RFC 8689); doubled for addresses
in UTF-8 or xtext.
"""

MAX_ENVID: Final = 100
"""Characters of ENVID (RFC 3461 section 4.4)."""
MAX_ORCPT: Final = 500
"""Characters of ORCPT (RFC 3461 section 4.2)."""
MAX_AUTH_PARAMETER: Final = 500
"""Characters of the AUTH parameter of MAIL (RFC 4954 section 3)."""
MAX_DIGITS: Final = 20
"""Digits of a number: RFC 1870 section 4 allows as many to SIZE, RFC 3030 sets no limit to BDAT."""


class CommandError(Exception):
    """A command line that is refused; `reply` says how."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


_number = re.compile(r"[0-9]{1,20}").fullmatch
# The whole path in angle brackets, then nothing or parameters; a ">" in a quoted string does not end it.
_path = re.compile(r'<((?:"(?:[^"\\]|\\.)*+"|[^">])*+)>(?: (.*))?').fullmatch
_source_route = re.compile(r"@[A-Za-z0-9.-]++(?:,@[A-Za-z0-9.-]++)*+:").match
_parameter = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*+)(?:=([^\x00-\x20=\x7f]++))?").fullmatch
_xtext = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})++").fullmatch
# RFC 3461 sections 4.2 and 4.4: before its encoding the value of ORCPT and of ENVID "MUST consist entirely of
# printable (graphic and white space) characters from the US-ASCII [4] repertoire"; of white space only SP is let in,
# for these values end up in the header of a notification.
_printable_xtext = re.compile(r"(?:[!-*,-<>-~]|\+(?:[2-6][0-9A-F]|7[0-9A-E]))++").fullmatch
# RFC 6533 section 3: utf-8-addr-xtext, and utf-8-addr-unitext where characters may stand as they are
_utf8_xtext = re.compile(r"(?:[!-*,-<>-\[\]-~]|\\x\{[0-9A-F]{2,6}\})++").fullmatch
_utf8_unitext = re.compile(r"(?:[!-*,-<>-\[\]-~\xa0-\U0010ffff]|\\x\{[0-9A-F]{2,6}\})++").fullmatch
_utf8_point = re.compile(r"\\x\{([0-9A-F]+)\}")
_xtext_hex = re.compile(r"\+([0-9A-F]{2})")
_orcpt = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*+);(.+)").fullmatch
_bdat = re.compile(rb"BDAT ([0-9]{1,20})(?: (LAST))?", re.IGNORECASE).fullmatch


def decimal(text: str) -> int | None:
    """An unsigned number of at most 20 ASCII digits; None for anything else, signs and spaces included."""
    return int(text) if _number(text) else None


def read_text(octets: bytes) -> str:
    """An argument as text: UTF-8 without control characters; raises `CommandError`."""
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise CommandError(Reply(501, "5.5.2", "Argument is not UTF-8")) from None
    if any(char < " " or "\x7f" <= char < "\xa0" for char in text):
        raise CommandError(Reply(501, "5.5.2", "Argument has a control character"))
    return text


def read_path(argument: str, keyword: str) -> tuple[str, dict[str, str]]:
    """The mailbox text of a `FROM:<...>` or `TO:<...>` and the parameters behind it, by upper-case keyword.

    A source route is checked and dropped (RFC 5321 appendix C). Raises `CommandError`.
    """
    bad = Reply(501, "5.1.7" if keyword == "FROM:" else "5.1.3", f"Syntax: {keyword}<address>")
    if argument[: len(keyword)].upper() != keyword:
        raise CommandError(Reply(501, "5.5.2", bad.text))
    rest = argument[len(keyword) :]
    # RFC 5321 section 3.3: "spaces are not permitted on either side of the colon"; one behind it is common enough.
    found = _path(rest[1:] if rest.startswith(" ") else rest)
    if found is None:
        raise CommandError(bad)
    mailbox = found[1]
    if mailbox.startswith("@"):
        route = _source_route(mailbox)
        if route is None:
            raise CommandError(bad)
        mailbox = mailbox[route.end() :]
    return mailbox, _parameters(found[2] or "")


def _parameters(text: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for word in text.split(" "):
        if not word:
            continue
        found = _parameter(word)
        if found is None:
            raise CommandError(bad_parameter("Parameter is not well formed"))
        keyword = found[1].upper()
        if keyword in given:
            raise CommandError(bad_parameter(f"{keyword} is given twice"))
        given[keyword] = found[2] or ""
    return given


def bad_parameter(text: str) -> Reply:
    """501 5.5.4: a parameter or argument that cannot be."""
    return Reply(501, "5.5.4", text)


def read_address(text: str, *, utf8: bool, sender: bool) -> Address:
    """The mailbox of a path; raises `CommandError` with 501 5.1.7, 501 5.1.3 or 553 5.6.7."""
    try:
        return Address.parse(text, utf8=utf8)
    except AddressError as error:
        if error.enhanced == NEEDS_UTF8:
            # RFC 6531 section 3.5: 553 for a MAIL or RCPT that needs SMTPUTF8 without asking for it
            raise CommandError(Reply(553, NEEDS_UTF8, _sentence(error.reason))) from None
        raise CommandError(Reply(501, "5.1.7" if sender else error.enhanced, _sentence(error.reason))) from None


def _sentence(reason: str) -> str:
    return reason[:1].upper() + reason[1:]


def refuse_unknown(given: dict[str, str]) -> None:
    """Raise `CommandError` 555 for the parameters nobody took out of `given`."""
    for keyword in given:
        # RFC 5321 section 4.1.1.11
        raise CommandError(Reply(555, "5.5.4", f"Parameter {keyword} is not known"))


def take_flag(given: dict[str, str], keyword: str) -> bool:
    """Whether a parameter without value is there; raises `CommandError` when it has one."""
    value = given.pop(keyword, None)
    if value:
        raise CommandError(bad_parameter(f"{keyword} takes no value"))
    return value is not None


def take_number(given: dict[str, str], keyword: str) -> int:
    """The number a parameter gives, 0 when it is absent; raises `CommandError`."""
    value = given.pop(keyword, None)
    if value is None:
        return 0
    number = decimal(value)
    if number is None:
        raise CommandError(bad_parameter(f"{keyword} needs a number"))
    return number


def take_word(given: dict[str, str], keyword: str, allowed: tuple[str, ...]) -> str:
    """One of the allowed words in upper case, empty when absent; raises `CommandError`."""
    value = given.pop(keyword, None)
    if value is None:
        return ""
    if value.upper() not in allowed:
        raise CommandError(bad_parameter(f"{keyword} must be {' or '.join(allowed)}"))
    return value.upper()


def check_xtext(value: str, keyword: str) -> str:
    """The same value when it is xtext (RFC 3461 section 4); raises `CommandError`."""
    if not _xtext(value):
        raise CommandError(bad_parameter(f"{keyword} is not valid xtext"))
    return value


def take_sender(given: dict[str, str]) -> str | None:
    """AUTH of MAIL, decoded (RFC 4954 section 5), None when absent; raises `CommandError`."""
    value = given.pop("AUTH", None)
    if value is None:
        return None
    if len(value) > MAX_AUTH_PARAMETER:
        raise CommandError(bad_parameter(f"AUTH has more than {MAX_AUTH_PARAMETER} characters"))
    return read_text(decode_xtext(check_xtext(value, "AUTH")).encode("latin-1"))


def take_envid(given: dict[str, str]) -> str:
    """ENVID as sent (RFC 3461 section 4.4), empty when absent; raises `CommandError`."""
    value = given.pop("ENVID", None)
    if value is None:
        return ""
    if len(value) > MAX_ENVID or not _printable_xtext(value):
        raise CommandError(bad_parameter(f"ENVID must be printable ASCII as xtext of at most {MAX_ENVID} characters"))
    return value


def decode_xtext(value: str) -> str:
    """What an xtext stands for; octets beyond ASCII are read as Latin-1, so nothing is lost."""
    return _xtext_hex.sub(lambda found: chr(int(found[1], 16)), value)


def encode_xtext(text: str) -> str:
    """Text as xtext: "+", "=" and everything outside printable ASCII in hexadecimal (UTF-8)."""
    return "".join(
        chr(octet) if 33 <= octet <= 126 and octet not in b"+=" else f"+{octet:02X}" for octet in text.encode()
    )


def take_notify(given: dict[str, str]) -> str:
    """NOTIFY in upper case (RFC 3461 section 4.1), empty when absent; raises `CommandError`."""
    value = given.pop("NOTIFY", None)
    if value is None:
        return ""
    words = value.upper().split(",")
    # RFC 3461 section 4.1: "NEVER" MUST appear by itself
    if words != ["NEVER"] and (not {"SUCCESS", "FAILURE", "DELAY"}.issuperset(words) or len(set(words)) < len(words)):
        raise CommandError(bad_parameter("NOTIFY must be NEVER, or of SUCCESS, FAILURE, DELAY"))
    return ",".join(words)


def take_orcpt(given: dict[str, str], utf8: bool) -> str:
    """ORCPT as sent (RFC 3461 section 4.2), empty when absent; `utf8` where MAIL asked for SMTPUTF8.

    Raises `CommandError`.
    """
    value = given.pop("ORCPT", None)
    if value is None:
        return ""
    found = _orcpt(value)
    if found is None or len(value) > MAX_ORCPT or not _is_original_recipient(found[1], found[2], utf8):
        raise CommandError(bad_parameter("ORCPT is not valid"))
    return value


def _is_original_recipient(kind: str, address: str, utf8: bool) -> bool:
    if kind.lower() != "utf-8":
        return _printable_xtext(address) is not None
    # RFC 6533 section 3: characters beyond ASCII as they are need SMTPUTF8, in the form "\x{E4}" they do not
    well_formed = (_utf8_unitext if utf8 else _utf8_xtext)(address) is not None
    return well_formed and all(_is_character(int(point, 16)) for point in _utf8_point.findall(address))


def _is_character(point: int) -> bool:
    """Whether a number is a character that can stand in an address: no control character, no surrogate."""
    return 0x20 <= point < 0x7F or 0xA0 <= point < 0xD800 or 0xE000 <= point <= 0x10FFFF


def ascii_orcpt(value: str) -> str:
    r"""An ORCPT without characters beyond ASCII: of type utf-8 they become \x{HEX} (RFC 6533 section 3)."""
    return value if value.isascii() else "".join(c if c.isascii() else f"\\x{{{ord(c):X}}}" for c in value)


def read_bdat(line: bytes) -> tuple[int, bool] | None:
    """Octets and LAST of a BDAT line (RFC 3030 section 2); None when it is not well formed."""
    found = _bdat(line)
    return None if found is None else (int(found[1]), found[2] is not None)
