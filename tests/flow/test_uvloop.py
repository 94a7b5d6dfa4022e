"""The way out on the loop that workers run on: uvloop's transports are not asyncio's."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import uvloop

from postroad.flow.outbound import Manner
from postroad.net.tls import ClientTls, ServerTls, make_self_signed
from tests.fakes.smtp_server import Drop, FakeSmtp
from tests.flow.yard import Yard, only


def test_delivery_in_the_clear_by_tls_and_after_a_failed_handshake(tmp_path: Path) -> None:
    certificate, key = make_self_signed(["127.0.0.1"], time.time_ns() // 1000)
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)

    async def main() -> None:
        tls = ServerTls(tmp_path / "cert.pem", tmp_path / "key.pem")
        manner = Manner(
            ehlo_name="mail.ours.test", tls=ClientTls(system_roots=False), connect_timeout_s=5.0, patience_s=5.0
        )
        yard = Yard(tmp_path, manner=manner)
        yard.runner.start()
        async with FakeSmtp() as plain, FakeSmtp(tls=tls.context) as secure, FakeSmtp(STARTTLS=Drop()) as trap:
            for name, host in (("plain.test", plain), ("secure.test", secure), ("trap.test", trap)):
                yard.host(name, host)
            sent = yard.send("b@plain.test", "b@secure.test", "b@trap.test")
            await yard.settled()
            assert [only(host.messages).tls for host in (plain, secure, trap)] == [False, True, False]
            where = {e.recipient: e.where for e in yard.events(sent.id) if e.kind == "delivered"}
            assert where["b@secure.test"].endswith(" unverified")
            assert where["b@plain.test"].endswith(f":{plain.port}")
            await yard.runner.drain(1.0)
        yard.store.connection.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
