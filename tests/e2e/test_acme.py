"""A certificate from Debian's pebble, which checks names over real sockets, and what is shown when it refuses."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import stat
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509

from postroad.net.acme_keys import dns_names
from postroad.net.tls import make_authority, write_private
from tests.live import LiveServer, free_ports, live_server
from tests.programs import needs_program

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.needs_program("pebble", "pebble-challtestsrv")]

NAMES = ("mx.local.test", "imap.local.test")
PATIENCE_S = 30.0


@dataclass
class Pebble:
    """An authority on loopback; `http` and `alpn` are the ports on which it checks names."""

    folder: Path
    acme: int = 0
    management: int = 0
    http: int = 0
    alpn: int = 0
    dns: int = 0
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def directory(self) -> str:
        return f"https://localhost:{self.acme}/dir"

    @property
    def ca_file(self) -> Path:
        return self.folder / "pebble-web.pem"

    def start(self, binding: dict[str, str]) -> None:
        self.acme, self.management, self.http, self.alpn, self.dns, dns_management = free_ports(6)
        web = make_authority("Pebble's web server", time.time_ns() // 1000)
        certificate, key = web.issue(["localhost", "127.0.0.1"], time.time_ns() // 1000)
        self.ca_file.write_bytes(web.pem)
        write_private(self.folder / "pebble.pem", certificate)
        write_private(self.folder / "pebble.key", key)
        options = {
            "listenAddress": f"127.0.0.1:{self.acme}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(self.folder / "pebble.pem"),
            "privateKey": str(self.folder / "pebble.key"),
            "httpPort": self.http,
            "tlsPort": self.alpn,
            "externalAccountBindingRequired": bool(binding),
            "externalAccountMACKeys": binding,
        }
        (self.folder / "pebble.json").write_text(json.dumps({"pebble": options}))
        # Every name leads to 127.0.0.1.
        self._run(
            "pebble-challtestsrv", "-dns01", f"127.0.0.1:{self.dns}", "-management", f"127.0.0.1:{dns_management}",
            "-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "",
        )  # fmt: skip
        self._run(
            "pebble", "-strict", "-config", str(self.folder / "pebble.json"), "-dnsserver", f"127.0.0.1:{self.dns}"
        )
        for port in (dns_management, self.acme):
            wait_for(partial(answers, port))

    def _run(self, program: str, *words: str) -> None:
        # Names are really checked, every time anew; more nonces are refused than usual.
        told = {
            "PEBBLE_VA_ALWAYS_VALID": "0",
            "PEBBLE_VA_NOSLEEP": "1",
            "PEBBLE_AUTHZREUSE": "0",
            "PEBBLE_WFE_NONCEREJECT": "15",
        }
        with open(self.folder / f"{program}.log", "wb") as log:
            self.processes.append(
                subprocess.Popen(
                    [needs_program(program), *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                    env=os.environ | told,
                )
            )  # fmt: skip

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(10)
        self.processes.clear()

    def root(self) -> str:
        """The certificate that clients would trust, in PEM."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        with urllib.request.urlopen(f"https://localhost:{self.management}/roots/0", context=context) as answer:
            return str(answer.read().decode())

    def section(self, **more: str) -> str:
        """The `[acme]` section for this authority."""
        keys = {
            "names": json.dumps(NAMES),
            "agree_terms": "true",
            "directory": f'"{self.directory}"',
            "contact": '"postmaster@local.test"',
            "ca_file": f'"{self.ca_file}"',
            "http": '""',
        } | more
        return "[acme]\n" + "".join(f"{name} = {value}\n" for name, value in keys.items())


@contextmanager
def authority(folder: Path, **binding: str) -> Iterator[Pebble]:
    """A running pebble; with `binding` (id = key) it wants an external account."""
    pebble = Pebble(folder)
    try:
        pebble.start(binding)
        yield pebble
    finally:
        pebble.stop()


def wait_for(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def shown(server: LiveServer) -> x509.Certificate:
    """The certificate that clients of port 465 see."""
    pem = ssl.get_server_certificate(("127.0.0.1", server.ports["submissions"]))
    return x509.load_pem_x509_certificate(pem.encode())


def issued(server: LiveServer) -> bool:
    certificate = shown(server)
    return certificate.issuer != certificate.subject


@contextmanager
def server_of(pebble: Pebble, **keys: str) -> Iterator[LiveServer]:
    """Our server beside the authority, with these keys in its section."""
    with live_server(pebble.folder, config=pebble.section(**keys)) as server:
        yield server
        assert "Traceback" not in server.log()


def test_http_01_from_the_first_start_to_a_renewal_and_a_failure(tmp_path: Path) -> None:
    with authority(tmp_path) as pebble, server_of(pebble, http=f'"127.0.0.1:{pebble.http}"') as server:
        with server.smtp() as client:  # mail does not wait for the authority
            client.starttls()
            client.sendmail("a@sender.test", ["anna@local.test"], "Subject: hi\r\n\r\nhi\r\n")
        wait_for(lambda: issued(server))
        first = shown(server)
        assert sorted(dns_names(first)) == sorted(NAMES)
        trusting = ssl.create_default_context(cadata=pebble.root())
        with socket.create_connection(("127.0.0.1", server.ports["imaps"])) as sock:
            trusting.wrap_socket(sock, server_hostname="imap.local.test").close()

        folder = server.data_dir / "tls" / "acme"
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
        assert sorted(file.name for file in folder.iterdir()) == ["account.key", "notes.json", "server.pem"]
        account = (folder / "account.key").read_bytes()

        assert "New certificate for mx.local.test" in server.run("cert", "renew")
        wait_for(lambda: shown(server) != first)
        second = shown(server)
        assert second.public_key() != first.public_key()
        assert (folder / "account.key").read_bytes() == account
        told = json.loads(server.run("cert", "show", "--json"))
        assert sorted(told["names"]) == sorted(NAMES)
        assert told["why"] == ""
        assert told["ends_us"] - told["next_us"] == (told["ends_us"] - told["begins_us"]) // 3

        pebble.stop()
        assert server.run("cert", "renew", check=False) == ""
        said = server.run("cert", check=False)
        assert f"localhost:{pebble.acme} could not be reached" in said
        assert shown(server) == second
        assert server.stop() == 0


def test_tls_alpn_01_with_an_account_made_before(tmp_path: Path) -> None:
    secret = base64.urlsafe_b64encode(b"a secret of at least 32 octets, or so").rstrip(b"=").decode()
    (tmp_path / "binding.key").write_text(secret + "\n")
    with authority(tmp_path, **{"our-id": secret}) as pebble:
        keys = {
            "alpn": f'"127.0.0.1:{pebble.alpn}"',
            "binding_id": '"our-id"',
            "binding_key_file": f'"{tmp_path / "binding.key"}"',
            "keep_key": "true",
        }
        with server_of(pebble, **keys) as server:
            before = shown(server)
            wait_for(lambda: issued(server))
            assert shown(server).public_key() == before.public_key()


def test_a_name_that_leads_elsewhere_is_said_and_the_old_certificate_stays(tmp_path: Path) -> None:
    (elsewhere,) = free_ports(1)
    with authority(tmp_path) as pebble, server_of(pebble, http=f'"127.0.0.1:{elsewhere}"') as server:
        wait_for(lambda: "no new certificate" in server.log())
        said = server.run("cert", check=False)
        assert "it could not connect to this server; check that the name points here" in said
        assert "mx.local.test: " in said or "imap.local.test: " in said
        assert "itself: mail programs warn about it" in said
        assert not issued(server)
        with server.smtp() as client:
            client.starttls()
