"""Which IP addresses are this machine's own: an MX that leads to one of them leads back to us."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc/net")


def own_addresses(listen: Iterable[str], port: int, proc: Path = PROC) -> list[str]:
    """Addresses where mail for the world on `port` would reach our own listeners ("host:port", ":port", "[v6]:port").

    A listener for all addresses stands for every address of the machine's interfaces but loopback ones.
    """
    found: dict[str, None] = {}
    for text in listen:
        host, _, number = text.rpartition(":")
        if number != str(port):
            continue
        try:
            address = ipaddress.ip_address(host.strip("[]") or "::")
        except ValueError:
            continue  # a name; the listener's own check says what is wrong with it
        if address.is_unspecified:
            found.update(dict.fromkeys(interface_addresses(proc)))
        else:
            found[str(address)] = None
    return list(found)


def interface_addresses(proc: Path = PROC) -> list[str]:
    """The addresses of this machine's interfaces without loopback, as Linux lists them; empty where it does not."""
    return [*_four(_lines(proc / "fib_trie")), *_six(_lines(proc / "if_inet6"))]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("ascii", "replace").split("\n")
    except OSError:
        return []


def _four(lines: list[str]) -> Iterable[str]:
    """fib_trie: a line "|-- 192.0.2.1", and below it "/32 host LOCAL" when the address is our own."""
    found: dict[str, None] = {}
    last = ""
    for line in lines:
        text = line.strip()
        if text.startswith("|-- "):
            last = text[4:]
        elif text == "/32 host LOCAL" and not last.startswith("127."):
            found[last] = None
    return found


def _six(lines: list[str]) -> Iterable[str]:
    """if_inet6: the address as 32 hexadecimal digits begins the line."""
    for line in lines:
        digits = line[:32]
        if len(digits) == 32:
            address = ipaddress.IPv6Address(int(digits, 16))
            if not address.is_loopback:
                yield str(address)
