"""What each stable word of a refusal means for the one who asks, and what can be done about it."""

from __future__ import annotations

from typing import Final

REFUSALS: Final = {
    # the session
    "protocol": "The client broke the protocol at this command. Its maker or its settings are the place to look.",
    "too many connections": "Mail programs wait and come back. If these are yours, raise limits.*; see docs/limits.md.",
    "too many new connections": "The client comes back later. If it is yours, raise the limit; see docs/limits.md.",
    "too busy": "All connections were in use; the client comes back. More: limits.connections.",
    "going down": "The server was being stopped or started again; the client comes back.",
    "talked before the greeting": "Programs do so that only send spam. One that is yours must wait for the greeting.",
    "tls handshake": "The client and we have no TLS version or cipher in common, or it did not trust the certificate.",
    "answer overdue": "Our own work took too long; the sender tries again. Look at the load of disk and processor.",
    "no space": "The disk or the queue was nearly full. The sender tries again; make room meanwhile.",
    "store broken": "The store could not make the message safe. See the log, and: postroad verify",
    "content refused": "The message or a line of it is too long. Let the sender send less; see limits.message_size.",
    "nobody left": "A milter or policy.py took out every recipient, so there was nobody to deliver to.",
    "not convertible": "The client sent by BINARYMIME what no mailbox can keep. It should send it without.",
    "message refused": "The message went round in a circle, or its header is too large: the reply says which.",
    # logins
    "login required": "The client did not log in. It should send its user name (the whole address) and password.",
    "wrong password": "User name or password was wrong. New one: postroad user passwd ADDRESS",
    "no such login": "No account has this name; a login is the whole address. Look: postroad user list",
    "account disabled": "The account was disabled. Again: postroad user enable ADDRESS",
    "app passwords only": "Its own password lets nobody in. Make one for this program: postroad user app-password add",
    "app password expired": "The time of this app password is over. Make another: postroad user app-password add",
    "app password out of scope": "It is for other services. Look: postroad user app-password list ADDRESS",
    "app password out of its networks": "It is for other networks. Look: postroad user app-password list ADDRESS",
    "on behalf of another": "The client asked to act for another account, and nobody may do that.",
    "login over another channel": "The proof is for another certificate: the client errs, or somebody is in between.",
    "too many failed logins": "The network guessed too often and has to wait a quarter of an hour. See docs/logins.md.",
    "login not well formed": "What the client sent is no login of this mechanism. Let it use another, such as PLAIN.",
    "unknown login": "The proxy named a login that no account has. Look: postroad user list",
    "logins busy": "More logins came at once than can be proved; the client tries again.",
    # recipients
    "relay refused": "The recipient is not ours and the client did not log in: ports 465 and 587 ask for a login.",
    "no such mailbox": "Nobody has this address here. Make it (postroad user add), or tell the sender.",
    "recipient in doubt": "The host behind the domain could not be asked; the sender tries again. See docs/gateway.md.",
    "no return path": "A bounce for mail that was not sent from here, or long ago: forged senders cause such.",
    "mailbox disabled": "The account was disabled. Again: postroad user enable ADDRESS",
    "mailbox full": "The mailbox holds all it may. Make room, or: postroad user quota ADDRESS SIZE",
    "nobody yet": "No account exists that could take this mail. Make one: postroad user add ADDRESS",
    "alias too large": "The alias leads to more addresses than one message may have. Look: postroad alias list",
    "alias loop": "Aliases lead to each other without an end. See: postroad alias list",
    # submission
    "sender not granted": "The sender is somebody else's. To allow it: postroad user grant LOGIN SENDER",
    "from not granted": "The From or Sender field is somebody else's. To allow it: postroad user grant LOGIN ADDRESS",
    "from missing": "The message has no From field that can be read. The program that wrote it has to mend that.",
    "from twice": "The message has more than one From field. The program that wrote it has to mend that.",
    "from unclear": "Readers of this header could see different authors. The program that wrote it has to mend that.",
    "bad key": "The program that sends has to mend its X-Postroad-Key; see docs/submission.md.",
    "key taken": "Two different messages have the same X-Postroad-Key. The reply names the one that was sent.",
    "too many messages": "The user has sent what it may in an hour. Look whether it was he; more: postroad user limits",
    "too many recipients": "The user has reached his recipients of a day. Was it he? More: postroad user limits",
    "too many new recipients": "So many strangers in a day look like a stolen password. More: postroad user limits",
    "too many recipients at once": "One message was for more recipients than the user may. See: postroad user limits",
    "too many targets": "Aliases lead to more addresses than one message may have. Look: postroad alias list",
    "account removed": "The account was disabled or removed meanwhile. Again: postroad user enable ADDRESS",
    # the administrator's policy.py
    "refused by policy": "A rule of policy.py says so. To ask it again: postroad policy try",
    "postponed by policy": "A rule of policy.py says so; the sender tries again. To ask it: postroad policy try",
    "policy undecided": "policy.py could not tell, so the mail waits; the sender tries again.",
    "policy hung": "policy.py took too long, so the mail waits; the sender tries again. Look: postroad policy try",
    "policy failed": "policy.py broke down, so the mail waits; the sender tries again. Look: postroad policy try",
    "policy busy": "policy.py is too slow for the mail that comes; the sender tries again.",
    "policy not running": "policy.py cannot be loaded; the sender tries again. Look: postroad policy check",
    # form
    "no header": "The message has no header at all. The program that wrote it has to mend that.",
    # milters
    "milter refused": "A milter said so; its own log tells why.",
    "milter deferred": "A milter said so, and the sender tries again; the milter's own log tells why.",
    "milter failed": "The sender tries again. See whether the milter runs and listens there: docs/milters.md.",
    # checks in general
    "check failed": "A check broke down; the log has the error. The sender tries again.",
}
"""By the word in the journal; docs/policy.md and docs/logins.md explain the words themselves."""
COUNTED: Final = "Only the first refusals of a minute from one source are kept one by one. The log has a line for each."
OTHERS: Final = "The other side was told so and has the message still; its user sees this reply."


def advice(cause: str) -> str:
    """The sentence for the cause of a refused event, which is its word and what more was known."""
    if cause.endswith("written down as one"):
        return COUNTED
    return REFUSALS.get(cause.partition(",")[0].partition(":")[0], OTHERS)
