"""What was turned away and why: a reference in the reply, a line in the log, a row in the refusals file."""

from __future__ import annotations

from typing import Final, Protocol

from postroad.flow.intake import Story, client_text
from postroad.store.records import Refusal
from postroad.values.event import Event
from postroad.values.ids import IdMaker, id_text
from postroad.values.ports import Clock
from postroad.values.reply import Reply

COMMAND_MAX: Final = 100
"""Letters of what a refused login is journaled with; a client may write thousands."""
FOUND_MAX: Final = 1000
"""Characters of what decided a refusal that are kept."""


class Post(Protocol):
    """The store's unawaited entrance: a refusal never waits for the disk."""

    def post(self, unit: str, args: object) -> None: ...


class Refusals:
    """Writes refusals down without ever delaying the reply."""

    def __init__(self, *, store: Post, story: Story, ids: IdMaker, clock: Clock) -> None:
        self._store = store
        self._story = story
        self._ids = ids
        self._clock = clock

    def note(
        self,
        reply: Reply,
        *,
        why: str,
        command: str,
        door: str,
        peer: str,
        helo: str,
        sender: str,
        recipient: str,
        login: str,
        found: str = "",
    ) -> Reply:
        """Record one refusal; returns the reply with its reference, which `postroad why` finds.

        `found` is what decided it and is told to nobody but the administrator.
        """
        now_us = self._clock.wall_us()
        reference = self._ids.make(now_us)
        evidence = f"{command} -> {reply}" if command else str(reply)
        where = client_text(helo, peer)
        by = f"{door}, login {login}" if login else door
        cause = f"{why}, from <{sender}>" if sender else why
        if found:
            cause = f"{cause}: {found[:FOUND_MAX]}"
        event = Event(
            kind="refused", at_us=now_us, recipient=recipient, cause=cause, evidence=evidence, by=by, where=where
        )
        packed = self._story.note(reference, [event])
        keys = "\n".join(key.lower() for key in (sender, recipient, peer) if key)
        self._store.post(
            "refuse",
            Refusal(reference=reference, at_us=now_us, source=peer, why=why, keys=keys, events=packed),
        )
        if reply.code == 354 or not reply.text:
            return reply
        return reply.ending(f"Ref {id_text(reference)}")

    def login_failed(self, text: str, why: str, command: str, door: str, peer: str) -> str:
        """Record a refused login of a protocol without reply codes; returns the text with its reference."""
        said = self.note(
            Reply(535, "5.7.8", text), why=why, command=command[:COMMAND_MAX], door=door, peer=peer, helo="", sender="",
            recipient="", login="",
        )  # fmt: skip
        return said.text
