"""What sessions count, bound once per door and word, so that a count on the hot path is a lookup and an addition."""

from __future__ import annotations

from postroad.flow.meters import Counter, Gauge, Meters

SMTP_DOORS = ("mx", "submission", "submissions")
REASON_MAX = 48
"""Letters of a reason that make a label; the reasons are short stable words."""


class SessionCounters:
    """The counters of one worker's sessions (the `Counters` that `serve.smtp` and others ask for)."""

    __slots__ = ("_bytes", "_connections", "_messages", "_meters", "_open")

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._open: dict[str, Gauge] = {}
        self._connections = {
            door: meters.counter("postroad_smtp_in_connections_total", listener=door) for door in SMTP_DOORS
        }
        self._messages: dict[str, Counter] = {}
        self._bytes: dict[str, Counter] = {}

    def session_opened(self, door: str) -> None:
        """A client was admitted at a door (mx, submission, imaps, ...)."""
        gauge = self._open.get(door)
        if gauge is None:
            gauge = self._open[door] = self._meters.gauge("postroad_connections", service=door)
        gauge.add()
        admitted = self._connections.get(door)
        if admitted is not None:
            admitted.add()

    def session_closed(self, door: str) -> None:
        """An admitted client is gone."""
        gauge = self._open.get(door)
        if gauge is not None:
            gauge.add(-1)

    def message_received(self, door: str, size: int) -> None:
        """A message of `size` octets became ours."""
        counter = self._messages.get(door)
        if counter is None:
            counter = self._messages[door] = self._meters.counter("postroad_smtp_in_messages_total", listener=door)
            self._bytes[door] = self._meters.counter("postroad_smtp_in_bytes_total", listener=door)
        counter.add()
        self._bytes[door].add(size)

    def refused(self, door: str, code: int, why: str) -> None:
        """A command, a message or a connection was turned away; `why` is the stable word."""
        self._meters.counter("postroad_smtp_in_rejections_total", listener=door, reason=why[:REASON_MAX]).add()

    def logged_in(self, service: str, result: str) -> None:
        """A login ended: "ok", "wrong", "busy", ... ; `service` is the protocol."""
        self._meters.counter("postroad_auth_total", protocol=service, result=result).add()
