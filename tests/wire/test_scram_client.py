"""The client's side of SCRAM: the example of the RFC, our own server, and servers that lie."""

from __future__ import annotations

import contextlib
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroad.wire.sasl import SCRAM, SCRAM_PLUS, Credentials
from postroad.wire.scram import END_POINT, ChannelError, ScramError, ScramServer
from postroad.wire.scram_client import ITERATIONS_LEAST, ITERATIONS_MOST, ScramClient
from tests.wire.test_scram import FINAL, FIRST, HASH, keys

PENCIL = Credentials("user", "pencil")


def client(credentials: Credentials = PENCIL, nonce: str = "rOprNGfwEbeRWgbNEkqO", **options: object) -> ScramClient:
    settings = {"offered_plus": False, "end_point": b""} | options
    return ScramClient(credentials, nonce=nonce, **settings)  # type: ignore[arg-type]


def test_the_example_of_the_rfc() -> None:
    # RFC 7677 section 3
    ours = client()
    assert ours.first() == FIRST
    assert (
        ours.final(b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096") == FINAL
    )
    assert ours.prove(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    assert not ours.prove(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G8=")


@pytest.mark.parametrize("end_point", [b"", HASH])
@pytest.mark.parametrize("password, holds", [("pencil", True), ("pencils", False)])
def test_our_own_server(end_point: bytes, password: str, holds: bool) -> None:
    ours = client(Credentials("user,=x", password), end_point=end_point, offered_plus=bool(end_point))
    assert ours.mechanism == (SCRAM_PLUS if end_point else SCRAM)
    theirs = ScramServer(ours.mechanism, nonce="fresh", bindings={END_POINT: end_point} if end_point else {})
    assert theirs.take_first(ours.first()) == "user,=x"
    last = theirs.take_final(ours.final(theirs.challenge(keys())))
    assert (last is not None) is holds
    assert last is None or ours.prove(last)


def test_an_offer_of_plus_that_somebody_hid_is_noticed() -> None:
    ours = client(end_point=HASH, offered_plus=False)
    theirs = ScramServer(SCRAM, nonce="fresh", bindings={END_POINT: HASH})
    with pytest.raises(ChannelError):
        theirs.take_first(ours.first())


def test_somebody_in_the_middle_with_another_certificate_gains_nothing() -> None:
    ours = client(end_point=sha256(b"another").digest(), offered_plus=True)
    theirs = ScramServer(SCRAM_PLUS, nonce="fresh", bindings={END_POINT: HASH})
    theirs.take_first(ours.first())
    with pytest.raises(ChannelError):
        theirs.take_final(ours.final(theirs.challenge(keys())))


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"r=another,s=QUJD,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqO,s=QUJD,i=4096",  # nothing of the server's own
        b"r=rOprNGfwEbeRWgbNEkqOx,s=QUJD",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=Q,i=4096",
        b"m=x,r=rOprNGfwEbeRWgbNEkqOx,s=QUJD,i=4096",
        b"r=rOprNGfwEbeRWgbNEkqOx,s=QUJD,i=4096,m=x",
        "r=rOprNGfwEbeRWgbNEkqOä,s=QUJD,i=4096".encode(),
        b"r=rOprNGfwEbeRWgbNEkqOx,s=QUJD,i=%d" % (ITERATIONS_LEAST - 1),
        b"r=rOprNGfwEbeRWgbNEkqOx,s=QUJD,i=%d" % (ITERATIONS_MOST + 1),
        b"e=unknown-user",
    ],
)
def test_challenges_that_are_none(challenge: bytes) -> None:
    with pytest.raises(ScramError):
        client().final(challenge)


def test_a_second_challenge_and_a_proof_before_the_first_count_for_nothing() -> None:
    ours = client()
    assert not ours.prove(b"v=")
    challenge = b"r=rOprNGfwEbeRWgbNEkqOx,s=QUJD,i=4096"
    ours.final(challenge)
    with pytest.raises(ScramError):
        ours.final(challenge)


@given(challenge=st.binary(max_size=200))
def test_any_octets_give_a_value_or_one_error(challenge: bytes) -> None:
    with contextlib.suppress(ScramError):
        assert client().final(challenge).startswith(b"c=")


def test_nothing_shows_the_password() -> None:
    assert "pencil" not in repr(client())
