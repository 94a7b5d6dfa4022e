"""The ACME client (RFC 8555): account, order, challenges, certificate.

`AcmeClient.issue` walks one order from its beginning to the certificate. It holds no state that matters: whatever ends
it, the next call begins a new order, and the authority hands back what it still knows. Requests go through a `Send`,
which is aiohttp in a server (imported when the first certificate is asked for) and anything in a test.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from postroad import __version__
from postroad.net.acme_keys import b64url, bound, jwk, signed, thumbprint
from postroad.net.acme_words import AcmeError, Identifier, Problem, plain

ANSWER_MAX: Final = 1 << 20
"""Octets of one answer; a chain of certificates has some 10,000."""
REQUEST_S: Final = 30.0
POLL_S: Final = (1.0, 2.0, 4.0, 8.0)
"""Seconds between two looks when the authority names none; the last one repeats."""
POLL_PAUSE_MAX_S: Final = 60.0
"""The longest pause between two looks that we let the authority ask for."""
DECIDE_MAX_S: Final = 300.0
"""How long the authority may take to check a name or to issue."""
NONCE_TRIES: Final = 5
"""RFC 8555 section 6.5 lets a server refuse any nonce; pebble refuses one in twenty on purpose."""
WAIT_MAX_S: Final = 7 * 86400.0
"""The longest wait that a Retry-After may ask for; longer ones are taken for this."""

HTTP_01: Final = "http-01"
TLS_ALPN_01: Final = "tls-alpn-01"

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response: status, headers by their names in small letters, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Send = Callable[[str, str, bytes | None], Awaitable[Answer]]
"""Carries out a request (method, URL, body). Raises AcmeError when no answer came."""


class Answering(Protocol):
    """Who answers the authority's challenges (see `acme_challenges`)."""

    @property
    def kinds(self) -> Sequence[str]:
        """The challenges that can be answered, the preferred first."""
        ...

    def shown(self, kind: str, name: str, token: str, proof: str) -> AbstractContextManager[None]:
        """Answer one challenge inside the block."""
        ...


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """RFC 8555 section 7.1.1: what the authority says of itself."""

    external_account_required: bool = False


class Directory(msgspec.Struct, frozen=True, rename="camel"):
    """RFC 8555 section 7.1.1: where what is asked."""

    new_nonce: str
    new_account: str
    new_order: str
    meta: Meta = Meta()


class Account(msgspec.Struct, frozen=True):
    """RFC 8555 section 7.1.2."""

    status: str
    contact: tuple[str, ...] | None = None


class Order(msgspec.Struct, frozen=True):
    """RFC 8555 section 7.1.3."""

    status: str
    finalize: str
    authorizations: tuple[str, ...] = ()
    certificate: str = ""
    error: Problem | None = None


class Challenge(msgspec.Struct, frozen=True):
    """RFC 8555 section 8."""

    type: str
    url: str = ""
    token: str = ""
    error: Problem | None = None


class Authorization(msgspec.Struct, frozen=True):
    """RFC 8555 section 7.1.4."""

    status: str
    identifier: Identifier
    challenges: tuple[Challenge, ...] = ()


T = TypeVar("T", Account, Order, Authorization)


class AcmeClient:
    """One conversation with an authority; make a new one for each certificate."""

    def __init__(
        self,
        send: Send,
        directory: str,
        key: ec.EllipticCurvePrivateKey,
        *,
        contact: str = "",
        binding: tuple[str, bytes] | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`directory` is the authority's URL, `contact` an e-mail address, `binding` an external account's id and
        secret (RFC 8555 section 7.3.4), `now` the wall time, which only dates in Retry-After are compared with.
        """
        self._send = send
        self._directory_url = directory
        self._key = key
        self._contact = [f"mailto:{contact}"] if contact else []
        self._binding = binding
        self._sleep = sleep
        self._now = now
        self._account = ""
        self._nonce = ""
        self._directory: Directory

    async def issue(self, names: Sequence[str], request: bytes, answering: Answering) -> bytes:
        """The certificate chain, in the authority's PEM, for a certificate request (DER) that asks for `names`.

        Raises AcmeError.
        """
        await self._begin()
        identifiers = [{"type": "dns", "value": name} for name in names]
        answer = await self._post(self._directory.new_order, {"identifiers": identifiers})
        where, order = self._located(answer), self._read(answer, Order)
        with ExitStack() as shown:
            for url in order.authorizations:
                await self._answer_challenge(url, answering, shown)
            for url in order.authorizations:
                await self._authorized(url)
        order = await self._poll(where, Order, ("pending",))
        if order.status == "ready":
            answer = await self._post(order.finalize, {"csr": b64url(request)})
            order = self._read(answer, Order)
            if order.status in ("ready", "processing"):
                order = await self._poll(where, Order, ("ready", "processing"), first=self._wait_of(answer))
        if order.status != "valid" or not order.certificate:
            told = order.error.words() if order.error else f"the order ended as {plain(order.status)}"
            raise AcmeError(f"the authority did not issue: {told}")
        return (await self._post(order.certificate, None)).body

    # -- the steps ---------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Read the directory and make the account, or find the one that our key has."""
        answer = await self._send("GET", self._directory_url, None)
        if answer.status != 200:
            raise self._refused(answer)
        try:
            self._directory = msgspec.json.decode(answer.body, type=Directory)
        except msgspec.MsgspecError as error:
            raise AcmeError(f"{self._directory_url} is not the directory of an ACME authority") from error
        url = self._directory.new_account
        wish: dict[str, Any] = {"termsOfServiceAgreed": True}
        if self._contact:
            wish["contact"] = self._contact
        if self._binding:
            wish["externalAccountBinding"] = bound(self._key, url, *self._binding)
        elif self._directory.meta.external_account_required:
            raise AcmeError(f"the authority refused: {Problem('externalAccountRequired').words()}")
        answer = await self._post(url, wish)
        self._account = self._located(answer)
        account = self._read(answer, Account)
        if account.status != "valid":
            raise AcmeError(f"the account at the authority is {plain(account.status)}")
        # RFC 8555 section 7.3: newAccount changes nothing about an account that exists (200).
        if answer.status == 200 and account.contact is not None and list(account.contact) != self._contact:
            await self._post(self._account, {"contact": self._contact})

    async def _answer_challenge(self, url: str, answering: Answering, shown: ExitStack) -> None:
        """Show our answer to the preferred challenge of one name, and tell the authority to look."""
        authorization = self._read(await self._post(url, None), Authorization)
        # RFC 8555 section 7.1.3: an authority may hand out one that is decided already.
        if authorization.status != "pending":
            return
        name = authorization.identifier.value
        offered = {one.type: one for one in authorization.challenges}
        kind = next((kind for kind in answering.kinds if kind in offered), "")
        if not kind:
            raise AcmeError(f"the authority offers no challenge for {plain(name)} that we have a listener for")
        challenge = offered[kind]
        if not _TOKEN.fullmatch(challenge.token):
            raise AcmeError("the authority sent a challenge without a usable token")
        # RFC 8555 section 8.1
        proof = f"{challenge.token}.{thumbprint(self._key)}"
        shown.enter_context(answering.shown(kind, name, challenge.token, proof))
        await self._post(challenge.url, {})

    async def _authorized(self, url: str) -> None:
        authorization = await self._poll(url, Authorization, ("pending",))
        if authorization.status == "valid":
            return
        name = authorization.identifier.value
        for challenge in authorization.challenges:
            if challenge.error is not None:
                raise AcmeError(f"the authority refused {challenge.error.words(name)}")
        raise AcmeError(f"the authority's check of {plain(name)} ended as {plain(authorization.status)}")

    async def _poll(self, url: str, shape: type[T], undecided: Sequence[str], first: float | None = None) -> T:
        """The object at a URL once its status is none of `undecided`."""
        waited = 0.0
        if first is not None:
            waited = min(first, POLL_PAUSE_MAX_S)
            await self._sleep(waited)
        for number in range(1000):
            answer = await self._post(url, None)
            found = self._read(answer, shape)
            if found.status not in undecided:
                return found
            asked = self._wait_of(answer)
            pause = POLL_S[min(number, len(POLL_S) - 1)] if asked is None else min(max(asked, 1.0), POLL_PAUSE_MAX_S)
            if waited + pause > DECIDE_MAX_S:
                break
            waited += pause
            await self._sleep(pause)
        raise AcmeError(f"the authority did not decide within {DECIDE_MAX_S / 60:.0f} minutes")

    # -- requests ----------------------------------------------------------------------------------------------------

    async def _post(self, url: str, payload: Mapping[str, Any] | None) -> Answer:
        """A signed request; without a payload it only reads. Raises AcmeError unless it succeeded."""
        octets = b"" if payload is None else msgspec.json.encode(payload)
        for _ in range(NONCE_TRIES):
            header: dict[str, Any] = {"nonce": self._nonce or await self._fresh_nonce(), "url": url}
            # RFC 8555 section 6.2: the key itself before there is an account, its URL afterwards.
            header |= {"kid": self._account} if self._account else {"jwk": jwk(self._key)}
            answer = await self._send("POST", url, signed(self._key, header, octets))
            self._nonce = answer.headers.get("replay-nonce", "")
            if answer.status in (200, 201):
                return answer
            # RFC 8555 section 6.5: "a client SHOULD retry the request using the new nonce", that of the refusal.
            if _problem(answer).kind != "badNonce":
                break
        raise self._refused(answer)

    async def _fresh_nonce(self) -> str:
        answer = await self._send("HEAD", self._directory.new_nonce, None)
        nonce = answer.headers.get("replay-nonce", "")
        if not nonce:
            raise AcmeError("the authority gave no nonce")
        return nonce

    def _refused(self, answer: Answer) -> AcmeError:
        problem = _problem(answer)
        wait = self._wait_of(answer)
        if problem.type or problem.detail:
            return AcmeError(f"the authority refused: {problem.words()}", wait)
        return AcmeError(f"the authority answered with HTTP status {answer.status}", wait)

    def _wait_of(self, answer: Answer) -> float | None:
        """Seconds of a Retry-After (RFC 9110 section 10.2.3): a number, or a date."""
        text = answer.headers.get("retry-after", "").strip()
        if text.isascii() and text.isdigit():
            return min(float(text[:9]), WAIT_MAX_S)
        try:
            return min(max(0.0, parsedate_to_datetime(text).timestamp() - self._now()), WAIT_MAX_S)
        except (ValueError, TypeError, OverflowError):
            return None

    def _located(self, answer: Answer) -> str:
        url = answer.headers.get("location", "")
        if not url:
            raise AcmeError("the authority did not say where its answer stands (no Location)")
        return url

    @staticmethod
    def _read(answer: Answer, shape: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.body, type=shape)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise AcmeError(f"the authority's answer is no {shape.__name__.lower()}: {plain(str(error))}") from error


def _problem(answer: Answer) -> Problem:
    try:
        return msgspec.json.decode(answer.body, type=Problem)
    except (msgspec.MsgspecError, RecursionError):
        return Problem()


@asynccontextmanager
async def connected(directory: str, ca_file: str = "") -> AsyncIterator[Send]:
    """Requests by aiohttp, to authorities that the system or `ca_file` vouches for.

    Raises AcmeError when `ca_file` cannot be used.
    """
    import aiohttp  # loaded only in the process that asks for certificates, and only when it does

    context = ssl.create_default_context()
    try:
        if ca_file:
            context.load_verify_locations(ca_file)
    except OSError as error:
        raise AcmeError(f"acme.ca_file ({ca_file}) cannot be used: {error.strerror or error}") from error
    scheme = urlsplit(directory).scheme
    headers = {
        "Accept-Language": "en",
        # RFC 8555 section 6.2: "they must have the Content-Type header field set to "application/jose+json"".
        "Content-Type": "application/jose+json",
        "User-Agent": f"postroad/{__version__}",
    }

    async def send(method: str, url: str, body: bytes | None) -> Answer:
        # RFC 8555 section 6.1: everything goes over HTTPS, whatever URL an answer contains.
        if urlsplit(url).scheme != scheme:
            raise AcmeError(f"the authority names a URL that is not {scheme}: {plain(url)}")
        try:
            async with session.request(method, url, data=body, headers=headers, allow_redirects=False) as response:
                octets = await response.content.read(ANSWER_MAX + 1)
                while len(octets) <= ANSWER_MAX and (more := await response.content.read(ANSWER_MAX)):
                    octets += more
                if len(octets) > ANSWER_MAX:
                    raise AcmeError(f"the authority's answer is longer than {ANSWER_MAX} octets")
                return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, octets)
        except TimeoutError as error:
            raise AcmeError(f"{urlsplit(url).netloc} did not answer within {REQUEST_S:.0f} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise AcmeError(f"{urlsplit(url).netloc} could not be reached: {plain(str(error))}") from error

    timeout = aiohttp.ClientTimeout(total=REQUEST_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), timeout=timeout) as session:
        yield send
