"""A host that refuses one of two source addresses, and a host that takes nothing: told, worked around, and lifted."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Loop, Office, with_certificate
from tests.e2e.mail import until
from tests.e2e.test_relay import send, story
from tests.fakes.smtp_server import OK, FakeSmtp
from tests.flow.test_detours import chosen_in_order
from tests.live import LiveServer, free_ports, live_server

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

POOL = ("127.0.0.5", "127.0.0.6")
FIRST, SECOND = chosen_in_order(POOL, "local.test")
NEAR, BUSY = free_ports(2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Two workers, two source addresses, and a provider file of its own."""
    folder = tmp_path_factory.mktemp("shaping")
    providers = folder / "providers.toml"
    providers.write_text(
        '[everybody.replies.not-from-there]\ntext = "not from there"\nmeans = "the address is on a list"\n'
        'action = "change-source"\nfor_s = 3600\n'
        '[everybody.replies.not-today]\ntext = "not today"\nmeans = "too much of it"\n'
        'action = "suspend"\nfor_s = 3600\n'
    )
    config = with_certificate(folder) + (
        f'[relay]\nproviders_file = "{providers}"\nbind = ["{POOL[0]}", "{POOL[1]}"]\n'
        f'[relay.routes]\n"listed.test" = "127.0.0.1:{NEAR}"\n"busy.test" = "127.0.0.1:{BUSY}"\n'
        "[retry]\ndelays_s = [1, 1]\nlifetime_s = 600\n"
    )
    with live_server(folder, kind=Office, workers=2, config=config) as started:
        yield started
        assert "Traceback" not in started.log()
        assert "whole, every rule holds" in started.run("verify")


def listed(server: LiveServer) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(server.run("shaping", "list", "--json"))["rows"]
    return rows


def test_another_source_address_helps_out_until_somebody_lifts_it(server: LiveServer, loop: Loop) -> None:
    host = FakeSmtp()
    host.unwelcome = {FIRST: "550 5.7.1 not from there"}
    loop.run(host.start(port=NEAR))
    try:
        send(server, "bob@listed.test")
        until(lambda: listed(server))
        [row] = listed(server)
        assert (row["source"], row["from_another_address"]) == ([FIRST], True)
        second = send(server, "carol@listed.test")
        until(lambda: len(host.messages) == 2)
        assert [got.peer for got in host.messages] == [SECOND, SECOND]
        assert f"so this leaves from {SECOND}" in json.dumps(story(server, second))
        host.unwelcome.clear()
        server.run("shaping", "lift", str(row["site"]))
        send(server, "dave@listed.test")
        until(lambda: len(host.messages) == 3)
        assert host.messages[-1].peer == FIRST
    finally:
        loop.run(host.close())


def test_a_suspended_site_waits_until_somebody_lifts_it(server: LiveServer, loop: Loop) -> None:
    host = FakeSmtp(MAIL=["421 4.7.28 not today", OK])
    loop.run(host.start(port=BUSY))
    try:
        first = send(server, "bob@busy.test")
        until(lambda: listed(server))
        second = send(server, "carol@busy.test")
        until(lambda: story(server, second)["endings"][0]["state"] == "waiting")
        assert "too much of it" in json.dumps(story(server, second))
        assert "takes nothing until then" in server.run("try", "dave@busy.test", "--from", "anna@local.test")
        assert host.messages == []
        server.run("shaping", "lift", f"127.0.0.1:{BUSY}")
        until(lambda: len(host.messages) == 2)
        assert listed(server) == []
        for ident in (first, second):
            until(lambda ident=ident: story(server, ident)["endings"][0]["state"] == "delivered")  # type: ignore[misc]
    finally:
        loop.run(host.close())
