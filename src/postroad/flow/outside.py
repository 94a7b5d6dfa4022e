"""The ways out of this machine as the configuration describes them: shared by the runner and by callouts."""

from __future__ import annotations

from dataclasses import dataclass

from postroad.config import Config
from postroad.config.routes import load as load_routes
from postroad.flow.outbound import Manner
from postroad.flow.return_path import ReturnPaths
from postroad.flow.route import Signposts, read_signposts
from postroad.flow.routing import Routes
from postroad.net.dns import DnsLookup
from postroad.net.interfaces import own_addresses
from postroad.net.tls import ClientTls
from postroad.values.ports import Clock


@dataclass(frozen=True, slots=True)
class Outside:
    """What a worker needs to reach other hosts; whoever made it closes its lookup at the end."""

    signposts: Signposts
    manner: Manner
    lookup: DnsLookup
    routes: Routes

    @classmethod
    def from_config(cls, config: Config, clock: Clock, return_paths: ReturnPaths | None = None) -> Outside:
        """Raises ValueError for networks that are none, ConfigError for a routes file that cannot be used."""
        relay = config.relay
        return cls(
            signposts=read_signposts(
                port=relay.port,
                next_hop=relay.next_hop,
                routes=relay.routes,
                own_names=[config.hostname],
                own_addresses=own_addresses(config.listen.mx, relay.port),
                allow_private=relay.allow_private,
            ),
            manner=Manner(
                ehlo_name=config.hostname,
                tls=ClientTls(relay.ca_file) if relay.tls else None,
                connect_timeout_s=relay.connect_timeout_s,
                bind=relay.bind,
                names=relay.ehlo_names,
                return_paths=return_paths,
            ),
            lookup=DnsLookup(
                config.dns.nameservers, timeout_s=config.dns.timeout_s, clock=clock, trust_ad=config.dns.trust_ad
            ),
            routes=Routes.of(load_routes(relay.routes_file), relay.bind),
        )
