"""Whether the playground's ports are free, who holds them if not, and what to do about it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from postroad.dev.layout import HERE, HERE_IPV6, OFFSET_MAX, Layout, Ports
from postroad.net.listen import ListenError, open_listeners, port_holder

OFFSET_STEP = 1000
"""A round number to suggest, and to look for free ports by."""
WAYS_OUT_MAX = 20
"""Offsets tried before none is suggested."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One address that cannot be listened on."""

    port: int
    holder: str
    """"name (pid 123)"; empty when it cannot be seen from here."""
    words: str
    """What the system says when the cause is another than a port in use; else empty."""


def has_ipv6() -> bool:
    """Whether this machine has an IPv6 loopback address."""
    return _complaint(lambda: _bind(socket.AF_INET6, socket.SOCK_STREAM, HERE_IPV6, 0)) is None


def obstacles(layout: Layout) -> list[Obstacle]:
    """Every address of a playground that cannot be listened on now."""
    found = []
    for service, address in layout.wanted():
        try:
            opened = open_listeners(service, address)
        except ListenError as error:
            found.append(_obstacle(int(address.rpartition(":")[2]), error.__cause__, str(error)))
        else:
            for one in opened:
                one.close()
    port = layout.ports.dns
    if not any(one.port == port for one in found):
        complaint = _complaint(lambda: _bind(socket.AF_INET, socket.SOCK_DGRAM, HERE, port))
        if complaint is not None:
            found.append(_obstacle(port, complaint, f"UDP {HERE}:{port}: {complaint.strerror}"))
    return found


def _obstacle(port: int, cause: BaseException | None, words: str) -> Obstacle:
    in_use = isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
    return Obstacle(port, port_holder(port) if in_use else "", "" if in_use else words)


def _bind(family: int, kind: int, host: str, port: int) -> None:
    with socket.socket(family, kind) as sock:
        sock.bind((host, port))


def _complaint(attempt: Callable[[], None]) -> OSError | None:
    try:
        attempt()
    except OSError as error:
        return error
    return None


def explain(found: Iterable[Obstacle], way_out: int | None) -> list[str]:
    """The obstacles as lines for people, holder by holder, and what to do; `way_out` is an offset that is free."""
    held: dict[str, set[int]] = {}
    lines = []
    for one in found:
        if one.words:
            lines.append(one.words)
        else:
            held.setdefault(one.holder or "a process of another user", set()).add(one.port)
    for holder, ports in held.items():
        numbers = ", ".join(str(port) for port in sorted(ports))
        lines.append(f"{'Port' if len(ports) == 1 else 'Ports'} {numbers}: in use by {holder}.")
    if held:
        end = "End that program" if len(held) == 1 else "End those programs"
        add = f"--port-offset {way_out}"
        other = f', or use other ports: postroad dev {add} (or make run ARGS="{add}")' if way_out is not None else ""
        lines.append(f"{end}{other}.")
    return lines


def free_offset(layout: Layout, ports: Ports) -> int | None:
    """A round offset at which nothing stands in the way; None when the first few are all taken."""
    for offset in range(OFFSET_STEP, min(OFFSET_MAX, OFFSET_STEP * WAYS_OUT_MAX) + 1, OFFSET_STEP):
        moved = ports.moved(offset)
        if moved != layout.ports and not obstacles(Layout(layout.root, moved, layout.ipv6)):
            return offset
    return None
