"""Requests over HTTPS to hosts that a stranger's DNS names: policies fetched, reports handed in.

Addresses come from the resolver of the mail itself, and private ones are not spoken to: a TXT record of somebody else
must not make this machine talk to its neighbours. Redirects are not followed; certificates are always verified.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from postroad import __version__
from postroad.values.ports import Lookup, LookupStatus

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import ResolveResult

POLICY_MAX: Final = 64 * 1024
"""RFC 8461 section 3.3: "a suggested maximum policy size is 64 kilobytes"."""
POLICY_MAX_S: Final = 60.0
"""RFC 8461 section 3.3: "a suggested timeout is one minute"; it is for the whole fetch."""
CONNECT_MAX_S: Final = 10.0
"""Name, connection and handshake take no longer."""
REPORT_MAX_S: Final = 60.0
"""How long handing in one report may take."""
HTTPS_PORT: Final = 443


FETCH_ERROR: Final = "sts-policy-fetch-error"
"""RFC 8460 section 4.3.2.2: the result when nothing more is known than that there was no answer."""


class Unfetched(Exception):
    """A request failed. `result` is the word of RFC 8460 section 4.3.2.2, the text says why."""

    def __init__(self, why: str, result: str = FETCH_ERROR, *, answered: bool = False) -> None:
        super().__init__(why)
        self.result = result
        self.answered = answered
        """A web server was there and gave an answer that does not count."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer: its status, its media type in small letters, and its body as far as it was wanted."""

    status: int
    media_type: str
    body: bytes


class Https:
    """Makes requests; one for a worker. aiohttp is loaded with the first of them."""

    def __init__(
        self,
        lookup: Lookup,
        allowed: Callable[[str], bool],
        *,
        ca_file: str = "",
        port: int = HTTPS_PORT,
    ) -> None:
        """`allowed` says whether an IP address may be spoken to."""
        self._lookup = lookup
        self._allowed = allowed
        self._ca_file = ca_file
        self._port = port
        self._context: ssl.SSLContext | None = None

    async def get(self, url: str) -> Fetched:
        """Fetches a policy; raises Unfetched."""
        return await self._request("GET", url, POLICY_MAX_S, POLICY_MAX)

    async def post(self, url: str, body: bytes, media_type: str) -> int:
        """Hands something in; returns the status of the answer. Raises Unfetched."""
        headers = {"Content-Type": media_type}
        return (await self._request("POST", url, REPORT_MAX_S, POLICY_MAX, data=body, headers=headers)).status

    async def _request(self, method: str, url: str, total_s: float, room: int, **more: Any) -> Fetched:
        import aiohttp

        url = self._checked(url)
        connector = aiohttp.TCPConnector(ssl=self._tls(), resolver=_resolver(self._lookup, self._allowed))
        timeout = aiohttp.ClientTimeout(total=total_s, connect=CONNECT_MAX_S, sock_connect=CONNECT_MAX_S)
        # What is packed could unpack to anything; nobody gains by packing 64 kB.
        headers = {
            "User-Agent": f"postroad/{__version__}", "Accept-Encoding": "identity", **more.pop("headers", {}),
        }  # fmt: skip
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector, timeout=timeout, headers=headers, auto_decompress=False
                ) as session,
                session.request(method, url, allow_redirects=False, **more) as response,
            ):
                body = await _read(response, room)
                return Fetched(response.status, response.content_type.lower(), body)
        except TimeoutError:
            raise Unfetched("the host did not answer in time") from None
        except aiohttp.ClientConnectorCertificateError as error:
            why = f"its certificate does not hold: {error.certificate_error}"
            raise Unfetched(why[:300], "sts-webpki-invalid") from None
        except aiohttp.ClientConnectorError as error:
            cause = error.os_error
            words = cause.strerror or str(cause)
            if cause.errno and not isinstance(error, aiohttp.ClientConnectorDNSError):
                words = os.strerror(cause.errno)  # asyncio's own, "Connect call failed", say less
            raise Unfetched(f"no connection came to be: {words}"[:300]) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unfetched(f"{type(error).__name__}: {error}"[:300]) from None

    def _checked(self, url: str) -> str:
        """The URL as it is requested; raises Unfetched for one that is not."""
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
        except ValueError:
            raise Unfetched("the URL cannot be read") from None
        if parts.scheme != "https" or not host or parts.username is not None:
            raise Unfetched("only https without a login is spoken")
        # An address in place of a name would pass by the resolver, which leaves out private ones.
        if _is_address(host) and not self._allowed(host):
            raise Unfetched(f"{host} is a private address, which is not spoken to")
        if self._port != HTTPS_PORT:
            url = parts._replace(netloc=f"{host}:{self._port}").geturl()
        return url

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            context = ssl.create_default_context()
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            # RFC 8461 section 3.3: "Matching is performed only against the DNS-ID identifiers".
            context.hostname_checks_common_name = False
            if self._ca_file:
                context.load_verify_locations(self._ca_file)
            self._context = context
        return self._context


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _read(response: aiohttp.ClientResponse, room: int) -> bytes:
    """The body; raises Unfetched as soon as it has more than `room` octets."""
    body = b""
    while piece := await response.content.read(room + 1 - len(body)):
        body += piece
        if len(body) > room:
            raise Unfetched(f"its answer is longer than {room:,} octets")
    return body


def _resolver(lookup: Lookup, allowed: Callable[[str], bool]) -> aiohttp.abc.AbstractResolver:
    from aiohttp.abc import AbstractResolver

    class Resolver(AbstractResolver):
        """Names by our own lookup, without the addresses that must not be spoken to."""

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            answer = await lookup.addresses(host)
            if answer.status is not LookupStatus.FOUND:
                raise OSError(errno.EHOSTUNREACH, f"{host} has no address: {answer.why or answer.status.value}")
            usable = [address for address in answer.records if allowed(address)]
            if not usable:
                raise OSError(errno.EHOSTUNREACH, f"{host} has only private addresses, which are not spoken to")
            return [
                {
                    "hostname": host,
                    "host": address,
                    "port": port,
                    "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                    "proto": 0,
                    "flags": socket.AI_NUMERICHOST,
                }
                for address in usable
            ]

        async def close(self) -> None:
            """Nothing to end."""

    return Resolver()
