"""The IMAP service of a worker: what its sessions share, login, TLS and IDLE, and the table of commands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from postroad.net.tls import ServerTls
from postroad.serve import imap_append, imap_change, imap_fetch, imap_folders, imap_search
from postroad.serve.conversation import Conversation
from postroad.serve.imap_fetch import Trees
from postroad.serve.imap_mailbox import Store
from postroad.serve.imap_session import Handler, ImapSession
from postroad.serve.imap_watch import MailboxWatch
from postroad.serve.lifecycle import Lifecycle
from postroad.serve.logins import LoggedIn, Logins, Trouble
from postroad.serve.logs import log_line
from postroad.serve.message_content import Bodies
from postroad.serve.refusals import Refusals
from postroad.serve.sasl_exchange import Challenge, Circumstances, begin
from postroad.store.account_records import Account
from postroad.store.mailbox_reads import Mailboxes
from postroad.store.spool import Draft
from postroad.values.errors import StoreBroken, StoreFull
from postroad.values.ids import IdMaker
from postroad.values.ports import Clock
from postroad.wire import sasl
from postroad.wire.imap import commands as on
from postroad.wire.imap.machine import ImapMachine

EXTENSIONS: Final = ("IDLE", "UIDPLUS", "UNSELECT", "MOVE", "ENABLE", "CHILDREN", "SPECIAL-USE")
"""What these sessions carry out beside IMAP4rev1; the machine itself adds LITERAL-, SASL-IR, ID and NAMESPACE."""

# RFC 5530 section 3
REFUSED: Final = {
    "wrong": ("wrong user or password", "AUTHENTICATIONFAILED"),
    "busy": ("too many logins at once, try again in a minute", "UNAVAILABLE"),
    "braked": ("too many failed logins from your network, try again in a quarter of an hour", "UNAVAILABLE"),
}
"""What is said by the kind of trouble, with its response code."""
NOT_FOR_OTHERS: Final = ("acting for somebody else is not offered", "AUTHORIZATIONFAILED")


class Counters(Protocol):
    """What mail sessions count (`serve.counters.SessionCounters`)."""

    def session_opened(self, door: str) -> None: ...
    def session_closed(self, door: str) -> None: ...
    def logged_in(self, service: str, result: str) -> None: ...


class Spool(Bodies, Protocol):
    """Where messages come in and bodies stand: `store.spool.Spool`."""

    def draft(self) -> Draft: ...
    def free_enough(self, size: int = 0) -> bool: ...


class Accounts(Protocol):
    """The part of `store.directory.Directory` that APPEND needs."""

    async def account_by_id(self, account: int) -> Account | None: ...


@dataclass(slots=True)
class ImapService:
    """What the IMAP sessions of one worker share."""

    store: Store
    mailboxes: Mailboxes
    directory: Accounts
    bodies: Spool
    ids: IdMaker
    clock: Clock
    logins: Logins
    refusals: Refusals
    counters: Counters
    lifecycle: Lifecycle
    tls: ServerTls
    watch: MailboxWatch
    message_size: int
    insecure_auth: bool = False
    """Take passwords without TLS too: loopback and tests."""
    idle_s: float = 1800.0
    trees: Trees = field(default_factory=Trees)

    def session(self, wire: Conversation) -> ImapSession:
        """A session for a connection that has just been made; TLS is on already when `wire.tls`."""
        machine = ImapMachine(
            tls=wire.tls,
            tls_offered=True,
            plaintext_login=self.insecure_auth,
            mechanisms=sasl.offered(sasl.MAIL_MECHANISMS, binding=bool(self.tls.end_point)),
            extensions=EXTENSIONS,
        )
        return ImapSession(wire, machine, self, HANDLERS)


# -- TLS and login ---------------------------------------------------------------------------------------------------


async def start_tls(session: ImapSession, command: on.StartTls) -> None:
    """STARTTLS."""
    session.machine.begin_tls()
    session.end_point = session.service.tls.end_point
    try:
        await session.wire.start_tls(session.service.tls.of("imap"))
    except OSError as error:
        raise ConnectionResetError(f"TLS handshake failed: {error}") from None
    session.machine.tls_started()


async def login(session: ImapSession, command: on.Login) -> None:
    """LOGIN."""
    logins, peer = session.service.logins, session.wire.peer
    _settle(
        session, await logins.verify(command.user, command.password, "imap", peer), f"login as {command.user} by LOGIN"
    )


async def authenticate(session: ImapSession, command: on.Authenticate) -> None:
    """AUTHENTICATE."""
    where = Circumstances("imap", session.wire.peer, session.end_point)
    session.mechanism, session.exchange = command.mechanism, begin(session.service.logins, command.mechanism, where)
    await _go_on(session, command.initial)


async def sasl_response(session: ImapSession, command: on.SaslResponse) -> None:
    """The answer to a challenge."""
    await _go_on(session, command.octets)


async def _go_on(session: ImapSession, octets: bytes | None) -> None:
    exchange = session.exchange
    assert exchange is not None
    try:
        step = await exchange.take(octets)
    except sasl.SaslError:
        session.machine.bad("that is not what this mechanism expects")
        return
    if isinstance(step, Challenge):
        session.machine.challenge(step.octets)
        return
    session.exchange = None
    _settle(session, step, f"login as {exchange.user} by {session.mechanism}")


def _settle(session: ImapSession, found: LoggedIn | Trouble, command: str) -> None:
    service, machine = session.service, session.machine
    if isinstance(found, LoggedIn):
        service.counters.logged_in("imap", "ok")
        session.account = found.account
        machine.logged_in()
        return
    service.counters.logged_in("imap", found.kind)
    text, code = NOT_FOR_OTHERS if found is Trouble.BEHALF else REFUSED[found.kind]
    said = service.refusals.login_failed(text, found.value, command, session.door, session.wire.peer)
    if found is Trouble.BRAKED:
        machine.no(said, code)
        machine.bye(text)
    elif found is Trouble.BUSY:
        machine.no(said, code)
    else:
        machine.login_failed(said, code)


# -- small commands --------------------------------------------------------------------------------------------------


async def noop(session: ImapSession, command: on.Noop | on.Check) -> None:
    """NOOP and CHECK: the moment at which clients ask for news."""
    await session.finish(look=True)
    session.machine.ok()


async def enable(session: ImapSession, command: on.Enable) -> None:
    """ENABLE (RFC 5161): nothing that needs enabling is offered yet, and the answer says so."""
    session.machine.untagged(b"ENABLED")
    session.machine.ok()


async def idle(session: ImapSession, command: on.Idle) -> None:
    """IDLE: what is new is told now, what will be new by the watch."""
    try:
        await session.finish(look=True)
    except (StoreBroken, StoreFull) as error:
        # The client has been told to wait, so there is nothing to answer; the watch will try again.
        log_line("error", f"IMAP: news of account {session.account} cannot be read: {error}")


async def idle_done(session: ImapSession, command: on.IdleDone) -> None:
    """The end of IDLE."""
    await session.finish()
    session.machine.ok()


HANDLERS: Final[dict[type, Handler]] = {
    on.StartTls: start_tls,
    on.Login: login,
    on.Authenticate: authenticate,
    on.SaslResponse: sasl_response,
    on.Noop: noop,
    on.Check: noop,
    on.Enable: enable,
    on.Idle: idle,
    on.IdleDone: idle_done,
    on.Select: imap_folders.select,
    on.Close: imap_folders.close,
    on.Create: imap_folders.create,
    on.Delete: imap_folders.delete,
    on.Rename: imap_folders.rename,
    on.Subscribe: imap_folders.subscribe,
    on.Unsubscribe: imap_folders.unsubscribe,
    on.List: imap_folders.list_mailboxes,
    on.Status: imap_folders.status,
    on.AppendStart: imap_append.append_start,
    on.AppendContent: imap_append.append_content,
    on.AppendEnd: imap_append.append_end,
    on.AppendFailed: imap_append.append_failed,
    on.Fetch: imap_fetch.fetch,
    on.Store: imap_change.store,
    on.Expunge: imap_change.expunge,
    on.Copy: imap_change.copy,
    on.Search: imap_search.search,
}
"""What carries out each command; the machine answers CAPABILITY, ID, NAMESPACE and LOGOUT itself."""
