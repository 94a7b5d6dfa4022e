"""The composition of a worker: every part, in the order in which they need each other."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from postroad.app.gates import OwnSenders, make_gates, make_milters
from postroad.flow.allowance import Allowances, allowed
from postroad.flow.callout import Callout
from postroad.flow.intake import Intake
from postroad.flow.local import Planner
from postroad.flow.local_users import SenderRules
from postroad.flow.maildrop import Maildrop
from postroad.flow.meters import Meters
from postroad.flow.outside import Outside
from postroad.flow.protection import Protection
from postroad.flow.return_path import SECRET as RETURN_PATHS
from postroad.flow.return_path import ReturnPaths
from postroad.flow.returns import Returns
from postroad.flow.runner import Runner
from postroad.flow.sign import Signer
from postroad.flow.submission import Submissions
from postroad.net.tls import ServerTls
from postroad.rules.ports import NOBODY, Ports
from postroad.serve.admission import Admission, allowances, room_for_clients
from postroad.serve.conversation import Watch
from postroad.serve.conversions import Conversions
from postroad.serve.counters import SessionCounters
from postroad.serve.doors import Doors, MakeSession, smtp_sessions, turned_away
from postroad.serve.fullness import Fullness
from postroad.serve.greeting import EarlyTalkers
from postroad.serve.hints import Hints
from postroad.serve.imap import ImapService
from postroad.serve.imap_watch import MailboxWatch
from postroad.serve.lifecycle import Lifecycle
from postroad.serve.local_submission import local_sessions
from postroad.serve.logins import SECRET, Logins
from postroad.serve.logs import log_line, make_journal
from postroad.serve.mailstore import Mailstore
from postroad.serve.metrics import meters_file
from postroad.serve.passwords import Passwords
from postroad.serve.policy import UserPolicy
from postroad.serve.pop3 import Pop3Service
from postroad.serve.refusals import Refusals
from postroad.serve.smtp_service import Service as SmtpService
from postroad.serve.supervisor import GRACE_S
from postroad.serve.tally import Tally
from postroad.serve.worker import Errand, adopt, main
from postroad.store.allowances import Spendings
from postroad.store.client import StoreClient
from postroad.store.credential_records import Secret
from postroad.store.credentials import Credentials, secret
from postroad.store.directory import Directory
from postroad.store.dkim_reads import DkimKeys
from postroad.store.figures import count_deliveries
from postroad.store.mailbox_reads import Mailboxes
from postroad.store.reader import Reader
from postroad.store.spool import Spool
from postroad.store.stories import Stories
from postroad.values.clock import SystemClock
from postroad.values.ids import IdMaker
from postroad.values.networks import Networks
from postroad.wire.smtp.limits import MachineLimits


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
    fullness: Fullness
    mailbox_watch: MailboxWatch
    callouts: Callout
    outside: Outside
    protection: Protection
    maildrop: Maildrop | None = None
    policy: UserPolicy | None = None
    grace: float = GRACE_S

    def reload(self) -> None:
        """Use new certificates and a new policy; broken ones leave the old in use."""
        if self.policy is not None:
            self.policy.reload()
        try:
            self.tls.reload()
        except (OSError, ValueError) as error:
            log_line("error", "the new certificate cannot be used; the old one stays", cause=str(error))
        else:
            log_line("info", "certificates reloaded")

    async def drain(self, grace: float) -> None:
        """Stop listening, say 421 between commands, finish what is going on, then end."""
        self.doors.close()
        if self.maildrop is not None:
            await self.maildrop.stop()
        await asyncio.gather(self.runner.drain(grace), self.watch.emptied(grace))
        busy = await self.lifecycle.drain(grace)
        if busy or self.watch.conversations:
            left = len(self.watch.conversations)
            log_line("warning", "ending although some are still busy", busy=busy, connections=left)
        self.watch.stop()
        if self.policy is not None:
            self.policy.stop()
        self.fullness.stop()
        self.mailbox_watch.stop()
        await self.callouts.close()
        await self.protection.stop()
        await self.outside.lookup.close()
        self.passwords.close()
        self.store.close()
        self.spool.close()
        self.reader.close()

    async def abandon(self) -> None:
        """The store is gone and our lease with it: nothing more may be promised or attempted."""
        self.doors.close()
        await self.runner.drain(0.0)
        await self.callouts.close()
        await self.protection.stop()
        await self.outside.lookup.close()


async def build_worker(errand: Errand) -> Parts:
    """A worker that serves. Long because it is a list: every part once, in the order in which they need each other."""
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

    def spool_broke(why: str) -> None:
        log_line("error", "the disk failed to keep mail: nothing is accepted", cause=why)
        store.post("break_off", why)

    spool = Spool(
        data_dir,
        store.incarnation,
        clock,
        message_size=config.limits.message_size,
        free_space_share=config.limits.free_space_share,
        on_broken=spool_broke,
    )
    directory = Directory(reader, clock)
    hints.add("directory", lambda _: directory.forget())
    return_paths = ReturnPaths(
        await store.call(secret, Secret(RETURN_PATHS, os.urandom(32))), config.relay.return_paths
    )
    outside = Outside.from_config(config, clock, return_paths)
    callouts = Callout(
        signposts=outside.signposts,
        lookup=outside.lookup,
        manner=outside.manner,
        clock=clock,
        learned=lambda known: store.post("gateway_known", known),
    )
    planner = Planner(
        directory,
        hostname=config.hostname,
        delimiter=config.recipient_delimiter,
        callouts=callouts,
        return_paths=return_paths,
        now_us=clock.wall_us,
    )
    passwords = Passwords(clock)
    salts = await store.call(secret, Secret(SECRET, os.urandom(32)))
    logins = Logins(Credentials(reader), passwords, store=store, clock=clock, secret=salts)
    signer = Signer(DkimKeys(reader).signing, spool, clock) if config.dkim.sign else None
    if signer is not None:
        hints.add("directory", lambda _: signer.forget())
    tls = ServerTls(Path(config.tls.certificate), Path(config.tls.key))
    protection = Protection.from_config(config, outside, store=store, reader=reader, clock=clock)
    runner = Runner.from_config(
        config, store=store, reader=reader, spool=spool, story=story, ids=ids, clock=clock, meters=meters,
        planner=planner, outside=outside, next_hop_of=directory.next_hop, protection=protection, signer=signer,
        workers=errand.workers,
    )  # fmt: skip
    hints.add("grants", lambda _: runner.regrant())
    hints.add("suspensions", lambda _: runner.resuspend())
    hints.add("queue", lambda _: runner.wake())
    hints.add("gateway", lambda _: runner.reroute())
    hints.add("recall", lambda _: runner.recall())
    intake = Intake(
        hostname=config.hostname,
        store=store,
        story=story,
        runner=runner,
        ids=ids,
        clock=clock,
        first_retry_s=config.retry.delays_s[0],
        lifetime_s=config.retry.lifetime_s,
        warn_after_s=config.retry.warn_after_s,
        max_hops=config.limits.hops,
        reporter=runner.reporter,
        signer=signer,
        returns=Returns(store=store, story=story, bodies=spool, clock=clock),
        routes=outside.routes,
    )
    if errand.number == 0:
        protection.report(config, outside, intake=intake, spool=spool, planner=planner, ids=ids, clock=clock)
    fullness = Fullness(spool, lambda: count_deliveries(data_dir), config.limits.queue_messages)
    watch = Watch(loop)
    counters = SessionCounters(meters)
    relay_from, proxies = config.relay.relay_from, Networks(config.listen.proxy_from)
    world, login = allowances(config.limits)
    admission = Admission(
        total=config.limits.connections,
        own=room_for_clients(),
        world=world,
        login=login,
        tally=Tally(errand.tally, errand.number, errand.workers),
        monotonic=clock.monotonic,
        exempt=Networks((*relay_from, *config.listen.proxy_from)),
    )
    refusals = Refusals(store=store, story=story, ids=ids, clock=clock)
    policy = UserPolicy(config.policy, meters) if config.policy.file else None
    everybody = allowed(config.sending)
    conversions = Conversions()
    smtp = SmtpService(
        hostname=config.hostname,
        intake=intake,
        planner=planner,
        logins=logins,
        spool=spool,
        refusals=refusals,
        counters=counters,
        lifecycle=lifecycle,
        tls=tls,
        clock=clock,
        relay_networks=[ipaddress.ip_network(network) for network in relay_from],
        data_timeout_s=config.limits.data_timeout_s,
        data_rate_min=config.limits.data_rate_min,
        session_s=config.limits.session_s,
        submissions=Submissions(everybody),
        conversions=conversions,
        hide_clients=config.sending.hide_client,
        full=fullness,
        gates=make_gates(
            Ports(
                senders=OwnSenders(directory, config.recipient_delimiter),
                allowances=Allowances(Spendings(reader), everybody, clock),
                milters=make_milters(config, clock),
                policy=policy or NOBODY,
            )
        ),
        account=directory.account,
        early=EarlyTalkers(config.limits.greeting_wait_s, clock.monotonic, Networks(relay_from)),
        tarpit=config.limits.tarpit,
    )
    limits = MachineLimits(
        size=config.limits.message_size,
        recipients=config.limits.recipients,
        command_patience=config.limits.command_timeout_s,
    )
    speakers = Networks(config.listen.xclient_from)
    senders = SenderRules(config.hostname, config.local.trusted_users, config.local.senders)
    pop3 = Pop3Service(
        mailstore=Mailstore(store, reader, spool),
        logins=logins,
        refusals=refusals,
        counters=counters,
        lifecycle=lifecycle,
        tls=tls,
        insecure_auth=config.insecure_auth,
        idle_s=config.limits.idle_pop3_s,
    )
    mailboxes = Mailboxes(reader)
    mailbox_watch = MailboxWatch(mailboxes)
    hints.add("mailbox", mailbox_watch.hint)
    imap = ImapService(
        store=store,
        mailboxes=mailboxes,
        directory=directory,
        bodies=spool,
        ids=ids,
        clock=clock,
        logins=logins,
        refusals=refusals,
        counters=counters,
        lifecycle=lifecycle,
        tls=tls,
        watch=mailbox_watch,
        message_size=config.limits.message_size,
        insecure_auth=config.insecure_auth,
        idle_s=config.limits.idle_imap_s,
    )
    mail_sessions: dict[str, MakeSession] = {
        "pop3": pop3.session,
        "pop3s": pop3.session,
        "imap": imap.session,
        "imaps": imap.session,
    }
    doors = Doors(
        {
            **smtp_sessions(smtp, limits=limits, speakers=speakers, hold_s=config.sending.future_release_s),
            **local_sessions(smtp, limits=limits, rules=senders),
            **mail_sessions,
        },
        admission=admission,
        counters=counters,
        watch=watch,
        tls=tls,
        turn_away=turned_away(),
        proxies=proxies,
    )
    fullness.start()
    mailbox_watch.start()
    runner.start()
    protection.start(first=errand.number == 0)
    watch.start()
    if policy is not None:
        policy.start()
    await doors.open(adopt(errand.listeners))
    maildrop = None
    if config.local.maildrop and errand.number == 0:
        stories = Stories(data_dir)
        maildrop = Maildrop(
            Path(config.local.maildrop),
            intake=intake,
            planner=planner,
            spool=spool,
            rules=senders,
            ids=ids,
            clock=clock,
            known=lambda ident: stories.story(ident) is not None,
            working=lambda: lifecycle.activity("maildrop"),
            message_size=config.limits.message_size,
        )
        maildrop.start()
    return Parts(
        store, reader, spool, passwords, runner, tls, doors, watch, lifecycle, fullness, mailbox_watch, callouts,
        outside, protection, maildrop=maildrop, policy=policy,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(build_worker))
