"""The maildrop: a folder where programs of this machine leave mail while the server is down.

A file is written whole under another name, synced, and renamed to `*.mail`; its owner is the user who sends. Its first
line is a slip (JSON, `Slip`), the rest is the message in wire form. A worker takes the files up one after another:

    NAME.mail -> NAME.mail.ID (renamed, folder synced) -> message ID accepted -> file removed

so a worker that dies anywhere on this way leaves a file that tells which message it may have become, and whoever finds
it asks the journal whether that message exists. Each file becomes one message, whatever is killed; only a file that
comes back after the journal has forgotten its message (a backup put back, months later) would be sent again.

What can never be sent is set aside as `NAME.mail.refused`, with a line in the log: nothing is thrown away.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import re
import stat
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from postroad.flow.destinations import Destinations, Wish
from postroad.flow.intake import Arrival, Draft, Intake, Taken
from postroad.flow.local import INBOX, Planner
from postroad.flow.local_users import LocalUser, SenderRules, local_user
from postroad.flow.submission import local_submission
from postroad.values.address import Address, AddressError
from postroad.values.envelope import Envelope, Recipient
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.ids import IdMaker, id_text, parse_id
from postroad.values.ports import Clock
from postroad.wire.mime.headers import HeaderTooLarge
from postroad.wire.mime.submitted import Author, completed, is_wire_form, qualified, without_bcc

log = logging.getLogger(__name__)

ROUND_S: Final = 3.0
"""How often the folder is looked at; an empty one costs a few microseconds."""
PAUSE_S: Final = 30.0
"""After a failure that passes by itself: a full disk does not empty in seconds."""
SLIP_OCTETS: Final = 1024 * 1024
"""Octets of the first line: 1,000 recipients of the longest kind take a quarter of it."""
UNFINISHED_S: Final = 86_400.0
"""A file still being written after a day was never finished, and nobody was told that it had been taken."""
PIECE: Final = 256 * 1024

FOLDER_MODE: Final = 0o3733
"""Everybody may add files and see none; sticky, so that nobody removes another's; setgid, so that files belong to the
group of the service, which may read them."""

READY: Final = re.compile(r"[0-9A-Za-z-]{1,100}\.mail(?:\.([0-9A-Z]{13}))?")
UNFINISHED: Final = "tmp."
ASIDE: Final = ".refused"

_NOBODY: Final = 0
"""An account that does not exist: a copy for it waits as a failed local delivery, from which a report is made."""


class Slip(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The first line of a file: the envelope as far as the program knew it, without domains behind local names."""

    recipients: list[str]
    sender: str | None = None
    """None is the user's own address, "" the null sender."""
    full_name: str = ""
    notify: str = ""
    ret: str = ""
    envid: str = ""
    """In xtext."""
    smtputf8: bool = False
    gateway: bool = False
    """The header stays as it is."""


class Found(NamedTuple):
    """A file that was read: whose it is, and what it holds."""

    user: LocalUser
    slip: Slip
    header: bytes
    """Without the blank line, complete."""
    body: bytes
    sender: Address | None


class Unfit(Exception):
    """A file that can never be sent; the text says why."""


class Drafts(Protocol):
    """The part of `store.spool.Spool` that is needed here: drafts, and threads for what waits for the disk."""

    def draft(self) -> Any: ...
    def start(self, work: Callable[[], Any]) -> Future[Any]: ...


class Maildrop:
    """Takes up one folder; exactly one worker of a machine has one.

    `known(ident)` says whether the journal knows a message; it may wait for the disk. `working` is entered around
    what must not be cut off.
    """

    def __init__(
        self,
        folder: Path,
        *,
        intake: Intake,
        planner: Planner,
        spool: Drafts,
        rules: SenderRules,
        ids: IdMaker,
        clock: Clock,
        known: Callable[[int], bool],
        working: Callable[[], AbstractContextManager[object]],
        message_size: int,
    ) -> None:
        self._folder = folder
        self._intake = intake
        self._planner = planner
        self._spool = spool
        self._rules = rules
        self._ids = ids
        self._clock = clock
        self._known = known
        self._working = working
        self._message_size = message_size
        self._lock = -1
        self._later: dict[str, float] = {}
        """Files that failed for a time, with the monotonic time of their next try."""
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._troubled = ""

    def start(self) -> None:
        """Begin to look, now and then every `ROUND_S`."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End after the file at hand."""
        self._ending.set()
        task, self._task = self._task, None
        if task is not None:
            await task
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def _run(self) -> None:
        while not self._ending.is_set():
            pause = ROUND_S
            try:
                await self.look()
            except OSError as error:
                self._complain(f"the maildrop {self._folder} cannot be used: {error.strerror or error}")
            except Exception:
                log.exception("the maildrop %s is looked at again in %s s", self._folder, PAUSE_S)
                pause = PAUSE_S
            try:
                await asyncio.wait_for(self._ending.wait(), pause)
            except TimeoutError:
                continue

    def _complain(self, text: str) -> None:
        """Says what is wrong once, not every three seconds."""
        if text != self._troubled:
            log.error("%s", text)
        self._troubled = text

    # -- one round ---------------------------------------------------------------------------------------------------

    async def look(self) -> int:
        """Take up everything that is ready now; returns how many files became messages. Raises OSError."""
        if self._lock < 0 and not await self._in_thread(self._take_lock):
            return 0
        taken = 0
        for name in await self._in_thread(self._ready):
            if self._ending.is_set():
                break
            if self._later.get(_stem(name), 0.0) <= self._clock.monotonic():
                taken += await self._take_up(name)
        if not self._later:
            self._troubled = ""
        return taken

    def _take_lock(self) -> bool:
        """Two servers on one folder would each send everything."""
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
                raise
            self._complain(f"another server takes up the maildrop {self._folder}")
            return False
        self._lock = descriptor
        return True

    def _ready(self) -> list[str]:
        """Names of files to take up, the oldest first as far as their names tell."""
        names = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if READY.fullmatch(entry.name):
                    names.append(entry.name)
                elif entry.name.startswith(UNFINISHED):
                    self._sweep(entry)
        there = {_stem(name) for name in names}
        self._later = {stem: at for stem, at in self._later.items() if stem in there}
        return sorted(names)

    def _sweep(self, entry: os.DirEntry[str]) -> None:
        try:
            age = self._clock.wall_us() / 1e6 - entry.stat(follow_symlinks=False).st_mtime
            if age > UNFINISHED_S:
                os.unlink(entry.path)
        except OSError:
            return

    async def _take_up(self, name: str) -> int:
        """One file to its end, or to a later time; returns 1 when it became a message."""
        with self._working():
            marked = READY.fullmatch(name)
            ident = parse_id(marked[1]) if marked and marked[1] else None
            if ident is not None and await self._in_thread(lambda: self._known(ident)):
                log.warning("maildrop: %s is message %s already, from before a crash", name, id_text(ident))
                await self._in_thread(lambda: self._remove(name))
                return 0
            try:
                found = await self._in_thread(lambda: self._read(name))
                return await self._submit(name, found)
            except Unfit as unfit:
                why = str(unfit)
                await self._in_thread(lambda: self._set_aside(name, why))
            except FileNotFoundError:
                pass
            except (OSError, StoreFull, StoreBroken) as error:
                self._postpone(name, str(error))
            return 0

    def _postpone(self, name: str, why: str) -> None:
        self._later[_stem(name)] = self._clock.monotonic() + PAUSE_S
        self._complain(f"maildrop: {name} must wait: {why}")

    async def _submit(self, name: str, found: Found) -> int:
        """Make a message of it; returns 1, or 0 when it was set aside. Raises StoreFull when it must wait."""
        envelope, destinations = await self._plan(found)
        submission = local_submission(found.user.uid)
        header = found.header + b"\r\n"
        submission.update(header)
        submission.update(found.body)
        denial = submission.read(header, envelope)
        if denial is not None:
            raise Unfit(str(denial))
        ident = self._ids.make(self._clock.wall_us())
        marked = f"{_stem(name)}.mail.{id_text(ident)}"
        await self._in_thread(lambda: self._mark(name, marked))
        draft = await self._draft(submission.header, found.body)
        arrival = Arrival(
            "LOCAL", "maildrop", user=str(found.user), login=self._rules.own_address(found.user), ours=True
        )
        eightbit = not found.body.isascii()
        try:
            result = await self._intake.accept(
                draft, envelope, destinations, arrival, eightbit=eightbit, ident=ident, submission=submission
            )
        except StoreFull:
            draft.discard()
            raise
        if isinstance(result, Taken):
            await self._in_thread(lambda: self._remove(marked))
            return 1
        if not result.permanent:
            raise StoreFull(str(result))
        why = str(result)
        await self._in_thread(lambda: self._set_aside(marked, why))
        return 0

    async def _draft(self, header: bytes, body: bytes) -> Draft:
        draft = self._spool.draft()
        draft.write(header)
        for at in range(0, len(body), PIECE):
            draft.write(body[at : at + PIECE])
            if draft.needs_flush:
                await draft.flush_to_disk()
        sized: Draft = draft
        return sized

    async def _plan(self, found: Found) -> tuple[Envelope, Destinations]:
        """Where it goes. Whoever sent it is gone, so a recipient who is refused becomes a report to the sender."""
        slip = found.slip
        envelope = Envelope(found.sender, ret=slip.ret, envid=slip.envid, smtputf8=slip.smtputf8)
        destinations = Destinations()
        for text in dict.fromkeys(slip.recipients):
            spelled = qualified(text, self._rules.hostname)
            try:
                address = Address.parse(spelled, utf8=True)
            except AddressError as error:
                _report_back(destinations, spelled, error.reason, slip.notify)
                continue
            plan = await self._planner.plan_ours(address)
            if plan.refusal is not None and not plan.refusal.permanent:
                raise StoreFull(str(plan.refusal))
            recipient = Recipient(address, slip.notify)
            envelope.recipients.append(recipient)
            envelope.smtputf8 = envelope.smtputf8 or address.needs_utf8
            if plan.refusal is not None:
                _report_back(destinations, str(address), str(plan.refusal), slip.notify)
            else:
                destinations.add(recipient, plan)
        return envelope, destinations

    # -- in a thread, because each waits for the disk ----------------------------------------------------------------

    def _in_thread(self, work: Callable[[], Any]) -> Awaitable[Any]:
        return asyncio.wrap_future(self._spool.start(work))

    def _read(self, name: str) -> Found:
        """The file, checked: raises Unfit when it cannot be mail and OSError when it cannot be read."""
        # O_NONBLOCK: a pipe put there must not hold us up.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self._folder / name, flags)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise Unfit("it is no regular file") from error
            raise
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            # A second name would be somebody else's file, put here to be sent in his name.
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise Unfit("it is no regular file of its own")
            if status.st_size > self._message_size + SLIP_OCTETS:
                raise Unfit(f"it has {status.st_size} octets; the limit is {self._message_size}")
            line = file.readline(SLIP_OCTETS)
            message = file.read(self._message_size + 1)
        return self._examined(local_user(status.st_uid), line, message)

    def _examined(self, user: LocalUser, line: bytes, message: bytes) -> Found:
        try:
            slip = msgspec.json.decode(line, type=Slip)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unfit(f"its first line is no slip ({error})") from error
        words = (slip.sender or "", slip.full_name, slip.notify, slip.ret, slip.envid, *slip.recipients)
        if not slip.recipients or not all(word.isprintable() for word in words):
            raise Unfit("its slip names no recipient, or holds a control character")
        if not is_wire_form(message) or len(message) > self._message_size:
            raise Unfit("its message is too large, or holds NUL, a bare CR or a bare LF")
        own = self._rules.own_address(user)
        sender = own if slip.sender is None else qualified(slip.sender, self._rules.hostname) if slip.sender else ""
        try:
            address = Address.parse(sender, utf8=True) if sender else None
        except AddressError as error:
            raise Unfit(f"its sender {sender} is no address ({error.reason})") from error
        if address is not None and not self._rules.allows(user, address):
            raise Unfit(str(self._rules.refusal(user, address)))
        header, body = _halves(message)
        if not slip.gateway:
            header = self._complete(header, Author(sender or own, slip.full_name))
        return Found(user, slip, header, body, address)

    def _complete(self, header: bytes, author: Author) -> bytes:
        now_us = self._clock.wall_us()
        host = self._rules.hostname
        try:
            return completed(
                without_bcc(header),
                author=author,
                host=host,
                date=formatdate(now_us / 1e6, localtime=True),
                ident=f"{now_us:x}.{os.urandom(6).hex()}@{host}",
            )
        except HeaderTooLarge:
            raise Unfit("its header is larger than 256 kB or 2,000 lines") from None

    def _mark(self, name: str, marked: str) -> None:
        os.rename(self._folder / name, self._folder / marked)
        os.fsync(self._lock)

    def _remove(self, name: str) -> None:
        os.unlink(self._folder / name)

    def _set_aside(self, name: str, why: str) -> None:
        """Out of the way, but not away."""
        aside = f"{_stem(name)}.mail{ASIDE}"
        os.rename(self._folder / name, self._folder / aside)
        log.error("maildrop: %s cannot be sent and stays as %s: %s", name, self._folder / aside, why)


def _stem(name: str) -> str:
    """The name of a file without its ending and mark."""
    return name.partition(".")[0]


def _halves(message: bytes) -> tuple[bytes, bytes]:
    """Header without its blank line, and body."""
    if message.startswith(b"\r\n"):
        return b"", message[2:]
    at = message.find(b"\r\n\r\n")
    return (message[: at + 2], message[at + 4 :]) if at >= 0 else (message, b"")


def _report_back(destinations: Destinations, recipient: str, why: str, notify: str) -> None:
    destinations.expansions.append((recipient, f"refused: {why}"))
    if notify:
        destinations.wishes[len(destinations.copies)] = [Wish(recipient, notify, "")]
    destinations.copies.append((recipient, _NOBODY, INBOX))


def prepare_folder(folder: Path, owner: tuple[int, int] | None) -> str:
    """Makes the folder where it is missing, for the account `owner` (uid, gid); returns what is wrong with it, or "".

    A folder that is there keeps its rights: whoever made it may want fewer users to send.
    """
    try:
        if not folder.exists():
            folder.mkdir(mode=0o755, parents=True)
            if owner is not None:
                os.chown(folder, *owner)
            folder.chmod(FOLDER_MODE)
        mode = folder.stat().st_mode
    except OSError as error:
        return f"{folder} cannot be made: {error.strerror}"
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return f"everybody may remove the mail of others from {folder}: chmod +t {folder}"
    return ""
