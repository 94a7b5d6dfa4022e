"""Fetching over HTTPS against a real little web server: the cases of MTA-STS that are about the fetch itself."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

import postroad.net.https as https_module
from postroad.net.https import POLICY_MAX, Fetched, Https, Unfetched
from tests.fakes.certificates import Cert, authority, server
from tests.fakes.lookup import FakeLookup

ROOT = authority("Root")
GOOD = server("mta-sts.a.test", issuer=ROOT)
POLICY = "version: STSv1\nmode: enforce\nmx: mx.a.test\nmax_age: 86400\n"
URL = "https://mta-sts.a.test/.well-known/mta-sts.txt"


class Site:
    """A web server whose answers are named by path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(ROOT.pem)
        self.asked: list[str] = []
        self.posted: list[tuple[str, bytes]] = []
        self.port = 0
        self._runner: web.AppRunner

    async def start(self, cert: Cert = GOOD) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=cert.context(self.folder))
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if request.method == "POST":
            self.posted.append((request.headers["Content-Type"], await request.read()))
            return web.Response(status=201)
        match request.path:
            case "/redirect":
                raise web.HTTPFound(URL)
            case "/html":
                return web.Response(text=POLICY, content_type="text/html")
            case "/large":
                return web.Response(body=b"x" * (POLICY_MAX + 1), content_type="text/plain")
            case "/largest":
                return web.Response(body=b"x" * POLICY_MAX, content_type="text/plain")
            case "/bomb":
                packed = gzip.compress(bytes(10_000_000))
                return web.Response(body=packed, content_type="text/plain", headers={"Content-Encoding": "gzip"})
            case "/silent":
                await asyncio.sleep(30)
        return web.Response(text=POLICY, content_type="text/plain", charset="utf-8")

    def client(self, *, allowed: bool = True, addresses: tuple[str, ...] = ("127.0.0.1",)) -> Https:
        lookup = FakeLookup({}, {"mta-sts.a.test": addresses, "other.test": addresses})
        return Https(
            lookup,
            lambda address: allowed or ipaddress.ip_address(address).is_global,
            ca_file=str(self.ca_file),
            port=self.port,
        )


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    await made.start()
    yield made
    await made.stop()


async def test_a_policy_is_fetched(site: Site) -> None:
    assert await site.client().get(URL) == Fetched(200, "text/plain", POLICY.encode())
    assert site.asked == ["/.well-known/mta-sts.txt"]


async def test_case_redirects_are_not_followed(site: Site) -> None:
    assert (await site.client().get("https://mta-sts.a.test/redirect")).status == 302
    assert site.asked == ["/redirect"]


async def test_case_content_type_is_told(site: Site) -> None:
    assert (await site.client().get("https://mta-sts.a.test/html")).media_type == "text/html"


async def test_case_body_over_64_kib_is_not_read(site: Site) -> None:
    assert len((await site.client().get("https://mta-sts.a.test/largest")).body) == POLICY_MAX
    with pytest.raises(Unfetched, match="longer than 65,536 octets"):
        await site.client().get("https://mta-sts.a.test/large")


async def test_row_m30_a_packed_body_stays_packed(site: Site) -> None:
    assert len((await site.client().get("https://mta-sts.a.test/bomb")).body) < POLICY_MAX


async def test_case_a_slow_server_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert https_module.POLICY_MAX_S == 60.0
    monkeypatch.setattr(https_module, "POLICY_MAX_S", 0.1)
    with pytest.raises(Unfetched, match="did not answer in time"):
        await site.client().get("https://mta-sts.a.test/silent")


@pytest.mark.parametrize(
    "cert",
    [
        server("other.test", issuer=ROOT),
        server("mta-sts.a.test", issuer=ROOT, days=(-9, -2)),
        server("mta-sts.a.test"),
        # RFC 8461 section 3.3: "Matching is performed only against the DNS-ID identifiers", not the common name.
        server(common_name="mta-sts.a.test", issuer=ROOT),
        server("mta-sts.a.test", issuer=authority("Stranger")),
    ],
)
async def test_cases_of_certificates_that_do_not_hold(site: Site, cert: Cert) -> None:
    await site.stop()
    await site.start(cert)
    with pytest.raises(Unfetched, match="its certificate does not hold") as raised:
        await site.client().get(URL)
    assert raised.value.result == "sts-webpki-invalid"
    assert site.asked == []


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("10.0.0.1", "::1"), ("169.254.169.254",)])
async def test_case_private_addresses_are_not_spoken_to(site: Site, addresses: tuple[str, ...]) -> None:
    with pytest.raises(Unfetched, match="only private addresses"):
        await site.client(allowed=False, addresses=addresses).get(URL)
    assert site.asked == []


@pytest.mark.parametrize("url", ["https://127.0.0.1/x", "https://[::1]/x", "https://169.254.169.254/latest"])
async def test_an_address_in_the_url_does_not_pass_by_that(site: Site, url: str) -> None:
    with pytest.raises(Unfetched, match="is a private address"):
        await site.client(allowed=False).get(url)


@pytest.mark.parametrize(
    "url", ["http://mta-sts.a.test/", "ftp://a.test/", "https://", "https://a:b@a.test/", "https://[x/"]
)
async def test_only_https_is_spoken(site: Site, url: str) -> None:
    with pytest.raises(Unfetched):
        await site.client().get(url)
    assert site.asked == []


async def test_a_host_that_is_not_there(site: Site) -> None:
    with pytest.raises(Unfetched, match=r"^no connection came to be: [a-z.-]+ has no address"):
        await site.client().get("https://nowhere.test/")
    client = site.client()
    await site.stop()
    with pytest.raises(Unfetched, match=r"^no connection came to be: Connection refused$"):
        await client.get(URL)
    await site.start()


async def test_a_report_is_posted(site: Site) -> None:
    assert await site.client().post("https://mta-sts.a.test/reports", b"packed", "application/tlsrpt+gzip") == 201
    assert site.posted == [("application/tlsrpt+gzip", b"packed")]
