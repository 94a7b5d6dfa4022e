"""Ending deliveries by hand with the report that a failure brings, for `postroad queue fail`.

This process owns the deliveries meanwhile, as a worker does, and records their ends by the same unit: end, journal and
report are one transaction. When it dies in between they go on as before.
"""

from __future__ import annotations

import asyncio
import socket
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Final

from postroad.console.cli.stores import opened
from postroad.flow.bounce import Reporter
from postroad.flow.fail_by_hand import Failing
from postroad.flow.journal import Journal
from postroad.flow.local import Planner
from postroad.flow.meters import Meters
from postroad.flow.sign import Signer
from postroad.store.actions import FAIL, Act, ActionBegin, Counted, Seized, action_begin, action_count, seize
from postroad.store.directory import Directory
from postroad.store.dkim_reads import DkimKeys
from postroad.store.queue import record
from postroad.store.reader import Reader
from postroad.store.records import Unrecorded
from postroad.store.register import Register, register
from postroad.store.spool import Spool
from postroad.values.clock import SystemClock
from postroad.values.ids import IdMaker

if TYPE_CHECKING:
    from postroad.config import Config

SEIZED_AT_ONCE: Final = 50
"""Deliveries of one transaction: each may bring a report, whose message, copy and story are rows of their own."""


def end_undelivered(config: Config, ids: array[int], by: str, selection: str, why: str) -> tuple[int, array[int]]:
    """Ends these deliveries; returns how many, and which of them are under way and stay."""
    data_dir = Path(config.data_dir)
    hostname = config.hostname or socket.getfqdn()
    touched, under_way = 0, array("q")
    clock = SystemClock()
    with opened(data_dir) as store:
        number = store.call(register, Register("postroad queue fail"))
        reader = Reader(data_dir)
        planner = Planner(Directory(reader), hostname=hostname, delimiter=config.recipient_delimiter)

        note = Journal(Meters.private()).note
        spool = Spool(data_dir, number.incarnation, clock, message_size=config.limits.message_size)
        reporter = Reporter(
            hostname=hostname,
            plan_for=planner.plan_ours,
            ids=IdMaker(number.incarnation, number.last_id),
            lifetime_s=config.retry.lifetime_s,
            note=note,
            signer=Signer(DkimKeys(reader).signing, spool, clock) if config.dkim.sign else None,
        )
        failing = Failing(reporter=reporter, letters=reader, note=note, by=f"postroad queue, {by}", why=why)
        action: int = store.call(action_begin, ActionBegin(FAIL, by, selection, why))
        for start in range(0, len(ids), SEIZED_AT_ONCE):
            part = list(ids[start : start + SEIZED_AT_ONCE])
            seized: Seized = store.call(seize, Act(action, part, number.incarnation))
            under_way.extend(seized.under_way)
            if not seized.deliveries:
                continue
            ends = asyncio.run(failing.ends(seized.deliveries, number.incarnation, clock.wall_us()))
            missed: Unrecorded = store.call(record, ends)
            if not missed.deliveries:
                touched += len(ends.done)
                store.call(action_count, Counted(action, len(ends.done)))
        spool.close()
        reader.close()
    return touched, under_way
