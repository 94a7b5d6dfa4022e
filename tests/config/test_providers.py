"""The provider file: what comes with Postroad is sound, an administrator's is judged line by line and laid over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroad.config.problems import ConfigError
from postroad.config.providers import ACTIONS, EVERYBODY, SHIPPED, TIMED, Table, examine, load, overlaid, shipped


def write(folder: Path, text: str) -> str:
    file = folder / "providers.toml"
    file.write_text(text)
    return str(file)


def test_the_shipped_file_has_the_large_providers() -> None:
    names = set(load())
    assert {"google", "microsoft", "microsoft-365", "yahoo", "apple", "comcast", "orange", "gmx", "mimecast"} <= names


def test_every_shipped_rule_says_what_it_means_and_how_long() -> None:
    for name, provider in load().items():
        for key, rule in provider.replies.items():
            assert rule.means, (name, key)
            assert rule.action in ACTIONS, (name, key)
            assert (rule.for_s > 0) is (rule.action in TIMED), (name, key)


def test_every_shipped_table_names_its_source() -> None:
    """Facts about others have a source beside them, so that they can be looked up again."""
    lines = SHIPPED.read_text().split("\n")
    for at, line in enumerate(lines):
        if line.startswith("[") and "." not in line and EVERYBODY not in line and line != "[microsoft-365]":
            above = "\n".join(lines[max(0, at - 3) : at])
            assert "https://" in above, line


def test_a_file_of_ones_own_is_laid_over_the_shipped_one(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
[google]
connections = 2
[google.replies.unusual-rate]
off = true
[google.replies.ours]
code = "4"
text = "hello"
means = "a greeting"
action = "slow"
for_s = 60
[example]
hosts = [".example.net"]
messages_per_minute = 30
""",
    )
    merged = load(file)
    google, before = merged["google"], load()["google"]
    assert google.connections == 2
    assert google.hosts == before.hosts
    assert google.messages_per_connection == before.messages_per_connection
    assert google.replies["unusual-rate"].off
    assert list(google.replies)[:2] == ["unusual-rate", "ours"], "one's own rules are tried first"
    assert set(before.replies) < set(google.replies)
    assert merged["example"].messages_per_minute == 30
    assert load()["google"] == before


def test_laying_over_leaves_both_as_they_were() -> None:
    below: Table
    above: Table
    below, above = {"a": {"hosts": ["x.y"], "replies": {"r": {}}}}, {"a": {"replies": {"s": {}}}}
    assert overlaid(below, above)["a"]["replies"] == {"s": {}, "r": {}}
    assert below == {"a": {"hosts": ["x.y"], "replies": {"r": {}}}}


@pytest.mark.parametrize(
    "text, line, key, what",
    [
        ("[a]\n", 1, "a", "no host belongs"),
        ("[a]\nhosts = []\n", 1, "a", "no host belongs"),
        ('[a]\nhosts = [".X.test"]\n', 2, "a.hosts", "small letters"),
        ('[a]\nhosts = ["test"]\n', 2, "a.hosts", "not the end of a host name"),
        ('[a]\nhosts = ["*.x.test"]\n', 2, "a.hosts", '"*.x.test" is not the end of a host name'),
        ("[google.replies.unusual]\noff = true\n", 1, "google.replies.unusual", "no rule of this name to take back"),
        ('[a]\nhosts = [".x.test"]\nconections = 3\n', 3, "a.conections", "no key of this name"),
        ('[a]\nhosts = [".x.test"]\nconnections = "3"\n', 3, "a.connections", "text, not a number"),
        ('[a]\nhosts = [".x.test"]\nconnections = -3\n', 3, "a.connections", "too small"),
        ("a = 1\n", 1, "a", "no provider"),
        ("[everybody]\nconnections = 3\n", 2, "everybody.connections", "replies only"),
        ('[a]\nhosts = [".x.test"]\nreplies = 3\n', 3, "a.replies", "no table of rules"),
        ('[a]\nhosts=[".x.t"]\n[a.replies]\nr = 3\n', 4, "a.replies.r", "no rule"),
        ('[everybody.replies.r]\ncode = "421"\n', 1, "everybody.replies.r", "means is missing"),
        ('[everybody.replies.r]\nmeans = "x"\naction = "none"\n', 1, "everybody.replies.r", "fit every reply"),
        (
            '[everybody.replies.r]\ncode = "250"\nmeans = "x"\naction = "none"\n',
            2,
            "everybody.replies.r.code",
            "refusal",
        ),
        (
            '[everybody.replies.r]\nenhanced = "2.1.1"\nmeans="x"\naction="none"\n',
            2,
            "everybody.replies.r.enhanced",
            "no enhanced",
        ),
        ('[everybody.replies.r]\ntext = "(a+)+"\nmeans="x"\naction="none"\n', 2, "everybody.replies.r.text", "no end"),
        (
            '[everybody.replies.r]\ncode = "4"\nmeans="x"\naction = "stop"\n',
            4,
            "everybody.replies.r.action",
            "no action",
        ),
        (
            '[everybody.replies.r]\ncode = "4"\nmeans="x"\naction = "slow"\n',
            4,
            "everybody.replies.r.action",
            "needs for_s",
        ),
        (
            '[everybody.replies.r]\ncode="4"\nmeans="x"\naction="none"\nfor_s = 3\n',
            5,
            "everybody.replies.r.for_s",
            "no time",
        ),
        (
            '[everybody.replies.r]\ncode="4"\nmeans="x"\naction="slow"\nfor_s = 1e9\n',
            5,
            "everybody.replies.r.for_s",
            "too large",
        ),
        ("[a\n", 1, "a", "not closed"),
    ],
)
def test_every_mistake_is_named_with_its_line(tmp_path: Path, text: str, line: int, key: str, what: str) -> None:
    _, problems = examine(write(tmp_path, text))
    assert problems, text
    problem = problems[0]
    assert (problem.line, problem.key) == (line, key), str(problem)
    assert what in problem.what
    assert problem.fix


def test_what_was_probably_meant_is_offered(tmp_path: Path) -> None:
    text = '[a]\nhosts = ["*.x.test"]\n[google.replies.unusual-rat]\noff = true\n'
    assert [problem.fix for problem in examine(write(tmp_path, text))[1]] == [
        'Write ".x.test"',
        'Did you mean "unusual-rate"?',
    ]


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, '[a]\nconections = 1\n[b.replies.r]\naction = "x"\n')
    with pytest.raises(ConfigError) as failed:
        load(file)
    assert len(failed.value.problems) >= 4
    assert [problem.line for problem in failed.value.problems] == sorted(p.line for p in failed.value.problems)


def test_a_file_that_is_not_there_is_a_problem_too(tmp_path: Path) -> None:
    _, problems = examine(str(tmp_path / "none.toml"))
    assert "no such file" in problems[0].what


def test_the_shipped_file_is_read_once() -> None:
    assert shipped() is shipped()
