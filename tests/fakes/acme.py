"""An ACME authority in memory: checks every signature and nonce, and goes wrong where a test wants it to."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from postroad.net.acme import Answer, Send

HOST = "https://authority.test"
DIRECTORY = f"{HOST}/directory"
PREFIX = "urn:ietf:params:acme:error:"


def octets(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def answer(status: int, body: object, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, named, body if isinstance(body, bytes) else json.dumps(body).encode())


def problem(kind: str, detail: str = "", status: int = 400, **headers: str) -> Answer:
    return answer(status, {"type": PREFIX + kind, "detail": detail}, **headers)


class FakeAuthority:
    """`send` is what a client talks to; `faults` replaces the answer to a path for as long as its list lasts."""

    def __init__(self, now_us: int, days: float = 90) -> None:
        self.now_us = now_us
        self.lifetime = datetime.timedelta(days=days)
        self.requests: list[str] = []
        self.faults: dict[str, list[Answer]] = {}
        self.offers: tuple[str, ...] = ("dns-01", "http-01", "tls-alpn-01")
        self.polls_until_decided = 1
        self.failing: dict[str, Any] | None = None
        """The error that the check of every name ends with."""
        self.decided_already = False
        self.issues: Callable[[bytes], bytes] = self.certificate
        self.contacts: list[str] = []
        self.binding: tuple[str, bytes] | None = None
        self.accounts = 0
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._account_key: ec.EllipticCurvePublicKey | None = None
        self._thumbprint = ""
        self._nonces: set[str] = set()
        self._made = 0
        self._names: list[str] = []
        self._polls: dict[str, int] = {}
        self._triggered: set[str] = set()
        self._csr = b""

    async def send(self, method: str, url: str, body: bytes | None) -> Answer:
        path = url.removeprefix(HOST)
        self.requests.append(f"{method} {path}")
        if self.faults.get(path):
            fault = self.faults[path].pop(0)
            return Answer(fault.status, {"replay-nonce": self._nonce()} | dict(fault.headers), fault.body)
        if method == "GET":
            assert path == "/directory"
            return answer(200, self._directory())
        if method == "HEAD":
            assert path == "/nonce"
            return answer(200, b"", replay_nonce=self._nonce())
        assert body is not None
        opened = self._opened(url, json.loads(body))
        found = problem("badNonce") if opened is None else self._answer(path, *opened)
        return Answer(found.status, {"replay-nonce": self._nonce()} | dict(found.headers), found.body)

    @asynccontextmanager
    async def connect(self, directory: str, ca_file: str) -> AsyncIterator[Send]:
        """In place of `acme.connected`."""
        yield self.send

    def lose_nonces(self) -> None:
        """As after a restart of the authority: it knows none of those it gave."""
        self._nonces.clear()

    def certificate(self, csr: bytes) -> bytes:
        """What a certificate request gets: a leaf and an issuer."""
        request = x509.load_der_x509_csr(csr)
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Fake Authority")])
        now = datetime.datetime.fromtimestamp(self.now_us / 1e6, datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(request.subject)
            .issuer_name(issuer)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + self.lifetime)
        )
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        leaf = builder.add_extension(names.value, critical=False).sign(self._key, hashes.SHA256())
        return leaf.public_bytes(Encoding.PEM)

    def _directory(self) -> dict[str, Any]:
        where = {"newNonce": "/nonce", "newAccount": "/account", "newOrder": "/order"}
        meta = {"termsOfService": f"{HOST}/terms", "externalAccountRequired": self.binding is not None}
        return {name: HOST + path for name, path in where.items()} | {"meta": meta}

    def _nonce(self) -> str:
        self._made += 1
        self._nonces.add(f"nonce{self._made}")
        return f"nonce{self._made}"

    def _opened(self, url: str, jws: dict[str, str]) -> tuple[dict[str, Any], Any] | None:
        """Header and payload of a request whose signature is right; None when its nonce is not."""
        header = json.loads(octets(jws["protected"]))
        assert header["alg"] == "ES256"
        assert header["url"] == url
        assert ("jwk" in header) is (url == f"{HOST}/account")
        if "jwk" in header:
            x, y = (int.from_bytes(octets(header["jwk"][name])) for name in "xy")
            self._account_key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
            canonical = json.dumps(header["jwk"], sort_keys=True, separators=(",", ":")).encode()
            self._thumbprint = base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()
        else:
            assert header["kid"] == f"{HOST}/account/1"
        assert self._account_key is not None
        raw = octets(jws["signature"])
        assert len(raw) == 64
        signature = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
        signed = f"{jws['protected']}.{jws['payload']}".encode()
        self._account_key.verify(signature, signed, ec.ECDSA(hashes.SHA256()))
        if header["nonce"] not in self._nonces:
            return None
        self._nonces.remove(header["nonce"])
        return header, json.loads(octets(jws["payload"])) if jws["payload"] else None

    def _answer(self, path: str, header: dict[str, Any], wish: Any) -> Answer:
        steps: dict[str, Callable[[], Answer]] = {
            "/account": lambda: self._new_account(header, wish),
            "/account/1": lambda: self._change(wish),
            "/order": lambda: self._new_order(wish),
            "/order/1": self._order,
            "/order/1/finalize": lambda: self._finalize(wish),
            "/certificate": lambda: answer(200, self.issues(self._csr)),
        }
        if path in steps:
            return steps[path]()
        name = path.rpartition("/")[2]
        if path.startswith("/authorization/"):
            return answer(200, self._authorization(name))
        assert path.startswith("/challenge/")
        assert wish == {}
        self._triggered.add(name)
        self.on_check(path.split("/")[2], name, f"token-{name.replace('.', '-')}", self._thumbprint)
        return answer(200, {"type": path.split("/")[2], "url": HOST + path, "status": "processing"})

    def on_check(self, kind: str, name: str, token: str, thumbprint: str) -> None:
        """Called when the client says that it is ready; a test looks at the answer here."""

    def _new_account(self, header: dict[str, Any], wish: Any) -> Answer:
        assert wish["termsOfServiceAgreed"] is True
        if self.binding is not None:
            self._check_binding(header, wish["externalAccountBinding"])
        self.accounts += 1
        if self.accounts == 1:
            self.contacts = wish.get("contact", [])
        account = {"status": "valid", "contact": self.contacts}
        return answer(201 if self.accounts == 1 else 200, account, location=f"{HOST}/account/1")

    def _check_binding(self, header: dict[str, Any], jws: dict[str, str]) -> None:
        assert self.binding is not None
        assert json.loads(octets(jws["protected"])) == {"alg": "HS256", "kid": self.binding[0], "url": header["url"]}
        assert json.loads(octets(jws["payload"])) == header["jwk"]
        signed = f"{jws['protected']}.{jws['payload']}".encode()
        assert octets(jws["signature"]) == hmac.digest(self.binding[1], signed, "sha256")

    def _change(self, wish: Any) -> Answer:
        self.contacts = wish["contact"]
        return answer(200, {"status": "valid", "contact": self.contacts})

    def _new_order(self, wish: Any) -> Answer:
        self._names = [one["value"] for one in wish["identifiers"]]
        self._csr = b""
        self._polls, self._triggered = {}, set()
        return answer(201, json.loads(self._order().body), location=f"{HOST}/order/1")

    def _order(self) -> Answer:
        states = {self._authorization(name, count=False)["status"] for name in self._names}
        status = "invalid" if "invalid" in states else "pending" if "pending" in states else "ready"
        order = {
            "status": "valid" if self._csr else status,
            "finalize": f"{HOST}/order/1/finalize",
            "authorizations": [f"{HOST}/authorization/{name}" for name in self._names],
        }
        if self._csr:
            order["certificate"] = f"{HOST}/certificate"
        return answer(200, order)

    def _finalize(self, wish: Any) -> Answer:
        self._csr = octets(wish["csr"])
        return answer(200, json.loads(self._order().body) | {"status": "processing"}, retry_after="3")

    def _authorization(self, name: str, count: bool = True) -> dict[str, Any]:
        triggered = name in self._triggered
        if triggered and count:
            self._polls[name] = self._polls.get(name, 0) + 1
        decided = triggered and self._polls.get(name, 0) > self.polls_until_decided
        status = "pending"
        if self.decided_already or decided:
            status = "invalid" if self.failing else "valid"
        challenges: list[dict[str, Any]] = [
            {"type": kind, "url": f"{HOST}/challenge/{kind}/{name}", "token": f"token-{name.replace('.', '-')}"}
            for kind in self.offers
        ]
        if status == "invalid":
            challenges[-1]["error"] = self.failing
        return {"status": status, "identifier": {"type": "dns", "value": name}, "challenges": challenges}


class Shown:
    """In place of `Challenges`: remembers what is shown now and what was."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds
        self.now: dict[str, str] = {}
        self.log: list[str] = []

    @contextmanager
    def shown(self, kind: str, name: str, token: str, proof: str) -> Iterator[None]:
        self.log.append(f"{kind} {name}")
        self.now[name] = proof
        try:
            yield
        finally:
            del self.now[name]
