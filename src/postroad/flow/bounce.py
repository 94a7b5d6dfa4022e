"""Reports of what became of mail: who gets one, and how it becomes mail itself. What it says is `flow.dsn`'s.

A report goes to the sender of the message with the null sender of its own, so that no report answers a report
(RFC 5321 section 6.1). It is recorded in the transaction that ends, delays or makes the deliveries it tells of.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from postroad.flow.dsn import Action, Notice, compose, message_id
from postroad.flow.local import Plan, delivery_lines
from postroad.flow.parcels import Letter
from postroad.flow.sign import UNSIGNED, Signed, Signer
from postroad.store.records import TLS_BY_POLICY, TLS_REQUIRED, Accept, Copy, Leg
from postroad.values.address import Address, AddressError
from postroad.values.event import Event
from postroad.values.ids import IdMaker, id_text

BY: Final = "report rules"
NOT_WANTED: Final = "the sender wants no report (NOTIFY)"

PlanFor = Callable[[Address], Awaitable[Plan]]
"""Where mail for an address goes, reports included."""

Note = Callable[[int, Sequence[Event]], bytes]
"""The journal's entrance: `flow.journal.Journal.note`."""


class Reporter:
    """Makes reports in the name of one host."""

    def __init__(
        self,
        *,
        hostname: str,
        plan_for: PlanFor,
        ids: IdMaker,
        lifetime_s: float,
        note: Note,
        signer: Signer | None = None,
    ) -> None:
        self._hostname = hostname
        self._plan_for = plan_for
        self._ids = ids
        self._lifetime_us = int(lifetime_s * 1_000_000)
        self._note = note
        self._signer = signer

    async def report(
        self, letter: Letter, notices: Sequence[Notice], now_us: int, *, note: Note | None = None
    ) -> Accept | str:
        """One report of all these notices, ready to be recorded with them; or in words why there is to be none.

        `letter.header` must be there. `note` takes the journal's place where it is not certain that the report will be
        recorded. Raises StoreBroken when it cannot be found out where the report must go.
        """
        if not letter.sender:
            # RFC 5321 section 4.5.5: mail with a null reverse-path is itself a notification. RFC 3461 section 5.2: "A
            # DSN MUST NOT be returned to the sender for any message for which the return address [...] was NULL".
            return "double bounce: the message is a report itself"
        # RFC 3461 section 5.2.8: a report "SHOULD NOT contain information for recipients for whom DSNs would not
        # otherwise have been issued".
        wanted = [notice for notice in notices if notice.wanted]
        if not wanted:
            return NOT_WANTED
        try:
            address = Address.parse(letter.sender, utf8=True)
        except AddressError as error:
            return f"the sender's address cannot be written to: {error.reason}"
        plan = await self._plan_for(address)
        if plan.refusal is not None:
            return f"double bounce: the sender's own address takes no mail ({plan.refusal})"
        return await self._accept(letter, wanted, address, plan, now_us, note or self._note)

    async def _accept(
        self, letter: Letter, notices: Sequence[Notice], address: Address, plan: Plan, now_us: int, note: Note
    ) -> Accept:
        ident = self._ids.make(now_us)
        message = compose(letter, notices, ident, self._hostname, now_us)
        cut = message.find(b"\r\n\r\n") + 4
        header, body = message[:cut], message[cut:]
        copies = [
            Copy(
                recipient=recipient,
                account=account,
                prefix=delivery_lines("", recipient),
                mailbox=mailbox,
            )
            for account, mailbox, recipient in plan.copies
        ]
        # RFC 3461 section 6.1: no RET goes with a report, and no NOTIFY but NEVER; ours have neither.
        signed = await self._signer.sign(header, body) if self._signer is not None and plan.remotes else UNSIGNED
        legs = [
            Leg(self._ids.make(now_us), str(to), to.domain_ascii, due_us=now_us, prefix=signed.fields)
            for to in plan.remotes
        ]
        return Accept(
            id=ident,
            received_us=now_us,
            sender="",
            header=header,
            body=body,
            body_file="",
            size=len(message),
            copies=copies,
            legs=legs,
            expires_us=now_us + self._lifetime_us,
            keys="\n".join(dict.fromkeys([message_id(ident, self._hostname), str(address).lower()])),
            events=note(ident, _events(letter, copies, legs, signed, now_us)),
            smtputf8=not message.isascii() and not str(address).isascii(),
            eightbit=not body.isascii(),
            # RFC 8689 section 5: what tells of a message is protected like the message.
            tls=TLS_REQUIRED if letter.tls == TLS_REQUIRED else TLS_BY_POLICY,
        )


def _events(letter: Letter, copies: Sequence[Copy], legs: Sequence[Leg], signed: Signed, now_us: int) -> list[Event]:
    """The beginning of a report's own story."""
    link = id_text(letter.id)
    events = [Event(kind="received", at_us=now_us, by="report", cause=f"reports {link}", link=link)]
    if signed.words:
        events.append(Event(kind="signed", at_us=now_us, cause=signed.words))
    events += [
        Event(
            kind="delivered",
            at_us=now_us,
            recipient=copy.recipient,
            by="local delivery",
            where=f"mailbox {copy.mailbox}",
        )
        for copy in copies
    ]
    events += [Event(kind="queued", at_us=now_us, recipient=leg.recipient, next_us=now_us) for leg in legs]
    return events


def reported(letter: Letter, report: Accept, at_us: int) -> Event:
    """The event that links a message to its report."""
    return Event(kind="reported", at_us=at_us, recipient=letter.sender, by=BY, link=id_text(report.id))


def ended(letter: Letter, report: Accept | str, notices: Sequence[Notice], at_us: int) -> list[Event]:
    """The events behind an attempt that ended deliveries: its report, and why who failed is in none."""
    silence = report if isinstance(report, str) else ""
    events = [
        Event(kind="discarded", at_us=at_us, recipient=notice.recipient, cause=silence or NOT_WANTED, by=BY)
        for notice in notices
        if notice.action is Action.FAILED and (silence or not notice.wanted)
    ]
    return events if isinstance(report, str) else [*events, reported(letter, report, at_us)]
