"""Programs of this machine send by sendmail(8): by the socket, and by the maildrop of a server that is down."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from postroad.net.tls import make_self_signed, write_private
from tests.e2e.mail import Ran, arrived, until
from tests.live import LiveServer, live_server

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

NOBODY = 65534
root_only = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")

START = (
    "import os, sys, pwd, json, tomllib, postroad.console.sendmail_drop, postroad.console.sendmail_pipe\n"
    "import postroad.console.mailq, postroad.console.cli.stores, postroad.console.cli.place, postroad.config.load\n"
    "import postroad.store.selection, postroad.store.whole\n"
    "from postroad.console.sendmail import main\n"
    "name, uid = sys.argv[1:3]; sys.argv[:3] = [name]\n"
    "if uid: os.setgroups([]); os.setgid(int(uid)); os.setuid(int(uid))\n"
    "sys.exit(main())"
)
"""Everything is loaded first, because another user may not enter the folder of the interpreter."""


class Machine(LiveServer):
    """A server with a socket and a maildrop that every user can reach."""

    @property
    def certificate(self) -> Path:
        """What clients are given as their only authority."""
        return self.folder / "server.pem"

    @property
    def maildrop(self) -> Path:
        """Where mail waits."""
        return self.folder / "maildrop"

    def sendmail(self, *words: str, given: bytes = b"", user: int | None = None, name: str = "sendmail") -> Ran:
        """Run it to its end, as another user where one is named."""
        done = subprocess.run(
            [sys.executable, "-c", START, name, "" if user is None else str(user), *words],
            input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=50, check=False,
            env=os.environ | {"POSTROAD_CONFIG": str(self.config_file)},
        )  # fmt: skip
        return Ran(done.returncode, done.stdout.decode())


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="postroad-"))
    folder.chmod(0o755)
    certificate, key = make_self_signed(("mx.local.test", "localhost"), time.time_ns() // 1000)
    write_private(folder / "server.pem", certificate)
    write_private(folder / "server.key", key)
    section = (
        f'local = ["{folder}/submit.sock"]\n[local]\nmaildrop = "{folder}/maildrop"\n'
        f'[tls]\ncertificate = "{folder}/server.pem"\nkey = "{folder}/server.key"\n'
        # Nobody answers there: mail for elsewhere waits.
        '[dns]\nnameservers = ["127.0.0.1:1"]\ntimeout_s = 0.2\n'
    )
    try:
        with live_server(folder, kind=Machine, config=section) as started:
            assert isinstance(started, Machine)
            yield started
            assert "Traceback" not in started.log()
            assert "whole, every rule holds" in started.run("verify")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def account(machine: Machine) -> str:
    address = f"user{next(_numbers)}@{machine.domain}"
    machine.add_user(address)
    return address


_numbers = itertools.count(1)


def inbox(machine: Machine, account: str, count: int = 1) -> list[bytes]:
    return arrived(machine, account, count)


def test_like_php(machine: Machine, account: str) -> None:
    given = f"To: {account}\nSubject: order\nBcc: anna@local.test\n\nThank you\n.\nfor nothing\n".encode()
    assert machine.sendmail("-t", "-i", "-f", "shop@example.test", given=given) == (0, "")
    [raw] = inbox(machine, account)
    assert raw.startswith(b"Return-Path: <shop@example.test>\r\n")
    assert b"Bcc" not in raw
    assert b"<shop@example.test>\r\nDate: " in raw
    assert raw.endswith(b"\r\n\r\nThank you\r\n.\r\nfor nothing\r\n")


@root_only
def test_two_users_and_their_names(machine: Machine, account: str) -> None:
    mail = b"Subject: s\n\nhi\n"
    assert machine.sendmail("-i", account, given=mail, user=NOBODY) == (0, "")
    status, output = machine.sendmail("-f", "boss@bank.test", account, given=mail, user=NOBODY)
    assert status == 77
    assert "nobody) may not send as boss@bank.test" in output
    assert machine.sendmail("-f", "boss@bank.test", account, given=mail) == (0, "")
    senders = {raw.partition(b"\r\n")[0] for raw in inbox(machine, account, 2)}
    assert senders == {b"Return-Path: <nobody@mx.local.test>", b"Return-Path: <boss@bank.test>"}


def test_an_unknown_recipient(machine: Machine) -> None:
    status, output = machine.sendmail("x@local.test", given=b"hi\n")
    assert status == 67
    assert "No mailbox x@local.test here" in output
    reference = output.split("Ref ")[1].split()[0]
    assert "no such mailbox" in machine.run("why", reference)


def test_smtp_on_standard_input(machine: Machine, account: str) -> None:
    dialog = f"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<{account}>\r\nDATA\r\n"
    status, output = machine.sendmail("-bs", given=dialog.encode())
    assert status == 0
    assert "354 " in output
    status, output = machine.sendmail("-bv", account, "x@local.test")
    assert status == 67
    assert f"{account} ... deliverable" in output


def test_a_large_message_arrives_whole(machine: Machine, account: str) -> None:
    text = b"0123456789abcdef" * 60 + b"\n"
    assert machine.sendmail("-i", account, given=b"Subject: big\n\n" + text * 3000) == (0, "")
    [raw] = inbox(machine, account)
    assert raw.endswith(b"\r\n\r\n" + text.replace(b"\n", b"\r\n") * 3000)


def test_more_than_the_server_takes(machine: Machine, account: str) -> None:
    status, output = machine.sendmail("-i", account, given=b"Subject: x\n\n" + b"y" * 70 * 1024 + b"\n")
    assert status == 65
    assert "line that is longer" in output


def test_mail_for_a_server_that_is_down_arrives_after_its_start(machine: Machine, account: str) -> None:
    machine.stop()
    try:
        user = NOBODY if os.getuid() == 0 else None
        for number in range(3):
            mail = f"From: root\nTo: {account}\nSubject: number {number}\n\nhi\n".encode()
            assert machine.sendmail("-t", "-i", given=mail, user=user) == (0, "")
        assert len(list(machine.maildrop.iterdir())) == 3
        assert machine.sendmail("-bs", given=b"")[0] == 75
        status, output = machine.sendmail(name="mailq")
        assert (status, "3 in the maildrop" in output) == (0, True), output
        assert machine.maildrop.stat().st_mode & 0o7777 == 0o3733
    finally:
        machine.start()
    mails = inbox(machine, account, 3)
    until(lambda: not list(machine.maildrop.iterdir()))
    assert {raw.split(b"Subject: ")[1][:8] for raw in mails} == {b"number 0", b"number 1", b"number 2"}
    assert b"From: root@mx.local.test\r\n" in mails[0]


def test_a_file_that_became_a_message_before_a_crash_is_not_sent_again(machine: Machine, account: str) -> None:
    output = machine.sendmail("-v", account, given=b"Subject: once\n\nhi\n").output
    found = re.search(r"Queued as ([0-9A-Z]{13})", output)
    assert found is not None
    file = machine.maildrop / f"1-left.mail.{found[1]}"
    unfinished = machine.maildrop / "tmp.left"
    unfinished.write_bytes(f'{{"recipients": ["{account}"]}}\n'.encode() + b"Subject: once\r\n\r\nhi\r\n")
    unfinished.rename(file)
    until(lambda: not list(machine.maildrop.iterdir()))
    assert len(inbox(machine, account)) == 1
    assert f"is message {found[1]} already" in machine.log()


def test_the_queue_as_scripts_read_it(machine: Machine) -> None:
    assert machine.sendmail(name="newaliases")[0] == 0
    assert machine.sendmail(name="mailq") == (0, "Mail queue is empty\n")
    assert machine.sendmail("-f", "anna@local.test", "bob@remote.test", "eve@remote.test", given=b"hi\n")[0] == 0
    output = until(lambda: _with_reasons(machine.sendmail("-bp").output))
    heading, first, *rest = output.split("\n")
    assert heading.startswith("-Queue ID-")
    assert re.fullmatch(r"[0-9A-Z]{13} +\d+ +\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d  anna@local\.test", first)
    assert [line.strip() for line in rest if line.endswith("@remote.test")] == ["bob@remote.test", "eve@remote.test"]
    assert re.search(r"\n-- \d+ Kbytes in 1 Request\.\n$", output)
    ident = first.split()[0]
    assert "Could not look up remote.test" in machine.sendmail("-Mvl", ident).output
    assert machine.sendmail("-q")[0] == machine.sendmail(f"-qI{ident}")[0] == machine.sendmail("-qRremote.test")[0] == 0
    assert machine.sendmail("-Mrm", ident)[0] == 0
    assert machine.sendmail(name="mailq") == (0, "Mail queue is empty\n")
    assert machine.sendmail("-q")[0] == 0


def _with_reasons(output: str) -> str:
    """The output once the first attempts have failed."""
    return output if "    (" in output else ""


@root_only
def test_the_queue_is_not_for_everybody(machine: Machine) -> None:
    assert machine.sendmail(name="mailq", user=NOBODY)[0] == 77
