"""What signing costs: CPU time of both DKIM signatures of one 5 kB message, and of its parts.

    python bench/signing.py [--messages 2000] [--size 5000]

"both" is what a message that leaves pays once, whatever the number of its recipients; "not ours" is what other mail
pays to find that out. Medians of five rounds, in microseconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

from postroad.flow.sign import Signer
from postroad.store.dkim_records import DkimKey
from postroad.trust.dkim.canonical import BodyHash
from postroad.trust.dkim.keys import ALGORITHMS, SigningKey, make_key
from postroad.trust.dkim.sign import covered, signature_fields
from postroad.values.clock import SystemClock
from postroad.wire.mime.headers import HeaderIndex

ROUNDS = 5
FIELDS = (
    "From: Anna Example <anna@example.com>", "To: Bob <bob@example.net>, Carol <carol@example.net>",
    "Subject: The minutes of Monday's meeting, and what is still to be done", "Date: Fri, 27 Nov 2026 06:00:00 +0000",
    "Message-ID: <0adjx0000000a@example.com>", "MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8",
    "Content-Transfer-Encoding: 8bit", "User-Agent: Example 1.0", "In-Reply-To: <0adjx00000009@example.com>",
)  # fmt: skip
HEADER = "".join(f"{field}\r\n" for field in FIELDS).encode() + b"\r\n"
LINE = b"Some words of an ordinary text, as long as a line is in mail of people.\r\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--size", type=int, default=5000)
    options = parser.parse_args()
    body = (LINE * (options.size // len(LINE) + 1))[: options.size - len(HEADER)]
    for name, work in parts(body).items():
        print(f"{name:24} {measured(work, options.messages):8.1f}")


def parts(body: bytes) -> dict[str, Callable[[], Any]]:
    stored = [DkimKey(f"s{algorithm[0]}", algorithm, make_key(algorithm)) for algorithm in ALGORITHMS]
    rsa, ed25519 = (SigningKey.load(key.selector, key.algorithm, key.private) for key in stored)

    async def keys_of(author: str) -> tuple[str, list[DkimKey]]:
        return ("example.com", stored) if author == "example.com" else ("", [])

    async def read(body_file: str) -> AsyncIterator[bytes]:
        yield body

    signer = Signer(keys_of, SimpleNamespace(read=read), SystemClock())
    foreign = HEADER.replace(b"@example.com>\r\nTo", b"@other.test>\r\nTo")
    return {
        "both": lambda: now(signer.sign(HEADER, body)),
        "not ours": lambda: now(signer.sign(foreign, body)),
        "RSA-2048 alone": lambda: signature_fields(HeaderIndex(HEADER), b"", "example.com", [rsa], at_s=0),
        "Ed25519 alone": lambda: signature_fields(HeaderIndex(HEADER), b"", "example.com", [ed25519], at_s=0),
        "header, without keys": lambda: covered(HeaderIndex(HEADER)),
        "body": lambda: hashed(body),
        "bare RSA-2048": lambda: rsa.sign(HEADER),
        "bare Ed25519": lambda: ed25519.sign(HEADER),
    }


def hashed(body: bytes) -> bytes:
    hashing = BodyHash()
    hashing.update(body)
    return hashing.digest()


def now(work: Any) -> Any:
    """The result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")


def measured(work: Callable[[], Any], count: int) -> float:
    work()
    rounds = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(count):
            work()
        rounds.append((time.process_time() - begun) / count * 1e6)
    return statistics.median(rounds)


if __name__ == "__main__":
    main()
