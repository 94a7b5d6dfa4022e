"""Users of this machine who send mail through it: who they are, and in whose name they may send.

A program on this machine needs no password: the kernel says which user runs it (SO_PEERCRED at the socket, the owner of
a file in the maildrop). In exchange a user sends in his own name only, unless the configuration grants more.
"""

from __future__ import annotations

import pwd
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from postroad.values.address import Address, AddressError, domain_to_ascii
from postroad.values.reply import Reply
from postroad.wire.mime.submitted import mailbox

ROOT: Final = 0


@dataclass(frozen=True, slots=True)
class LocalUser:
    """A user as the kernel and the system's user database know him."""

    uid: int
    name: str

    def __str__(self) -> str:
        """For Received lines and the journal: "uid 1000 (anna)"."""
        shown = "".join(letter if letter.isalnum() or letter in "._-+@" else "?" for letter in self.name)
        return f"uid {self.uid} ({shown})"


def local_user(uid: int) -> LocalUser:
    """The user with this number; one that the database does not know is called "uid1000"."""
    try:
        return LocalUser(uid, pwd.getpwuid(uid).pw_name)
    except KeyError:
        return LocalUser(uid, f"uid{uid}")


class SenderRules:
    """Which envelope senders a local user may use.

    `trusted` are names of users who may use any, as root may; `grants` gives a user more addresses or, written
    "@example.org", all of a domain. Raises AddressError for a grant that is neither.
    """

    __slots__ = ("_grants", "_hostname", "_trusted")

    def __init__(self, hostname: str, trusted: Iterable[str] = (), grants: Mapping[str, str] | None = None) -> None:
        self._hostname = hostname.lower()
        self._trusted = frozenset(trusted)
        self._grants = {name: frozenset(granted(text)) for name, text in (grants or {}).items()}

    @property
    def hostname(self) -> str:
        """The domain of every user's own address."""
        return self._hostname

    def own_address(self, user: LocalUser) -> str:
        """Where mail of this user comes from when he names no other sender: user@hostname."""
        return mailbox(user.name, self._hostname)

    def allows(self, user: LocalUser, sender: Address | None) -> bool:
        """Whether this user may send with this envelope sender.

        The null sender is everybody's: a report or an automatic answer must have it (RFC 5321 section 4.5.5), and it
        names nobody.
        """
        if sender is None or user.uid == ROOT or user.name in self._trusted:
            return True
        domain = sender.domain_ascii
        if domain == self._hostname and sender.detail()[0].lower() == user.name.lower():
            return True
        grants = self._grants.get(user.name, frozenset())
        return sender.key in grants or f"@{domain}" in grants

    def refusal(self, user: LocalUser, sender: Address) -> Reply:
        """What a user is told who may not."""
        return Reply(
            553,
            "5.7.1",
            f"{user} may not send as {sender}; allowed is {self.own_address(user)}. "
            "Others are granted by local.senders or local.trusted_users in the configuration.",
        )


def granted(text: str) -> list[str]:
    """The addresses and "@domain"s of one grant, in the form they are compared in; raises AddressError."""
    found = []
    for word in text.replace(",", " ").split():
        if word.startswith("@"):
            found.append(f"@{domain_to_ascii(word[1:])}")
        else:
            found.append(Address.parse(word, utf8=True).key)
    if not found:
        raise AddressError("names no address")
    return found
