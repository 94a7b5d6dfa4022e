"""docs/policy.md: its examples run, its lists are the lists, and every stable word of the code is explained."""

from __future__ import annotations

import ast
import asyncio
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from postroad.rules import policy
from postroad.rules.gate import Rule
from postroad.rules.inbound import INBOUND
from postroad.rules.policy import Connect, Mail, Message, Opinion, Rcpt, Wish
from postroad.rules.submission import SUBMISSION
from postroad.rules.words import WORDS
from postroad.serve.policy_child import RECORDS
from tests.testdata import REPOSITORY

PAGE = (REPOSITORY / "docs/policy.md").read_text()
SOURCE = REPOSITORY / "src/postroad"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def example(number: int) -> Any:
    module = types.ModuleType("policy")
    exec(compile(EXAMPLES[number], f"example {number}", "exec"), module.__dict__)
    return module


def section(title: str) -> str:
    return PAGE.split(f"# {title}\n")[1].split("\n#")[0]


# -- examples ----------------------------------------------------------------------------------------------------------


def test_there_are_three_examples_with_functions_of_stages() -> None:
    assert len(EXAMPLES) == 3
    for number in range(3):
        assert RECORDS.keys() & vars(example(number)).keys()


def test_example_of_who_may_write_to_whom() -> None:
    one = example(0)
    assert one.connect(Connect(door="mx", peer="198.51.100.7")).code == 554
    assert one.connect(Connect(door="mx", peer="2001:db8::1")) is None
    assert one.mail(Mail(door="mx", size=30_000_000)).code == 451
    assert one.mail(Mail(door="submission", size=30_000_000)) is None
    assert one.rcpt(Rcpt(recipient="All@example.org")).code == 550
    assert one.rcpt(Rcpt(recipient="all@example.org", login="anna@example.org")) is None


def wishes(said: list[Opinion]) -> list[Wish]:
    return [one.wish for one in policy.opinions(said, "message")]


def test_example_of_what_is_in_it() -> None:
    one = example(1)
    attached = b'Content-Disposition: attachment; filename="a.exe"\r\n'
    marks = [Wish.ADD_HEADER, Wish.SET_HEADER]
    assert one.message(Message(login="anna@example.org")) is None
    assert wishes(one.message(Message(door="mx"))) == marks
    assert wishes(one.message(Message(door="mx", read_body=lambda octets: attached))) == [*marks, Wish.QUARANTINE]
    hurry = Message(door="mx", raw_header=b"Subject: URGENT\r\n\r\n", read_body=lambda octets: b"a wire transfer\r\n")
    assert wishes(one.message(hurry)) == [*marks, Wish.QUARANTINE]


@pytest.mark.parametrize("answer, wish", [(b"action=defer_if_permit x\n\n", Wish.REFUSE), (b"action=dunno\n\n", None)])
async def test_example_of_asking_somebody_else(tmp_path: Path, answer: bytes, wish: Wish | None) -> None:
    one = example(2)
    one.SOCKET = str(tmp_path / "s")
    asked: list[bytes] = []

    async def daemon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\n\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    unsure = await one.rcpt(Rcpt(recipient="anna@example.org"))
    assert unsure.wish is Wish.UNSURE
    async with await asyncio.start_unix_server(daemon, one.SOCKET):
        said = await one.rcpt(Rcpt(peer="192.0.2.1", recipient="anna@example.org"))
    assert (said.wish if said is not None else None) is wish
    assert b"client_address=192.0.2.1\n" in asked[0]


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("title, rules", [("Mail from the world", INBOUND), ("Mail from our own users", SUBMISSION)])
def test_lists_on_the_page_are_the_lists(title: str, rules: tuple[Rule, ...]) -> None:
    shown = re.findall(r"^\| `(\w+)` \| `(\w+)` \| [^|]+ \|$", section(title), re.MULTILINE)
    assert shown == [(rule.stage.value, getattr(rule.check, "__name__", "")) for rule in rules]


def test_records_on_the_page_have_what_the_records_have() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*`session`.*|all of .*) \|$", PAGE, re.MULTILINE))
    assert set(rows) == {record.__name__ for record in RECORDS.values()}
    for name, text in rows.items():
        record = getattr(policy, name)
        parent = record.__mro__[1]
        own = {one for one in dir(record) if not one.startswith("_")} - set(dir(parent)) - {"read_body"}
        shown = {word.partition("(")[0] for word in re.findall(r"`([\w]+(?:\(\w+\))?)`", text)} - {parent.__name__}
        assert shown == own, name


def test_opinions_on_the_page_are_those_there_are() -> None:
    rows = re.findall(r"^\| (`.*`) \| .* \| (everywhere|`message`) \|$", PAGE, re.MULTILINE)
    shown = {name: where for names, where in rows for name in re.findall(r"`(\w+)\(", names)}
    makers = {wish.value for wish in Wish} | {"later"}
    assert set(shown) == makers
    assert {name for name, where in shown.items() if where == "`message`"} == {one.value for one in policy.MESSAGE_ONLY}


# -- words -------------------------------------------------------------------------------------------------------------


def test_page_has_every_word_with_its_meaning() -> None:
    shown = re.findall(r"^\| `[^`]+` \| .+ \|$", section("Words"), re.MULTILINE)
    wanted = [f"| `{word}` | {meaning} |" for word, meaning in WORDS.items()]
    assert sorted(shown) == sorted(wanted), "the table of docs/policy.md is to be:\n" + "\n".join(wanted)


WORD_AT = {
    "refuse": 0, "doubt": 0, "_doubt": 0,
    "refused": 1, "_refuse": 1, "_refused": 1,
    "_refuse_content": 2,
}  # fmt: skip
"""Functions that are given a stable word, and at which place."""
ELSEWHERE = ("wire/", "net/", "console/", "dev/", "serve/metrics.py", "serve/pop3.py", "serve/imap")
"""Where functions of these names are about something else."""


def words(source: str) -> Iterator[tuple[int, str]]:
    """Line and word of every literal that a function of `WORD_AT` is given as its word."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name not in WORD_AT:
            continue
        place = WORD_AT[name]
        # `counters.refused(door, code, why)` has one more in front.
        counted = isinstance(function, ast.Attribute) and ast.unparse(function.value).endswith("counters")
        before, given = node.args[: place + counted], node.args[place + counted : place + counted + 1]
        if any(isinstance(one, ast.Starred) for one in before):
            given = []
        given += [keyword.value for keyword in node.keywords if keyword.arg == "why"]
        yield from ((node.lineno, word) for one in given for word in literals(one))


def literals(given: ast.expr) -> Iterator[str]:
    """The texts an expression may be, where it says them itself."""
    if isinstance(given, ast.Constant) and isinstance(given.value, str):
        yield given.value
    elif isinstance(given, ast.IfExp):
        yield from literals(given.body)
        yield from literals(given.orelse)


def test_every_word_in_the_code_is_explained() -> None:
    found: dict[str, str] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        place = str(path.relative_to(SOURCE))
        if not place.startswith(ELSEWHERE) and place != "rules/policy.py":
            found |= {word: f"{place} line {line}" for line, word in words(path.read_text())}
    assert len(found) > 20
    unknown = {word: place for word, place in found.items() if word not in WORDS}
    assert not unknown, f"explain in rules/words.py and docs/policy.md: {unknown}"


def test_every_explained_word_is_used() -> None:
    spoken = {
        node.value
        for path in SOURCE.rglob("*.py")
        if path != SOURCE / "rules/words.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert WORDS.keys() - spoken == set()


def test_words_are_found_in_every_form() -> None:
    source = (
        'refuse("a", 550)\nself.refused(reply, "b")\ncounters.refused(door, 0, "c")\n'
        'doubt("d" if hung else "e")\nself._refuse_content(one, two, "f")\nself.refused(reply, why="g")\nrefuse(why)'
    )
    assert [word for _, word in words(source)] == list("abcdefg")
