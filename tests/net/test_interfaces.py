"""Which addresses are our own."""

from __future__ import annotations

from pathlib import Path

from postroad.net.interfaces import interface_addresses, own_addresses

TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     +-- 127.0.0.0/8 2 0 2
           |-- 127.0.0.1
              /32 host LOCAL
     +-- 198.51.100.0/24 2 0 2
           |-- 198.51.100.0
              /24 link UNICAST
           |-- 198.51.100.7
              /32 host LOCAL
        |-- 198.51.100.255
           /32 link BROADCAST
Local:
           |-- 198.51.100.7
              /32 host LOCAL
"""
SIX = """00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000007 02 40 00 80     eth0
"""


def machine(folder: Path) -> Path:
    (folder / "fib_trie").write_text(TRIE)
    (folder / "if_inet6").write_text(SIX)
    return folder


def test_addresses_of_the_interfaces(tmp_path: Path) -> None:
    assert interface_addresses(machine(tmp_path)) == ["198.51.100.7", "2001:db8::7"]


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    assert interface_addresses(tmp_path / "absent") == []


def test_listeners_on_the_port_that_mail_comes_to(tmp_path: Path) -> None:
    proc = machine(tmp_path)
    assert own_addresses([":25"], 25, proc) == ["198.51.100.7", "2001:db8::7"]
    assert own_addresses(["0.0.0.0:25", "[::]:25"], 25, proc) == ["198.51.100.7", "2001:db8::7"]
    assert own_addresses(["127.0.0.1:1025", "[::1]:1025", "mail.test:1025"], 1025, proc) == ["127.0.0.1", "::1"]
    assert own_addresses(["127.0.0.1:2525"], 25, proc) == []
