"""Putting a message into the queue without SMTP, for `postroad send --direct`.

It enters by the same door as everything else (`flow.intake`), with or without a running server: the store process
writes it when there is one, otherwise this process does, and the mail leaves at the next start.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from postroad.console.cli.stores import now, opened
from postroad.console.cli.submit import Sent
from postroad.flow.destinations import Destinations
from postroad.flow.intake import Arrival, Intake, Taken
from postroad.flow.journal import Journal
from postroad.flow.local import Planner
from postroad.flow.meters import Meters
from postroad.flow.sign import Signer
from postroad.store.access import StoreAccess
from postroad.store.client import StoreClient
from postroad.store.directory import Directory
from postroad.store.dkim_reads import DkimKeys
from postroad.store.reader import Reader
from postroad.store.records import Accept
from postroad.store.register import Register, register
from postroad.store.spool import Spool
from postroad.store.units import Tx
from postroad.values.clock import SystemClock
from postroad.values.envelope import Envelope, Recipient
from postroad.values.ids import IdMaker, id_text

if TYPE_CHECKING:
    from postroad.config import Config
    from postroad.flow.local import Plan
    from postroad.values.address import Address


class _Waiting:
    """The store as the door sees it; a command may wait for each answer."""

    def __init__(self, store: StoreAccess, incarnation: int) -> None:
        self._store = store
        self.incarnation = incarnation

    async def call(self, unit: Callable[[Tx, Any], Any], args: Any) -> Any:
        return self._store.call(unit, args)


class _Nobody:
    """No runner: the mail is left to whichever worker has room."""

    def room_for(self, legs: int, size: int, user: str = "") -> bool:
        return False

    def enqueue_fresh(self, accepted: Accept) -> None:
        raise AssertionError("nothing is born leased here")


def put(config: Config, sender: Address | None, recipients: list[Address], message: bytes) -> Sent:
    """Accepts a message as if it had come by SMTP from a logged-in user of this machine."""
    data_dir = Path(config.data_dir)
    sent = Sent()
    with opened(data_dir) as store:
        destinations, envelope = Destinations(), Envelope(sender)
        reader = Reader(data_dir)
        hostname = config.hostname or socket.getfqdn()
        planner = Planner(Directory(reader), hostname=hostname, delimiter=config.recipient_delimiter)
        for recipient in recipients:
            plan = cast("Plan", now(planner.plan(recipient, size=len(message), may_relay=True)))
            if plan.refusal is not None:
                sent.reply = str(plan.refusal)
                sent.refused.append((str(recipient), sent.reply))
                continue
            wanted = Recipient(recipient)
            destinations.add(wanted, plan)
            envelope.recipients.append(wanted)
            sent.accepted.append(str(recipient))
        reader.close()
        if sent.accepted:
            asyncio.run(_accept(config, store, envelope, destinations, message, sent, hostname))
    return sent


async def _accept(
    config: Config,
    store: StoreAccess,
    envelope: Envelope,
    destinations: Destinations,
    message: bytes,
    sent: Sent,
    hostname: str,
) -> None:
    clock = SystemClock()
    reader = Reader(Path(config.data_dir))
    number = store.call(register, Register("postroad send"))
    spool = Spool(Path(config.data_dir), number.incarnation, clock, message_size=config.limits.message_size)
    intake = Intake(
        hostname=hostname,
        store=cast(StoreClient, _Waiting(store, number.incarnation)),
        story=Journal(Meters.private()),
        runner=_Nobody(),
        ids=IdMaker(number.incarnation, number.last_id),
        clock=clock,
        first_retry_s=config.retry.delays_s[0],
        lifetime_s=config.retry.lifetime_s,
        warn_after_s=config.retry.warn_after_s,
        max_hops=config.limits.hops,
        signer=Signer(DkimKeys(reader).signing, spool, clock) if config.dkim.sign else None,
    )
    draft = spool.draft()
    draft.write(message)
    eightbit = not message.isascii()
    envelope.smtputf8 = any(one.address.needs_utf8 for one in envelope.recipients)
    taken = await intake.accept(draft, envelope, destinations, Arrival("LOCAL", "cli", ours=True), eightbit=eightbit)
    spool.close()
    reader.close()
    if isinstance(taken, Taken):
        sent.id = id_text(taken.id)
        sent.reply = f"250 2.0.0 Queued as {sent.id}"
    else:
        sent.reply = str(taken)
        sent.refused += [(name, sent.reply) for name in sent.accepted]
        sent.accepted = []
