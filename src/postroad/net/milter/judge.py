"""All milters of a worker as one judge: asked at each stage of a session, one after the other, as configured.

Each milter sees a message as those before it have changed it. A milter that cannot be asked (not there, silent, hung
up, protocol broken) means what `on_failure` says, and all that it wanted changed is forgotten: a message is never kept
with half of a milter's changes (class E12, Postfix 20260821). It is dialled again for the next message of the session.

Invariant: once a milter has refused a session, every later stage of the session gets the same answer.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from postroad.config import Config
from postroad.config.endpoints import MilterPlace, parse_milter
from postroad.net.client_name import proved_name
from postroad.net.milter.session import Client, MilterFailed, MilterSession, Patience, pieces
from postroad.values.address import Address
from postroad.values.facts import Facts, Stage
from postroad.values.ids import id_text
from postroad.values.ports import Lookup
from postroad.values.reply import Reply
from postroad.values.verdict import ACCEPTED, NO_CHANGES, Changes, Ruling, Verdict, accept, doubt
from postroad.wire.milter.machine import HANG_UPS, REFUSALS
from postroad.wire.milter.message import EditedMessage
from postroad.wire.milter.packets import CONTINUE, Answer, MilterError
from postroad.wire.milter.words import Word
from postroad.wire.mime.edit import EditedHeader
from postroad.wire.mime.headers import HeaderTooLarge

log = logging.getLogger(__name__)

STAGE_MAX_S: Final = 20.0
"""Seconds that all milters together have at one stage: the rest of the 30 s of a command is for other checks."""

FAILED: Final = Reply(451, "4.7.1", "A mail filter of this server does not answer. Please retry; nothing was kept.")
FAILED_FOR_GOOD: Final = Reply(550, "5.7.1", "A mail filter of this server does not answer, and none passes without.")
REFUSED: Final = Reply(550, "5.7.1", "Refused by a mail filter of this server.")
DEFERRED: Final = Reply(451, "4.7.1", "A mail filter of this server asks you to come back later.")
HUNG_UP: Final = Reply(421, "4.7.1", "A mail filter of this server asks you to come back later.")
TOO_MANY_FIELDS: Final = Reply(552, "5.3.4", "The header has more than 2,000 lines. Send fewer header fields.")

DISCARDED: Final = accept(changes=Changes(discard=True))

_WORLD: Final = frozenset(("mx", "lmtp"))
_UNKNOWN: Final = "unknown"
_STAGES: Final = frozenset((Stage.CONNECT, Stage.HELLO, Stage.MAIL, Stage.RCPT, Stage.MESSAGE))


class Milters:
    """The judge. `mx` is asked about mail from the world, `submission` about mail from our users and networks."""

    __slots__ = ("_body_max", "_hostname", "_lookup", "_mx", "_on_failure", "_patience", "_runs", "_submission")

    def __init__(
        self,
        *,
        mx: Sequence[MilterPlace],
        submission: Sequence[MilterPlace],
        hostname: str,
        lookup: Lookup,
        patience: Patience,
        on_failure: str,
        body_max: int,
    ) -> None:
        self._mx = mx
        self._submission = submission
        self._hostname = hostname
        self._lookup = lookup
        self._patience = patience
        self._on_failure = on_failure
        self._body_max = body_max
        self._runs: dict[int, MilterRun] = {}

    @classmethod
    def from_config(cls, config: Config, lookup: Lookup) -> Milters | None:
        """The milters of a configuration; None when it names none."""
        milter = config.milter
        if not (milter.mx or milter.submission):
            return None
        return cls(
            mx=[parse_milter(text) for text in milter.mx],
            submission=[parse_milter(text) for text in milter.submission],
            hostname=config.hostname,
            lookup=lookup,
            patience=Patience(milter.timeout_connect_s, milter.timeout_command_s, milter.timeout_content_s),
            on_failure=milter.on_failure,
            body_max=config.limits.message_size,
        )

    async def ask(self, facts: Facts) -> Verdict | None:
        """What the milters of this session say at a stage; None at a door without any, and at AUTH."""
        if facts.stage not in _STAGES:
            return None
        run = self._runs.get(facts.session)
        if run is None:
            places = self._submission if facts.door not in _WORLD or facts.trusted else self._mx
            if not places:
                return None
            run = self._runs[facts.session] = self._begin(places)
        # A session's coroutine may run outside of any task, in which asyncio has no timeouts.
        return await asyncio.get_running_loop().create_task(run.ask(facts))

    def _begin(self, places: Sequence[MilterPlace]) -> MilterRun:
        sessions = [MilterSession(place, self._patience, self._lookup, body_max=self._body_max) for place in places]
        return MilterRun(sessions, hostname=self._hostname, lookup=self._lookup, on_failure=self._on_failure)

    async def refused(self, facts: Facts, reply: Reply) -> None:
        """Tells a recipient that others have refused, to the milters that want to know (SMFIP_RCPT_REJ).

        `facts` are those of RCPT; what the milters answer changes nothing.
        """
        run = self._runs.get(facts.session)
        if run is not None:
            await asyncio.get_running_loop().create_task(run.refused(facts, reply))

    async def unknown(self, session: int, line: bytes) -> Verdict | None:
        """What the milters say of a command line that SMTP does not know; None where it is not theirs to say."""
        run = self._runs.get(session)
        if run is None:
            return None
        return await asyncio.get_running_loop().create_task(run.unknown(line))

    def ended(self, session: int) -> None:
        """The SMTP session is over: its milters are told."""
        run = self._runs.pop(session, None)
        if run is not None:
            run.close()


class _Asked:
    """One milter of a run, and what became of it."""

    __slots__ = ("failed", "session")

    def __init__(self, session: MilterSession) -> None:
        self.session = session
        self.failed = ""
        """Why it could not be asked; it is left alone until the next message."""


class MilterRun:
    """The milters of one SMTP session. `ask` is called for one stage at a time."""

    __slots__ = (
        "_asked", "_client", "_closed", "_deadline", "_discards", "_hostname", "_lookup", "_on_failure", "_standing",
    )  # fmt: skip

    def __init__(self, sessions: Sequence[MilterSession], *, hostname: str, lookup: Lookup, on_failure: str) -> None:
        self._asked = [_Asked(session) for session in sessions]
        self._hostname = hostname
        self._lookup = lookup
        self._on_failure = on_failure
        self._client: Client | None = None
        self._standing: Verdict | None = None
        """The refusal of the whole session."""
        self._discards = False
        """A milter takes the open message out of the world: nobody else need see it."""
        self._deadline = 0.0
        self._closed = False

    async def ask(self, facts: Facts) -> Verdict:
        """What they say; a refusal or failure of one spares the others."""
        if self._standing is not None:
            return self._standing
        with self._stage():
            self._client = self._client or await self._introduced(facts)
            if facts.stage is Stage.MESSAGE:
                return await self._message(facts)
            return await self._command(facts)

    async def refused(self, facts: Facts, reply: Reply) -> None:
        """Tells a refused recipient; MILTER_README says how: its mailer is "error", the rest is the reply."""
        told = {"{rcpt_mailer}": "error", "{rcpt_host}": reply.enhanced, "{rcpt_addr}": reply.text}
        with self._stage():
            for one in self._listening():
                one.session.macros |= told
                try:
                    await one.session.rcpt(str(facts.recipient), self._deadline, refused=True)
                except MilterFailed as failure:
                    self._fail(one, str(failure))

    async def unknown(self, line: bytes) -> Verdict:
        """The first refusal of an unknown command, which only words the reply to it."""
        with self._stage():
            for one in self._listening():
                try:
                    answer = await one.session.unknown(line, self._deadline)
                except MilterFailed as failure:
                    self._fail(one, str(failure))
                    continue
                verdict = self._judged(one, answer, Stage.RCPT)  # about this one command, whatever the stage is
                if not verdict.passes:
                    return verdict
        return ACCEPTED

    def _listening(self) -> list[_Asked]:
        return [one for one in self._asked if one.session.open and not (one.failed or one.session.machine.over)]

    @contextmanager
    def _stage(self) -> Iterator[None]:
        """One stage with its time; whoever was told meanwhile that the session is over leaves nothing open."""
        self._deadline = asyncio.get_running_loop().time() + STAGE_MAX_S
        try:
            yield
        finally:
            if self._closed:
                self.close()

    def close(self) -> None:
        """Tells all of them that the session is over."""
        self._closed = True
        for one in self._asked:
            one.session.close()

    # -- commands ----------------------------------------------------------------------------------------------------

    async def _command(self, facts: Facts) -> Verdict:
        async def step(session: MilterSession) -> Answer:
            return await self._step(session, facts)

        if facts.stage is Stage.MAIL:
            self._discards = False
        noted = ACCEPTED
        for one in self._asked:
            if facts.stage is Stage.MAIL:
                one.failed = ""
            if self._discards:
                break
            answer = await self._answer(one, facts, step)
            verdict = answer if isinstance(answer, Verdict) else self._judged(one, answer, facts.stage)
            if not verdict.passes:
                return verdict
            noted = verdict if verdict.evidence else noted
        return noted

    async def _answer(
        self, one: _Asked, facts: Facts, step: Callable[[MilterSession], Awaitable[Answer]]
    ) -> Answer | Verdict:
        """The answer of one milter, which is dialled first where a session or message begins; or its failure's word."""
        if one.failed:
            return self._failure(one)
        session = one.session
        session.macros |= self._macros(facts)
        try:
            if not session.open and not session.machine.over:
                if facts.stage in (Stage.RCPT, Stage.MESSAGE):
                    raise MilterFailed("hung up in the middle of a message")
                answer = await self._catch_up(session, facts)
                if answer.word not in (Word.CONTINUE, Word.ACCEPT):
                    return self._judged(one, answer, Stage.HELLO)
            # Who has accepted the whole session hears no more of it.
            return CONTINUE if session.machine.over else await step(session)
        except MilterFailed as failure:
            return self._fail(one, str(failure))

    async def _catch_up(self, session: MilterSession, facts: Facts) -> Answer:
        """Dials, and tells what the session has come to before this stage."""
        assert self._client is not None
        answer = await session.connect(self._client, self._deadline)
        if answer.word is Word.CONTINUE and facts.stage is Stage.MAIL and facts.helo:
            return await session.hello(facts.helo, self._deadline)
        return answer

    async def _step(self, session: MilterSession, facts: Facts) -> Answer:
        if facts.stage is Stage.HELLO:
            return await session.hello(facts.helo, self._deadline)
        if facts.stage is Stage.MAIL:
            parameters = [f"SIZE={facts.size}"] if facts.size else []
            parameters += ["SMTPUTF8"] if facts.smtputf8 else []
            return await session.mail(facts.sender_text, parameters, self._deadline)
        if facts.stage is Stage.RCPT:
            return await session.rcpt(str(facts.recipient), self._deadline)
        return CONTINUE  # CONNECT was said when it was dialled

    def _judged(self, one: _Asked, answer: Answer, stage: Stage) -> Verdict:
        """What an answer means at a stage."""
        word = answer.word
        if word is Word.DISCARD:
            self._discards = True
            return DISCARDED
        if word not in REFUSALS and word not in HANG_UPS:
            return ACCEPTED
        usual = {Word.REJECT: REFUSED, Word.TEMPFAIL: DEFERRED}
        reply = answer.reply or usual.get(word, HUNG_UP)
        why = "milter deferred" if reply.temporary else "milter refused"
        verdict = Verdict(Ruling.REFUSE, why, reply, f"{one.session.place} answered {word.name}")
        if word in HANG_UPS or stage in (Stage.CONNECT, Stage.HELLO):
            self._standing = verdict
        return verdict

    # -- failures ----------------------------------------------------------------------------------------------------

    def _fail(self, one: _Asked, why: str) -> Verdict:
        one.session.drop()
        one.failed = f"{one.session.place}: {why}"
        log.warning("milter failed: %s", one.failed)
        return self._failure(one)

    def _failure(self, one: _Asked) -> Verdict:
        if self._on_failure == "accept":
            return accept("milter failed", evidence=one.failed)
        if self._on_failure == "reject":
            return Verdict(Ruling.REFUSE, "milter failed", FAILED_FOR_GOOD, one.failed)
        return doubt("milter failed", one.failed, FAILED)

    # -- the message -------------------------------------------------------------------------------------------------

    async def _message(self, facts: Facts) -> Verdict:
        assert facts.content is not None, "MESSAGE comes with the content"
        if self._discards:
            return DISCARDED
        try:
            first = message = EditedMessage(EditedHeader(facts.content.header), facts.sender, facts.recipients)
        except HeaderTooLarge:
            return Verdict(Ruling.REFUSE, "message refused", TOO_MANY_FIELDS)
        without = ""
        for one in self._asked:
            outcome = await self._shown(one, message, facts)
            if isinstance(outcome, EditedMessage):
                message = outcome
            elif outcome.changes or not outcome.passes:
                return outcome
            else:
                without = outcome.evidence
        changes = changes_of(message) if message is not first else NO_CHANGES
        return accept("milter failed" if without else "accepted", changes, without)

    async def _shown(self, one: _Asked, message: EditedMessage, facts: Facts) -> EditedMessage | Verdict:
        """The message as one milter leaves it, or a verdict; either all of its changes are made or none."""

        async def show(session: MilterSession) -> Answer:
            assert facts.content is not None
            body = facts.content.body() if message.body is None else pieces(message.body)
            try:
                return await session.message(message.header.fields(), body, self._deadline)
            finally:
                if isinstance(body, AsyncGenerator):
                    await body.aclose()

        answer = await self._answer(one, facts, show)
        if isinstance(answer, Verdict):
            return answer
        if answer.word not in (Word.CONTINUE, Word.ACCEPT):
            return self._judged(one, answer, facts.stage)
        machine = one.session.machine
        try:
            return message.changed(machine.changes, leading_space=machine.leading_space)
        except MilterError as error:
            return self._fail(one, str(error))

    # -- what they are told of the client ----------------------------------------------------------------------------

    async def _introduced(self, facts: Facts) -> Client:
        """The client by name and address; who has no IP address is on this machine, and comes by loopback."""
        try:
            address = ipaddress.ip_address(facts.peer.partition("%")[0])
        except ValueError:
            return Client("localhost", "127.0.0.1", 0)
        text = str(getattr(address, "ipv4_mapped", None) or address)
        name = "localhost" if address.is_loopback else await proved_name(text, self._lookup)
        return Client(name or f"[{text}]", text, facts.port)

    def _macros(self, facts: Facts) -> dict[str, str]:
        """What is known at this stage under sendmail's names; a later stage replaces what it knows better."""
        client = self._client
        assert client is not None
        name = _UNKNOWN if client.name.startswith("[") else client.name
        known = {
            "j": self._hostname,
            "v": "Postroad",
            "_": f"{name} [{client.address}]",
            "{daemon_name}": self._hostname,
            "{client_addr}": client.address,
            "{client_name}": name,
            "{client_ptr}": name,
            "{client_port}": str(client.port),
        }
        if facts.tls:
            known["{tls_version}"], _, known["{cipher}"] = facts.tls.partition(" ")
        if facts.login:
            known["{auth_type}"], known["{auth_authen}"] = facts.mechanism, facts.login
        if facts.message:
            known["i"] = id_text(facts.message)
        if facts.stage is Stage.MAIL:
            known |= _address_macros("mail", facts.sender)
        if facts.stage is Stage.RCPT:
            known |= _address_macros("rcpt", facts.recipient)
        return {macro: value for macro, value in known.items() if value}


def _address_macros(kind: str, address: Address | None) -> dict[str, str]:
    return {
        f"{{{kind}_addr}}": "" if address is None else str(address),
        f"{{{kind}_host}}": "" if address is None else address.domain,
        f"{{{kind}_mailer}}": "esmtp",
    }


def changes_of(message: EditedMessage) -> Changes:
    """What milters made of a message, in the words of policy."""
    return Changes(
        header=message.header.block,
        above=message.header.above,
        body=message.body,
        sender=message.sender if message.sender_changed else None,
        null_sender=message.sender_changed and message.sender is None,
        recipients_added=tuple(message.added.values()),
        recipients_removed=tuple(message.removed.values()),
        quarantine=message.quarantine,
    )
