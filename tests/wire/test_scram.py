"""SCRAM against the example of RFC 7677, against scramp as a client, and against octets of every kind."""

from __future__ import annotations

import base64
import hmac
import itertools
from hashlib import pbkdf2_hmac, sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramClient

from postroad.wire.sasl import SCRAM, SCRAM_PLUS, SaslError
from postroad.wire.scram import END_POINT, MAX_NONCE, ChannelError, ScramError, ScramKeys, ScramServer

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
HASH = sha256(b"certificate").digest()
FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="


def keys(password: str = "pencil") -> ScramKeys:
    salted = pbkdf2_hmac("sha256", password.encode(), SALT, 4096)
    stored = sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    return ScramKeys(SALT, 4096, stored, hmac.digest(salted, b"Server Key", "sha256"))


KEYS = keys()


def server(mechanism: str = SCRAM, *, nonce: str = NONCE, end_point: bytes = b"") -> ScramServer:
    return ScramServer(mechanism, nonce=nonce, bindings={END_POINT: end_point} if end_point else {})


def test_the_example_of_the_rfc() -> None:
    # RFC 7677 section 3
    ours = server()
    assert ours.take_first(FIRST) == "user"
    said = ours.challenge(KEYS)
    assert said == b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    assert ours.take_final(FINAL) == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.mark.parametrize("mechanism", [SCRAM, SCRAM_PLUS])
@pytest.mark.parametrize("password, holds", [("pencil", True), ("pencils", False)])
def test_a_client_of_another_make(mechanism: str, password: str, holds: bool) -> None:
    bound = HASH if mechanism == SCRAM_PLUS else b""
    binding = (END_POINT, bound) if bound else None
    client = ScramClient([mechanism], "user,=x", password, channel_binding=binding)
    ours = server(mechanism, nonce="fresh", end_point=bound)
    assert ours.take_first(client.get_client_first().encode()) == "user,=x"
    client.set_server_first(ours.challenge(KEYS).decode())
    last = ours.take_final(client.get_client_final().encode())
    assert (last is not None) is holds
    if last is not None:
        client.set_server_final(last.decode())


# -- the channel -----------------------------------------------------------------------------------------------------


def test_somebody_in_the_middle_with_another_certificate_gains_nothing() -> None:
    theirs = sha256(b"another certificate").digest()
    client = ScramClient([SCRAM_PLUS], "user", "pencil", channel_binding=(END_POINT, theirs))
    ours = server(SCRAM_PLUS, nonce="fresh", end_point=HASH)
    ours.take_first(client.get_client_first().encode())
    client.set_server_first(ours.challenge(KEYS).decode())
    with pytest.raises(ChannelError):
        ours.take_final(client.get_client_final().encode())


@pytest.mark.parametrize(
    "mechanism, end_point, flag",
    [
        (SCRAM, HASH, b"y"),  # RFC 5802 section 6: the offer of PLUS was hidden from the client
        (SCRAM, HASH, b"p=tls-server-end-point"),
        (SCRAM_PLUS, HASH, b"n"),
        (SCRAM_PLUS, HASH, b"y"),
        (SCRAM_PLUS, HASH, b"p=tls-unique"),
        (SCRAM_PLUS, HASH, b"p=tls-exporter"),
        (SCRAM_PLUS, b"", b"p=tls-server-end-point"),
    ],
)
def test_what_binds_to_no_channel_or_a_wrong_one(mechanism: str, end_point: bytes, flag: bytes) -> None:
    with pytest.raises(ChannelError):
        server(mechanism, end_point=end_point).take_first(flag + b",,n=user,r=abc")


def test_a_client_may_say_that_it_knows_no_plus_where_there_is_none() -> None:
    assert server().take_first(b"y,,n=user,r=abc") == "user"
    assert server(end_point=HASH).take_first(b"n,,n=user,r=abc") == "user"


def test_the_header_of_the_first_message_is_covered_by_the_last() -> None:
    ours = server()
    ours.take_first(b"y" + FIRST[1:])
    ours.challenge(KEYS)
    with pytest.raises(ChannelError):
        ours.take_final(FINAL)


# -- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n",
        b"n,",
        b"n,,",
        b"n,,n=user",
        b"n,,n=user,",
        b"n,,n=user,r=",
        b"n,,n=,r=abc",
        b"n,,m=ext,n=user,r=abc",
        b"n,,n=user,r=abc,m=ext",
        b"n,,n=user,r=abc,x",
        b"n,,n=user,r=a\tb",
        b"n,,n=us\0er,r=abc",
        b"n,,n=us=er,r=abc",
        b"n,,n=us=2cer,r=abc",
        b"n,,n=\xff,r=abc",
        b"n,user,n=user,r=abc",
        b"n,b=user,n=user,r=abc",
        b"N,,n=user,r=abc",
        b"z,,n=user,r=abc",
        b"p=,,n=user,r=abc",
        b"n,,n=" + b"x" * 256 + b",r=abc",
        b"n,,n=user,r=" + b"x" * (MAX_NONCE + 1),
    ],
)
def test_first_messages_that_are_none(message: bytes) -> None:
    with pytest.raises(ScramError):
        server().take_first(message)


def test_extensions_are_read_over_and_covered_by_the_proof() -> None:
    ours = server()
    ours.take_first(b"n,a=us=2Cer,n=us=2Cer,r=abc,x=y,z=1")
    assert (ours.user, ours.on_behalf_of) == ("us,er", "us,er")


PROOF = FINAL[FINAL.index(b",p=") :]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b",p=",
        FINAL[: -len(PROOF)],
        FINAL.replace(b"c=biws", b"c=biw"),
        FINAL.replace(b"c=biws", b"c=bi\tws"),
        FINAL.replace(b"c=biws", b"c="),
        FINAL.replace(b"hNlF$k0", b"hNlF$k1"),
        FINAL.replace(b",p=dHzb", b",m=1,p=dHzb"),
        FINAL.replace(b",p=dHzb", b",junk,p=dHzb"),
        FINAL[:-4] + b"",
        FINAL + b"AAAA",
        FINAL + b",x=y",
    ],
)
def test_last_messages_that_are_none(message: bytes) -> None:
    ours = server()
    ours.take_first(FIRST)
    ours.challenge(KEYS)
    with pytest.raises(ScramError):
        ours.take_final(message)


def test_a_proof_that_does_not_hold_is_no_error() -> None:
    ours = server()
    ours.take_first(FIRST)
    ours.challenge(keys("pen"))
    assert ours.take_final(FINAL) is None


def test_each_step_is_taken_once_and_in_order() -> None:
    ours = server()
    with pytest.raises(ScramError):
        ours.challenge(KEYS)
    with pytest.raises(ScramError):
        ours.take_final(FINAL)
    ours.take_first(FIRST)
    with pytest.raises(ScramError):
        ours.take_first(FIRST)
    ours.challenge(KEYS)
    with pytest.raises(ScramError):
        ours.challenge(KEYS)
    assert ours.take_final(FINAL)
    with pytest.raises(ScramError):
        ours.take_final(FINAL)


PIECES = st.sampled_from(
    [b"n", b"y", b"p=", b",", b"a=", b"n=", b"r=", b"c=biws", b"p=AAAA", b"=2C", b"=3D", b"\0", b"m="]
)


@given(st.lists(st.one_of(PIECES, st.binary(max_size=6)), max_size=12).map(b"".join), st.booleans(), st.booleans())
def test_any_octets_give_a_value_or_one_error(message: bytes, bound: bool, first: bool) -> None:
    """Class E10: total on any octets, and nothing but the right proof ever gives the last message."""
    ours = server(end_point=HASH if bound else b"")
    try:
        if first:
            ours.take_first(message)
        else:
            ours.take_first(FIRST)
            ours.challenge(KEYS)
            assert ours.take_final(message) is None
    except SaslError:
        pass


def test_one_changed_octet_of_the_last_message_never_gets_in() -> None:
    for at, bit in itertools.product(range(len(FINAL)), (1, 32)):
        ours = server()
        ours.take_first(FIRST)
        ours.challenge(KEYS)
        changed = FINAL[:at] + bytes([FINAL[at] ^ bit]) + FINAL[at + 1 :]
        try:
            assert ours.take_final(changed) is None
        except ScramError:
            pass


def test_nothing_shows_the_keys() -> None:
    ours = server()
    ours.take_first(FIRST)
    ours.challenge(KEYS)
    for secret in (KEYS.stored_key, KEYS.server_key):
        assert repr(secret)[2:-1] not in repr(KEYS) + repr(ours)
