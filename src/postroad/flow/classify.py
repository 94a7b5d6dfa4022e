"""What a report of failed delivery means: a kind with a stable word, and whether the address is gone for good. Pure.

Status codes (RFC 3463) that hosts use for one thing only come first, then the words of the diagnostic, then the other
codes: many hosts say 5.0.0, 5.1.1 or 5.7.1 of everything, and mean what they write.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from postroad.wire.mime.report import Reported

KINDS: Final = {
    "unknown recipient": "the mailbox does not exist",
    "unknown domain": "the domain does not exist or takes no mail",
    "recipient moved": "the address has been given up for another one",
    "mailbox disabled": "the mailbox exists and takes no mail",
    "mailbox full": "the mailbox has no room",
    "too large": "the message is larger than the host or the mailbox takes",
    "rate limited": "too much mail came in a short time",
    "blocked": "the sending address or network is on a list",
    "authentication": "SPF, DKIM, DMARC, reverse DNS or TLS did not satisfy the host",
    "spam": "the content was taken for unwanted mail",
    "virus": "the content was taken for harmful",
    "policy": "the host refused it for a rule of its own",
    "relaying denied": "the host does not serve the domain",
    "content": "the host could not read or convert the message",
    "loop": "the message ran in a circle",
    "system": "the host or its network had a fault",
    "expired": "it was tried until its time was up",
    "unknown": "nobody could tell from what was written",
}
"""Stable words, and what each means; the documentation and later suppression read this table."""

HARD: Final = frozenset(("unknown recipient", "unknown domain", "recipient moved"))
"""Kinds that say of the address itself that nothing sent there arrives, now or later."""


@dataclass(frozen=True, slots=True)
class Bounce:
    """What became of a message at one recipient after somebody had taken it."""

    recipient: str
    kind: str
    """One of KINDS."""
    hard: bool
    """The address is gone: mail to it should not be sent again."""
    final: bool
    """Delivery has ended; otherwise it is only late."""
    status: str = ""
    said: str = ""


def classify(reported: Reported) -> Bounce | None:
    """The meaning of what a report says of one recipient; None when it is a report of success."""
    if reported.action in ("delivered", "relayed", "expanded") or reported.status.startswith("2."):
        return None
    temporary = reported.status.startswith("4.") or (not reported.status and 400 <= reported.code < 500)
    certain = _STATUS.get(reported.status[2:], "") if _is_certain(reported.status) else ""
    kind = (
        certain
        or _by_words(reported.diagnostic)
        or _by_status(reported.status)
        or _CODES.get(reported.code)
        or "unknown"
    )
    final = reported.action != "delayed"
    hard = kind in HARD and final and not temporary
    return Bounce(reported.recipient, kind, hard, final, reported.status, reported.diagnostic)


def _is_certain(status: str) -> bool:
    """Whether hosts use a code for one thing only, so that it says more than the words beside it."""
    return status[2:] in ("1.7", "1.8", "1.10", "3.4") or status[2:].startswith(("6.", "7.2"))


def _by_words(text: str) -> str:
    lowered = text.lower()
    return next((kind for kind, found in _WORDS if found(lowered)), "") if lowered else ""


def _by_status(status: str) -> str:
    return _STATUS.get(status[2:], "") or _SUBJECT.get(status[2:].partition(".")[0], "") if status else ""


_CODES: Final = {551: "recipient moved", 552: "mailbox full", 521: "unknown domain", 556: "unknown domain"}

_STATUS: Final = {
    # RFC 3463 sections 3.2 to 3.8, RFC 7372, RFC 7505
    "1.1": "unknown recipient",
    "1.2": "unknown domain",
    "1.3": "unknown recipient",
    "1.4": "unknown recipient",
    "1.6": "recipient moved",
    "1.7": "policy",
    "1.8": "authentication",
    "1.10": "unknown domain",
    "2.0": "unknown",
    "2.1": "mailbox disabled",
    "2.2": "mailbox full",
    "2.3": "too large",
    "2.4": "loop",
    "3.4": "too large",
    "4.3": "unknown domain",
    "4.4": "unknown domain",
    "4.6": "loop",
    "4.7": "expired",
    "7.1": "policy",
    "7.9": "authentication",
    "7.20": "authentication",
    "7.21": "authentication",
    "7.22": "authentication",
    "7.23": "authentication",
    "7.24": "authentication",
    "7.25": "authentication",
    "7.26": "authentication",
    "7.27": "authentication",
    "7.28": "rate limited",
}
_SUBJECT: Final = {"2": "mailbox disabled", "3": "system", "4": "system", "5": "system", "6": "content", "7": "policy"}
"""RFC 3463 section 3: what the middle number alone says."""


def _pattern(*words: str) -> re.Pattern[str]:
    return re.compile("|".join(words))


_MAILBOX: Final = r"(?:user|mailbox|recipient|address|account|alias|local part|addressee|inbox)"
_WORDS: Final = tuple(
    (kind, _pattern(*words).search)
    for kind, words in (
        ("loop", (r"too many hops", r"mail (?:loop|forwarding loop)", r"hop count", r"routing loop", r"loops? back")),
        (
            "mailbox full",
            (
                r"quota",
                rf"{_MAILBOX}(?:'s)? (?:\S+ )?(?:is )?(?:over)?full",
                r"mailbox size",
                r"storage (?:limit|space)",
                r"not enough (?:disk|storage)? ?space",
                r"insufficient (?:system )?(?:disk|storage)",
                r"box is full",
                r"over its (?:disk )?limit",
                r"exceeded (?:its|the|their) (?:storage|disk|mailbox)",
                r"account is full",
                r"disk full",
                r"user is overloaded with mail",
            ),
        ),
        (
            "too large",
            (
                r"(?:message|mail|size)[a-z ]* (?:too (?:large|big)|exceeds)",
                r"exceed[a-z]* (?:[a-z]+ ){0,3}(?:message )?size",
                r"message length exceeds",
                r"size limit",
                r"too much mail data",
                r"larger than",
            ),
        ),
        (
            "rate limited",
            (
                r"rate.?limit",
                r"too many (?:messages|connections|emails|recipients|mails)",
                r"throttl",
                r"too (?:fast|frequent)",
                r"unusual rate",
                r"sending limit",
                r"receiving mail at a rate",
                r"try again later.*volume",
            ),
        ),
        (
            "authentication",
            (
                r"\bspf\b",
                r"\bdkim\b",
                r"\bdmarc\b",
                r"unauthenticated",
                r"not pass authentication",
                r"reverse dns",
                r"\bptr\b",
                r"no (?:valid )?ptr",
                r"reverse (?:hostname|lookup|name)",
                r"starttls",
                r"authenticat(?:ion|ed) (?:is )?required",
                r"hostname.*resolve",
                r"helo.*(?:invalid|reject|does not)",
                r"sender policy framework",
            ),
        ),
        (
            "blocked",
            (
                r"black.?list",
                r"block.?list",
                r"\bdnsbl\b",
                r"\brbl\b",
                r"spamhaus",
                r"spamcop",
                r"blocked (?:using|by|because)",
                r"barracuda",
                r"poor reputation",
                r"bad reputation",
                r"low reputation",
                r"ip address .*(?:block|reject|listed|denied)",
                r"client host .*(?:block|reject)",
                r"(?:connection|access) (?:refused|denied|rejected).*(?:ip|host|network)",
                r"banned",
            ),
        ),
        ("virus", (r"\bvirus", r"malware", r"infected", r"trojan", r"dangerous (?:file|attachment)")),
        (
            "spam",
            (
                r"\bspam",
                r"\bbulk\b",
                r"unsolicited",
                r"junk",
                r"high probability",
                r"content (?:rejected|filter)",
                r"looks like",
                r"suspicious",
                r"phish",
            ),
        ),
        (
            "relaying denied",
            (
                r"relay(?:ing)? (?:access )?(?:not|denied|prohibited|is)",
                r"unable to relay",
                r"cannot relay",
                r"not permitted to relay",
                r"relaying mail to",
                r"rcpthosts",
                r"not (?:a )?local (?:domain|host)",
                r"we do not relay",
            ),
        ),
        (
            "mailbox disabled",
            (
                (
                    rf"{_MAILBOX} (?:\S+ )?(?:is |has been |was )?(?:currently )?(?:temporarily )?(?:disabled|"
                    rf"inactive|suspended|deactivated|locked|closed|expired)"
                ),
                r"inactive (?:user|mailbox|account)",
                r"disabled (?:mailbox|account|recipient)",
                r"account (?:that you tried to reach )?(?:is|has been) (?:disabled|inactive)",
                r"no longer (?:on server|accepts?|active)",
                r"mailbox (?:currently )?unavailable.*(?:inactive|suspend)",
                r"not accepting (?:mail|messages)",
            ),
        ),
        (
            "recipient moved",
            (rf"{_MAILBOX} (?:\S+ )?has (?:moved|changed)", r"new address", r"please try <", r"has been replaced by"),
        ),
        (
            "unknown recipient",
            (
                (
                    rf"{_MAILBOX}(?: \S+)? (?:\S+ ){{0,2}}(?:unknown|not (?:be )?(?:found|exist|known|listed|"
                    rf"available|valid)|does ?n[o']t exist|not exists?)"
                ),
                (
                    rf"(?:unknown|invalid|no such|bad|non-?existent|undeliverable|unrouteable|unrouted|"
                    rf"illegal)(?: virtual| local| or illegal| destination)? (?:\S+ )?{_MAILBOX}"
                ),
                rf"no {_MAILBOX}",
                r"no mail-?box here",
                r"does not exist",
                r"doesn't have (?:a|an) ",
                r"not our customer",
                r"no such person",
                r"user unknown",
                r"unknown user",
                r"(?:recipient|user|account) (?:is )?invalid",
                r"who\?",
                r"not listed in",
                r"no valid recipients?",
                r"not a valid (?:mailbox|user|recipient|address)",
                r"address(?:ee)? (?:is )?(?:unknown|invalid)",
                r"no longer (?:valid|exists|available|here|works)",
                r"never (?:logged|existed)",
                r"unknown or illegal alias",
                r"recipnotfound",
                r"resolver\.adr\.",
                r"mailbox unavailable",
                r"unrouteable mail",
                r"user(?: account)? (?:is )?unavailable",
            ),
        ),
        (
            "unknown domain",
            (
                r"(?:host|domain)(?: name)?(?: \S+)? (?:is )?(?:unknown|not (?:be )?found|does ?n[o']t exist|lookup)",
                r"(?:unknown|no such|bad|invalid) (?:domain|host)",
                r"name or service not known",
                r"name server:.*host not found",
                r"nxdomain",
                r"null mx",
                r"does not accept (?:e?mail|smtp)",
                r"domain does not exist",
                r"host (?:or domain )?name .*not found",
                r"could ?n[o']t be resolved|could not resolve",
                r"unrouteable (?:address|domain)",
                r"all relevant mx records point to",
            ),
        ),
        (
            "expired",
            (
                r"(?:retry|delivery|message) time(?:out)?.*(?:exceeded|expired)",
                r"has been in (?:the )?queue",
                r"message expired",
                r"retry timeout",
                r"could not send message for",
                r"not been (?:able|delivered).*(?:days|hours)",
                r"delivery (?:time|period) expired",
                r"will not be retried",
            ),
        ),
        (
            "system",
            (
                r"connection (?:timed out|refused|reset|dropped)",
                r"timed? ?out",
                r"no route to host",
                r"network (?:is )?unreachable",
                r"local configuration error",
                r"temporary (?:local )?(?:problem|failure|error)",
                r"system (?:error|resources)",
                r"service (?:is )?(?:not available|unavailable)",
                r"server (?:error|busy|down)",
                r"i/o error",
                r"read error",
                r"lost connection",
            ),
        ),
        (
            "policy",
            (
                r"polic(?:y|ies)",
                r"not allowed",
                r"denied",
                r"prohibited",
                r"not permitted",
                r"not authori[sz]ed",
                r"rejected by",
                r"refused",
                r"restricted",
            ),
        ),
        ("content", (r"header", r"syntax", r"8-?bit", r"mime\b", r"attachment", r"conver(?:t|sion)")),
    )
)
