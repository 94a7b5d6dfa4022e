"""Random messages with what an SMTP server lets through: dkimpy and OpenDKIM believe both signatures of each.

Header fields have no vertical tabs and form feeds: both oracles take them for blanks, which RFC 6376 section 2.8 does
not (WSP), so they call a field that has one changed. Bodies do have them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.trust.dkim.test_sign import dkimpy_says, opendkim, signed

NAMES = (
    "To", "Cc", "Subject", "Date", "Message-ID", "Reply-To", "Sender", "References", "Content-Type", "MIME-Version",
    "List-Id", "List-Unsubscribe", "X-Other", "Received", "DKIM-Signature", "Feedback-ID", "Content-Transfer-Encoding",
)  # fmt: skip
PIECES = (
    b" ", b"  ", b"\t", b"\r\n ", b"\r\n\t", b"\r\n  \t", b"word", b"a@example.net", b"<", b">", b'"', b"\\", b":",
    b";", b"=", b"b=", b"=?utf-8?q?x?=", b"(", b")", b",", "ü".encode(), b"\xff", b"\x01", b"\x7f", b"\x85", b"x" * 200,
)  # fmt: skip
BODY = (b" ", b"\t", b"\r\n", b"\r\n\r\n", b"word", b".", b"  ", b"\xff", b"\x0c", b"\x01", b"-- \r\n", b"From ")


def spelt(rng: random.Random, name: str) -> bytes:
    """A name in some case."""
    return rng.choice([name, name, name.lower(), name.upper(), name.swapcase()]).encode()


def field(rng: random.Random, name: str) -> bytes:
    """A field with a value of anything that may stand in one; its last line is not of blanks alone."""
    value = b"".join(rng.choice(PIECES) for _ in range(rng.randrange(9)))
    return spelt(rng, name) + b":" + value + rng.choice([b"", b" ", b"z", b"z \t"]) + b"\r\n"


def random_message(rng: random.Random, names: Sequence[str] = NAMES) -> tuple[bytes, bytes]:
    """The fields and the body."""
    names = [rng.choice(names) for _ in range(rng.randrange(12))]
    fields = [field(rng, name) for name in names]
    author = spelt(rng, "From") + b": " + rng.choice([b"", b"\r\n "]) + b"Anna <anna@example.com>\r\n"
    fields.insert(rng.randrange(len(fields) + 1), author)
    body = b"".join(rng.choice(BODY) for _ in range(rng.randrange(30)))
    return b"".join(fields), body + b"\r\n"  # what travels by DATA ends a line


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("seed", range(4))
def test_dkimpy_verifies_random_messages(seed: int) -> None:
    rng = random.Random(seed)
    for number in range(60):
        octets = signed(*random_message(rng))
        verdicts = [dkimpy_says(octets, at) for at in (0, 1)]
        assert verdicts == [True, True], f"seed {seed}, message {number}: {octets!r}"


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.needs_program("opendkim")
def test_opendkim_verifies_random_messages(tmp_path: Path) -> None:
    rng = random.Random(6376)
    # Its test mode gives up a message with a signature that is none.
    names = [name for name in NAMES if name != "DKIM-Signature"]
    files = []
    for number in range(100):
        files.append(tmp_path / f"{number}.eml")
        files[-1].write_bytes(signed(*random_message(rng, names)))
    said = opendkim(tmp_path, *files).split("### INSHEADER")[1:]
    verdicts = [re.findall(r"dkim=(\w+)", text)[-2:] for text in said]
    wrong = [number for number, verdict in enumerate(verdicts) if verdict != ["pass", "pass"]]
    assert (len(said), wrong) == (100, [])
