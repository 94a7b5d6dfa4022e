"""The supervisor and its children as real processes: what dies comes back, and nothing outlives it."""

from __future__ import annotations

import os
import pwd
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import postroad
from postroad.net.tls import ensure_self_signed
from tests.live import LiveServer, alive, kill, live_server, wait_gone

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

MESSAGE = "From: a@sender.test\r\nSubject: hello\r\n\r\nA line\r\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with live_server(tmp_path) as started:
        yield started


def send(server: LiveServer) -> None:
    with server.smtp() as client:
        client.sendmail("a@sender.test", ["anna@local.test"], MESSAGE)


def back_again(server: LiveServer, before: dict[str, int], name: str) -> None:
    """Wait until `name` runs as another process and all is well."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        now = server.pids()
        if now.get(name, before[name]) != before[name] and server.healthy():
            return
        time.sleep(0.02)
    raise AssertionError(server.log()[-3000:])


@pytest.mark.nightly
@pytest.mark.timeout(150)
def test_a_store_that_hangs_is_answered_for_in_30_s_and_replaced_in_60(server: LiveServer) -> None:
    before = server.pids()
    with server.smtp() as client:
        assert client.sock is not None
        client.sock.settimeout(40)
        client.mail("a@sender.test")
        client.rcpt("anna@local.test")
        client.docmd("DATA")
        os.kill(before["store"], signal.SIGSTOP)
        began = time.monotonic()
        client.send(MESSAGE + ".\r\n")
        assert client.getreply()[0] == 421
        assert time.monotonic() - began < 33
    while time.monotonic() - began < 80 and before["store"] in server.pids().values():
        time.sleep(0.1)
    back_again(server, before, "store")
    send(server)


def test_sigterm_ends_all_with_status_0_and_says_so(server: LiveServer) -> None:
    pids = server.pids()
    assert set(pids) == {"supervisor", "store", "worker-0"}
    send(server)
    assert server.stop() == 0
    wait_gone(pids.values())
    assert '"text":"stopped"' in server.log()
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("name", ["worker-0", "store"])
def test_a_child_that_dies_is_started_again_and_serves(server: LiveServer, name: str) -> None:
    before = server.pids()
    send(server)
    kill(before[name])
    back_again(server, before, name)
    send(server)
    assert "Traceback" not in server.log()


def test_workers_do_not_wait_longer_each_time_their_store_dies(server: LiveServer) -> None:
    for _ in range(3):
        before = server.pids()
        kill(before["store"])
        back_again(server, before, "store")
        send(server)
    assert '"worker-0 ended and is started again"' in server.log()
    for line in server.log().splitlines():
        if "worker-0 ended" in line:
            assert '"pause_s":0.0' in line, line


def test_a_store_that_cannot_be_opened_ends_the_server_with_the_reason(tmp_path: Path) -> None:
    server = LiveServer(tmp_path)
    server.data_dir.mkdir(mode=0o700)
    (server.data_dir / "postroad.db").write_bytes(b"this is no database " * 100)
    with pytest.raises(AssertionError, match="the server ended at start"):
        server.start()
    assert server.process is not None
    assert server.process.returncode == 1
    server.process = None
    assert "cannot be opened" in server.log()
    assert "Traceback" not in server.log()


def test_nothing_outlives_a_killed_supervisor(server: LiveServer) -> None:
    pids = server.pids()
    kill(pids["supervisor"])
    assert server.process is not None
    server.process.wait(5)
    server.process = None
    wait_gone(pids.values())


def test_a_second_server_on_the_same_ports_says_who_holds_them(server: LiveServer) -> None:
    port = server.ports["mx"]
    again = subprocess.run(
        [sys.executable, "-m", "postroad", "--config", str(server.config_file), "serve"],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert again.returncode != 0
    assert f"127.0.0.1:{port} (mx) is in use by" in again.stderr
    assert "Traceback" not in again.stderr


def test_a_new_certificate_is_used_after_sighup(server: LiveServer) -> None:
    def shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", server.ports["submissions"]))

    first = shown()
    folder = server.certificate.parent
    (folder / "self-signed.pem").unlink()
    (folder / "self-signed.key").unlink()
    ensure_self_signed(
        ["mx.local.test"], folder / "self-signed.pem", folder / "self-signed.key", time.time_ns() // 1000
    )
    server.signal(signal.SIGHUP)
    end = time.monotonic() + 5
    while shown() == first and time.monotonic() < end:
        time.sleep(0.05)
    assert shown() != first


def test_a_broken_certificate_leaves_the_old_one_in_use(server: LiveServer) -> None:
    server.certificate.write_text("no certificate")
    server.signal(signal.SIGHUP)
    end = time.monotonic() + 5
    while "the old one stays" not in server.log() and time.monotonic() < end:
        time.sleep(0.05)
    assert "the old one stays" in server.log()
    with server.smtp() as client:
        client.starttls()
        client.ehlo()


def test_an_idle_session_is_told_that_we_go_down(server: LiveServer) -> None:
    client = server.smtp()
    server.signal(signal.SIGTERM)
    code, text = client.getreply()
    assert (code, text[:6]) == (421, b"4.3.2 ")
    client.close()
    assert server.stop() == 0


def everybody_may_run_us() -> bool:
    """Whether every folder above the interpreter and the package may be entered by all."""
    places = [Path(sys.executable).resolve(), Path(sys.executable), Path(postroad.__file__)]
    return all(parent.stat().st_mode & 0o001 for place in places for parent in place.parents)


def test_a_transfer_that_is_going_on_is_finished_before_the_end(server: LiveServer) -> None:
    client = server.smtp()
    client.docmd("MAIL FROM:<a@sender.test>")
    client.docmd("RCPT TO:<anna@local.test>")
    assert client.docmd("DATA")[0] == 354
    client.send(b"Subject: slow\r\n")
    server.signal(signal.SIGTERM)
    time.sleep(0.5)
    client.send(b"\r\nthe rest\r\n.\r\n")
    assert client.getreply()[0] == 250
    assert client.getreply()[0] == 421
    client.close()
    assert server.stop() == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can drop privileges")
@pytest.mark.skipif(not everybody_may_run_us(), reason="this interpreter lies where only its owner may enter")
def test_privileges_are_dropped_after_the_sockets_are_open(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o755)
    for parent in tmp_path.parents[:3]:
        os.chmod(parent, 0o755)
    with live_server(tmp_path, top='user = "nobody"') as server:
        pids = server.pids()
        nobody = pwd.getpwnam("nobody").pw_uid
        assert {name: os.stat(f"/proc/{pid}").st_uid for name, pid in pids.items()} == dict.fromkeys(pids, nobody)
        send(server)
        assert all(alive(pid) for pid in pids.values())
