"""Between the final dot and its reply: policy, what submission completes, what policy changes, and the intake.

Everything here happens to a draft that is nobody's yet. Whatever goes wrong ends in a refusal with the draft discarded,
so no part of a message is kept that was not kept whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from postroad.flow.allowance import Denied
from postroad.flow.completion import completed
from postroad.flow.intake import Arrival, Taken
from postroad.serve.logs import log_line
from postroad.serve.smtp_transaction import Transaction
from postroad.store.client import UnitFailed
from postroad.trust.dkim.canonical import BodyHash
from postroad.values.envelope import Recipient
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.facts import Content, Stage
from postroad.values.ids import id_text
from postroad.values.reply import Reply
from postroad.values.verdict import NO_CHANGES, Changes
from postroad.wire.mime.binary import NotConvertible
from postroad.wire.mime.headers import MAX_HEADER_LINES

if TYPE_CHECKING:
    from postroad.serve.smtp import SmtpSession

FULL: Final = Reply(452, "4.3.1", "Not enough space. Please retry later; nothing was lost.")
NOT_DURABLE: Final = Reply(451, "4.3.0", "The message could not be made safe on disk. Please retry; nothing was kept.")
NOBODY_LEFT: Final = Reply(554, "5.7.1", "No recipient is left after our checks; the message was not kept.")


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of a message: the reply, and what was taken when it is ours."""

    reply: Reply
    taken: Taken | None = None


async def keep(session: SmtpSession, transaction: Transaction) -> Kept:
    """Make a message ours that has come whole, or say why not."""
    keeping = _Keeping(session, transaction)
    if transaction.refusal is not None:
        return keeping.refused(*transaction.refusal)
    try:
        return await keeping.run()
    except StoreFull:
        transaction.discard()
        return keeping.refused(FULL, "no space")
    except StoreBroken:
        if not keeping.handed_on:  # else it may be ours, and its body with it
            transaction.discard()
        return keeping.refused(NOT_DURABLE, "store broken")
    except UnitFailed as error:  # nothing of it happened
        transaction.discard()
        log_line("error", "the store refused a message", cause=str(error))
        return keeping.refused(NOT_DURABLE, "store broken")
    except Exception:
        # A bug, which the session answers. What the intake has may be ours already; what it has not is nobody's.
        if not keeping.handed_on:
            transaction.discard()
        raise


class _Keeping:
    """One message on its way from draft to store."""

    __slots__ = ("_changes", "_ident", "_service", "_session", "_transaction", "handed_on")

    def __init__(self, session: SmtpSession, transaction: Transaction) -> None:
        self._session = session
        self._service = session.service
        self._transaction = transaction
        self._changes = NO_CHANGES
        self._ident = 0
        self.handed_on = False
        """Whether the intake was asked to make it ours."""

    def refused(self, reply: Reply, why: str, evidence: str = "") -> Kept:
        """The reply with its reference, written down."""
        return Kept(self._session.refused(reply, why, "DATA", evidence=evidence, transaction=self._transaction))

    async def run(self) -> Kept:
        """Ask, change, complete, accept; a draft that is not accepted is gone."""
        draft = self._transaction.draft
        assert draft is not None
        # A header beyond its limit is not there to be looked at; the intake refuses it.
        if draft.header_too_large or draft.header.count(b"\n") > MAX_HEADER_LINES:
            return await self._accept()
        refusal = await self._convert() if self._transaction.envelope.body == "BINARYMIME" else None
        if refusal is None:
            refusal = self._read_submission()
        if refusal is None:
            self._complete()  # before milters sign what there is
            if self._session.gate.asks(Stage.MESSAGE):
                refusal = await self._judge()
        if refusal is None:
            return await self._accept()
        self._transaction.discard()
        return refusal

    async def _convert(self) -> Kept | None:
        """Make binary parts base64: no mailbox and few hosts can take them as they are (RFC 3030 section 3)."""
        async with self._service.conversions.turn:  # those that wait have their bodies on the disk
            return await self._convert_in_turn()

    async def _convert_in_turn(self) -> Kept | None:
        transaction, draft = self._transaction, self._transaction.draft
        assert draft is not None
        body = b"".join([piece async for piece in draft.read_body()])
        try:
            header, plain = await self._service.conversions.unbinary(draft.header, body)
        except NotConvertible as error:
            return self.refused(Reply(554, "5.6.0", f"{error}. Send it without BINARYMIME."), "not convertible")
        if plain is not body:
            await self._replace_body(plain)
        assert transaction.draft is not None
        transaction.draft.replace_header(header)
        transaction.eightbit = not (header.isascii() and plain.isascii())
        return None

    def _read_submission(self) -> Kept | None:
        """Note what the message is known again by, before anybody changes it; a reply where its key is none."""
        submission, draft = self._transaction.submission, self._transaction.draft
        assert draft is not None
        if submission is None:
            return None
        denial = submission.read(draft.header, self._transaction.envelope)
        if denial is not None:
            return self.refused(denial, denial.why)
        if len(submission.header) != len(draft.header):
            draft.replace_header(submission.header)
        return None

    # -- policy ------------------------------------------------------------------------------------------------------

    async def _judge(self) -> Kept | None:
        """Ask policy and do what it wants; a reply when the message is not to be kept."""
        session, draft = self._session, self._transaction.draft
        assert draft is not None
        self._ident = self._ident or self._service.intake.make_id()
        content = Content(draft.header, draft.size, draft.read_body, self._transaction.eightbit)
        verdict = await session.ask(Stage.MESSAGE, self._transaction, message=self._ident, content=content)
        if session.machine.closed:
            return Kept(NOT_DURABLE)  # nobody hears it: we took too long and have said so
        if verdict.say is not None:
            return self.refused(verdict.say, verdict.why, verdict.evidence)
        return await self._change(verdict.changes) if verdict.changes else None

    async def _change(self, changes: Changes) -> Kept | None:
        """Do to draft and envelope what policy wants; a reply where that leaves nothing to keep."""
        transaction, envelope = self._transaction, self._transaction.envelope
        self._changes = changes
        if changes.body is not None:
            await self._replace_body(changes.body)
        if changes.header is not None:
            assert transaction.draft is not None
            transaction.draft.replace_header(changes.header)
        if changes.sender is not None or changes.null_sender:
            envelope.sender = changes.sender
        if changes.recipients_removed:
            transaction.remove(changes.recipients_removed)
        for address in changes.recipients_added:
            plan = await self._service.planner.plan(address, may_relay=True)
            if plan.refusal is None:
                # RFC 3461 section 4.1: nobody asked for reports about a recipient that policy added.
                transaction.add(Recipient(address, "NEVER"), plan)
        if changes.discard:
            transaction.remove([one.address for one in envelope.recipients])
        elif not envelope.recipients:
            return self.refused(NOBODY_LEFT, "nobody left")
        return None

    async def _replace_body(self, body: bytes) -> None:
        old = self._transaction.draft
        assert old is not None
        draft = self._service.spool.draft()
        if old.body_hash is not None:
            draft.body_hash = BodyHash()
        self._transaction.draft = draft
        self._transaction.eightbit = not body.isascii()
        header = old.header
        draft.write(header)
        if not header.endswith(b"\r\n\r\n") and header != b"\r\n":
            draft.write(b"\r\n")  # it had no body, and so no empty line
        old.discard()
        view = memoryview(body)
        for start in range(0, len(body), PIECE):
            draft.write(bytes(view[start : start + PIECE]))
            if draft.needs_flush:
                await draft.flush_to_disk()

    # -- completion and acceptance -----------------------------------------------------------------------------------

    def _complete(self) -> None:
        """RFC 6409 section 8: a submission server adds what the client left out, at the doors for users only."""
        session, draft = self._session, self._transaction.draft
        assert draft is not None
        if not session.completes:
            return
        self._ident = self._ident or self._service.intake.make_id()
        header = completed(
            draft.header,
            author=session.login,
            hostname=self._service.hostname,
            ident=self._ident,
            now_us=self._service.clock.wall_us(),
        )
        if header is not None:
            draft.replace_header(header)

    def _arrival(self) -> Arrival:
        arrival, changes = self._session.arrival(self._transaction), self._changes
        if not (changes.discard or changes.quarantine or changes.above):
            return arrival
        discarded = "policy said so" if changes.discard else ""
        return replace(arrival, discarded=discarded, quarantine=changes.quarantine, above=changes.above)

    async def _accept(self) -> Kept:
        transaction, service, session = self._transaction, self._service, self._session
        draft = transaction.draft
        assert draft is not None
        self.handed_on = True
        with service.lifecycle.activity("commits"):
            taken = await service.intake.accept(
                draft,
                transaction.envelope,
                transaction.destinations,
                self._arrival(),
                eightbit=transaction.eightbit,
                ident=self._ident,
                submission=transaction.submission,
            )
        if isinstance(taken, Reply):
            return self.refused(taken, taken.why if isinstance(taken, Denied) else "message refused")
        assert isinstance(taken, Taken)
        if not taken.repeated:
            service.counters.message_received(session.door, taken.size)
        return Kept(Reply(250, "2.0.0", f"Queued as {id_text(taken.id)}"), taken)


PIECE: Final = 64 * 1024
"""Octets of a replaced body written at once."""
