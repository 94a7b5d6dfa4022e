"""Published signatures, checked through our canonical forms: what verifies there is what we would have hashed."""

from __future__ import annotations

import base64
import hashlib
import re
from types import SimpleNamespace

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from postroad.trust.dkim import canonical
from postroad.trust.dkim.canonical import body_hash, relaxed_field, simple_field
from postroad.trust.dkim.keys import KeyRecord, parse_record
from postroad.wire.mime.headers import HeaderIndex, split_header
from tests.testdata import testdata

RFC6376_BODY = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"
RFC8463_HEADER = (
    b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n"
    b" d=football.example.com; i=@football.example.com;\r\n"
    b" q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n"
    b" subject : date : message-id : from : subject : date;\r\n"
    b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
    b" b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\r\n"
    b" Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\r\n"
    b"From: Joe SixPack <joe@football.example.com>\r\n"
    b"To: Suzie Q <suzie@shopping.example.net>\r\n"
    b"Subject: Is dinner ready?\r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
    b"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n"
)
RFC8463_KEY = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


def test_the_signature_of_rfc_8463() -> None:
    """Appendix A.3 of RFC 8463."""
    assert verdict(RFC8463_HEADER, RFC6376_BODY, 0, {"brisbane._domainkey.football.example.com": RFC8463_KEY})


def test_a_changed_message_does_not_verify() -> None:
    keys = {"brisbane._domainkey.football.example.com": RFC8463_KEY}
    assert not verdict(RFC8463_HEADER.replace(b"dinner", b"supper"), RFC6376_BODY, 0, keys)
    assert not verdict(RFC8463_HEADER, RFC6376_BODY.replace(b"game", b"match"), 0, keys)


def published() -> dict[str, str]:
    """The zone of the public suite."""
    found = {}
    for line in (testdata("dkim/mail-dkim") / "FAKE_DNS.dat").read_text("latin-1").split("\n"):
        name, _, text = line.partition(" ")
        if text.strip() and not name.startswith("#"):
            found[name.lower()] = re.sub(r'"\s*"', "", text.strip()).strip('"')
    return found


def test_good_messages_of_the_public_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every message that is expected to pass and has no l=; those of old with SHA-1 in the place of SHA-256."""
    folder = testdata("dkim/mail-dkim")
    keys, seen = published(), 0
    for path in sorted((folder / "corpus").glob("good_*.txt")):
        octets = re.sub(rb"\r?\n", b"\r\n", path.read_bytes())
        end, start = split_header(octets)
        header, body = octets[:end], octets[start:]
        index = HeaderIndex(header)
        verdicts = []
        for at, name in enumerate(index.names):
            if name == b"dkim-signature" and usable(tags(index.raw_value(at)), keys):
                made = hashlib.sha1 if "sha1" in tags(index.raw_value(at))["a"] else hashlib.sha256
                monkeypatch.setattr(canonical, "hashlib", SimpleNamespace(sha256=made))
                verdicts.append(verdict(header, body, at, keys))
        assert not verdicts or any(verdicts), path.name
        seen += any(verdicts)
    assert seen == 9


# -- a verifier of a page ----------------------------------------------------------------------------------------------


def tags(value: bytes) -> dict[str, str]:
    pairs = [part.partition("=") for part in value.decode("latin-1").replace("\r\n", "").split(";")]
    return {name.strip(): re.sub(r"\s", "", text) for name, _, text in pairs if name.strip()}


def usable(signature: dict[str, str], keys: dict[str, str]) -> bool:
    name = f"{signature.get('s')}._domainkey.{signature.get('d')}".lower()
    return "bh" in signature and "l" not in signature and name in keys


def verdict(header: bytes, body: bytes, at: int, keys: dict[str, str]) -> bool:
    """Whether field number `at` of the header is a signature that verifies."""
    index = HeaderIndex(header)
    signature = tags(index.raw_value(at))
    of_header, _, of_body = signature.get("c", "simple").partition("/")
    relaxed = of_header == "relaxed"
    if base64.b64decode(signature["bh"]) != body_hash(body, relaxed=of_body == "relaxed"):
        return False
    signed = b""
    used: set[int] = set()
    for name in signature["h"].lower().encode().split(b":"):
        for other in reversed(range(len(index))):
            if index.names[other] == name and other not in used:
                used.add(other)
                raw = index.raw_field(other)
                signed += relaxed_field(name, index.raw_value(other)) if relaxed else simple_field(raw)
                break
    own = re.sub(rb"(;\s*b\s*=)[^;]*", rb"\1", index.raw_field(at).removesuffix(b"\r\n"))
    signed += relaxed_field(b"dkim-signature", own.partition(b":")[2])[:-2] if relaxed else own
    record = parse_record(keys[f"{signature['s']}._domainkey.{signature['d']}".lower()])
    digest = SHA1() if signature["a"].endswith("sha1") else SHA256()
    return holds(record, signed, base64.b64decode(signature["b"]), digest)


def holds(record: KeyRecord, signed: bytes, signature: bytes, digest: HashAlgorithm) -> bool:
    try:
        if record.algorithm == "ed25519":
            key = ed25519.Ed25519PublicKey.from_public_bytes(record.public)
            key.verify(signature, hashlib.sha256(signed).digest())
        else:
            public = load_der_public_key(record.public)
            assert isinstance(public, rsa.RSAPublicKey)
            public.verify(signature, signed, padding.PKCS1v15(), digest)
    except InvalidSignature:
        return False
    return True


@pytest.mark.parametrize("selector", ["brisbane"])
def test_the_signed_message_of_rfc_6376_in_simple_form(selector: str) -> None:
    folder = testdata("dkim/dkimpy")
    octets = re.sub(rb"\r?\n", b"\r\n", (folder / "rfc6376.signed.msg").read_bytes())
    end, start = split_header(octets)
    assert verdict(octets[:end], octets[start:], 0, {f"{selector}._domainkey.football.example.com": RFC8463_KEY})
