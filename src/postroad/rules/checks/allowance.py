"""How much one account may send: a stolen password must not become a flood of spam."""

from __future__ import annotations

from postroad.rules.ports import Ports
from postroad.values.facts import Facts
from postroad.values.verdict import Ruling, Verdict


async def one_more_message(facts: Facts, ports: Ports) -> Verdict | None:
    """The account may send one more message."""
    return await _ask(facts, ports)


async def one_more_recipient(facts: Facts, ports: Ports) -> Verdict | None:
    """The account may write to one more recipient, and to this one if it never has before."""
    return await _ask(facts, ports)


async def _ask(facts: Facts, ports: Ports) -> Verdict | None:
    if not facts.account:
        return None
    reached = await ports.allowances.ask(facts)
    if reached is None:
        return None
    why, reply = reached
    return Verdict(Ruling.REFUSE, why, reply)
