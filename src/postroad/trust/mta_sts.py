"""MTA-STS (RFC 8461): what a domain's TXT record and its policy file say, and which hosts a policy allows. Pure.

Whatever is not exactly as the RFC writes it is no record and no policy: half a policy protects nobody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

POLICY_AGE_LONGEST_S: Final = 31_557_600
"""RFC 8461 section 3.2: "maximum value of 31557600", a year; a longer one is taken for this."""

NONE, TESTING, ENFORCE = "none", "testing", "enforce"
MODES: Final = (ENFORCE, TESTING, NONE)

_field: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})=([!-:<>-~]+)").fullmatch
_id: Final = re.compile(r"[A-Za-z0-9]{1,32}").fullmatch
_name: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}").fullmatch
_age: Final = re.compile(r"[0-9]{1,10}").fullmatch
_pattern: Final = re.compile(
    r"(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
)


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy as its domain published it."""

    mode: str
    """"none", "testing" or "enforce"."""
    max_age_s: int
    mx: tuple[str, ...]
    """Host names, or "*." and a domain, in lower case."""
    text: str
    """The file itself."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The file line by line, without what ended them: what a report repeats (RFC 8460 section 4.4)."""
        return tuple(line.removesuffix("\r") for line in self.text.split("\n") if line.strip())

    def allows(self, host: str) -> bool:
        """Whether an MX host name matches one of the patterns."""
        return any(matches(pattern, host) for pattern in self.mx)


def name_of_record(domain: str) -> str:
    """Where the TXT record of a domain is found."""
    return f"_mta-sts.{domain}"


def url_of_policy(domain: str) -> str:
    """Where the policy of a domain is fetched from (RFC 8461 section 3.2)."""
    return f"https://mta-sts.{domain}/.well-known/mta-sts.txt"


def read_id(records: Sequence[str]) -> str:
    """The policy id that the TXT strings at `_mta-sts.DOMAIN` announce; empty when there is no valid record.

    RFC 8461 section 3.1: of records that do not begin with "v=STSv1;" none counts, and "if the number of resulting
    records is not one, or if the resulting record is syntactically invalid, senders MUST assume" there is no policy.
    """
    ours = [text for text in records if re.match(r"v=STSv1[ \t]*;", text)]
    return _read_record(ours[0]) if len(ours) == 1 else ""


def _read_record(text: str) -> str:
    first, *rest = re.split(r"[ \t]*;[ \t]*", text)
    if rest and not rest[-1]:
        rest.pop()
    fields: dict[str, str] = {}
    for part in rest:
        found = _field(part)
        if found is None:
            return ""
        # RFC 8461 section 3.2, of records and policies alike: "If any non-repeated field [...] is duplicated, all
        # entries except for the first SHALL be ignored."
        fields.setdefault(found[1], found[2])
    ident = fields.get("id", "")
    return ident if first == "v=STSv1" and _id(ident) else ""


def read_policy(octets: bytes) -> Policy | str:
    """The policy of a fetched file, or in words why it is none."""
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        return "it is no UTF-8"
    fields: dict[str, str] = {}
    mx: list[str] = []
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        if not line.strip(" \t"):
            continue
        name, colon, value = line.partition(":")
        value = value.strip(" \t")
        if not colon or not _name(name) or not value:
            return f'"{_shown(line)}" is no field'
        if name == "mx":
            pattern = value.lower()
            if not _pattern.fullmatch(pattern):
                return f'"{_shown(value)}" is no pattern of MX hosts'
            mx.append(pattern)
        else:
            # RFC 8461 section 3.2: of all fields but "mx" only the first counts.
            fields.setdefault(name, value)
    return _complete(fields, mx, text)


def _complete(fields: dict[str, str], mx: list[str], text: str) -> Policy | str:
    if fields.get("version") != "STSv1":
        return "it has no version STSv1"
    mode = fields.get("mode", "")
    if mode not in MODES:
        return f'"{_shown(mode)}" is no mode' if mode else "it has no mode"
    age = fields.get("max_age", "")
    if not _age(age):
        return "it has no max_age in seconds"
    if mode != NONE and not mx:
        return "it names no MX host"
    return Policy(mode, min(int(age), POLICY_AGE_LONGEST_S), tuple(mx), text)


def matches(pattern: str, host: str) -> bool:
    """Whether a host name matches a pattern; "*" stands for exactly one label (RFC 8461 section 4.1)."""
    pattern, host = pattern.lower(), host.lower().rstrip(".")
    if pattern.startswith("*."):
        label, dot, rest = host.partition(".")
        return bool(label and dot) and rest == pattern[2:]
    return host == pattern


def _shown(text: str) -> str:
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text[:60])
