"""Listening sockets: both families for ":port", clear words for what does not work."""

from __future__ import annotations

import os
import socket

import pytest

from postroad.net import listen
from postroad.net.listen import ListenError, open_listeners, places, port_holder, systemd_listeners


def test_a_port_alone_stands_for_both_families() -> None:
    assert [str(place) for place in places("mx", ":25")] == ["0.0.0.0:25", "[::]:25"]


@pytest.mark.parametrize("text", ["25", "", "localhost", "127.0.0.1:", "127.0.0.1:99999", "[::1]:x"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ListenError, match="is not an address like"):
        places("mx", text)


def test_a_port_in_use_names_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError) as caught:
            open_listeners("mx", f"127.0.0.1:{port}")
    assert f"127.0.0.1:{port} (mx) is in use by" in str(caught.value)
    assert f"(pid {os.getpid()})" in str(caught.value)


def test_the_holder_of_a_free_port_is_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert port_holder(port) == ""


def test_without_ipv6_the_other_family_still_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    real = listen._open

    def no_ipv6(place: listen.Place) -> socket.socket:
        if place.family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(place)

    monkeypatch.setattr(listen, "_open", no_ipv6)
    opened = open_listeners("mx", ":0")
    assert [sock.family for sock in opened] == [socket.AF_INET]
    opened[0].close()


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(ListenError, match="is not an address of this machine"):
        open_listeners("mx", "192.0.2.1:0")


def test_sockets_of_systemd_are_taken_only_by_their_addressee(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert systemd_listeners() == {}
