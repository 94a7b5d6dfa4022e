"""Listening sockets: opened once, before privileges drop, and inherited by every worker.

One socket per address is shared by all workers. SO_REUSEPORT would give each worker a queue of its own, and
connections waiting in a dead worker's queue would hang.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from typing import Final

BACKLOG: Final = 1024
"""Connections that may wait for an accept; a burst of that size is served within a second."""

SYSTEMD_FIRST_FD: Final = 3
"""sd_listen_fds(3): passed descriptors begin here."""


class ListenError(Exception):
    """An address cannot be listened on; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """One address of one service to listen on."""

    service: str
    host: str
    port: int
    family: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def places(service: str, address: str) -> list[Place]:
    """The sockets that an address of the configuration stands for: one, or both families for ":port".

    Raises ListenError when the text is no address.
    """
    host, colon, port_text = address.rpartition(":")
    if not colon or not port_text.isdigit() or not 0 <= int(port_text) <= 65535:
        raise ListenError(f'"{address}" is not an address like "0.0.0.0:25", "[::1]:25" or ":25"')
    port = int(port_text)
    if not host:
        return [Place(service, "0.0.0.0", port, socket.AF_INET), Place(service, "::", port, socket.AF_INET6)]
    if host.startswith("["):
        return [Place(service, host[1:-1], port, socket.AF_INET6)]
    return [Place(service, "127.0.0.1" if host == "localhost" else host, port, socket.AF_INET)]


def open_listeners(service: str, address: str) -> list[socket.socket]:
    """Bind and listen on every socket of one address, or on a unix socket where it is a path; IPv6 is left out quietly
    where the machine has none.

    Raises ListenError, after closing what was opened, when an address is in use or not allowed.
    """
    if address.startswith("/"):
        from postroad.net.unix_listen import open_unix_listener  # it needs this module

        return open_unix_listener(service, address)
    opened: list[socket.socket] = []
    wanted = places(service, address)
    for place in wanted:
        try:
            opened.append(_open(place))
        except OSError as error:
            without_ipv6 = place.family == socket.AF_INET6 and len(wanted) > 1
            if without_ipv6 and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                continue
            for one in opened:
                one.close()
            raise ListenError(_explain(place, error)) from error
    return opened


def _open(place: Place) -> socket.socket:
    sock = socket.socket(place.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if place.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((place.host, place.port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _explain(place: Place, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        holder = port_holder(place.port)
        who = f" by {holder}" if holder else ""
        return f"{place} ({place.service}) is in use{who}. Stop it, or configure another port."
    if error.errno == errno.EACCES:
        return f"{place} ({place.service}) needs privileges: ports below 1024 are for root or systemd sockets."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{place} ({place.service}) is not an address of this machine."
    return f"{place} ({place.service}) cannot be opened: {error.strerror or error}."


def port_holder(port: int) -> str:
    """Which process listens on a TCP port, as "name (pid 123)"; empty when that cannot be seen from here."""
    inodes = _listening_inodes(port)
    if not inodes:
        return ""
    with os.scandir("/proc") as processes:
        for entry in processes:
            if entry.name.isdigit() and _holds(entry.path, inodes):
                return f"{_command(entry.path)} (pid {entry.name})"
    return ""


def _listening_inodes(port: int) -> set[str]:
    wanted = f":{port:04X}"
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as rows:
                for row in rows:
                    cells = row.split()
                    if len(cells) > 9 and cells[1].endswith(wanted) and cells[3] == "0A":  # 0A: LISTEN
                        inodes.add(f"socket:[{cells[9]}]")
        except OSError:
            continue
    return inodes


def _holds(process: str, inodes: set[str]) -> bool:
    try:
        with os.scandir(process + "/fd") as descriptors:
            return any(os.readlink(entry.path) in inodes for entry in descriptors)
    except OSError:
        return False


def _command(process: str) -> str:
    try:
        with open(process + "/comm") as comm:
            return comm.read().strip()
    except OSError:
        return "a process"


def systemd_listeners() -> dict[str, list[socket.socket]]:
    """Sockets handed over by systemd by service name (FileDescriptorName=mx, submission, ...); empty without any.

    Source: sd_listen_fds(3).
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[socket.socket]] = {}
    for offset in range(int(os.environ.get("LISTEN_FDS", "0"))):
        sock = socket.socket(fileno=SYSTEMD_FIRST_FD + offset)
        sock.setblocking(False)
        name = names[offset] if offset < len(names) else "mx"
        found.setdefault(name, []).append(sock)
    return found
