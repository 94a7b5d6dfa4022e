"""A listening unix socket that every user of this machine may connect to; the kernel tells who did."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Any, Final

from postroad.net.listen import BACKLOG, ListenError

SOCKET_MODE: Final = 0o666
"""Everybody on this machine may send mail; the folder decides when only some may."""
FOLDER_MODE: Final = 0o755
PATH_OCTETS: Final = 107
"""Octets of a path that unix(7) has room for."""

_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred: process, user and group."""


def open_unix_listener(service: str, path: str) -> list[socket.socket]:
    """Bind and listen; a socket that a dead server left behind is replaced, that of a living one is not.

    Raises ListenError that says why and what to do.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        Path(path).parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
        _make_way(path)
        sock.bind(path)
        os.chmod(path, SOCKET_MODE)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ListenError(_explain(service, path, error)) from error
    return [sock]


def _make_way(path: str) -> None:
    """Removes a socket nobody listens on; raises OSError (EADDRINUSE) for anything else that is there."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "this is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, "somebody listens there")
    os.unlink(path)


def _explain(service: str, path: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{path} ({service}) is in use by another server. Stop it, or configure another path."
    if error.errno == errno.EEXIST:
        return f"{path} ({service}) is there already and is no socket. Move it away, or configure another path."
    if error.errno in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EROFS):
        return f"{path} ({service}) cannot be made: {error.strerror}. Make its folder for the service's account."
    return f"{path} ({service}) cannot be opened: {error.strerror or error}."


def peer_uid(sock: Any) -> int:
    """The user at the other end of a connected unix socket, at the time it connected (SO_PEERCRED, unix(7)).

    Raises OSError when the kernel does not say.
    """
    uid: int
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return uid
