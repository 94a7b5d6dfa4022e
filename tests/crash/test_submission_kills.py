"""Exactly-once submission and allowances on a live server: killed between commit and 250, and with two workers."""

from __future__ import annotations

import re
import smtplib
import socket
import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from postroad.values.ids import WRITER_BITS, parse_id
from tests.crash.scene import crash_file_of, faults
from tests.e2e.mail import until
from tests.live import LiveServer, free_ports, wait_gone

pytestmark = [pytest.mark.slow, pytest.mark.crash, pytest.mark.e2e]

USER, PASSWORD = "anna@local.test", "secret"
TO = [USER, "b@else.test"]
CLIENTS = 16


def message(number: int = 1, key: str = "") -> bytes:
    keyed = f"X-Postroad-Key: {key}\r\n" if key else f"Message-ID: <{number}@local.test>\r\n"
    return f"{keyed}From: {USER}\r\nSubject: number {number}\r\n\r\nhello\r\n".encode()


@contextmanager
def serving(where: Path, *, workers: int, sending: str = "", points: bool = False) -> Iterator[LiveServer]:
    """A started server whose mail to else.test cannot leave."""
    [nobody] = free_ports(1)
    server = LiveServer(
        where,
        workers=workers,
        config=f'[relay]\nroutes = {{ "else.test" = "127.0.0.1:{nobody}" }}\n[sending]\n{sending}\n',
        environment=faults(where, points=True) if points else {},
    )
    server.add_domain()
    server.add_user(USER, PASSWORD)
    server.start()
    try:
        yield server
    finally:
        if server.process is not None:
            server.kill_group()


@contextmanager
def logged_in(server: LiveServer) -> Iterator[smtplib.SMTP]:
    with closing(server.smtp("submission")) as client:
        client.starttls()
        client.ehlo()
        client.login(USER, PASSWORD)
        yield client


def up_to_the_dot(client: smtplib.SMTP, content: bytes) -> None:
    """Everything of a transaction but its last line."""
    assert client.docmd(f"MAIL FROM:<{USER}>")[0] == 250
    assert all(client.docmd(f"RCPT TO:<{to}>")[0] == 250 for to in TO)
    assert client.docmd("DATA")[0] == 354
    client.send(content)


def submit(client: smtplib.SMTP, content: bytes) -> tuple[int, str]:
    """Code and id of one submission; empty when there is none."""
    up_to_the_dot(client, content)
    code, text = client.docmd(".")
    found = re.search(rb"Queued as (\w+)", text)
    return code, found[1].decode() if found else ""


def rows(server: LiveServer, sql: str) -> list[Any]:
    with closing(sqlite3.connect(server.data_dir / "postroad.db")) as store:
        return store.execute(sql).fetchall()


@pytest.mark.parametrize("key", ["", "order-4711"], ids=["message-id", "key"])
@pytest.mark.parametrize("point", ["commit.before", "commit.after", "accept.answered"])
def test_killed_between_commit_and_250_it_is_sent_once(tmp_path: Path, point: str, key: str) -> None:
    """The row "between COMMIT and 250" of docs/internals/states.md."""
    with serving(tmp_path, workers=1, points=True) as server:
        with logged_in(server) as client:
            up_to_the_dot(client, message(key=key))
            pids = server.pids()
            # The store's note of this login must not be the commit that is waited for.
            until(lambda: rows(server, "SELECT count(*) FROM known_networks") == [(1,)])
            crash_file_of(tmp_path).write_text(f"{point} 1 all nonce")
            client.send(b".\r\n")
            with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError, socket.timeout)):
                client.getreply()
        wait_gone(pids.values())
        server.kill_group()
        server.start()
        stored = rows(server, "SELECT id FROM messages")
        assert len(stored) == (0 if point == "commit.before" else 1)
        with logged_in(server) as client:
            first, again = (submit(client, message(key=key)) for _ in range(2))
        assert first == again
        assert first[0] == 250
        [(ident,)] = rows(server, "SELECT id FROM messages")
        assert parse_id(first[1]) == ident
        assert stored in ([], [(ident,)])
        assert rows(server, "SELECT count(*) FROM mailbox_messages") == [(1,)]
        assert rows(server, "SELECT count(*) FROM deliveries") == [(1,)]
        told = server.run("why", first[1])
        assert told.count(" repeated ") == (1 if point == "commit.before" else 2)
        assert server.stop() == 0
        server.run("verify")


def test_two_workers_take_one_submission_once(tmp_path: Path) -> None:
    with serving(tmp_path, workers=2) as server:

        def client(number: int) -> tuple[str, str]:
            with logged_in(server) as connection:
                own = submit(connection, message(100 + number))[1]
                return own, submit(connection, message(1))[1]

        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(client, range(CLIENTS)))
        workers = {(parse_id(own) or 0) & ((1 << WRITER_BITS) - 1) for own, _ in answers}
        assert len(workers) == 2, "all connections were with one worker; the test showed nothing"
        assert len({shared for _, shared in answers}) == 1
        assert rows(server, "SELECT count(*) FROM history") == [(CLIENTS + 1,)]
        assert server.stop() == 0


def test_two_workers_share_one_allowance(tmp_path: Path) -> None:
    limit = CLIENTS + 3
    with serving(tmp_path, workers=2, sending=f"messages_per_hour = {limit}") as server:

        def client(number: int) -> list[int]:
            with logged_in(server) as connection:
                codes = []
                for which in range(2):
                    code = connection.docmd(f"MAIL FROM:<{USER}>")[0]
                    connection.rset()
                    codes.append(submit(connection, message(10 * number + which))[0] if code == 250 else code)
                return codes

        with ThreadPoolExecutor(CLIENTS) as pool:
            codes = Counter(code for found in pool.map(client, range(CLIENTS)) for code in found)
        assert codes == {250: limit, 452: 2 * CLIENTS - limit}
        assert rows(server, "SELECT messages FROM sending") == [(limit,)]
        assert f"{limit}\t{limit}" in server.run("user", "limits", USER)
        assert server.stop() == 0
