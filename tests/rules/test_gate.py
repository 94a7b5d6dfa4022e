"""The gate as a truth table: blockers and allowers in two positions, changes that meet, checks that break down."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from postroad.rules.gate import SOFTENED, Check, Gate, Rule, changed, explained, merged
from postroad.rules.inbound import INBOUND
from postroad.rules.ports import Nobody, Ports
from postroad.rules.submission import SUBMISSION
from postroad.values.address import Address
from postroad.values.facts import Content, Facts, Stage
from postroad.values.verdict import ACCEPTED, NO_CHANGES, UNDECIDED, Changes, Ruling, Verdict, accept, doubt, refuse

FACTS = Facts(Stage.MAIL)
ANSWERS: dict[str, Verdict | None] = {
    "silent": None,
    "passes": accept(),
    "refuses": refuse("no header", 550, "5.7.1", "No."),
    "postpones": refuse("mailbox full", 452, "4.2.2", "Later."),
    "undecided": doubt("policy hung"),
    "noted": doubt("policy failed", say=None),
}
KINDS = [(name, allows) for name in ANSWERS for allows in (False, True)]


def says(verdict: Verdict | None) -> Check:
    async def check(facts: Facts, ports: Ports) -> Verdict | None:
        return verdict

    return check


def unasked(bug: Exception, where: str) -> None:
    raise AssertionError(where) from bug


def gate_of(*rules: tuple[Verdict | None, bool]) -> Gate:
    return Gate([Rule(Stage.MAIL, says(verdict), allows) for verdict, allows in rules], Ports(), unasked)


def expected(first: tuple[str, bool], second: tuple[str, bool]) -> tuple[Ruling, int]:
    """Ruling and code, from the words of the design, not from the code: code 0 passes."""
    soft = False
    counted = 0
    noted = False
    for name, allows in (first, second):
        if name == "passes" and allows:
            break
        if name in ("refuses", "postpones"):
            if soft and name == "refuses":
                return Ruling.COULD_NOT_TELL, 451
            return Ruling.REFUSE, 550 if name == "refuses" else 452
        if name in ("undecided", "noted"):
            if allows:
                soft = True
            elif name == "undecided":
                counted = 451
            else:
                noted = True
    if counted:
        return Ruling.COULD_NOT_TELL, 451
    return (Ruling.COULD_NOT_TELL, 0) if noted else (Ruling.ACCEPT, 0)


@pytest.mark.parametrize(
    "first, second",
    list(itertools.product(KINDS, KINDS)),
    ids=lambda kind: f"{'allower' if kind[1] else 'blocker'}-{kind[0]}",
)
async def test_every_pair(first: tuple[str, bool], second: tuple[str, bool]) -> None:
    verdict = await gate_of((ANSWERS[first[0]], first[1]), (ANSWERS[second[0]], second[1])).ask(FACTS)
    assert (verdict.ruling, verdict.say.code if verdict.say else 0) == expected(first, second)
    if verdict.ruling is Ruling.COULD_NOT_TELL and verdict.say is not None:
        assert verdict.say.temporary, "never a 5yz out of a doubt"


@pytest.mark.parametrize("later", ["silent", "passes", "undecided", "noted"])
@pytest.mark.parametrize("allows", [False, True], ids=["list of the bad", "list of the good"])
async def test_rows_s69_and_s70_what_dns_does_not_answer_never_refuses_for_good(allows: bool, later: str) -> None:
    """Rows S69 and S70: a list or a record that could not be looked up is a doubt: accepted, or 451."""
    verdict = await gate_of((doubt("check failed"), allows), (ANSWERS[later], False)).ask(FACTS)
    assert verdict.ruling is not Ruling.REFUSE
    assert verdict.say is None or verdict.say.code == 451


async def test_rows_s69_and_s70_a_list_of_the_good_that_is_down_makes_a_refusal_wait() -> None:
    verdict = await gate_of((doubt("check failed"), True), (ANSWERS["refuses"], False)).ask(FACTS)
    assert verdict.say is not None
    assert verdict.say.code == 451


async def test_softened_refusal_tells_what_it_would_have_been() -> None:
    verdict = await gate_of((doubt("policy hung"), True), (refuse("no header", 550, "5.7.1", "No."), False)).ask(FACTS)
    assert verdict.say == SOFTENED
    assert verdict.why == "policy hung"
    assert "no header" in verdict.evidence


async def test_a_doubt_that_waits_counts_more_than_one_that_is_noted() -> None:
    noted, waits = doubt("policy failed", say=None), doubt("policy hung")
    for order in ((noted, waits), (waits, noted)):
        assert (await gate_of(*((one, False) for one in order)).ask(FACTS)).why == "policy hung"


async def test_nothing_after_a_refusal_or_an_allower_is_asked() -> None:
    asked: list[str] = []

    async def spy(facts: Facts, ports: Ports) -> Verdict | None:
        asked.append("spy")
        return None

    for first, allows in ((refuse("no header", 550, "5.7.1", "No."), False), (accept(), True)):
        await Gate([Rule(Stage.MAIL, says(first), allows), Rule(Stage.MAIL, spy)], Ports(), unasked).ask(FACTS)
    assert asked == []


async def test_a_check_that_raises_is_a_doubt_and_told() -> None:
    async def broken(facts: Facts, ports: Ports) -> Verdict | None:
        raise RuntimeError("secret of a message")

    told: list[str] = []
    gate = Gate([Rule(Stage.MAIL, broken)], Ports(), lambda bug, where: told.append(f"{where}: {bug}"))
    verdict = await gate.ask(FACTS)
    assert (verdict.ruling, verdict.why, verdict.say) == (Ruling.COULD_NOT_TELL, "check failed", UNDECIDED)
    assert "secret" not in verdict.evidence
    assert told == ["check broken at mail: secret of a message"]


async def test_a_check_that_raises_hides_no_refusal() -> None:
    async def broken(facts: Facts, ports: Ports) -> Verdict | None:
        raise RuntimeError

    rules = [Rule(Stage.MAIL, broken), Rule(Stage.MAIL, says(refuse("no header", 550, "5.7.1", "No.")))]
    assert (await Gate(rules, Ports(), lambda bug, where: None).ask(FACTS)).ruling is Ruling.REFUSE


async def test_rules_of_other_stages_and_of_absent_ports_are_not_asked() -> None:
    no = says(refuse("no header", 550, "5.7.1", "No."))
    gate = Gate([Rule(Stage.RCPT, no), Rule(Stage.MAIL, no, needs="policy")], Ports(), unasked)
    assert not gate.asks(Stage.MAIL)
    assert gate.asks(Stage.RCPT)
    assert await gate.ask(FACTS) is ACCEPTED
    assert Gate([Rule(Stage.MAIL, no, needs="policy")], Ports(policy=Nobody()), unasked).asks(Stage.MAIL)


# -- changes -----------------------------------------------------------------------------------------------------------

ANNA, BOB, EVE = (Address.parse(f"{name}@example.org") for name in ("anna", "bob", "eve"))


async def test_changes_are_merged_and_carried_to_the_next_check() -> None:
    seen: list[Facts] = []

    async def second(facts: Facts, ports: Ports) -> Verdict | None:
        seen.append(facts)
        assert facts.content is not None
        return accept(changes=Changes(header=b"B: 2\r\n" + facts.content.header, quarantine="odd"))

    first = accept(changes=Changes(header=b"A: 1\r\n\r\n", body=b"other\r\n", recipients_added=(EVE,)))
    rules = [Rule(Stage.MESSAGE, says(first)), Rule(Stage.MESSAGE, second)]
    facts = Facts(Stage.MESSAGE, recipients=(ANNA,), content=content(b"X: 1\r\n\r\n", b"body\r\n"))
    verdict = await Gate(rules, Ports(), unasked).ask(facts)
    assert verdict.changes == Changes(
        header=b"B: 2\r\nA: 1\r\n\r\n", body=b"other\r\n", recipients_added=(EVE,), quarantine="odd"
    )
    assert seen[0].recipients == (ANNA, EVE)
    assert seen[0].content is not None
    assert b"".join([piece async for piece in seen[0].content.body()]) == b"other\r\n"
    assert seen[0].content.size == len(b"A: 1\r\n\r\nother\r\n")


def content(header: bytes, octets: bytes) -> Content:
    async def body() -> AsyncIterator[bytes]:
        yield octets

    return Content(header, len(header) + len(octets), body)


async def test_changes_survive_a_noted_doubt_and_not_one_that_waits() -> None:
    change = accept(changes=Changes(quarantine="odd"))
    noted = await gate_of((change, False), (doubt("policy failed", say=None), False)).ask(FACTS)
    assert noted.changes.quarantine == "odd"
    waits = await gate_of((change, False), (doubt("policy hung"), False)).ask(FACTS)
    assert not waits.changes


def test_merged_takes_the_later_word_and_all_recipients() -> None:
    one = Changes(header=b"1", sender=ANNA, recipients_added=(BOB,), quarantine="first")
    other = Changes(body=b"2", null_sender=True, recipients_removed=(EVE,), quarantine="second", discard=True)
    assert merged(one, other) == Changes(
        header=b"1", body=b"2", null_sender=True, recipients_added=(BOB,), recipients_removed=(EVE,),
        quarantine="first", discard=True,
    )  # fmt: skip
    assert merged(one, NO_CHANGES) is one
    assert merged(NO_CHANGES, one) is one


def test_changed_facts_have_the_sender_and_the_recipients_that_are_left() -> None:
    facts = Facts(Stage.MESSAGE, sender=ANNA, recipients=(ANNA, BOB))
    assert changed(facts, Changes(null_sender=True)).sender is None
    after = changed(facts, Changes(sender=EVE, recipients_removed=(BOB,)))
    assert (after.sender, after.recipients) == (EVE, (ANNA,))


def test_the_lists_ask_the_stages_in_the_order_of_a_session() -> None:
    order = list(Stage)
    for rules in (INBOUND, SUBMISSION):
        places = [order.index(rule.stage) for rule in rules]
        assert places == sorted(places)


def test_words_are_explained() -> None:
    assert "policy.py" in explained("policy hung")
    with pytest.raises(KeyError):
        explained("never heard of")
