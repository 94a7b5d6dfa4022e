"""What meets a connection before its session does, on a live server with two workers: proxies, limits, waiting, want of
descriptors. Clients from all over the world come through PROXY headers, because this machine itself is not limited.
"""

from __future__ import annotations

import os
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import Office, with_certificate
from tests.e2e.mail import PATIENCE_S, messages, trusting, until
from tests.fuzz.fuzz_proxy import _V4, _block
from tests.live import LiveServer, free_ports, live_server

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

HELLO = {
    "mx": b"220 ", "submission": b"220 ", "submissions": b"220 ",
    "imap": b"* OK", "imaps": b"* OK", "pop3": b"+OK ", "pop3s": b"+OK ",
}  # fmt: skip
AWAY = {"mx": b"421 4.3.2 ", "imap": b"* BYE ", "pop3": b"-ERR [SYS/TEMP] "}
PROXY = "127.0.0.2"
PER_ADDRESS, PER_NETWORK = 20, 100
"""The defaults of `limits.mx_per_address` and `limits.mx_per_network`."""


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that believes a proxy on this machine, and an SMTP proxy behind that."""
    folder = tmp_path_factory.mktemp("behind")
    config = 'proxy_from = ["127.0.0.2/32"]\nxclient_from = ["192.0.2.200/32"]\n' + with_certificate(folder)
    with live_server(folder, kind=Office, workers=2, config=config) as started:
        yield started
        assert "Traceback" not in started.log()


def header(address: str) -> bytes:
    """A PROXY line for a client."""
    family, own = (6, "::1") if ":" in address else (4, "127.0.0.1")
    return f"PROXY TCP{family} {address} {own} 4711 25\r\n".encode()


def connect(server: LiveServer, service: str, first: bytes = b"") -> socket.socket:
    """A connection, through the proxy when it begins with `first`; with TLS where the service begins with TLS."""
    source = (PROXY, 0) if first else None
    sock = socket.create_connection(("127.0.0.1", server.ports[service]), PATIENCE_S, source)
    sock.sendall(first)
    if service.endswith("s") and service != "mx":
        return trusting(server.certificate).wrap_socket(sock, server_hostname="localhost")
    return sock


def line(sock: socket.socket) -> bytes:
    """What the server says next, up to the end of a line; empty at the end of the connection."""
    said = b""
    while not said.endswith(b"\n"):
        try:
            octets = sock.recv(1)
        except (ConnectionResetError, ssl.SSLError):
            octets = b""
        if not octets:
            break
        said += octets
    return said


def ask(sock: socket.socket, command: bytes) -> bytes:
    """The last line of the reply to a command."""
    sock.sendall(command + b"\r\n")
    while (said := line(sock))[3:4] == b"-":
        continue
    return said


# -- proxies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", HELLO)
@pytest.mark.parametrize("first", [header("192.0.2.7"), _block(0x21, 0x11, _V4), _block(0x20, 0, b"")], ids=[1, 2, 0])
def test_every_service_reads_the_header_and_then_begins(behind: LiveServer, service: str, first: bytes) -> None:
    with connect(behind, service, first) as client:
        assert line(client).startswith(HELLO[service])


@pytest.mark.parametrize("service", ["mx", "imaps"])
def test_row_s64_a_short_block_is_the_end(behind: LiveServer, service: str) -> None:
    with socket.create_connection(("127.0.0.1", behind.ports[service]), PATIENCE_S, (PROXY, 0)) as client:
        client.sendall(_block(0x21, 0x21, b""))
        assert line(client) == b""


def test_the_journal_names_the_client(behind: LiveServer) -> None:
    with connect(behind, "mx", header("192.0.2.7")) as client:
        line(client)
        ask(client, b"EHLO c.test")
        ask(client, b"MAIL FROM:<a@else.test>")
        reference = ask(client, b"RCPT TO:<nobody@local.test>").split()[-1].strip(b"()[].").decode()
    assert "192.0.2.7" in until(lambda: behind.run("why", reference, check=False))


def test_a_listed_smtp_proxy_names_its_client(behind: LiveServer) -> None:
    with connect(behind, "mx", header("192.0.2.200")) as client:
        line(client)
        assert ask(client, b"EHLO proxy.test").startswith(b"250 ")
        assert ask(client, b"XCLIENT ADDR=198.51.100.99 HELO=c.test").startswith(b"220 ")
        ask(client, b"EHLO proxy.test")
        ask(client, b"MAIL FROM:<a@else.test>")
        ask(client, b"RCPT TO:<anna@local.test>")
        ask(client, b"DATA")
        assert ask(client, b"From: a@else.test\r\nSubject: by xclient\r\n\r\nhi\r\n.").startswith(b"250 ")
    [raw] = until(lambda: [raw for raw in messages(behind, "anna@local.test") if b"by xclient" in raw])
    assert b"198.51.100.99" in raw
    assert b"c.test" in raw
    assert b"(via 192.0.2.200)" not in raw  # the nearest proxy is told, which is the one that connected
    assert b"(via 127.0.0.2)" in raw


@pytest.mark.needs_program("haproxy")
def test_haproxy_passes_clients_on_to_plain_and_encrypted_ports(behind: LiveServer, tmp_path: Path) -> None:
    ports = dict(zip(("mx", "imaps"), free_ports(2), strict=True))
    config = tmp_path / "haproxy.cfg"
    words = {"mx": "send-proxy", "imaps": "send-proxy-v2 proxy-v2-options crc32c"}
    config.write_text(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n"
        + "".join(
            f"listen {service}\n bind 127.0.0.1:{port}\n"
            f" server one 127.0.0.1:{behind.ports[service]} source {PROXY} {words[service]}\n"
            for service, port in ports.items()
        )
    )
    import subprocess

    with open(tmp_path / "haproxy.log", "wb") as log:
        proxy = subprocess.Popen(["haproxy", "-db", "-f", str(config)], stdout=log, stderr=log)
    try:
        for service, port in ports.items():
            until(lambda port=port: reached(port))  # type: ignore[misc]
            client = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
            if service == "imaps":
                client = trusting(behind.certificate).wrap_socket(client, server_hostname="localhost")
            with client:
                assert line(client).startswith(HELLO[service])
    finally:
        proxy.terminate()
        proxy.wait(10)


def reached(port: int) -> bool:
    """Whether somebody listens on a port."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


# -- limits ------------------------------------------------------------------------------------------------------------


def greeted(server: LiveServer, stack: ExitStack, addresses: list[str]) -> list[bytes]:
    """Opens a connection of each address, all at once; returns the codes they are greeted with."""
    clients = [stack.enter_context(connect(server, "mx", header(address))) for address in addresses]
    return [line(client)[:9] for client in clients]


def test_row_s63_a_flood_from_one_address_meets_421_and_others_do_not(behind: LiveServer) -> None:
    with ExitStack() as stack:
        codes = greeted(behind, stack, ["203.0.113.9"] * 1000)
        # Both workers may let one in at the same moment.
        assert PER_ADDRESS <= sum(code.startswith(b"220 ") for code in codes) <= PER_ADDRESS + 1
        assert set(codes) - {b"220 mx.lo"} == {b"421 4.7.0"}
        assert greeted(behind, stack, ["198.51.100.7"]) == [b"220 mx.lo"]
    until(lambda: let_in(behind, "203.0.113.9"))


@pytest.mark.parametrize("form", ["203.0.112.{}", "2001:db8:7:{:x}::1"])
def test_row_s63_a_flood_from_one_network_meets_421(behind: LiveServer, form: str) -> None:
    with ExitStack() as stack:
        codes = greeted(behind, stack, [form.format(number % 200) for number in range(400)])
        assert PER_NETWORK <= sum(code.startswith(b"220 ") for code in codes) <= PER_NETWORK + 1
        assert greeted(behind, stack, ["198.51.100.7", "2001:db8:8::1"]) == [b"220 mx.lo"] * 2


def let_in(server: LiveServer, address: str) -> bool:
    """Whether a client from there, or from this machine, is greeted now."""
    with connect(server, "mx", header(address) if address else b"") as client:
        return line(client).startswith(b"220 ")


# -- waiting -----------------------------------------------------------------------------------------------------------


def test_row_s13_a_stranger_that_talks_first_is_refused(behind: LiveServer) -> None:
    with connect(behind, "mx", header("192.0.3.1") + b"EHLO c.test\r\n") as client:
        assert line(client).startswith(b"521 5.5.1 ")
        assert line(client) == b""


def test_a_stranger_waits_a_second_for_its_first_greeting(behind: LiveServer) -> None:
    took = []
    for _ in range(6):  # each worker meets it once
        began = time.monotonic()
        assert let_in(behind, "192.0.4.1")
        took.append(time.monotonic() - began)
    assert took[0] >= 1.0
    assert sum(one >= 1.0 for one in took) <= 2


def test_row_s29_guessing_recipients_takes_time(behind: LiveServer) -> None:
    with connect(behind, "mx", header("192.0.5.1")) as client:
        line(client)
        ask(client, b"EHLO c.test")
        ask(client, b"MAIL FROM:<a@else.test>")
        began = time.monotonic()
        for number in range(5):
            assert ask(client, b"RCPT TO:<nobody%d@local.test>" % number).startswith(b"550 5.1.1 ")
        assert 3.0 <= time.monotonic() - began < 10


# -- want of descriptors -----------------------------------------------------------------------------------------------

FILES = 160
ROOM = 80
"""What `room_for_clients` makes of it."""


@pytest.fixture(params=["direct", "behind proxies"])
def narrow(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LiveServer]:
    """One worker with few descriptors."""
    config = 'proxy_from = ["127.0.0.2/32"]\n' if request.param == "behind proxies" else ""
    with live_server(tmp_path, kind=Office, files=FILES, config=config + with_certificate(tmp_path)) as started:
        yield started
        assert "Traceback" not in started.log()


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    cells = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(cells[11]) + int(cells[12])) / os.sysconf("SC_CLK_TCK")


def works(server: LiveServer) -> bool:
    """Whether a new client can send a message, and read by POP3; not while those that went are still being let out."""
    if not let_in(server, ""):
        return False
    with server.smtp() as client:
        client.sendmail("a@else.test", ["anna@local.test"], b"From: a@else.test\r\nSubject: x\r\n\r\nhi\r\n")
    with connect(server, "pop3") as client:
        return line(client).startswith(b"+OK")


def test_more_clients_than_descriptors_hear_421_and_the_others_go_on(narrow: LiveServer) -> None:
    worker = narrow.pids()["worker-0"]
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(narrow, "mx")) for _ in range(300)]
        codes = [line(client)[:4] for client in clients]
        assert codes.count(b"220 ") == ROOM
        assert codes.count(b"421 ") == 300 - ROOM
        for service, said in AWAY.items():
            with connect(narrow, service) as client:
                assert line(client).startswith(said)
        inside = clients[codes.index(b"220 ")]
        for command in (b"EHLO c.test", b"MAIL FROM:<a@else.test>", b"RCPT TO:<anna@local.test>"):
            assert ask(inside, command).startswith(b"250")
        assert ask(inside, b"DATA").startswith(b"354")
        large = b"Subject: large\r\n\r\n" + b"x" * 78 + b"\r\n"
        assert ask(inside, large + (b"y" * 78 + b"\r\n") * 10_000 + b".").startswith(b"250 ")
        before = cpu_s(worker)
        time.sleep(1.0)
        assert cpu_s(worker) - before < 0.2
    until(lambda: works(narrow))


def test_no_descriptor_at_all_is_waited_out_without_spinning(narrow: LiveServer) -> None:
    worker = narrow.pids()["worker-0"]
    used = len(os.listdir(f"/proc/{worker}/fd"))
    inside = connect(narrow, "mx")
    assert line(inside).startswith(b"220 ")
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (used + 2, FILES))
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(narrow, "mx"))
        before = cpu_s(worker)
        time.sleep(1.0)
        assert cpu_s(worker) - before < 0.2
        assert ask(inside, b"NOOP").startswith(b"250 ")
    inside.close()
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (FILES, FILES))
    until(lambda: works(narrow))
