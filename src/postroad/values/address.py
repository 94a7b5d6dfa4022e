"""Mail addresses as a value that cannot hold a control character, and the one parser that makes them.

The grammar is `Mailbox` of RFC 5321 section 4.1.2, with RFC 6531 section 3.3 where the caller says `utf8=True`.
It is the grammar of the envelope, not of message headers: no comments, no folding, no obsolete forms.

What the grammar leaves open, and what is done here:

=========================================== ===========================================================================
form                                        here
=========================================== ===========================================================================
`"anna"@x` beside `anna@x`                  one address: `local` holds the meaning, `str()` writes the least quoting
`a@b` (one label), `a@1.2.3.4`              accepted: both are `Domain`; policy and DNS decide whether they go anywhere
`a@b.` (trailing dot)                       refused: `Domain` has none
`[IPv6:1:2:3:4:5:6:7::]`                    refused: "No more than 6 groups in addition to the '::' may be present"
`[tag:anything]`                            refused: no tag but IPv6 was ever registered
zero-width and bidi format characters       refused; the two joiners that scripts need are kept, and ignored in `key`
ideographic and full-width full stops       refused: only "." separates labels
=========================================== ===========================================================================
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import idna

# RFC 5321 section 4.5.3.1.1
MAX_LOCAL: Final = 64
"""Octets of a local part as written, quotes included."""

# RFC 5321 section 4.5.3.1.2
MAX_DOMAIN: Final = 255
"""Octets of a domain name or address literal."""

# RFC 5321 section 4.5.3.1.3: 256 octets "including the punctuation and element separators", so without `<` and `>`:
MAX_MAILBOX: Final = 254
"""Octets of local part, "@" and domain together."""

# RFC 1035 section 2.3.4
MAX_LABEL: Final = 63
"""Octets of one label of a domain name, as an A-label."""

BAD_MAILBOX: Final = "5.1.3"
"""Enhanced code of a recipient address that is none (RFC 3463); for a sender the same fault is 5.1.7."""
NEEDS_UTF8: Final = "5.6.7"
"""Enhanced code of an address that only SMTPUTF8 can carry (RFC 6531 section 3.5)."""

_ATEXT: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_UTEXT: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]"
_LABEL: Final = r"[A-Za-z0-9]++(?:-++[A-Za-z0-9]++)*+"
_DOMAIN: Final = rf"{_LABEL}(?:\.{_LABEL})*+"

_plain = re.compile(rf"({_ATEXT}++(?:\.{_ATEXT}++)*+)@({_DOMAIN})").fullmatch
_dot_atom = re.compile(rf"{_UTEXT}++(?:\.{_UTEXT}++)*+").fullmatch
_quoted = re.compile(r'"((?:[ !#-\[\]-~\x80-\U0010ffff]|\\[ -~])*+)"').match
_quoted_pair = re.compile(r"\\(.)")
_ascii_domain = re.compile(_DOMAIN).fullmatch
_ipv6_literal = re.compile(r"\[IPv6:([0-9A-Fa-f:.]+)\]", re.IGNORECASE).fullmatch
_other_dots = re.compile("[\u3002\uff0e\uff61]").search

_JOINERS: Final = "\u200c\u200d"
"""Zero-width characters that several scripts need to spell words (RFC 5892 appendix A)."""
_drop_joiners: Final = {ord(joiner): None for joiner in _JOINERS}


class AddressError(ValueError):
    """A text that is no address: `reason` is short and may be shown to the peer, `enhanced` its status code."""

    def __init__(self, reason: str, enhanced: str = BAD_MAILBOX) -> None:
        super().__init__(reason)
        self.reason = reason
        self.enhanced = enhanced


@dataclass(frozen=True, slots=True)
class Address:
    """One mailbox: what stands before the "@" by meaning, and the domain in lower case as it was written.

    Two addresses are equal when they would be written alike; whether they reach the same mailbox here is `key`.
    Raises `AddressError` when built from parts no address can have.
    """

    local: str
    """The local part without quotes: `a b` for `"a b"@example.org`; case as written."""
    domain: str
    """Lower case, U-labels kept as such; an address literal with its brackets: `[192.0.2.1]`, `[IPv6:::1]`."""

    def __post_init__(self) -> None:
        _check_local_characters(self.local)
        if self.domain != _domain(self.domain, utf8=True):
            raise AddressError("domain is not in its normal spelling")

    @classmethod
    def parse(cls, text: str, *, utf8: bool = False) -> Address:
        """The address written in `text`, without angle brackets; non-ASCII only with `utf8` (RFC 6531).

        Raises `AddressError`.
        """
        # RFC 5321 section 4.1.2: Dot-string "@" Domain, which is nearly every address there is
        found = _plain(text)
        if found is not None and len(text) <= MAX_LABEL:
            return _trusted(found[1], found[2].lower())
        return _parse_slowly(text, utf8)

    @property
    def domain_ascii(self) -> str:
        """The domain for lookups and for hosts without SMTPUTF8: A-labels, lower case."""
        return self.domain if self.domain.isascii() else _a_labels(self.domain)

    @property
    def key(self) -> str:
        """What decides which mailbox of ours is meant: case, quoting and Unicode spelling make no difference."""
        local = self.local
        if local.isascii():
            local = local.lower()
        else:
            local = unicodedata.normalize("NFD", local.translate(_drop_joiners)).casefold()
            local = unicodedata.normalize("NFC", local)
        return f"{local}@{self.domain_ascii}"

    @property
    def needs_utf8(self) -> bool:
        """Whether no spelling of this address fits a host without SMTPUTF8; a domain alone never needs it."""
        return not self.local.isascii()

    def detail(self, separator: str = "+") -> tuple[str, str]:
        """Mailbox name and tag of `user+tag` (RFC 5233); the tag is empty when there is none."""
        user, _, tag = self.local.partition(separator)
        return (user, tag) if user else (self.local, "")

    def to_ascii(self) -> str:
        """Wire text with the domain in A-labels, for hosts without SMTPUTF8 (`needs_utf8` says if that suffices)."""
        return f"{self._written_local()}@{self.domain_ascii}"

    def __str__(self) -> str:
        """Wire text without angle brackets, with no more quoting than needed."""
        return f"{self._written_local()}@{self.domain}"

    def _written_local(self) -> str:
        # RFC 5321 section 4.1.2: "the sending system SHOULD transmit the form that uses the minimum quoting possible"
        if _dot_atom(self.local) is not None:
            return self.local
        escaped = self.local.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'


def domain_to_ascii(text: str) -> str:
    """A domain name or address literal in its lookup form (A-labels, lower case); raises `AddressError`."""
    domain = _domain(text, utf8=True)
    return domain if domain.isascii() else _a_labels(domain)


_blank = object.__new__
_set_local = Address.__dict__["local"].__set__
_set_domain = Address.__dict__["domain"].__set__


def _trusted(local: str, domain: str) -> Address:
    """An Address of parts the caller has checked: a frozen dataclass's own constructor costs four times as much."""
    made = _blank(Address)
    _set_local(made, local)
    _set_domain(made, domain)
    return made


def _parse_slowly(text: str, utf8: bool) -> Address:
    if not utf8 and not text.isascii():
        raise AddressError("address needs SMTPUTF8", NEEDS_UTF8)
    if len(text) > MAX_MAILBOX or _octets(text) > MAX_MAILBOX:
        raise AddressError("address is too long")
    written, domain = _split(text)
    # RFC 5321 section 4.5.3.1.1: "The maximum total length of a user name or other local-part is 64 octets."
    if _octets(written) > MAX_LOCAL:
        raise AddressError("local part is too long")
    if written.startswith('"'):
        local = _quoted_pair.sub(r"\1", written[1:-1])
    elif _dot_atom(written) is not None:
        local = written
    else:
        raise AddressError("local part is not valid")
    _check_local_characters(local)
    return _trusted(local, _domain(domain, utf8))


def _split(text: str) -> tuple[str, str]:
    """Local part as written and domain; raises `AddressError` when there is no "@" between them."""
    if text.startswith('"'):
        found = _quoted(text)
        if found is None or text[found.end() : found.end() + 1] != "@":
            raise AddressError("quoted local part is not valid")
        return found[0], text[found.end() + 1 :]
    written, at, domain = text.rpartition("@")
    if not at:
        raise AddressError("address has no domain")
    return written, domain


def _octets(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _check_local_characters(local: str) -> None:
    """Refuse what could end a line, hide, or reorder the text around it."""
    if local.isascii():
        if not local.isprintable():
            raise AddressError("local part has a control character")
        return
    for char in local:
        if char >= "\x80" and char not in _JOINERS:
            category = unicodedata.category(char)
            if category in ("Cc", "Cf", "Cs", "Zl", "Zp"):
                raise AddressError("local part has a control character")
        elif char < " " or char == "\x7f":
            raise AddressError("local part has a control character")


def _domain(text: str, utf8: bool) -> str:
    """A domain or address literal in lower case; raises `AddressError`."""
    if text.startswith("["):
        return _literal(text)
    if len(text) > MAX_DOMAIN:
        raise AddressError("domain is too long")
    if not text.isascii():
        if not utf8:
            raise AddressError("domain needs SMTPUTF8", NEEDS_UTF8)
        domain = unicodedata.normalize("NFC", text.lower())
        _a_labels(domain)
        return domain
    if _ascii_domain(text) is None:
        raise AddressError("domain is not valid")
    if len(text) > MAX_LABEL and any(len(label) > MAX_LABEL for label in text.split(".")):
        raise AddressError("a label of the domain is too long")
    return text.lower()


@lru_cache(maxsize=4096)
def _a_labels(domain: str) -> str:
    """A-labels of a domain with U-labels, mapped for lookup (RFC 5891, UTS 46); raises `AddressError`."""
    if _other_dots(domain) is not None or any(
        unicodedata.category(char) == "Cf" and char not in _JOINERS for char in domain
    ):
        raise AddressError("domain is not a valid international name")
    try:
        ascii_form = idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise AddressError("domain is not a valid international name") from None
    if len(ascii_form) > MAX_DOMAIN or _ascii_domain(ascii_form) is None:
        raise AddressError("domain is not a valid international name")
    return ascii_form


def _literal(text: str) -> str:
    """An address literal in one spelling (RFC 5321 section 4.1.3); raises `AddressError`."""
    six = _ipv6_literal(text)
    try:
        if six is None:
            return f"[{ipaddress.IPv4Address(text[1:-1])}]" if text.endswith("]") else _no_literal()
        address = ipaddress.IPv6Address(six[1])
    except ValueError:
        return _no_literal()
    # RFC 5321 section 4.1.3: "The '::' represents at least 2 16-bit groups of zeros. No more than 6 groups in
    # addition to the '::' may be present."
    groups = sum(2 if "." in group else 1 for group in six[1].split(":") if group)
    if "::" in six[1] and groups > 6:
        return _no_literal()
    return f"[IPv6:{address.compressed}]"


def _no_literal() -> str:
    raise AddressError("address literal is not valid")
