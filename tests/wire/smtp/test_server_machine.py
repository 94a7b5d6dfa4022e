"""Class E2: after any reply no state of an ended transaction survives, whatever came before it.

Random commands, cut at random, answered at random, are told to the machine and to a model of a few lines. The model
says which codes must come and how many recipients are accepted; behind every step it also asks, where no transaction is
open, whether RCPT, DATA and BDAT are refused as out of sequence and whether SMTPUTF8 is forgotten.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from postroad.values.reply import Reply
from postroad.wire.smtp import events
from postroad.wire.smtp.extensions import LMTP, MX, SUBMISSION, SUBMISSIONS
from postroad.wire.smtp.limits import MachineLimits
from postroad.wire.smtp.mode import Mode
from postroad.wire.smtp.server import ServerMachine

SIZE = 64
RECIPIENTS = 3
LIMITS = MachineLimits(
    size=SIZE, recipients=RECIPIENTS, errors=10**9, junk=10**9, logins=10**9, chunks=10**9, long_lines=10**9
)
DOORS = (
    replace(MX, xclient=True, binarymime=True),
    replace(SUBMISSION, xclient=True, must_auth=True),
    replace(SUBMISSIONS, binarymime=True, must_auth=True),
    replace(LMTP, binarymime=True),
)

codes = st.sampled_from([250, 250, 250, 451, 550])
cuts = st.lists(st.integers(0, 200), max_size=4)
bodies = st.sampled_from(["", "8BITMIME", "BINARYMIME"])
mails = st.tuples(st.just("mail"), st.booleans(), bodies, codes)
rcpts = st.tuples(st.just("rcpt"), st.booleans(), codes)
bdats = st.tuples(st.just("bdat"), st.sampled_from([0, 3, 40, 100]), st.booleans(), codes)
simple = st.tuples(st.sampled_from(["rset", "noop", "vrfy"]))
flights = st.lists(st.one_of(mails, rcpts, rcpts, bdats, simple), min_size=1, max_size=5)


@dataclass
class Model:
    """What a session is, said as simply as it can be."""

    greeted: bool = False
    tls: bool = False
    login: str = ""
    mail: bool = False
    utf8: bool = False
    binary: bool = False
    accepted: int = 0
    size: int = 0
    chunked: bool = False

    def end(self) -> None:
        """The transaction is over, and with it all that belongs to one."""
        self.mail = self.utf8 = self.binary = self.chunked = False
        self.accepted = self.size = 0

    def begin_anew(self) -> None:
        """As behind the greeting."""
        self.end()
        self.greeted = False
        self.login = ""


class Conversation(RuleBasedStateMachine):
    """Each rule tells the machine something and the model what must come of it."""

    machine_type: type[ServerMachine] = ServerMachine

    @initialize(door=st.sampled_from(DOORS))
    def connect(self, door: Any) -> None:
        self.door = door
        self.machine = self.machine_type(hostname="mx.test", door=door, limits=LIMITS)
        self.machine.greet(Reply(220, "", "mx.test"))
        self.machine.take_output()
        self.model = Model(tls=self.machine.tls)
        self.answers: deque[Any] = deque()
        self.ends = 0

    # -- sending ---------------------------------------------------------------------------------------------------

    def tell(self, octets: bytes, expected: list[int], places: list[int]) -> None:
        """Send octets in pieces; the codes that come back are the expected ones, and every answer was asked for."""
        edges = sorted({0, len(octets), *(place for place in places if place < len(octets))})
        for start, end in pairwise(edges):
            self.machine.receive(octets[start:end])
            self.pull()
        lines = re.findall(rb"^(\d\d\d) ", self.machine.take_output(), re.MULTILINE)
        assert [int(code) for code in lines] == expected, (octets, expected)
        assert not self.answers, octets

    def pull(self) -> None:
        while (event := self.machine.next_event()) is not None:
            if isinstance(event, events.EndOfStream):
                self.ends += 1
            elif not isinstance(event, events.Content | events.ContentRefused):
                self.answer(event)

    def answer(self, event: events.Command) -> None:
        reply = self.answers.popleft()
        if isinstance(event, events.Auth | events.AuthResponse) and reply.code == 235:
            self.machine.authenticated("anna")
        if isinstance(event, events.ContentEnd) and self.door.lmtp:
            self.machine.answer_all([reply] * self.machine.accepted_recipients)
        else:
            self.machine.answer(event.reply if isinstance(event, events.AuthCancel) else reply)

    def will_say(self, code: int) -> int:
        self.answers.append(Reply(code, "", "said"))
        return code

    # -- commands that may stand in one flight ----------------------------------------------------------------------

    @rule(commands=flights, places=cuts)
    def flight(self, commands: list[tuple[Any, ...]], places: list[int]) -> None:
        self.fly(commands, places)

    def fly(self, commands: list[tuple[Any, ...]], places: list[int]) -> None:
        octets = b""
        expected: list[int] = []
        for name, *arguments in commands:
            sent, comes = getattr(self, "plan_" + name)(*arguments)
            octets += sent
            expected += comes
        self.tell(octets, expected, places)

    def plan_mail(self, utf8: bool, body: str, code: int) -> tuple[bytes, list[int]]:
        line = b"MAIL FROM:<a@x.test>" + b" SMTPUTF8" * utf8 + (f" BODY={body}" if body else "").encode() + b"\r\n"
        model = self.model
        if not model.greeted or model.mail:
            return line, [503]
        if self.door.must_auth and not model.login:
            return line, [530]
        if body == "BINARYMIME" and not self.door.binarymime:
            return line, [501]
        if code == 250:
            model.mail, model.utf8, model.binary = True, utf8, body == "BINARYMIME"
        return line, [self.will_say(code)]

    def plan_rcpt(self, utf8: bool, code: int) -> tuple[bytes, list[int]]:
        line = "RCPT TO:<ä@x.test>\r\n".encode() if utf8 else b"RCPT TO:<b@x.test>\r\n"
        model = self.model
        if not model.mail or model.chunked:
            return line, [503]
        if model.accepted == RECIPIENTS:
            return line, [452]
        if utf8 and not model.utf8:
            return line, [553]
        model.accepted += code == 250
        return line, [self.will_say(code)]

    def plan_bdat(self, size: int, last: bool, code: int) -> tuple[bytes, list[int]]:
        model = self.model
        size = min(size, SIZE)
        content = (b"\0\r." if model.binary else b"xyz") * SIZE
        octets = b"BDAT %d%s\r\n" % (size, b" LAST" * last) + content[:size]
        if not model.mail:
            return octets, [503]
        if not model.accepted:
            if last and self.door.lmtp:
                model.end()
                return octets, []
            return octets, [503 if self.door.lmtp else 554]
        model.chunked = True
        model.size += size
        times = model.accepted if last and self.door.lmtp else 1
        if model.size > SIZE:
            model.end()
            return octets, [552] * times
        if last or code != 250:
            model.end()
        return octets, [self.will_say(code)] * times

    def plan_rset(self) -> tuple[bytes, list[int]]:
        self.model.end()
        return b"RSET\r\n", [self.will_say(250)]

    def plan_noop(self) -> tuple[bytes, list[int]]:
        return b"NOOP\r\n", [self.will_say(250)]

    def plan_vrfy(self) -> tuple[bytes, list[int]]:
        return "VRFY ä@x.test\r\n".encode(), [self.will_say(252)]

    # -- the way into a transaction, where most of what can go wrong goes wrong ---------------------------------------

    @rule(recipients=st.integers(1, RECIPIENTS), utf8=st.booleans(), body=bodies, rest=flights, places=cuts)
    def begin(self, recipients: int, utf8: bool, body: str, rest: list[tuple[Any, ...]], places: list[int]) -> None:
        """All that a transaction needs first, then its beginning and what follows in one flight."""
        self.enter()
        commands: list[tuple[Any, ...]] = [("rset",), ("mail", utf8, body, 250)]
        self.fly([*commands, *[("rcpt", utf8, 250)] * recipients, *rest], places)

    def enter(self) -> None:
        model, verb = self.model, "LHLO" if self.door.lmtp else "EHLO"
        if self.door.must_auth and not model.tls:
            self.say_hello(verb, 250, [])
            self.start_tls(220, [])
        if not model.greeted:
            self.say_hello(verb, 250, [])
        if self.door.must_auth and not model.login:
            self.tell(*self.plan_rset(), [])
            self.log_in("ok", [])

    # -- commands that stand alone ----------------------------------------------------------------------------------

    @rule(verb=st.sampled_from(["EHLO", "HELO", "LHLO"]), code=codes, places=cuts)
    def hello(self, verb: str, code: int, places: list[int]) -> None:
        self.say_hello(verb, code, places)

    def say_hello(self, verb: str, code: int, places: list[int]) -> None:
        if (verb == "LHLO") != self.door.lmtp:
            self.tell(verb.encode() + b" x\r\n", [500], places)
            return
        if code == 250:
            self.model.end()
            self.model.greeted = True
        self.tell(verb.encode() + b" x\r\n", [self.will_say(code)], places)

    @rule(go=st.sampled_from([354, 354, 451]), size=st.sampled_from([0, 10, 100]), code=codes, places=cuts)
    def data(self, go: int, size: int, code: int, places: list[int]) -> None:
        model = self.model
        if not model.mail or model.chunked or model.binary:
            self.tell(b"DATA\r\n", [503], places)
        elif not model.accepted:
            self.tell(b"DATA\r\n", [503 if self.door.lmtp else 554], places)
        else:
            self.tell(b"DATA\r\n", [self.will_say(go)], places)
            times = model.accepted if self.door.lmtp else 1
            model.end()
            if go == 354:
                expected = [552] if size > SIZE else [self.will_say(code)]
                self.tell(b"x" * size + b"\r\n.\r\n", expected * times, places)

    @rule(code=st.sampled_from([220, 454]), places=cuts)
    def starttls(self, code: int, places: list[int]) -> None:
        self.start_tls(code, places)

    def start_tls(self, code: int, places: list[int]) -> None:
        model = self.model
        if model.tls or not self.door.starttls:
            self.tell(b"STARTTLS\r\n", [503 if model.tls else 502], places)
        elif not model.greeted or model.mail:
            self.tell(b"STARTTLS\r\n", [503], places)
        else:
            self.tell(b"STARTTLS\r\n", [self.will_say(code)], places)
            if code == 220:
                assert self.machine.mode is Mode.HANDSHAKE
                self.machine.tls_started()
                model.begin_anew()
                model.tls = True

    @rule(outcome=st.sampled_from(["ok", "ok", "failed", "cancelled"]), places=cuts)
    def auth(self, outcome: str, places: list[int]) -> None:
        self.log_in(outcome, places)

    def log_in(self, outcome: str, places: list[int]) -> None:
        model = self.model
        if not self.door.auth or not model.greeted or not model.tls or model.login or model.mail:
            refusal = 502 if not self.door.auth else 538 if model.greeted and not model.tls else 503
            self.tell(b"AUTH PLAIN AGEAYg==\r\n", [refusal], places)
        elif outcome == "cancelled":
            self.will_say(334)
            self.will_say(0)  # what is said is the event's own reply
            self.tell(b"AUTH LOGIN\r\n*\r\n", [334, 501], places)
        else:
            model.login = "anna" if outcome == "ok" else ""
            self.tell(b"AUTH PLAIN AGEAYg==\r\n", [self.will_say(235 if outcome == "ok" else 535)], places)

    @rule(code=st.sampled_from([220, 550]), login=st.booleans(), places=cuts)
    def xclient(self, code: int, login: bool, places: list[int]) -> None:
        line = b"XCLIENT ADDR=192.0.2.1" + b" LOGIN=bob" * login + b"\r\n"
        if not self.door.xclient:
            self.tell(line, [502], places)
        elif self.model.mail:
            self.tell(line, [503], places)
        else:
            self.tell(line, [self.will_say(code)], places)
            if code == 220:
                self.model.begin_anew()
                self.model.login = "bob" if login else ""

    # -- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def machine_and_model_agree(self) -> None:
        assert self.machine.accepted_recipients == self.model.accepted
        assert self.machine.authenticated_as == self.model.login
        assert self.machine.tls == self.model.tls
        assert self.machine.mode is Mode.COMMAND

    @invariant()
    def nothing_of_an_ended_transaction_survives(self) -> None:
        if self.model.mail:
            return
        self.tell(b"RCPT TO:<b@x.test>\r\n", [503], [])
        self.tell(b"BDAT 3 LAST\r\nabc", [503], [])
        self.tell(b"DATA\r\n", [503], [])
        if not self.model.greeted:
            self.tell(b"MAIL FROM:<>\r\n", [503], [])
        elif self.model.login or not self.door.must_auth:
            self.will_say(250)
            self.tell("MAIL FROM:<>\r\nRCPT TO:<ä@x.test>\r\n".encode(), [250, 553], [])
            self.tell(b"RSET\r\n", [self.will_say(250)], [])

    def teardown(self) -> None:
        """BINARYMIME is forgotten too, which costs the connection to show."""
        self.tell(*self.plan_rset(), [])
        open_now = self.model.greeted and (self.model.login or not self.door.must_auth)
        if open_now:
            self.will_say(250)
            self.will_say(250)
            octets = b"MAIL FROM:<>\r\nRCPT TO:<b@x.test>\r\nBDAT 3 LAST\r\na\nb"
            self.tell(octets, [250, 250, 521], [])
        else:
            self.tell(b"QUIT\r\n", [self.will_say(221)], [])
        assert self.machine.closed
        assert self.ends == 1


class KeepsAfterRefusedChunk(ServerMachine):
    """Wrong on purpose, as Postfix was before 20260724: a refused BDAT leaves the transaction open."""

    def answer(self, reply: Reply) -> None:
        kept = self._transaction if isinstance(self._open, events.ChunkEnd) else None
        super().answer(reply)
        if kept is not None and reply.code >= 300:
            self._transaction = kept


class KeepsHelloOverTls(ServerMachine):
    """Wrong on purpose: what was known in the clear is still known behind the handshake."""

    def tls_started(self) -> None:
        greeted = self._greeted
        super().tls_started()
        self._greeted = greeted


class ForgetsFlagsTooLate(ServerMachine):
    """Wrong on purpose: SMTPUTF8 of one transaction still holds in the next."""

    def answer(self, reply: Reply) -> None:
        before = getattr(self, "_utf8_once", False)
        super().answer(reply)
        transaction = self._transaction
        if transaction is not None:
            if before and not transaction.params.smtputf8:
                transaction.params = replace(transaction.params, smtputf8=True)
            self._utf8_once = before or transaction.params.smtputf8


@pytest.mark.slow
def test_no_state_of_an_ended_transaction_survives() -> None:
    run_state_machine_as_test(Conversation, settings=settings(max_examples=60, stateful_step_count=25, deadline=None))


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [KeepsAfterRefusedChunk, KeepsHelloOverTls, ForgetsFlagsTooLate])
def test_the_model_objects_to_a_machine_that_keeps_state(wrong: type[ServerMachine]) -> None:
    class WrongConversation(Conversation):
        machine_type = wrong

    few = settings(
        max_examples=200,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        phases=[phase for phase in settings().phases if phase.name == "generate"],
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(WrongConversation, settings=few)
