"""Errors cost time: how long the reply to a stranger's refused command is held back (row S29).

Guessing recipients or passwords is only worth while when it is fast. Somebody who mistyped does not notice: the first
errors are free. Only what the peer did wrong counts (5yz); a 4yz is our trouble more often than theirs, and honest mail
servers meet those.
"""

from __future__ import annotations

from typing import Final

from postroad.values.networks import parse_ip

FREE_ERRORS: Final = 3
"""Refused commands without a delay: a list with a few recipients that have left is no attack."""

STEP_S: Final = 1.0
"""Each further error costs so much more than the one before."""

HOLD_MAX_S: Final = 10.0
"""The longest a reply is held: well below the 5 minutes that RFC 5321 section 4.5.3.2 lets clients wait."""


def pays(peer: str) -> bool:
    """Whether a peer is a stranger at all: programs of this machine are none."""
    ip = parse_ip(peer)
    return ip is not None and not ip.is_loopback


def hold_s(before: int, errors: int) -> float:
    """Seconds to hold back replies when a session's errors rose from `before` to `errors`; 0.0 for the first few.

    Several errors at once (a pipeline) cost together what each costs singly, up to `HOLD_MAX_S`.

    >>> hold_s(2, 3), hold_s(3, 4), hold_s(4, 5), hold_s(19, 20)
    (0.0, 1.0, 2.0, 10.0)
    """
    steps = sum(max(0, number - FREE_ERRORS) for number in range(before + 1, errors + 1))
    return min(HOLD_MAX_S, steps * STEP_S)
