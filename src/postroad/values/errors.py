"""The few exception types that may cross one shelf; everything else that is raised is a bug."""

from __future__ import annotations

from postroad.values.reply import Reply


class PeerError(Exception):
    """The peer broke the protocol in a way that ends the connection; `reply` is the last thing we say."""

    def __init__(self, reply: Reply, why: str = "") -> None:
        super().__init__(why or str(reply))
        self.reply = reply


class StoreFull(Exception):
    """The disk or the queue is too full to accept: 452 to the peer, nothing is stored."""


class StoreBroken(Exception):
    """The store could not make something durable: 451 to the peer, nothing is acknowledged."""
