"""The queue as people read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroad.store import waiting as reads
from postroad.store.opening import OpenStore
from postroad.store.reader import Reader
from postroad.store.waiting import count, destinations, waiting
from postroad.values.ids import IdMaker

NOW_US = 1_800_000_000_000_000
MINUTE_US = 60_000_000


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """Two messages: one to two recipients of a.test, one to b.test that is not due yet."""
    store = OpenStore(tmp_path)
    ids = IdMaker(1)
    connection = store.connection
    connection.begin()
    for sender, age_us, legs in (
        ("x@ours.test", 3 * MINUTE_US, [("one@a.test", -1, ""), ("two@a.test", 5, "451 later")]),
        ("", MINUTE_US, [("three@b.test", MINUTE_US, "450 busy")]),
    ):
        message = ids.make(NOW_US - age_us)
        connection.execute(
            "INSERT INTO messages (id, received_us, expires_us, size, smtputf8, eightbit, sender, ret, envid, login,"
            " body_file, header) VALUES (?, ?, 1, 77, 0, 0, ?, '', '', '', '', x'')",
            (message, NOW_US - age_us, sender),
        )
        for recipient, due_us, reply in legs:
            domain = recipient.partition("@")[2]
            connection.execute(
                "INSERT INTO deliveries (id, message, due_us, owner, attempts, kind, account, domain, recipient,"
                " notify, orcpt, prefix, last_reply) VALUES (?, ?, ?, 0, 2, 0, 0, ?, ?, '', '', x'', ?)",
                (ids.make(NOW_US), message, NOW_US + due_us, domain, recipient, reply),
            )
    connection.commit()
    store.close()
    return Reader(tmp_path)


def test_destinations_come_fullest_first(reader: Reader) -> None:
    a, b = destinations(reader, NOW_US)
    assert (a.domain, a.deliveries, a.due, a.next_us, a.last_reply) == ("a.test", 2, 1, NOW_US - 1, "451 later")
    assert (b.domain, b.deliveries, b.due, b.last_reply) == ("b.test", 1, 0, "450 busy")
    assert a.oldest < b.oldest
    reader.close()


def test_deliveries_by_message_and_by_domain(reader: Reader) -> None:
    every = waiting(reader)
    assert [one.recipient for one in every] == ["one@a.test", "two@a.test", "three@b.test"]
    assert [one.recipient for one in waiting(reader, message=every[2].message)] == ["three@b.test"]
    assert [one.sender for one in waiting(reader, domain="a.test")] == ["x@ours.test"] * 2
    assert (count(reader), count(reader, domain="a.test"), count(reader, message=every[2].message)) == (3, 2, 1)
    reader.close()


def test_pages_follow_each_other(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "PAGE", 2)
    first = waiting(reader)
    rest = waiting(reader, after=first[-1].id)
    assert [one.recipient for one in first + rest] == ["one@a.test", "two@a.test", "three@b.test"]
    reader.close()
