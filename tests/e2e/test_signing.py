"""A whole server signs what leaves: received by another host, every message and every attempt verifies there."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.e2e.conftest import Office, with_certificate
from tests.e2e.mail import submission, until
from tests.fakes.smtp_server import OK, Drop, FakeSmtp
from tests.live import LiveServer, free_ports, live_server
from tests.programs import needs_program

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.needs_program("opendkim")]

T = TypeVar("T")
ANNA = "anna@local.test"
HEADER = (
    b"From: Anna <anna@local.test>\r\nTo: bob@far.test\r\nSubject: Greetings\r\n"
    b"Date: Fri, 27 Nov 2026 06:00:00 +0000\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
)
BODIES = {
    "small": b"Hello.\r\n",
    "dots and blanks": b"..\r\n.\r\n a \t b  \r\n\r\n\t\r\n\r\n",
    "nothing": b"",
    "large": b"".join(b"line %d with  blanks \t\r\n" % number for number in range(10_000)),
}


class Far:
    """Another host, in a thread beside the tests."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        [self.port] = free_ports(1)
        self.server = FakeSmtp(extensions=("PIPELINING", "8BITMIME"))
        self._run(self.server.start(port=self.port))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def close(self) -> None:
        self._run(self.server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture(scope="module")
def far() -> Iterator[Far]:
    made = Far()
    yield made
    made.close()


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory, far: Far) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("near")
    config = (
        with_certificate(folder)
        + f'[relay]\nnext_hop = "127.0.0.1:{far.port}"\nallow_private = ["127.0.0.0/8"]\n'
        + "[retry]\ndelays_s = [0.3, 0.5]\nlifetime_s = 60\n"
    )
    with live_server(folder, kind=Office, config=config) as started:
        yield started
        assert "Traceback" not in started.log()
        assert "whole, every rule holds" in started.run("verify")


def keys(near: LiveServer) -> dict[str, str]:
    """What the domain publishes."""
    rows = json.loads(near.run("domain", "dkim", "local.test", "--json"))["rows"]
    return {row["name"]: row["record"] for row in rows}


def send(near: LiveServer, body: bytes, sender: str = ANNA) -> None:
    with submission(near, ANNA) as client:
        client.sendmail(sender, ["bob@far.test"], HEADER + b"\r\n" + body)


def verdicts(near: LiveServer, folder: Path, octets: bytes) -> list[str]:
    """What OpenDKIM says of each signature."""
    (folder / "m.eml").write_bytes(octets)
    (folder / "keys").write_text("".join(f"{name} {text}\n" for name, text in keys(near).items()))
    (folder / "conf").write_text(
        f"Mode v\nTestPublicKeys {folder}/keys\nSyslog no\nRequireSafeKeys no\nBackground no\n"
    )
    command = [str(needs_program("opendkim")), "-x", f"{folder}/conf", "-vvv", "-t", f"{folder}/m.eml"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50)
    return re.findall(r"dkim=(\w+)", done.stdout)


@pytest.mark.parametrize("name", BODIES)
def test_opendkim_believes_what_arrives(near: LiveServer, far: Far, tmp_path: Path, name: str) -> None:
    known = len(far.server.messages)
    send(near, BODIES[name])
    until(lambda: len(far.server.messages) > known)
    arrived = far.server.messages[-1].content
    assert arrived.startswith(b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=local.test;")
    assert verdicts(near, tmp_path, arrived) == ["pass", "pass"]


def test_every_attempt_sends_the_same_octets(near: LiveServer, far: Far, tmp_path: Path) -> None:
    known = len(far.server.messages)
    far.server.script["DOT"] = [Drop(), Drop(), OK]
    send(near, BODIES["large"])
    until(lambda: len(far.server.messages) >= known + 3)
    tries = [got.content for got in far.server.messages[known:]]
    assert len(set(tries)) == 1
    assert verdicts(near, tmp_path, tries[0]) == ["pass", "pass"]


def test_why_tells_who_signed_and_no_secret_is_in_the_log(near: LiveServer, far: Far) -> None:
    selectors = ",".join(name.partition(".")[0] for name in keys(near))
    send(near, BODIES["small"])
    told = json.loads(near.run("why", ANNA, "--json"))
    assert f"DKIM d=local.test s={selectors}" in json.dumps(told)
    assert "PRIVATE" not in near.log()
