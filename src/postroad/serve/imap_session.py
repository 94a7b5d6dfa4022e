"""An IMAP session: the driver's side of the machine, the selected mailbox, and what is told between responses.

The machine has checked syntax and state. What each command does stands in `imap_folders`, `imap_fetch`, `imap_search`,
`imap_change` and `imap_append`; they all end a command by `finish`, which tells the client what other sessions did
meanwhile, as far as the command allows, and then by one tagged response.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from postroad.serve.conversation import Conversation
from postroad.serve.imap_flags import defined_flags, flags_text, permanent_flags
from postroad.serve.imap_mailbox import MailboxGone, SelectedMailbox
from postroad.serve.imap_view import News
from postroad.serve.logs import log_bug, log_line
from postroad.serve.message_content import PIECE
from postroad.serve.outgoing import drained
from postroad.values.errors import StoreBroken, StoreFull
from postroad.wire.imap.commands import Event
from postroad.wire.imap.machine import ImapMachine, State
from postroad.wire.imap.sets import SequenceSet, resolve

if TYPE_CHECKING:
    from postroad.serve.imap import ImapService
    from postroad.serve.imap_append import Incoming
    from postroad.serve.sasl_exchange import Exchange

SLICE_S: Final = 0.002
"""How long a session works on the loop before others get their turn."""

Handler = Callable[["ImapSession", Any], Awaitable[None]]


class ImapSession:
    """One IMAP client.

    Invariants: while `_reporting` runs (news for an idling client), no event is handled; so the view is only ever
    changed by one of the two. While an event is handled, the selected mailbox and the incoming message stay, even when
    the connection is lost meanwhile.
    """

    __slots__ = (
        "_active",
        "_handlers",
        "_handling",
        "_heard",
        "_keywords_told",
        "_lost",
        "_pending",
        "_reporting",
        "_turn_began",
        "account",
        "door",
        "end_point",
        "exchange",
        "incoming",
        "machine",
        "mechanism",
        "selected",
        "service",
        "wire",
    )

    def __init__(
        self,
        wire: Conversation,
        machine: ImapMachine,
        service: ImapService,
        handlers: Mapping[type, Handler],
    ) -> None:
        self.wire = wire
        self.machine = machine
        self.service = service
        self.door = "imaps" if wire.tls else "imap"
        self.account = 0
        # Taken with the handshake: a certificate that is loaded later is not the one this client has seen.
        self.end_point = service.tls.end_point if wire.tls else b""
        self.mechanism = ""
        self.exchange: Exchange | None = None
        """The login that is going on, and its mechanism."""
        self.selected: SelectedMailbox | None = None
        self.incoming: Incoming | None = None
        """The APPEND whose message is coming."""
        self._handlers = handlers
        self._keywords_told = ""
        self._reporting: asyncio.Task[None] | None = None
        self._active = True
        self._handling = False
        self._lost = False
        self._heard = 0.0
        self._turn_began = 0.0
        self._pending = 0

    # -- for the driver ----------------------------------------------------------------------------------------------

    def opened(self) -> None:
        """Greet."""
        self.service.counters.session_opened(self.door)
        self.machine.greet()

    async def handle(self, event: Event) -> None:
        """Carry out one event; a command among them gets its tagged response."""
        if self._reporting is not None:
            await asyncio.shield(self._reporting)
        self._active = self._handling = True
        self._turn_began = asyncio.get_running_loop().time()
        try:
            await self._handlers[type(event)](self, event)
        except MailboxGone:
            self.forget_mailbox()
            self.machine.bye("the mailbox was deleted by another session")
        except (StoreBroken, StoreFull) as error:
            log_line("error", f"IMAP: {type(event).__name__} of account {self.account} failed: {error}")
            self.machine.no("this cannot be done right now, please try again later", "UNAVAILABLE")
        finally:
            self._handling = False
            if self._lost:
                self._let_go()

    def penalty_s(self) -> float:
        """Nothing is held back here: the machine ends a session after a few errors."""
        return 0.0

    def deadline(self, now: float) -> float:
        """Counted from what the client said last, not from what it was told: news keep no dead client alive."""
        if self._active:
            self._heard = now
            self._active = False
        patience = self.machine.patience
        return self._heard + (min(patience, self.service.idle_s) if self.account else patience)

    def timed_out(self) -> None:
        """Say BYE and close (RFC 3501 section 5.4)."""
        self.machine.bye("nothing came for too long")

    def failed(self) -> None:
        """After a bug of ours: the session ends."""
        self.machine.bye("internal problem, please reconnect", "SERVERBUG")

    def lost(self) -> None:
        """The connection is gone. A command that is being carried out keeps what it works on until it ends."""
        self.service.counters.session_closed(self.door)
        self._lost = True
        if not self._handling:
            self._let_go()

    def _let_go(self) -> None:
        """Nothing of an unfinished APPEND stays, and no mailbox is watched."""
        self.forget_incoming()
        self.forget_mailbox()

    def drain(self) -> None:
        """We are going down: say so now unless a command is being carried out."""
        if not self.wire.busy:
            self.machine.bye("going down for a moment, please reconnect")
            self.wire.turn_soon()

    # -- sending -----------------------------------------------------------------------------------------------------

    async def send(self, octets: bytes) -> None:
        """Sends octets behind the machine's own; waits when the client does not keep up."""
        self.machine.send(octets)
        self._pending += len(octets)
        if self._pending >= PIECE:
            self._pending = 0
            await drained(self.wire, self.service.idle_s)

    async def breathe(self) -> None:
        """Gives others their turn when this session has had `SLICE_S` of the loop."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._turn_began > SLICE_S:
            await self.wire.others_first()
            self._turn_began = loop.time()

    # -- the selected mailbox ----------------------------------------------------------------------------------------

    @property
    def mailbox(self) -> SelectedMailbox:
        """The selected mailbox; the machine has made sure that there is one until the connection ends."""
        if self.selected is None:
            raise ConnectionResetError("the client is gone")
        return self.selected

    @property
    def seen_modseq(self) -> int:
        """For the watch: up to where the client's mailbox is known."""
        return self.selected.view.modseq if self.selected is not None else 0

    def keep_mailbox(self, selected: SelectedMailbox) -> None:
        """Makes a mailbox the selected one and watches it; raises ConnectionResetError when the client is gone."""
        if self.wire.transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self.forget_mailbox()
        self.selected = selected
        self._keywords_told = selected.keywords
        self.service.watch.add(selected.id, self)

    def forget_mailbox(self) -> None:
        """No mailbox is selected any more."""
        selected, self.selected = self.selected, None
        if selected is not None:
            self.service.watch.remove(selected.id, self)
            self.machine.unselected()

    async def places(self, numbers: SequenceSet, *, uid: bool) -> list[int]:
        """Places of the messages that a command names, ascending; numbers that do not exist name nothing.

        Numbers mean what the client was told, but what is known to be expunged by now `view.is_gone`.
        """
        await self.look()
        view = self.mailbox.view
        if uid:
            return view.places_of_uids(resolve(numbers, view.last_uid))
        return view.places_of_numbers(resolve(numbers, len(view)))

    def forget_incoming(self) -> None:
        """Throws away the message that was coming."""
        incoming, self.incoming = self.incoming, None
        if incoming is not None:
            incoming.draft.discard()

    # -- news --------------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Learns what happened to the selected mailbox if anybody said that something did; tells nothing yet."""
        if self.mailbox.dirty:
            await self.mailbox.catch_up()

    async def finish(self, *, look: bool = False, expunges: bool = True, uid: bool = False) -> None:
        """Before a tagged response: tells what is new in the selected mailbox.

        `look`: ask the store even without a hint. `expunges`: EXPUNGE may be sent (RFC 3501 section 7.4.1 forbids it
        during FETCH, STORE and SEARCH by sequence numbers). `uid`: the command was a UID command.
        """
        selected = self.selected
        if selected is None:
            return
        if look or selected.dirty:
            await selected.catch_up()
            if self.selected is not selected:
                return  # the client went away while its news were read
        self.tell(selected.view.tell(expunges=expunges), uid=uid)

    def tell(self, news: News, *, uid: bool = False) -> None:
        """Sends what the view found new."""
        machine, selected = self.machine, self.mailbox
        for number in news.expunged:
            machine.untagged(b"%d EXPUNGE" % number)
        if news.exists >= 0:
            machine.untagged(b"%d EXISTS" % news.exists)
        if news.recent >= 0:
            machine.untagged(b"%d RECENT" % news.recent)
        if selected.keywords != self._keywords_told:
            self.tell_keywords()
        for number in news.changed:
            machine.untagged(self.flags_response(number - 1, uid=uid))

    def tell_keywords(self) -> None:
        """Sends FLAGS and PERMANENTFLAGS: at SELECT, and when a keyword is new (RFC 3501 section 7.2.6)."""
        selected = self.mailbox
        self._keywords_told = selected.keywords
        self.machine.untagged(b"FLAGS " + defined_flags(selected.keywords))
        permanent = "()" if selected.read_only else permanent_flags(selected.keywords)
        self.machine.status("OK", "what can be stored", f"PERMANENTFLAGS {permanent}")

    def flags_response(self, place: int, *, uid: bool) -> bytes:
        """A FETCH response that tells the flags of one message, without `* `."""
        view = self.mailbox.view
        flags = flags_text(view.flags[place], view.keywords_at(place))
        if uid:
            return b"%d FETCH (UID %d FLAGS %b)" % (place + 1, view.uids[place], flags)
        return b"%d FETCH (FLAGS %b)" % (place + 1, flags)

    def mailbox_changed(self) -> None:
        """Called by the watch: the next command looks, and an idling client is told at once."""
        if self.selected is None:
            return
        self.selected.dirty = True
        if self.machine.idling and self._reporting is None:
            self._reporting = asyncio.get_running_loop().create_task(self._report())

    async def _report(self) -> None:
        """Tells an idling client what is new (RFC 2177)."""
        try:
            while self.selected is not None and self.selected.dirty and self.machine.state is State.SELECTED:
                await self.finish()
                self.wire.flush()
        except MailboxGone:
            self.forget_mailbox()
            self.machine.bye("the mailbox was deleted by another session")
        except (StoreBroken, StoreFull) as error:
            log_line("error", f"IMAP: news of account {self.account} cannot be read: {error}")
        except Exception as bug:
            log_bug(bug, where="ImapSession")
            self.failed()
        finally:
            self._reporting = None
            self.wire.turn_soon()
