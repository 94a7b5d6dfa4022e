"""The gate: asks the rules of a stage in their order and settles on one verdict.

Two kinds of doubt are kept apart. An undecided blocker (could the client be on a list?) counts only if everything else
passes: then the mail waits. An undecided allower (could the client be a friend?) softens a later rejection: then the
mail waits too. So no 5yz ever comes out of a doubt, and a doubt about one thing hides no certain answer to another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from msgspec import structs

from postroad.rules.ports import NOBODY, Ports
from postroad.rules.words import WORDS
from postroad.values.facts import Content, Facts, Stage
from postroad.values.reply import Reply
from postroad.values.verdict import ACCEPTED, NO_CHANGES, Changes, Ruling, Verdict, doubt

SOFTENED: Final = Reply(451, "4.7.0", "A check that might let you pass could not be completed. Please retry.")

Check = Callable[[Facts, Ports], Awaitable[Verdict | None]]
"""Facts and the ports of the gate; None has nothing to say. Where it cannot tell, it says so and does not raise."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a rule list."""

    stage: Stage
    check: Check
    allows: bool = False
    """An allower: its ACCEPT ends the list."""
    needs: str = ""
    """The port it cannot do without: where nobody is behind it, the rule is left out."""


class Gate:
    """The rules of one kind of door, with what they may ask of the world.

    `on_bug` is told of a check that raised, which counts as a doubt of it.
    """

    __slots__ = ("_by_stage", "_on_bug", "_ports")

    def __init__(self, rules: Sequence[Rule], ports: Ports, on_bug: Callable[[Exception, str], None]) -> None:
        asked = [rule for rule in rules if not (rule.needs and getattr(ports, rule.needs) is NOBODY)]
        self._by_stage = {stage: tuple(rule for rule in asked if rule.stage is stage) for stage in Stage}
        self._ports = ports
        self._on_bug = on_bug

    def asks(self, stage: Stage) -> bool:
        """Whether there is a rule for a stage: facts need not be gathered for one without."""
        return bool(self._by_stage[stage])

    async def ask(self, facts: Facts) -> Verdict:
        """The verdict on facts at their stage; it passes when its `say` is None."""
        undecided_blocker: Verdict | None = None
        undecided_allower: Verdict | None = None
        changes = NO_CHANGES
        for rule in self._by_stage[facts.stage]:
            verdict = await self._one(rule, facts)
            if verdict is None:
                continue
            if verdict.ruling is Ruling.REFUSE:
                return _softened(verdict, undecided_allower)
            if verdict.ruling is Ruling.COULD_NOT_TELL:
                if rule.allows:
                    undecided_allower = undecided_allower or verdict
                else:
                    undecided_blocker = _graver(undecided_blocker, verdict)
                continue
            if verdict.changes:
                changes = merged(changes, verdict.changes)
                facts = changed(facts, verdict.changes)
            if rule.allows:
                break
        settled = undecided_blocker or ACCEPTED
        return replace(settled, changes=changes) if changes and settled.passes else settled

    async def _one(self, rule: Rule, facts: Facts) -> Verdict | None:
        try:
            return await rule.check(facts, self._ports)
        except Exception as bug:
            self._on_bug(bug, f"check {getattr(rule.check, '__name__', 'unnamed')} at {facts.stage.value}")
            return doubt("check failed", repr(type(bug).__name__))


def _softened(refusal: Verdict, undecided: Verdict | None) -> Verdict:
    assert refusal.say is not None
    if undecided is None or refusal.say.temporary:
        return refusal
    evidence = f"would refuse ({refusal.why}: {refusal.say}), but could not tell: {undecided.why}"
    return replace(refusal.later(SOFTENED), why=undecided.why, evidence=evidence)


def _graver(one: Verdict | None, other: Verdict) -> Verdict:
    """The doubt that counts: the first one for which mail must wait, else the first."""
    if one is None or (one.passes and not other.passes):
        return other
    return one


def merged(one: Changes, other: Changes) -> Changes:
    """What two checks want changed, the later one's word last: it has seen what the earlier one did."""
    if not other:
        return one
    if not one:
        return other
    later_sender = other.sender is not None or other.null_sender
    return Changes(
        header=other.header if other.header is not None else one.header,
        above=other.above + one.above,
        body=other.body if other.body is not None else one.body,
        sender=other.sender if later_sender else one.sender,
        null_sender=other.null_sender if later_sender else one.null_sender,
        recipients_added=one.recipients_added + other.recipients_added,
        recipients_removed=one.recipients_removed + other.recipients_removed,
        quarantine=one.quarantine or other.quarantine,
        discard=one.discard or other.discard,
    )


def changed(facts: Facts, changes: Changes) -> Facts:
    """The facts as the next check is to see them: with what the one before wants changed."""
    content = facts.content
    if content is not None and (changes.header is not None or changes.body is not None):
        content = _changed_content(content, changes)
    gone = frozenset(changes.recipients_removed)
    return structs.replace(
        facts,
        content=content,
        sender=changes.sender if changes.sender is not None or changes.null_sender else facts.sender,
        recipients=tuple(one for one in facts.recipients if one not in gone) + changes.recipients_added,
    )


def _changed_content(content: Content, changes: Changes) -> Content:
    header = content.header if changes.header is None else changes.header
    body = changes.body
    if body is None:
        return replace(content, header=header, size=content.size - len(content.header) + len(header))

    async def pieces() -> AsyncIterator[bytes]:
        yield body

    return Content(header, len(header) + len(body), pieces, eightbit=not body.isascii())


def explained(why: str) -> str:
    """What a stable word means, in one sentence; raises KeyError for a word that nobody has documented."""
    return WORDS[why]
