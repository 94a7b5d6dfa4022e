"""The daily reports of TLS sessions (RFC 8460): made from what was counted, sent by mail and by HTTPS.

One worker of a machine sends them; a report is given out by the store to one of them at a time, an hour later to the
next if it was not sent, and after a day to nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final, Protocol

from postroad import __version__
from postroad.flow.bounce import PlanFor
from postroad.flow.destinations import Destinations
from postroad.flow.intake import Arrival, Draft, Taken
from postroad.flow.local import Plan
from postroad.net.https import Unfetched
from postroad.store.client import UnitFailed
from postroad.store.tls import Counted, ReportDay, ReportDays, TakeReports, tls_report_done, tls_reports_take
from postroad.trust import tlsrpt
from postroad.trust.tlsrpt import Report
from postroad.values.address import Address, AddressError
from postroad.values.envelope import Envelope, Recipient
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.ids import IdMaker, id_text
from postroad.values.ports import Clock, Lookup, LookupStatus
from postroad.values.reply import Reply
from postroad.wire.mime.compose import Composer, UnsafeHeader, attachment_part, text_part

log = logging.getLogger(__name__)

LOOK_S: Final = 300.0
"""How often it is asked whether a report is due."""
AT_ONCE: Final = 20
"""Reports taken at a time."""
TARGETS_MAX: Final = 4
"""Places that one domain gets its report at; a longer list would make us a sender of copies."""
DAY_S: Final = 86_400

MEDIA_TYPE: Final = "application/tlsrpt+gzip"


class Store(Protocol):
    """The units (`store.client.StoreClient`)."""

    async def call(self, unit: Callable[..., Any], args: Any) -> Any:
        """Runs a unit."""
        ...


class Memory(Protocol):
    """What was counted (`store.tls.TlsMemory`)."""

    async def sessions(self, report: ReportDay) -> list[Counted]:
        """What a report tells."""
        ...


class Posting(Protocol):
    """Who posts (`net.https.Https`)."""

    async def post(self, url: str, body: bytes, media_type: str) -> int:
        """Hands something in; returns the status of the answer. Raises Unfetched."""
        ...


class Accepting(Protocol):
    """The door into the queue (`flow.intake.Intake`)."""

    async def accept(
        self, draft: Draft, envelope: Envelope, destinations: Destinations, arrival: Arrival
    ) -> Taken | Reply:
        """Makes the message ours, or says why not."""
        ...

    async def signs_for(self, domain: str) -> bool:
        """Whether mail whose author's domain this is leaves with a DKIM signature."""
        ...


class Drafts(Protocol):
    """Where a message is written before it is accepted (`store.spool.Spool`)."""

    def draft(self) -> Any:
        """An empty draft."""
        ...


class TlsReports:
    """Sends the reports in the name of `sender`, an address of a domain that signs its mail."""

    def __init__(
        self,
        *,
        sender: Address,
        hostname: str,
        store: Store,
        memory: Memory,
        lookup: Lookup,
        https: Posting,
        intake: Accepting,
        spool: Drafts,
        plan_for: PlanFor,
        ids: IdMaker,
        clock: Clock,
    ) -> None:
        self._sender = sender
        self._hostname = hostname
        self._store = store
        self._memory = memory
        self._lookup = lookup
        self._https = https
        self._intake = intake
        self._spool = spool
        self._plan_for = plan_for
        self._ids = ids
        self._clock = clock
        self._working: asyncio.Task[None] | None = None
        self._unsigned = False

    def start(self) -> None:
        """Begins to send what is due."""
        self._working = asyncio.get_running_loop().create_task(self._work_for_ever())

    async def stop(self) -> None:
        """Ends that; a report that was being sent is tried again by whoever comes next."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)

    async def _work_for_ever(self) -> None:
        while True:
            try:
                while await self.send_due() == AT_ONCE:
                    pass
            except (StoreBroken, StoreFull, UnitFailed) as error:
                log.warning("TLS reports cannot be sent now: %s", error)
            except Exception:
                log.exception("TLS reports met a bug")
            await asyncio.sleep(LOOK_S)

    async def send_due(self) -> int:
        """Sends the reports whose time has come, at most AT_ONCE; returns how many there were."""
        due: ReportDays = await self._store.call(tls_reports_take, TakeReports(AT_ONCE))
        for report in due.reports:
            if await self._send(report):
                await self._store.call(tls_report_done, report)
        return len(due.reports)

    async def _send(self, day: ReportDay) -> bool:
        """Whether a report is done with: somebody has it, or nobody wants it."""
        answer = await self._lookup.txt(tlsrpt.name_of_record(day.domain))
        if answer.status is LookupStatus.FAILED:
            return False
        targets = tlsrpt.read_rua(answer.records)[:TARGETS_MAX]
        sessions = await self._memory.sessions(day)
        if not targets or not sessions:
            return True
        report = tlsrpt.make_report(
            day.domain,
            day.day,
            [(s.policy, s.result, s.host, s.address, s.detail, s.sessions) for s in sessions],
            organisation=self._sender.domain_ascii,
            contact=str(self._sender),
        )
        octets = tlsrpt.pack_report(report)
        sent = False
        for target in targets:
            address = tlsrpt.address_of(target)
            sent |= await (self._mail(day, report, octets, address) if address else self._post(day, octets, target))
        return sent

    async def _post(self, day: ReportDay, octets: bytes, url: str) -> bool:
        try:
            status = await self._https.post(url, octets, MEDIA_TYPE)
        except Unfetched as error:
            log.info("the TLS report to %s could not be posted: %s", day.domain, error)
            return False
        # RFC 8460 section 5.4: "a "successful" response from its HTTPS server, typically a 200 or 201 HTTP code".
        return 200 <= status < 300

    async def _mail(self, day: ReportDay, report: Report, octets: bytes, address: str) -> bool:
        try:
            recipient = Address.parse(address)
        except AddressError:
            return False
        plan: Plan = await self._plan_for(recipient)
        if plan.refusal is not None or not await self._signs():
            return False
        ident = self._ids.make(self._clock.wall_us())
        try:
            message = compose(
                report, octets, day=day, sender=self._sender, to=recipient, ident=ident, hostname=self._hostname,
                now_us=self._clock.wall_us(),
            )  # fmt: skip
        except UnsafeHeader:
            return False
        draft = self._spool.draft()
        draft.write(message)
        # The null sender: what cannot be delivered is nobody's concern, and no report answers a report.
        envelope, destinations = Envelope(None), Destinations()
        wanted = Recipient(recipient, "NEVER")
        envelope.recipients.append(wanted)
        destinations.add(wanted, plan)
        taken = await self._intake.accept(draft, envelope, destinations, Arrival("LOCAL", "report", ours=True))
        if not isinstance(taken, Taken):
            draft.discard()
        return isinstance(taken, Taken)

    async def _signs(self) -> bool:
        """RFC 8460 section 3: "Reports lacking such a signature MUST be ignored by the recipient." None is sent then,
        and the operator is told once."""
        signs = await self._intake.signs_for(self._sender.domain_ascii)
        if not signs and not self._unsigned:
            log.warning(
                "no TLS report is mailed: %s has no DKIM key, and whoever gets a report without a signature ignores it",
                self._sender.domain_ascii,
            )
        self._unsigned = not signs
        return signs


def compose(
    report: Report,
    octets: bytes,
    *,
    day: ReportDay,
    sender: Address,
    to: Address,
    ident: int,
    hostname: str,
    now_us: int,
) -> bytes:
    """The mail that carries a report (RFC 8460 section 5.3).

    Raises UnsafeHeader for an address that cannot be written.
    """
    submitter, reference = sender.domain_ascii, id_text(ident).lower()
    mail = Composer()
    mail.add_structured("From", str(sender))
    mail.add_structured("To", f"<{to}>")
    mail.add("Subject", f"Report Domain: {day.domain} Submitter: {submitter} Report-ID: <{reference}@{submitter}>")
    mail.add_structured("Date", formatdate(now_us // 1_000_000, localtime=True))
    mail.add_structured("Message-ID", f"<{reference}@{hostname.lower()}>")
    mail.add_structured("TLS-Report-Domain", day.domain)
    mail.add_structured("TLS-Report-Submitter", submitter)
    # RFC 8460 section 5.3 wants a report delivered even where TLS to the domain is what it complains about.
    mail.add_structured("TLS-Required", "No")
    mail.add_structured("Auto-Submitted", "auto-generated")
    begin = day.day * DAY_S
    # RFC 8460 section 5.1: submitter "!" domain "!" begin "!" end "!" unique id
    name = f"{submitter}!{day.domain}!{begin}!{begin + DAY_S - 1}!{reference}.json.gz"
    words = (
        f"This is a report of the TLS sessions that {submitter} had with the mail servers of {day.domain}.\n"
        f"It is attached as JSON (RFC 8460), from {report.date_range.start_datetime} "
        f"to {report.date_range.end_datetime}.\n\nMade by Postroad {__version__}.\n"
    )
    parts = [text_part(words), attachment_part(octets, MEDIA_TYPE, name)]
    return mail.multipart("report", parts, reference.encode(), report_type="tlsrpt")
