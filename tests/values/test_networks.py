"""Lists of networks: what is in them, and everything else that a peer can be called."""

from __future__ import annotations

import pytest

from postroad.values import networks
from postroad.values.networks import Networks, parse_ip


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1", "fe80::1%eth0", "192.0.2.7"])
def test_addresses_of_the_listed_networks_are_in(address: str) -> None:
    assert address in Networks(["10.0.0.0/8", "2001:db8::/32", "fe80::/10", "192.0.2.7/32"])


@pytest.mark.parametrize("address", ["11.1.2.3", "2001:db9::1", "192.0.2.8", "", "uid 7", "mx.example.org", "10.1"])
def test_everything_else_is_not(address: str) -> None:
    assert address not in Networks(["10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"])
    assert address not in Networks()


def test_an_empty_list_is_false() -> None:
    assert not Networks()
    assert Networks(["10.0.0.0/8"])


def test_answers_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "REMEMBERED", 3)
    listed = Networks(["10.0.0.0/8"])
    for number in range(10):
        assert f"10.0.0.{number}" in listed
        assert len(listed._known) <= 3


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="host bits"):
        Networks(["10.0.0.1/8"])


def test_an_ipv4_address_is_the_same_in_both_forms() -> None:
    assert parse_ip("::ffff:192.0.2.1") == parse_ip("192.0.2.1")
    assert parse_ip("nonsense") is None
