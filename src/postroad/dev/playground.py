"""The playground as a whole: private DNS, two other organisations, our server, the show, and an orderly end.

Everything but our own server lives in this process, on one event loop; the show blocks and has a thread. Our server is
a child that cannot outlive us (`dev.server`), and so are, by their own pipes, the processes that it starts.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from postroad.dev import words
from postroad.dev.clients import User
from postroad.dev.dns import DnsServer
from postroad.dev.journeys import JOURNEYS, PATIENCE_S, Journey, Stage
from postroad.dev.layout import (
    ADDRESSES,
    CONFIG_HEAD,
    DOMAIN,
    FRIENDS,
    GRUMPY,
    HERE,
    PASSWORD,
    USERS,
    Layout,
    Ports,
    zones,
)
from postroad.dev.layout import certificate_names as names_of
from postroad.dev.organisation import FirstSayLater, Organisation, welcoming, write_back
from postroad.dev.ports import explain, free_offset, has_ipv6, obstacles
from postroad.dev.screen import Screen, ScreenGone
from postroad.dev.server import NotStarted, Said, Server
from postroad.dev.show import Ending, Show, summary
from postroad.dev.threads import in_thread
from postroad.net.tls import ServerTls, make_authority, write_private
from postroad.serve import logtext
from postroad.serve.passwords import hash_password
from postroad.store.access import open_store
from postroad.store.account_records import ADDRESS_IN_USE, DOMAIN_EXISTS, WORDS, Changed, DomainAdd, UserAdd
from postroad.store.accounts import domain_add, user_add
from postroad.store.stories import Stories
from postroad.values.event import Event
from postroad.values.ids import parse_id

SHOW_S: Final = 60.0
"""All journeys together; they take about five seconds, and each step has its own patience."""
CERTIFICATES_S: Final = 300 * 86_400.0
"""Certificates of a kept playground are made again after this; they are valid for 397 days."""

FINE: Final = 0
WENT_WRONG: Final = 1
CANNOT_START: Final = 69
"""EX_UNAVAILABLE of sysexits(3), as `postroad serve`."""
INTERRUPTED: Final = 130
"""What shells expect of a program that Ctrl-C ended before it was done."""

T = TypeVar("T")


class CannotStart(Exception):
    """The playground cannot start; each argument is one line for the person who tried."""


class Ended(Exception):
    """Something ended the wait: a signal, the server's death, or nobody who watches."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line asks for."""

    once: bool = False
    keep: Path | None = None
    offset: int = 0


@dataclass(slots=True)
class Cast:
    """Who plays: the other organisations and the programme. Tests put in others."""

    friends: Organisation = field(
        default_factory=lambda: Organisation(FRIENDS, ADDRESSES[FRIENDS], welcoming, react=write_back)
    )
    grumpy: Organisation = field(default_factory=lambda: Organisation(GRUMPY, ADDRESSES[GRUMPY], FirstSayLater()))
    journeys: Sequence[Journey] = JOURNEYS
    patience: float = PATIENCE_S
    """Seconds that one step of a journey waits for what it looks for."""


class Journal:
    """The journal of a running server, for the show."""

    def __init__(self, data_dir: Path) -> None:
        self._stories = Stories(data_dir)

    def events(self, ident: str) -> list[Event]:
        """All events of a queue id or reference so far; raises StoreBroken when it cannot be read."""
        number = parse_id(ident)
        story = self._stories.story(number) if number is not None else None
        return story.events if story is not None else []


class Playground:
    """One run; `run` returns the exit status."""

    def __init__(self, wishes: Wishes, screen: Screen, cast: Cast | None = None) -> None:
        self._wishes = wishes
        self._screen = screen
        self._cast = cast or Cast()
        self._stopping = asyncio.Event()
        self._live = False
        self._welcomed = False
        self._kept = wishes.keep is not None
        self._begun = time.monotonic()

    async def run(self) -> int:
        """Starts everything, shows the journeys, serves until somebody ends it; raises CannotStart."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup(1)
                loop.add_signal_handler(number, self._stopping.set)
        layout = self._prepare()
        server = Server(layout, remove=self._wishes.keep is None, hear=self._hear)
        dns = DnsServer(zones())
        try:
            words.starting(self._screen)
            return await self._play(layout, server, dns)
        except ScreenGone:
            return WENT_WRONG
        finally:
            self._live = False
            await self._end(layout, server, dns)

    # -- before anything runs ------------------------------------------------------------------------------------------

    def _prepare(self) -> Layout:
        """Chooses ports and folder, and writes certificates and configuration; raises CannotStart."""
        ports = Ports().moved(self._wishes.offset)
        wanted = Layout(Path("/"), ports, has_ipv6())
        found = obstacles(wanted)
        if found:
            raise CannotStart(*explain(found, free_offset(wanted, Ports())))
        try:
            root = self._folder()
            layout = Layout(root, ports, wanted.ipv6)
            layout.config_file.write_text(layout.config_text(), encoding="utf-8")  # first: it marks the folder as ours
            make_certificates(layout)
        except OSError as error:
            raise CannotStart(f"{error.filename or 'The folder'} cannot be used: {error.strerror}.") from error
        return layout

    def _folder(self) -> Path:
        if self._wishes.keep is None:
            return Path(tempfile.mkdtemp(prefix="postroad-dev-"))
        root = self._wishes.keep.absolute()
        require_own(root)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return root

    # -- the run -------------------------------------------------------------------------------------------------------

    async def _play(self, layout: Layout, server: Server, dns: DnsServer) -> int:
        try:
            await server.start()
            await self._open(layout, dns)
            await self._until(server, server.ready())
            await self._until(server, in_thread(make_accounts, layout.data_dir))
            self._welcomed = True
            words.welcome(self._screen, layout, time.monotonic() - self._begun)
            endings = await self._perform(layout, server, dns)
            if self._wishes.once:
                return FINE if all(ending.well for ending in endings) else WENT_WRONG
            words.connect(self._screen, layout, command_name(), kept=self._kept)
            self._live = True
            await self._until(server, self._stopping.wait())
        except NotStarted as error:
            raise CannotStart("Our server did not start. It said last:", *str(error).splitlines()) from None
        except Ended:
            return self._ended_early(server)
        return FINE

    def _ended_early(self, server: Server) -> int:
        if server.ended.is_set() and not self._stopping.is_set():
            self._screen.line()
            self._screen.line("Our server has ended by itself. It said last:", "bad")
            for line in server.last_words().splitlines():
                self._screen.line(f"   {line}")
            return WENT_WRONG
        return INTERRUPTED if self._wishes.once else FINE

    async def _open(self, layout: Layout, dns: DnsServer) -> None:
        """Starts DNS and the other organisations; raises CannotStart."""
        try:
            await dns.start(HERE, layout.ports.dns)
            for organisation in (self._cast.friends, self._cast.grumpy):
                organisation.nameserver_port = layout.ports.dns
                organisation.world_port = layout.ports.smtp
                organisation.ca_file = str(layout.ca_file)
                await organisation.start(layout.ports.world)
        except OSError as error:
            raise CannotStart(f"The playground cannot listen: {error.strerror or error}") from error
        tls = ServerTls(layout.certificate(FRIENDS), layout.key(FRIENDS))
        self._cast.friends.tls = tls

    async def _perform(self, layout: Layout, server: Server, dns: DnsServer) -> list[Ending]:
        stage = Stage(
            watcher=Silence(),
            users={address: User(address, layout) for address in USERS},
            friends=self._cast.friends,
            grumpy=self._cast.grumpy,
            journal=Journal(layout.data_dir),
            asked=dns.queries,
            ports=layout.ports,
            patience=self._cast.patience,
        )
        program = command_name()
        show = Show(
            self._screen,
            stage,
            lambda ident: words.why_command(program, ident, layout),
            log_file=str(layout.log_file),
            story_stays=self._kept or not self._wishes.once,
            journeys=self._cast.journeys,
        )
        try:
            async with asyncio.timeout(SHOW_S):
                endings = await self._until(server, in_thread(show.perform))
        except TimeoutError:
            self._screen.line()
            self._screen.failure(f"The show took longer than {SHOW_S:.0f} s and was broken off")
            endings = [Ending(journey, 0.0, "", "broken off") for journey in self._cast.journeys]
        finally:
            show.break_off()
        self._screen.line()
        well = all(ending.well for ending in endings)
        self._kept = self._kept or not well  # somebody will want to look
        self._screen.line(summary(endings), "good" if well else "bad")
        return endings

    async def _until(self, server: Server, work: Awaitable[T]) -> T:
        """The result of `work`, unless a signal or the server's death comes first: then Ended."""
        task = asyncio.ensure_future(work)
        others = [asyncio.ensure_future(event.wait()) for event in (self._stopping, server.ended)]
        try:
            await asyncio.wait([task, *others], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Ended
            return task.result()
        finally:
            for one in (task, *others):
                one.cancel()

    # -- what our server says ------------------------------------------------------------------------------------------

    def _hear(self, said: Said) -> None:
        """Shows the journal's events once the show is over, and troubles at any time."""
        try:
            if said.event is not None:
                if self._live:
                    self._screen.line(logtext.event_text(said.ident, said.event))
            elif said.level in ("warning", "error") and self._welcomed and not self._stopping.is_set():
                self._screen.line(f"   our server: {said.level}: {logtext.plain(said.text)}", "warn")
        except ScreenGone:
            self._stopping.set()

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _end(self, layout: Layout, server: Server, dns: DnsServer) -> None:
        self._stopping.set()
        for closing in (
            self._cast.friends.close(),
            self._cast.grumpy.close(),
            server.stop(keep=self._kept),
            dns.close(),
        ):
            await _even_if_it_fails(closing)
        if not self._kept:
            shutil.rmtree(layout.root, ignore_errors=True)
        if not self._welcomed:
            return
        try:
            words.goodbye(self._screen, layout, command_name(), kept=self._kept)
        except ScreenGone:
            return


class Silence:
    """A watcher of journeys that nobody watches yet."""

    def step(self, text: str, evidence: str) -> None:
        """Shows nothing."""


async def _even_if_it_fails(closing: Awaitable[None]) -> None:
    try:
        await closing
    except OSError:
        return


def require_own(root: Path) -> None:
    """Raises CannotStart when a folder holds anything that no playground has put there; OSError when it is none."""
    if not root.exists() or not any(root.iterdir()):
        return
    config_file = Layout(root, Ports()).config_file
    if not config_file.exists() or not config_file.read_text("utf-8", "replace").startswith(CONFIG_HEAD):
        raise CannotStart(f"{root} holds other things than a playground. Name a new folder, or an empty one.")


def make_certificates(layout: Layout) -> None:
    """A CA and a certificate per mail server, unless a kept playground has young ones; raises OSError."""
    domains = (DOMAIN, FRIENDS)
    files = [layout.ca_file, *(path for domain in domains for path in (layout.certificate(domain), layout.key(domain)))]
    now_us = time.time_ns() // 1000
    if all(path.exists() and now_us / 1e6 - path.stat().st_mtime < CERTIFICATES_S for path in files):
        return
    (layout.root / "tls").mkdir(mode=0o700, exist_ok=True)
    authority = make_authority("Postroad playground", now_us)
    for domain in domains:
        certificate, key = authority.issue(names_of(domain), now_us)
        write_private(layout.certificate(domain), certificate)
        write_private(layout.key(domain), key)
    write_private(layout.ca_file, authority.pem)


def make_accounts(data_dir: Path) -> None:
    """The domain and its users, unless a kept playground has them; raises CannotStart."""
    with open_store(data_dir) as store:
        answers: list[Changed] = [store.call(domain_add, DomainAdd(DOMAIN))]
        for address in USERS:
            answers.append(store.call(user_add, UserAdd(address, credential=hash_password(PASSWORD))))
    for answer in answers:
        if not answer.done and answer.word not in (DOMAIN_EXISTS, ADDRESS_IN_USE):
            raise CannotStart(f"The accounts cannot be made: {WORDS[answer.word]}")


def command_name(program: str | None = None) -> str:
    """How the person can call `postroad` again: by name where the PATH finds it, else by the path it was called by."""
    program = sys.argv[0] if program is None else program
    path = Path(program)
    if path.name in ("__main__.py", "-c", "-m", ""):
        return f"{shlex.quote(sys.executable)} -m postroad"
    found = shutil.which("postroad")
    if found is not None and Path(found).resolve() == path.resolve():
        return "postroad"
    absolute, here = path.absolute(), Path.cwd()
    return shlex.quote(str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute))
