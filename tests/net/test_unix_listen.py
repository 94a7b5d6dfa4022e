"""The unix socket for local programs: who may connect, who is at the other end, and what stands in the way."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from postroad.net.listen import ListenError, open_listeners
from postroad.net.unix_listen import open_unix_listener, peer_uid


def test_everybody_may_connect_and_is_known(tmp_path: Path) -> None:
    path = tmp_path / "run" / "submit.sock"
    [listener] = open_listeners("local", str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    with listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        accepted, _ = listener.accept()
        with accepted:
            assert peer_uid(accepted) == os.getuid()


def test_a_dead_server_s_socket_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    open_unix_listener("local", path)[0].close()
    [again] = open_unix_listener("local", path)
    again.close()


def test_a_living_server_keeps_its_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    [first] = open_unix_listener("local", path)
    with first, pytest.raises(ListenError, match="in use by another server"):
        open_unix_listener("local", path)
    assert os.path.exists(path)


def test_a_file_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ListenError, match="is no socket"):
        open_unix_listener("local", str(tmp_path / "s"))
    assert (tmp_path / "s").read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="cannot be made"):
        open_unix_listener("local", str(tmp_path / "a" / "b" / "s"))
