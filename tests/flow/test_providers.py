"""Whose hosts these are, and what replies of large providers mean (row D16), with public sets of replies as a check."""

from __future__ import annotations

import re
import tomllib

import pytest

from postroad.config.providers import Provider, ReplyRule, load
from postroad.flow.providers import Providers, Signal
from postroad.values.reply import Reply
from tests.testdata import ABSENT, FOLDER

SHIPPED = Providers(load())
PUBLIC = FOLDER / "bounce" / "kumomta"


@pytest.mark.parametrize(
    "hosts, name",
    [
        (["gmail-smtp-in.l.google.com", "alt1.gmail-smtp-in.l.google.com"], "google"),
        (["aspmx.l.google.com", "aspmx2.googlemail.com"], "google"),
        (["outlook-com.olc.protection.outlook.com"], "microsoft"),
        (["example-com.mail.protection.outlook.com"], "microsoft-365"),
        (["example-com.e-v1.mx.microsoft"], "microsoft-365"),
        (["mta5.am0.yahoodns.net", "mta6.am0.yahoodns.net"], "yahoo"),
        (["mx01.mail.icloud.com"], "apple"),
        (["mx1.comcast.net"], "comcast"),
        (["smtp-in.orange.fr"], "orange"),
        (["mx00.gmx.net"], "gmx"),
        (["mx-ha02.web.de"], "gmx"),
        (["mx00.t-online.de"], "t-online"),
        (["aspmx.l.google.com", "mail.example.org"], ""),
        (["mail.example.org"], ""),
        (["google.com"], ""),
        (["notgoogle.com"], ""),
        ([], ""),
    ],
)
def test_hosts_belong_to_a_provider_all_together_or_not(hosts: list[str], name: str) -> None:
    assert SHIPPED.of(hosts) == name


def test_the_longer_end_and_the_whole_name_decide() -> None:
    providers = Providers(
        {
            "wide": Provider(hosts=(".example.net",)),
            "near": Provider(hosts=(".in.example.net",)),
            "one": Provider(hosts=("mx.in.example.net",)),
        }
    )
    assert providers.of(["a.example.net"]) == "wide"
    assert providers.of(["a.in.example.net"]) == "near"
    assert providers.of(["mx.in.example.net"]) == "one"


SAID = [
    (
        "google",
        Reply(421, "4.7.28", "Our system has detected an unusual rate of unsolicited mail"),
        "unusual-rate",
        "suspend",
    ),
    ("google", Reply(421, "4.7.28", "exceeded its quota for sending messages with the same Message-ID:"), "", ""),
    (
        "google",
        Reply(550, "5.7.28", "There is an unusual rate of unsolicited mail originating from your IP address."),
        "blocked",
        "change-source",
    ),
    ("google", Reply(421, "4.7.0", "very low reputation of the sending IP address"), "low-reputation", "suspend"),
    ("google", Reply(450, "4.2.1", "The user you are trying to contact is receiving mail too quickly"), "", ""),
    ("google", Reply(421, "4.7.0", "Try again later, closing connection"), "everybody: policy", "slow"),
    (
        "microsoft",
        Reply(550, "5.7.1", "part of their network is on our block list (S3150)"),
        "blocked",
        "change-source",
    ),
    (
        "microsoft",
        Reply(451, "4.7.650", "The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation"),
        "rate-limited",
        "slow",
    ),
    (
        "microsoft-365",
        Reply(451, "4.7.500", "Server busy. Please try again later from [192.0.2.1]"),
        "busy-for-us",
        "slow",
    ),
    (
        "microsoft",
        Reply(421, "", "RP-001 The mail server IP has exceeded the rate limit"),
        "too-many-connections",
        "slow",
    ),
    (
        "microsoft-365",
        Reply(550, "5.7.612", "Access denied, banned sending IP [192.0.2.1]"),
        "blocked",
        "change-source",
    ),
    ("microsoft-365", Reply(450, "4.7.9", "Application queue quota exceeded"), "", ""),
    ("yahoo", Reply(421, "", "Max message per connection reached, closing transmission channel"), "", ""),
    ("yahoo", Reply(421, "4.7.1", "[TS03] All messages permanently deferred"), "deferred-for-a-while", "suspend"),
    (
        "yahoo",
        Reply(553, "5.7.2", "[TSS09] All messages will be permanently deferred"),
        "deferred-for-good",
        "change-source",
    ),
    (
        "yahoo",
        Reply(421, "4.7.0", "[TSS04] Messages from 192.0.2.1 temporarily deferred"),
        "deferred-for-complaints",
        "suspend",
    ),
    (
        "yahoo",
        Reply(553, "5.7.1", "[BL21] Connections will not be accepted from 192.0.2.1"),
        "deferred-for-good",
        "change-source",
    ),
    (
        "apple",
        Reply(421, "4.7.1", "Messages to x deferred due to excessive volume. Try again later"),
        "recipient-too-busy",
        "slow",
    ),
    ("apple", Reply(554, "5.7.1", "[HME1] This message was blocked for failing both SPF and DKIM"), "", ""),
    ("comcast", Reply(421, "4.1.0", "192.0.2.1 Throttled - try again later. RL000003"), "rate-limited", "slow"),
    (
        "orange",
        Reply(421, "", "mwinf5c04 ME Trop de connexions, veuillez verifier. OFR004_104 [104]"),
        "too-many-connections",
        "fewer",
    ),
    ("orange", Reply(421, "", "Trop de connexions. OFR005_104 [104]"), "too-many-connections", "fewer"),
    ("orange", Reply(550, "", "mwinf5c04 ME Adresse IP source bloquee. OFR006_102"), "blocked", "change-source"),
    ("orange", Reply(550, "", "Mail rejete. Mail rejected. OFR_506 [506]"), "", ""),
    ("gmx", Reply(421, "", "Reject due to policy violations"), "policy", "slow"),
    (
        "gmx",
        Reply(554, "", "gmx.net (mxgmx104) Nemesis ESMTP", lines=("No SMTP service", "IP address is block listed.")),
        "bad-reputation",
        "change-source",
    ),
    ("mimecast", Reply(451, "", "Internal resource is temporarily unavailable"), "", ""),
    (
        "mimecast",
        Reply(451, "", "IP temporarily blacklisted - too many invalid connections"),
        "blocked-for-a-while",
        "slow",
    ),
    (
        "t-online",
        Reply(554, "", "Dialup/transient IP not allowed. Use a mailgateway or contact toda@rx.t-online.de"),
        "unknown-sender",
        "change-source",
    ),
    (
        "t-online",
        Reply(554, "", "IP=192.0.2.1 - Dialup. Contact tosa@rx.t-online.de"),
        "unknown-sender",
        "change-source",
    ),
    ("", Reply(451, "4.7.1", "Greylisted, try again in 5 minutes"), "", ""),
    ("", Reply(421, "4.7.28", "flood"), "everybody: flood", "suspend"),
    ("", Reply(450, "4.7.1", "Too many connections from your address"), "everybody: too-many-connections", "fewer"),
    ("", Reply(421, "4.3.2", "closing"), "everybody: closing", "slow"),
    ("", Reply(450, "4.2.2", "mailbox full"), "", ""),
    ("", Reply(550, "5.1.1", "no such user"), "", ""),
]


@pytest.mark.parametrize("provider, reply, rule, action", SAID)
def test_replies_of_large_providers(provider: str, reply: Reply, rule: str, action: str) -> None:
    signal = SHIPPED.signal(provider, reply)
    if not rule:
        assert signal is None
        return
    assert signal is not None
    assert (signal.rule.rpartition(": ")[2], signal.action) == (rule.rpartition(": ")[2], action)
    if ":" not in rule:
        assert signal.rule == f"{provider}: {rule}"


def test_further_lines_of_a_reply_are_looked_at_too() -> None:
    reply = Reply(451, "4.7.650", "see our page", lines=("temporarily rate limited", "due to IP reputation"))
    signal = SHIPPED.signal("microsoft", reply)
    assert signal is not None
    assert signal.rule == "microsoft: rate-limited"


def test_a_rule_needs_everything_it_names() -> None:
    rule = ReplyRule(code="42", enhanced="4.7", text="stop", means="m", action="slow", for_s=9.0)
    providers = Providers({"x": Provider(hosts=("x.test",), replies={"r": rule})})
    assert providers.signal("x", Reply(421, "4.7.1", "Stop it")) == Signal("x: r", "m", "slow", 9.0)
    for reply in (Reply(451, "4.7.1", "stop"), Reply(421, "4.3.1", "stop"), Reply(421, "4.7.1", "go on")):
        assert providers.signal("x", reply) is None
    assert providers.signal("y", Reply(421, "4.7.1", "stop")) is None


def test_a_rule_that_is_off_is_not_there() -> None:
    providers = Providers({"x": Provider(hosts=("x.test",), replies={"r": ReplyRule(off=True)})})
    assert providers.signal("x", Reply(421, "4.7.1", "stop")) is None


def public_words() -> list[tuple[str, str]]:
    """Classes and texts that the public pattern sets name, as the replies they were written for."""
    if not PUBLIC.exists():
        return []
    found = []
    for kind, patterns in tomllib.loads((PUBLIC / "bounces.toml").read_text())["rules"].items():
        for pattern in patterns:
            if re.fullmatch(r"\^5\d\d[A-Za-z \-',:.+()*]*", pattern):
                found.append((kind, pattern.lstrip("^").replace(".+", " x ").replace(".*", " x ")))
    return found


@pytest.mark.skipif(not PUBLIC.exists(), reason=ABSENT + "bounce/kumomta")
@pytest.mark.parametrize("kind, text", public_words())
def test_what_others_hold_for_a_fault_of_the_recipient_stops_no_lane(kind: str, text: str) -> None:
    """A recipient, a mailbox or a domain that is wrong says nothing about the lane, whatever words it comes in."""
    code, _, words = text.partition(" ")
    signal = SHIPPED.signal("", Reply(int(code[:3]), "", words))
    if kind in ("InvalidRecipient", "BadDomain", "InactiveMailbox", "QuotaIssues", "RoutingErrors", "SpamContent"):
        assert signal is None, signal


@pytest.mark.skipif(not PUBLIC.exists(), reason=ABSENT + "bounce/kumomta")
def test_enough_of_the_public_sets_is_read() -> None:
    assert len(public_words()) > 40
