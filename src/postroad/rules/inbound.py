"""What is asked of mail from the world, from top to bottom. This list is the policy and its documentation."""

from __future__ import annotations

from typing import Final

from postroad.rules.checks import form, outside
from postroad.rules.gate import Rule
from postroad.values.facts import Stage

INBOUND: Final = (
    Rule(Stage.CONNECT, outside.own_policy, needs="policy"),
    Rule(Stage.CONNECT, outside.milters, needs="milters"),
    Rule(Stage.HELLO, outside.own_policy, needs="policy"),
    Rule(Stage.HELLO, outside.milters, needs="milters"),
    Rule(Stage.MAIL, outside.own_policy, needs="policy"),
    Rule(Stage.MAIL, outside.milters, needs="milters"),
    Rule(Stage.RCPT, outside.own_policy, needs="policy"),
    Rule(Stage.RCPT, outside.milters, needs="milters"),
    Rule(Stage.MESSAGE, form.has_a_header),
    Rule(Stage.MESSAGE, outside.milters, needs="milters"),
    Rule(Stage.MESSAGE, outside.own_policy, needs="policy"),
)
