"""What finds whoever connects to the ports on which an authority checks names."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509

from postroad.net.acme import HTTP_01, TLS_ALPN_01
from postroad.net.acme_challenges import ALPN, CONNECTIONS_MAX, WELL_KNOWN, Challenges, http_answer
from postroad.net.acme_keys import ACME_IDENTIFIER, dns_names

NAME = "mail.example.org"


def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


class Ports:
    """Challenges that answer on two ports of loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.http, self.alpn = listener(), listener()
        self.challenges = Challenges([self.http], [self.alpn], folder, lambda: 1_800_000_000_000_000)

    async def get(self, path: str) -> bytes:
        reader, writer = await asyncio.open_connection(*self.http.getsockname())
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer

    async def handshake(self, name: str | None = NAME, protocols: tuple[str, ...] = (ALPN,)) -> x509.Certificate:
        """The certificate that a TLS client is shown."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if protocols:
            context.set_alpn_protocols(list(protocols))
        host, port = self.alpn.getsockname()
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name or "")
        tls = writer.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == ALPN
        shown = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))
        assert await reader.read() == b""  # nothing is said after the handshake
        writer.close()
        return shown


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Ports]:
    ports = Ports(folder)
    task = asyncio.create_task(ports.challenges.serve())
    try:
        yield ports
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        ports.http.close()
        ports.alpn.close()


async def test_http_answers_while_the_challenge_is_shown_and_not_after(tmp_path: Path) -> None:
    async with serving(tmp_path) as ports:
        assert (await ports.get(f"{WELL_KNOWN}token")).startswith(b"HTTP/1.1 404 ")
        with ports.challenges.shown(HTTP_01, NAME, "token", "token.proof"):
            answer = await ports.get(f"{WELL_KNOWN}token")
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"\r\n\r\ntoken.proof")
        assert (await ports.get(f"{WELL_KNOWN}token")).startswith(b"HTTP/1.1 404 ")


async def test_tls_shows_the_certificate_of_the_challenge(tmp_path: Path) -> None:
    async with serving(tmp_path) as ports:
        with ports.challenges.shown(TLS_ALPN_01, NAME, "token", "token.proof"):
            shown = await ports.handshake()
        assert list(tmp_path.iterdir()) == []  # no key stays behind
    assert dns_names(shown) == [NAME]
    extension = shown.extensions.get_extension_for_oid(ACME_IDENTIFIER)
    assert extension.critical
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    assert extension.value.value == b"\x04\x20" + hashlib.sha256(b"token.proof").digest()


async def test_tls_for_another_name_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as ports:
        with ports.challenges.shown(TLS_ALPN_01, NAME, "token", "token.proof"):
            with pytest.raises(OSError):  # noqa: PT011  an alert or a reset, as Python likes
                await ports.handshake("other.example.org")
            await ports.handshake(NAME.upper())


async def test_tls_is_not_begun_without_a_challenge(tmp_path: Path) -> None:
    async with serving(tmp_path) as ports:
        with pytest.raises(OSError):  # noqa: PT011  closed or reset, as the kernel likes
            await ports.handshake()


async def test_strangers_cannot_use_up_descriptors(tmp_path: Path) -> None:
    async with serving(tmp_path) as ports:
        silent = [await asyncio.open_connection(*ports.http.getsockname()) for _ in range(CONNECTIONS_MAX)]
        reader, writer = await asyncio.open_connection(*ports.http.getsockname())
        assert await reader.read() == b""
        for _, one in [*silent, (reader, writer)]:
            one.close()


@pytest.mark.parametrize(
    "head, status, body",
    [
        (f"GET {WELL_KNOWN}t HTTP/1.1\r\n", 200, b"proof"),
        (f"GET {WELL_KNOWN}t?x=1 HTTP/1.1\r\n", 200, b"proof"),
        (f"HEAD {WELL_KNOWN}t HTTP/1.1\r\n", 200, b""),
        (f"POST {WELL_KNOWN}t HTTP/1.1\r\n", 404, None),
        (f"GET {WELL_KNOWN}other HTTP/1.1\r\n", 404, None),
        (f"GET {WELL_KNOWN} HTTP/1.1\r\n", 404, None),
        ("GET /t HTTP/1.1\r\n", 404, None),
        ("GET / HTTP/1.1\r\n", 404, None),
        ("\x16\x03\x01\x02\x00", 404, None),
        ("", 404, None),
    ],
)
def test_what_http_answers(head: str, status: int, body: bytes | None) -> None:
    answer = http_answer(head.encode("latin-1"), {"t": "proof"})
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    if body is not None:
        assert answer.partition(b"\r\n\r\n")[2] == body


def test_each_failure_puts_the_other_way_first(tmp_path: Path) -> None:
    with listener() as http, listener() as alpn:
        both = Challenges([http], [alpn], tmp_path, lambda: 0)
        orders = []
        for turn in range(3):
            both.prefer(turn)
            orders.append(both.kinds)
        assert orders == [(HTTP_01, TLS_ALPN_01), (TLS_ALPN_01, HTTP_01), (HTTP_01, TLS_ALPN_01)]
        assert Challenges([], [alpn], tmp_path, lambda: 0).kinds == (TLS_ALPN_01,)
