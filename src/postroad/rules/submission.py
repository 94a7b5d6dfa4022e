"""What is asked of mail from our own users, from top to bottom. This list is the policy and its documentation."""

from __future__ import annotations

from typing import Final

from postroad.rules.checks import allowance, outside, sender
from postroad.rules.gate import Rule
from postroad.values.facts import Stage

SUBMISSION: Final = (
    Rule(Stage.CONNECT, outside.own_policy, needs="policy"),
    Rule(Stage.CONNECT, outside.milters, needs="milters"),
    Rule(Stage.HELLO, outside.own_policy, needs="policy"),
    Rule(Stage.HELLO, outside.milters, needs="milters"),
    Rule(Stage.AUTH, outside.own_policy, needs="policy"),
    Rule(Stage.MAIL, sender.envelope_sender_is_yours, needs="senders"),
    Rule(Stage.MAIL, allowance.one_more_message, needs="allowances"),
    Rule(Stage.MAIL, outside.own_policy, needs="policy"),
    Rule(Stage.MAIL, outside.milters, needs="milters"),
    Rule(Stage.RCPT, allowance.one_more_recipient, needs="allowances"),
    Rule(Stage.RCPT, outside.own_policy, needs="policy"),
    Rule(Stage.RCPT, outside.milters, needs="milters"),
    Rule(Stage.MESSAGE, sender.authors_are_yours),
    Rule(Stage.MESSAGE, outside.milters, needs="milters"),
    Rule(Stage.MESSAGE, outside.own_policy, needs="policy"),
)
