"""The data folder as commands use it: open for a change, open for a look, and what to say when neither works."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from postroad.console.cli.exits import CANNOT_CREATE, NO_PERMISSION, TRY_AGAIN, UNAVAILABLE, Trouble
from postroad.store import folder
from postroad.store.access import StoreAccess, open_store
from postroad.store.client import UnitFailed
from postroad.store.directory import Directory
from postroad.store.reader import Reader
from postroad.store.units import Tx
from postroad.values.errors import StoreBroken, StoreFull

A = TypeVar("A")
R = TypeVar("R")


@contextmanager
def changing(data_dir: Path, *, make: bool = False) -> Iterator[Callable[[Callable[[Tx, A], R], A], R]]:
    """A way to run units, whether or not a server runs here; `make` begins a new folder where there is none."""
    with spoken(data_dir):
        if make and not data_dir.exists():
            _begin(data_dir)
        become_owner(data_dir)
        with open_store(data_dir) as store:
            yield store.call


@contextmanager
def opened(data_dir: Path) -> Iterator[StoreAccess]:
    """The same, for callers that hand the whole access on."""
    become_owner(data_dir)
    with spoken(data_dir), open_store(data_dir) as store:
        yield store


@contextmanager
def reading(data_dir: Path) -> Iterator[Path]:
    """The folder for callers that open what they need; ends the command when there is no store in it."""
    become_owner(data_dir)
    with spoken(data_dir, changed=False):
        if not (data_dir / folder.DATABASE).exists():
            raise Trouble(*_nothing_there(data_dir), exit_code=UNAVAILABLE)
        yield data_dir


@contextmanager
def looking(data_dir: Path) -> Iterator[Reader]:
    """A read-only connection to the database of a folder."""
    with reading(data_dir):
        reader = Reader(data_dir)
        try:
            yield reader
        finally:
            reader.close()


@contextmanager
def directory(data_dir: Path) -> Iterator[Directory]:
    """Who is served, for lists."""
    with looking(data_dir) as reader:
        yield Directory(reader)


def now(answer: object) -> object:
    """The result of an async read that never waits: all of them on SQLite."""
    try:
        answer.send(None)  # type: ignore[attr-defined]
    except StopIteration as done:
        return done.value
    raise AssertionError("a read of the embedded store never waits")


def become_owner(data_dir: Path) -> None:
    """Act as the owner of the folder when we are root, for good: files that root makes would lock the server out."""
    try:
        owner = data_dir.stat().st_uid
    except OSError:
        return
    if os.geteuid() != 0 or owner == 0:
        return
    try:
        account = pwd.getpwuid(owner)
    except KeyError:
        return
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(owner)


def _begin(data_dir: Path) -> None:
    try:
        folder.prepare(data_dir)
    except OSError as error:
        raise Trouble(
            f"The data folder {data_dir} cannot be made: {error.strerror}.",
            "Name another with --data, or make it as root.",
            exit_code=CANNOT_CREATE,
        ) from error


@contextmanager
def spoken(data_dir: Path, *, changed: bool = True) -> Iterator[None]:
    """Turns what the store raises into words and an exit status; `changed` says whether something might have been."""
    unknown = " Whether anything was changed is not known." if changed else ""
    try:
        yield
    except FileNotFoundError as error:
        raise Trouble(*_nothing_there(data_dir), exit_code=UNAVAILABLE) from error
    except (PermissionError, folder.WrongUser) as error:
        words = str(error) if isinstance(error, folder.WrongUser) else f"{data_dir} may not be entered."
        raise Trouble(words, "Run this as root or as the owner of the folder.", exit_code=NO_PERMISSION) from error
    except StoreFull as error:
        raise Trouble(f"The store is full: {error}. Nothing was changed.", exit_code=TRY_AGAIN) from error
    except StoreBroken as error:
        raise Trouble(
            f"The store cannot be used: {error}.{unknown}",
            "Try again in a moment; postroad verify says whether the store is whole.",
            exit_code=TRY_AGAIN,
        ) from error
    except UnitFailed as error:
        raise Trouble(f"The store refused: {error}. Nothing was changed.", exit_code=UNAVAILABLE) from error


def _nothing_there(data_dir: Path) -> tuple[str, str]:
    return (
        f"There is no mail store in {data_dir}.",
        "Name the data folder with --data, or begin one: postroad domain add example.org",
    )
