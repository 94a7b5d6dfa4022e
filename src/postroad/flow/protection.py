"""How a worker's outgoing mail is protected: the parts around `flow.tls_policy`, as the configuration wants them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from postroad.config import Config
from postroad.flow.intake import Intake
from postroad.flow.local import Planner
from postroad.flow.mta_sts import StsPolicies
from postroad.flow.outside import Outside
from postroad.flow.route import is_allowed
from postroad.flow.tls_log import TlsLog
from postroad.flow.tls_policy import TlsPolicies, read_configured
from postroad.flow.tls_reports import Drafts, TlsReports
from postroad.net.https import Https
from postroad.store.tls import Rows, TlsMemory
from postroad.values.address import Address
from postroad.values.ids import IdMaker
from postroad.values.ports import Clock


class Store(Protocol):
    """The units (`store.client.StoreClient`)."""

    async def call(self, unit: Callable[..., Any], args: Any) -> Any:
        """Runs a unit."""
        ...


@dataclass(slots=True)
class Protection:
    """What lives as long as its worker; `start` after everything is built, `stop` before the store is closed."""

    policies: TlsPolicies
    log: TlsLog
    sts: StsPolicies
    https: Https
    memory: TlsMemory
    store: Store
    reports: TlsReports | None = None

    @classmethod
    def from_config(
        cls, config: Config, outside: Outside, *, store: Store, reader: Rows, clock: Clock, rng: Random | None = None
    ) -> Protection:
        """Raises ValueError for a level of protection that is none."""
        lookup = outside.lookup
        https, memory = _https(config, outside), TlsMemory(reader)
        sts = StsPolicies(lookup=lookup, https=https, memory=memory, store=store, clock=clock)
        policies = _policies(config, outside, sts, memory)
        log = TlsLog(policies=policies, lookup=lookup, store=store, clock=clock, rng=rng or Random())
        return cls(policies, log, sts, https, memory, store)

    def report(
        self,
        config: Config,
        outside: Outside,
        *,
        intake: Intake,
        spool: Drafts,
        planner: Planner,
        ids: IdMaker,
        clock: Clock,
    ) -> None:
        """Has reports sent, where the configuration names an address for them; one worker of a machine does it."""
        if not config.relay.tls_reports:
            return

        self.reports = TlsReports(
            sender=Address.parse(config.relay.tls_reports),
            hostname=config.hostname,
            store=self.store,
            memory=self.memory,
            lookup=outside.lookup,
            https=self.https,
            intake=intake,
            spool=spool,
            plan_for=planner.plan_ours,
            ids=ids,
            clock=clock,
        )

    def start(self, *, first: bool) -> None:
        """Begins to write down and to send; `first` of the workers also renews policies."""
        self.log.start()
        if first:
            self.sts.start()
        if self.reports is not None:
            self.reports.start()

    async def stop(self) -> None:
        """Ends all of it and writes what was counted."""
        if self.reports is not None:
            await self.reports.stop()
        await self.sts.stop()
        await self.log.stop()


def look_ahead(config: Config, outside: Outside, *, reader: Rows, clock: Clock) -> TlsPolicies:
    """The policies for somebody who only wants to know them: nothing is written.

    `flow.tls_policy.explain` puts what `for_plan` answers into words. Raises ValueError like `Protection.from_config`.
    """
    memory = TlsMemory(reader)
    https = _https(config, outside)
    sts = StsPolicies(lookup=outside.lookup, https=https, memory=memory, store=None, clock=clock)
    return _policies(config, outside, sts, memory)


def _https(config: Config, outside: Outside) -> Https:
    allow_private = outside.signposts.allow_private
    return Https(
        outside.lookup,
        lambda address: is_allowed(ipaddress.ip_address(address), allow_private),
        ca_file=config.relay.ca_file,
    )


def _policies(config: Config, outside: Outside, sts: StsPolicies, memory: TlsMemory) -> TlsPolicies:
    relay = config.relay
    return TlsPolicies(
        outside.lookup,
        enabled=relay.tls,
        dane=config.dns.trust_ad,
        configured=read_configured(relay.tls_policy),
        sts=sts if relay.mta_sts else None,
        levels=memory,
    )
