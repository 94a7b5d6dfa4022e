"""Signing: a message's header and the hash of its body in, DKIM-Signature fields out.

The canonical header and the body hash are made once, whatever the number of keys; each signature then costs its own
arithmetic and little else. Fields are signed as often as they stand there and once more, so that nobody can add one
that a mail program would show instead (RFC 6376 section 8.15): `SIGNED` says which and why.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from postroad.trust.dkim.canonical import relaxed_field
from postroad.trust.dkim.keys import SigningKey
from postroad.wire.mime.headers import HeaderIndex

FOLD: Final = 76
"""Columns of a line where it can be helped: RFC 5322 section 2.1.1 wants at most 78."""

FIELDS_MAX: Final = 200
"""Fields one signature covers: honest mail has twenty, and the list in h= must not outgrow what verifiers read."""


class Rule(NamedTuple):
    """One field name of `SIGNED`."""

    name: str
    absent: bool
    """Signed although it is not there, so that it cannot be added on the way."""


def _shown(*names: str) -> tuple[Rule, ...]:
    return tuple(Rule(name, True) for name in names)


def _present(*names: str) -> tuple[Rule, ...]:
    return tuple(Rule(name, False) for name in names)


SIGNED: Final = (
    # What a mail program shows or acts on. Absent is a fact too: a Reply-To put into a copy of our mail would lead the
    # answers to somebody else, a Content-Type would show another text (RFC 6376 section 8.15, section 5.4).
    *_shown("From", "To", "Cc", "Subject", "Date", "Message-ID", "Reply-To"),
    *_shown("MIME-Version", "Content-Type", "Content-Transfer-Encoding"),
    # Said by the author where they are there; a mailing list may set its own where they are not.
    *_present("Sender", "In-Reply-To", "References", "Auto-Submitted"),
    # RFC 8058 section 4: a receiver follows List-Unsubscribe by itself only when a signature covers both fields.
    *_present("List-Id", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Help", "List-Subscribe", "List-Post"),
    *_present("List-Owner", "List-Archive"),
    # Names the mailing in the complaint reports of large receivers.
    *_present("Feedback-ID"),
    # RFC 8460 section 5.3: the fields of a TLS report "SHOULD be included in the DKIM [RFC6376] signature".
    *_present("TLS-Report-Domain", "TLS-Report-Submitter"),
)
"""What a signature covers, in the order of its h=.

Left out because it changes on the way (RFC 6376 section 5.4.1): Received, Return-Path, Delivered-To, Resent-*, the
results of others, and comments nobody sees."""

_RULES: Final = [(rule.name, rule.name.lower().encode(), rule.absent) for rule in SIGNED]
_COVERED: Final = frozenset(name for _, name, _ in _RULES)


class Unsignable(ValueError):
    """A header that no signature can be made for; the text says why."""


def signature_fields(
    index: HeaderIndex, body_hash: bytes, domain: str, keys: Sequence[SigningKey], *, at_s: int, expires_s: int = 0
) -> bytes:
    """One DKIM-Signature field for each key, c=relaxed/relaxed, each ending in CRLF.

    `index` is of the header as it will be sent, `body_hash` that of `canonical.BodyHash`, `domain` the A-labels of d=,
    `at_s` and `expires_s` seconds since 1970 (0: no x=). Raises `Unsignable`.
    """
    names, signed = covered(index)
    body = base64.b64encode(body_hash).decode()
    end = f"\r\n\tt={at_s};"
    # RFC 6376 section 3.5: x= MUST be greater than t=.
    end += f" x={expires_s};\r\n\t" if expires_s else " "
    end += f"bh={body};\r\n\tb="
    made = []
    for key in keys:
        field = _beginning(key.tag, domain, key.selector, names) + end
        # Section 3.7: the field itself comes last, with an empty b= and without its line end.
        own = relaxed_field(b"dkim-signature", field.partition(":")[2].encode())[:-2]
        made.append(field + _wrapped(base64.b64encode(key.sign(signed + own)).decode()) + "\r\n")
    return "".join(made).encode()


def covered(index: HeaderIndex) -> tuple[tuple[str, ...], bytes]:
    """The names of h=, in order, and the canonical octets they stand for. Raises `Unsignable`."""
    places: dict[bytes, list[int]] = {}
    for at, name in enumerate(index.names):
        if name in _COVERED:
            places.setdefault(name, []).append(at)
    # RFC 6376 section 5.4: "The From header field MUST be signed". Section 5.3: signers do not sign what has two,
    # because nobody knows which of them a reader will see.
    if len(places.get(b"from", ())) != 1:
        raise Unsignable("it has no From field, or more than one")
    names: list[str] = []
    signed: list[bytes] = []
    for shown, name, absent in _RULES:
        found = places.get(name)
        if found is not None:
            # Section 5.4.2: of several "the last instance [...] first".
            signed += [relaxed_field(name, index.raw_value(at)) for at in reversed(found)]
            names += [shown] * (len(found) + 1)
        elif absent:
            names.append(shown)
    if len(signed) > FIELDS_MAX:
        raise Unsignable(f"more than {FIELDS_MAX} of its fields would have to be signed")
    return tuple(names), b"".join(signed)


@lru_cache(maxsize=1024)
def _beginning(tag: str, domain: str, selector: str, names: tuple[str, ...]) -> str:
    """The field up to h=, folded; nearly all mail of one domain shares it."""
    words = ["v=1;", f" a={tag};", " c=relaxed/relaxed;", f" d={domain};", f" s={selector};"]
    words.append(f" h={names[0]}:")
    words += [f"{name}:" for name in names[1:]]
    words[-1] = words[-1].removesuffix(":") + ";"
    text, column = "DKIM-Signature: " + words[0], 16 + len(words[0])
    for word in words[1:]:
        if column + len(word) > FOLD:
            word = word.removeprefix(" ")
            text += "\r\n\t" + word
            column = 8 + len(word)
        else:
            text += word
            column += len(word)
    return text


def _wrapped(signature: str) -> str:
    """base64 in lines behind "<TAB>b="."""
    first, width = FOLD - 10, FOLD - 8
    lines = [signature[:first], *(signature[at : at + width] for at in range(first, len(signature), width))]
    return "\r\n\t".join(lines)
