"""What a submission is known again by: the same bytes in the same envelope, or the key that its client chose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from postroad.flow.submission import BAD_KEY, KEY_MAX, LONG_HEADER, Submission, Submissions, key_taken, local_submission
from postroad.rules.words import WORDS
from postroad.store.records import Allowed
from postroad.values.address import Address
from postroad.values.envelope import Envelope, Recipient
from postroad.values.reply import Reply

HEADER = b"From: a@h.test\r\nMessage-ID: <1@h.test>\r\n\r\n"


def envelope(*recipients: str, sender: str = "a@h.test", notify: str = "", **changes: Any) -> Envelope:
    found = Envelope(Address.parse(sender), **changes)
    found.recipients = [Recipient(Address.parse(one), notify) for one in recipients or ("b@h.test", "c@h.test")]
    return found


def key_of(
    content: bytes = b"hello",
    to: Envelope | None = None,
    *,
    scope: str = "account 7",
    header: bytes = HEADER,
    cut: int = 100,
) -> bytes:
    submission = Submission(scope)
    for at in range(0, len(content), cut):
        submission.update(content[at : at + cut])
    assert submission.read(header, to or envelope()) is None
    return submission.sending(b"").key


def test_the_same_submission_has_one_key_however_its_octets_were_cut() -> None:
    assert len(key_of()) == 16
    assert key_of() == key_of() == key_of(cut=1) == key_of(cut=3)


OTHERS: dict[str, Callable[[], bytes]] = {
    "content": lambda: key_of(b"hello!"),
    "order of recipients": lambda: key_of(to=envelope("c@h.test", "b@h.test")),
    "fewer recipients": lambda: key_of(to=envelope("b@h.test")),
    "sender": lambda: key_of(to=envelope(sender="z@h.test")),
    "wishes": lambda: key_of(to=envelope(notify="NEVER")),
    "envelope id": lambda: key_of(to=envelope(envid="x")),
    "account": lambda: key_of(scope="account 8"),
    "local user": lambda: key_of(scope="uid 7"),
    "a key": lambda: key_of(header=b"X-Postroad-Key: 1\r\n" + HEADER),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_what_differs_has_another_key(other: Callable[[], bytes]) -> None:
    assert other() not in (key_of(), b"")


def test_without_a_message_id_of_the_client_there_is_no_key() -> None:
    assert key_of(header=b"From: a@h.test\r\n\r\n") == b""


def test_a_key_of_the_client_stands_for_any_content_of_its_account() -> None:
    keyed = b"X-Postroad-Key: order-4711\r\n" + HEADER
    one = key_of(header=keyed)
    assert one == key_of(b"else", header=b"X-Postroad-Key: order-4711\r\n\r\n")
    assert one != key_of(header=keyed, scope="account 8")
    one_content, other_content = (content_of(text) for text in (b"hello", b"else"))
    assert one_content != other_content


def content_of(content: bytes) -> bytes:
    submission = Submission("account 7")
    submission.update(content)
    assert submission.read(HEADER, envelope()) is None
    return submission.sending(b"").content


def test_an_account_is_counted_with_its_recipients_and_a_local_user_is_not() -> None:
    told = []
    for submission in (Submissions(Allowed(5)).begin(7), local_submission(1000)):
        assert submission.read(HEADER, envelope("b@h.test", "B@H.test", "c@h.test")) is None
        told.append(submission.sending(b"again"))
    counted, local = told
    assert (counted.account, len(counted.recipients), counted.allowed, counted.repeated) == (7, 2, Allowed(5), b"again")
    assert (local.account, local.recipients) == (0, [])
    assert local.key


FIELDS = {
    "first": (b"X-Postroad-Key: k\r\n" + HEADER, HEADER),
    "between": (b"From: a@h.test\r\nx-postroad-KEY:k\r\nMessage-ID: <1@h.test>\r\n\r\n", HEADER),
    "blank before the colon": (b"From: a@h.test\r\nX-Postroad-Key : k\r\n\r\n", b"From: a@h.test\r\n\r\n"),
    "folded": (b"X-Postroad-Key:\r\n k\r\nFrom: a@h.test\r\n\r\n", b"From: a@h.test\r\n\r\n"),
    "only named elsewhere": (b"Subject: X-Postroad-Key: k\r\n\r\n", b"Subject: X-Postroad-Key: k\r\n\r\n"),
    "longest": (b"X-Postroad-Key: " + b"k" * KEY_MAX + b"\r\n\r\n", b"\r\n"),
}


@pytest.mark.parametrize("given, left", FIELDS.values(), ids=FIELDS.keys())
def test_the_key_is_taken_out_and_all_else_stays(given: bytes, left: bytes) -> None:
    submission = Submission("account 7")
    assert submission.read(given, envelope()) is None
    assert submission.header == left


@pytest.mark.parametrize(
    "header, reply",
    [
        (b"X-Postroad-Key: a\r\nX-Postroad-Key: a\r\n\r\n", BAD_KEY),
        (b"X-Postroad-Key:\r\n\r\n", BAD_KEY),
        (b"X-Postroad-Key: two words\r\n\r\n", BAD_KEY),
        (b"X-Postroad-Key: \xc3\xa4\r\n\r\n", BAD_KEY),
        (b"X-Postroad-Key: " + b"k" * (KEY_MAX + 1) + b"\r\n\r\n", BAD_KEY),
        (b"X-Postroad-Key: k\r\n" + b"A: b\r\n" * 2001 + b"\r\n", LONG_HEADER),
    ],
)
def test_a_key_that_cannot_be_one_is_refused(header: bytes, reply: Reply) -> None:
    assert Submission("account 7").read(header, envelope()) == reply


def test_refusals_of_keys_have_documented_words() -> None:
    assert {BAD_KEY.why, LONG_HEADER.why, key_taken("0ACF4S8VJ5C05").why} <= set(WORDS)
