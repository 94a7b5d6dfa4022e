"""What is asked of mail from our own users, from top to bottom. This list is the policy and its documentation."""

from __future__ import annotations

from typing import Final

from postroad.rules.checks import allowance, outside, sender
from postroad.rules.gate import Rule
from postroad.values.facts import Stage

SUBMISSION: Final = (
    Rule(Stage.CONNECT, outside.own_policy),
    Rule(Stage.CONNECT, outside.milters),
    Rule(Stage.HELLO, outside.own_policy),
    Rule(Stage.HELLO, outside.milters),
    Rule(Stage.AUTH, outside.own_policy),
    Rule(Stage.MAIL, sender.envelope_sender_is_yours),
    Rule(Stage.MAIL, allowance.one_more_message),
    Rule(Stage.MAIL, outside.own_policy),
    Rule(Stage.MAIL, outside.milters),
    Rule(Stage.RCPT, allowance.one_more_recipient),
    Rule(Stage.RCPT, outside.own_policy),
    Rule(Stage.RCPT, outside.milters),
    Rule(Stage.MESSAGE, sender.authors_are_yours),
    Rule(Stage.MESSAGE, outside.milters),
    Rule(Stage.MESSAGE, outside.own_policy),
)
