"""Several hosts on this machine, each in a network namespace of its own, on one bridge that nobody else sees.

A host is kept by a process that sleeps. When it ends, which it does with the tests whatever happens to them, the kernel
takes its namespace away with all devices in it. The machine's own network is never touched.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeVar

import pytest

from tests.e2e.mail import until
from tests.programs import needs_program

Started = TypeVar("Started")

CLONE_NEWNET = 0x40000000
SLEEPER = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]

ARRIVE = """
set -e
ip link set lo up
for address in $*; do
    case $address in
        *:*) ip addr add "$address/64" dev eth0 nodad ;;
        *) ip addr add "$address/24" dev eth0 ;;
    esac
done
ip link set eth0 up
# Whoever is not there is known after 60 ms and not after 3 s.
for family in ipv4 ipv6; do echo 20 >/proc/sys/net/$family/neigh/eth0/retrans_time_ms; done
"""


class Host:
    """One host with its own loopback and one cable."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._process = subprocess.Popen(SLEEPER, stdin=subprocess.DEVNULL)
        ours = os.readlink("/proc/self/ns/net")
        until(lambda: os.readlink(f"/proc/{self._process.pid}/ns/net") != ours)

    @property
    def pid(self) -> int:
        """Of the process that keeps it."""
        return self._process.pid

    @contextmanager
    def inside(self) -> Iterator[None]:
        """What this thread opens and starts meanwhile is on this host."""
        with open("/proc/thread-self/ns/net") as before, open(f"/proc/{self.pid}/ns/net") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    @contextmanager
    def running(self, server: AbstractContextManager[Started]) -> Iterator[Started]:
        """A server that starts on this host; who uses it stays where he is."""
        with ExitStack() as stack:
            with self.inside():
                started = stack.enter_context(server)
            yield started

    def run(self, script: str, *words: str) -> None:
        """Commands on this host."""
        with self.inside():
            subprocess.run(["sh", "-c", script, "sh", *words], check=True, timeout=20)

    def close(self) -> None:
        """Switches it off."""
        self._process.kill()
        self._process.wait(10)


class Network:
    """Hosts and the switch between them."""

    def __init__(self) -> None:
        self._switch = Host("switch")
        self._hosts: list[Host] = []
        self._switch.run("ip link add br0 type bridge && ip link set br0 up")

    def host(self, name: str, *addresses: str) -> Host:
        """A new host with these addresses, in networks of 24 and 64 bits."""
        made = Host(name)
        self._hosts.append(made)
        plug = f"ip link add {name} type veth peer name eth0 netns {made.pid} && ip link set {name} master br0 up"
        self._switch.run(plug)
        made.run(ARRIVE, *addresses)
        return made

    def unplug(self, host: Host) -> None:
        """Pulls its cable out of the switch."""
        self._switch.run(f"ip link set {host.name} down")

    def plug(self, host: Host) -> None:
        """Puts it in again."""
        self._switch.run(f"ip link set {host.name} up")

    def close(self) -> None:
        """Switches everything off."""
        for host in (*self._hosts, self._switch):
            host.close()


@contextmanager
def network() -> Iterator[Network]:
    """A network without hosts; gone at the end, whatever happened."""
    made = Network()
    try:
        yield made
    finally:
        made.close()


def needs_namespaces() -> None:
    """Skips, with the reason, where the machine does not let root make namespaces and bridges.

    CI=true changes nothing of that, as for mounts: no script can give a container more rights than it has. An absent
    program is another thing and fails there.
    """
    for program in ("ip", "setpriv", "unshare"):
        needs_program(program)
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if why := _refusal():
        pytest.skip(f"this machine does not let root make network namespaces: {why}")


@functools.cache
def _refusal() -> str:
    probe = "ip link add br0 type bridge && ip link add one type veth peer name two"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", probe], capture_output=True, text=True, timeout=20, check=False
    )
    return "" if done.returncode == 0 else done.stderr.strip()[-200:] or f"status {done.returncode}"


def _enter(descriptor: int) -> None:
    """setns(2), which Python has from 3.12 on; it is about the calling thread only."""
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
