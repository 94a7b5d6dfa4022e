"""The routes file: every mistake with its line, its words and its cure, and passwords that nobody else may read."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroad.config.problems import ConfigError
from postroad.config.routes import WORDS, Route, examine, load, read_password
from tests.testdata import REPOSITORY

PAGE = (REPOSITORY / "docs/routing.md").read_text()


def written(folder: Path, text: str) -> str:
    file = folder / "routes.toml"
    file.write_text(text)
    return str(file)


def told(folder: Path, text: str) -> list[str]:
    _, problems = examine(written(folder, text))
    return [f"{one.line} {one.key}: {one.what}. {one.fix}" for one in problems]


GOOD = """
[partner]
recipients = ["partner.example", ".partner.example", "ceo@example.net"]
via = "lmtp:/run/partner.sock"

[newsletter]
senders = ["news@example.org", "<>"]
users = ["newsletter@example.org"]
via = "smtps:smtp.example.net"
login = "apikey"
password_file = "{password}"
source = ["192.0.2.10", "2001:db8::10"]
ehlo = "out1.example.org"
fallback = "backup.example.org:2525"
fallback_after = 2

[rest]
via = "mx"
"""


def test_a_whole_file(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("open sesame\n")
    password.chmod(0o640)
    loaded = load(written(tmp_path, GOOD.format(password=password)))
    assert list(loaded.routes) == ["partner", "newsletter", "rest"]
    assert loaded.logins["newsletter"].password == "open sesame"
    assert "sesame" not in repr(loaded)
    assert load("").routes == {}


@pytest.mark.parametrize(
    "text, expected",
    [
        ('[a]\nvai = "mx"', '2 a.vai: there is no key of this name. Did you mean "via"?'),
        ("a = 1", "1 a: this is no route. Write its keys below a header such as [partner]"),
        ('[a]\nrecipients = "x.test"', '2 a.recipients: "x.test" is not a list. Put it in brackets: ["x.test"]'),
        (
            '[a]\nrecipients = ["@x.test"]',
            '2 a.recipients: "@x.test" is no address (local part is not valid). Write "x.test"',
        ),
        (
            '[a]\nsenders = ["X.test"]',
            '2 a.senders: "X.test" is neither a domain in small letters nor an address. Write "x.test"',
        ),
        (
            '[a]\nrecipients = ["*@x.test"]',
            '2 a.recipients: "*@x.test": a * stands for nothing else here. Write "x.test"',
        ),
        ('[a]\nsenders = ["*.x.test"]', '2 a.senders: "*.x.test": a * stands for nothing else here. Write ".x.test"'),
        ("[a]\nfallback_after = 2", "2 a.fallback_after: there is no fallback to go to. Name one, or remove the key"),
        ('[a]\nvia = "discrad"', '2 a.via: "discrad" is no way out. Did you mean "discard"?'),
        ('[a]\nvia = "lmtp:host"', '2 a.via: next hop "lmtp:host" has no port for LMTP. Name one; 25 is'),
        ('[a]\nvia = "hold"\nehlo = "x.test"', '3 a.ehlo: "hold" sends nothing anywhere. Remove ehlo'),
        ('[a]\ntls = "must"', '2 a.tls: "must" is no level of TLS. Write one of may, encrypt, verify'),
        ('[a]\nlogin = "x"', "1 a: password_file is missing. Name the login, and the file that holds its password"),
        (
            '[a]\nvia = "mx"\nlogin = "x"\npassword_file = "/x"',
            '3 a.login: a login belongs to one host. Name it: via = "smtp.example.net:587"',
        ),
        (
            '[a]\nvia = "h.test"\nlogin = "x"\npassword_file = "/x"\ntls = "may"',
            '5 a.tls: with tls = "may" the password would go to whoever answers. Write tls = "verify"',
        ),
        ('[a]\nsource = ["h.test"]', '2 a.source: "h.test" is not an IP address. Write an address of this machine'),
        ('[a]\nehlo = "mail"', '2 a.ehlo: "mail" is not a host name. Write it as "out1.example.org"'),
        ("[a]\nfallback_after = 0", "2 a.fallback_after: 0 is too small. Write 1 or more"),
        ('["a b"]\nvia = "mx"', '1 "a b": the name of a route is one word. Write it as [to-partner], without spaces'),
        ('[a]\nvia = "mx"\n[b]\nvia = "mx"', "3 b: no mail comes this far: [a] takes all of it. Move [a] to the end"),
        ("[a\n", "1 a: the section header is not closed"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, expected: str) -> None:
    [said] = told(tmp_path, text)
    assert said.startswith(expected[: len(said)])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    "content, mode, wrong",
    [
        (b"secret", 0o600, ""),
        (b"secret\r\n", 0o640, ""),
        (b"secret\n", 0o644, "every account"),
        (b"", 0o600, "holds no password"),
        (b"two\nlines\n", 0o600, "holds no password"),
        (b"\xff\xfe", 0o600, "holds no password"),
        (b"x" * 5000, 0o600, "holds no password"),
    ],
)
def test_password_files(tmp_path: Path, content: bytes, mode: int, wrong: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    file.chmod(mode)
    password, problem = read_password(str(file))
    assert (password == "secret") is (not wrong)
    assert (problem is None) if not wrong else (problem is not None and wrong in problem[0])


def test_the_page_tells_every_key_and_word() -> None:
    for name in (*Route.__struct_fields__, *WORDS):
        assert f"`{name}`" in PAGE or f'`"{name}"`' in PAGE, name
