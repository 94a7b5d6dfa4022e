"""Our client and our server talk to each other: every message arrives as it was, every recipient gets its own fate."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroad.values.address import Address
from postroad.values.reply import Reply
from postroad.wire.data import stuff
from postroad.wire.sasl import Credentials
from postroad.wire.smtp import events
from postroad.wire.smtp.client import ClientMachine, TlsWish
from postroad.wire.smtp.extensions import MX, SUBMISSION, Door
from postroad.wire.smtp.server import ServerMachine
from tests.dialogs.runner import FakeSession

ANNA = Address("anna", "a.test")


class Wire:
    """Carries octets between the two, `step` at a time, and does what drivers do."""

    def __init__(self, door: Door, step: int, *, tls: TlsWish = "may", login: Credentials | None = None) -> None:
        self.server = ServerMachine(hostname="b.test", door=door)
        self.session = FakeSession(self.server)
        self.client = ClientMachine(ehlo_name="a.test")
        self.step = step
        self.content = b""
        self.results: list[events.TransactionResult] = []
        self.seen: list[events.ClientEvent] = []
        self.client.start(tls, login)
        self.server.greet(Reply(220, "", "b.test ESMTP"))
        self.run()

    def run(self) -> None:
        """Until neither side has anything more to say."""
        while True:
            down = self.server.take_output()
            for at in range(0, len(down), self.step):
                self.client.receive(down[at : at + self.step])
                self.pull()
            up = self.client.take_output()
            while (event := self.client.next_event()) is not None:
                up += self.react(event)
            if not up and not down:
                return
            for at in range(0, len(up), self.step):
                self.server.receive(up[at : at + self.step])
                self.session.run()

    def pull(self) -> None:
        while (event := self.client.next_event()) is not None:
            content = self.react(event)
            if content:
                self.server.receive(self.client.take_output() + content)
                self.session.run()

    def react(self, event: events.ClientEvent) -> bytes:
        self.seen.append(event)
        match event:
            case events.TlsWanted():
                self.server.tls_started()
                self.client.tls_started()
            case events.TransactionDone():
                self.results.append(event.result)
            case events.SendContent():
                octets = stuff(self.content) if event.stuffed else self.content
                self.client.content_sent()
                return octets
            case _:
                pass
        return b""

    def send(self, content: bytes, locals_: list[str], *, chunking: bool = False) -> list[int]:
        """One transaction; returns each recipient's code."""
        self.content = content
        recipients = [Address(local, "b.test") for local in locals_]
        self.client.begin(ANNA, recipients, size=len(content), chunking=chunking)
        self.run()
        return [reply.code for reply in self.results[-1].recipients]


whole_lines = st.lists(st.text(".ab \xff", max_size=4), max_size=6).map(
    lambda texts: b"".join(text.encode("latin-1") + b"\r\n" for text in texts)
)
FATES = {"bob": 250, "carol": 250, "nobody": 550, "later": 450}


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(whole_lines, st.lists(st.sampled_from(sorted(FATES)), min_size=1, max_size=4), st.booleans()),
        max_size=4,
    ),
    st.sampled_from([1, 5, 10_000]),
)
def test_messages_and_fates(messages: list[tuple[bytes, list[str], bool]], step: int) -> None:
    wire = Wire(MX, step)
    arrived = []
    for content, locals_, chunking in messages:
        assert wire.send(content, locals_, chunking=chunking) == [FATES[local] for local in locals_]
        if any(FATES[local] == 250 for local in locals_):
            arrived.append(content)
    wire.client.quit()
    wire.run()
    assert wire.session.stored == arrived
    assert wire.server.closed
    assert wire.client.closed
    assert isinstance(wire.seen[-1], events.Closed)


@pytest.mark.parametrize("step", [1, 10_000])
def test_submission_by_starttls_and_login(step: int) -> None:
    wire = Wire(SUBMISSION, step, tls="must", login=Credentials("user", "secret"))
    assert wire.server.authenticated_as == "user"
    assert wire.server.tls
    assert wire.send(b"hello\r\n", ["bob"]) == [250]
    assert wire.session.stored == [b"hello\r\n"]


def test_a_wrong_password_is_refused() -> None:
    wire = Wire(SUBMISSION, 10_000, tls="must", login=Credentials("user", "wrong"))
    refused = [event for event in wire.seen if isinstance(event, events.Refused)]
    assert [(event.stage, event.reply.code) for event in refused] == [("auth", 535)]
    assert wire.server.closed


def test_content_that_is_refused_is_refused_for_all() -> None:
    wire = Wire(MX, 10_000)
    assert wire.send(b"REFUSE\r\n", ["bob", "later", "carol"]) == [554, 450, 554]
    assert wire.send(b"fine\r\n", ["bob"], chunking=True) == [250]
