"""Callouts: the host behind a gateway domain is asked at RCPT whether it would take the recipient.

One question is `MAIL FROM:<>` and `RCPT TO:<address>` on a connection that is kept for the next one. The first question
to a domain in an hour adds a recipient that cannot exist: a host that takes that one takes everything, so that its yes
means nothing, and it is not asked again meanwhile.

What is kept, per worker:
- yes for two hours: long enough that mail to somebody costs few questions, short enough that who has left is refused
  the same day; what a worker forgets, the store still knows for the time the host is down;
- no for ten minutes: an address that was just made works soon, and a guesser's list is not asked through again;
- a host that could not be reached for half a minute: RCPTs answer at once instead of waiting for it one by one.
A doubt about one recipient is not kept. The key of everything kept has the next hop in it, so that nothing one host
said is ever taken for the word of another.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from random import Random
from secrets import token_hex
from typing import Final

from postroad.flow.gateway import Heard, Standing, judge_recipient
from postroad.flow.outbound import Courier, Manner, NoCourier
from postroad.flow.route import Hop, Signposts, plan_gateway
from postroad.store.account_records import Gateway, GatewayKnown
from postroad.values.address import Address
from postroad.values.errors import StoreBroken
from postroad.values.next_hop import parse_next_hop
from postroad.values.outcome import Outcome
from postroad.values.ports import Clock, Lookup
from postroad.values.reply import Reply

log = logging.getLogger(__name__)

ANSWER_MAX_S: Final = 10.0
"""One question from the connection to the answer: a client waits at RCPT meanwhile, and it has patience for minutes."""

LINE_MAX_S: Final = 10.0
"""How long a question waits for its turn; with `ANSWER_MAX_S` behind it a RCPT is still answered within 30 s."""

TAKEN_S: Final = 7200.0
REFUSED_S: Final = 600.0
SILENT_S: Final = 30.0
PROBE_S: Final = 3600.0
"""How long what was found out is used; the reasons stand above."""

ANSWERS_MAX: Final = 50_000
"""Answers kept by one worker, about 300 octets each; the one used longest ago goes first."""

CONNECTIONS_MAX: Final = 10
"""Questions to one host at a time by one worker; more wait in line, each for `LINE_MAX_S`."""

IDLE_S: Final = 15.0
"""How long a connection waits for the next question."""

QUESTIONS_MAX: Final = 100
"""Questions on one connection: some hosts end a session that only asks."""


class Callout:
    """Asks the hosts of gateway domains for one worker. `learned` is told what the store should know."""

    def __init__(
        self,
        *,
        signposts: Signposts,
        lookup: Lookup,
        manner: Manner,
        clock: Clock,
        learned: Callable[[GatewayKnown], None],
        rng: Random | None = None,
    ) -> None:
        self._signposts = signposts
        self._lookup = lookup
        self._manner = manner
        self._now = clock.monotonic
        self._learned = learned
        self._rng = rng or Random()
        self._answers: OrderedDict[tuple[str, str], tuple[float, Heard]] = OrderedDict()
        self._probes: dict[tuple[str, str], tuple[float, bool]] = {}
        """By next hop and domain: until when it is known, and whether the host takes everything."""
        self._asking: dict[tuple[str, str], asyncio.Task[Heard]] = {}
        self._hosts: dict[str, _Host] = {}

    async def ask(self, gateway: Gateway, address: Address) -> Heard:
        """How the recipient stands, from memory or from the host; never raises."""
        now = self._now()
        probed = self._probes.get((gateway.next_hop, gateway.domain))
        if probed is not None and probed[1] and probed[0] > now:
            return Heard(Standing.TAKEN, "the host takes every recipient")
        key = (gateway.next_hop, gateway.key)
        kept = self._answers.get(key)
        if kept is not None and kept[0] > now:
            self._answers.move_to_end(key)
            return kept[1]
        host = self._host(gateway.next_hop)
        if host.silent_until > now:
            return Heard(Standing.DOUBT, host.why)
        # The same recipient in two sessions is one question; and if the host should be ourselves, the question that
        # comes back here ends in the first one instead of going round.
        task = self._asking.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._find_out(host, gateway, address))
            self._asking[key] = task
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Ends every question and connection."""
        for task in list(self._asking.values()):
            task.cancel()
        for host in self._hosts.values():
            host.close()

    def _host(self, next_hop: str) -> _Host:
        host = self._hosts.get(next_hop)
        if host is None:
            host = self._hosts[next_hop] = _Host()
        return host

    # -- one question ------------------------------------------------------------------------------------------------

    async def _find_out(self, host: _Host, gateway: Gateway, address: Address) -> Heard:
        try:
            async with asyncio.timeout(LINE_MAX_S):
                await host.places.acquire()
        except TimeoutError:  # which says nothing of the host: others ask too much
            return Heard(Standing.DOUBT, f"too many questions wait for {gateway.next_hop}")
        try:
            return await self._have_turn(host, gateway, address)
        finally:
            host.places.release()

    async def _have_turn(self, host: _Host, gateway: Gateway, address: Address) -> Heard:
        if host.silent_until > self._now():
            return Heard(Standing.DOUBT, host.why)
        try:
            async with asyncio.timeout(ANSWER_MAX_S):
                return await self._ask_host(host, gateway, address)
        except TimeoutError:
            return self._silent(host, f"{gateway.next_hop} did not answer within {ANSWER_MAX_S:g} s")
        except StoreBroken as error:
            return Heard(Standing.DOUBT, str(error))
        except Exception:
            log.exception("a callout to %s met a bug", gateway.next_hop)
            return Heard(Standing.DOUBT, "an error of our own; see the log")

    async def _ask_host(self, host: _Host, gateway: Gateway, address: Address) -> Heard:
        way = await plan_gateway(gateway.domain, parse_next_hop(gateway.next_hop), self._signposts, self._lookup)
        if isinstance(way, Outcome):
            return self._silent(host, way.cause)
        recipients = [address, *self._probe(gateway)]
        why = "no address to connect to"
        async for courier in self._couriers(host, way.hops(self._rng)):
            if isinstance(courier, NoCourier):
                why = f"{courier.outcome.cause} {courier.outcome.reply or ''}".rstrip()
                continue
            try:
                replies = await courier.ask(recipients)
            except BaseException:
                courier.abort()
                raise
            if isinstance(replies, Outcome):
                courier.abort()
                why = f"{courier.where}: {replies.cause}: {replies.reply}"
                continue
            host.keep(courier, self._now())
            return self._hear(gateway, courier.where, replies)
        return self._silent(host, why)

    async def _couriers(self, host: _Host, hops: list[Hop]) -> AsyncIterator[Courier | NoCourier]:
        """Connections to try: one that is open, then a fresh one to each address."""
        waiting = host.take(self._now())
        if waiting is not None:
            yield waiting
        for hop in hops:
            opened = await Courier.open(hop, self._manner, _NO_BODIES)
            if isinstance(opened, NoCourier) and opened.try_plain:
                # RFC 7435: encryption that fails must not cost the answer.
                opened = await Courier.open(hop, self._manner, _NO_BODIES, plain=True)
            yield opened

    def _probe(self, gateway: Gateway) -> list[Address]:
        """A recipient that cannot exist, when it is time to ask for one."""
        until, _ = self._probes.get((gateway.next_hop, gateway.domain), (0.0, False))
        return [Address(f"no-such-user-{token_hex(8)}", gateway.domain)] if until <= self._now() else []

    # -- what it means -----------------------------------------------------------------------------------------------

    def _hear(self, gateway: Gateway, where: str, replies: list[Reply]) -> Heard:
        now = self._now()
        probe = (gateway.next_hop, gateway.domain)
        if len(replies) > 1:
            sure = judge_recipient(replies[1]) is not Standing.DOUBT
            self._probes[probe] = (now + (PROBE_S if sure else REFUSED_S), replies[1].positive)
        everything = self._probes[probe][1]
        heard = Heard(judge_recipient(replies[0]), f"{where} said {replies[0]}")
        if heard.standing is Standing.TAKEN and not everything:
            self._keep(gateway, heard, now + TAKEN_S)
            self._learned(GatewayKnown(gateway.domain, gateway.next_hop, [gateway.key], []))
        elif heard.standing is Standing.REFUSED:
            self._keep(gateway, heard, now + REFUSED_S)
            self._learned(GatewayKnown(gateway.domain, gateway.next_hop, [], [gateway.key]))
        return heard

    def _keep(self, gateway: Gateway, heard: Heard, until: float) -> None:
        answers = self._answers
        key = (gateway.next_hop, gateway.key)
        answers[key] = (until, heard)
        answers.move_to_end(key)
        if len(answers) > ANSWERS_MAX:
            answers.popitem(last=False)

    def _silent(self, host: _Host, why: str) -> Heard:
        """The host said nothing about the recipient; it is left alone for a while."""
        host.silent_until = self._now() + SILENT_S
        host.why = why
        return Heard(Standing.DOUBT, why)


class _Host:
    """The connections to one next hop, and its silence."""

    __slots__ = ("_timer", "_waiting", "places", "silent_until", "why")

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(CONNECTIONS_MAX)
        self.silent_until = 0.0
        self.why = ""
        self._waiting: list[tuple[float, Courier]] = []
        self._timer: asyncio.TimerHandle | None = None

    def take(self, now: float) -> Courier | None:
        """The connection that was used last, if it still lives."""
        while self._waiting:
            since, courier = self._waiting.pop()
            if courier.usable and now - since < IDLE_S:
                return courier
            courier.abort()
        return None

    def keep(self, courier: Courier, now: float) -> None:
        """Leaves a connection for the next question."""
        if not courier.usable or courier.carried >= QUESTIONS_MAX:
            courier.abort()
            return
        self._waiting.append((now, courier))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(IDLE_S, self._sweep, courier)

    def _sweep(self, courier: Courier) -> None:
        """Ends the connections when the one that rang was not used since; else looks again later."""
        self._timer = None
        if self._waiting and self._waiting[-1][1] is not courier:
            self._timer = asyncio.get_running_loop().call_later(IDLE_S, self._sweep, self._waiting[-1][1])
            return
        self.close()

    def close(self) -> None:
        """Ends every connection; nothing of theirs is unfinished."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        for _, courier in waiting:
            courier.abort()


class _NoBodies:
    """A question has no message."""

    def read(self, body_file: str) -> AsyncIterator[bytes]:
        raise StoreBroken("a callout has no message")


_NO_BODIES: Final = _NoBodies()
