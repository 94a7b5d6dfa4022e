"""DANE as a pure question: which records count, and which chains fit them."""

from __future__ import annotations

import datetime
import hashlib

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from postroad.trust import chain as certificates
from postroad.trust.dane import Tlsa, authenticate, read, usable
from tests.fakes.certificates import NOW, Cert, authority, server

ROOT = authority("Root")
MIDDLE = authority("Middle", ROOT, room=0)
LEAF = server("mx.dane.test", issuer=MIDDLE)
HOSTS = ("mx.dane.test", "dane.test")


def tlsa(usage: int, selector: int, matching: int, cert: Cert) -> bytes:
    """RDATA that names a certificate or its key."""
    octets = cert.der if selector == 0 else cert.key_info
    digest = {0: octets, 1: hashlib.sha256(octets).digest(), 2: hashlib.sha512(octets).digest()}[matching]
    return bytes([usage, selector, matching]) + digest


def fits(chain: list[bytes], *rdatas: bytes, hosts: tuple[str, ...] = HOSTS) -> str:
    return authenticate(chain, usable(rdatas), hosts, NOW)


# -- which records count -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rdata, counts",
    [
        (b"", False),
        (b"\x03", False),
        (b"\x03\x01\x01", False),
        (bytes([3, 1, 1]) + bytes(32), True),
        (bytes([3, 1, 1]) + bytes(31), False),
        (bytes([3, 1, 2]) + bytes(64), True),
        (bytes([3, 1, 2]) + bytes(32), False),
        (bytes([2, 0, 1]) + bytes(32), True),
        (bytes([3, 0, 0]) + b"x", True),
        # RFC 7672 section 3.1.3: PKIX-TA(0) and PKIX-EE(1) are unusable for SMTP.
        (bytes([0, 0, 1]) + bytes(32), False),
        (bytes([1, 1, 1]) + bytes(32), False),
        (bytes([4, 1, 1]) + bytes(32), False),
        (bytes([255, 1, 1]) + bytes(32), False),
        (bytes([3, 2, 1]) + bytes(32), False),
        (bytes([3, 1, 3]) + bytes(32), False),
        (bytes([3, 1, 255]) + bytes(32), False),
    ],
)
def test_row_d9_which_records_are_usable(rdata: bytes, counts: bool) -> None:
    assert bool(usable([rdata])) is counts


def test_of_two_digests_the_stronger_counts_alone() -> None:
    """RFC 7671 section 9."""
    weak, strong = tlsa(3, 1, 1, LEAF), tlsa(3, 1, 2, server("other.test"))
    assert [record.matching for record in usable([weak, strong])] == [2]
    assert fits(LEAF.chain, weak, strong) == "its certificate does not match its TLSA records"
    # Only within the same usage and selector, and an unusable strong one counts not at all.
    assert len(usable([weak, tlsa(3, 0, 2, LEAF), tlsa(2, 1, 2, ROOT)])) == 3
    assert fits(LEAF.chain, weak, bytes([3, 1, 2]) + b"short") == ""
    # The whole key beside a digest of another one: both count.
    assert fits(LEAF.chain, tlsa(3, 1, 0, LEAF), strong) == ""


def test_a_record_for_people_is_short() -> None:
    record = read(tlsa(3, 0, 0, LEAF))
    assert record is not None
    assert str(record).startswith("3 0 0 30")
    assert len(str(record)) <= 6 + 128


# -- DANE-EE(3) --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_the_servers_own_certificate_or_key(selector: int, matching: int) -> None:
    assert fits(LEAF.chain, tlsa(3, selector, matching, LEAF)) == ""
    assert fits(LEAF.chain, tlsa(3, selector, matching, MIDDLE)) != ""
    assert fits(LEAF.chain, tlsa(3, selector, matching, MIDDLE), tlsa(3, selector, matching, LEAF)) == ""


def test_names_and_dates_do_not_matter_for_the_servers_own() -> None:
    """RFC 7672 section 3.1.1."""
    old = server("other.test", days=(-10, -5))
    assert fits(old.chain, tlsa(3, 1, 1, old)) == ""


# -- DANE-TA(2) --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
@pytest.mark.parametrize("above", [ROOT, MIDDLE])
def test_an_authority_in_the_chain(above: Cert, selector: int, matching: int) -> None:
    assert fits(LEAF.chain, tlsa(2, selector, matching, above)) == ""


def test_an_authority_that_the_server_does_not_send_counts_if_dns_has_it_whole() -> None:
    """RFC 7671 sections 5.2.2 and 5.2.3."""
    short = [LEAF.der, MIDDLE.der]
    assert fits(short, tlsa(2, 0, 0, ROOT)) == ""
    assert fits(short, tlsa(2, 1, 0, ROOT)) == ""
    assert "no certificate that it sent leads" in fits(short, tlsa(2, 0, 1, ROOT))
    assert "no certificate that it sent leads" in fits([LEAF.der], tlsa(2, 0, 1, MIDDLE))


@pytest.mark.parametrize("kind", ["rsa", "ed25519", "ec"])
def test_keys_of_every_kind_sign(kind: str) -> None:
    above = authority("Any", key=kind)
    leaf = server("mx.dane.test", issuer=above, key=kind)
    assert fits(leaf.chain, tlsa(2, 0, 1, above)) == ""
    assert fits([leaf.der], tlsa(2, 1, 0, above)) == ""
    assert fits([server("mx.dane.test", issuer=authority("Any", key=kind)).der], tlsa(2, 1, 0, above)) != ""


def test_the_order_of_the_chain_does_not_matter() -> None:
    assert fits([LEAF.der, ROOT.der, MIDDLE.der], tlsa(2, 1, 1, ROOT)) == ""


@pytest.mark.parametrize(
    "names, hosts, good",
    [
        (("mx.dane.test",), HOSTS, True),
        (("dane.test",), HOSTS, True),
        (("other.test",), HOSTS, False),
        (("*.dane.test",), HOSTS, True),
        (("*.dane.test",), ("a.mx.dane.test",), False),
        # A star for a whole top-level domain is nobody's name.
        (("*.test",), ("mx.test",), False),
        (("*.test",), ("test",), False),
        (("m*.dane.test",), ("mx.dane.test",), False),
        (("MX.Dane.TEST",), HOSTS, True),
    ],
)
def test_names_of_a_server_below_an_authority(names: tuple[str, ...], hosts: tuple[str, ...], good: bool) -> None:
    """RFC 7672 section 3.2.3: MX host and next-hop domain are reference identifiers."""
    leaf = server(*names, issuer=ROOT)
    said = fits(leaf.chain, tlsa(2, 0, 1, ROOT), hosts=hosts)
    assert said == ("" if good else f"its certificate does not name {' or '.join(hosts)}")


def test_a_common_name_counts_only_without_other_names() -> None:
    assert fits(server(issuer=ROOT, common_name="mx.dane.test").chain, tlsa(2, 0, 1, ROOT)) == ""
    both = server("other.test", issuer=ROOT, common_name="mx.dane.test")
    assert "does not name" in fits(both.chain, tlsa(2, 0, 1, ROOT))


@pytest.mark.parametrize(
    "leaf, why",
    [
        (server("mx.dane.test", issuer=ROOT, days=(-9, -1)), "has expired"),
        (server("mx.dane.test", issuer=ROOT, days=(1, 9)), "not valid yet"),
        (server("mx.dane.test", issuer=ROOT, usage=ExtendedKeyUsageOID.CLIENT_AUTH), "not for servers"),
        (server("mx.dane.test", issuer=ROOT, strange=True), "not for servers"),
    ],
)
def test_what_else_is_wrong_with_a_server(leaf: Cert, why: str) -> None:
    assert why in fits(leaf.chain, tlsa(2, 0, 1, ROOT))


@pytest.mark.parametrize(
    "between",
    [
        authority("No authority", ROOT, ca=False),
        authority("Old", ROOT, days=(-9, -1)),
        authority("Above one", authority("Narrow", ROOT, room=0)),
    ],
)
def test_a_certificate_that_may_not_issue_leads_nowhere(between: Cert) -> None:
    leaf = server("mx.dane.test", issuer=between)
    assert "no certificate that it sent leads" in fits(leaf.chain, tlsa(2, 0, 1, ROOT))


def test_an_authority_issues_within_its_names() -> None:
    inside = authority("Inside", ROOT, permitted="dane.test")
    assert fits(server("mx.dane.test", issuer=inside).chain, tlsa(2, 0, 1, ROOT)) == ""
    other = authority("Elsewhere", ROOT, permitted="elsewhere.test")
    said = fits(server("mx.dane.test", issuer=other).chain, tlsa(2, 0, 1, ROOT))
    assert said == "the authority may not issue for its name"


def test_a_stranger_with_the_same_name_is_no_authority() -> None:
    forged = server("mx.dane.test", issuer=authority("Root"))
    assert "leads to the authority" in fits([forged.der, ROOT.der], tlsa(2, 0, 1, ROOT))


def test_authorities_that_sign_each_other_end() -> None:
    first = authority("First")
    crossed = [authority(f"Crossed {number}", first) for number in range(8)]
    leaf = server("mx.dane.test", issuer=crossed[0])
    chain = [leaf.der, *(one.der for one in crossed), first.der]
    assert "leads to the authority" in fits(chain, tlsa(2, 0, 1, ROOT))


def test_the_server_itself_is_no_authority() -> None:
    alone = server("mx.dane.test")
    assert fits(alone.chain, tlsa(2, 0, 1, alone)) != ""


# -- octets of strangers -----------------------------------------------------------------------------------------------


def test_nothing_and_junk_prove_nothing() -> None:
    assert fits([], tlsa(3, 1, 1, LEAF)) == "the host sent no certificate"
    assert fits([b"junk"], tlsa(3, 1, 1, LEAF)) != ""
    assert fits([b"junk"], tlsa(2, 1, 1, ROOT)) == "its certificate cannot be read"
    assert fits([LEAF.der, b"junk", MIDDLE.der], tlsa(2, 1, 1, MIDDLE)) == ""


def test_the_key_of_a_certificate_as_it_stands_there() -> None:
    for kind in ("ec", "rsa", "ed25519"):
        made = server("mx.dane.test", key=kind)
        assert certificates.public_key_of(made.der) == made.key_info


@given(st.binary(max_size=64))
def test_any_octets_are_a_record_or_none(rdata: bytes) -> None:
    """Class E10: Postfix 20260524 and 20260531 died of malformed TLSA records."""
    assert isinstance(read(rdata), Tlsa) is (len(rdata) > 3)
    usable([rdata])


@given(st.integers(0, len(LEAF.der) - 1), st.integers(0, 255))
def test_a_damaged_certificate_raises_nothing(place: int, octet: int) -> None:
    """Class E10."""
    damaged = bytearray(LEAF.der)
    damaged[place] = octet
    certificates.public_key_of(bytes(damaged))
    certificates.public_key_of(bytes(damaged[:place]))
    fits([bytes(damaged), *LEAF.chain[1:]], tlsa(2, 1, 1, ROOT), tlsa(3, 1, 1, LEAF))


def test_the_time_is_an_argument() -> None:
    later = NOW + datetime.timedelta(days=60)
    long_lived = authority("Long", days=(-1, 90))
    leaf = server("mx.dane.test", issuer=long_lived)
    records = usable([tlsa(2, 0, 1, long_lived)])
    assert authenticate(leaf.chain, records, HOSTS, NOW) == ""
    assert "has expired" in authenticate(leaf.chain, records, HOSTS, later)
