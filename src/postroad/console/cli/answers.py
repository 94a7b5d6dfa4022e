"""What the store's words mean to the person at the keyboard, with what to do next."""

from __future__ import annotations

from typing import Final, Protocol

from postroad.console.cli.exits import NO_USER, NOTHING, Trouble
from postroad.store.account_records import (
    ADDRESS_IN_USE,
    DOMAIN_EXISTS,
    DONE,
    KEY_IN_USE,
    LABEL_IN_USE,
    NO_ACCOUNT,
    NO_ALIAS,
    NO_APP_PASSWORD,
    NO_DOMAIN,
    NO_GRANT,
    NO_KEY,
    NO_KEY_WAITS,
    NO_TARGET,
    NOT_A_CHECK,
    NOT_A_DOMAIN,
    NOT_A_HOP,
    NOT_A_LABEL,
    NOT_A_NETWORK,
    NOT_A_QUOTA,
    NOT_A_SCOPE,
    NOT_A_SELECTOR,
    NOT_A_SENDER,
    NOT_AN_ADDRESS,
    SELECTOR_IN_USE,
    TOO_MANY_KEYS,
    WORDS,
)

USAGE: Final = 2

_FIXES: Final = {
    NOT_A_DOMAIN: ("Write it as example.org.", USAGE),
    NOT_AN_ADDRESS: ("Write it as anna@example.org.", USAGE),
    DOMAIN_EXISTS: ("Nothing to do. See: postroad domain list", NOTHING),
    NO_DOMAIN: ("Add it: postroad domain add DOMAIN     or look: postroad domain list", NOTHING),
    ADDRESS_IN_USE: ("See: postroad user list     postroad alias list", NOTHING),
    NO_ACCOUNT: ("Look: postroad user list", NO_USER),
    NO_ALIAS: ("Look: postroad alias list", NO_USER),
    NO_TARGET: ("Look: postroad alias list", NOTHING),
    NOT_A_HOP: ("LMTP needs a port that is not 25, or the path of a socket.", USAGE),
    NOT_A_CHECK: ("See: postroad domain gateway --help", USAGE),
    NO_KEY: ("Look: postroad domain dkim DOMAIN", NOTHING),
    NO_KEY_WAITS: ("Make one: postroad domain dkim DOMAIN rotate", NOTHING),
    KEY_IN_USE: ("postroad domain dkim DOMAIN retire SELECTOR", NOTHING),
    NOT_A_SELECTOR: ("Write it as s1 or mail-2026.", USAGE),
    SELECTOR_IN_USE: ("Look: postroad domain dkim DOMAIN", NOTHING),
    TOO_MANY_KEYS: ("postroad domain dkim DOMAIN remove SELECTOR", NOTHING),
    NOT_A_QUOTA: ("Write it as 5GB, or none.", USAGE),
    NOT_A_LABEL: ("Write it as phone or scanner-2.", USAGE),
    NOT_A_SCOPE: ("Write it as smtp,imap.", USAGE),
    NOT_A_NETWORK: ("Write it as 192.0.2.0/24, at most 20 of them.", USAGE),
    NOT_A_SENDER: ("Write it as sales@example.org or @example.org.", USAGE),
    LABEL_IN_USE: ("Remove it first: postroad user app-password remove ADDRESS LABEL", NOTHING),
    NO_APP_PASSWORD: ("Look: postroad user app-password list ADDRESS", NOTHING),
    NO_GRANT: ("Look: postroad user grants ADDRESS", NOTHING),
}
"""What to do about each word, and the exit status."""


class Answer(Protocol):
    """What a unit of `store.accounts` answers."""

    @property
    def word(self) -> str:
        """A word of `account_records.WORDS`."""
        ...


def demand(answer: Answer, about: str) -> None:
    """Ends the command with the word's sentence unless the change was made."""
    if answer.word == DONE:
        return
    fix, status = _FIXES.get(answer.word, ("", NOTHING))
    raise Trouble(f"{about}: {WORDS[answer.word]} Nothing was changed.", fix, exit_code=status)
