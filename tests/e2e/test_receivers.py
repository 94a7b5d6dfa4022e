"""Mail to the servers of others: Debian's Postfix, Exim and OpenSMTPD take what we relay, each in its own way."""

from __future__ import annotations

import itertools
import json
import os
import re
import smtplib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import dkim
import pytest

from tests.e2e.conftest import Office, add_accounts, with_certificate
from tests.e2e.exim import exim
from tests.e2e.mail import arrived, body, messages, submission, until
from tests.e2e.opensmtpd import opensmtpd
from tests.e2e.postfix import postfix
from tests.e2e.receiver import LATE, SIZE, Receiver
from tests.e2e.test_relay import story
from tests.e2e.unpacked import needs_private_mounts
from tests.live import LiveServer, free_ports, live_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="these servers start as root only"),
    pytest.mark.needs_program("postfix", "exim4", "smtpd", "unshare"),
]

Start = Callable[..., AbstractContextManager[Receiver]]
SERVERS: dict[str, Start] = {"postfix": postfix, "exim": exim, "opensmtpd": opensmtpd}
PORTS = dict(zip(SERVERS, free_ports(len(SERVERS)), strict=True))
STRICT_PORTS = dict(zip(SERVERS, free_ports(len(SERVERS)), strict=True))

TALKATIVE = {"postfix": "debug_peer_list = 127.0.0.1\ndebug_peer_level = 1"}
"""So that its log has the commands."""

CONNECTED = {
    "postfix": r"smtpd\[\d+\]: connect from",
    "exim": r"SMTP connection from .* \(TCP/IP connection count",
    "opensmtpd": r"smtp connected address=",
}
"""What each writes when somebody connects."""


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Our own organisation, with fixed ways to the three."""
    folder = tmp_path_factory.mktemp("near")
    config = (
        with_certificate(folder)
        + '[relay]\nallow_private = ["127.0.0.0/8"]\n[relay.routes]\n'
        + "".join(f'"{name}.test" = "127.0.0.1:{port}"\n' for name, port in PORTS.items())
        + "".join(f'"strict.{name}.test" = "127.0.0.1:{port}"\n' for name, port in STRICT_PORTS.items())
        + "[sending]\nfirst_time_recipients_per_day = 0\n"
        + "[retry]\ndelays_s = [0.3, 0.5]\nlifetime_s = 60\n"
    )
    with live_server(folder, kind=Office, config=config) as started:
        yield started
        assert "Traceback" not in started.log()
        assert "whole, every rule holds" in started.run("verify")


@pytest.fixture(scope="module")
def keys(near: LiveServer) -> dict[str, str]:
    """What our domain publishes of its DKIM keys."""
    rows = json.loads(near.run("domain", "dkim", "local.test", "--json"))["rows"]
    return {row["name"]: row["record"] for row in rows}


@pytest.fixture(scope="module", params=SERVERS)
def name(request: pytest.FixtureRequest) -> str:
    """The program that takes our mail."""
    needs_private_mounts()
    return str(request.param)


@pytest.fixture(scope="module")
def receiver(near: LiveServer, name: str) -> Iterator[Receiver]:
    """It offers TLS, takes what is usual, and keeps the rest of the rules of `tests.e2e.receiver`."""
    settings = TALKATIVE.get(name, "")
    with SERVERS[name](
        f"{name}.test", PORTS[name], near.ports["mx"], certificate=near.folder, settings=settings
    ) as started:
        yield started


_numbers = itertools.count(1)


@pytest.fixture
def sender(near: LiveServer) -> str:
    """The address of a fresh account."""
    address = f"sender{next(_numbers)}@local.test"
    add_accounts(near, address)
    return address


def send(
    near: LiveServer,
    sender: str,
    to: Sequence[str],
    subject: str = "hello",
    content: bytes = b"Hello.\r\n",
    *,
    of_mail: Sequence[str] = (),
    of_rcpt: Sequence[str] = (),
) -> str:
    """Hands a message in; returns its queue id."""
    header = (
        f"From: {sender}\r\nTo: {to[0] if to[0].isascii() else 'somebody'}\r\nSubject: {subject}\r\n"
        f"Date: Fri, 27 Nov 2026 06:00:00 +0000\r\nMessage-ID: <{next(_numbers)}@client.test>\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    )
    with submission(near, sender) as client:
        client.command_encoding = "utf-8"
        assert client.mail(sender, of_mail)[0] == 250
        for one in to:
            code, words = client.rcpt(one, of_rcpt)
            assert code == 250, words
        code, words = client.data(header.encode() + content)
    found = re.search(rb"Queued as (\w+)", words)
    assert found is not None, words
    return found[1].decode()


def report_to(near: LiveServer, sender: str) -> dict[str, str]:
    """The fields of the one report that the sender has got; it is about one recipient."""
    [raw] = arrived(near, sender)
    assert raw.startswith(b"Return-Path: <>\r\n")
    # By hand: Python reads message/delivery-status and not the message/global-delivery-status of RFC 6533.
    fields = re.findall(r"^(Reporting-MTA|Final-Recipient|Action|Status|Remote-MTA): ?(.+)\r$", raw.decode(), re.M)
    assert len(dict(fields)) == len(fields), "one recipient"
    return dict(fields)


def events(near: LiveServer) -> list[dict[str, Any]]:
    """The journal so far, as the log tells it: cheaper than a command."""
    lines = [json.loads(line) for line in near.log().splitlines() if line.startswith("{")]
    return [line for line in lines if "kind" in line and "id" in line]


def told(near: LiveServer, ident: str) -> list[tuple[str, str]]:
    """What became of a message behind the door: kinds of events and their causes, up to its delivery."""

    def look() -> list[tuple[str, str]]:
        kinds = [(one["kind"], one.get("cause", "")) for one in events(near) if one["id"] == ident]
        return kinds[3:] if "delivered" in (kind for kind, _ in kinds) else []

    return until(look)


def connections(receiver: Receiver, name: str) -> int:
    """How often somebody has connected."""
    return len(re.findall(CONNECTED[name], receiver.log))


# -- what arrives -----------------------------------------------------------------------------------------------------

BODIES = {
    "dots and blanks": b"..\r\n.\r\n a \t b  \r\n\r\n\t\r\n. \r\nend\r\n",
    "eight bits": "Grüße, 你好, доброе утро\r\n".encode(),
    "lines of 998 octets": b"x" * 998 + b"\r\n" + b"." * 998 + b"\r\nshort\r\n",
    # RFC 5321 section 4.5.3.1.6 lets a host refuse them; these do not, so that nothing is gained by refusing them here.
    "longer lines": b"x" * 1200 + b"\r\nshort\r\n",
    "much": b"".join(b"line %d with  blanks \t\r\n" % number for number in range(5000)),
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_arrives_octet_by_octet_and_signed(
    near: LiveServer, receiver: Receiver, keys: dict[str, str], sender: str, kind: str
) -> None:
    send(near, sender, [f"bob@{receiver.domain}"], kind, BODIES[kind], of_mail=["BODY=8BITMIME"])
    raw = receiver.arrived(kind)
    assert body(raw) == BODIES[kind]
    assert raw.count(b"\r\nDKIM-Signature: ") == 2

    def published(name: bytes, timeout: int = 5) -> bytes:
        return keys[name.decode().rstrip(".")].encode()

    assert [dkim.DKIM(raw).verify(number, dnsfunc=published) for number in (0, 1)] == [True, True]


def test_it_is_carried_by_what_the_host_offers(near: LiveServer, receiver: Receiver, name: str, sender: str) -> None:
    """STARTTLS, and the message in one chunk (RFC 3030) where that is known."""
    ident = send(near, sender, [f"bob@{receiver.domain}"], "carried")
    receiver.arrived("carried")
    [ending] = until(lambda: story(near, ident)["endings"])
    assert (ending["state"], ending["recipient"]) == ("delivered", f"bob@{receiver.domain}")
    if name == "opensmtpd":
        # It offers TLS and cannot do it: OpenSMTPD 6.8 does not find its key with OpenSSL 3. That costs no mail (RFC
        # 7435), is told once, and the host is spoken to in the clear for a while.
        failed = [one for one in events(near) if one.get("cause", "").endswith("again without TLS")]
        assert [one["where"] for one in failed] == [f"127.0.0.1 [127.0.0.1]:{PORTS[name]}"]
        assert "TLS" not in ending["where"]
    else:
        assert "TLSv1.3" in ending["where"]
    chunked = {"postfix": r"< \S+: BDAT \d+ LAST", "exim": rf" <= {sender} .* X=TLS1.3:.* K ", "opensmtpd": ""}[name]
    assert re.search(chunked, receiver.log)


def test_one_of_several_recipients_is_refused(near: LiveServer, receiver: Receiver, name: str, sender: str) -> None:
    there = receiver.domain
    ident = send(near, sender, [f"bob@{there}", f"gone@{there}"], "to two")
    receiver.arrived("to two")
    report = report_to(near, sender)
    # OpenSMTPD says 524 5.2.4 of a name that its table lacks.
    status = "5.2.4" if name == "opensmtpd" else "5.1.1"
    assert (report["Final-Recipient"], report["Action"]) == (f"rfc822; gone@{there}", "failed")
    assert (report["Status"], report["Remote-MTA"]) == (status, "dns; 127.0.0.1")
    endings = {one["recipient"]: one["kind"] for one in events(near) if one["id"] == ident and "attempt" in one}
    assert endings == {f"bob@{there}": "delivered", f"gone@{there}": "bounced"}


def test_a_message_longer_than_the_host_takes_stays_here(near: LiveServer, receiver: Receiver, sender: str) -> None:
    send(near, sender, [f"bob@{receiver.domain}"], "large", b"twelve octets\r\n" * (SIZE // 14))
    assert report_to(near, sender)["Status"] == "5.3.4"
    assert sender not in receiver.log


def test_who_is_put_off_comes_again(near: LiveServer, receiver: Receiver, sender: str) -> None:
    ident = send(near, sender, [f"late@{receiver.domain}"], "later")
    until(lambda: receiver.log.count(LATE) > 1)
    receiver.change_mind()
    receiver.arrived("later", "late")
    kinds = [kind for kind, _ in told(near, ident)]
    assert set(kinds) == {"deferred", "delivered"}
    assert messages(near, sender) == []


def test_an_address_beyond_ascii(near: LiveServer, receiver: Receiver, name: str, sender: str) -> None:
    send(near, sender, [f"böb@{receiver.domain}"], "grüße", of_mail=["SMTPUTF8"])
    if name == "opensmtpd":
        report = report_to(near, sender)
        assert (report["Action"], report["Status"]) == ("failed", "5.6.7")
        assert sender not in receiver.log
    else:
        receiver.arrived("grüße", "böb")


# -- how often --------------------------------------------------------------------------------------------------------


def test_one_connection_for_all(near: LiveServer, receiver: Receiver, name: str, sender: str) -> None:
    send(near, sender, [f"bob@{receiver.domain}"], "row 0")
    receiver.arrived("row 0")
    known = connections(receiver, name)
    for number in range(1, 6):
        told(near, send(near, sender, [f"bob@{receiver.domain}"], f"row {number}"))
    assert connections(receiver, name) == known


STRICT = {"exim": "smtp_accept_max_per_connection = 3", "opensmtpd": "smtp limit max-mails 3"}


@pytest.mark.parametrize("program", STRICT)
def test_a_host_that_takes_three_messages_over_one_connection(near: LiveServer, sender: str, program: str) -> None:
    """It costs no mail, no bounce, not even an attempt."""
    needs_private_mounts()
    domain = f"strict.{program}.test"
    settings = STRICT[program]
    with SERVERS[program](domain, STRICT_PORTS[program], near.ports["mx"], settings=settings) as receiver:
        sent = [send(near, sender, [f"bob@{domain}"], f"strict {number:02}") for number in range(12)]
        until(lambda: receiver.count("strict") >= 12)
        assert [receiver.count(f"strict {number:02}") for number in range(12)] == [1] * 12
        assert {kind for ident in sent for kind, _ in told(near, ident)} <= {"attempted", "delivered"}
        assert messages(near, sender) == []


HASTY = {
    "exim": ("smtp_receive_timeout = 1s", "SMTP command timeout"),
    "postfix": ("smtpd_timeout = 1s", "timeout after"),
}
"""No patience with idle connections, and what each writes about them."""


@pytest.mark.parametrize("program", HASTY)
def test_a_host_that_hangs_up_first(near: LiveServer, sender: str, program: str) -> None:
    needs_private_mounts()
    domain = f"strict.{program}.test"
    settings, words = HASTY[program]
    with SERVERS[program](domain, STRICT_PORTS[program], near.ports["mx"], settings=settings) as receiver:
        told(near, send(near, sender, [f"bob@{domain}"], "in time"))
        until(lambda: words in receiver.log)
        assert told(near, send(near, sender, [f"bob@{domain}"], "afterwards")) == [("delivered", "")]
        receiver.arrived("afterwards")


def test_a_host_that_counts_messages(near: LiveServer, sender: str) -> None:
    """Postfix's anvil puts off whoever sends more than so many messages in a while: slower, then."""
    settings = "smtpd_client_message_rate_limit = 2\nanvil_rate_time_unit = 1s\nsmtpd_client_event_limit_exceptions ="
    domain = "strict.postfix.test"
    with postfix(domain, STRICT_PORTS["postfix"], near.ports["mx"], settings=settings) as receiver:
        sent = [send(near, sender, [f"bob@{domain}"], f"counted {number}") for number in range(3)]
        until(lambda: receiver.count("counted") == 3)
        kinds = {kind for ident in sent for kind, _ in told(near, ident)}
        assert kinds <= {"deferred", "throttled", "slowed", "delivered"}
        assert "slowed" in kinds
        assert messages(near, sender) == []


# -- reports ----------------------------------------------------------------------------------------------------------


def test_who_reports_success(near: LiveServer, receiver: Receiver, name: str, sender: str) -> None:
    """Whoever offers DSN is asked for the report and sends it; for Exim, which is not told to, we say what we know."""
    send(near, sender, [f"bob@{receiver.domain}"], "dsn", of_mail=["ENVID=QQ314"], of_rcpt=["NOTIFY=SUCCESS"])
    receiver.arrived("dsn")
    assert report_to(near, sender)["Action"] == ("relayed" if name == "exim" else "delivered")
    [raw] = messages(near, sender)
    assert (b"Reporting-MTA: dns; mx.local.test" in raw) is (name == "exim")


# -- the other way ----------------------------------------------------------------------------------------------------


def test_each_sends_to_us(near: LiveServer, receiver: Receiver, name: str, sender: str) -> None:
    content = BODIES["dots and blanks"] + BODIES["eight bits"]
    header = (
        f"From: bob@{receiver.domain}\r\nTo: {sender}\r\nSubject: back\r\nDate: Fri, 27 Nov 2026 06:00:00 +0000\r\n"
        f"Message-ID: <{next(_numbers)}@client.test>\r\n\r\n"
    )
    with smtplib.SMTP("127.0.0.1", PORTS[name], timeout=20) as client:
        client.sendmail(f"bob@{receiver.domain}", [sender], header.encode() + content, ["BODY=8BITMIME"])
    [raw] = arrived(near, sender)
    assert body(raw) == content
    assert f"\r\nReceived: from mx.{receiver.domain} ".encode() in raw
