"""Logins of the client machine by SCRAM, against our own server's side and against servers that cannot prove it."""

from __future__ import annotations

from base64 import b64decode
from hashlib import sha256

import pytest

from postroad.wire.sasl import SCRAM, SCRAM_PLUS, Credentials, encode_base64
from postroad.wire.scram import END_POINT, ScramServer
from postroad.wire.smtp import events
from postroad.wire.smtp.client import ClientMachine
from tests.wire.test_scram import keys

HASH = sha256(b"certificate").digest()


def opened(offer: str, *, end_point: bytes = b"", nonce: str = "abc") -> ClientMachine:
    machine = ClientMachine(ehlo_name="a.test")
    login = Credentials("user", "pencil")
    machine.start("never", login, under_tls=True, nonce=nonce, end_point=end_point)
    machine.receive(b"220 b.test\r\n250-b.test\r\n250 AUTH " + offer.encode() + b"\r\n")
    assert machine.next_event() is None
    return machine


def hear(machine: ClientMachine, line: bytes) -> list[events.ClientEvent]:
    machine.take_output()
    machine.receive(line + b"\r\n")
    heard = []
    while (event := machine.next_event()) is not None:
        heard.append(event)
    return heard


def said(machine: ClientMachine) -> bytes:
    return machine.take_output().rstrip(b"\r\n").rpartition(b"\n")[2]


def decoded(line: bytes) -> bytes:
    return b64decode(line.rpartition(b" ")[2])


@pytest.mark.parametrize("end_point", [b"", HASH])
def test_a_whole_exchange(end_point: bytes) -> None:
    machine = opened(f"LOGIN PLAIN {SCRAM} {SCRAM_PLUS}", end_point=end_point)
    mechanism = SCRAM_PLUS if end_point else SCRAM
    theirs = ScramServer(mechanism, nonce="fresh", bindings={END_POINT: end_point} if end_point else {})
    first = said(machine)
    assert first.startswith(b"AUTH " + mechanism.encode() + b" ")
    theirs.take_first(decoded(first))
    assert not hear(machine, b"334 " + encode_base64(theirs.challenge(keys())))
    last = theirs.take_final(decoded(said(machine)))
    assert last is not None
    assert not hear(machine, b"334 " + encode_base64(last))
    assert machine.take_output() == b"\r\n"
    assert isinstance(hear(machine, b"235 2.7.0 Ok")[0], events.Ready)


def test_success_before_the_server_has_proved_itself_is_none() -> None:
    machine = opened(SCRAM)
    [refused] = hear(machine, b"235 2.7.0 Ok")
    assert isinstance(refused, events.Refused)
    assert (refused.stage, refused.reply.code) == ("auth", 535)


@pytest.mark.parametrize("challenge", [b"", b"!", encode_base64(b"r=x,s=QUJD,i=4096"), encode_base64(b"v=QUJD")])
def test_challenges_that_are_none_are_cancelled(challenge: bytes) -> None:
    machine = opened(SCRAM)
    assert not hear(machine, b"334 " + challenge)
    assert machine.take_output() == b"*\r\n"
    assert isinstance(hear(machine, b"501 5.7.0 Cancelled")[0], events.Refused)


def test_without_a_nonce_there_is_no_scram() -> None:
    assert said(opened(f"{SCRAM} PLAIN", nonce="")).startswith(b"AUTH PLAIN ")


def test_a_server_that_goes_on_asking_after_the_end_is_left() -> None:
    """RFC 4954 section 4: after "*" the server MUST refuse; challenges for ever would hold the connection for ever."""
    machine = opened("PLAIN")
    assert not hear(machine, b"334 ")
    assert said(machine) == b"*"
    [lost] = hear(machine, b"334 ")
    assert isinstance(lost, events.Lost)
    assert lost.stage == "auth"
