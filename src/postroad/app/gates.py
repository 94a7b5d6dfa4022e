"""The composition of policy: the gates of one worker, and whom their rules may ask."""

from __future__ import annotations

from postroad.rules.gate import Gate
from postroad.rules.inbound import INBOUND
from postroad.rules.ports import Ports
from postroad.rules.submission import SUBMISSION
from postroad.serve.logs import log_bug
from postroad.serve.smtp import Gates


def make_gates(ports: Ports) -> Gates:
    """Both gates over the same ports; a check that breaks down is logged as the bug it is."""

    def told(bug: Exception, where: str) -> None:
        log_bug(bug, where=where)

    return Gates(Gate(INBOUND, ports, told), Gate(SUBMISSION, ports, told), ports.ended)
