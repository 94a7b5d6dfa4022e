"""Submission by unix socket: SMTP for programs on this machine, without a login because the kernel names the user.

What differs from the submission ports: no TLS and no AUTH, an envelope sender that must belong to the user, and a
Received line that names him. Everything behind the sender is the same session.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any, Final

from postroad.config import Config
from postroad.flow.intake import Arrival
from postroad.flow.local_users import LocalUser, SenderRules, local_user
from postroad.flow.maildrop import prepare_folder
from postroad.flow.submission import Submission, local_submission
from postroad.net.unix_listen import peer_uid
from postroad.serve.conversation import Conversation, Session
from postroad.serve.logs import log_line
from postroad.serve.smtp import SmtpSession
from postroad.serve.smtp_service import Service
from postroad.serve.smtp_transaction import Transaction
from postroad.wire.smtp import events as on
from postroad.wire.smtp.extensions import Door
from postroad.wire.smtp.limits import MachineLimits
from postroad.wire.smtp.server import ServerMachine

SERVICE: Final = "local"
LOCAL: Final = Door(SERVICE)
PROTOCOL: Final = "LOCAL"
"""The "with" word: no host handed the message over, so none of IANA's words for transport between hosts is true."""


class LocalSession(SmtpSession):
    """One program of one user of this machine."""

    __slots__ = ("_rules", "_user")

    def __init__(
        self, wire: Conversation, machine: ServerMachine, service: Service, user: LocalUser, rules: SenderRules
    ) -> None:
        super().__init__(wire, machine, service, SERVICE)
        self._user = user
        self._rules = rules
        self.login = rules.own_address(user)

    async def handle(self, event: on.Event) -> None:
        """As at every other door, but MAIL only in one's own name."""
        if type(event) is on.Mail and event.sender is not None and not self._rules.allows(self._user, event.sender):
            reply = self._rules.refusal(self._user, event.sender)
            self.machine.answer(self.refused(reply, "sender not granted", f"MAIL FROM:<{event.sender}>"))
            return
        await super().handle(event)

    def submission(self) -> Submission | None:
        """A user of this machine has no account; his messages are known again all the same."""
        return local_submission(self._user.uid)

    @property
    def ours(self) -> bool:
        """Programs of this machine send in its names."""
        return True

    def arrival(self, transaction: Transaction) -> Arrival:
        return Arrival(
            protocol=PROTOCOL,
            door=SERVICE,
            user=str(self._user),
            login=self.login,
            ours=self.ours,
            doubts=tuple(transaction.doubts),
        )


def local_sessions(service: Service, *, limits: MachineLimits, rules: SenderRules) -> dict[str, Any]:
    """The maker of sessions at the socket, by service name as `doors` wants it."""

    def make(conversation: Conversation) -> Session:
        machine = ServerMachine(hostname=service.hostname, door=LOCAL, limits=limits)
        user = local_user(peer_uid(conversation.transport.get_extra_info("socket")))
        return LocalSession(conversation, machine, service, user, rules)

    return {SERVICE: make}


def name_peer(conversation: Conversation) -> None:
    """Gives a conversation at the socket a peer to count by: the user instead of an address."""
    conversation.peer = f"uid {peer_uid(conversation.transport.get_extra_info('socket'))}"


def prepare_maildrop(config: Config) -> None:
    """Makes the maildrop while we may, for the account the server will run as; says what is wrong with it."""
    if not config.local.maildrop:
        return
    owner = None
    if config.user and os.getuid() == 0:
        account = pwd.getpwnam(config.user)
        owner = (account.pw_uid, account.pw_gid)
    wrong = prepare_folder(Path(config.local.maildrop), owner)
    if wrong:
        log_line("warning", f"the maildrop: {wrong}")
