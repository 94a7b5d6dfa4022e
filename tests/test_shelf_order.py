"""Imports only go down the shelves, and the other rules of the code that a machine can check.

The rules are in docs/decisions/002-shelves.md. Every check below is a function from source text to complaints, and is
itself tested on small wrong sources, so that a check which sees nothing cannot pass for a clean tree.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.testdata import REPOSITORY

PACKAGE = "postroad"
SOURCE = REPOSITORY / "src" / PACKAGE

SHELVES = (
    "values", "wire", "trust", "content", "rules", "store", "net", "flow", "serve", "console", "app", "dev",
)  # fmt: skip
CONFIG_FROM = "net"
"""`config` is a shelf of its own just below this one: `net` and all above it may import it."""

DOOR = "console.cli"
STARTED = {"app", "dev"}
"""A command starts what it names: `postroad serve` and `postroad dev` import these two, inside their functions only."""

PURE_SHELVES = {"wire", "content", "rules"}
PURE_PLANNERS = {"flow.schedule", "flow.shaping", "flow.route", "flow.classify"}
IMPURE = {"asyncio", "apsw", "psycopg", "socket", "ssl", "time"}

EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "manager", "managers", "misc"}

LINE_SHELVES = {"values", "wire", "dev"}
LINE_WRITERS = {
    "console.cli.queue_amend", "flow.bounce", "flow.completion", "flow.identity", "flow.intake", "net.acme_challenges",
    "serve.doors", "serve.metrics", "trust.dkim.sign",
}  # fmt: skip
"""Modules elsewhere that put lines of a header or a protocol together, of typed values that hold no end of a line."""

LINES_THAT_NEED_A_REASON = 700
LINES_AT_MOST = 900

Check = Callable[[str, str], Iterator[str]]


def shelf(module: str) -> str:
    """The shelf of a dotted name below the package: `flow.route` is on `flow`, `config` on `config`."""
    return module.split(".")[0]


def height(name: str) -> float | None:
    """Place of a shelf from the bottom; None for what has no place (the package itself, __main__)."""
    if name == "config":
        return SHELVES.index(CONFIG_FROM) - 0.5
    return SHELVES.index(name) if name in SHELVES else None


def imported(module: str, tree: ast.Module, *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything imported anywhere in the file: functions and TYPE_CHECKING included.

    `from a import b` gives `a.b`, because b may be a module; relative imports are made absolute.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                here = [PACKAGE, *module.split(".")] if module else [PACKAGE]
                up = here[: len(here) - node.level + is_package]
                source = ".".join([*up, source] if source else up)
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and (name := called_import(node)):
            yield node.lineno, name


def lines_inside_functions(tree: ast.Module) -> set[int]:
    """Numbers of all lines that run only when a function is called."""
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {line for f in functions for line in range(f.body[0].lineno, (f.end_lineno or f.lineno) + 1)}


def called_import(node: ast.Call) -> str | None:
    """The module named in `importlib.import_module("x")` or `__import__("x")`."""
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if called not in {"import_module", "__import__"} or not node.args:
        return None
    first = node.args[0]
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def climbs(module: str, source: str) -> Iterator[str]:
    """Imports of a higher shelf."""
    mine = height(shelf(module))
    if mine is None:
        return
    tree = ast.parse(source)
    started = lines_inside_functions(tree) if f"{module}.".startswith(DOOR + ".") else set()
    for line, name in imported(module, tree, is_package=is_package(module)):
        inside = name.removeprefix(PACKAGE + ".")
        theirs = height(shelf(inside)) if inside != name else None
        if theirs is not None and theirs > mine and not (shelf(inside) in STARTED and line in started):
            yield f"line {line}: {shelf(module)} imports {name}, which is on a higher shelf"


def impurities(module: str, source: str) -> Iterator[str]:
    """Modules of I/O and clocks imported where only bytes, facts and given times may be."""
    if shelf(module) not in PURE_SHELVES and not any(f"{module}.".startswith(f"{p}.") for p in PURE_PLANNERS):
        return
    for line, name in imported(module, ast.parse(source), is_package=is_package(module)):
        if name.split(".")[0] in IMPURE:
            yield f"line {line}: {module} imports {name}, but has no I/O and no clock: time is an argument"


def lengths(module: str, source: str) -> Iterator[str]:
    """Files too long to be read, unless they say why."""
    count = source.count("\n")
    reason = ast.get_docstring(ast.parse(source)) or ""
    if count > LINES_AT_MOST:
        yield f"{count} lines; none has more than {LINES_AT_MOST}"
    elif count > LINES_THAT_NEED_A_REASON and not re.search(r"\blines\b", reason):
        yield f"{count} lines, and its docstring does not say why it has so many lines"


def empty_names(module: str, source: str) -> Iterator[str]:
    """Names that say nothing about what is inside."""
    for part in module.split("."):
        if part in EMPTY_NAMES:
            yield f"a module named {part!r} says nothing about what is inside"


def unknown_shelves(module: str, source: str) -> Iterator[str]:
    """Modules outside every shelf, which no rule would reach."""
    if module not in {"", "__main__"} and height(shelf(module)) is None:
        yield f"{module} is on no shelf; the shelves are {', '.join(SHELVES)}"


def hostile_bytes(module: str, source: str) -> Iterator[str]:
    """Python's `email` package, and splitlines where bytes come from strangers: eight characters would end a line."""
    tree = ast.parse(source)
    for line, name in imported(module, tree, is_package=is_package(module)):
        if name.split(".")[0] == "email" and name.split(".")[:2] != ["email", "utils"]:
            yield f"line {line}: {name} is never fed with hostile bytes; only email.utils is allowed"
    if shelf(module) in {"wire", "trust", "content"}:
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr == "splitlines":
                yield f"line {node.lineno}: splitlines() splits at more than CRLF"


def loose_lines(module: str, source: str) -> Iterator[str]:
    """Class E5: lines of a protocol formatted elsewhere than where values are known to hold no CR and no LF."""
    if shelf(module) in LINE_SHELVES or module in LINE_WRITERS:
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value for part in node.values if isinstance(part, ast.Constant)]
            if any("\r" in str(part) for part in parts):
                yield f"line {node.lineno}: a line with CR is put together here; let `wire` or a typed value do it"


def dialects(module: str, source: str) -> Iterator[str]:
    """SQL engines outside `store`, the only shelf that knows them."""
    if shelf(module) == "store":
        return
    for line, name in imported(module, ast.parse(source), is_package=is_package(module)):
        if name.split(".")[0] in {"apsw", "psycopg", "sqlite3"}:
            yield f"line {line}: {module} imports {name}; only store knows SQL"


def forgotten_future(module: str, source: str) -> Iterator[str]:
    """Files whose annotations would be evaluated at import."""
    tree = ast.parse(source)
    names = (name for _, name in imported(module, tree, is_package=is_package(module)))
    if any(not isinstance(node, ast.Expr) for node in tree.body) and "__future__.annotations" not in names:
        yield "lacks `from __future__ import annotations`"


CHECKS: tuple[Check, ...] = (
    climbs, impurities, lengths, empty_names, unknown_shelves, hostile_bytes, loose_lines, dialects, forgotten_future,
)  # fmt: skip


def is_package(module: str) -> bool:
    """True for a name that stands for an `__init__.py` of the real tree."""
    return (SOURCE.joinpath(*module.split(".")) if module else SOURCE).is_dir()


def dotted(path: Path) -> str:
    """`flow/route.py` as `flow.route`, `flow/__init__.py` as `flow`, the package itself as the empty string."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_tree_keeps_the_rule(check: Check) -> None:
    files = sorted(SOURCE.rglob("*.py"))
    complaints = [
        f"{path.relative_to(REPOSITORY)}: {complaint}"
        for path in files
        for complaint in check(dotted(path), path.read_text())
    ]
    assert len(files) > 10
    assert not complaints, "\n" + "\n".join(complaints)


WRONG: tuple[tuple[Check, str, str], ...] = (
    (climbs, "wire.smtp.machine", "from postroad.store import queue"),
    (climbs, "wire.smtp.machine", "from ...store import queue"),
    (climbs, "wire", "from .. import store"),
    (climbs, "values.reply", "from postroad import wire"),
    (climbs, "store.queue", "def later():\n    import postroad.flow.route"),
    (climbs, "store.queue", "if TYPE_CHECKING:\n    from postroad.serve.smtp import Session"),
    (climbs, "net.dns", "import importlib\nimportlib.import_module('postroad.flow')"),
    (climbs, "store.queue", "from postroad.config import Config"),
    (climbs, "app", "from postroad.dev import playground"),
    (climbs, "console.cli.serve", "from postroad import app"),
    (climbs, "console.api.queue", "def later():\n    from postroad import app"),
    (impurities, "wire.data", "import time"),
    (impurities, "content.urls", "def look():\n    from asyncio import sleep"),
    (impurities, "flow.route", "import socket"),
    (impurities, "flow.shaping.lanes", "import ssl"),
    (lengths, "wire.data", '"""Short reason."""\n' + "x = 1\n" * 750),
    (lengths, "wire.data", '"""All lines are one table."""\n' + "x = 1\n" * 950),
    (empty_names, "flow.utils", ""),
    (empty_names, "net.common.dial", ""),
    (unknown_shelves, "mail.queue", ""),
    (hostile_bytes, "flow.bounce", "from email import message_from_bytes"),
    (hostile_bytes, "flow.bounce", "import email.parser"),
    (hostile_bytes, "wire.data", "lines = text.splitlines()"),
    (loose_lines, "serve.smtp", 'line = f"RCPT TO:<{address}>\\r\\n"'),
    (dialects, "flow.runner", "import apsw"),
    (forgotten_future, "flow.runner", "x: int = 1"),
)

RIGHT: tuple[tuple[Check, str, str], ...] = (
    (climbs, "serve.smtp", "from postroad.wire.smtp import ServerMachine"),
    (climbs, "flow.route", "from .schedule import pick"),
    (climbs, "net.dns", "from postroad.config import Config"),
    (climbs, "dev.playground", "from postroad.app import build"),
    (climbs, "console.cli.serve", "def serve():\n    from postroad import app"),
    (climbs, "__main__", "from postroad.console.cli.main import main"),
    (impurities, "flow.runner", "import asyncio"),
    (impurities, "flow.router", "import asyncio"),
    (lengths, "wire.data", '"""All lines are one table."""\n' + "x = 1\n" * 750),
    (hostile_bytes, "flow.bounce", "from email.utils import formatdate"),
    (hostile_bytes, "console.cli.why", "lines = text.splitlines()"),
    (loose_lines, "wire.smtp.client", 'line = f"RCPT TO:<{address}>\\r\\n"'),
    (loose_lines, "serve.smtp", 'end = "\\r\\n"'),
    (dialects, "store.sqlite", "import apsw"),
    (forgotten_future, "flow", '"""Only a docstring."""'),
)


def case_name(value: object) -> str:
    """How a case is called in the output: check and module; the source is left out."""
    name = getattr(value, "__name__", value)
    return name if isinstance(name, str) and len(name) < 25 else ""


@pytest.mark.parametrize(("check", "module", "source"), WRONG, ids=case_name)
def test_check_sees_what_is_wrong(check: Check, module: str, source: str) -> None:
    assert list(check(module, source))


@pytest.mark.parametrize(("check", "module", "source"), RIGHT, ids=case_name)
def test_check_leaves_alone_what_is_right(check: Check, module: str, source: str) -> None:
    assert not list(check(module, source))


def test_everything_imported_is_declared() -> None:
    """A package that is installed only because another one needs it would be missing one day."""
    declared = declared_packages()
    for path in sorted(SOURCE.rglob("*.py")):
        for line, name in imported(dotted(path), ast.parse(path.read_text()), is_package=path.name == "__init__.py"):
            top = name.split(".")[0]
            ours = top == PACKAGE or top in sys.stdlib_module_names or top == "__future__"
            assert ours or top in declared, f"{path.relative_to(REPOSITORY)}:{line}: {top} is not in pyproject.toml"


def declared_packages() -> set[str]:
    """Import names of everything a user can have: the core and its extras, without the development tools."""
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(r for name in extras if name != "dev" for r in extras[name])]
    names = {re.match(r"[A-Za-z0-9_.-]+", requirement)[0] for requirement in requirements}  # type: ignore[index]
    import_names = {"argon2-cffi": "argon2", "dnspython": "dns", "prometheus-client": "prometheus_client"}
    return {import_names.get(name, name) for name in names}
