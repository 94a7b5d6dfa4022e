"""Debian's OpenDKIM and rspamd look at our mail as at Postfix's, and a milter that breaks off costs nothing."""

from __future__ import annotations

import asyncio
import base64
import re
import smtplib
import socket
import subprocess
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e.conftest import Office, with_certificate
from tests.e2e.mail import messages, until
from tests.fakes.milter import CONTINUE, Drop, FakeMilter, add, body, change, insert, say
from tests.live import LiveServer, free_ports, live_server
from tests.programs import needs_program

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

ANNA = "anna@local.test"
INSIDE, OUTSIDE = "127.0.0.1", "127.0.0.9"
"""Whom the server and OpenDKIM take for one of ours, and whom they do not."""
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
"""The text that every spam filter takes for spam."""


# -- the programs ------------------------------------------------------------------------------------------------------


@contextmanager
def running(command: list[str], log: Path, ready: tuple[str, int] | Path) -> Iterator[None]:
    """A program in the foreground until the block ends, from the moment it listens."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        end = time.monotonic() + 30
        while not listens(ready):
            assert process.poll() is None, log.read_text("utf-8", "replace")
            assert time.monotonic() < end, log.read_text("utf-8", "replace")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def listens(place: tuple[str, int] | Path) -> bool:
    with socket.socket(socket.AF_UNIX if isinstance(place, Path) else socket.AF_INET) as sock:
        return sock.connect_ex(str(place) if isinstance(place, Path) else place) == 0


@pytest.fixture(scope="module")
def opendkim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """OpenDKIM that signs for local.test what comes from `INSIDE` and verifies the rest; its place."""
    program = needs_program("opendkim")
    folder = tmp_path_factory.mktemp("dkim")
    key = rsa.generate_private_key(65537, 2048)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    (folder / "key.pem").chmod(0o600)
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = base64.b64encode(public).decode()
    (folder / "keys.txt").write_text(f"sel._domainkey.local.test v=DKIM1; k=rsa; p={text}\n")
    (folder / "opendkim.conf").write_text(
        f"Socket local:{folder / 'm.sock'}\nDomain local.test\nSelector sel\nKeyFile {folder / 'key.pem'}\n"
        f"Mode sv\nCanonicalization relaxed/simple\nInternalHosts {INSIDE}\nRequireSafeKeys no\nBackground no\n"
        f"OversignHeaders From\nAuthservID mx.local.test\nTestPublicKeys {folder / 'keys.txt'}\n"
    )
    command = [str(program), "-f", "-x", str(folder / "opendkim.conf")]
    with running(command, folder / "opendkim.log", folder / "m.sock"):
        yield f"unix:{folder / 'm.sock'}"


@pytest.fixture(scope="module")
def rspamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """rspamd's proxy that scans by itself, without a network and without anything to remember; its place."""
    program = needs_program("rspamd")
    folder = tmp_path_factory.mktemp("rspamd")
    (port,) = free_ports(1)
    (folder / "rspamd.conf").write_text(
        f"""
        lua = "$RULESDIR/rspamd.lua"
        .include "$CONFDIR/metrics.conf"
        .include "$CONFDIR/actions.conf"
        .include "$CONFDIR/groups.conf"
        modules {{ path = "${{PLUGINSDIR}}"; }}
        milter_headers {{
            use = ["x-spam-status", "remove-headers"];
            skip_local = false;
            routines {{ remove-headers {{ headers {{ "X-Spam" = 0; }} }} }}
        }}
        options {{
            filters = "chartable,regexp";
            pidfile = "{folder}/rspamd.pid";
            cache_file = "{folder}/symbols.cache";
            history_file = "";
            dynamic_conf = "{folder}/dynamic";
            control_socket = "{folder}/control.sock mode=0600";
            hs_cache_dir = "{folder}/";
            stats_file = "{folder}/stats.ucl";
            tempdir = "{folder}";
            url_tld = "${{SHAREDIR}}/effective_tld_names.dat";
            local_addrs = ["192.0.2.0/24"];
            dns {{ nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 1; sockets = 1; }}
            explicit_modules = ["settings"];
        }}
        logging {{ type = "console"; level = "info"; }}
        worker "rspamd_proxy" {{
            bind_socket = "127.0.0.1:{port}";
            milter = yes;
            timeout = 20s;
            count = 1;
            upstream "local" {{ default = yes; self_scan = yes; }}
            reject_message = "This is spam";
        }}
        """
    )
    folders = [f"--var={name}={folder}" for name in ("DBDIR", "RUNDIR", "LOGDIR", "LOCAL_CONFDIR")]
    command = [str(program), "--no-fork", "--insecure", "--config", str(folder / "rspamd.conf"), *folders]
    with running(command, folder / "rspamd.log", ("127.0.0.1", port)):
        yield f"inet:127.0.0.1:{port}"


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory, opendkim: str, rspamd: str) -> Iterator[LiveServer]:
    """A server whose mail goes through both: rspamd first for the world, OpenDKIM last for our own."""
    folder = tmp_path_factory.mktemp("filtered")
    section = (
        f'[milter]\nmx = ["{rspamd}", "{opendkim}"]\nsubmission = ["{opendkim}"]\n'
        f'[relay]\nrelay_from = ["{INSIDE}/32"]\n{with_certificate(folder)}'
    )
    with live_server(folder, kind=Office, config=section) as started:
        yield started
        assert "Traceback" not in started.log()


def send(server: LiveServer, octets: bytes, *, source: str = OUTSIDE, sender: str = ANNA) -> None:
    """By the port of the world, from an address of loopback."""
    with smtplib.SMTP("127.0.0.1", server.ports["mx"], "client.test", 20, (source, 0)) as client:
        client.sendmail(sender, [ANNA], octets)


def letter(subject: str, text: str = "Hello.", more: str = "") -> bytes:
    return (
        f"{more}From: Anna <{ANNA}>\r\nTo: {ANNA}\r\nSubject: {subject}\r\n"
        f"Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <{subject}@local.test>\r\n\r\n{text}\r\n"
    ).encode()


def kept(server: LiveServer, subject: str) -> bytes:
    """The message of that subject as the mailbox has it, without the lines of its delivery."""
    octets = until(
        lambda: next((one for one in messages(server, ANNA) if f"Subject: {subject}\r\n".encode() in one), b"")
    )
    return re.sub(rb"\A(?:Return-Path|Delivered-To):[^\n]*\n(?:Delivered-To:[^\n]*\n)?", b"", octets)


# -- OpenDKIM ----------------------------------------------------------------------------------------------------------


def test_opendkim_signs_our_mail_and_verifies_it_when_it_comes_back(filtered: LiveServer) -> None:
    send(filtered, letter("signed"), source=INSIDE)
    signed = kept(filtered, "signed")
    names = [name.lower() for name in message_from_bytes(signed)]
    # It signs above the trace line that this server wrote (smfi_insheader at 0).
    assert names.index("dkim-signature") < names.index("received")
    send(filtered, signed.replace(b"Subject: signed\r\n", b"Subject: signed\r\nX-Passed: by\r\n"))
    back = until(lambda: next((one for one in messages(filtered, ANNA) if b"X-Passed" in one), b""))
    result = message_from_bytes(back)["Authentication-Results"]
    assert result.startswith("mx.local.test;")
    assert "dkim=pass" in result
    assert "header.d=local.test" in result


def test_opendkim_sees_what_was_changed_on_the_way_and_removes_forged_results(filtered: LiveServer) -> None:
    send(filtered, letter("intact"), source=INSIDE)
    forged = b"Authentication-Results: mx.local.test; dkim=pass header.d=bank.test\r\n"
    other = b"Authentication-Results: elsewhere.test; dkim=pass\r\n"
    changed = kept(filtered, "intact").replace(b"Subject: intact", b"Subject: touched")
    send(filtered, forged + other + forged + changed)
    results = message_from_bytes(kept(filtered, "touched")).get_all("Authentication-Results") or []
    ours = [result for result in results if result.startswith("mx.local.test;")]
    assert any("dkim=fail" in result for result in ours)
    assert not any("bank.test" in result for result in results)
    assert other.partition(b": ")[2].decode().strip() in results


# -- rspamd ------------------------------------------------------------------------------------------------------------


def test_rspamd_adds_its_fields(filtered: LiveServer) -> None:
    send(filtered, letter("ham", more="X-Spam: pretended\r\n"), sender="someone@elsewhere.test")
    mail = message_from_bytes(kept(filtered, "ham"))
    assert re.match(r"(Yes|No), score=", mail["X-Spam-Status"])
    assert mail["X-Spam"] is None
    assert str(mail.get_payload()).strip() == "Hello."


def test_rspamd_refuses_spam_and_nothing_of_it_is_kept(filtered: LiveServer) -> None:
    with pytest.raises(smtplib.SMTPDataError) as refused:
        send(filtered, letter("spam", GTUBE), sender="someone@elsewhere.test")
    assert refused.value.smtp_code == 554
    assert b"Gtube pattern" in refused.value.smtp_error
    send(filtered, letter("behind-spam"), sender="someone@elsewhere.test")
    kept(filtered, "behind-spam")
    assert not [one for one in messages(filtered, ANNA) if b"Subject: spam\r\n" in one]


def test_rspamd_takes_a_large_message_in_pieces(filtered: LiveServer) -> None:
    text = "\r\n".join(f"line {number} of a long letter" for number in range(12_000))
    send(filtered, letter("large", text), sender="someone@elsewhere.test")
    assert kept(filtered, "large").endswith(b"line 11999 of a long letter\r\n")


# -- a milter that breaks off ------------------------------------------------------------------------------------------


class Beside:
    """A fake milter in a thread of its own, for a server that is another process."""

    def __init__(self, milter: FakeMilter) -> None:
        self.milter = milter
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(milter.__aenter__())

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def close(self) -> None:
        self._run(self.milter.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


CHANGES = (
    insert(0, "X-Top", "1") + insert(2, "X-First", "2") + change(1, "Subject", "changed\n by a milter")
    + add("X-Last", "3") + body(b"Another body.\r\n") + say("+", "<bob@local.test>")
)  # fmt: skip


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[tuple[LiveServer, FakeMilter]]:
    milter = FakeMilter()
    beside = Beside(milter)
    section = f'[milter]\nmx = ["inet:127.0.0.1:{milter.port}"]\n{with_certificate(tmp_path)}'
    try:
        with live_server(tmp_path, kind=Office, config=section) as started:
            started.add_user("bob@local.test")
            yield started, milter
            assert "Traceback" not in started.log()
    finally:
        beside.close()


def test_milter_that_dies_mid_message_means_451_and_never_a_partial_result(
    scripted: tuple[LiveServer, FakeMilter],
) -> None:
    """Class E12: the same message gets 451 while the milter breaks off, and is changed whole once it does not."""
    server, milter = scripted
    with smtplib.SMTP("127.0.0.1", server.ports["mx"], "client.test", 20) as client:
        for step in ("MAIL", "RCPT", "DATA", "HEADER", "EOH", "BODY", "EOM"):
            assert attempt(client, milter, step, Drop()) == 451
            assert attempt(client, milter, step, CHANGES + say("?")) == 451
        milter.script = {"EOM": CHANGES + CONTINUE}
        client.sendmail("someone@elsewhere.test", [ANNA], letter("whole"))
    (mail,) = arrived_at(server, ANNA)
    names = [name for name in mail if name.startswith(("X-", "Received", "Subject"))]
    assert names == ["X-Top", "Received", "X-First", "Subject", "X-Last"]
    assert mail["Subject"].replace("\r\n", "").replace("\n", "") == "changed by a milter"
    assert mail.get_payload().strip() == "Another body."
    assert len(arrived_at(server, "bob@local.test")) == 1
    assert "milter failed" in server.log()


def attempt(client: smtplib.SMTP, milter: FakeMilter, step: str, act: Drop | bytes) -> int:
    """The code of a message's refusal, with the milter breaking off at a step."""
    milter.script = {step: act}
    try:
        client.sendmail("someone@elsewhere.test", [ANNA], letter("half"))
    except smtplib.SMTPRecipientsRefused as refused:
        return refused.recipients[ANNA][0]
    except smtplib.SMTPResponseException as refused:
        return refused.smtp_code
    return 250


def arrived_at(server: LiveServer, address: str) -> list[Any]:
    until(lambda: messages(server, address))
    return [message_from_bytes(one) for one in messages(server, address)]
