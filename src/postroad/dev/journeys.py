"""The six journeys that the playground shows: what is sent, and what must be found where for it to count.

Each journey is a function from a `Stage` to nothing: it takes steps, which are shown as they happen, and raises
`WentWrong` when something is not as it should be. A step is only taken after looking: into a mailbox by POP3 and IMAP,
into what another organisation received, into the journal.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from email.utils import formatdate, make_msgid
from typing import Final, Protocol, TypeVar

from postroad.dev.clients import Receipt, User, ident_in
from postroad.dev.layout import ANNA, DEV, DOMAIN, FIRST_RETRY_S, FRIENDS, GRUMPY, Ports, mail_host
from postroad.dev.organisation import Letter, Organisation
from postroad.values.event import Event
from postroad.wire.mime.compose import Composer

PATIENCE_S: Final = 10.0
"""How long a step waits for what it looks for; what it waits for usually takes milliseconds."""
LOOK_EVERY_S: Final = 0.03
LOGIN_EVERY_S: Final = 0.1

BOB: Final = f"bob@{FRIENDS}"
CARL: Final = f"carl@{FRIENDS}"
GRETA: Final = f"greta@{GRUMPY}"
NOBODY_HERE: Final = f"nobody@{DOMAIN}"
NOBODY_THERE: Final = f"nobody@{GRUMPY}"

T = TypeVar("T")


class WentWrong(Exception):
    """A journey did not end as it should: what was expected and what was found instead."""

    def __init__(self, what: str, found: str = "") -> None:
        super().__init__(what)
        self.found = found


class Storybook(Protocol):
    """The journal's reading side (`store.stories`)."""

    def events(self, ident: str) -> list[Event]:
        """All events of a queue id or reference so far; empty when nothing is known of it."""
        ...


class Watcher(Protocol):
    """Who shows a journey while it happens."""

    def step(self, text: str, evidence: str) -> None:
        """Something happened as it should; `evidence` is the line that shows it."""
        ...


@dataclass(slots=True)
class Stage:
    """What one journey has to work with."""

    watcher: Watcher
    users: dict[str, User]
    friends: Organisation
    grumpy: Organisation
    journal: Storybook
    asked: list[str]
    """Questions our DNS server has answered so far, as "name/TYPE"."""
    ports: Ports
    letters: dict[str, str] = field(default_factory=dict)
    """Message-IDs that later journeys build on, by a word."""
    ident: str = ""
    """Queue id or reference that `postroad why` tells the story of."""
    patience: float = PATIENCE_S

    def step(self, text: str, evidence: str = "") -> None:
        """Shows that something happened as it should."""
        self.watcher.step(text, evidence)

    # -- waiting for what must come ------------------------------------------------------------------------------------

    def until(self, look: Callable[[], T | None], missing: Callable[[], WentWrong], every: float = LOOK_EVERY_S) -> T:
        """The first thing that `look` finds; raises what `missing` makes when there is nothing in time."""
        end = time.monotonic() + self.patience
        while (found := look()) is None:
            if time.monotonic() > end:
                raise missing()
            time.sleep(every)
        return found

    def event(self, kind: str, recipient: str) -> Event:
        """The journal's first event of a kind for a recipient of this journey's message."""

        def look() -> Event | None:
            events = self.journal.events(self.ident)
            return next((event for event in events if (event.kind, event.recipient) == (kind, recipient)), None)

        return self.until(look, lambda: WentWrong(f'the journal tells of no "{kind}" for {recipient}', self.told()))

    def told(self) -> str:
        """What the journal has so far, in short."""
        told = [f"{e.kind} {e.recipient} {e.cause} {e.evidence}".strip() for e in self.journal.events(self.ident)]
        return "the journal has: " + ("; ".join(told) or "nothing")

    # -- mail ----------------------------------------------------------------------------------------------------------

    def hand_in(self, sender: str, recipient: str, subject: str, *, starttls: bool = True) -> str:
        """A user submits a mail; returns its Message-ID, without brackets."""
        message_id, message = compose(sender, recipient, subject)
        receipt = self.users[sender].hand_in(recipient, message, starttls=starttls)
        self.ident = receipt.ident
        expect(receipt.code == 250 and bool(receipt.ident), "our server did not take the mail", receipt.reply)
        expect(bool(receipt.tls), "the mail was handed in without TLS", receipt.reply)
        self.step(self._handed_in(sender, receipt, starttls), receipt.reply)
        return message_id

    def _handed_in(self, sender: str, receipt: Receipt, starttls: bool) -> str:
        way = f"port {self.ports.submission}, STARTTLS" if starttls else f"port {self.ports.submissions}, TLS at once"
        return f"{_name(sender)} logs in and submits the mail ({way}, {receipt.tls})"

    def arrives(self, organisation: Organisation, message_id: str) -> Letter:
        """The letter as another organisation received it."""
        return self.until(
            lambda: next((letter for letter in reversed(organisation.letters) if letter.has(message_id)), None),
            lambda: WentWrong(f"the mail did not arrive at {organisation.domain}", self.told()),
        )

    def shown_by_pop3(self, reader: str, message_id: str) -> None:
        """The mail must be in a user's mailbox."""
        user = self.users[reader]
        seen = self.until(
            lambda: user.by_pop3(message_id),
            lambda: WentWrong(f"POP3 does not show the mail in the mailbox of {reader}", self.told()),
            LOGIN_EVERY_S,
        )
        self.step(f"{_name(reader)} reads it by POP3 over TLS (port {self.ports.pop3s})", seen.line)

    def shown_by_imap(self, reader: str, message_id: str) -> None:
        """The same mailbox, by IMAP."""
        user = self.users[reader]
        seen = self.until(
            lambda: user.by_imap(message_id),
            lambda: WentWrong(f"IMAP does not show the mail in the mailbox of {reader}", self.told()),
            LOGIN_EVERY_S,
        )
        self.step(f"{_name(reader)} sees it by IMAP too (port {self.ports.imaps})", seen.line)


def expect(true: bool, otherwise: str, found: str = "") -> None:
    """Raises WentWrong unless something is as it should be."""
    if not true:
        raise WentWrong(otherwise, found)


def _name(address: str) -> str:
    return address.partition("@")[0]


def compose(sender: str, recipient: str, subject: str) -> tuple[str, bytes]:
    """Message-ID (without brackets) and octets of a short mail."""
    message_id = make_msgid(domain=sender.rpartition("@")[2]).strip("<>")
    mail = Composer()
    mail.add_structured("From", sender)
    mail.add_structured("To", recipient)
    mail.add("Subject", subject)
    mail.add_structured("Date", formatdate(localtime=True))
    mail.add_structured("Message-ID", f"<{message_id}>")
    return message_id, mail.text(f"{subject}\n\nThis is a real mail in the playground of Postroad.\n")


# -- the journeys ------------------------------------------------------------------------------------------------------


def local_to_local(stage: Stage) -> None:
    """Submission, a mailbox here, and both ways to read it."""
    message_id = stage.hand_in(DEV, ANNA, "Lunch at noon?")
    stage.shown_by_pop3(ANNA, message_id)
    stage.shown_by_imap(ANNA, message_id)
    stage.event("delivered", ANNA)


def to_another_domain(stage: Stage) -> None:
    """MX by DNS, STARTTLS with a certificate that is verified, and the other server's word for it."""
    # DNS answers are remembered for a while, so the question may have been asked before this journey.
    message_id = stage.hand_in(DEV, BOB, "Greetings from dev.test", starttls=False)
    letter = stage.arrives(stage.friends, message_id)
    expect(f"{FRIENDS}/MX" in stage.asked, f"our server found {FRIENDS} without asking DNS for its MX")
    host = mail_host(FRIENDS)
    stage.step(f"our server asks DNS who takes mail for {FRIENDS}", f"{FRIENDS}. MX 10 {host}.")
    expect(bool(letter.tls), f"the mail went to {host} without TLS", stage.told())
    delivered = stage.event("delivered", BOB)
    expect("250" in delivered.evidence, "the journal does not have the other server's answer", stage.told())
    expect("unverified" not in delivered.where, f"the certificate of {host} was not verified", delivered.where)
    stage.step(f"{host} [{stage.friends.address}] takes it over {letter.tls}", delivered.evidence)
    stage.letters["bob"] = message_id


def from_another_domain(stage: Stage) -> None:
    """The answer to the mail before comes by our own MX."""
    asked = stage.letters.get("bob", "")
    expect(bool(asked), "bob has nothing to answer: the journey before did not reach him")
    posted = stage.until(
        lambda: next((posted for posted in stage.friends.posted if posted.answers == asked), None),
        lambda: WentWrong(f"{BOB} could not send an answer; the log of our server may say why"),
    )
    stage.ident = ident_in(posted.reply)
    expect(posted.code == 250, "our server did not take the answer", posted.reply)
    expect(f"{DOMAIN}/MX" in stage.asked, f"{FRIENDS} found us without asking DNS for our MX")
    over = posted.tls or "no TLS"
    expect(bool(posted.tls), f"{mail_host(DOMAIN)} did not offer TLS", posted.reply)
    stage.step(f"bob's server asks DNS, finds {posted.host}, and hands the answer in over {over}", posted.reply)
    stage.shown_by_pop3(DEV, posted.message_id)
    stage.shown_by_imap(DEV, posted.message_id)
    stage.event("delivered", DEV)


def to_unknown_user(stage: Stage) -> None:
    """Refused at RCPT, so that the sender's own server knows at once and nobody gets a bounce from us."""
    message_id, message = compose(CARL, NOBODY_HERE, "Is anybody there?")
    posted = stage.friends.post(CARL, NOBODY_HERE, message, message_id)
    stage.ident = ident_in(posted.reply)
    expect(posted.reply.startswith("550 5.1.1 "), "our server should have said 550 5.1.1", posted.reply)
    stage.step(f"our server refuses {NOBODY_HERE} while {_name(CARL)}'s server is still on the line", posted.reply)
    expect(bool(stage.ident), "the refusal has no reference to ask about", posted.reply)
    refused = stage.event("refused", NOBODY_HERE)
    stage.step("the refusal is written down under its reference", f"{refused.kind}: {refused.cause}")


def first_says_later(stage: Stage) -> None:
    """A temporary answer defers the mail, and the retry delivers it."""
    before = len(stage.grumpy.refused)
    message_id = stage.hand_in(DEV, GRETA, "Good morning, Greta")
    deferred = stage.event("deferred", GRETA)
    expect("451" in deferred.evidence, "the journal does not have the 451", stage.told())
    expect(
        any(recipient == GRETA and reply.code == 451 for recipient, reply in stage.grumpy.refused[before:]),
        f"{GRUMPY} did not say 451",
        stage.told(),
    )
    waits = max(0.0, (deferred.next_us - deferred.at_us) / 1e6)
    stage.step(f"{mail_host(GRUMPY)} says not now; the next try is in {waits:.0f} s", deferred.evidence)
    stage.arrives(stage.grumpy, message_id)
    delivered = stage.event("delivered", GRETA)
    waited = (delivered.at_us - deferred.at_us) / 1e6
    expect(waited > FIRST_RETRY_S / 2, f"the retry came after {waited:.1f} s, which is no wait", stage.told())
    stage.step(f"the second try, {waited:.1f} s later, is accepted", delivered.evidence)


def bounces(stage: Stage) -> None:
    """A final refusal comes back to the sender as a report that programs can read."""
    message_id = stage.hand_in(DEV, NOBODY_THERE, "Anybody at grumpy.test?")
    bounced = stage.event("bounced", NOBODY_THERE)
    stage.step(f"{mail_host(GRUMPY)} refuses for good", bounced.evidence)
    report = stage.until(
        lambda: find_report(stage.users[DEV].reports(), NOBODY_THERE, message_id),
        lambda: WentWrong(f"no delivery report came to {DEV}", stage.told()),
        LOGIN_EVERY_S,
    )
    status = report_status(report)
    expect(status == "5.1.1", "the report does not give the other server's status 5.1.1", f"Status: {status}")
    how = f"by POP3 over TLS (port {stage.ports.pop3s})"
    stage.step(f"dev reads the report about it {how}", f"Action: failed / Status: {status}")
    found = re.search(rb"^message-id:\s*<([^>\r\n]+)>", report, re.IGNORECASE | re.MULTILINE)
    expect(found is not None, "the report has no Message-ID")
    assert found is not None
    stage.shown_by_imap(DEV, found[1].decode("ascii", "replace"))


def find_report(reports: Iterable[bytes], recipient: str, message_id: str) -> bytes | None:
    """The delivery report about a recipient of a message, told by the original's Message-ID in it."""
    about = recipient.encode()
    original = f"<{message_id}>".encode()
    return next((report for report in reports if about in report and original in report), None)


def report_status(report: bytes) -> str:
    """The status of the first recipient that failed; empty without one (RFC 3464 section 2.3)."""
    if not re.search(rb"^action:\s*failed\s*$", report, re.IGNORECASE | re.MULTILINE):
        return ""
    found = re.search(rb"^status:\s*([245]\.\d{1,3}\.\d{1,3})", report, re.IGNORECASE | re.MULTILINE)
    return found[1].decode() if found else ""


@dataclass(frozen=True, slots=True)
class Journey:
    """One line of the programme."""

    title: str
    walk: Callable[[Stage], None]


JOURNEYS: Final = (
    Journey("From here to here: dev@dev.test writes to anna@dev.test", local_to_local),
    Journey("From here to another domain: dev@dev.test writes to bob@friends.test", to_another_domain),
    Journey("From another domain to here: bob@friends.test answers", from_another_domain),
    Journey("To somebody who does not exist: carl@friends.test writes to nobody@dev.test", to_unknown_user),
    Journey('To a server that says "later": dev@dev.test writes to greta@grumpy.test', first_says_later),
    Journey('To a server that says "never": dev@dev.test writes to nobody@grumpy.test', bounces),
)
