"""postroad-sendmail against a server that says what the test wants: what is sent, and every exit status."""

from __future__ import annotations

import errno
import io
import json
import os
import pwd
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from postroad.console import sendmail
from tests.console.scripted_server import HANG_UP, scripted

ME = pwd.getpwuid(os.getuid()).pw_name
MAIL = b"From: a@x.test\nTo: b@x.test\nSubject: s\nDate: d\nMessage-ID: <m@x.test>\n\nhello\n"
WIRE = MAIL.replace(b"\n", b"\r\n")


class Desk:
    """One user's sendmail with a socket, a maildrop and a configuration in a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.socket = folder / "submit.sock"
        self.maildrop = folder / "maildrop"
        self.maildrop.mkdir()
        self.config = folder / "postroad.toml"
        self.configure()
        self._monkeypatch = monkeypatch
        monkeypatch.delenv("NAME", raising=False)

    def configure(self, *, maildrop: bool = True, socket: bool = True) -> None:
        """Write the file; a way left out is not offered."""
        listen = f'[listen]\nlocal = ["{self.socket}"]\n' if socket else ""
        self.config.write_text(listen + (f'[local]\nmaildrop = "{self.maildrop}"\n' if maildrop else ""))

    def __call__(self, *words: str, given: bytes | BinaryIO = MAIL, name: str = "sendmail") -> int:
        stdin = io.BytesIO(given) if isinstance(given, bytes) else given
        self._monkeypatch.setenv("POSTROAD_CONFIG", str(self.config))
        self._monkeypatch.setattr(sys, "argv", [f"/usr/sbin/{name}", *words])
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stdin))
        return sendmail.main()

    def left(self) -> list[tuple[dict[str, Any], bytes]]:
        """What lies in the maildrop: slip and message of each file."""
        found = []
        for path in sorted(self.maildrop.iterdir()):
            assert path.name.endswith(".mail")
            line, _, message = path.read_bytes().partition(b"\n")
            found.append((json.loads(line), message))
        return found


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, monkeypatch)


# -- what is sent ------------------------------------------------------------------------------------------------------


def test_a_complete_message_is_sent_as_it_is(desk: Desk) -> None:
    with scripted(desk.socket) as server:
        assert desk("-i", "-f", "a@x.test", "b@x.test") == 0
    assert server.commands == [
        "EHLO localhost", f"MAIL FROM:<a@x.test> SIZE={len(WIRE)}", "RCPT TO:<b@x.test>", "DATA", "QUIT",
    ]  # fmt: skip
    assert server.contents == [WIRE]


def test_like_php(desk: Desk) -> None:
    """mail() of PHP: sendmail -t -i -f x, the header without From, recipients in To and Bcc."""
    with scripted(desk.socket) as server:
        given = b"To: b@x.test\nSubject: s\nX-PHP-Originating-Script: 33:a.php\nBcc: c@x.test\n\n.\nhi\n"
        assert desk("-t", "-i", "-f", "shop@x.test", given=given) == 0
    assert [line for line in server.commands if line.startswith("RCPT")] == [
        "RCPT TO:<b@x.test>", "RCPT TO:<c@x.test>",
    ]  # fmt: skip
    [content] = server.contents
    assert b"Bcc" not in content
    assert content.endswith(b"\r\n\r\n..\r\nhi\r\n")
    assert b"<shop@x.test>\r\nDate: " in content or b"From: shop@x.test\r\nDate: " in content
    assert b"\r\nMessage-ID: <" in content


def test_like_cron(desk: Desk) -> None:
    """Debian's cron: local names everywhere, the recipient on the command line."""
    with scripted(desk.socket) as server:
        given = b"From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@h> job\n\nout\n"
        assert desk("-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root", given=given) == 0
    assert f"MAIL FROM:<{ME}@mx.h.test> SIZE=" in server.commands[1]
    assert server.commands[2] == "RCPT TO:<root@mx.h.test>"
    assert server.contents[0].startswith(b"From: root@mx.h.test (Cron Daemon)\r\nTo: root@mx.h.test\r\n")


def test_text_without_a_header(desk: Desk) -> None:
    with scripted(desk.socket) as server:
        assert desk("-F", 'A. "X" B', "b@x.test", given=b"just words\n") == 0
    [content] = server.contents
    header, _, body = content.partition(b"\r\n\r\n")
    assert header.startswith(f'From: "A. \\"X\\" B" <{ME}@mx.h.test>\r\nDate: '.encode())
    assert body == b"just words\r\n"


def test_a_gateway_leaves_the_header_alone(desk: Desk) -> None:
    with scripted(desk.socket) as server:
        assert desk("-G", "-i", "b@x.test", given=b"To: root\n\nhi\n") == 0
    assert server.contents == [b"To: root\r\n\r\nhi\r\n"]


@pytest.mark.parametrize("flags, body", [((), b"one\r\n"), (("-i",), b"one\r\n..\r\ntwo\r\n")])
def test_a_lone_dot(desk: Desk, flags: tuple[str, ...], body: bytes) -> None:
    with scripted(desk.socket) as server:
        assert desk(*flags, "b@x.test", given=MAIL.replace(b"hello\n", b"one\n.\ntwo\n")) == 0
    assert server.contents[0].endswith(b"\r\n\r\n" + body)


def test_a_dot_between_bare_carriage_returns_ends_nothing(desk: Desk) -> None:
    with scripted(desk.socket) as server:
        assert desk("-i", "b@x.test", given=MAIL + b"x\r.\rMAIL FROM:<e@x>\r\n.\r\nQUIT\n") == 0
    assert len(server.contents) == 1
    assert server.contents[0].endswith(b"\r\nx\r\n..\r\nMAIL FROM:<e@x>\r\n..\r\nQUIT\r\n")


def test_delivery_status_wishes(desk: Desk) -> None:
    with scripted(desk.socket) as server:
        assert desk("-N", "failure,delay", "-R", "hdrs", "-V", "a+b c", "b@x.test") == 0
    assert server.commands[1].endswith(" RET=HDRS ENVID=a+2Bb+20c")
    assert server.commands[2] == "RCPT TO:<b@x.test> NOTIFY=FAILURE,DELAY"


def test_eight_bits_and_utf8_addresses_are_declared(desk: Desk) -> None:
    with scripted(desk.socket) as server:
        assert desk("j\u00f6rg@x.test", given=MAIL.replace(b"hello", "gr\u00fcn".encode())) == 0
    assert server.commands[1].endswith(" BODY=8BITMIME SMTPUTF8")


def test_the_null_sender(desk: Desk) -> None:
    with scripted(desk.socket) as server:
        assert desk("-f", "<>", "b@x.test", given=b"hi\n") == 0
    assert server.commands[1].startswith("MAIL FROM:<> ")
    assert f"<{ME}@mx.h.test>".encode() in server.contents[0] or f"From: {ME}@mx.h.test".encode() in server.contents[0]


def test_recipients_with_commas_and_names_once(desk: Desk) -> None:
    with scripted(desk.socket) as server:
        assert desk("-t", "Bob <b@x.test>, c@x.test", "c@x.test") == 0
    assert [line for line in server.commands if line.startswith("RCPT")] == [
        "RCPT TO:<b@x.test>", "RCPT TO:<c@x.test>",
    ]  # fmt: skip


def test_more_recipients_than_one_transaction_takes(desk: Desk) -> None:
    script = {f"RCPT TO:<{name}@": "452 4.5.3 Too many" for name in "cd"}
    with scripted(desk.socket, script) as server:
        taken = server.script
        original = server._reply

        def reply(command: str) -> str:
            answer = original(command)
            if command.startswith("DATA"):
                taken.pop("RCPT TO:<c@", None)
            return answer

        server._reply = reply  # type: ignore[method-assign]
        assert desk("b@x.test", "c@x.test", "d@x.test") == 0
    assert len(server.contents) == 2
    assert [slip["recipients"] for slip, _ in desk.left()] == [["d@x.test"]]


# -- exit statuses -----------------------------------------------------------------------------------------------------

REFUSALS = [
    ("RCPT", "550 5.1.1 no such user", 67),
    ("RCPT", "550 5.1.2 no such domain", 68),
    ("RCPT", "501 5.1.3 bad address", 65),
    ("RCPT", "550 5.2.1 disabled", 69),
    ("RCPT", "550 no", 69),
    ("RCPT", "550 5.7.1 not you", 77),
    ("MAIL", "553 5.7.1 not your name", 77),
    ("MAIL", "530 5.7.0 log in", 77),
    ("MAIL", "552 5.3.4 too large", 65),
    ("MAIL", "503 5.5.1 sequence", 70),
    ("DATA", "554 5.6.0 bad", 65),
    (".", "550 5.6.0 a line is too long", 65),
    (".", "554 5.4.6 a loop", 69),
    (".", "552 too large", 65),
]


@pytest.mark.parametrize("stage, reply, status", REFUSALS)
def test_a_refusal_has_its_status_and_its_words(
    desk: Desk, stage: str, reply: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted(desk.socket, {stage: reply}):
        assert desk("b@x.test") == status
    assert capsys.readouterr().err == f"sendmail: not sent to b@x.test: {reply}\n"
    assert desk.left() == []


def test_one_refused_recipient_does_not_stop_the_others(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(desk.socket, {"RCPT TO:<c@": "550 5.1.1 unknown"}) as server:
        assert desk("b@x.test", "c@x.test") == 67
    assert len(server.contents) == 1
    assert "the other recipients are served" in capsys.readouterr().err


USAGE = [
    (), ("-Z", "b@x.test"), ("-f",), ("-bd",), ("-F", "a\nBcc: e@x", "b@x.test"), ("-f", "a@x\r\nDATA", "b@x.test"),
]  # fmt: skip


@pytest.mark.parametrize("words", USAGE, ids=repr)
def test_64_usage(desk: Desk, words: tuple[str, ...]) -> None:
    with scripted(desk.socket) as server:
        assert desk(*words) == 64
    assert server.commands == []


def test_64_nobody_in_the_header(desk: Desk) -> None:
    assert desk("-t", given=b"Subject: x\n\nTo: b@x.test\n") == 64


@pytest.mark.parametrize(
    "words, given",
    [
        (("b@x.test",), b"To: b\n\n\0"),
        (("b@x.test",), b"X: 1\n" * 3000),
        (("b@x.test> NOTIFY=NEVER",), MAIL),
        (("anna bob",), MAIL),
        (("a\nb",), MAIL),
        (("",), MAIL),
        (("-t",), b"To: a b\n\nhi\n"),
    ],
    ids=["NUL", "header", "command", "blank", "line end", "empty", "header blank"],
)
def test_65_data(desk: Desk, words: tuple[str, ...], given: bytes) -> None:
    with scripted(desk.socket) as server:
        assert desk(*words, given=given) == 65
    assert server.commands == []


def test_65_more_than_is_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sendmail, "INPUT_OCTETS", 1000)
    assert desk("b@x.test", given=b"x" * 1001) == 65
    assert desk("-i", "b@x.test", given=b"x" * 1001) == 65
    assert desk("-i", "b@x.test", given=b"x" * 1000) == 0


def test_69_what_cannot_be_promised(desk: Desk) -> None:
    with scripted(desk.socket) as server:
        assert desk("-O", "requiretls=yes", "b@x.test") == 69
    assert server.contents == []


def test_70_somebody_else_at_the_socket(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(desk.socket, greeting="SSH-2.0-OpenSSH"):
        assert desk("b@x.test") == 70
    assert "speaks no SMTP" in capsys.readouterr().err


def test_70_a_server_that_takes_what_it_was_not_given(desk: Desk) -> None:
    with scripted(desk.socket, {"DATA": "250 2.0.0 thank you"}):
        assert desk("b@x.test") == 70


def test_70_a_bug(desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sendmail, "taken_in", lambda raw: 1 / 0)
    assert desk("b@x.test") == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_74_input_that_cannot_be_read(desk: Desk) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    assert desk("-i", "b@x.test", given=Broken()) == 74


def test_75_no_server_and_no_maildrop(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.configure(maildrop=False)
    assert desk("b@x.test") == 75
    assert "nobody listens on" in capsys.readouterr().err


def test_75_no_server_and_a_maildrop_that_is_gone(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.maildrop.rmdir()
    assert desk("b@x.test") == 75
    error = capsys.readouterr().err
    assert "nobody listens on" in error
    assert "cannot be left in" in error


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_75_a_disk_that_fails(desk: Desk, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    assert desk("b@x.test") == 75
    assert list(desk.maildrop.iterdir()) == []


@pytest.mark.parametrize(
    "text", [None, "x = = 1", "[listen]\nlocal = []\n", "[local]\n", "listen = 1\n"],
    ids=["missing", "broken", "empty list", "nothing", "no section"],
)  # fmt: skip
def test_78_configuration(desk: Desk, text: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    if text is None:
        desk.config.unlink()
    else:
        desk.config.write_text(text)
    assert desk("b@x.test") == 78
    told = capsys.readouterr().err
    assert str(desk.config) in told
    assert "Errno" not in told


# -- the maildrop ------------------------------------------------------------------------------------------------------


def test_mail_for_a_server_that_is_down_is_left_for_it(desk: Desk) -> None:
    assert desk("-t", "-f", "x", "-N", "never", given=b"To: root\nBcc: b@x.test\n\nhi\n") == 0
    [(slip, message)] = desk.left()
    assert slip["recipients"] == ["root", "b@x.test"]
    assert (slip["sender"], slip["notify"]) == ("x", "NEVER")
    assert message == b"To: root\r\n\r\nhi\r\n"
    [path] = desk.maildrop.iterdir()
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("words, sender", [((), None), (("-f", "<>"), "")])
def test_the_senders_that_have_no_name(desk: Desk, words: tuple[str, ...], sender: str | None) -> None:
    assert desk(*words, "root") == 0
    assert desk.left()[0][0]["sender"] == sender


LATER = [
    {"MAIL": "452 4.3.1 full"}, {"RCPT": "451 4.3.0 not now"}, {".": "451 4.3.0 not safe"}, {"EHLO": "421 4.3.2 busy"},
    {"MAIL": HANG_UP}, {"DATA": HANG_UP}, {".": HANG_UP},
]  # fmt: skip


@pytest.mark.parametrize("script", LATER, ids=repr)
def test_what_the_server_cannot_take_now_waits_in_the_maildrop(desk: Desk, script: dict[str, str]) -> None:
    with scripted(desk.socket, script):
        assert desk("b@x.test") == 0
    [(slip, message)] = desk.left()
    assert slip["recipients"] == ["b@x.test"]
    assert message == WIRE


def test_only_those_without_an_answer_wait(desk: Desk) -> None:
    script = {"RCPT TO:<c@": "452 4.2.2 full", "RCPT TO:<d@": "550 5.1.1 unknown"}
    with scripted(desk.socket, script) as server:
        assert desk("b@x.test", "c@x.test", "d@x.test") == 67
    assert len(server.contents) == 1
    assert [slip["recipients"] for slip, _ in desk.left()] == [["c@x.test"]]


# -- other modes -------------------------------------------------------------------------------------------------------


def test_newaliases_has_nothing_to_do(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk(name="newaliases") == 0
    assert "nothing to rebuild" in capsys.readouterr().out
    assert desk("-bi") == desk("-bV") == 0


@pytest.mark.parametrize(
    "flag, script, status",
    [
        ("-bv", {}, 0), ("-bv", {"RCPT": "550 5.1.1 no"}, 67), ("-bv", {"RCPT": "451 4.3.0 later"}, 75),
        ("-bt", {"RCPT": "451 4.3.0 later"}, 1), ("-bt", {"RCPT": "550 5.1.1 no"}, 2),
    ],
)  # fmt: skip
def test_asking_sends_nothing(desk: Desk, flag: str, script: dict[str, str], status: int) -> None:
    with scripted(desk.socket, script) as server:
        assert desk(flag, "b@x.test") == status
    assert server.contents == []


@pytest.mark.parametrize(
    "to, status, said",
    [
        ("b@away.test", 0, "b@away.test ... deliverable: 250 "),
        ("b@mute.test", 1, "b@mute.test ... undecided: 451 4.4.3 could not look up mute.test"),
        ("b@[10.1.2.3]", 2, "b@[10.1.2.3] ... undeliverable: 550 5.4.4 "),
    ],
)
def test_what_is_taken_but_will_not_arrive_is_told(
    desk: Desk, to: str, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server takes it and would find out later; an address test asks now which way it goes."""
    more = (
        '[relay]\nroutes = { "away.test" = "192.0.2.1:25" }\n[dns]\nnameservers = ["127.0.0.1:1"]\ntimeout_s = 0.05\n'
    )
    desk.config.write_text(f'data_dir = "{desk.maildrop}/none"\n{desk.config.read_text()}{more}')
    with scripted(desk.socket, {}):
        assert desk("-bt", to) == status
    assert capsys.readouterr().out.startswith(said)


def test_asking_needs_a_server(desk: Desk) -> None:
    assert desk("-bv", "b@x.test") == 75


@pytest.mark.parametrize(
    "words, status", [(("-Mx", "0"), 64), (("-Mrm",), 64), (("-Mes", "0"), 64), (("-qx",), 64), (("-q15m",), 0)]
)
def test_what_no_command_does(desk: Desk, words: tuple[str, ...], status: int) -> None:
    assert desk(*words) == status


@pytest.mark.slow
def test_it_starts_fast() -> None:
    """Modules that take long to load stay out; the time itself is no test."""
    slow = {"click", "msgspec", "ssl", "asyncio", "email", "json", "rich", "apsw", "idna", "tomllib", "dataclasses"}
    look = f"import sys, postroad.console.sendmail; print(sorted({slow!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_dates_are_those_of_rfc_5322(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XXX3:30")
    time.tzset()
    try:
        assert sendmail.date_text(1_700_000_000) == "Tue, 14 Nov 2023 18:43:20 -0330"
    finally:
        monkeypatch.undo()
        time.tzset()
