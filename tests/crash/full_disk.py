"""A disk that fills up: `python -m tests.crash.full_disk FOLDER`, as root in a mount namespace of its own.

The data folder is a small tmpfs. It is filled beneath the reserve, then to the last octet while messages are on their
way, then its space comes back; and once more with inodes. The server runs through all of it. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from tests.crash.load import LARGE, SMALL, Load, Talk, count_by_imap, read_mailbox
from tests.crash.power_cut import run
from tests.crash.scene import PASSWORD, USERS, Scene, open_scene
from tests.fakes.ledger import Ledger, State

SIZE_MB = 320
"""The reserve is 200 MB and twice the largest message."""
INODES = 2000
RESERVE_LEFT_MB = 150
INLINE, INLINE_COUNT = 60_000, 400
"""Messages that stay in the database, and so many that they do not fit into what its log has already grown to."""


class Ballast:
    """What fills the disk."""

    def __init__(self, where: Path) -> None:
        self._file = where / "ballast"
        self._where = where

    def fill_to(self, left: int) -> None:
        """Take all but `left` octets."""
        free = os.statvfs(self._where)
        with open(self._file, "ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), max(1, free.f_bavail * free.f_frsize - left))

    def fill_up(self) -> None:
        """Take every block there is."""
        with suppress(OSError), open(self._file, "ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def empty(self) -> None:
        """Give it all back."""
        self._file.unlink()

    def take_inodes(self) -> int:
        """Make files until no more can be made; returns how many."""
        folder = self._where / "ballast-inodes"
        folder.mkdir()
        for number in range(INODES * 2):
            try:
                (folder / str(number)).touch()
            except OSError:
                return number
        raise AssertionError("there is no end of inodes")

    def give_inodes(self) -> None:
        """Remove those files."""
        folder = self._where / "ballast-inodes"
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


class OpenContents:
    """Sessions in the middle of a content while the disk fills up."""

    def __init__(self, scene: Scene) -> None:
        self._load = Load(scene.server.ports["mx"], scene.ledger, [], USERS, 1, walk_away=0)
        self._ledger = scene.ledger
        self._talks: list[tuple[Talk, Any, bytes]] = []

    async def begin(self, count: int, size: int) -> None:
        """Send half of so many messages."""
        for _ in range(count):
            entry, raw = self._ledger.compose((USERS[0],), size, Random(size))
            reader, writer = await asyncio.open_connection("127.0.0.1", self._load.port)
            talk = Talk(reader, writer, self._load)
            await talk.expect(220)
            for line, code in (
                ("EHLO load.test", 250), ("MAIL FROM:<load@sender.test>", 250), (f"RCPT TO:<{USERS[0]}>", 250),
                ("DATA", 354),
            ):  # fmt: skip
                writer.write(f"{line}\r\n".encode())
                await talk.expect(code)
            raw = raw.replace(b"\r\n.", b"\r\n..")
            writer.write(raw[: len(raw) // 2])
            self._talks.append((talk, entry, raw[len(raw) // 2 :]))

    async def finish(self) -> Counter[int]:
        """Send the other halves; returns the codes of the answers."""
        codes: Counter[int] = Counter()
        for talk, entry, rest in self._talks:
            entry.state = State.UNSURE
            talk.writer.write(rest + b".\r\n")
            code, text = await talk.reply()
            self._ledger.answered(entry, code, text)
            codes[code] += 1
            talk.writer.close()
        self._talks = []
        return codes


async def perform(folder: Path, seed: int) -> dict[str, Any]:
    """The whole story; what each step saw, and the set check."""
    mounted_at = folder / "server" / "data"
    mounted_at.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,nr_inodes={INODES}", "data", mounted_at)
    story: dict[str, Any] = {}
    async with open_scene(folder / "server", seed, sessions=5) as scene:
        ballast = Ballast(mounted_at)
        pids = scene.server.pids()
        await scene.load.acknowledged(100)
        await fill(scene, ballast, story)
        scene.load.go()
        await scene.load.acknowledged(100)
        story["flows_again"] = True
        await without_inodes(scene, ballast, story)
        story["never_restarted"] = scene.server.pids() == pids
        await scene.must_be_sound()
        verdict = await scene.settle()
        story |= {"clean": verdict.clean, "words": str(verdict), "acknowledged": verdict.acknowledged}
    run("umount", mounted_at)
    return story


async def fill(scene: Scene, ballast: Ballast, story: dict[str, Any]) -> None:
    """First beneath the reserve, then to the last octet."""
    contents = OpenContents(scene)
    await contents.begin(INLINE_COUNT, INLINE)
    await contents.begin(6, LARGE)
    ballast.fill_to(RESERVE_LEFT_MB * 1_000_000)
    before = dict(scene.load.refusals)
    await asyncio.sleep(1.5)  # the answer about free space may be a second old
    taken = scene.ledger.acknowledged
    await asyncio.sleep(0.5)
    story["taken_beneath_the_reserve"] = scene.ledger.acknowledged - taken
    story["early"] = sorted(set(scene.load.refusals) - set(before))
    scene.load.hold()
    story["pop3_reads_beneath_the_reserve"] = await pop3_works(scene)
    before_full = await pop3_login(scene)
    ballast.fill_up()
    story["when_full"] = await contents.finish()
    story["imap_reads_when_full"] = await asyncio.to_thread(read_one, scene)
    story["pop3_reads_when_full"] = await before_full("TOP 1 0")
    before_full.close()
    ballast.empty()
    await asyncio.sleep(1.2)
    story["pop3_reads_with_space"] = await pop3_works(scene)


async def without_inodes(scene: Scene, ballast: Ballast, story: dict[str, Any]) -> None:
    """Mail that needs a file is put off; what fits into the database is not."""
    scene.load.hold()
    await asyncio.sleep(0.3)
    ballast.take_inodes()
    contents = OpenContents(scene)
    await contents.begin(3, LARGE)
    story["large_without_inodes"] = await contents.finish()
    await contents.begin(3, SMALL)
    story["small_without_inodes"] = await contents.finish()
    story["imap_reads_without_inodes"] = await asyncio.to_thread(read_one, scene)
    ballast.give_inodes()
    await contents.begin(3, LARGE)
    story["large_with_inodes"] = await contents.finish()
    scene.load.go()
    await scene.load.acknowledged(100)


def read_one(scene: Scene) -> bool:
    """Whether a person can look at the mailbox."""
    return count_by_imap(scene.server.ports["imap"], USERS[0], PASSWORD) > 0


async def pop3_works(scene: Scene) -> bool:
    """The same by POP3."""
    return await read_mailbox(scene.server.ports["pop3"], USERS[0], PASSWORD, Ledger()) > 0


class Pop3:
    """A POP3 session that was opened while there was room."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def __call__(self, command: str) -> bool:
        """Whether a command is answered with +OK."""
        self._writer.write(f"{command}\r\n".encode())
        return (await self._reader.readline()).startswith(b"+OK")

    def close(self) -> None:
        """Hang up; the server gives the lock back when it can."""
        self._writer.close()


async def pop3_login(scene: Scene) -> Pop3:
    """A session with its lock on the maildrop."""
    reader, writer = await asyncio.open_connection("127.0.0.1", scene.server.ports["pop3"])
    assert (await reader.readline()).startswith(b"+OK")
    session = Pop3(reader, writer)
    for command in (f"USER {USERS[0]}", f"PASS {PASSWORD}"):
        assert await session(command)
    return session


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(asyncio.run(perform(options.folder, options.seed))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
