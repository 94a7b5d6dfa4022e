"""Figures that cost a query: the queue as the store has it, and the end of the certificate."""

from __future__ import annotations

from pathlib import Path

from postroad.serve.figures import ServerFigures
from postroad.store.opening import OpenStore
from postroad.store.records import NEVER_US
from postroad.values.ids import IdMaker

HOUR_US = 3_600_000_000


async def test_queue_is_counted_by_what_is_due(tmp_path: Path) -> None:
    store = OpenStore(tmp_path)
    now_us = 1_800_000_000_000_000
    held, message = IdMaker(1).make(now_us - 2 * HOUR_US), IdMaker(1).make(now_us - HOUR_US)
    store.connection.begin()
    for ident in (held, message):
        store.connection.execute(
            "INSERT INTO messages (id, received_us, expires_us, size, smtputf8, eightbit, sender, ret, envid, login,"
            " body_file, header) VALUES (?, 1, 1, 1, 0, 0, '', '', '', '', '', x'')",
            (ident,),
        )
    deliveries = [(message, now_us - 1), (message, now_us + 1), (message, now_us + 2), (held, NEVER_US)]
    for number, (of, due_us) in enumerate(deliveries):
        store.connection.execute(
            "INSERT INTO deliveries (id, message, due_us, owner, attempts, kind, account, domain, recipient, notify,"
            " orcpt, prefix, last_reply) VALUES (?, ?, ?, 0, 0, 0, 0, 'x', 'a@x', '', '', x'', '')",
            (message + 1 + number, of, due_us),
        )
    store.connection.commit()
    figures = ServerFigures(tmp_path, None)
    assert figures._queue(now_us) == {
        'postroad_queue_messages{state="due"}': 1,
        'postroad_queue_messages{state="waiting"}': 2,
        'postroad_queue_messages{state="held"}': 1,
        "postroad_queue_oldest_seconds": 3600.0,
    }
    figures.close()
    store.close()


async def test_empty_queue_has_no_oldest_message(tmp_path: Path) -> None:
    store = OpenStore(tmp_path)
    figures = ServerFigures(tmp_path, None)
    gathered = await figures.gather()
    assert gathered["postroad_queue_oldest_seconds"] == 0
    figures.close()
    store.close()


async def test_store_that_is_away_leaves_the_figures_out(tmp_path: Path) -> None:
    assert await ServerFigures(tmp_path, None).gather() == {}


async def test_end_of_the_certificate(tmp_path: Path) -> None:
    from tests.config.test_config_machine import NOW, pair

    figures = ServerFigures(tmp_path, Path(pair(tmp_path, days=90).certificate))
    ends = (await figures.gather())['postroad_cert_expiry_timestamp_seconds{name="server"}']
    assert abs(ends - NOW.timestamp() - 90 * 86400) < 2
    (tmp_path / "mail.pem").write_text("not a certificate")
    assert await figures.gather() == {}
