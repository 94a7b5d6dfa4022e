"""One server for all tests with client programs, and an account of its own for each test."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from postroad.console.cli.stores import changing
from postroad.net.tls import make_self_signed, write_private
from postroad.serve.passwords import hash_password
from postroad.store.account_records import DONE, UserAdd
from postroad.store.accounts import user_add
from tests.e2e.mail import NewAccount
from tests.live import LiveServer, live_server

T = TypeVar("T")

CERTIFICATE_NAMES = ("mx.local.test", "localhost", "127.0.0.1")
"""Client programs connect to "localhost" and are told to verify it."""


def with_certificate(folder: Path) -> str:
    """Makes a certificate for `CERTIFICATE_NAMES` in `folder`; returns the section of the configuration."""
    certificate, key = make_self_signed(CERTIFICATE_NAMES, time.time_ns() // 1000)
    write_private(folder / "server.pem", certificate)
    write_private(folder / "server.key", key)
    return f'[tls]\ncertificate = "{folder / "server.pem"}"\nkey = "{folder / "server.key"}"\n'


class Office(LiveServer):
    """The server of an organisation, with a certificate that clients can verify."""

    @property
    def certificate(self) -> Path:
        """What clients are given as their only authority."""
        return self.folder / "server.pem"


@pytest.fixture(scope="session")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server for local.test that all tests of client programs share; its log never shows a bug."""
    folder = tmp_path_factory.mktemp("office")
    section = with_certificate(folder)
    with live_server(folder, kind=Office, config=section) as started:
        yield started
        assert "Traceback" not in started.log()
        assert "whole, every rule holds" in started.run("verify")


def add_accounts(server: LiveServer, *addresses: str) -> None:
    """Accounts with the password "secret".

    They go to the store process as `postroad user add` does, without starting an interpreter for each.
    """
    with changing(server.data_dir) as call:
        for address in addresses:
            assert call(user_add, UserAdd(address, 0, _CREDENTIAL)).word == DONE


@pytest.fixture
def new_account(office: LiveServer) -> NewAccount:
    """Makes an account at each call and returns its address."""

    def make() -> str:
        address = f"user{next(_numbers)}@{office.domain}"
        add_accounts(office, address)
        return address

    return make


@pytest.fixture
def account(new_account: NewAccount) -> str:
    """The address of a new account."""
    return new_account()


_numbers = itertools.count(1)
_CREDENTIAL = hash_password("secret")


class Loop:
    """An event loop in a thread, for servers that stand beside the tests."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def close(self) -> None:
        """Ends the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    """A loop for the servers of one module."""
    made = Loop()
    yield made
    made.close()
