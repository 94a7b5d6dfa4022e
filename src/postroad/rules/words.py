"""The stable words for why something was refused or could not be told, alike in journal, metrics, API and documents.

A word is never renamed: people count by them. docs/policy.md explains them to administrators; a test compares the two.
"""

from __future__ import annotations

from typing import Final

WORDS: Final = {
    # the session
    "protocol": "a command or a message broke the protocol",
    "too many connections": "too many connections from one address or network, or altogether",
    "too many new connections": "too many connections were begun within a minute",
    "too busy": "all connections that are held at once are taken",
    "going down": "the server is being stopped or started again",
    "talked before the greeting": "the client spoke before it was greeted, as programs do that only send spam",
    "tls handshake": "TLS could not be agreed on",
    "answer overdue": "our own work took longer than a client waits; nothing was acknowledged",
    "no space": "disk or queue are too full to accept",
    "store broken": "the message could not be made safe on disk",
    "content refused": "the content is larger than is taken, or a line of it is",
    "nobody left": "policy took all recipients out of the message",
    "not convertible": "binary content that could not be made into ordinary mail",
    "message refused": "the message runs in a circle or its header is too large",
    # logins
    "login required": "this door takes mail from users only",
    "wrong password": "user name or password are wrong",
    "login not well formed": "what the client sent is no login by the mechanism it chose",
    "unknown login": "a proxy named a login by XCLIENT that nobody here has",
    "logins busy": "more logins were under way than can be proved at once",
    # recipients
    "relay refused": "the recipient is elsewhere and the client may not send there through us",
    "no such mailbox": "nobody has this address here",
    "no return path": "the address looks like a signed return path and was not made here, or too long ago",
    "recipient in doubt": "the host behind a gateway domain could not be asked whether the recipient exists",
    "mailbox disabled": "the account was switched off",
    "mailbox full": "the mailbox has used up its quota",
    "nobody yet": "no account exists yet to take mail for postmaster@ or abuse@",
    "alias too large": "an alias leads to more addresses than one message may have",
    "too many targets": "the aliases among the recipients of one message lead to more addresses than it may have",
    "alias loop": "aliases lead back to themselves",
    # submission
    "sender not granted": "the envelope sender belongs to somebody else",
    "from not granted": "the From or Sender field names somebody else",
    "from unclear": "the author field can be read in more than one way",
    "from missing": "the message names no author, or not in a way that can be read",
    "from twice": "the message has more than one From field, so readers would show different authors",
    "bad key": "the client's key for a submission stands twice or has letters that none may have",
    "key taken": "the client's key for a submission belongs to another message of the last 24 hours",
    "too many messages": "the account has sent what it may in an hour",
    "too many recipients": "the account has reached its recipients of a day",
    "too many new recipients": "the account has reached its recipients of a day that it never wrote to before",
    "too many recipients at once": "the message is for more recipients than one message of the account may have",
    "account removed": "the account was disabled or removed while it was logged in",
    # the administrator's policy.py
    "refused by policy": "policy.py refused it",
    "postponed by policy": "policy.py asked the client to come back later",
    "policy undecided": "policy.py said that it could not tell",
    "policy hung": "policy.py took longer than it may and was ended; nothing was decided by it",
    "policy failed": "policy.py raised an error, ended, or returned what it may not; nothing was decided by it",
    "policy busy": "policy.py had more questions waiting than it could answer in time",
    "policy not running": "policy.py could not be loaded, or is being started again after it ended at once",
    # form
    "no header": "the message has no header field at all",
    # milters
    "milter refused": "a mail filter of this server refused the client, the sender, the recipient or the message",
    "milter deferred": "a mail filter of this server asked to come back later, as greylisting does",
    "milter failed": "a mail filter could not be asked: it is not there, is silent, hung up or broke the protocol",
    # checks in general
    "check failed": "a check broke down; nothing was decided by it",
}
"""Every word, with what it means in one sentence."""
