"""Addresses: what is one, what it means, and that nothing else can become one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.values.address import Address, AddressError, domain_to_ascii


def test_the_parts_of_a_plain_address() -> None:
    anna = Address.parse("Anna.B+tag@Mail.Example.ORG")
    assert (anna.local, anna.domain) == ("Anna.B+tag", "mail.example.org")
    assert str(anna) == anna.to_ascii() == "Anna.B+tag@mail.example.org"
    assert anna.key == "anna.b+tag@mail.example.org"
    assert anna.detail() == ("Anna.B", "tag")


@pytest.mark.parametrize(
    ("text", "local", "written"),
    [
        ('"anna"@x.test', "anna", "anna@x.test"),
        ('"a b"@x.test', "a b", '"a b"@x.test'),
        (r'"a\"b"@x.test', 'a"b', r'"a\"b"@x.test'),
        (r'"a\\b"@x.test', "a\\b", r'"a\\b"@x.test'),
        (r'"\a\b"@x.test', "ab", "ab@x.test"),
        ('""@x.test', "", '""@x.test'),
        ('"a@b"@x.test', "a@b", '"a@b"@x.test'),
        ('"a..b"@x.test', "a..b", '"a..b"@x.test'),
    ],
)
def test_quoting_is_spelling_not_meaning(text: str, local: str, written: str) -> None:
    address = Address.parse(text)
    assert address.local == local
    assert str(address) == written
    assert Address.parse(written) == address


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("a@[192.0.2.1]", "[192.0.2.1]"),
        ("a@[IPv6:2001:DB8:0:0:0:0:0:1]", "[IPv6:2001:db8::1]"),
        ("a@[ipv6:::1]", "[IPv6:::1]"),
    ],
)
def test_literals_have_one_spelling(text: str, domain: str) -> None:
    assert Address.parse(text).domain == domain


@pytest.mark.parametrize(
    "text",
    [
        "a@[192.0.2.01]",
        "a@[IPv6:fe80::1%eth0]",
        "a@[x:y]",
        "a@[]",
        "a@[IPv6:]",
        "a@[192.0.2.1",
        "a@b.",
        "a@b_c.test",
        "a@" + "x" * 64 + ".test",
        "a@" + "x.test." * 40 + "test",
        "x" * 65 + "@b.test",
        "a@b@c.test",
        "<a@b.test>",
        "a b@c.test",
        "",
        "@",
    ],
)
def test_refused_as_recipient_with_5_1_3(text: str) -> None:
    with pytest.raises(AddressError) as refused:
        Address.parse(text, utf8=True)
    assert refused.value.enhanced == "5.1.3"


@pytest.mark.parametrize("text", ["ä@x.test", "a@bücher.example", '"ä"@x.test'])
def test_s50_text_beyond_ascii_needs_smtputf8(text: str) -> None:
    with pytest.raises(AddressError) as refused:
        Address.parse(text)
    assert refused.value.enhanced == "5.6.7"
    assert str(Address.parse(text, utf8=True)) == text.replace('"', "")


@pytest.mark.parametrize("octet", [chr(code) for code in (*range(32), 127)])
@pytest.mark.parametrize(
    "pattern", ["a{}b@x.test", '"a{}b"@x.test', '"a\\{}b"@x.test', "a@x{}y.test", "{}a@x.test", "a@x.test{}"]
)
def test_s49_no_control_character_anywhere(octet: str, pattern: str) -> None:
    with pytest.raises(AddressError):
        Address.parse(pattern.format(octet), utf8=True)


@pytest.mark.parametrize(
    "local", ["a\rb", "a\nb", "a\0b", "a\x7fb", "a\x85b", "a\u2028b", "a\u202eb", "a\ud800b", "a\u200bb"]
)
def test_no_control_character_by_construction(local: str) -> None:
    """Class E5: an address cannot hold what would end a line of SMTP or of a header."""
    with pytest.raises(AddressError):
        Address(local, "x.test")


@pytest.mark.parametrize("domain", ["x\r\ny.test", "X.test", "", "x..y", "[1.2.3]", "x y"])
def test_no_bad_domain_by_construction(domain: str) -> None:
    with pytest.raises(AddressError):
        Address("a", domain)


def test_an_address_does_not_change() -> None:
    with pytest.raises(AttributeError):
        Address.parse("a@x.test").local = "b\r\n"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("user@bücher.example", "USER@xn--bcher-kva.example"),
        ("user@bu\u0308cher.example", "user@bücher.example"),
        ("user@BÜCHER.example", "user@bücher.example"),
        ("jürgen@x.test", "ju\u0308rgen@x.test"),
        ("JÜRGEN@x.test", "jürgen@x.test"),
        ("straße@x.test", "STRASSE@x.test"),
        ("می\u200cخواهم@x.test", "میخواهم@x.test"),
        ('"user"@x.test', "User@X.test"),
    ],
)
def test_s52_spellings_of_one_mailbox_have_one_key(one: str, other: str) -> None:
    assert Address.parse(one, utf8=True).key == Address.parse(other, utf8=True).key


@pytest.mark.parametrize(
    "text",
    [
        "us\u200ber@x.test",
        "us\u00ader@x.test",
        "user@x\u200b.test",
        "user@x。test",
        "user@x．test",
        "user@\u200d.test",
        "user@a\u2024b",
    ],
)
def test_s52_what_hides_in_an_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        Address.parse(text, utf8=True)


def test_domains_have_a_lookup_form() -> None:
    assert domain_to_ascii("Bücher.Example") == "xn--bcher-kva.example"
    assert domain_to_ascii("DEV.test") == "dev.test"
    assert Address.parse("a@bücher.example", utf8=True).domain_ascii == "xn--bcher-kva.example"
    assert Address.parse("ä@bücher.example", utf8=True).needs_utf8
    assert not Address.parse("a@bücher.example", utf8=True).needs_utf8
    with pytest.raises(AddressError):
        domain_to_ascii("not a domain")


@pytest.mark.parametrize(
    ("local", "separator", "parts"),
    [
        ("user", "+", ("user", "")),
        ("user+", "+", ("user", "")),
        ("+tag", "+", ("+tag", "")),
        ("a+b+c", "+", ("a", "b+c")),
        ("a-b", "-", ("a", "b")),
    ],
)
def test_detail(local: str, separator: str, parts: tuple[str, str]) -> None:
    assert Address(local, "x.test").detail(separator) == parts


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    for candidate in (text, f"{text}@x.test", f'"{text}"@x.test', f"a@{text}", f"a@[{text}]", f"a@[IPv6:{text}]"):
        try:
            address = Address.parse(candidate, utf8=True)
        except AddressError:
            continue
        written = str(address)
        assert not any(char < " " or char == "\x7f" for char in written)
        assert Address.parse(written, utf8=True) == address
        assert Address(address.local, address.domain) == address
        assert address.domain_ascii.isascii()
        assert Address.parse(address.to_ascii(), utf8=True).key == address.key
