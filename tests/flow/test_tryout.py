"""What would become of mail: plans in words, and rehearsals with real hosts that get no message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from postroad.config import Config, Relay
from postroad.config.routes import Loaded
from postroad.config.routes import Route as Table
from postroad.flow.outbound import Manner
from postroad.flow.outside import Outside
from postroad.flow.route import read_signposts
from postroad.flow.routing import Routes
from postroad.flow.tls_policy import TlsPolicies
from postroad.flow.tryout import Prospect, Trial, Tryout, worst
from postroad.flow.ways import no_gateway
from postroad.net.tls import ClientTls
from postroad.store.suspensions import Suspended
from postroad.values.address import Address
from tests.fakes.certificates import authority, server
from tests.fakes.lookup import FAILED, FakeLookup
from tests.fakes.smtp_server import Drop, FakeSmtp, Silent
from tests.flow.yard import only

BOB = Address.parse("bob@far.test")
NEWS = Address.parse("news@ours.test")
DNS: dict[str, Any] = {
    "far.test": [(10, "mx1.far.test"), (20, "mx2.far.test")],
    "null.test": [(0, ".")],
    "doubt.test": FAILED,
}
HOSTS = {"mx1.far.test": ["127.0.0.1"], "mx2.far.test": ["127.0.0.2"]}


def tryout(
    tables: dict[str, Table] | None = None,
    *,
    port: int = 25,
    tls: ClientTls | None = None,
    bind: tuple[str, ...] = (),
    shut: tuple[Suspended, ...] = (),
    slowed: tuple[Suspended, ...] = (),
) -> Tryout:
    config = Config(hostname="mail.ours.test", relay=Relay(bind=bind))
    lookup = FakeLookup(DNS, HOSTS)
    outside = Outside(
        read_signposts(port=port, allow_private=["127.0.0.0/8"], own_names=["mail.ours.test"]),
        Manner("mail.ours.test", tls, 2.0, bind, 2.0),
        lookup,  # type: ignore[arg-type]
        Routes.of(Loaded(tables or {}, {}), bind),
    )
    by_key, slow = ({one.site: one for one in known} for known in (shut, slowed))
    policies = TlsPolicies(lookup, enabled=tls is not None)
    return Tryout(
        config, outside, policies, no_gateway, shut=lambda site: by_key.get(site), slowed=lambda site: slow.get(site)
    )


async def test_the_whole_plan_in_words() -> None:
    trial = only(await tryout(bind=("127.0.0.9",)).look(BOB, NEWS))
    assert trial.prospect is Prospect.ROUTABLE
    assert [(host.name, host.addresses, host.preference) for host in trial.hosts] == [
        ("mx1.far.test", ("127.0.0.1",), 1),
        ("mx2.far.test", ("127.0.0.2",), 2),
    ]
    assert (trial.manner, trial.sources, trial.ehlo) == ("by MX", ("127.0.0.9",), "mail.ours.test")
    assert trial.when.startswith("at once; if it must wait, again after 2 minutes")
    assert len(trial.tls) == 2


NOON_US = 1_800_000_000_000_000


async def test_a_site_that_takes_nothing_now_is_told_with_its_end() -> None:
    plan = only(await tryout(bind=("2001:db8::9", "127.0.0.9")).look(BOB, NEWS))
    shut = Suspended(f"127.0.0.9 2001:db8::9>{plan.site}", NOON_US, "far: blocked")
    trial = only(await tryout(bind=("2001:db8::9", "127.0.0.9"), shut=(shut,)).look(BOB, NEWS))
    assert f"{plan.site} takes nothing until then (far: blocked)" in trial.when
    assert trial.when.startswith("at ")
    assert trial.detours == []


async def test_a_slowed_site_is_told_with_the_limits() -> None:
    site = only(await tryout().look(BOB, NEWS)).site
    trial = only(await tryout(slowed=(Suspended(site, NOON_US, "far: busy", slowed=True),)).look(BOB, NEWS))
    assert trial.when.startswith("at once")
    assert "(far: busy)" in trial.limits[-1]


async def test_a_source_address_that_is_refused_is_avoided() -> None:
    bind = ("127.0.0.8", "127.0.0.9")
    usual = only(await tryout(bind=bind).look(BOB, NEWS))
    [first], [second] = usual.sources, set(bind) - set(usual.sources)
    refused = Suspended(f"{first}>{usual.site}", NOON_US, "far: listed", by_source=True)
    trial = only(await tryout(bind=bind, shut=(refused,)).look(BOB, NEWS))
    assert trial.sources == (second,)
    assert "(far: listed)" in only(trial.detours)
    assert trial.when.startswith("at once")
    both = (refused, refused._replace(site=f"{second}>{usual.site}"))
    trial = only(await tryout(bind=bind, shut=both).look(BOB, NEWS))
    assert "takes nothing until then (far: listed)" in trial.when


@pytest.mark.parametrize(
    "address, prospect, why",
    [
        ("b@null.test", Prospect.FAILS, "550 5.1.10"),
        ("b@absent.test", Prospect.FAILS, "550 5.1.2"),
        ("b@doubt.test", Prospect.UNDECIDED, "451 4.4.3"),
    ],
)
async def test_ways_that_lead_nowhere(address: str, prospect: Prospect, why: str) -> None:
    trial = only(await tryout().look(Address.parse(address)))
    assert trial.prospect is prospect
    assert trial.why.startswith(why)


async def test_routes_are_told_by_name() -> None:
    tables = {
        "news": Table(senders=("news@ours.test",), via="127.0.0.1:2525", fallback="backup.test", ehlo="news.ours.test"),
        "staging": Table(via="discard", why="a test machine"),
    }
    news = only(await tryout(tables).look(BOB, NEWS))
    assert (news.route, news.manner) == ("news", "to 127.0.0.1:2525, as route news says")
    assert news.ehlo == "news.ours.test"
    assert "after 3 failed attempts to backup.test:25" in news.when
    once = {"news": Table(via="127.0.0.1:2525", fallback="backup.test", fallback_after=1)}
    assert "after 1 failed attempt to backup.test:25" in only(await tryout(once).look(BOB)).when
    other = only(await tryout(tables).look(BOB))
    assert (other.manner, other.when) == ("discarded (route staging: a test machine)", "never")


async def test_a_rehearsal_ends_before_any_message(tmp_path: Path) -> None:
    root = authority("Root")
    (tmp_path / "ca.pem").write_bytes(root.pem)
    context = server("mx1.far.test", issuer=root).context(tmp_path)
    async with FakeSmtp(tls=context) as host:
        tls = ClientTls(str(tmp_path / "ca.pem"), system_roots=False)
        trial = only(await tryout(port=host.port, tls=tls).look(BOB, NEWS, connect=True))
        assert trial.prospect is Prospect.ROUTABLE
        verbs = [line.split()[0] for line in host.commands]
        assert verbs == ["EHLO", "STARTTLS", "EHLO", "MAIL", "RCPT", "RSET", "QUIT"]
        assert host.messages == []
        assert any(line.startswith("RCPT TO:<bob@far.test>: 250") for line in trial.dialog)
        assert any(line.startswith("TLS: TLSv1.3") for line in trial.dialog)


@pytest.mark.parametrize(
    "script, prospect, why",
    [
        ({"RCPT": "550 5.1.1 no such user"}, Prospect.FAILS, "550 5.1.1"),
        ({"RCPT": "450 4.2.0 greylisted"}, Prospect.UNDECIDED, "no host said yes or no: 450 4.2.0 greylisted"),
        ({"MAIL": "550 5.7.1 not you"}, Prospect.FAILS, "550 5.7.1"),
        (
            {"CONNECT": "554 5.7.1 go away"},
            Prospect.UNDECIDED,
            "no host said yes or no: the connection was answered 554 (554 5.7.1 go away)",
        ),
        ({"MAIL": Drop()}, Prospect.UNDECIDED, "no host said yes or no: connection closed at MAIL"),
        ({"CONNECT": Silent()}, Prospect.UNDECIDED, "no host said yes or no: timeout after 0.1 s before the greeting"),
    ],
)
async def test_what_a_rehearsal_meets(
    script: dict[str, str], prospect: Prospect, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postroad.flow.tryout.PATIENCE_S", 0.1)
    async with FakeSmtp(**script) as host:  # type: ignore[arg-type]
        trial = only(await tryout(port=host.port).look(BOB, NEWS, connect=True))
        assert trial.prospect is prospect
        assert trial.why.startswith(why)
        assert trial.dialog[0].count("[127.0.0.1]") == 1


def test_the_worst_counts() -> None:
    trials = [Trial("a"), Trial("b", Prospect.UNDECIDED)]
    assert worst(trials[:1]) is Prospect.ROUTABLE
    assert worst(trials) is Prospect.UNDECIDED
    assert worst([*trials, Trial("c", Prospect.FAILS)]) is Prospect.FAILS
