"""Judges outside the rules: milters, and the policy that the administrator wrote."""

from __future__ import annotations

from postroad.rules.ports import Ports
from postroad.values.facts import Facts
from postroad.values.verdict import Verdict


async def milters(facts: Facts, ports: Ports) -> Verdict | None:
    """What the configured milters say."""
    return await ports.milters.ask(facts)


async def own_policy(facts: Facts, ports: Ports) -> Verdict | None:
    """What the administrator's `policy.py` says."""
    return await ports.policy.ask(facts)
