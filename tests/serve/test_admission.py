"""Limits on connections: altogether, per address, per /64, and while draining."""

from __future__ import annotations

import pytest

from postroad.serve.admission import GOING_DOWN, TOO_MANY, TOO_MANY_FROM_YOU, Admission, network_of


def test_one_address_cannot_take_all() -> None:
    admission = Admission(limit=3, per_address=2)
    assert admission.admit("192.0.2.1") is None
    assert admission.admit("192.0.2.1") is None
    assert admission.admit("192.0.2.1") == TOO_MANY_FROM_YOU
    assert admission.admit("192.0.2.2") is None
    assert admission.admit("192.0.2.3") == TOO_MANY
    admission.leave("192.0.2.1")
    assert admission.admit("192.0.2.1") is None
    assert admission.open == 3


def test_a_refused_connection_is_not_counted() -> None:
    admission = Admission(limit=10, per_address=1)
    admission.admit("192.0.2.1")
    for _ in range(5):
        admission.admit("192.0.2.1")
    admission.leave("192.0.2.1")
    assert admission.open == 0
    assert admission.admit("192.0.2.1") is None


def test_nobody_is_admitted_while_draining() -> None:
    admission = Admission(limit=10, per_address=10)
    admission.draining = True
    assert admission.admit("192.0.2.1") == GOING_DOWN


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("2001:db8::9", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_an_ipv6_customer_is_counted_by_its_64(address: str, network: str) -> None:
    assert network_of(address) == network
