"""Shows the journeys one after another as they happen, and counts how they ended.

Blocks: it runs in a thread beside the event loop that serves the other organisations.
"""

from __future__ import annotations

import imaplib
import poplib
import smtplib
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import dns.exception

from postroad.dev.journeys import JOURNEYS, Journey, Stage, WentWrong
from postroad.dev.screen import INDENT, Screen, ScreenGone
from postroad.dev.words import duration
from postroad.serve.logtext import plain
from postroad.values.errors import StoreBroken

EVIDENCE: Final = INDENT + "    "

TROUBLES: Final = (
    OSError,
    smtplib.SMTPException,
    poplib.error_proto,
    imaplib.IMAP4.error,
    dns.exception.DNSException,
    StoreBroken,
)
"""What a conversation with a server may raise when the server does not do its part."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How one journey went."""

    journey: Journey
    seconds: float
    ident: str
    failure: str = ""

    @property
    def well(self) -> bool:
        """Whether it ended as it should."""
        return not self.failure


class Show:
    """One performance. `command_for` makes the command that tells the story of an id.

    `story_stays`: the data is there long enough for somebody to ask; after a failure it always is.
    """

    def __init__(
        self,
        screen: Screen,
        stage: Stage,
        command_for: Callable[[str], str],
        *,
        log_file: str,
        story_stays: bool = True,
        journeys: Sequence[Journey] = JOURNEYS,
    ) -> None:
        self._screen = screen
        self._stage = replace(stage, watcher=self)
        self._command_for = command_for
        self._log_file = log_file
        self._story_stays = story_stays
        self._journeys = journeys
        self._last = 0.0
        self._over = False

    def perform(self) -> list[Ending]:
        """Walks all journeys; raises ScreenGone when nobody watches any more."""
        return [self._walk(number, journey) for number, journey in enumerate(self._journeys, 1)]

    def break_off(self) -> None:
        """Shows nothing more: the servers are about to go, and what then fails is no news."""
        self._over = True

    def _require_watchers(self) -> None:
        if self._over:
            raise ScreenGone

    def step(self, text: str, evidence: str) -> None:
        """Shows one step of the journey that is under way, with its time since the step before."""
        self._require_watchers()
        now = time.monotonic()
        took, self._last = now - self._last, now
        self._screen.success(text, duration(took))
        if evidence:
            self._screen.wrapped(plain(evidence), EVIDENCE, "quiet")

    def _walk(self, number: int, journey: Journey) -> Ending:
        screen, stage = self._screen, self._stage
        self._require_watchers()
        screen.line()
        screen.line(f"{number}. {journey.title}", "strong")
        stage.ident = ""
        begun = self._last = time.monotonic()
        failure = ""
        try:
            journey.walk(stage)
        except ScreenGone:
            raise
        except WentWrong as wrong:
            failure = f"{wrong} ({plain(wrong.found)})" if wrong.found else str(wrong)
        except TROUBLES as error:
            failure = f"{type(error).__name__}: {plain(str(error))}"
        except Exception as bug:  # a bug in the show must not look like a journey that went well
            failure = f"the show itself is broken: {type(bug).__name__}: {bug}"
            self._require_watchers()
            screen.line(traceback.format_exc().rstrip())
        ending = Ending(journey, time.monotonic() - begun, stage.ident, failure)
        self._finish(ending)
        return ending

    def _finish(self, ending: Ending) -> None:
        screen = self._screen
        self._require_watchers()
        if ending.failure:
            screen.failure(f"did not end as it should after {duration(ending.seconds)}: {ending.failure}")
            screen.line(f"{EVIDENCE}the server's log: {self._log_file}")
        took = f"{duration(ending.seconds)} in all"
        if ending.ident and (self._story_stays or ending.failure):
            command = screen.style(self._command_for(ending.ident), "command")
            screen.line(f"{INDENT}  {screen.style(took + ', why?', 'quiet')} {command}")
        elif ending.ident:
            screen.line(screen.style(f"{INDENT}  id {ending.ident}, {took}", "quiet"))


def summary(endings: Sequence[Ending]) -> str:
    """One line about all journeys."""
    wrong = [number for number, ending in enumerate(endings, 1) if not ending.well]
    seconds = sum(ending.seconds for ending in endings)
    if wrong:
        which = ", ".join(str(number) for number in wrong)
        return f"{len(wrong)} of {len(endings)} journeys did not end as they should: {which}"
    return f"All {len(endings)} journeys ended as they should, in {seconds:.1f} s"
