"""curl sends and reads mail at all doors, with the server's certificate verified."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.mail import HOST, arrived, body, messages, ran
from tests.live import LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.needs_program("curl")]

MAIL = b"From: %b\r\nTo: %b\r\nSubject: by curl\r\nX-Word: needle\r\n\r\nfirst line\r\n.\r\nlast line\r\n"
LOGIN_DENIED = 67
"""CURLE_LOGIN_DENIED."""

Curl = Callable[..., tuple[int, str]]
SCHEMES = {
    "submission": "smtp",
    "submissions": "smtps",
    "imap": "imap",
    "imaps": "imaps",
    "pop3": "pop3",
    "pop3s": "pop3s",
}


@pytest.fixture
def curl(office: LiveServer) -> Curl:
    """Runs curl against a door and a path of it, logged in; TLS is required everywhere."""

    def run(door: str, path: str, user: str, *words: str | Path, password: str = "secret") -> tuple[int, str]:
        url = f"{SCHEMES[door]}://{HOST}:{office.ports[door]}/{path}"
        secure = ("--ssl-reqd", "--cacert", office.certificate)
        return ran(["curl", "-sS", "--max-time", "20", *secure, "-u", f"{user}:{password}", *words, url])

    return run


@pytest.fixture
def letter(account: str, tmp_path: Path) -> Path:
    """A message in a file, to the account from itself."""
    path = tmp_path / "letter.eml"
    path.write_bytes(MAIL % (account.encode(), account.encode()))
    return path


@pytest.mark.parametrize("door", ["submission", "submissions"])
def test_curl_sends(office: LiveServer, account: str, curl: Curl, letter: Path, door: str) -> None:
    words = ("--mail-from", account, "--mail-rcpt", account, "--upload-file", letter)
    status, output = curl(door, "client.test", account, *words)
    assert status == 0, output
    [raw] = arrived(office, account)
    assert body(raw) == body(letter.read_bytes())


@pytest.mark.parametrize("door", ["imap", "imaps"])
def test_curl_appends_lists_searches_and_fetches(
    office: LiveServer, account: str, curl: Curl, letter: Path, door: str
) -> None:
    status, output = curl(door, "INBOX", account, "--upload-file", letter)
    assert status == 0, output
    assert messages(office, account) == [letter.read_bytes()]
    status, output = curl(door, "", account)
    assert 'LIST (\\HasNoChildren) "/" INBOX' in output.replace("\r", "")
    assert curl(door, "INBOX?HEADER%20X-Word%20needle", account) == (0, "* SEARCH 1\r\n")
    assert curl(door, "INBOX?HEADER%20X-Word%20hay", account) == (0, "* SEARCH\r\n")
    status, output = curl(door, "INBOX;UID=1", account)
    assert (status, output.encode()) == (0, letter.read_bytes())
    status, output = curl(door, "INBOX;UID=1;SECTION=TEXT", account)
    assert (status, output.encode()) == (0, body(letter.read_bytes()))


@pytest.mark.parametrize("door", ["pop3", "pop3s"])
def test_curl_lists_and_retrieves_by_pop3(account: str, curl: Curl, letter: Path, door: str) -> None:
    curl("imaps", "INBOX", account, "--upload-file", letter)
    status, output = curl(door, "", account)
    assert (status, output) == (0, f"1 {letter.stat().st_size}\r\n")
    status, output = curl(door, "1", account)
    assert (status, output.encode()) == (0, letter.read_bytes())


@pytest.mark.parametrize("door", ["submissions", "imaps", "pop3s"])
def test_curl_is_told_that_the_password_is_wrong(account: str, curl: Curl, door: str) -> None:
    status, output = curl(door, "", account, password="wrong")
    assert status == LOGIN_DENIED, output


def test_a_file_with_bare_line_feeds_is_refused_not_guessed_at(
    office: LiveServer, account: str, curl: Curl, letter: Path
) -> None:
    letter.write_bytes(letter.read_bytes().replace(b"\r\n", b"\n"))
    words = ("--mail-from", account, "--mail-rcpt", account, "--upload-file", letter)
    status, output = curl("submissions", "client.test", account, *words)
    assert status != 0
    assert messages(office, account) == []
    status, output = curl("submissions", "client.test", account, "--crlf", *words)
    assert status == 0, output
    assert len(arrived(office, account)) == 1
