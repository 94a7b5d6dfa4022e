"""The canonical forms, and that a body may be cut anywhere."""

from __future__ import annotations

import base64
import hashlib
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.trust.dkim import canonical
from postroad.trust.dkim.canonical import BodyHash, body_hash, relaxed_field, simple_field
from tests.trust.dkim.nasty import NASTY


def relaxed(body: bytes) -> bytes:
    """The relaxed form written down line by line, as RFC 6376 section 3.4.4 tells it."""
    lines = [b" ".join(part for part in line.replace(b"\t", b" ").split(b" ") if part) for line in body.split(b"\r\n")]
    begins = [line[:1] in (b" ", b"\t") for line in body.split(b"\r\n")]
    lines = [b" " + line if blank and line else line for line, blank in zip(lines, begins, strict=True)]
    while lines and not lines[-1]:
        lines.pop()
    return b"".join(line + b"\r\n" for line in lines)


def simple(body: bytes) -> bytes:
    while body.endswith(b"\r\n"):
        body = body[:-2]
    return body + b"\r\n"


@pytest.mark.parametrize(
    "body, form",
    [
        # RFC 6376 section 3.4.5: the example
        (b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n"),
        (b"", b""),
        (b"\r\n\r\n", b""),
        (b" \t\r\n \r\n", b""),
        (b"x", b"x\r\n"),
        (b"x \t", b"x\r\n"),
        (b"x\r\n ", b"x\r\n"),
        (b"\r\nx\r\n", b"\r\nx\r\n"),
        (b"x\r", b"x\r\r\n"),
        (b"x \r", b"x \r\r\n"),
        (b"x\r\r\n", b"x\r\r\n"),
        (b"x\n\r\n", b"x\n\r\n"),
    ],
)
def test_relaxed_bodies(body: bytes, form: bytes) -> None:
    assert body_hash(body) == hashlib.sha256(form).digest()


@pytest.mark.parametrize(
    "body, form",
    [
        (b" C \r\nD \t E\r\n\r\n\r\n", b" C \r\nD \t E\r\n"),
        (b"", b"\r\n"),
        (b"\r\n\r\n", b"\r\n"),
        (b" \r\n", b" \r\n"),
        (b"x", b"x\r\n"),
        (b"x\r", b"x\r\r\n"),
    ],
)
def test_simple_bodies(body: bytes, form: bytes) -> None:
    assert body_hash(body, relaxed=False) == hashlib.sha256(form).digest()


def test_known_hashes_of_an_empty_body() -> None:
    """RFC 6376 section 3.4.3 and 3.4.4 print them."""
    assert base64.b64encode(body_hash(b"", relaxed=False)) == b"frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY="
    assert base64.b64encode(body_hash(b"")) == b"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("is_relaxed", [True, False])
def test_every_cut_gives_the_same_hash(name: str, is_relaxed: bool) -> None:
    body = NASTY[name][1][-200:]
    whole = body_hash(body, relaxed=is_relaxed)
    for cut in range(len(body) + 1):
        hashing = BodyHash(relaxed=is_relaxed)
        hashing.update(body[:cut])
        hashing.update(body[cut:])
        assert hashing.digest() == whole, (name, cut)


@given(st.text(" \t\r\nab", max_size=40).map(str.encode), st.integers(1, 5))
def test_pieces_of_any_size_against_the_plain_reading(body: bytes, size: int) -> None:
    """Lines end in CRLF here, as they do behind SMTP; blanks stand everywhere."""
    body = body.replace(b"\r", b"").replace(b"\n", b"\r\n")
    for is_relaxed, form in ((True, relaxed(body)), (False, simple(body))):
        hashing = BodyHash(relaxed=is_relaxed)
        for start in range(0, len(body), size):
            hashing.update(body[start : start + size])
        assert hashing.digest() == hashlib.sha256(form).digest()


@given(st.text(" \t\r\na", max_size=30).map(str.encode), st.integers(0, 30))
def test_bare_ends_of_lines_do_not_depend_on_the_cut(body: bytes, cut: int) -> None:
    for is_relaxed in (True, False):
        hashing = BodyHash(relaxed=is_relaxed)
        hashing.update(body[:cut])
        hashing.update(body[cut:])
        assert hashing.digest() == body_hash(body, relaxed=is_relaxed)


def test_a_hash_may_be_asked_for_twice() -> None:
    hashing = BodyHash()
    hashing.update(b"x\r\n")
    assert hashing.digest() == hashing.digest() == body_hash(b"x\r\n")


def test_held_back_lines_are_hashed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical, "LINES_AT_ONCE", 3)
    for lines in (2, 3, 4, 6, 7):
        body = b"a" + b"\r\n" * lines + b"b\r\n"
        hashing = BodyHash()
        for at in range(len(body)):
            hashing.update(body[at : at + 1])
        assert hashing.digest() == hashlib.sha256(body).digest()


@pytest.mark.parametrize("filling", [b" ", b"\t", b"\r\n", b"\r", b"\n", b" \t", b" \r\n", b"\r\r\n"])
def test_hostile_bodies_cost_no_more_than_their_length(filling: bytes) -> None:
    """Ten times the octets may not cost a hundred times the work: measured as work, with a wide margin."""

    def cost(octets: int) -> float:
        body = filling * (octets // len(filling))
        begun = time.process_time()
        hashing = BodyHash()
        for start in range(0, len(body), 65_536):
            hashing.update(body[start : start + 65_536])
        hashing.digest()
        return time.process_time() - begun

    small = max(cost(100_000), 0.0005)
    assert cost(1_000_000) < small * 60


def test_random_bodies_against_the_plain_reading() -> None:
    rng = random.Random(6376)
    for _ in range(200):
        body = b"".join(rng.choice([b" ", b"\t", b"\r\n", b"word", b".", b"  ", b"\xff"]) for _ in range(60))
        assert body_hash(body) == hashlib.sha256(relaxed(body)).digest()


@pytest.mark.parametrize(
    "name, value, form",
    [
        # RFC 6376 section 3.4.5
        (b"a", b" X\r\n", b"a:X\r\n"),
        (b"b", b" Y\t\r\n\tZ  \r\n", b"b:Y Z\r\n"),
        (b"subject", b"\r\n", b"subject:\r\n"),
        (b"subject", b" \t\r\n", b"subject:\r\n"),
        (b"subject", b"\r\n \r\n x\r\n", b"subject:x\r\n"),
        (b"subject", b" last line of a block", b"subject:last line of a block\r\n"),
    ],
)
def test_relaxed_fields(name: bytes, value: bytes, form: bytes) -> None:
    assert relaxed_field(name, value) == form


def test_simple_fields_stay_as_they_are() -> None:
    assert simple_field(b"B : Y\t\r\n\tZ  \r\n") == b"B : Y\t\r\n\tZ  \r\n"
    assert simple_field(b"B: last") == b"B: last\r\n"
