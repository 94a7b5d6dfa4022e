"""The counters of outgoing mail, bound once: looking one up for every message costs more than counting."""

from __future__ import annotations

from postroad.flow.meters import Meters
from postroad.flow.outbound import Courier, NoCourier


class OutboundMeters:
    """What is counted of connections and attempts."""

    __slots__ = ("_failed", "_meters", "_now", "_ok", "attempt")

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._now = meters.gauge("postroad_out_connections")
        self._ok = meters.counter("postroad_out_connections_total", result="ok")
        self._failed = meters.counter("postroad_out_connections_total", result="failed")
        self.attempt = meters.histogram("postroad_out_attempt_seconds")

    def opened(self, opened: Courier | NoCourier) -> None:
        """Counts a session, or a host that took none."""
        if isinstance(opened, NoCourier):
            self._failed.add()
            return
        self._ok.add()
        self._now.add()
        version = opened.tls.partition(" ")[0] or "none"
        self._meters.counter("postroad_out_tls_total", version=version).add()

    def closed(self) -> None:
        """Counts the end of a session."""
        self._now.add(-1)
