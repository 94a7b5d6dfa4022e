"""A port in use is told with its holder and a way out, before anything has started."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from postroad.dev.layout import Layout, Ports
from postroad.dev.ports import OFFSET_STEP, Obstacle, explain, free_offset, obstacles

OFFSET_BELOW_EPHEMERAL = 32_768 - Ports().metrics


def free_layout() -> Layout:
    """A layout all of whose ports are free, away from the usual ones and from those of outgoing connections."""
    for offset in range(10_500 + os.getpid() % 1000 * 10, OFFSET_BELOW_EPHEMERAL, 17):
        layout = Layout(Path("/"), Ports().moved(offset))
        if not obstacles(layout):
            return layout
    raise AssertionError("no free ports")


@contextmanager
def held(host: str, port: int, kind: int = socket.SOCK_STREAM) -> Iterator[None]:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
        sock.bind((host, port))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        yield


def test_every_kind_of_port_is_looked_at() -> None:
    layout = free_layout()
    assert obstacles(layout) == []
    for host, port in (
        ("127.0.0.1", layout.ports.smtp),
        ("127.0.0.1", layout.ports.metrics),
        ("127.0.0.1", layout.ports.dns),
        ("127.0.0.2", layout.ports.world),
        ("127.0.0.3", layout.ports.world),
    ):
        with held(host, port):
            [found] = obstacles(layout)
            assert found.port == port
            assert f"(pid {os.getpid()})" in found.holder
    assert obstacles(layout) == [], "looking leaves nothing behind"


def test_a_taken_udp_port_counts_too() -> None:
    layout = free_layout()
    with held("127.0.0.1", layout.ports.dns, socket.SOCK_DGRAM):
        assert [found.port for found in obstacles(layout)] == [layout.ports.dns]


def test_ports_are_listed_holder_by_holder_with_the_way_out() -> None:
    found = [
        Obstacle(1143, "dovecot (pid 7)", ""),
        Obstacle(1025, "mailpit (pid 8)", ""),
        Obstacle(1110, "dovecot (pid 7)", ""),
    ]
    add = "--port-offset 2000"
    assert explain(found, 2000) == [
        "Ports 1110, 1143: in use by dovecot (pid 7).",
        "Port 1025: in use by mailpit (pid 8).",
        f'End those programs, or use other ports: postroad dev {add} (or make run ARGS="{add}").',
    ]


def test_without_a_way_out_none_is_promised() -> None:
    assert explain([Obstacle(1025, "", "")], None) == [
        "Port 1025: in use by a process of another user.",
        "End that program.",
    ]


def test_other_causes_keep_their_words() -> None:
    words = "127.0.0.2:2525 (friends.test) is not an address of this machine."
    assert explain([Obstacle(2525, "", words)], None) == [words]


def test_the_offset_that_is_suggested_is_free() -> None:
    layout = Layout(Path("/"), Ports())
    first = free_offset(layout, Ports())
    assert first is not None
    assert first % OFFSET_STEP == 0
    with held("127.0.0.1", Ports().moved(first).pop3):
        second = free_offset(layout, Ports())
    assert second is not None
    assert second != first
