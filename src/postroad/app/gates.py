"""The composition of policy: the gates of one worker, and whom their rules may ask."""

from __future__ import annotations

from postroad.config import Config
from postroad.net.dns import DnsLookup
from postroad.net.milter.judge import Milters
from postroad.rules.gate import Gate
from postroad.rules.inbound import INBOUND
from postroad.rules.ports import NOBODY, Ports
from postroad.rules.ports import Milters as MilterPort
from postroad.rules.submission import SUBMISSION
from postroad.serve.logs import log_bug
from postroad.serve.smtp_service import Gates
from postroad.store.directory import Directory
from postroad.values.address import Address
from postroad.values.ports import Clock


class OwnSenders:
    """In whose name an account may send, with the delimiter of this server's sub-addresses."""

    __slots__ = ("_delimiter", "_directory")

    def __init__(self, directory: Directory, delimiter: str) -> None:
        self._directory = directory
        self._delimiter = delimiter

    async def may_send_as(self, account: int, address: Address) -> bool:
        """What the directory says."""
        return await self._directory.may_send_as(account, address, self._delimiter)


def make_gates(ports: Ports) -> Gates:
    """Both gates over the same ports; a check that breaks down is logged as the bug it is."""

    def told(bug: Exception, where: str) -> None:
        log_bug(bug, where=where)

    refused = None if ports.milters is NOBODY else ports.milters.refused
    return Gates(Gate(INBOUND, ports, told), Gate(SUBMISSION, ports, told), ports.ended, refused)


def make_milters(config: Config, clock: Clock) -> MilterPort:
    """The milters that are configured; nobody where there are none."""
    lookup = DnsLookup(config.dns.nameservers, timeout_s=config.dns.timeout_s, clock=clock)
    return Milters.from_config(config, lookup) or NOBODY
