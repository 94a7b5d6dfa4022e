"""MTA-STS as text: every case of the shared table by its number, and what the table leaves out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.trust.mta_sts import (
    POLICY_AGE_LONGEST_S,
    Policy,
    matches,
    name_of_record,
    read_id,
    read_policy,
    url_of_policy,
)
from tests.testdata import REPOSITORY, testdata

CASES: dict[str, Any] = json.loads((testdata("mtasts") / "cases.json").read_text())


@pytest.mark.parametrize("number, case", list(enumerate(CASES["txt_records"])))
def test_row_d10_txt_records(number: int, case: dict[str, Any]) -> None:
    assert bool(read_id([case["txt"]])) is case["valid"]


@pytest.mark.parametrize("number, case", list(enumerate(CASES["policies"])))
def test_row_d10_policies(number: int, case: dict[str, Any]) -> None:
    assert isinstance(read_policy(case["body"].encode()), Policy) is case["valid"]


@pytest.mark.parametrize("number, case", list(enumerate(CASES["mx_match"])))
def test_row_d10_mx_match(number: int, case: dict[str, Any]) -> None:
    assert matches(case["pattern"], case["mx"]) is case["match"]


@pytest.mark.parametrize(
    "records, ident",
    [
        (["v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        (["v=STSv1;id=a ; x=1"], "a"),
        (["something else", "v=STSv1; id=a", "v=spf1 -all"], "a"),
        # Case "two TXT records starting v=STSv1 -> no policy".
        (["v=STSv1; id=a", "v=STSv1; id=a"], ""),
        # RFC 8461 section 3.2: of a field that stands twice "all entries except for the first SHALL be ignored".
        (["v=STSv1; id=a; id=b"], "a"),
        (["v=STSv1; x=1; x=2; id=a;"], "a"),
        ([" v=STSv1; id=a"], ""),
        ([], ""),
    ],
)
def test_the_id_of_several_records(records: list[str], ident: str) -> None:
    assert read_id(records) == ident


def test_a_policy_is_read_whole() -> None:
    text = "version: STSv1\r\nmode: enforce\r\nmx: MX1.Example.com\r\nmx: *.example.net\r\nmax_age: 99999999999\r\n"
    assert read_policy(text.encode()) == "it has no max_age in seconds"
    policy = read_policy(text.replace("99999999999", "9999999999").encode())
    assert isinstance(policy, Policy)
    assert (policy.mode, policy.max_age_s, policy.mx) == (
        "enforce", POLICY_AGE_LONGEST_S, ("mx1.example.com", "*.example.net"),
    )  # fmt: skip
    assert policy.lines[0] == "version: STSv1"
    assert len(policy.lines) == 5
    assert policy.allows("a.example.net")
    assert policy.allows("mx1.example.com.")
    assert not policy.allows("example.net")


def test_the_first_of_two_fields_counts_but_every_mx() -> None:
    policy = read_policy(b"version: STSv1\nmode: none\nmode: enforce\nmax_age: 1\nmax_age: 2\nmx: a.test\nmx: b.test\n")
    assert isinstance(policy, Policy)
    assert (policy.mode, policy.max_age_s, policy.mx) == ("none", 1, ("a.test", "b.test"))


@pytest.mark.parametrize("pattern", ["mail", "*.test", "mx.test", "*.mx.a.test"])
def test_a_pattern_is_a_domain_of_any_number_of_labels(pattern: str) -> None:
    """RFC 8461 section 3.2: sts-policy-mx-value is ["*."] Domain, and a Domain may be one label."""
    policy = read_policy(f"version: STSv1\nmode: enforce\nmax_age: 1\nmx: {pattern}\n".encode())
    assert isinstance(policy, Policy)
    assert policy.mx == (pattern,)


@pytest.mark.parametrize(
    "octets, why",
    [
        (b"\xff", "no UTF-8"),
        (b"version: STSv1\nmode: none\nmax_age: 1\nwhatever\n", '"whatever" is no field'),
        (b"version: STSv1\nmode: \xc3\xa9\nmax_age: 1\n", "is no mode"),
        (b"version: STSv1\nmode: enforce\nmax_age: 1\nmx: a b.test\n", "no pattern"),
        (b"version: STSv1\nmode: enforce\nmax_age: 1\nmx: *.*.test\n", "no pattern"),
        (b"version: STSv1\nmode: enforce\nmax_age: 1\nmx: mx.test.\n", "no pattern"),
    ],
)
def test_what_is_no_policy_says_why(octets: bytes, why: str) -> None:
    said = read_policy(octets)
    assert isinstance(said, str)
    assert why in said
    assert said.isascii()


@given(st.binary(max_size=400))
def test_any_octets_are_a_policy_or_words(octets: bytes) -> None:
    """Class E10."""
    assert isinstance(read_policy(octets), (Policy, str))


@given(st.lists(st.text(max_size=80), max_size=3))
def test_any_texts_are_an_id_or_none(texts: list[str]) -> None:
    """Class E10."""
    assert read_id(texts).isalnum() or read_id(texts) == ""


def test_where_they_are() -> None:
    assert name_of_record("example.org") == "_mta-sts.example.org"
    assert url_of_policy("example.org") == "https://mta-sts.example.org/.well-known/mta-sts.txt"


FETCH: dict[int, str] = {
    0: "net/test_https.py test_case_redirects_are_not_followed",
    1: "net/test_https.py test_cases_of_certificates_that_do_not_hold",
    2: "net/test_https.py test_cases_of_certificates_that_do_not_hold",
    3: "flow/test_mta_sts.py test_cases_of_failed_fetches",
    4: "net/test_https.py test_case_body_over_64_kib_is_not_read",
    5: "net/test_https.py test_case_a_slow_server_is_given_up",
    6: "net/test_https.py test_case_private_addresses_are_not_spoken_to",
    7: "flow/test_mta_sts.py test_a_policy_is_fetched_once_and_survives_a_restart",
    8: "flow/test_mta_sts.py test_case_a_record_that_disappears_takes_no_policy_away",
    9: "flow/test_tls_delivery.py test_case_enforce_unmatched_host",
    10: "flow/test_tls_delivery.py test_case_enforce_matched_host_invalid_certificate",
    11: "flow/test_tls_delivery.py test_case_testing_delivers_and_counts",
    12: "flow/test_tls_delivery.py test_case_none_delivers_as_without_a_policy",
    13: "trust/test_mta_sts.py test_the_id_of_several_records",
    14: "flow/test_tls_delivery.py test_case_dane_wins",
    15: "flow/test_tls_delivery.py test_case_tls_required_no_lets_the_sender_skip_the_policy",
}
"""Which test shows each case of "fetch", by its number."""


@pytest.mark.parametrize("number, case", list(enumerate(CASES["fetch"])))
def test_row_d10_promise_p23_every_case_of_the_fetch_has_its_test(number: int, case: str) -> None:
    file, name = FETCH[number].split(" ")
    assert f"def {name}(" in (REPOSITORY / "tests" / file).read_text(), case
