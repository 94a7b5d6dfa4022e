"""What strangers do to a server: every dialog of tests/dialogs, false ends of data, slowness, floods, half-open TLS."""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dialogs.runner import Dialog, Flight, dialogs, parse
from tests.e2e.conftest import Office, add_accounts, with_certificate
from tests.e2e.mail import PATIENCE_S, messages, trusting, until
from tests.live import LiveServer, live_server
from tests.testdata import testdata

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

COMMAND_S = 1.0
SPEAKER = "127.0.0.66"
"""The client that may speak for others by XCLIENT."""

NOT_LIVE = {
    "limits": "a limit of the machine that the configuration does not offer so low",
    "FAIL": "the chunk that the session of the runner fails at",
    "full@": "the recipient that the session of the runner finds full at the end",
    "Zmlyc3Q=": "the exchange that the session of the runner plays",
    "b\\rc\\0": "the content that only the session of the runner keeps as it is",
}
"""Words in a dialog that only the machine's own runner can answer."""

POLICY = """
from postroad.rules.policy import later, refuse

def connect(client):
    return refuse("Not you", 554) if client.peer == "192.0.2.66" else None

def rcpt(recipient):
    return later("Later", 450) if recipient.recipient.startswith("later@") else None

def message(mail):
    return refuse("Refused", 554) if b"REFUSE" in mail.raw_header + mail.body(4096) else None
"""
"""What the session of the runner says of these words."""

LOGINS = {
    base64.b64encode(short): base64.b64encode(whole)
    for short, whole in (
        (b"\0user\0secret", b"\0user@dev.test\0secret"),
        (b"\0user\0wrong", b"\0user@dev.test\0wrong"),
        (b"user", b"user@dev.test"),
    )
}
"""What the session of the runner knows as a login, and what a real server does: a login is a whole address."""

OTHERWISE = {
    "helo": "HELP has a reply of its own, 214",
    "s13-pregreet": "the greeting is faster than the client",
    "s57-futurerelease-unauthenticated": "this server relays for this machine without a login",
    "s65-proxy-before-the-greeting": "the greeting is faster than the client",
    "s38-vrfy-utf8": "EXPN is 502",
    "s48-rcpt-relay-forms": "this server relays for this machine, so no stranger's mailbox is unknown",
    "s49-quoted-local": "nobody has an empty name",
    "s66-xclient-login": "the login that XCLIENT names has no account at this server",
}
"""Dialogs that a real server answers otherwise, and rightly."""

CODE = re.compile(rb"(\d\d\d)[ -]")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Takes mail for dev.test, and from this machine for everybody; what leaves waits for a host that is not there."""
    folder = tmp_path_factory.mktemp("hostile")
    policy = folder / "policy.py"
    policy.write_text(POLICY)
    config = (
        f'xclient_from = ["{SPEAKER}/32"]\n'
        + with_certificate(folder)
        + f'[policy]\nfile = "{policy}"\n'
        + '[relay]\nrelay_from = ["127.0.0.0/8"]\nnext_hop = "127.0.0.1:1"\nallow_private = ["127.0.0.0/8"]\n'
    )
    with live_server(folder, kind=Office, domain="dev.test", config=config) as started:
        add_accounts(started, *(f"{name}@dev.test" for name in ("bob", "carl", "carol", "user", *"abcdeäö")))
        yield started
        assert "Traceback" not in started.log()
        assert "whole, every rule holds" in started.run("verify")


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Loses patience soon."""
    folder = tmp_path_factory.mktemp("impatient")
    limits = f"[limits]\ncommand_timeout_s = {COMMAND_S}\ndata_timeout_s = 2.0\nsession_s = 4.0\n"
    with live_server(folder, kind=Office, config=with_certificate(folder) + limits) as started:
        yield started
        assert "Traceback" not in started.log()


class Wire:
    """A bare connection that reads whole replies."""

    def __init__(
        self, server: LiveServer, service: str = "mx", certificate: Path | None = None, source: str = "127.0.0.1"
    ) -> None:
        self._certificate = certificate or server.certificate
        place = ("127.0.0.1", server.ports[service])
        self.sock: socket.socket = socket.create_connection(place, PATIENCE_S, (source, 0))
        if service == "submissions":
            self.start_tls()
        self._kept = b""

    def start_tls(self) -> None:
        self.sock = trusting(self._certificate).wrap_socket(self.sock, server_hostname="localhost")
        self._kept = b""

    def send(self, octets: bytes) -> None:
        try:
            self.sock.sendall(octets)
        except (BrokenPipeError, ConnectionResetError):  # refused before all of it was sent; the replies tell
            return

    def _line(self) -> bytes:
        while b"\n" not in self._kept:
            try:
                octets = self.sock.recv(65536)
            except ConnectionResetError:
                octets = b""
            if not octets:
                return b""
            self._kept += octets
        line, _, self._kept = self._kept.partition(b"\n")
        return line

    def code(self) -> int:
        """Code of the next reply, however many lines; 0 at the end of the stream."""
        while line := self._line():
            if line[3:4] != b"-":
                found = CODE.match(line + b" ")
                assert found is not None, line
                return int(found[1])
        return 0

    def close(self) -> None:
        self.sock.close()


# -- dialogs ---------------------------------------------------------------------------------------------------------


def live_dialogs() -> list[Path]:
    """Those that do not depend on the runner's session."""
    return [
        path
        for path in dialogs()
        if path.stem not in OTHERWISE and not any(word in path.read_text("utf-8") for word in NOT_LIVE)
    ]


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in live_dialogs()])
def test_dialog_with_a_live_server(server: LiveServer, path: Path) -> None:
    dialog = parse(path)
    wire = Wire(server, dialog.door.name, source=SPEAKER if dialog.door.xclient else "127.0.0.1")
    try:
        play(dialog, wire)
    finally:
        wire.close()


def play(dialog: Dialog, wire: Wire) -> None:
    """Send every flight, and compare the code of every reply."""
    for step in dialog.steps:
        if isinstance(step, Flight):
            wire.send(with_real_logins(step.octets))
        elif step.kind == "S:":
            assert wire.code() == int(step.text[:3]), f"{dialog.name}, line {step.line}"
        elif step.kind == "TLS":
            wire.start_tls()
        elif step.kind == "HANGUP":
            wire.sock.shutdown(socket.SHUT_WR)
            assert wire.code() in (0, 221, 421), f"{dialog.name}, line {step.line}"
        elif step.kind == "CLOSED":
            assert wire.code() == 0, f"{dialog.name}, line {step.line}"


def with_real_logins(octets: bytes) -> bytes:
    for short, whole in LOGINS.items():
        octets = octets.replace(short, whole)
    return octets


def test_most_dialogs_are_played() -> None:
    assert len(live_dialogs()) > 95
    assert OTHERWISE.keys() <= {path.stem for path in dialogs()}


# -- false ends of data ------------------------------------------------------------------------------------------------


def test_no_false_end_makes_two_messages_of_one(server: LiveServer) -> None:
    """Class E1, with a live server; what goes out is shown in tests/wire/test_data.py."""
    cases = json.loads(testdata("smtp/eod-variants.json").read_text("utf-8"))["cases"]
    assert len(cases) == 31
    smuggled = b"MAIL FROM:<evil@else.test>\r\nRCPT TO:<carl@dev.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nhi\r\n.\r\n"
    before = len(messages(server, "bob@dev.test"))
    taken = 0
    for case in cases:
        wire = Wire(server)
        assert wire.code() == 220
        for line, code in ((b"EHLO c.test", 250), (b"MAIL FROM:<a@else.test>", 250), (b"RCPT TO:<bob@dev.test>", 250)):
            wire.send(line + b"\r\n")
            assert wire.code() == code
        wire.send(b"DATA\r\n")
        assert wire.code() == 354
        content = b"Subject: one\r\n\r\nbody" + base64.b64decode(case["bytes_b64"])
        wire.send(content + smuggled)
        code = wire.code()
        assert code in (250, 521), case["id"]
        if code == 250:
            taken += 1
            # A real end was among them, or the smuggled text is content up to its own end: one in, one out.
            wire.send(b"QUIT\r\n")
        wire.close()
    until(lambda: len(messages(server, "bob@dev.test")) == before + taken)
    smuggled_there = [raw for raw in messages(server, "carl@dev.test") if b"smuggled" in raw]
    real_ends = sum(case["ends_with_real_eod"] for case in cases)
    assert len(smuggled_there) <= real_ends


# -- slowness and floods ---------------------------------------------------------------------------------------------


def test_promise_p11_silence_ends_with_421(patient: LiveServer) -> None:
    wire = Wire(patient)
    began = time.monotonic()
    assert [wire.code(), wire.code(), wire.code()] == [220, 421, 0]
    assert 0.5 < time.monotonic() - began < PATIENCE_S
    wire.close()


def test_drops_of_a_command_do_not_buy_time(patient: LiveServer) -> None:
    """Row S60: the deadline is that of the whole command."""
    wire = Wire(patient)
    assert wire.code() == 220
    assert b"421" in dripped(wire, b"N")
    wire.close()


def dripped(wire: Wire, drop: bytes) -> bytes:
    """Sends a drop three times a second until the server speaks; returns what it says."""
    wire.sock.settimeout(0.3)
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_S:
        wire.send(drop)
        try:
            return wire.sock.recv(1000)
        except TimeoutError:
            continue
    raise AssertionError("the server waits for ever")


def test_promise_p11_a_slow_body_ends_with_421(patient: LiveServer) -> None:
    """Row S60."""
    wire = Wire(patient)
    assert wire.code() == 220
    wire.send(b"EHLO c.test\r\n")
    assert wire.code() == 250
    wire.send(b"MAIL FROM:<a@else.test>\r\nRCPT TO:<anna@local.test>\r\nDATA\r\n")
    assert [wire.code() for _ in range(3)] == [250, 250, 354]
    assert dripped(wire, b"a line\r\n").startswith(b"421 4.4.2")
    assert messages(patient, "anna@local.test") == []
    wire.close()


@pytest.mark.parametrize("service", ["submissions", "imaps", "pop3s"])
def test_a_half_open_tls_handshake_holds_up_nobody(server: LiveServer, service: str) -> None:
    half = [socket.create_connection(("127.0.0.1", server.ports[service]), PATIENCE_S) for _ in range(10)]
    for number, sock in enumerate(half):
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00"[: number % 8])
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.ports[service]), PATIENCE_S) as plain:
        secure = trusting(server.certificate).wrap_socket(plain, server_hostname="localhost")
        assert secure.recv(100)
        secure.close()
    assert time.monotonic() - began < 5
    for sock in half:
        sock.close()


def test_starttls_without_a_handshake_ends(server: LiveServer) -> None:
    """Row S42."""
    wire = Wire(server)
    assert wire.code() == 220
    wire.send(b"EHLO c.test\r\n")
    assert wire.code() == 250
    wire.send(b"STARTTLS\r\n")
    assert wire.code() == 220
    wire.send(b"this is no handshake\r\n" * 100)
    try:
        while wire.sock.recv(1000):
            pass
    except (ConnectionResetError, ssl.SSLError):
        pass
    wire.close()
    with server.smtp() as client:
        assert client.noop()[0] == 250
