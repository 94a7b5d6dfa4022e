"""Signatures as other programs see them: dkimpy and OpenDKIM verify both over every nasty message."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from postroad.trust.dkim.canonical import body_hash
from postroad.trust.dkim.keys import ED25519, SigningKey
from postroad.trust.dkim.sign import FIELDS_MAX, SIGNED, Unsignable, covered, signature_fields
from postroad.wire.mime.headers import HeaderIndex
from tests import programs
from tests.trust.dkim.nasty import FROM, NASTY, PLAIN, message
from tests.trust.dkim.pairs import pair, private, records

AT_S = 1_790_000_000


def signed(fields: bytes, body: bytes, domain: str = "example.com", **changes: int) -> bytes:
    """The whole message with both signatures."""
    made = signature_fields(HeaderIndex(fields), body_hash(body), domain, pair(), at_s=AT_S, **changes)
    return made + message(fields, body)


def dkimpy_says(octets: bytes, number: int, domain: str = "example.com") -> bool:
    """Whether signature `number` verifies with the keys that `domain` publishes."""
    import dkim

    def answer(name: bytes, timeout: int = 5) -> bytes | None:
        return records(domain).get(name.decode().rstrip("."), "").encode() or None

    try:
        return bool(dkim.DKIM(octets).verify(number, dnsfunc=answer))
    except dkim.ValidationError:
        return False


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NASTY)
def test_dkimpy_verifies_both(name: str) -> None:
    octets = signed(*NASTY[name])
    assert [dkimpy_says(octets, number) for number in (0, 1)] == [True, True]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dkimpy_finds_what_was_changed() -> None:
    """The oracle says no when it should, so its yes means something."""
    octets = signed(PLAIN, b"Hi.\r\n")
    for was, now in ((b"Dinner", b"Supper"), (b"Hi.", b"Ho."), (b"Subject:", b"Reply-To: eve@example.org\r\nSubject:")):
        changed = octets.replace(was, now)
        assert [dkimpy_says(changed, number) for number in (0, 1)] == [False, False]


def opendkim(folder: Path, *messages: Path) -> str:
    """What Debian's OpenDKIM writes into Authentication-Results for each."""
    (folder / "keys").write_text("".join(f"{name} {text}\n" for name, text in records().items()))
    (folder / "conf").write_text(
        f"Mode v\nTestPublicKeys {folder}/keys\nSyslog no\nRequireSafeKeys no\nBackground no\n"
    )
    command = [str(programs.needs_program("opendkim")), "-x", str(folder / "conf"), "-vvv"]
    done = subprocess.run(
        [*command, "-t", ",".join(map(str, messages))], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.needs_program("opendkim")
def test_opendkim_verifies_both(tmp_path: Path) -> None:
    files = []
    for number, parts in enumerate(NASTY.values()):
        files.append(tmp_path / f"{number}.eml")
        files[-1].write_bytes(signed(*parts))
    said = opendkim(tmp_path, *files).split("### INSHEADER")[1:]
    verdicts = {name: re.findall(r"dkim=(\w+)", text) for name, text in zip(NASTY, said, strict=True)}
    assert verdicts == {name: ["pass", "pass"] for name in NASTY}


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.needs_program("opendkim")
def test_opendkim_finds_what_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "changed.eml"
    path.write_bytes(signed(PLAIN, b"Hi.\r\n").replace(b"Dinner", b"Supper"))
    assert re.findall(r"dkim=(\w+)", opendkim(tmp_path, path)) == ["fail", "fail"]


# -- their form --------------------------------------------------------------------------------------------------------


def tags(field: bytes) -> dict[str, str]:
    text = field.decode().partition(":")[2].replace("\r\n", "")
    pairs = [part.partition("=") for part in text.split(";")]
    return {name.strip(): re.sub(r"\s", "", value) for name, _, value in pairs}


def both(fields: bytes, **changes: int) -> list[bytes]:
    made = signature_fields(HeaderIndex(fields), body_hash(b""), "example.com", pair(), at_s=AT_S, **changes)
    return re.findall(rb"DKIM-Signature:(?:[^\r]|\r\n[ \t])*\r\n", made)


def test_one_field_for_each_key_over_one_body_hash() -> None:
    rsa, ed25519 = (tags(field) for field in both(PLAIN))
    assert (rsa["a"], ed25519["a"]) == ("rsa-sha256", "ed25519-sha256")
    assert (rsa["s"], ed25519["s"]) == ("pr202611r", "pr202611e")
    assert rsa["v"] == ed25519["v"] == "1"
    assert rsa["c"] == "relaxed/relaxed"
    assert rsa["d"] == "example.com"
    assert rsa["bh"] == ed25519["bh"]
    assert rsa["t"] == str(AT_S)
    assert "x" not in rsa
    assert "l" not in rsa


def test_a_signature_may_end() -> None:
    assert tags(both(PLAIN, expires_s=AT_S + 60)[0])["x"] == str(AT_S + 60)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_one_that_ends_verifies_before() -> None:
    octets = signed(PLAIN, b"Hi.\r\n", expires_s=AT_S * 2)
    assert dkimpy_says(octets, 0)


@pytest.mark.parametrize("name", NASTY)
def test_no_line_is_longer_than_it_may_be(name: str) -> None:
    for field in both(NASTY[name][0], expires_s=AT_S + 1):
        lines = field.removesuffix(b"\r\n").split(b"\r\n")
        assert max(len(line.expandtabs(8)) for line in lines) <= 78
        assert all(line.strip() for line in lines), "RFC 5322 section 3.2.2: no line of blanks only"


def test_every_field_is_signed_once_more_than_it_stands_there() -> None:
    """RFC 6376 section 8.15: a second Subject put before the first would be shown and not be signed."""
    names = tags(both(PLAIN)[0])["h"].split(":")
    assert [names.count(name) for name in ("From", "To", "Subject", "Date", "Message-ID")] == [2] * 5
    assert [names.count(name) for name in ("Cc", "Reply-To", "MIME-Version", "Content-Type")] == [1] * 4
    assert "List-Unsubscribe" not in names
    listed = tags(both(NASTY["mailing list"][0])[0])["h"].split(":")
    assert [listed.count(name) for name in ("List-Id", "List-Unsubscribe", "List-Unsubscribe-Post")] == [2] * 3


def test_of_several_the_last_is_signed_first() -> None:
    """RFC 6376 section 5.4.2."""
    _, octets = covered(HeaderIndex(FROM + b"Cc: one\r\nCc: two\r\n"))
    assert octets.index(b"cc:two") < octets.index(b"cc:one")


def test_the_fields_of_a_tls_report_are_covered_where_they_are() -> None:
    """RFC 8460 section 5.3: "These additional headers SHOULD be included in the DKIM [RFC6376] signature"."""
    names, _ = covered(HeaderIndex(FROM + b"TLS-Report-Domain: a.test\r\nTLS-Report-Submitter: b.test\r\n"))
    assert [name for name in names if name.startswith("TLS-Report-")] == [
        "TLS-Report-Domain", "TLS-Report-Domain", "TLS-Report-Submitter", "TLS-Report-Submitter",
    ]  # fmt: skip
    assert "TLS-Report-Domain" not in covered(HeaderIndex(FROM))[0]


def test_what_changes_on_the_way_is_not_signed() -> None:
    names = {rule.name.lower() for rule in SIGNED}
    assert names.isdisjoint({"received", "return-path", "delivered-to", "dkim-signature", "authentication-results"})
    assert covered(HeaderIndex(PLAIN)) == covered(HeaderIndex(b"Received: by x\r\nReturn-Path: <>\r\n" + PLAIN))


@pytest.mark.parametrize("fields", [b"", b"To: b@example.net\r\n", FROM + FROM, FROM + b"To: x\r\n" * (FIELDS_MAX + 1)])
def test_what_nobody_could_believe_is_not_signed(fields: bytes) -> None:
    with pytest.raises(Unsignable):
        covered(HeaderIndex(fields))


def test_a_key_shows_nothing_of_itself() -> None:
    key = SigningKey.load("s", ED25519, private(ED25519))
    assert repr(key) == "SigningKey(s, ed25519)"


def test_the_same_octets_give_the_same_signature() -> None:
    """PKCS #1 v1.5 and Ed25519 know no chance, so a message that is signed again leaves as before."""
    assert both(PLAIN) == both(PLAIN)
