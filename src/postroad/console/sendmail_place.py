"""Where the server can be met: its socket and its maildrop, as the configuration says or as is usual."""

from __future__ import annotations

import os
from typing import Any, Final, NamedTuple

from postroad.console.sysexits import BAD_CONFIG, Failure

CONFIG: Final = "/etc/postroad/postroad.toml"
VARIABLE: Final = "POSTROAD_CONFIG"


class Place(NamedTuple):
    """Paths; an empty one means that this way is not offered."""

    socket: str
    maildrop: str
    config: str = ""
    """The file that says so; empty when it could not be read."""


USUAL: Final = Place("/run/postroad/submit.sock", "/var/spool/postroad/maildrop")
"""What holds for a user who may not read the configuration, as on most machines none may."""


def place(named: str) -> Place:
    """The paths in the file of -C or of the variable, else in the usual one.

    Raises Failure(BAD_CONFIG) when a file that was named cannot be used; the usual one may be missing or unreadable.
    """
    named = named or os.environ.get(VARIABLE, "")
    path = named or CONFIG
    try:
        with open(path, "rb") as file:
            text = file.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        if not named:
            return USUAL
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Failure(BAD_CONFIG, f"The configuration {path} cannot be read: {why}") from error
    import tomllib

    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Failure(BAD_CONFIG, f"The configuration {path} cannot be used: {error}") from error
    found = Place(_first(tables, "listen", "local"), _text(tables, "local", "maildrop"), path)
    if not found.socket and not found.maildrop:
        raise Failure(
            BAD_CONFIG,
            f"The configuration {path} offers local programs no way in. Write in it, and restart the server:\n"
            f'  [listen]\n  local = ["{USUAL.socket}"]\n  [local]\n  maildrop = "{USUAL.maildrop}"',
        )
    return found


def _first(tables: dict[str, Any], section: str, key: str) -> str:
    """The first text of a list."""
    table = tables.get(section, {})
    value = table.get(key, ()) if isinstance(table, dict) else ()
    return value[0] if isinstance(value, list) and value and isinstance(value[0], str) else ""


def _text(tables: dict[str, Any], section: str, key: str) -> str:
    table = tables.get(section, {})
    value = table.get(key, "") if isinstance(table, dict) else ""
    return value if isinstance(value, str) else ""
