"""The composition root: what the server is made of, in the order it comes to be.

`serve` is the supervisor's side (paths, sockets, privileges, children); `build_worker` puts one worker together.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import resource
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from postroad.config import Config, Tls
from postroad.flow.intake import Intake
from postroad.flow.local import Planner
from postroad.flow.meters import Meters
from postroad.flow.runner import Runner
from postroad.net.listen import ListenError, open_listeners, systemd_listeners
from postroad.net.tls import ServerTls, ensure_self_signed
from postroad.serve.admission import Admission
from postroad.serve.conversation import Watch
from postroad.serve.counters import SessionCounters
from postroad.serve.doors import Doors, smtp_sessions, turned_away
from postroad.serve.fullness import Fullness
from postroad.serve.hints import Hints
from postroad.serve.lifecycle import Lifecycle
from postroad.serve.logs import log_line, make_journal, setup_logs
from postroad.serve.mailstore import Mailstore
from postroad.serve.metrics import forget_meters, meters_file
from postroad.serve.passwords import Passwords
from postroad.serve.pop3 import Pop3Service
from postroad.serve.refusals import Refusals
from postroad.serve.smtp import Service as SmtpService
from postroad.serve.supervisor import GRACE_S, StartError, Supervisor, drop_privileges
from postroad.serve.worker import Errand
from postroad.store.client import StoreClient
from postroad.store.directory import Directory
from postroad.store.figures import count_deliveries
from postroad.store.reader import Reader
from postroad.store.spool import Spool
from postroad.values.clock import SystemClock
from postroad.values.ids import IdMaker
from postroad.wire.smtp.limits import MachineLimits

SERVICES: Final = ("mx", "submission", "submissions", "imap", "imaps", "pop3", "pop3s")

FILES_WANTED: Final = 65_536
"""Open files a process asks for: one per connection, and few others."""


# -- the supervisor's side ---------------------------------------------------------------------------------------------


def serve(config: Config) -> int:
    """Run the whole server until a signal ends it; returns the exit status.

    Raises StartError with a text for people when it cannot start.
    """
    lines = setup_logs(config.log, "supervisor")
    raise_file_limit()
    data_dir = prepare_data_dir(Path(config.data_dir))
    listeners, metrics = open_all(config)
    config = with_certificate(with_hostname(config), data_dir)
    drop_privileges(config.user, data_dir)
    forget_meters(data_dir)
    workers = config.workers or os.cpu_count() or 1
    try:
        return asyncio.run(Supervisor(config, data_dir, listeners, workers, metrics).run())
    finally:
        lines.close()


def raise_file_limit() -> None:
    """Ask for as many open files as the system lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def prepare_data_dir(data_dir: Path) -> Path:
    """The data folder as an absolute path, made when absent, for its owner alone."""
    data_dir = data_dir.absolute()
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(
            f"The data folder {data_dir} cannot be made: {error.strerror}. Make it, or set `data_dir`."
        ) from error
    if data_dir.stat().st_mode & 0o007:
        log_line("warning", f"{data_dir} can be read by everybody on this machine; mail is kept there: chmod 700 it")
    return data_dir


def open_all(config: Config) -> tuple[dict[str, list[socket.socket]], list[socket.socket]]:
    """Every listening socket by service, and those of the metrics page: systemd's where it passed one, else opened."""
    given = systemd_listeners()
    opened: dict[str, list[socket.socket]] = {}
    try:
        for service in SERVICES:
            addresses = getattr(config.listen, service)
            opened[service] = given.get(service) or [s for a in addresses for s in open_listeners(service, a)]
        metrics = given.get("metrics") or (
            open_listeners("metrics", config.listen.metrics) if config.listen.metrics else []
        )
    except ListenError as error:
        for sockets in opened.values():
            for sock in sockets:
                sock.close()
        raise StartError(str(error)) from error
    return opened, metrics


def with_hostname(config: Config) -> Config:
    """The configuration with a name for this machine: the configured one, or what the system says."""
    return config if config.hostname else msgspec.structs.replace(config, hostname=socket.getfqdn())


def with_certificate(config: Config, data_dir: Path) -> Config:
    """The configuration with a certificate: the configured one, or a self-signed one made at first start."""
    if config.tls.certificate:
        return config
    folder = data_dir / "tls"
    folder.mkdir(mode=0o700, exist_ok=True)
    certificate, key = folder / "self-signed.pem", folder / "self-signed.key"
    if ensure_self_signed([config.hostname], certificate, key, time.time_ns() // 1000):
        log_line(
            "warning",
            f"made a self-signed certificate for {config.hostname}: mail clients will warn about it. "
            "Set tls.certificate and tls.key to a real one and send SIGHUP.",
            certificate=str(certificate),
        )
    return msgspec.structs.replace(config, tls=Tls(certificate=str(certificate), key=str(key)))


# -- one worker --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Parts:
    """Everything that lives as long as its worker."""

    store: StoreClient
    reader: Reader
    spool: Spool
    passwords: Passwords
    runner: Runner
    tls: ServerTls
    doors: Doors
    watch: Watch
    lifecycle: Lifecycle
    grace: float = GRACE_S

    def reload(self) -> None:
        """Use new certificates for new connections; broken ones leave the old in use."""
        try:
            self.tls.reload()
        except (OSError, ValueError) as error:
            log_line("error", "the new certificate cannot be used; the old one stays", cause=str(error))
        else:
            log_line("info", "certificates reloaded")

    async def drain(self, grace: float) -> None:
        """Stop listening, say 421 between commands, finish what is going on, then end."""
        self.doors.close()
        await self.runner.drain(grace)
        busy = await self.lifecycle.drain(grace)
        if busy:
            log_line("warning", "ending although some are still busy", busy=busy)
        self.watch.stop()
        self.passwords.close()
        self.store.close()
        self.spool.close()
        self.reader.close()

    async def abandon(self) -> None:
        """The store is gone and our lease with it: nothing more may be promised or attempted."""
        self.doors.close()
        await self.runner.drain(0.0)


async def build_worker(errand: Errand) -> Parts:
    """A worker that serves: every part, in the order in which they need each other."""
    from postroad.serve.worker import adopt

    config, data_dir = errand.config, errand.data_dir
    loop = asyncio.get_running_loop()
    clock = SystemClock()
    meters = Meters.open(meters_file(data_dir, f"worker-{errand.number}"))
    story = make_journal(meters)
    lifecycle = Lifecycle()
    hints = Hints()
    store = await StoreClient.connect(data_dir, on_hint=hints, name=f"worker {errand.number} (pid {os.getpid()})")
    ids = IdMaker(store.incarnation, store.last_id)
    reader = Reader(data_dir)
    spool = Spool(
        data_dir,
        store.incarnation,
        clock,
        message_size=config.limits.message_size,
        free_space_share=config.limits.free_space_share,
        on_broken=lambda why: log_line("error", "the disk failed to keep mail: nothing is accepted", cause=why),
    )
    directory = Directory(reader)
    planner = Planner(directory, hostname=config.hostname, delimiter=config.recipient_delimiter)
    passwords = Passwords(directory, clock)
    tls = ServerTls(Path(config.tls.certificate), Path(config.tls.key))
    runner = Runner.from_config(
        config, store=store, reader=reader, spool=spool, story=story, ids=ids, clock=clock, meters=meters,
        planner=planner, lifecycle=lifecycle,
    )  # fmt: skip
    hints.add("queue", lambda _: runner.wake())
    intake = Intake(
        hostname=config.hostname,
        store=store,
        story=story,
        runner=runner,
        ids=ids,
        clock=clock,
        first_retry_s=config.retry.delays_s[0],
        lifetime_s=config.retry.lifetime_s,
        max_hops=config.limits.hops,
    )
    fullness = Fullness(spool, lambda: count_deliveries(data_dir), config.limits.queue_messages)
    watch = Watch(loop)
    counters = SessionCounters(meters)
    share = max(1, config.limits.connections // errand.workers)
    admission = Admission(share, config.limits.connections_per_address)
    smtp = SmtpService(
        hostname=config.hostname,
        intake=intake,
        planner=planner,
        passwords=passwords,
        spool=spool,
        refusals=Refusals(store=store, story=story, ids=ids, clock=clock),
        counters=counters,
        lifecycle=lifecycle,
        tls=tls,
        clock=clock,
        relay_networks=[ipaddress.ip_network(network) for network in config.relay.relay_from],
        message_size=config.limits.message_size,
        data_timeout_s=config.limits.data_timeout_s,
        data_rate_min=config.limits.data_rate_min,
        session_s=config.limits.session_s,
        full=fullness,
    )
    limits = MachineLimits(
        size=config.limits.message_size,
        recipients=config.limits.recipients,
        command_patience=config.limits.command_timeout_s,
    )
    pop3 = Pop3Service(
        mailstore=Mailstore(store, reader, spool),
        passwords=passwords,
        counters=counters,
        lifecycle=lifecycle,
        tls=tls,
        insecure_auth=config.insecure_auth,
        idle_s=config.limits.idle_pop3_s,
    )
    doors = Doors(
        {**smtp_sessions(smtp, limits=limits), "pop3": pop3.session, "pop3s": pop3.session},
        admission=admission,
        counters=counters,
        watch=watch,
        tls=tls,
        turn_away=turned_away(),
    )
    fullness.start()
    runner.start()
    watch.start()
    await doors.open(adopt(errand.listeners))
    return Parts(store, reader, spool, passwords, runner, tls, doors, watch, lifecycle)
