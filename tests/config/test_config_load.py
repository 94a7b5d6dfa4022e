"""Reading a configuration file: what is taken, where each key stands, and what the file system may answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroad.config import Config
from postroad.config.endpoints import Endpoint, parse_endpoint, parse_nameserver
from postroad.config.lines import KeyLines
from postroad.config.load import FILE_MAX, examine, examine_text, load
from postroad.config.problems import ConfigError


def test_file_becomes_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "postroad.toml"
    file.write_text(
        'hostname = "mail.example.org"\n[retry]\ndelays_s = [60, 120.5]\n[relay.routes]\n"a.test" = "b.test:25"\n'
    )
    config = load(file)
    assert config.hostname == "mail.example.org"
    assert config.retry.delays_s == (60, 120.5)
    assert config.relay.routes == {"a.test": "b.test:25"}
    assert config.limits == Config().limits


def test_empty_file_is_all_defaults() -> None:
    assert examine_text(b"", "x").config == Config()


def test_line_ends_and_mark_of_windows_are_no_harm() -> None:
    reading = examine_text(b"\xef\xbb\xbfworkers = 2\r\n\r\n[log]\r\nformat = 'jsn'\r\n", "x")
    assert [problem.line for problem in reading.problems] == [4]


def test_given_keys_are_known() -> None:
    reading = examine_text(b"workers = 2\n[limits]\nhops = 60\nrecipients = 500\n", "x")
    assert reading.given == {"workers", "limits.hops", "limits.recipients"}


def test_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path / "none.toml")
    assert "there is no such file. Make one with: postroad config sample > FILE." in str(raised.value)


def test_folder_and_huge_file_are_named(tmp_path: Path) -> None:
    (problem,) = examine(tmp_path).problems
    assert "is a folder" in problem.what
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (FILE_MAX + 1))
    assert "larger" in examine(huge).problems[0].what


def test_nesting_without_end_is_an_answer_not_a_crash() -> None:
    reading = examine_text(b"x = " + b"[" * 100_000, "x")
    assert reading.config is None
    assert reading.problems


def test_no_octets_make_it_raise() -> None:
    for octet in range(256):
        assert examine_text(b"workers = " + bytes([octet]) + b"\n", "x").problems or chr(octet).isdigit()


LINES = '''# remark
hostname = "a" # = [
"data_dir" = \'/x\'

[ listen ]
mx = [
  ":25", # ]
  "]",
]
imap = []

[relay.routes]
"example.org" = """
two
lines"""
net = { a = 1, "b" = [2] }
a . b = 1
[[limits]]
last = 1'''


@pytest.mark.parametrize(
    "path, line",
    [
        (("hostname",), 2),
        (("data_dir",), 3),
        (("listen",), 5),
        (("listen", "mx"), 6),
        (("listen", "imap"), 10),
        (("relay", "routes", "example.org"), 13),
        (("relay", "routes", "net"), 16),
        (("relay", "routes", "net", "a"), 16),
        (("relay", "routes", "a", "b"), 17),
        (("limits", "last"), 19),
        (("limits", "nothing"), 18),
        (("nothing",), 0),
    ],
)
def test_every_key_is_found_on_its_line(path: tuple[str, ...], line: int) -> None:
    assert KeyLines(LINES).line(path) == line


@pytest.mark.parametrize(
    "text, endpoint",
    [
        (":25", Endpoint("", 25)),
        ("*:25", Endpoint("", 25)),
        ("127.0.0.1:0", Endpoint("127.0.0.1", 0)),
        ("[::1]:25", Endpoint("::1", 25)),
        ("mail.example.org:587", Endpoint("mail.example.org", 587)),
        ("localhost:1025", Endpoint("localhost", 1025)),
    ],
)
def test_endpoints(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text, every_host=True, port_zero=True) == endpoint


@pytest.mark.parametrize(
    "text",
    ["", "25", "host", "::1", ":", ":x", ":70000", ":-1", "[::1", "[::1]", "a b:25", "1.2.3:25", "[a]:1", ":２５"],
)
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match=r"\. Write"):
        parse_endpoint(text, every_host=True)


def test_endpoint_is_written_as_it_is_read() -> None:
    for text in ("127.0.0.1:25", "[::1]:25"):
        assert str(parse_endpoint(text)) == text


def test_nameservers_may_lack_the_port() -> None:
    assert parse_nameserver("192.0.2.53") == ("192.0.2.53", 53)
    assert parse_nameserver("::1") == ("::1", 53)
    assert parse_nameserver("[::1]:5353") == ("::1", 5353)
