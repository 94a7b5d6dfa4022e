"""LMTP (RFC 2033): the last hop from a neighbour to our mailboxes, with an answer for every recipient.

A neighbour has a queue of its own, so what a mailbox cannot take now is said to it instead of being kept here. What
differs from the MX besides: mail for other domains is refused to everybody, and nobody is made to wait.
"""

from __future__ import annotations

from postroad.flow.intake import Arrival, Taken
from postroad.flow.local import OVER_QUOTA, no_mailbox
from postroad.serve.smtp import SmtpSession
from postroad.serve.smtp_message import Kept
from postroad.serve.smtp_transaction import Planned, Transaction
from postroad.store.records import OVER_QUOTA as FULL
from postroad.values.reply import Reply


class LmtpSession(SmtpSession):
    """One neighbour delivering."""

    __slots__ = ()

    def _answer_kept(self, kept: Kept, given: tuple[Planned, ...]) -> None:
        # RFC 2033 section 4.2: one reply for each previously successful RCPT command, in their order
        taken = kept.taken
        replies = [kept.reply if taken is None else self._outcome(one, kept.reply, taken) for one in given]
        self.machine.answer_all(replies)

    def _outcome(self, one: Planned, reply: Reply, taken: Taken) -> Reply:
        """The reply of one recipient: refused when no place that it leads to has taken the message."""
        plan, unfiled = one.plan, taken.unfiled
        missed = [unfiled[account, mailbox] for account, mailbox, _ in plan.copies if (account, mailbox) in unfiled]
        if plan.remotes or len(missed) < len(plan.copies):
            return reply
        full = FULL in missed
        address = one.recipient.address
        refusal, why = (OVER_QUOTA, "mailbox full") if full else (no_mailbox(address), "no such mailbox")
        return self.refused(refusal, why, f"RCPT TO:<{address}>", address)

    @property
    def ours(self) -> bool:
        return False

    def penalty_s(self) -> float:
        """Nothing: a neighbour passes the errors of others on."""
        return 0.0

    def arrival(self, transaction: Transaction) -> Arrival:
        """How this message came: at a unix socket the kernel names a user instead of an address."""
        peer = self._wire.peer
        user = peer if peer.startswith("uid ") else ""
        return Arrival(
            protocol=self._lmtp_word(transaction.envelope.smtputf8),
            door=self.door,
            peer="" if user else peer,
            user=user,
            helo=self._helo.name,
            tls=self._wire.tls_text(),
            doubts=(*self._doubts, *transaction.doubts),
            answered=True,
        )

    def _lmtp_word(self, utf8: bool) -> str:
        """The "with" word of the Received line (RFC 3848 section 1, RFC 6531 section 4.3)."""
        return ("UTF8LMTP" if utf8 else "LMTP") + ("S" if self._wire.tls else "")
