"""Promise P8: every recipient of every message that was accepted ends once, and where is known; or waits in the queue.

accepted = delivered + bounced (reported, or discarded by a rule that says so) + waiting
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from postroad.flow.route import read_signposts
from postroad.values.address import Address
from postroad.values.envelope import Recipient
from tests.fakes.lookup import FAILED, NODATA
from tests.fakes.smtp_server import OK, Drop, FakeSmtp, Raw, Step
from tests.flow.yard import DAY_US, Yard

HOUR_S = 3600.0
MESSAGES = 150
ENDS = ("delivered", "bounced")

AT_RCPT: list[tuple[float, Step]] = [
    (0.70, OK), (0.10, "450 4.2.0 later"), (0.08, "550 5.1.1 unknown"), (0.04, "452 4.5.3 too many"),
    (0.04, "421 4.3.2 closing"), (0.02, Drop()), (0.02, Raw(b"junk\r\n")),
]  # fmt: skip
AT_DOT: list[tuple[float, Step]] = [
    (0.72, OK), (0.10, "451 4.3.0 later"), (0.08, "554 5.7.1 no"), (0.04, "421 4.3.2 closing"), (0.04, Drop()),
    (0.02, Raw(b"2xx fine\r\n")),
]  # fmt: skip
AT_DOOR: list[tuple[float, Step]] = [
    (0.90, "220 fake.test ESMTP"), (0.04, "421 4.3.2 busy"), (0.03, "554 5.7.1 go away"), (0.03, Drop()),
]  # fmt: skip


def moods(rng: Random, odds: list[tuple[float, Step]]) -> Step:
    """One of these, by its odds."""
    return rng.choices([step for _, step in odds], [weight for weight, _ in odds])[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("hours", [6, 8 * 24], ids=["some hours later", "when all has ended"])
async def test_promise_p8_every_recipient_ends_once_or_waits(tmp_path: Path, seed: int, hours: int) -> None:
    rng = Random(seed)
    yard = Yard(tmp_path, delays_s=(300.0, 1800.0, 4 * HOUR_S))
    async with FakeSmtp(
        CONNECT=lambda line: moods(rng, AT_DOOR),
        RCPT=lambda line: moods(rng, AT_RCPT),
        DOT=lambda line: moods(rng, AT_DOT),
    ) as host:
        yard.runner._signposts = read_signposts(port=host.port, allow_private=["127.0.0.0/8"])
        yard.dns.mx_records |= {"x.test": [(1, "mx.x.test")], "y.test": [(1, "mx.x.test"), (2, "my.y.test")]}
        yard.dns.mx_records |= {"null.test": [(0, ".")], "doubt.test": FAILED, "bare.test": NODATA}
        yard.dns.address_records |= {"mx.x.test": ["127.0.0.1"], "my.y.test": ["127.0.0.1"], "bare.test": NODATA}
        yard.runner.start()
        accepted: Counter[tuple[int, str]] = Counter()
        domains = ["x.test"] * 6 + ["y.test"] * 4 + ["null.test", "doubt.test", "bare.test", "nowhere.test"]
        ids: list[int] = []
        for n in range(MESSAGES):
            recipients = [
                Recipient(Address.parse(f"b{n}-{k}@{rng.choice(domains)}"), rng.choice(["", "", "", "NEVER"]))
                for k in range(rng.randrange(1, 4))
            ]
            sender = "" if rng.random() < 0.1 else f"a{n}@ours.test"
            message = yard.send(*recipients, sender=sender, expires_us=yard.clock.wall_us() + DAY_US)
            ids.append(message.id)
            accepted.update((message.id, str(recipient.address)) for recipient in recipients)
        await yard.settled()
        spent = 0.0
        while spent < hours * HOUR_S:
            step = HOUR_S if spent < 48 * HOUR_S else 4 * HOUR_S
            await yard.later(step)
            spent += step
        await yard.runner.drain(1.0)
        waiting = {
            (message, recipient)
            for message, recipient in yard.store.rows("SELECT message, recipient FROM deliveries")
            if message in set(ids)
        }
        ended: Counter[tuple[int, str]] = Counter()
        for ident in ids:
            for event in yard.events(ident):
                if event.kind in ENDS:
                    ended[ident, event.recipient] += 1
                elif event.kind == "discarded":
                    assert event.cause, "thrown away without a reason"
        assert set(ended) | waiting == set(accepted), f"seed {seed}"
        assert not set(ended) & waiting, f"seed {seed}: ended, and still tried"
        assert max(ended.values()) == 1, f"seed {seed}: ended twice"
        if hours > 48:
            assert not waiting, f"seed {seed}: {waiting}"
        arrived = set(host.recipients)
        delivered = {event.recipient for ident in ids for event in yard.events(ident) if event.kind == "delivered"}
        assert delivered <= arrived, f"seed {seed}: said to be delivered, and nobody has it"
        for ident in ids:
            events = yard.events(ident)
            discarded = {event.recipient for event in events if event.kind == "discarded"}
            reported = {event.link for event in events if event.kind == "reported"}
            failed = {event.recipient for event in events if event.kind == "bounced"}
            assert not failed - discarded or reported, f"seed {seed}: {failed} ended, and nobody was told"
            assert not discarded - failed, f"seed {seed}"
        told = b"".join(yard.reports()).lower()
        if hours < 24:
            # No report has ended yet: each of them names whom it is about.
            for ident in ids:
                events = yard.events(ident)
                silent = {event.recipient for event in events if event.kind == "discarded"}
                for recipient in {event.recipient for event in events if event.kind == "bounced"} - silent:
                    assert f"\nfinal-recipient: rfc822; {recipient}\r\n".encode() in told, f"seed {seed}: {recipient}"
    yard.store.connection.close()
