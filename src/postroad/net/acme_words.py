"""What an ACME authority's refusal means, in words for the person who runs the server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

PREFIX: Final = "urn:ietf:params:acme:error:"
DETAIL_MAX: Final = 300
"""Characters kept of a text that the authority wrote."""
SUBPROBLEMS_MAX: Final = 5

_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e\xa0-\uffff]+")

MEANINGS: Final = {
    "accountDoesNotExist": "it does not know our account any more",
    "alreadyRevoked": "that certificate is revoked already",
    "badCSR": "it does not like our certificate request",
    "badNonce": "it did not accept our one-time numbers",
    "badPublicKey": "it does not like our key",
    "badSignatureAlgorithm": "it does not take ECDSA P-256 signatures",
    "caa": "a CAA record in DNS forbids it to issue for the name; add one that allows this authority",
    "compound": "several things were wrong",
    "connection": "it could not connect to this server; check that the name points here and no firewall is between",
    "dns": "it could not find the name in DNS; check its A and AAAA records",
    "externalAccountRequired": "it wants an account that you made there before: set acme.binding_id and"
    " acme.binding_key_file",
    "incorrectResponse": "it got another answer than ours; check that the name points here and what else answers there",
    "invalidContact": "it does not accept acme.contact",
    "malformed": "it did not understand our request",
    "orderNotReady": "it was not ready to issue",
    "rateLimited": "it was asked too often",
    "rejectedIdentifier": "it does not issue for this name",
    "serverInternal": "it has trouble of its own",
    "tls": "it could not speak TLS with this server; check what answers on port 443 of the name",
    "unauthorized": "it is not convinced that the name is ours; check that the name points here",
    "unsupportedContact": "it does not accept acme.contact",
    "unsupportedIdentifier": "it does not issue for this kind of name",
    "userActionRequired": "somebody must look at its web page and agree to something",
}
"""RFC 8555 section 6.7: the types of errors, and what they mean for whoever runs the server."""


class AcmeError(Exception):
    """No certificate this time; the text says why. `retry_after` is the seconds the authority asked us to wait."""

    def __init__(self, why: str, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class Identifier(msgspec.Struct, frozen=True):
    """RFC 8555 section 9.7.7: a name that a certificate is asked for."""

    type: str = "dns"
    value: str = ""


class Subproblem(msgspec.Struct, frozen=True):
    """RFC 8555 section 6.7.1: what is wrong with one of several names."""

    type: str = ""
    detail: str = ""
    identifier: Identifier = Identifier()


class Problem(msgspec.Struct, frozen=True):
    """RFC 7807: a refusal with its type and the authority's own words."""

    type: str = ""
    detail: str = ""
    subproblems: tuple[Subproblem, ...] = ()

    @property
    def kind(self) -> str:
        """The type without its prefix ("rateLimited"); empty when it is none of ACME's."""
        return self.type.removeprefix(PREFIX) if self.type.startswith(PREFIX) else ""

    def words(self, name: str = "") -> str:
        """What happened, for people: our reading of the type, then the authority's text."""
        parts = [_meaning(self.type, name, self.detail)]
        for one in self.subproblems[:SUBPROBLEMS_MAX]:
            parts.append(_meaning(one.type, one.identifier.value, one.detail))
        return "; ".join(parts)


def _meaning(type_: str, name: str, detail: str) -> str:
    meaning = MEANINGS.get(type_.removeprefix(PREFIX), "it refused")
    subject = f"{plain(name)}: " if name else ""
    said = plain(detail)
    return f"{subject}{meaning}" + (f' (it said: "{said}")' if said else "")


def plain(text: str) -> str:
    """A stranger's text on one line, without control characters, and not too long."""
    text = _UNPRINTABLE.sub(" ", text).strip()
    return text if len(text) <= DETAIL_MAX else text[: DETAIL_MAX - 3] + "..."


def joined(names: Sequence[str], most: int = 3) -> str:
    """Names for a sentence: "a, b, c and 4 more"."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"
