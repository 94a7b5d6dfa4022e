"""Every message of the public MIME sets arrives byte for byte as sent; what SMTP forbids is refused, by name."""

from __future__ import annotations

import poplib
import re
import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import LiveServer, live_server
from tests.testdata import testdata

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

LISTED = '[relay]\nrelay_from = ["127.0.0.0/8"]\n'
"""Texts without any header are among the sets; strangers may not send such."""

NOT_MAIL = frozenset((".xml", ".json", ".out"))
"""Expected results that lie beside the messages."""

REFUSED = {
    "jsmime/charsets": "NUL",
    "mail-parser/legacy/049.eml": "bare CR",
}
"""Messages that hold what no line of mail may hold; decoded parts (.bin) are listed by `is_forbidden` itself."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("corpus"), top="insecure_auth = true", config=LISTED) as started:
        yield started


def normalised(raw: bytes) -> bytes:
    """With CRLF at every line's end and at the end."""
    text = re.sub(rb"\r?\n", b"\r\n", raw)
    return text if text.endswith(b"\r\n") else text + b"\r\n"


def corpus() -> dict[str, bytes]:
    """Messages and other texts of the sets by name, normalised."""
    root = testdata("mime")
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix not in NOT_MAIL)
    return {str(path.relative_to(root)): normalised(path.read_bytes()) for path in files}


def is_forbidden(message: bytes) -> bool:
    """Whether it has a NUL or a bare CR, which SMTP content may not have (RFC 5321 section 2.3.8)."""
    return b"\0" in message or b"\r" in message.replace(b"\r\n", b"")


def offered(client: smtplib.SMTP, message: bytes) -> tuple[int, bytes]:
    """The last reply to one message, sent as it is."""
    client.putcmd("MAIL FROM:<> BODY=8BITMIME")
    assert client.getreply()[0] == 250
    client.putcmd("RCPT TO:<anna@local.test>")
    assert client.getreply()[0] == 250
    client.putcmd("DATA")
    assert client.getreply()[0] == 354
    stuffed = re.sub(rb"(?m)^\.", b"..", message)
    assert client.sock is not None
    client.sock.sendall(stuffed + b".\r\n")
    return client.getreply()


def test_the_corpus_arrives_byte_for_byte(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poplib, "_MAXLINE", 1 << 20)  # the library's client refuses lines that mail may have
    messages = corpus()
    allowed = {name: message for name, message in messages.items() if not is_forbidden(message)}
    assert len(allowed) > 250
    with server.smtp() as client:
        for name, message in allowed.items():
            code, text = offered(client, message)
            assert code == 250, (name, code, text)
    received(server, allowed)


def received(server: LiveServer, allowed: dict[str, bytes]) -> None:
    """Read all of it by POP3 and compare."""
    maildrop = poplib.POP3("127.0.0.1", server.ports["pop3"])
    maildrop.user("anna@local.test")
    maildrop.pass_("secret")
    assert maildrop.stat()[0] == len(allowed)
    for number, (name, message) in enumerate(allowed.items(), 1):
        lines = maildrop.retr(number)[1]
        # Ours stand above: Return-Path, Delivered-To, and Received with its three folded lines.
        assert [line.split(b" ")[0] for line in lines[:3]] == [b"Return-Path:", b"Delivered-To:", b"Received:"], name
        ours = 3 + next(i for i, line in enumerate(lines[3:]) if not line.startswith(b"\t"))
        assert b"".join(line + b"\r\n" for line in lines[ours:]) == message, name
    maildrop.quit()


def test_what_smtp_forbids_is_refused_by_name(server: LiveServer) -> None:
    forbidden = {name: message for name, message in corpus().items() if is_forbidden(message)}
    assert {name for name in forbidden if not name.endswith(".bin")} == set(REFUSED)
    assert len(forbidden) == 34
    for name, message in forbidden.items():
        client = server.smtp()
        code, text = offered(client, message)
        client.close()
        assert code == 521, (name, code, text)
        assert text.startswith(b"5.5.2"), name
    assert "Traceback" not in server.log()


def test_the_named_exceptions_are_in_the_set() -> None:
    assert set(REFUSED) <= {str(Path(name)) for name in corpus()}
