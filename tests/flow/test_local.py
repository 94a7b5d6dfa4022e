"""The planner of local recipients against a directory that is a dict."""

from __future__ import annotations

import msgspec
import pytest

from postroad.flow.gateway import Callouts, Heard, Standing
from postroad.flow.local import DEPTH_MAX, Plan, Planner, delivered_before
from postroad.store.account_records import Alias, Empty, Gateway, Local, NotOurs, Resolved, Unknown
from postroad.values.address import Address

OURS = "example.com"


class Directory:
    """Accounts by user with (quota, used), aliases by user, all below example.com; counts its questions."""

    def __init__(self) -> None:
        self.accounts = {"anna": (0, 0), "bob": (1000, 400), "full": (1000, 1000)}
        self.disabled: set[str] = set()
        self.aliases: dict[str, list[str]] = {}
        self.postmaster: list[str] = ["anna@example.com"]
        self.somebody = "bob"
        self.questions = 0
        self.gateways: dict[str, Gateway] = {}
        """By domain: what an address of it means; its address is filled in."""
        self.known: set[str] = set()

    def local(self, user: str, tag: str = "", *, unfailing: bool = False) -> Local:
        quota, used = self.accounts[user]
        number = 1 + list(self.accounts).index(user)
        address = f"{user}@{OURS}"
        return Local(number, address, address, quota, used, user in self.disabled, tag, unfailing)

    async def recipient(self, address: Address, delimiter: str = "+") -> Resolved:
        self.questions += 1
        if address.domain in self.gateways:
            return msgspec.structs.replace(self.gateways[address.domain], address=str(address), key=address.key)
        if address.domain != OURS:
            return NotOurs(address.domain)
        user, _, tag = address.local.lower().partition(delimiter)
        if user in self.accounts:
            return self.local(user, tag)
        if user in self.aliases:
            return Alias(address.key, self.aliases[user])
        if user == "postmaster":
            return await self.bare_postmaster()
        return Unknown(str(address))

    async def bare_postmaster(self) -> Resolved:
        if not self.postmaster:
            return Empty("postmaster")
        return Alias("postmaster@example.com", self.postmaster, "postmaster", unfailing=True)

    async def anybody(self, domain: str) -> Local | None:
        return self.local(self.somebody, unfailing=True) if self.somebody else None

    async def was_taken(self, gateway: Gateway) -> bool:
        return gateway.key in self.known


@pytest.fixture
def directory() -> Directory:
    return Directory()


async def plan(
    directory: Directory, user: str, *, size: int = 0, may_relay: bool = False, callouts: Callouts | None = None
) -> Plan:
    address = Address.parse(user if "@" in user else f"{user}@{OURS}")
    planner = Planner(directory, hostname="mx.example.org", callouts=callouts)
    return await planner.plan(address, size=size, may_relay=may_relay, peer="198.51.100.7")


def said(plan: Plan) -> str:
    assert not plan.copies
    assert not plan.remotes
    return str(plan.refusal)


def remotes(plan: Plan) -> list[str]:
    return [str(address) for address in plan.remotes]


async def test_a_mailbox_takes_its_mail_under_the_address_it_was_sent_to(directory: Directory) -> None:
    assert (await plan(directory, "anna+news")).copies == [(1, "INBOX", "anna+news@example.com")]
    assert directory.questions == 1


async def test_nobody_is_refused_by_name(directory: Directory) -> None:
    refused = await plan(directory, "ana")
    assert said(refused) == "550 5.1.1 No mailbox ana@example.com here. Check the spelling."
    assert refused.why == "no such mailbox"


async def test_a_stranger_may_not_relay(directory: Directory) -> None:
    refused = await plan(directory, "x@other.example")
    assert said(refused) == "550 5.7.1 We do not relay to other.example from 198.51.100.7. Log in on port 465 or 587."
    assert refused.why == "relay refused"


@pytest.mark.parametrize("may_relay", [False, True], ids=["stranger", "user"])
@pytest.mark.parametrize(
    "form",
    [
        "anna%other.example@example.com",
        "other.example!anna@example.com",
        '"anna@other.example"@example.com',
        '"@example.com:anna"@example.com',
    ],
)
async def test_row_s48_an_address_inside_an_address_leads_nowhere(
    directory: Directory, form: str, may_relay: bool
) -> None:
    """Relays of old passed `user%x@us` on to x; here it is a mailbox that nobody has."""
    assert said(await plan(directory, form, may_relay=may_relay)).startswith("550 5.1.1 No mailbox ")


async def test_row_s48_the_address_of_a_machine_is_none_of_our_domains(directory: Directory) -> None:
    assert said(await plan(directory, "anna@[192.0.2.1]")).startswith("550 5.7.1 We do not relay to [192.0.2.1]")


async def test_a_known_sender_may_relay(directory: Directory) -> None:
    taken = await plan(directory, "X@other.example", may_relay=True)
    assert (remotes(taken), taken.expansions, taken.refusal) == (["X@other.example"], [], None)


@pytest.mark.parametrize("size, full", [(0, False), (600, False), (601, True)])
async def test_the_declared_size_must_fit(directory: Directory, size: int, full: bool) -> None:
    planned = await plan(directory, "bob", size=size)
    if full:
        assert said(planned).startswith("452 4.2.2 Mailbox is full.")
    else:
        assert [account for account, _, _ in planned.copies] == [2]


async def test_a_disabled_mailbox_is_refused(directory: Directory) -> None:
    directory.disabled.add("bob")
    assert said(await plan(directory, "bob")).startswith("550 5.2.1 Mailbox bob@example.com is disabled.")


async def test_an_alias_leads_to_many_each_once(directory: Directory) -> None:
    directory.aliases = {
        "team": ["anna@example.com", "bob@example.com", "inner@example.com", "x@other.example"],
        "inner": ["ANNA@example.com", "anna+tag@example.com", "X@other.example", "team@example.com"],
    }
    planned = await plan(directory, "team")
    assert [account for account, _, _ in planned.copies] == [1, 2]
    assert remotes(planned) == ["x@other.example"]
    assert planned.expansions[0] == (
        "team@example.com",
        "alias: anna@example.com, bob@example.com, inner@example.com, x@other.example",
    )
    assert planned.expansions[1][0] == "inner@example.com"


async def test_an_alias_may_leave_without_a_login(directory: Directory) -> None:
    directory.aliases = {"away": ["x@other.example"]}
    assert remotes(await plan(directory, "away")) == ["x@other.example"]


@pytest.mark.parametrize(
    "aliases",
    [
        {"a": ["a@example.com"]},
        {"a": ["b@example.com"], "b": ["a@example.com"]},
        {"a": ["b@example.com", "c@example.com"], "b": ["c@example.com"], "c": ["a@example.com"]},
    ],
)
async def test_promise_p17_aliases_in_a_circle_are_refused(directory: Directory, aliases: dict[str, list[str]]) -> None:
    directory.aliases = aliases
    refused = await plan(directory, "a")
    assert said(refused).startswith("554 5.4.6 Mail to a@example.com runs in a circle")
    assert refused.why == "alias loop"
    assert directory.questions == len(aliases)


async def test_promise_p17_a_circle_with_a_way_out_delivers(directory: Directory) -> None:
    directory.aliases = {"a": ["b@example.com"], "b": ["a@example.com", "anna@example.com"]}
    assert [account for account, _, _ in (await plan(directory, "a")).copies] == [1]


@pytest.mark.parametrize("length, reached", [(DEPTH_MAX, True), (DEPTH_MAX + 1, False)])
async def test_a_chain_ends_at_the_limit(directory: Directory, length: int, reached: bool) -> None:
    directory.aliases = {f"a{number}": [f"a{number + 1}@example.com"] for number in range(length)}
    directory.aliases[f"a{length - 1}"] = ["anna@example.com"]
    planned = await plan(directory, "a0")
    assert bool(planned.copies) == reached
    if not reached:
        assert planned.why == "alias loop"


async def test_a_tree_that_grows_too_large_is_refused(directory: Directory) -> None:
    directory.aliases = {"all": [f"x{number}@other.example" for number in range(1001)]}
    assert (await plan(directory, "all")).why == "alias too large"


async def test_what_cannot_be_reached_among_several_does_not_stop_the_others(directory: Directory) -> None:
    directory.disabled.add("bob")
    directory.aliases = {"team": ["gone@example.com", "bob@example.com", "anna@example.com", "not an address"]}
    planned = await plan(directory, "team")
    assert [account for account, _, _ in planned.copies] == [1]
    assert planned.refusal is None
    assert planned.expansions[-1] == ("not an address", "passed over: address has no domain")


async def test_a_full_mailbox_among_several_waits_in_the_queue(directory: Directory) -> None:
    directory.aliases = {"team": ["full@example.com", "anna@example.com"]}
    assert sorted(account for account, _, _ in (await plan(directory, "team", size=1)).copies) == [1, 3]


async def test_only_full_mailboxes_are_a_temporary_refusal(directory: Directory) -> None:
    directory.aliases = {"team": ["gone@example.com", "full@example.com"]}
    assert said(await plan(directory, "team", size=1)).startswith("452 4.2.2")


async def test_only_unknown_targets_are_a_permanent_refusal(directory: Directory) -> None:
    directory.aliases = {"team": ["gone@example.com", "away@example.com"]}
    assert said(await plan(directory, "team")).startswith("550 5.1.1 No mailbox gone@example.com here.")


# -- required addresses ----------------------------------------------------------------------------------------------


async def test_postmaster_is_taken_even_over_quota(directory: Directory) -> None:
    directory.postmaster = ["full@example.com"]
    assert [account for account, _, _ in (await plan(directory, "postmaster", size=1)).copies] == [3]


async def test_postmaster_of_our_own_name_is_taken_though_it_is_no_mail_domain(directory: Directory) -> None:
    assert [account for account, _, _ in (await plan(directory, "Postmaster@mx.example.org")).copies] == [1]
    assert (await plan(directory, "anna@mx.example.org")).why == "relay refused"


@pytest.mark.parametrize("target", ["gone@example.com", "bob@example.com", "postmaster@example.com"])
async def test_postmaster_reaches_somebody_when_its_target_does_not_take_mail(
    directory: Directory, target: str
) -> None:
    directory.disabled.add("bob")
    directory.postmaster = [target]
    directory.somebody = "anna"
    planned = await plan(directory, "postmaster")
    assert [account for account, _, _ in planned.copies] == [1]
    assert planned.refusal is None


async def test_postmaster_of_an_empty_server_is_refused_only_for_now(directory: Directory) -> None:
    directory.postmaster = []
    assert said(await plan(directory, "postmaster")).startswith("451 4.3.0")
    directory.postmaster = ["gone@example.com"]
    directory.somebody = ""
    assert said(await plan(directory, "postmaster")).startswith("451 4.3.0")


# -- loops over other hosts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header, found",
    [
        (b"Delivered-To: anna@example.com\r\nSubject: x\r\n\r\n", "anna@example.com"),
        (b"Subject: x\r\nDELIVERED-TO: Anna@Example.com\r\n\r\n", "anna@example.com"),
        (b"Subject: x\r\nDelivered-To: joanna@example.com\r\n\r\n", ""),
        (b"Subject: Delivered-To: anna@example.com\r\n\r\n", ""),
        (b"X-Delivered-To: anna@example.com\r\n\r\n", ""),
        (b"", ""),
    ],
)
def test_a_message_that_comes_back_is_recognised(header: bytes, found: str) -> None:
    assert delivered_before(header, ["bob@example.com", "anna@example.com"]) == found


# -- gateway domains -------------------------------------------------------------------------------------------------

BEHIND = "behind.example"


def gateway(
    check: str = "callout", in_doubt: str = "known", *, listed: bool = False, unfailing: bool = False
) -> Gateway:
    return Gateway("", "", BEHIND, "inner.example:25", check, in_doubt, listed, unfailing)


class Host:
    """Answers every callout alike, and counts them."""

    def __init__(self, standing: Standing) -> None:
        self.standing = standing
        self.asked: list[str] = []

    async def ask(self, gateway: Gateway, address: Address) -> Heard:
        self.asked.append(str(address))
        return Heard(self.standing, "inner.example said so")


@pytest.mark.parametrize(
    "meant, standing, may_relay, known, fate",
    [
        (gateway("all"), Standing.REFUSED, False, False, "passed"),
        (gateway("list", listed=True), Standing.REFUSED, False, False, "passed"),
        (gateway("list"), Standing.TAKEN, False, False, "no such mailbox"),
        (gateway("list"), Standing.TAKEN, True, True, "no such mailbox"),
        (gateway("list", unfailing=True), Standing.REFUSED, False, False, "passed"),
        (gateway(), Standing.TAKEN, False, False, "passed"),
        (gateway(), Standing.REFUSED, False, True, "no such mailbox"),
        (gateway(), Standing.REFUSED, True, True, "no such mailbox"),
        (gateway(unfailing=True), Standing.REFUSED, False, False, "passed"),
        (gateway(), Standing.DOUBT, False, False, "recipient in doubt"),
        (gateway(), Standing.DOUBT, False, True, "passed"),
        (gateway(), Standing.DOUBT, True, False, "passed"),
        (gateway(in_doubt="accept"), Standing.DOUBT, False, False, "passed"),
        (gateway(in_doubt="defer"), Standing.DOUBT, False, True, "recipient in doubt"),
    ],
)
async def test_a_gateway_recipient_is_passed_on_or_not(
    directory: Directory, meant: Gateway, standing: Standing, may_relay: bool, known: bool, fate: str
) -> None:
    directory.gateways[BEHIND] = meant
    directory.known = {f"carl@{BEHIND}"} if known else set()
    host = Host(standing)
    found = await plan(directory, f"carl@{BEHIND}", may_relay=may_relay, callouts=host)
    if fate == "passed":
        assert (remotes(found), found.refusal) == ([f"carl@{BEHIND}"], None)
        assert found.expansions[0] == (f"carl@{BEHIND}", "gateway: inner.example:25")
    else:
        assert (found.why, remotes(found)) == (fate, [])
        assert found.refusal is not None
        assert found.refusal.permanent is (fate == "no such mailbox")
        assert found.evidence
    assert len(host.asked) == (meant.check == "callout" and not meant.unfailing)


async def test_what_is_said_of_a_refused_gateway_recipient_names_no_inner_host(directory: Directory) -> None:
    directory.gateways[BEHIND] = gateway()
    refused = await plan(directory, f"carl@{BEHIND}", callouts=Host(Standing.REFUSED))
    assert said(refused) == "550 5.1.1 No mailbox carl@behind.example here. Check the spelling."
    doubt = await plan(directory, f"carl@{BEHIND}", callouts=Host(Standing.DOUBT))
    assert said(doubt).startswith("451 4.4.3 Whether carl@behind.example exists could not be found out.")
    assert doubt.evidence == "inner.example said so"


async def test_an_alias_into_a_gateway_domain_is_vouched_for_by_who_made_it(directory: Directory) -> None:
    directory.gateways[BEHIND] = gateway()
    directory.aliases["team"] = ["anna@example.com", f"carl@{BEHIND}"]
    host = Host(Standing.REFUSED)
    found = await plan(directory, "team", callouts=host)
    assert remotes(found) == [f"carl@{BEHIND}"]
    assert len(found.copies) == 1
    assert not host.asked
    directory.gateways[BEHIND] = gateway("list")
    found = await plan(directory, "team", callouts=host)
    assert (remotes(found), len(found.copies)) == ([], 1)
    assert (f"carl@{BEHIND}", "passed over: it is not in the list of this gateway domain") in found.expansions


async def test_our_own_postmaster_may_live_behind_a_gateway(directory: Directory) -> None:
    directory.postmaster = [f"postmaster@{BEHIND}"]
    directory.gateways[BEHIND] = gateway(unfailing=True)
    assert remotes(await plan(directory, "postmaster@mx.example.org")) == [f"postmaster@{BEHIND}"]


async def test_without_anybody_who_asks_every_callout_is_a_doubt(directory: Directory) -> None:
    directory.gateways[BEHIND] = gateway()
    assert (await plan(directory, f"carl@{BEHIND}")).why == "recipient in doubt"
