"""The composition of a rehearsal: a session at the MX with the real rules and recipients, in which nothing is kept.

For the question "would we take this mail from there?": the administrator plays the client on standard input, as if
connected from any address. Replies go out as they are on the wire; what nobody but an administrator is told stands
beside them in lines that begin with two stars.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from postroad.app.gates import OwnSenders, make_gates, make_milters
from postroad.config import Config
from postroad.flow.allowance import allowed
from postroad.flow.callout import Callout
from postroad.flow.destinations import Destinations
from postroad.flow.intake import Intake, Taken
from postroad.flow.journal import Journal
from postroad.flow.local import Planner
from postroad.flow.meters import Meters
from postroad.flow.outside import Outside
from postroad.flow.submission import Submissions
from postroad.net.tls import ServerTls
from postroad.rules.ports import NOBODY, Ports
from postroad.serve.conversation import Conversation, Watch
from postroad.serve.counters import SessionCounters
from postroad.serve.lifecycle import Lifecycle
from postroad.serve.logins import Logins
from postroad.serve.policy import UserPolicy
from postroad.serve.refusals import Refusals
from postroad.serve.smtp import SmtpSession
from postroad.serve.smtp_service import Service
from postroad.store import folder
from postroad.store.directory import Directory
from postroad.store.reader import Reader
from postroad.store.records import Refusal
from postroad.store.spool import Draft, Spool
from postroad.values.clock import SystemClock
from postroad.values.event import unpack
from postroad.values.ids import IdMaker
from postroad.wire.smtp.extensions import Door
from postroad.wire.smtp.limits import MachineLimits
from postroad.wire.smtp.mode import Mode
from postroad.wire.smtp.server import ServerMachine

REHEARSED = Door("mx", binarymime=True)
"""The MX without TLS, which a pipe cannot carry."""

Say = Callable[[str], None]


class Pretence:
    """An intake that takes every message and keeps none, and a store that hears of refusals and keeps none either."""

    def __init__(self, say: Say, ids: IdMaker, clock: SystemClock) -> None:
        self._say = say
        self._ids = ids
        self._clock = clock

    def make_id(self) -> int:
        """A fresh id, which leads nowhere."""
        return self._ids.make(self._clock.wall_us())

    async def accept(
        self,
        draft: Draft,
        envelope: object,
        destinations: Destinations,
        arrival: object,
        *,
        ident: int = 0,
        **_: object,
    ) -> Taken:
        """Says where the message would go."""
        size = draft.size
        draft.discard()
        for recipient, _account, mailbox in destinations.copies:
            self._say(f"{recipient} would find it in mailbox {mailbox}")
        for recipient, domain, _notify, _orcpt in destinations.remotes:
            self._say(f"{recipient} would be sent it at the host of {domain}")
        self._say("nothing was kept: this is a rehearsal")
        return Taken(ident or self.make_id(), size)

    def post(self, unit: str, args: Any) -> None:
        """Says why something was refused; other notes are nobody's business here."""
        if unit == "refuse":
            for event in unpack(cast(Refusal, args).events):
                self._say(f"refused: {event.cause}")

    async def call(self, unit: object, args: object) -> Any:
        """Nothing is written in a rehearsal."""
        raise RuntimeError("a rehearsal writes nothing")


async def rehearse(config: Config, data_dir: Path, peer: str) -> None:
    """Plays the session until the client on standard input says QUIT or ends; `peer` is where it seems to come from."""
    with (
        tempfile.TemporaryDirectory(prefix="postroad-rehearsal-") as name,
        contextlib.closing(Reader(data_dir)) as reader,
    ):
        folder.prepare(Path(name))
        with _service(config, reader, Path(name)) as service:
            await _play(service, config, peer)


@contextlib.contextmanager
def _service(config: Config, reader: Reader, scratch: Path) -> Iterator[Service]:
    clock, ids = SystemClock(), IdMaker(1)
    pretence = Pretence(_tell, ids, clock)
    meters = Meters.private()
    directory = Directory(reader, clock)
    outside = Outside.from_config(config, clock)
    callouts = Callout(
        signposts=outside.signposts,
        lookup=outside.lookup,
        manner=outside.manner,
        clock=clock,
        learned=lambda known: None,
    )
    policy = UserPolicy(config.policy, meters) if config.policy.file else None
    if policy is not None:
        policy.start()
    spool = Spool(scratch, 1, clock, message_size=config.limits.message_size)
    try:
        yield Service(
            hostname=config.hostname or socket.getfqdn(),
            intake=cast(Intake, pretence),
            planner=Planner(
                directory, hostname=config.hostname, delimiter=config.recipient_delimiter, callouts=callouts
            ),
            logins=cast(Logins, None),  # the MX offers none
            spool=spool,
            refusals=Refusals(store=pretence, story=Journal(meters), ids=ids, clock=clock),
            counters=SessionCounters(meters),
            lifecycle=Lifecycle(),
            tls=cast(ServerTls, None),  # REHEARSED has none
            clock=clock,
            relay_networks=[ipaddress.ip_network(network) for network in config.relay.relay_from],
            data_timeout_s=config.limits.data_timeout_s,
            data_rate_min=1,  # people type
            session_s=config.limits.session_s,
            submissions=Submissions(allowed(config.sending)),
            full=lambda size: None,
            gates=make_gates(
                Ports(
                    senders=OwnSenders(directory, config.recipient_delimiter),
                    milters=make_milters(config, clock),
                    policy=policy or NOBODY,
                )
            ),
        )
    finally:
        if policy is not None:
            policy.stop()
        spool.close()


async def _play(service: Service, config: Config, peer: str) -> None:
    loop = asyncio.get_running_loop()
    watch = Watch(loop)
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    limits = MachineLimits(size=config.limits.message_size, recipients=config.limits.recipients)
    machine = ServerMachine(hostname=service.hostname, door=REHEARSED, limits=limits)

    def make(conversation: Conversation) -> SmtpSession:
        return SmtpSession(conversation, machine, service, REHEARSED.name)

    await loop.connect_accepted_socket(lambda: Conversation(watch, loop, make, origin=(peer, 0, "")), ours)
    reader, writer = await asyncio.open_connection(sock=theirs)
    await _Typist(loop, machine, reader, writer).run()


class _Typist:
    """Sends what is typed line by line, each when the last one was answered: a file may be typed in too.

    Invariant: a line that is answered (a command, the final dot) is followed only behind its answer.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        machine: ServerMachine,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._loop = loop
        self._machine = machine
        self._reader = reader
        self._writer = writer
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()
        self._answered = asyncio.Event()

    async def run(self) -> None:
        """Until the server has closed."""
        # A daemon: nothing can end a read from a terminal, and nothing waits for this one.
        threading.Thread(target=self._read_lines, name="stdin", daemon=True).start()
        typing = self._loop.create_task(self._type())
        try:
            while octets := await self._reader.read(65536):
                os.write(1, octets)
                self._answered.set()
        finally:
            typing.cancel()
            self._writer.close()

    def _read_lines(self) -> None:
        for line in sys.stdin.buffer:
            self._loop.call_soon_threadsafe(self._lines.put_nowait, line)
        self._loop.call_soon_threadsafe(self._lines.put_nowait, b"")

    async def _type(self) -> None:
        await self._answered.wait()  # the greeting
        while line := await self._lines.get():
            # A terminal ends its lines with LF, and SMTP wants CRLF.
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            answered = self._machine.mode is not Mode.DATA or line == b"."
            if answered:
                self._answered.clear()
            self._writer.write(line + b"\r\n")
            if answered:
                await self._answered.wait()
            else:
                await asyncio.sleep(0)
        self._writer.write_eof()


def _tell(text: str) -> None:
    print(f"** {text}", file=sys.stderr, flush=True)


def run(config: Config, data_dir: Path, peer: str) -> None:
    """One rehearsal, from the greeting to its end."""
    asyncio.run(rehearse(config, data_dir, peer))
