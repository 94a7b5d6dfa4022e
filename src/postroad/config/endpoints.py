"""Addresses with ports as people write them in the configuration: ":25", "host:25", "192.0.2.1:25", "[::1]:25"."""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
PORT_MAX: Final = 65535


class Endpoint(NamedTuple):
    """Where to listen or whom to call; an empty host means every address of both families."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str, *, every_host: bool = False, port_zero: bool = False, example: int = 25) -> Endpoint:
    """The host and port of one address text.

    `every_host` allows an empty host (or "*"), `port_zero` lets the system choose the port, `example` is the port
    that advice shows. Raises ValueError whose text says what is wrong and how to write it.
    """
    host, colon, port_text = text.strip().rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        raise ValueError(_no_port(text.strip(), example))
    port = _port(port_text, text, lowest=0 if port_zero else 1)
    if host in ("", "*"):
        if every_host:
            return Endpoint("", port)
        raise ValueError(f'"{text}" has no host. Write it as "host:{port}"')
    if host.startswith("["):
        return Endpoint(_bracketed(host, text, example), port)
    if not is_address(host) and not is_hostname(host):
        raise ValueError(f'"{host}" is neither a host name nor an IP address. Write it as "mail.example.org:{port}"')
    return Endpoint(host, port)


def parse_nameserver(text: str) -> Endpoint:
    """An IP address with or without a port (53 when not given); raises ValueError that says what is wrong."""
    if is_address(text):
        return Endpoint(text, 53)
    try:
        endpoint = parse_endpoint(text)
    except ValueError:
        endpoint = Endpoint("", 0)
    if not is_address(endpoint.host):
        raise ValueError(f'"{text}" is not the IP address of a DNS server. Write it as "192.0.2.53" or "192.0.2.53:53"')
    return endpoint


class MilterPlace(NamedTuple):
    """Where a milter listens: the path of a unix socket, or a host and a port."""

    path: str
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"inet:{Endpoint(self.host, self.port)}"


def parse_milter(text: str) -> MilterPlace:
    """The place of a milter as Postfix writes it: "inet:host:port", "inet6:[::1]:port", "unix:/path" or "local:/path".

    Raises ValueError whose text says what is wrong and how to write it.
    """
    kind, colon, rest = text.strip().partition(":")
    if kind in ("unix", "local") and colon:
        if not rest.startswith("/") or "\0" in rest:
            raise ValueError(f'"{text}" has no absolute path. Write it as "unix:/run/opendkim/opendkim.sock"')
        return MilterPlace(rest)
    if kind not in ("inet", "inet6") or not colon:
        raise ValueError(f'"{text}" does not say what it is. Write it as "inet:127.0.0.1:8891" or "unix:/path"')
    port, at, host = rest.partition("@")
    if at:
        raise ValueError(f'"{text}" is in the order of sendmail. Write it as "{kind}:{host or "127.0.0.1"}:{port}"')
    try:
        endpoint = parse_endpoint(rest)
    except ValueError as error:
        raise ValueError(f'{str(error).partition(". ")[0]}. Write it as "inet:127.0.0.1:8891"') from None
    return MilterPlace("", endpoint.host, endpoint.port)


def is_address(text: str) -> bool:
    """Whether the text is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_hostname(text: str) -> bool:
    """Whether the text can be a host name: labels of letters, digits and hyphens, at most 253 octets (RFC 1123 2.1).

    A name whose last label is a number is refused: it is an IP address with a mistake in it.
    """
    labels = text.removesuffix(".").split(".")
    return len(text) <= 253 and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit()


def _bracketed(host: str, text: str, example: int) -> str:
    inner = host[1:-1] if host.endswith("]") else ""
    if not is_address(inner):
        raise ValueError(f'"{text}" holds no IPv6 address in brackets. Write it as "[2001:db8::1]:{example}"')
    return inner


def _port(port_text: str, text: str, *, lowest: int) -> int:
    if not (port_text.isascii() and port_text.isdigit()):
        raise ValueError(f'"{port_text}" in "{text}" is not a port number. Write a number from 1 to {PORT_MAX}')
    port = int(port_text[:9])
    if not lowest <= port <= PORT_MAX:
        raise ValueError(f"port {port_text} is out of range. Write a number from {lowest} to {PORT_MAX}")
    return port


def _no_port(text: str, example: int) -> str:
    if is_address(text) and ":" in text:
        return f'"{text}" has no port. Write an IPv6 address in brackets: "[{text}]:{example}"'
    if text.isdigit():
        return f'"{text}" has no colon. Write ":{text}" for every address, or "127.0.0.1:{text}" for one'
    return f'"{text}" has no port. Write it as "{text}:{example}"'
