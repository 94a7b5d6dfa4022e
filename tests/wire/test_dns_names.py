"""The work that the names of a DNS message are is known before anything decodes them."""

from __future__ import annotations

import time
from random import Random

import dns.message
import dns.rrset
import pytest

from postroad.wire.dns_names import labels

ALL = 1 << 30


def answer(*records: str, question: str = "shop.test.") -> bytes:
    response = dns.message.make_response(dns.message.make_query(question, "MX"))
    for record in records:
        name, kind, text = record.split(" ", 2)
        response.answer.append(dns.rrset.from_text(name, 60, "IN", kind, text))
    return response.to_wire()


def bomb(count: int, kind: int = 15) -> bytes:
    """Records whose two names are pointers to the name in question, which has a hundred labels."""
    query = dns.message.make_query(".".join("a" * 100) + ".", "MX", use_edns=False).to_wire()
    record = b"\xc0\x0c" + kind.to_bytes(2) + b"\0\1" + b"\0\0\0\x3c" + b"\0\4" + b"%b\xc0\x0c"
    return (
        query[:2] + b"\x84\0" + b"\0\1" + count.to_bytes(2) + b"\0\0\0\0" + query[12:]
        + b"".join(record % number.to_bytes(2) for number in range(count))
    )  # fmt: skip


def test_an_ordinary_answer_is_little_work() -> None:
    # The question, 3; the owner by a pointer, 4; the host: its own label and a pointer to the owner's, 5.
    assert labels(answer("shop.test. MX 10 mx.shop.test."), ALL) == 3 + 4 + 5
    assert labels(answer('shop.test. TXT "\\255\\255\\255"'), ALL) == 3 + 4


@pytest.mark.parametrize("kind", [15, 33, 55, 65, 9999])
def test_promise_p10_a_few_octets_that_stand_for_hundreds_of_labels_are_counted_as_such(kind: int) -> None:
    assert labels(bomb(1000, kind), ALL) > 200_000


def test_promise_p10_counting_stops_when_it_is_enough() -> None:
    assert 500 <= labels(bomb(4000), 500) < 1000


def test_pointers_to_pointers_are_followed_once() -> None:
    """A chain of thousands of pointers, and thousands of names that begin at its far end."""
    chain = b"\0" + b"".join((0xC000 | 12 + max(0, 2 * n - 1)).to_bytes(2) for n in range(8000))
    question = chain + b"\0\1\0\1"
    wire = b"\0\0\x84\0" + b"\0\1" + b"\xff\xff" + b"\0" * 4 + question + b"\xff\xfe" * 20_000
    began = time.process_time()
    labels(wire, ALL)
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_is_counted_without_an_error(seed: int) -> None:
    rng = Random(seed)
    wire = answer("shop.test. MX 10 mx.shop.test.", "shop.test. SOA a. b. 1 2 3 4 5", "x.test. SRV 1 2 3 y.test.")
    for _ in range(100):
        spoiled = bytearray(wire)
        for _ in range(rng.randrange(1, 6)):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        assert labels(bytes(spoiled[: rng.randrange(len(spoiled) + 1)]), ALL) >= 0
    assert labels(rng.randbytes(65_000), 10_000) >= 0
