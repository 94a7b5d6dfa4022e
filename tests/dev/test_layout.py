"""Names, ports and configuration of the playground fit together."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from postroad.config.load import examine_text
from postroad.dev.layout import ADDRESSES, DOMAIN, OFFSET_MAX, Layout, Ports, certificate_names, mail_host, zones


@pytest.fixture(params=[False, True], ids=["IPv4 only", "IPv6 too"])
def layout(request: pytest.FixtureRequest) -> Layout:
    return Layout(Path('/a folder/"quoted" \x7f'), Ports().moved(7), ipv6=request.param)


def test_configuration_is_one_the_server_takes(layout: Layout) -> None:
    reading = examine_text(layout.config_text().encode(), "postroad.toml")
    assert [str(problem) for problem in reading.problems if problem.fatal] == []
    config = reading.config
    assert config is not None
    assert config.data_dir == str(layout.data_dir)
    assert config.retry.delays_s[0] == 2
    assert config.relay.port == 2532
    assert config.dns.nameservers == ("127.0.0.1:1060",)
    assert config.listen.mx[0] == "127.0.0.1:1032"
    assert ("[::1]:1032" in config.listen.mx) == layout.ipv6
    assert not config.insecure_auth


def test_only_this_machine_may_relay_and_the_other_organisations_may_not(layout: Layout) -> None:
    config = examine_text(layout.config_text().encode(), "postroad.toml").config
    assert config is not None
    assert "127.0.0.1/32" in config.relay.relay_from
    assert not any(address.endswith("/8") for address in config.relay.relay_from)


def test_everything_listens_on_loopback_and_nowhere_twice(layout: Layout) -> None:
    addresses = [address for _, address in layout.wanted()]
    assert all(address.startswith(("127.0.0.", "[::1]:")) for address in addresses)
    assert len(set(addresses)) == len(addresses)
    config = examine_text(layout.config_text().encode(), "postroad.toml").config
    assert config is not None
    assert {*config.listen.mx, *config.listen.pop3s, config.listen.metrics} <= set(addresses)


def test_an_offset_moves_every_port_and_none_beyond_the_last() -> None:
    moved = Ports().moved(OFFSET_MAX)
    assert max(dataclasses.astuple(moved)) == 65535
    assert {a - b for a, b in zip(dataclasses.astuple(moved), dataclasses.astuple(Ports()), strict=True)} == {
        OFFSET_MAX
    }
    for offset in (-1, OFFSET_MAX + 1):
        with pytest.raises(ValueError, match="between 0 and"):
            Ports().moved(offset)


def test_every_domain_has_an_mx_with_an_address_of_its_own() -> None:
    records = zones()
    hosts = [records[domain]["MX"][0].split()[1].removesuffix(".") for domain in ADDRESSES]
    assert hosts == [mail_host(domain) for domain in ADDRESSES]
    assert [records[host]["A"] for host in hosts] == [[address] for address in ADDRESSES.values()]
    assert len(set(ADDRESSES.values())) == len(ADDRESSES)


def test_our_certificate_names_every_way_people_write_this_machine() -> None:
    assert {"localhost", "127.0.0.1", "::1", mail_host(DOMAIN)} <= set(certificate_names(DOMAIN))
