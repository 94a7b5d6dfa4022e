"""A load of many SMTP sessions at once that writes every answer into a ledger, and the reader of the mailboxes."""

from __future__ import annotations

import asyncio
import imaplib
import time
from dataclasses import dataclass, field
from random import Random

from tests.fakes.ledger import Entry, Ledger, State

HURRY_S = 0.05
"""Pause of a session that met nobody at the door, or no space."""

SMALL, MIDDLE, LARGE = 2_000, 100_000, 300_000
"""Octets: in the database; in a file, written once; in a file, written while it is received."""


@dataclass
class Load:
    """Sessions that send until `stop`; while `hold` is set they finish what is open and begin nothing."""

    port: int
    ledger: Ledger
    remote: list[str]
    """Domains of the sinks."""
    local: list[str]
    """Addresses with mailboxes."""
    seed: int
    sessions: int = 20
    large: float = 0.06
    middle: float = 0.06
    to_mailbox: float = 0.25
    to_both: float = 0.12
    walk_away: float = 0.01
    """Odds that a session is cut in the middle of its content."""
    refusals: dict[str, int] = field(default_factory=dict)
    """How often each reply other than 2xx and 354 was met."""

    def __post_init__(self) -> None:
        self._rng = Random(self.seed)
        self._go = asyncio.Event()
        self._go.set()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to send."""
        self._tasks = [asyncio.ensure_future(self._session()) for _ in range(self.sessions)]

    def hold(self) -> None:
        """Begin no message until `go`."""
        self._go.clear()

    def go(self) -> None:
        """Send again."""
        self._go.set()

    async def stop(self) -> None:
        """Finish what is open, then end."""
        self._stopping = True
        self._go.set()
        _, late = await asyncio.wait(self._tasks, timeout=20)
        assert not late, f"{len(late)} sessions got no answer within 20 s"
        for task in self._tasks:
            task.result()

    async def acknowledged(self, more: int, patience: float = 30.0) -> None:
        """Wait until so many more messages were acknowledged."""
        target = self.ledger.acknowledged + more
        end = time.monotonic() + patience
        while self.ledger.acknowledged < target:
            assert time.monotonic() < end, (
                f"{target - self.ledger.acknowledged} of {more} acknowledgements missing after {patience:.0f} s; "
                f"refusals so far: {self.refusals}"
            )
            await asyncio.sleep(0.005)

    # -- one session -------------------------------------------------------------------------------------------------

    async def _session(self) -> None:
        while not self._stopping:
            await self._go.wait()
            try:
                async with asyncio.timeout(10):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except (OSError, TimeoutError):
                await asyncio.sleep(HURRY_S)
                continue
            try:
                await Talk(reader, writer, self).talk()
            except (OSError, EOFError):
                await asyncio.sleep(HURRY_S)
            finally:
                writer.close()

    def wants_more(self) -> bool:
        """Whether a session shall send another message on its connection."""
        return self._go.is_set() and not self._stopping and self._rng.random() > 0.05

    def compose(self) -> tuple[Entry, bytes]:
        """The next message."""
        rng = self._rng
        dice = rng.random()
        size = LARGE if dice < self.large else MIDDLE if dice < self.large + self.middle else SMALL
        dice = rng.random()
        recipients = []
        if dice < self.to_mailbox + self.to_both or not self.remote:
            recipients.append(rng.choice(self.local))
        if self.remote and not self.to_both <= dice < self.to_mailbox + self.to_both:
            recipients.append(f"r{rng.randrange(50)}@{rng.choice(self.remote)}")
        return self.ledger.compose(tuple(recipients), size, rng)

    def walks_away(self) -> bool:
        """Whether the session is cut in the middle of this message."""
        return self._rng.random() < self.walk_away


class Talk:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, load: Load) -> None:
        self.reader = reader
        self.writer = writer
        self.load = load

    async def talk(self) -> None:
        """Send messages until the load has had enough of this connection; raises OSError or EOFError when it ends."""
        await self.expect(220)
        self.writer.write(b"EHLO load.test\r\n")
        await self.expect(250)
        while True:
            if not await self.send(*self.load.compose()):
                await asyncio.sleep(HURRY_S)
                self.writer.write(b"RSET\r\n")
                await self.reply()
            if not self.load.wants_more():
                break
        self.writer.write(b"QUIT\r\n")
        await self.expect(221)

    async def send(self, entry: Entry, raw: bytes) -> bool:
        """One message; False when it was put off before its content."""
        names = "".join(f"RCPT TO:<{recipient}>\r\n" for recipient in entry.recipients)
        self.writer.write(f"MAIL FROM:<load@sender.test> SIZE={len(raw)}\r\n{names}".encode())
        codes = [(await self.reply())[0] for _ in range(1 + len(entry.recipients))]
        if codes != [250] * len(codes):
            entry.state = State.REFUSED
            return False
        self.writer.write(b"DATA\r\n")
        if (await self.reply())[0] != 354:
            entry.state = State.REFUSED
            return False
        stuffed = raw.replace(b"\r\n.", b"\r\n..")
        if self.load.walks_away():
            self.writer.write(stuffed[: len(stuffed) // 2])
            await self.writer.drain()
            raise EOFError
        self.writer.write(stuffed)
        await self.writer.drain()
        entry.state = State.UNSURE
        self.writer.write(b".\r\n")
        code, text = await self.reply()
        self.load.ledger.answered(entry, code, text)
        if code == 421:
            raise EOFError
        return code == 250

    async def expect(self, code: int) -> None:
        """Read a reply that must have this code; another one ends the connection."""
        if (await self.reply())[0] != code:
            raise EOFError

    async def reply(self) -> tuple[int, str]:
        """The next reply: its code and the text of its last line."""
        while (line := await self.reader.readline())[3:4] == b"-":
            pass
        if not line.endswith(b"\r\n"):
            raise EOFError
        code, text = int(line[:3]), line[4:].decode().rstrip()
        if code >= 400:
            key = f"{code} {text[:40]}"
            self.load.refusals[key] = self.load.refusals.get(key, 0) + 1
        return code, text


async def read_mailbox(port: int, user: str, password: str, ledger: Ledger) -> int:
    """Write every message of a mailbox into the ledger, by POP3; returns how many there are."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)

    async def line() -> bytes:
        got = await reader.readline()
        assert got.endswith(b"\r\n"), "POP3 ended early"
        return got

    async def ok() -> bytes:
        got = await line()
        assert got.startswith(b"+OK"), got
        return got

    await ok()
    writer.write(f"USER {user}\r\nPASS {password}\r\nSTAT\r\n".encode())
    await ok()
    await ok()
    count = int((await ok()).split()[1])
    for number in range(1, count + 1):
        writer.write(b"RETR %d\r\n" % number)
        await ok()
        content = await reader.readuntil(b"\r\n.\r\n") if number else b""
        ledger.arrived(user, content[:-3].replace(b"\r\n..", b"\r\n."))
    writer.write(b"QUIT\r\n")
    await ok()
    writer.close()
    return count


def count_by_imap(port: int, user: str, password: str) -> int:
    """Messages of INBOX, the last of them fetched whole: what a person sees while nothing can be written."""
    with imaplib.IMAP4("127.0.0.1", port, timeout=20) as client:
        client.login(user, password)
        status, (count,) = client.select(readonly=True)
        assert status == "OK"
        assert count is not None
        status, fetched = client.fetch(count.decode(), "(BODY.PEEK[])")
        assert status == "OK"
        assert b"Message-ID: <" in fetched[0][1]  # type: ignore[index, operator]
        return int(count)
