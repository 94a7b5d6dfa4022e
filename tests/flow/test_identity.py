"""The records that a domain needs, and that their zone text means what it should."""

from __future__ import annotations

from typing import Any

import dns.rdatatype
import dns.zone
import pytest

from postroad.flow.identity import (
    Identity,
    PublicKey,
    absolute,
    offered_ports,
    policy_id,
    policy_text,
    reverse_name,
    split_text,
    wanted,
    zone_text,
)
from postroad.trust.dkim.keys import ALGORITHMS, public_octets
from tests.trust.dkim.pairs import SELECTORS, private

PORTS = (("submissions", 465), ("imaps", 993), ("pop3s", 995))


def keys() -> tuple[PublicKey, ...]:
    return tuple(PublicKey(SELECTORS[alg], alg, public_octets(alg, private(alg))) for alg in ALGORITHMS)


def identity(**changes: Any) -> Identity:
    fields: dict[str, Any] = {
        "domain": "example.com", "hostname": "mail.example.com", "sources": ("192.0.2.7", "2001:db8::7"),
        "keys": keys(), "ports": PORTS,
    }  # fmt: skip
    return Identity(**(fields | changes))


def values(made: Identity) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for record in wanted(made):
        found.setdefault(record.record, []).append(f"{record.name} {record.kind} {record.value}")
    return found


def test_every_record_is_there() -> None:
    found = values(identity())
    assert found["mx"] == ["example.com MX 10 mail.example.com"]
    assert found["address"] == ["mail.example.com A 192.0.2.7", "mail.example.com AAAA 2001:db8::7"]
    assert found["spf"] == ["example.com TXT v=spf1 mx ip4:192.0.2.7 ip6:2001:db8::7 ~all"]
    assert found["spf-host"] == ["mail.example.com TXT v=spf1 ip4:192.0.2.7 ip6:2001:db8::7 -all"]
    assert [text.partition(" p=")[0] for text in found["dkim"]] == [
        "pr202611r._domainkey.example.com TXT v=DKIM1; k=rsa;",
        "pr202611e._domainkey.example.com TXT v=DKIM1; k=ed25519;",
    ]
    assert found["dmarc"] == ["_dmarc.example.com TXT v=DMARC1; p=none; rua=mailto:postmaster@example.com"]
    assert found["mta-sts"] == [f"_mta-sts.example.com TXT v=STSv1; id={policy_id(identity())}"]
    assert found["policy-host"] == ["mta-sts.example.com CNAME mail.example.com"]
    assert found["tls-rpt"] == ["_smtp._tls.example.com TXT v=TLSRPTv1; rua=mailto:postmaster@example.com"]
    assert found["ptr"][0] == "7.2.0.192.in-addr.arpa PTR mail.example.com"
    assert found["srv"] == [
        "_submissions._tcp.example.com SRV 0 1 465 mail.example.com",
        "_imaps._tcp.example.com SRV 0 1 993 mail.example.com",
        "_pop3s._tcp.example.com SRV 20 1 995 mail.example.com",
    ]
    assert found["autoconfig"] == [
        "autoconfig.example.com CNAME mail.example.com",
        "autodiscover.example.com CNAME mail.example.com",
    ]


@pytest.mark.parametrize(
    "changes",
    [{}, {"sources": ()}, {"sources": ("10.0.0.7",)}, {"hostname": "mail.other.test"}, {"keys": ()}, {"ports": ()}],
)
def test_zone_text_is_read_back_by_a_nameserver(changes: dict[str, Any]) -> None:
    made = identity(**changes)
    text = "@ 3600 IN SOA ns hostmaster 1 1 1 1 1\n@ 3600 IN NS ns.example.net.\n" + zone_text(made)
    zone = dns.zone.from_text(text, origin="example.com.", relativize=False)
    for record in wanted(made):
        name = f"{record.name}."
        if not name.endswith("example.com.") or not record.value:
            assert record.name in text or record.record in ("ptr", "address")
            continue
        rdataset = zone.find_rdataset(name, dns.rdatatype.from_text(record.kind))
        if record.kind == "TXT":
            strings = [b"".join(found.strings).decode() for found in rdataset]
            assert record.value in strings
            assert all(len(part) <= 255 for found in rdataset for part in found.strings)
        else:
            assert absolute(record.kind, record.value) in [found.to_text() for found in rdataset]


def test_what_belongs_to_another_zone_is_a_remark() -> None:
    lines = zone_text(identity(hostname="mail.other.test")).split("\n")
    assert "; mail.other.test. 3600 IN A 192.0.2.7" in lines
    assert "; 7.2.0.192.in-addr.arpa. 3600 IN PTR mail.other.test." in lines
    assert not any(line.startswith("mail.other.test") for line in lines)


def test_addresses_that_nobody_sees_are_not_published() -> None:
    found = values(identity(sources=("10.0.0.7", "127.0.0.1", "fd00::1")))
    assert found["spf"] == ["example.com TXT v=spf1 mx a:mail.example.com ~all"]
    assert found["spf-host"] == ["mail.example.com TXT v=spf1 a -all"]
    assert found["address"] == ["mail.example.com A "]
    assert "spf-host" not in values(identity(hostname="mail.other.test"))


def test_a_smarthost_is_spoken_of() -> None:
    [spf] = [record for record in wanted(identity(next_hop="smtp.provider.test:587")) if record.record == "spf"]
    assert "smtp.provider.test:587" in spf.note


def test_the_policy_names_the_host_and_its_id_follows_it() -> None:
    """RFC 8461 section 3.2."""
    assert policy_text(identity()).split("\r\n") == [
        "version: STSv1", "mode: testing", "mx: mail.example.com", "max_age: 604800", "",
    ]  # fmt: skip
    assert policy_id(identity()) == policy_id(identity(sources=()))
    assert policy_id(identity()) != policy_id(identity(hostname="mx.example.com"))
    assert policy_id(identity()).isalnum()
    assert len(policy_id(identity())) <= 32


def test_texts_are_split_at_255_octets() -> None:
    """RFC 1035 section 3.3."""
    assert [len(part) for part in split_text("x" * 600)] == [255, 255, 90]
    assert split_text("") == [""]


@pytest.mark.parametrize(
    "address, name",
    [
        ("192.0.2.7", "7.2.0.192.in-addr.arpa"),
        ("2001:db8::7", "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"),
    ],
)
def test_names_of_addresses(address: str, name: str) -> None:
    assert reverse_name(address) == name


def test_ports_come_from_the_listeners() -> None:
    listen = [("imaps", [":993"]), ("imap", []), ("pop3s", ["127.0.0.1:0", "[::]:1995"]), ("submission", [":0"])]
    assert offered_ports(listen) == (("imaps", 993), ("pop3s", 1995))
