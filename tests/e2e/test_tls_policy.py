"""TLS policies between real programs: unbound validates a signed zone, a web server has the MTA-STS policy.

Promise P23, rows D8 and D9, class E16. Names: everything below dane.test is signed; plain.test is not.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from postroad.console.cli.stores import changing
from postroad.store.reader import Reader
from postroad.store.tls import Counted, TlsCounts, tls_count
from postroad.trust.tlsrpt import Report, read_report
from tests.e2e.conftest import Loop, Office, add_accounts, with_certificate
from tests.e2e.mail import arrived, message, messages, until
from tests.e2e.test_relay import send, story
from tests.fakes.certificates import authority, server
from tests.fakes.smtp_server import FakeSmtp
from tests.live import LiveServer, free_ports, live_server
from tests.programs import find

pytestmark = [
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.needs_program("unbound", "ldns-keygen", "ldns-signzone"),
]

ANNA = "anna@local.test"
ROOT = authority("Test Root")
HOST = server("mx.dane.test", issuer=authority("Nobody knows"))
"""The receiving host's certificate: DANE knows its key, no authority vouches for it."""
WEB = server("mta-sts.enforced.plain.test", "mta-sts.tested.plain.test", issuer=ROOT)
WEB_ADDRESS = "127.0.0.4"

POLICY = "version: STSv1\nmode: {mode}\nmx: mx.dane.test\nmax_age: 86400\n"


def tlsa_of(key_info: bytes) -> str:
    return f"3 1 1 {hashlib.sha256(key_info).hexdigest()}"


def signed_zone(port: int, real: str) -> str:
    """dane.test: one mail domain a case, each with a host of its own at one address."""
    right, wrong = tlsa_of(HOST.key_info), "3 1 1 " + "ab" * 32
    cases = {
        "right": [right],
        "wrong": [wrong],
        "either": [wrong, right],
        "unusable": ["0 0 1 " + "cd" * 32, "1 1 1 " + "cd" * 32],
        "bogus": [wrong],
        "none": [],
        "real": [real],
    }
    lines = ["$ORIGIN dane.test.", "$TTL 60", "@ SOA ns hostmaster 1 3600 600 86400 60", "@ NS ns", "ns A 127.0.0.1"]
    lines += ["mx A 127.0.0.2"]
    for case, records in cases.items():
        address = "127.0.0.3" if case == "real" else "127.0.0.2"
        lines += [f"{case} MX 10 mx-{case}", f"mx-{case} A {address}"]
        lines += [f"_{port}._tcp.mx-{case} TLSA {record}" for record in records]
    lines += ["alias MX 10 mx-alias", "mx-alias CNAME mx-right"]
    lines += ['_smtp._tls.right TXT "v=TLSRPTv1; rua=mailto:bob@real.dane.test"']
    return "\n".join(lines) + "\n"


def plain_zone() -> str:
    """plain.test: unsigned; its hosts are those of dane.test, whose records then count for nothing."""
    lines = ["$ORIGIN plain.test.", "$TTL 60", "@ SOA ns hostmaster 1 3600 600 86400 60", "@ NS ns", "ns A 127.0.0.1"]
    lines += ["insecure MX 10 mx-wrong.dane.test."]
    for case in ("enforced", "tested"):
        lines += [f"{case} MX 10 mx.dane.test.", f"mta-sts.{case} A {WEB_ADDRESS}"]
        lines += [f'_mta-sts.{case} TXT "v=STSv1; id=1"']
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, loop: Loop) -> Iterator[FakeSmtp]:
    """The receiving host, with a certificate of which only the signed zone knows."""
    made = FakeSmtp(tls=HOST.context(tmp_path_factory.mktemp("host")))
    loop.run(made.start("127.0.0.2"))
    yield made
    loop.run(made.close())


class Far(Office):
    """Another organisation, on an address of its own and the port of the host."""

    port = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        text = self.config_file.read_text()
        own = f'"127.0.0.1:{self.ports["mx"]}"'
        self.config_file.write_text(text.replace(own, f'{own}, "127.0.0.3:{self.port}"'))


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory, host: FakeSmtp) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("far")
    Far.port = host.port
    with live_server(folder, kind=Far, domain="real.dane.test", config=with_certificate(folder)) as started:
        add_accounts(started, "bob@real.dane.test")
        yield started


@pytest.fixture(scope="module")
def resolver(tmp_path_factory: pytest.TempPathFactory, host: FakeSmtp, far: LiveServer) -> Iterator[int]:
    """The port of an unbound that validates dane.test."""
    folder = tmp_path_factory.mktemp("unbound")
    (folder / "plain.zone").write_text(plain_zone())
    anchor = sign(folder, signed_zone(host.port, tlsa_of(key_info_of(far))), host.port)
    [port] = free_ports(1)
    (folder / "unbound.conf").write_text(
        f"""
server:
    interface: 127.0.0.1@{port}
    access-control: 127.0.0.0/8 allow
    do-daemonize: no
    use-syslog: no
    username: ""
    chroot: ""
    directory: "{folder}"
    pidfile: "{folder}/unbound.pid"
    do-not-query-localhost: no
    module-config: "validator iterator"
    trust-anchor: "{anchor}"
    local-zone: "test." nodefault
remote-control:
    control-enable: no
auth-zone:
    name: "dane.test."
    zonefile: "{folder}/dane.zone.signed"
    for-downstream: no
    for-upstream: yes
    fallback-enabled: no
auth-zone:
    name: "plain.test."
    zonefile: "{folder}/plain.zone"
    for-downstream: no
    for-upstream: yes
    fallback-enabled: no
"""
    )
    program = find("unbound")
    assert program is not None
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([program, "-d", "-c", folder / "unbound.conf"], stdout=log, stderr=log)
        try:
            until(lambda: answers(port))
            yield port
        finally:
            process.terminate()
            process.wait(10)


def sign(folder: Path, zone: str, port: int) -> str:
    """Signs dane.test into dane.zone.signed, forges one signed record afterwards; returns the trust anchor."""
    (folder / "dane.zone").write_text(zone)
    keygen, signzone = find("ldns-keygen"), find("ldns-signzone")
    name = subprocess.run(
        [str(keygen), "-k", "-a", "ECDSAP256SHA256", "dane.test"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    subprocess.run([str(signzone), "dane.zone", name], cwd=folder, check=True, capture_output=True)
    signed = folder / "dane.zone.signed"
    lines = signed.read_text().split("\n")
    owner = f"_{port}._tcp.mx-bogus.dane.test."
    forged = [line.replace("ab" * 32, "ba" * 32) if line.startswith(owner) else line for line in lines]
    assert forged != lines
    signed.write_text("\n".join(forged))
    return (folder / f"{name}.ds").read_text().strip()


def key_info_of(far: LiveServer) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    certificate = x509.load_pem_x509_certificate((far.folder / "server.pem").read_bytes())
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def answers(port: int) -> bool:
    import dns.exception
    import dns.flags
    import dns.message
    import dns.query

    query = dns.message.make_query("right.dane.test.", "MX", flags=dns.flags.RD | dns.flags.AD)
    try:
        return bool(dns.query.udp(query, "127.0.0.1", 0.5, port).flags & dns.flags.AD)
    except (dns.exception.DNSException, OSError):
        return False


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory, loop: Loop) -> Iterator[list[str]]:
    """The web server with the MTA-STS policies; what was asked of it."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.host)
        mode = "enforce" if "enforced" in request.host else "testing"
        return web.Response(text=POLICY.format(mode=mode), content_type="text/plain")

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/.well-known/mta-sts.txt", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, WEB_ADDRESS, 443, ssl_context=WEB.context(folder)).start()
        return runner

    folder = tmp_path_factory.mktemp("web")
    try:
        runner = loop.run(start())
    except PermissionError:
        pytest.skip("port 443 is for root")
    yield asked
    loop.run(runner.cleanup())


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory, resolver: int, host: FakeSmtp) -> Iterator[LiveServer]:
    """Our own organisation, which trusts the resolver."""
    folder = tmp_path_factory.mktemp("near")
    (folder / "ca.pem").write_bytes(ROOT.pem)
    config = (
        with_certificate(folder)
        + f'[relay]\nport = {host.port}\nallow_private = ["127.0.0.0/8"]\nca_file = "{folder / "ca.pem"}"\n'
        + 'tls_reports = "reports@local.test"\n'
        + "[retry]\ndelays_s = [30]\nlifetime_s = 3600\n"
        + f'[dns]\nnameservers = ["127.0.0.1:{resolver}"]\ntrust_ad = true\n'
    )
    with live_server(folder, kind=Office, config=config) as started:
        yield started
        assert "Traceback" not in started.log()


def outcome(near: LiveServer, to: str, **more: Any) -> dict[str, Any]:
    """The last event of a message sent now."""
    ident = send(near, to, **more)

    def look() -> dict[str, Any] | None:
        events = story(near, ident)["events"]
        last: dict[str, Any] = events[-1]
        return last if last["kind"] in ("delivered", "deferred", "bounced", "reported") else None

    last = until(look)
    assert last is not None
    return last


@pytest.mark.parametrize(
    "case, word",
    [
        ("right", " verified (DANE)"),
        ("either", " verified (DANE)"),
        ("alias", " verified (DANE)"),
        ("unusable", " unverified (DANE, no usable TLSA record)"),
        ("none", " unverified"),
    ],
)
def test_promise_p23_what_a_signed_zone_lets_pass(near: LiveServer, host: FakeSmtp, case: str, word: str) -> None:
    event = outcome(near, f"x@{case}.dane.test")
    assert event["kind"] == "delivered", event
    assert event["where"].endswith(word)
    assert host.messages[-1].tls


@pytest.mark.parametrize(
    "case, cause",
    [
        ("wrong", "its certificate does not match its TLSA records (DANE requires it)"),
        ("bogus", "could not be looked up: SERVFAIL"),
    ],
)
def test_promise_p23_what_a_signed_zone_holds_up(near: LiveServer, host: FakeSmtp, case: str, cause: str) -> None:
    known = len(host.messages)
    event = outcome(near, f"x@{case}.dane.test")
    assert event["kind"] == "deferred", event
    assert cause in event["cause"]
    assert len(host.messages) == known


def test_promise_p23_an_unsigned_mx_leads_to_no_dane(near: LiveServer) -> None:
    event = outcome(near, "x@insecure.plain.test")
    assert event["kind"] == "delivered", event
    assert event["where"].endswith(" unverified")


def test_mta_sts_fetched_by_https(near: LiveServer, host: FakeSmtp, policies: list[str]) -> None:
    known = len(host.messages)
    event = outcome(near, "x@enforced.plain.test")
    assert event["kind"] == "deferred", event
    assert "no known authority vouches for it (MTA-STS requires it)" in event["cause"]
    assert len(host.messages) == known
    assert outcome(near, "x@tested.plain.test")["kind"] == "delivered"
    assert sorted(policies) == ["mta-sts.enforced.plain.test", "mta-sts.tested.plain.test"]


def test_tls_required_no_gets_through_where_the_policy_holds_mail_up(near: LiveServer, policies: list[str]) -> None:
    raw = b"TLS-Required: No\r\n" + message(ANNA, "x@wrong.dane.test", "urgent").as_bytes().replace(b"\n", b"\r\n")
    for to in ("x@wrong.dane.test", "x@enforced.plain.test"):
        event = outcome(near, to, raw=raw)
        assert event["kind"] == "delivered", event


def test_requiretls_from_user_to_mailbox(near: LiveServer, far: LiveServer) -> None:
    """RFC 8689 over two servers of ours, the way between them proved by DANE."""
    event = outcome(near, "bob@real.dane.test", options=("REQUIRETLS",))
    assert event["kind"] == "delivered", event
    assert event["where"].endswith(" verified (DANE)")
    assert arrived(far, "bob@real.dane.test", 1)


def test_requiretls_ends_where_the_next_host_does_not_know_it(near: LiveServer, host: FakeSmtp) -> None:
    known = len(host.messages)
    ident = send(near, "x@right.dane.test", options=("REQUIRETLS",))
    told = until(lambda: (s := story(near, ident))["endings"][0]["state"] == "bounced" and s)
    assert "does not offer REQUIRETLS" in json.dumps(told)
    assert "5.7.30" in json.dumps(told)
    assert len(host.messages) == known


def test_a_report_of_the_sessions_reaches_the_domain_signed(near: LiveServer, far: LiveServer) -> None:
    """RFC 8460, from a counted session to the attachment: the day is over, and the server comes back."""
    assert outcome(near, "x@right.dane.test")["kind"] == "delivered"
    near.stop()
    with changing(near.data_dir) as call:
        now_us = time.time_ns() // 1000
        # The last minute was written down when the server ended; its report would be due tomorrow.
        row = Counted(20_000, "right.dane.test", "{}", "starttls-not-supported", "mx", "192.0.2.1", "", 3)
        call(tls_count, TlsCounts([row], now_us, now_us + 86_400_000_000))
    known = len(messages(far, "bob@real.dane.test"))
    near.start()
    raw = arrived(far, "bob@real.dane.test", known + 1)[-1]
    assert raw.startswith(b"Return-Path: <>\r\n")
    assert b"\r\nDKIM-Signature: " in raw
    assert b"\r\nTLS-Report-Domain: right.dane.test\r\n" in raw
    [attached] = [part for part in message_from_bytes(raw).walk() if part.get_content_type().endswith("+gzip")]
    report = read_report(cast(bytes, attached.get_payload(decode=True)))
    assert isinstance(report, Report)
    assert report.policies[0].summary.total_failure_session_count == 3
    reader = Reader(near.data_dir)
    [(domain, policy)] = reader.rows_now("SELECT DISTINCT domain, policy FROM tls_sessions WHERE result = ''")
    reader.close()
    assert (domain, json.loads(policy)["kind"]) == ("right.dane.test", "tlsa")
