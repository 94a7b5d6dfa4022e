"""The ACME client against an authority in memory: every step, and what is said when one goes wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from postroad.net.acme import (
    ANSWER_MAX,
    DECIDE_MAX_S,
    HTTP_01,
    POLL_PAUSE_MAX_S,
    TLS_ALPN_01,
    WAIT_MAX_S,
    AcmeClient,
    Answer,
    connected,
)
from postroad.net.acme_keys import certificate_request, checked_chain, kept_key, signed, thumbprint
from postroad.net.acme_words import MEANINGS, AcmeError, Identifier, Problem, Subproblem, joined, plain
from tests.fakes.acme import DIRECTORY, HOST, FakeAuthority, Shown, answer, problem

NOW_US = 1_800_000_000_000_000
NAMES = ("mail.example.org", "imap.example.org")
ACCOUNT = ec.generate_private_key(ec.SECP256R1())
KEY = ec.generate_private_key(ec.SECP256R1())
REQUEST = certificate_request(KEY, NAMES)


class Scene:
    """A client, its authority, and the pauses it made."""

    def __init__(self, **options: Any) -> None:
        self.authority = FakeAuthority(NOW_US)
        self.shown = Shown(HTTP_01, TLS_ALPN_01)
        self.pauses: list[float] = []
        self.options = options

    async def issue(self) -> bytes:
        client = AcmeClient(
            self.authority.send, DIRECTORY, ACCOUNT, sleep=self._sleep, now=lambda: NOW_US / 1e6, **self.options
        )
        return await client.issue(NAMES, REQUEST, self.shown)

    async def refusal(self) -> AcmeError:
        with pytest.raises(AcmeError) as caught:
            await self.issue()
        assert self.shown.now == {}
        return caught.value

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


async def test_a_certificate_is_issued_and_the_answers_are_shown_while_they_are_checked() -> None:
    scene = Scene()
    checked = []

    def look(kind: str, name: str, token: str, thumb: str) -> None:
        assert scene.shown.now[name] == f"{token}.{thumb}" == f"{token}.{thumbprint(ACCOUNT)}"
        checked.append((kind, name))

    scene.authority.on_check = look  # type: ignore[method-assign, assignment]
    pem = await scene.issue()
    assert checked == [(HTTP_01, NAMES[0]), (HTTP_01, NAMES[1])]
    assert scene.shown.now == {}
    chain = checked_chain(pem, KEY, NAMES, NOW_US)
    assert x509.load_pem_x509_certificate(chain).public_key() == KEY.public_key()
    assert scene.authority.requests.count("HEAD /nonce") == 1  # every other nonce came with an answer
    assert scene.pauses == [1.0, 1.0, 3.0]  # the last one is the Retry-After of finalize


async def test_names_that_are_decided_already_need_no_challenge() -> None:
    scene = Scene()
    scene.authority.decided_already = True
    await scene.issue()
    assert scene.shown.log == []


@pytest.mark.parametrize("kinds, taken", [((HTTP_01,), HTTP_01), ((TLS_ALPN_01, HTTP_01), TLS_ALPN_01)])
async def test_the_preferred_challenge_that_is_offered_is_taken(kinds: tuple[str, ...], taken: str) -> None:
    scene = Scene()
    scene.shown.kinds = kinds
    await scene.issue()
    assert scene.shown.log == [f"{taken} {name}" for name in NAMES]


async def test_no_challenge_that_we_can_answer() -> None:
    scene = Scene()
    scene.authority.offers = ("dns-01",)
    assert "no challenge for mail.example.org that we have a listener for" in str(await scene.refusal())


async def test_refused_nonces_are_replaced_by_those_of_the_refusals() -> None:
    scene = Scene()
    scene.authority.faults["/order"] = [problem("badNonce") for _ in range(4)]
    await scene.issue()
    assert scene.authority.requests.count("POST /order") == 5
    assert scene.authority.requests.count("HEAD /nonce") == 1


async def test_nonces_lost_by_the_authority() -> None:
    scene = Scene()
    scene.authority.on_check = lambda *_: scene.authority.lose_nonces()  # type: ignore[method-assign]
    await scene.issue()


async def test_an_authority_that_refuses_every_nonce() -> None:
    scene = Scene()
    scene.authority.faults["/order"] = [problem("badNonce") for _ in range(9)]
    assert MEANINGS["badNonce"] in str(await scene.refusal())
    assert scene.authority.requests.count("POST /order") == 5


@pytest.mark.parametrize(
    "header, seconds",
    [
        ("7200", 7200.0),
        ("Fri, 15 Jan 2027 09:00:00 GMT", 3600.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("99999999999999", WAIT_MAX_S),
        ("soon", None),
        ("", None),
    ],
)
async def test_rate_limit_says_how_long_to_wait(header: str, seconds: float | None) -> None:
    scene = Scene()
    refusal = problem("rateLimited", "too many certificates", 429, retry_after=header)
    scene.authority.faults["/order"] = [refusal]
    error = await scene.refusal()
    assert str(error) == 'the authority refused: it was asked too often (it said: "too many certificates")'
    assert error.retry_after == seconds


async def test_a_failed_check_is_told_with_name_meaning_and_the_words_of_the_authority() -> None:
    scene = Scene()
    scene.authority.failing = {
        "type": "urn:ietf:params:acme:error:connection",
        "detail": "timeout\r\n\x1b[31m after 10 s",
    }
    assert str(await scene.refusal()) == (
        f'the authority refused mail.example.org: {MEANINGS["connection"]} (it said: "timeout [31m after 10 s")'
    )


async def test_a_failed_check_without_a_reason() -> None:
    scene = Scene()
    scene.authority.failing = None
    name = {"type": "dns", "value": NAMES[0]}
    pending = {"status": "deactivated", "identifier": name, "challenges": []}
    scene.authority.faults[f"/authorization/{NAMES[0]}"] = [answer(200, pending), answer(200, pending)]
    assert "check of mail.example.org ended as deactivated" in str(await scene.refusal())


async def test_an_order_that_ends_badly_after_the_request() -> None:
    scene = Scene()
    error = {"type": "urn:ietf:params:acme:error:caa", "detail": "no"}
    order = {"status": "invalid", "finalize": f"{HOST}/x", "error": error}
    scene.authority.faults["/order/1/finalize"] = [answer(200, order)]
    assert "did not issue: a CAA record in DNS forbids it" in str(await scene.refusal())


async def test_pauses_follow_the_authority_within_bounds() -> None:
    scene = Scene()
    scene.authority.polls_until_decided = 0
    pending = {"status": "pending", "identifier": {"value": NAMES[0]}, "challenges": []}
    path = f"/authorization/{NAMES[0]}"
    triggered = scene.authority.send

    async def send(method: str, url: str, body: bytes | None) -> Answer:
        if url.endswith(path) and f"POST /challenge/http-01/{NAMES[1]}" in scene.authority.requests and waits:
            scene.authority.faults[path] = [answer(200, pending, retry_after=waits.pop(0))]
        return await triggered(method, url, body)

    waits = ["0", "5", "9999"]
    scene.authority.send = send  # type: ignore[method-assign]
    await scene.issue()
    assert scene.pauses[:3] == [1.0, 5.0, POLL_PAUSE_MAX_S]


async def test_an_authority_that_never_decides_is_given_up() -> None:
    scene = Scene()
    scene.authority.polls_until_decided = 10**9
    assert str(await scene.refusal()) == "the authority did not decide within 5 minutes"
    assert DECIDE_MAX_S - 8 <= sum(scene.pauses) <= DECIDE_MAX_S


async def test_an_account_is_made_once_and_its_contact_follows_the_configuration() -> None:
    scene = Scene(contact="postmaster@example.org")
    await scene.issue()
    assert scene.authority.contacts == ["mailto:postmaster@example.org"]
    scene.options["contact"] = "root@example.org"
    await scene.issue()
    assert scene.authority.contacts == ["mailto:root@example.org"]
    assert "POST /account/1" in scene.authority.requests


async def test_an_account_that_was_closed() -> None:
    scene = Scene()
    scene.authority.faults["/account"] = [answer(200, {"status": "deactivated"}, location=f"{HOST}/account/1")]
    assert str(await scene.refusal()) == "the account at the authority is deactivated"


async def test_an_external_account() -> None:
    scene = Scene(binding=("our-id", b"secret"))
    scene.authority.binding = ("our-id", b"secret")
    await scene.issue()


async def test_an_external_account_that_is_missing() -> None:
    scene = Scene()
    scene.authority.binding = ("our-id", b"secret")
    assert "set acme.binding_id" in str(await scene.refusal())


@pytest.mark.parametrize(
    "path, wrong, said",
    [
        ("/directory", answer(200, b"<html>"), "is not the directory of an ACME authority"),
        ("/directory", answer(200, {"newNonce": "x"}), "is not the directory of an ACME authority"),
        ("/directory", answer(503, b"", retry_after="60"), "the authority answered with HTTP status 503"),
        ("/nonce", answer(200, b"", replay_nonce=""), "the authority gave no nonce"),
        ("/account", answer(201, {"status": "valid"}), "did not say where its answer stands (no Location)"),
        ("/order", answer(201, {"status": 7}, location="x"), "the authority's answer is no order"),
        ("/order", answer(201, b"[" * 5000, location="x"), "the authority's answer is no order"),
        ("/order", answer(500, b"oops"), "the authority answered with HTTP status 500"),
        ("/order", problem("malformed"), "the authority refused: it did not understand our request"),
        (
            "/order",
            answer(400, {"type": "about:blank", "detail": "no"}),
            'the authority refused: it refused (it said: "no")',
        ),
        ("/certificate", problem("serverInternal", status=500), "it has trouble of its own"),
    ],
)
async def test_what_is_said_of_answers_that_help_nobody(path: str, wrong: Answer, said: str) -> None:
    scene = Scene()
    scene.authority.faults[path] = [wrong]
    assert said in str(await scene.refusal())


async def test_a_token_that_could_lead_out_of_its_path_is_not_shown() -> None:
    scene = Scene()
    bad = {
        "status": "pending",
        "identifier": {"value": NAMES[0]},
        "challenges": [{"type": HTTP_01, "url": f"{HOST}/c", "token": "../x"}],
    }
    scene.authority.faults[f"/authorization/{NAMES[0]}"] = [answer(200, bad)]
    assert "without a usable token" in str(await scene.refusal())


# -- what is issued ----------------------------------------------------------------------------------------------------


def issued(names: tuple[str, ...] = NAMES, days: float = 90, key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    return FakeAuthority(NOW_US, days).certificate(certificate_request(key, names))


@pytest.mark.parametrize(
    "pem, said",
    [
        (b"junk", "something that is no certificate"),
        (issued(key=ACCOUNT), "for another key"),
        (issued(names=NAMES[:1]), "without imap.example.org"),
        (issued(days=0.5), "ended on"),
    ],
)
def test_a_certificate_that_is_of_no_use_is_not_taken(pem: bytes, said: str) -> None:
    with pytest.raises(AcmeError, match=said):
        checked_chain(pem, KEY, NAMES, NOW_US + 86_400_000_000)


def test_only_certificates_get_out_of_an_answer() -> None:
    noise = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    assert checked_chain(noise + issued() + noise, KEY, NAMES, NOW_US).count(b"-----BEGIN") == 1


# -- words and keys ----------------------------------------------------------------------------------------------------


def test_every_type_of_error_of_the_standard_has_a_meaning() -> None:
    # RFC 8555 section 6.7 and the registry behind it
    assert len(MEANINGS) >= 22
    assert all(meaning[0].islower() and meaning[-1] != "." for meaning in MEANINGS.values())


def test_several_names_are_told_apart() -> None:
    whole = Problem(
        type="urn:ietf:params:acme:error:compound",
        subproblems=tuple(
            Subproblem("urn:ietf:params:acme:error:dns", "NXDOMAIN", Identifier(value=name)) for name in "abcdefgh"
        ),
    )
    words = whole.words()
    assert words.startswith("several things were wrong; a: it could not find the name in DNS")
    assert words.count("NXDOMAIN") == 5


def test_texts_of_strangers_are_short_and_harmless() -> None:
    assert plain("a\r\nb\x1b[0m\x00") == "a b [0m"
    assert len(plain("x" * 10_000)) == 300
    assert joined(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_a_key_is_kept_and_a_strange_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "account.key"
    first = kept_key(file)
    assert kept_key(file).private_numbers() == first.private_numbers()
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("junk")
    with pytest.raises(ValueError, match="PEM"):
        kept_key(file)


def test_thumbprint_of_the_standard() -> None:
    """RFC 7638 defines it for any key; the value for RFC 7517's example EC key was computed with OpenSSL's digest."""
    import base64
    import hashlib

    x, y = "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"
    canonical = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    wanted = base64.urlsafe_b64encode(hashlib.sha256(canonical.encode()).digest()).rstrip(b"=").decode()

    private = "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"
    number = int.from_bytes(base64.urlsafe_b64decode(private + "="))
    key = ec.derive_private_key(number, ec.SECP256R1())
    assert thumbprint(key) == wanted
    assert b'"payload":""' in signed(key, {}, b"")


# -- over sockets ------------------------------------------------------------------------------------------------------


class Web:
    """Answers every connection with the same octets."""

    def __init__(self, octets: bytes) -> None:
        self.octets = octets
        self.heads: list[bytes] = []

    async def __aenter__(self) -> str:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.octets)
        writer.close()


async def test_requests_carry_what_the_standard_asks_for() -> None:
    web = Web(b"HTTP/1.1 200 OK\r\nReplay-Nonce: n1\r\nContent-Length: 2\r\n\r\nok")
    async with web as url, connected(url) as send:
        assert await send("POST", f"{url}/order", b"{}") == Answer(
            200, {"replay-nonce": "n1", "content-length": "2"}, b"ok"
        )
    head = web.heads[0].lower()
    assert head.startswith(b"post /order http/1.1\r\n")
    assert b"\r\ncontent-type: application/jose+json\r\n" in head
    assert b"\r\nuser-agent: postroad/" in head


@pytest.mark.parametrize(
    "octets, said",
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * (ANSWER_MAX + 2), "longer than"),
        (b"junk\r\n\r\n", "could not be reached"),
        (b"", "could not be reached"),
    ],
)
async def test_web_servers_that_are_none(octets: bytes, said: str) -> None:
    async with Web(octets) as url, connected(url) as send:
        with pytest.raises(AcmeError, match=said):
            await send("GET", url, None)


async def test_redirections_are_not_followed() -> None:
    web = Web(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
    async with web as url, connected(url) as send:
        assert (await send("GET", url, None)).status == 302


async def test_only_https_once_the_directory_is_https(tmp_path: Path) -> None:
    async with connected(DIRECTORY) as send:
        with pytest.raises(AcmeError, match="names a URL that is not https"):
            await send("GET", "http://127.0.0.1/", None)
    with pytest.raises(AcmeError, match=r"acme.ca_file .* cannot be used"):
        async with connected(DIRECTORY, str(tmp_path / "none.pem")):
            pass
