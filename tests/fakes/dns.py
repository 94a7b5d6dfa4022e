"""The DNS server of the playground, as tests use it: real packets on loopback, misbehaving by name on request."""

from postroad.dev.dns import DnsServer, Fault

__all__ = ["DnsServer", "Fault"]
