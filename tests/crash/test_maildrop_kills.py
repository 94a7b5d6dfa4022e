"""Kill the whole server again and again while it takes up a maildrop: every file becomes one message."""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path

import pytest

from postroad.console.sendmail_drop import leave
from tests.live import LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.crash]

FILES = 300
KILLS = 3


def test_every_file_becomes_one_message(tmp_path: Path) -> None:
    folder = tmp_path / "maildrop"
    folder.mkdir()
    server = LiveServer(tmp_path, config=f'[local]\nmaildrop = "{folder}"\n')
    server.add_domain()
    server.add_user("anna@local.test")
    for number in range(FILES):
        leave(str(folder), {"recipients": ["anna@local.test"]}, f"Subject: number {number}\r\n\r\nhi\r\n".encode())
    chance = random.Random(20261123)
    kills_amid = 0
    for _ in range(KILLS):
        server.start()
        left = len(list(folder.iterdir()))
        end = time.monotonic() + chance.uniform(0.02, 0.3)
        while time.monotonic() < end:
            time.sleep(0.005)
        server.kill_group()
        kills_amid += 0 < len(list(folder.iterdir())) < left
    server.start()
    try:
        end = time.monotonic() + 40
        while list(folder.iterdir()) and time.monotonic() < end:
            time.sleep(0.05)
        assert list(folder.iterdir()) == []
    finally:
        server.kill_group()
    with sqlite3.connect(server.data_dir / "postroad.db") as store:
        rows = store.execute("SELECT m.header FROM mailbox_messages b JOIN messages m ON m.id = b.message").fetchall()
    store.close()
    subjects = [header.split(b"Subject: ")[1].split(b"\r\n")[0] for (header,) in rows]
    assert sorted(subjects) == sorted(f"number {number}".encode() for number in range(FILES))
    assert kills_amid, "no kill fell into the work; the test showed nothing"
