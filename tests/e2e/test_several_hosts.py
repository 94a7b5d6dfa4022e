"""Mail between several hosts with addresses of their own: cables that are out, families that do not work, sources."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Loop, Office, add_accounts, with_certificate
from tests.e2e.exim import exim
from tests.e2e.mail import messages, until
from tests.e2e.namespaces import Host, Network, needs_namespaces, network
from tests.e2e.opensmtpd import opensmtpd
from tests.e2e.postfix import postfix
from tests.e2e.receiver import Receiver
from tests.e2e.test_receivers import events, send, told
from tests.e2e.unpacked import needs_private_mounts
from tests.fakes.dns import DnsServer, Fault
from tests.live import LiveServer, live_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="hosts are made as root only"),
    pytest.mark.needs_program("postfix", "exim4", "smtpd", "ip"),
]

OURS, OUR_OTHER, OUR_SIX = "192.0.2.10", "192.0.2.11", "2001:db8::10"
ONE, ONE_SIX = "192.0.2.21", "2001:db8::21"
TWO = "192.0.2.22"
THREE = "192.0.2.23"
NOBODY_SIX = "2001:db8::99"
SENDERS = [f"sender@{name}.test" for name in ("local", "red", "green", "blue")]
"""Users of domains of ours; each domain keeps to one source address."""

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    needs_namespaces()
    needs_private_mounts()
    with network() as made:
        yield made


@pytest.fixture(scope="module")
def home(net: Network) -> Host:
    """Where our server is."""
    return net.host("home", OURS, OUR_OTHER, OUR_SIX)


@pytest.fixture(scope="module")
def dns(home: Host) -> Iterator[DnsServer]:
    """Knows nothing until a test tells it."""
    with home.inside():
        loop = Loop()
    server = DnsServer({})
    loop.run(server.start())
    yield server
    loop.run(server.close())
    loop.close()


@pytest.fixture(scope="module")
def one(net: Network, home: Host) -> Iterator[tuple[Host, Receiver]]:
    """Exim, by IPv4 and IPv6."""
    host = net.host("one", ONE, ONE_SIX)
    with host.running(exim("far.test", 25, 26, hosts=[ONE, ONE_SIX])) as started:
        yield host, started


@pytest.fixture(scope="module")
def two(net: Network, home: Host) -> Iterator[tuple[Host, Receiver]]:
    """OpenSMTPD, by IPv4."""
    host = net.host("two", TWO)
    with host.running(opensmtpd("far.test", 25, 26, hosts=[TWO])) as started:
        yield host, started


@pytest.fixture(scope="module")
def three(net: Network, home: Host) -> Host:
    """A host where nobody listens, until a test starts something."""
    return net.host("three", THREE)


class Home(Office):
    """Takes mail from the network too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        text = self.config_file.read_text()
        own = f'"127.0.0.1:{self.ports["mx"]}"'
        self.config_file.write_text(text.replace(own, f'{own}, "{OURS}:25"'))


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory, home: Host, dns: DnsServer) -> Iterator[LiveServer]:
    """Our server, with two addresses to send from."""
    folder = tmp_path_factory.mktemp("near")
    config = (
        with_certificate(folder)
        + '[relay]\nallow_private = ["192.0.2.0/24", "2001:db8::/32"]\nconnect_timeout_s = 1\n'
        + f'bind = ["{OURS}", "{OUR_OTHER}", "{OUR_SIX}"]\n'
        + f'ehlo_names = {{ "{OURS}" = "out1.local.test", "{OUR_OTHER}" = "out2.local.test" }}\n'
        + "[sending]\nfirst_time_recipients_per_day = 0\n"
        + f'[retry]\ndelays_s = [0.3, 0.5]\nlifetime_s = 600\n[dns]\nnameservers = ["{dns.address}"]\n'
    )
    with home.running(live_server(folder, kind=Home, config=config)) as started:
        for sender in SENDERS[1:]:
            started.add_domain(sender.partition("@")[2])
        add_accounts(started, *SENDERS)
        yield started
        assert "Traceback" not in started.log()
        assert "whole, every rule holds" in started.run("verify")


@pytest.fixture(autouse=True)
def at_home(near: LiveServer, home: Host) -> Iterator[None]:
    """Each test is a user of our own network."""
    with home.inside():
        yield


@pytest.fixture
def sender(near: LiveServer) -> str:
    """The address of a fresh account."""
    address = f"user{next(_numbers)}@local.test"
    add_accounts(near, address)
    return address


def publish(dns: DnsServer, domain: str, *hosts: tuple[str, list[str]]) -> None:
    """A domain whose mail exchangers have these names and addresses, the best one first."""
    dns.records[domain] = {"MX": [f"{10 * at} {name}." for at, (name, _) in enumerate(hosts, 1)]}
    for name, addresses in hosts:
        four = [address for address in addresses if ":" not in address]
        six = [address for address in addresses if ":" in address]
        dns.records[name] = {kind: found for kind, found in (("A", four), ("AAAA", six)) if found}


def attempts(near: LiveServer, ident: str) -> str:
    """What the journal has of hosts that did not take a message."""
    return json.dumps([one for one in events(near) if one["id"] == ident and one["kind"] == "attempted"])


def happened(near: LiveServer, ident: str, kind: str) -> str:
    """Waits for an event of a message; returns its cause."""
    found = until(lambda: [one for one in events(near) if (one["id"], one["kind"]) == (ident, kind)])
    return str(found[0].get("cause", ""))


# -- hosts that are not there ----------------------------------------------------------------------------------------


def test_the_second_host_takes_what_the_first_cannot(
    near: LiveServer, dns: DnsServer, net: Network, one: tuple[Host, Receiver], two: tuple[Host, Receiver], three: Host,
    sender: str,
) -> None:  # fmt: skip
    """A host where nobody listens, one whose cable is out, and an address that nobody has."""
    good = ("mx.good.far.test", [TWO])
    publish(dns, "refusing.far.test", ("mx1.refusing.far.test", [THREE]), good)
    publish(dns, "dead.far.test", ("mx1.dead.far.test", [ONE]), good)
    publish(dns, "empty.far.test", ("mx1.empty.far.test", ["192.0.2.99"]), good)
    net.unplug(one[0])
    try:
        for kind, words in (
            ("refusing", "connection refused"),
            ("dead", "no route to host|timeout after 1 s"),
            ("empty", "no route to host"),
        ):
            ident = send(near, sender, [f"bob@{kind}.far.test"], kind)
            two[1].arrived(kind)
            assert [word for word, _ in told(near, ident)] == ["attempted", "delivered"]
            assert re.search(words, attempts(near, ident))
    finally:
        net.plug(one[0])


def test_a_cable_that_is_out_for_a_while_in_the_middle_of_a_load(
    near: LiveServer, dns: DnsServer, net: Network, two: tuple[Host, Receiver], sender: str
) -> None:
    """Everything arrives, once, and nobody hears of it."""
    host, receiver = two
    publish(dns, "load.far.test", ("mx.load.far.test", [TWO]))
    for number in range(15):
        send(near, sender, ["bob@load.far.test"], f"load {number:02}")
    until(lambda: receiver.count("load"))
    net.unplug(host)
    try:
        for number in range(15, 30):
            send(near, sender, ["bob@load.far.test"], f"load {number:02}")
    finally:
        net.plug(host)
    until(lambda: receiver.count("load") >= 30, 40.0)
    assert [receiver.count(f"load {number:02}") for number in range(30)] == [1] * 30
    assert messages(near, sender) == []


def test_mail_waits_while_the_only_host_is_away(
    near: LiveServer, dns: DnsServer, net: Network, one: tuple[Host, Receiver], sender: str
) -> None:
    host, receiver = one
    publish(dns, "away.far.test", ("mx.away.far.test", [ONE]))
    net.unplug(host)
    try:
        sent = [send(near, sender, ["bob@away.far.test"], f"away {number}") for number in range(5)]
        until(lambda: {one["id"] for one in events(near) if one["kind"] == "deferred"} >= set(sent))
        assert receiver.count("away") == 0
    finally:
        net.plug(host)
    until(lambda: receiver.count("away") >= 5)
    assert [receiver.count(f"away {number}") for number in range(5)] == [1] * 5
    assert messages(near, sender) == []


# -- addresses -------------------------------------------------------------------------------------------------------


def test_a_family_that_reaches_nobody_comes_last(
    near: LiveServer, dns: DnsServer, one: tuple[Host, Receiver], sender: str
) -> None:
    _, receiver = one
    publish(dns, "both.far.test", ("mx.both.far.test", [ONE, ONE_SIX]))
    send(near, sender, ["bob@both.far.test"], "by six")
    receiver.arrived("by six")
    assert f"H=(mx.local.test) [{OUR_SIX}]" in receiver.log
    for number in range(5):
        publish(dns, f"six{number}.far.test", (f"mx.six{number}.far.test", [ONE, NOBODY_SIX]))
        ident = send(near, sender, [f"bob@six{number}.far.test"], f"six {number}")
        receiver.arrived(f"six {number}")
        assert [kind for kind, _ in told(near, ident)] == ["attempted", "delivered"]
        assert NOBODY_SIX in attempts(near, ident)
    # A host of which nothing is known yet: what the others have taught holds for it.
    publish(dns, "next.far.test", ("mx.next.far.test", [ONE, NOBODY_SIX]))
    ident = send(near, sender, ["bob@next.far.test"], "six and next")
    receiver.arrived("six and next")
    assert [kind for kind, _ in told(near, ident)] == ["delivered"]


def test_each_domain_of_ours_keeps_to_one_address_and_its_name(
    near: LiveServer, dns: DnsServer, one: tuple[Host, Receiver]
) -> None:
    _, receiver = one
    publish(dns, "sources.far.test", ("mx.sources.far.test", [ONE]))
    for turn in range(2):
        for sender in SENDERS:
            send(near, sender, ["bob@sources.far.test"], f"source {turn} {sender}")
    until(lambda: receiver.count("source") == 2 * len(SENDERS))
    seen = set(re.findall(r"<= (sender@\S+) H=\((\S+)\) \[([^]]+)\]", receiver.log))
    assert {sender for sender, _, _ in seen} == set(SENDERS)
    assert len(seen) == len(SENDERS), "one address for each"
    assert {(name, address) for _, name, address in seen} == {("out1.local.test", OURS), ("out2.local.test", OUR_OTHER)}


def test_mail_never_comes_back_to_ourselves(
    near: LiveServer, dns: DnsServer, two: tuple[Host, Receiver], three: Host, sender: str
) -> None:
    """RFC 5321 section 5.1: we and all that are not better than we are left out."""
    publish(dns, "loop.far.test", ("mx.loop.far.test", [OURS]))
    publish(dns, "name.far.test", ("mx.local.test", ["198.51.100.1"]))
    for domain in ("loop.far.test", "name.far.test"):
        ident = send(near, sender, [f"bob@{domain}"], "round")
        assert happened(near, ident, "bounced") == f"mail for {domain} loops back to this server"
    ourselves = ("mx.second.far.test", [OURS])
    publish(dns, "better.far.test", ("mx.better.far.test", [TWO]), ourselves)
    send(near, sender, ["bob@better.far.test"], "better")
    two[1].arrived("better")
    publish(dns, "waits.far.test", ("mx.waits.far.test", [THREE]), ourselves, ("mx.third.far.test", [TWO]))
    ident = send(near, sender, ["bob@waits.far.test"], "waits")
    happened(near, ident, "deferred")
    assert two[1].count("waits") == 0
    near.run("queue", "drop", "waits.far.test", "--yes")


# -- limits ----------------------------------------------------------------------------------------------------------

FEW = {
    "exim": (exim, "smtp_accept_max_per_host = 2", "too many connections|Too many concurrent"),
    "postfix": (postfix, "smtpd_client_connection_count_limit = 2", "limit exceeded"),
}


@pytest.mark.parametrize("name", FEW)
def test_a_host_that_takes_few_connections_of_one_address(
    near: LiveServer, dns: DnsServer, three: Host, sender: str, name: str
) -> None:
    """What it takes is learnt by its 421: none of them costs mail, and it has to say so a few times only."""
    server, settings, refusal = FEW[name]
    domain = f"{name}.far.test"
    # All of it is held, so that it goes at the same moment.
    dns.faults[domain] = Fault.SERVFAIL
    sent = [send(near, sender, [f"bob@{domain}"], f"few {number:02}") for number in range(30)]
    for ident in sent:
        happened(near, ident, "deferred")
    near.run("queue", "hold", domain, "--yes")
    del dns.faults[domain]
    publish(dns, domain, (f"mx.{domain}", [THREE]))
    with three.running(server(domain, 25, 26, hosts=[THREE], settings=settings)) as receiver:
        near.run("queue", "release", domain, "--yes")
        until(lambda: receiver.count("few") >= 30)
        assert [receiver.count(f"few {number:02}") for number in range(30)] == [1] * 30
        assert messages(near, sender) == []
        # As many as were opened before the first answer.
        assert 1 <= len(re.findall(refusal, receiver.log)) <= 10
        kinds = {kind for ident in sent for kind, _ in told(near, ident)}
        assert kinds <= {"deferred", "held", "released", "attempted", "slowed", "delivered"}
