"""Submits messages over implicit TLS with AUTH PLAIN, and prints as JSON how many were accepted and how long it took.

python bench/submit_load.py --port 465 --messages 3000 --sessions 20 --user a@bench.test --password secret
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import ssl
import time

import uvloop

PER_CONNECTION = 10
SIZE = 5000


def tls() -> ssl.SSLContext:
    """A client that asks for no name and resumes no session."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def message(number: int, sender: str) -> bytes:
    """A message of about `SIZE` octets; the sink counts by its Message-ID."""
    ident = f"{number}.{os.getpid():x}.{time.time_ns() & 0xFFFFFFFF:x}"
    head = (
        f"From: <{sender}>\r\nTo: <b@dest.test>\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\nSubject: {number}\r\n"
        f"Message-Id: <{ident}@load.test>\r\n\r\n"
    ).encode()
    return head + (b"X" * 78 + b"\r\n") * ((SIZE - len(head)) // 80)


async def reply(reader: asyncio.StreamReader, wanted: bytes) -> None:
    """Reads one reply; raises RuntimeError for another code."""
    while True:
        line = await reader.readline()
        if line[3:4] != b"-":
            break
    if not line.startswith(wanted):
        raise RuntimeError(f"wanted {wanted.decode()}, got {line!r}")


async def session(options: argparse.Namespace, numbers: list[int], context: ssl.SSLContext) -> int:
    """One connection with up to `PER_CONNECTION` messages; returns how many were accepted."""
    reader, writer = await asyncio.open_connection("127.0.0.1", options.port, ssl=context)
    await reply(reader, b"220")
    writer.write(b"EHLO load.test\r\n")
    await reply(reader, b"250")
    token = base64.b64encode(f"\0{options.user}\0{options.password}".encode())
    writer.write(b"AUTH PLAIN " + token + b"\r\n")
    await reply(reader, b"235")
    accepted = 0
    for number in numbers:
        writer.write(f"MAIL FROM:<{options.user}>\r\nRCPT TO:<b@dest.test>\r\nDATA\r\n".encode())
        for wanted in (b"250", b"250", b"354"):
            await reply(reader, wanted)
        writer.write(message(number, options.user) + b".\r\n")
        await reply(reader, b"250")
        accepted += 1
    writer.write(b"QUIT\r\n")
    await reply(reader, b"221")
    writer.close()
    return accepted


async def run(options: argparse.Namespace) -> dict[str, object]:
    """All sessions, `options.sessions` at a time."""
    groups = [
        list(range(start, min(start + PER_CONNECTION, options.messages)))
        for start in range(0, options.messages, PER_CONNECTION)
    ]
    accepted, errors, context = 0, [], tls()
    began = time.monotonic()

    async def work() -> None:
        nonlocal accepted
        while groups:
            numbers = groups.pop()
            try:
                taken = await session(options, numbers, context)
                accepted += taken
            except (OSError, RuntimeError) as error:
                errors.append(str(error))

    await asyncio.gather(*(work() for _ in range(options.sessions)))
    return {"accepted": accepted, "errors": errors[:5], "seconds": time.monotonic() - began}


async def greeting(port: int) -> None:
    """Returns when a server greets over TLS; raises OSError or RuntimeError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls())
    await reply(reader, b"220")
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Submission load.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--user", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("--greeting", action="store_true", help="only wait for a greeting")
    options = parser.parse_args()
    if options.greeting:
        uvloop.run(greeting(options.port))
    else:
        print(json.dumps(uvloop.run(run(options))))


if __name__ == "__main__":
    main()
