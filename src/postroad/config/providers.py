"""The provider file: which hosts belong to one provider, what it allows, and what its replies mean.

The file that comes with Postroad is `providers.toml` beside this module; one of the administrator's own
(`relay.providers_file`) is laid over it: a key replaces a key, a rule the rule of the same name. `examine` says
everything that is wrong with a file at once, with line and fix; `load` returns the providers or raises `ConfigError`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, inspect

from postroad.config.endpoints import is_hostname
from postroad.config.load import read_tables
from postroad.config.patterns import Pattern
from postroad.config.problems import Complaint, ConfigError, Path, Problem, closest, key_text
from postroad.config.shape import value_complaints

SHIPPED: Final = FilePath(__file__).with_name("providers.toml")

EVERYBODY: Final = "everybody"
"""Name of the table whose replies are looked through for every host, behind those of its provider."""

ACTIONS: Final = {
    "slow": "fewer messages go there for a while",
    "fewer": "fewer connections go there at once for a while; messages keep no distance",
    "suspend": "nothing goes there for a while, then one message finds out",
    "change-source": "nothing goes there from this source address for a while, but from another if there is one",
    "reconnect": "the connection has taken all it may: the message goes over a new one, at once",
    "bounce": "the recipient's delivery ends, whatever the code says",
    "none": "nothing happens beyond what the code says",
}
"""What a rule may do about a reply; documents and tests read this table."""
TIMED: Final = ("slow", "fewer", "suspend", "change-source", "reconnect")

WEEK_S: Final = 604_800.0

Amount = Annotated[int, Meta(ge=0, le=1_000_000_000)]


class ReplyRule(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of reply, known by its code, enhanced code and words, all of those that are given."""

    code: str = ""
    """The first digits: "421", "5"."""
    enhanced: str = ""
    """The first numbers of the enhanced code: "4.7.28", "4.7"."""
    text: str = ""
    """A pattern of its words (`config.patterns`)."""
    means: str = ""
    """For people."""
    action: str = "none"
    for_s: Annotated[float, Meta(ge=0, le=WEEK_S)] = 0.0
    """How long a timed action lasts."""
    off: bool = False
    """The rule is not used: how a file takes back a rule of the file below it."""


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """One provider; 0 is no limit of the provider's own."""

    hosts: tuple[str, ...] = ()
    """How the names of its mail exchangers end: ".google.com", or a whole name."""
    shared: bool = True
    """All its hosts count together; false: each set of hosts is a site of its own."""
    connections: Amount = 0
    messages_per_connection: Amount = 0
    messages_per_minute: Amount = 0
    messages_per_hour: Amount = 0
    replies: dict[str, ReplyRule] = {}
    """By name, in the order in which they are tried."""


Table = dict[str, Any]


def load(file: str = "") -> dict[str, Provider]:
    """The providers by name, those of `file` laid over the shipped ones; raises ConfigError."""
    tables = shipped()
    if file:
        own, problems = examine(file)
        if problems:
            raise ConfigError(problems)
        tables = overlaid(tables, own)
    return {name: msgspec.convert(table, Provider) for name, table in tables.items()}


@functools.cache
def shipped() -> Table:
    """The tables of the file that comes with Postroad."""
    tables, problems = _examined(str(SHIPPED), {})
    if problems:
        raise ConfigError(problems)
    return tables


def examine(file: str) -> tuple[Table, list[Problem]]:
    """The tables of an administrator's file and everything that is wrong with them; never raises for its content."""
    return _examined(file, shipped())


def overlaid(below: Table, above: Table) -> Table:
    """Tables with another file's laid over them; its replies are tried first."""
    merged = dict(below)
    for name, table in above.items():
        under = below.get(name, {})
        replies = dict(table.get("replies", {}))
        replies |= {key: rule for key, rule in under.get("replies", {}).items() if key not in replies}
        merged[name] = {**under, **table, "replies": replies}
    return merged


def _examined(file: str, below: Table) -> tuple[Table, list[Problem]]:
    tables, lines, problem = read_tables(file)
    if problem is not None:
        return {}, [problem]
    found = [one.at(file, lines.line(one.path)) for one in _complaints(tables, below)]
    return tables, sorted(found, key=lambda one: one.line)


# -- what is wrong ---------------------------------------------------------------------------------------------------


@functools.cache
def _fields(struct: type) -> dict[str, inspect.Type]:
    described = inspect.type_info(struct)
    assert isinstance(described, inspect.StructType)
    return {field.name: field.type for field in described.fields}


def _complaints(tables: Table, below: Table) -> Iterator[Complaint]:
    for name, table in tables.items():
        path = (name,)
        if not isinstance(table, dict):
            yield Complaint(path, "this is no provider", f"Write the header [{name}] above its keys")
            continue
        shape = list(_shape(table, Provider, path, ("replies",)))
        yield from shape
        if not shape:
            yield from _provider(name, table, below)
        replies = table.get("replies", {})
        if not isinstance(replies, dict):
            yield Complaint((*path, "replies"), "this is no table of rules", f"Write [{name}.replies.NAME] above each")
            continue
        for key, rule in replies.items():
            yield from _rule((*path, "replies", key), rule)
            if isinstance(rule, dict) and rule.get("off"):
                yield from _taken_back((*path, "replies", key), below.get(name, {}).get("replies", {}))


def _shape(table: Table, struct: type, path: Path, apart: tuple[str, ...] = ()) -> Iterator[Complaint]:
    fields = _fields(struct)
    for key, value in table.items():
        if key not in fields:
            near = closest(key, fields)
            fix = f'Did you mean "{near}"?' if near else f"Remove it; there are {', '.join(fields)}"
            yield Complaint((*path, key), "there is no key of this name", fix)
        elif key not in apart:
            yield from value_complaints(value, fields[key], (*path, key))


_HOSTS_FIX: Final = 'Write ".example.net" for all below it, or one whole name'


def _provider(name: str, table: Table, below: Table) -> Iterator[Complaint]:
    hosts = table.get("hosts", below.get(name, {}).get("hosts", ()))
    if name == EVERYBODY:
        for key in table:
            if key != "replies":
                fix = "Write the limit of all lanes into [relay] of the configuration"
                yield Complaint((name, key), f'"{EVERYBODY}" has replies only', fix)
    elif not hosts:
        yield Complaint((name,), "no host belongs to this provider", 'Write how they end: hosts = [".example.net"]')
    for host in table.get("hosts", ()):
        bare = host.removeprefix(".")
        if host != host.lower() or "." not in bare or not is_hostname(bare):
            what = f'"{host}" is not the end of a host name in small letters'
            meant = host.removeprefix("*").lower()
            fix = f'Write "{meant}"' if meant != host and is_hostname(meant.removeprefix(".")) else _HOSTS_FIX
            yield Complaint((name, "hosts"), what, fix)


def _rule(path: Path, rule: Any) -> Iterator[Complaint]:
    if not isinstance(rule, dict):
        yield Complaint(path, "this is no rule", f"Write the header [{key_text(path)}] above its keys")
        return
    wrong = list(_shape(rule, ReplyRule, path))
    yield from wrong
    if wrong:
        return
    for key in ("means", "action"):
        if not rule.get(key) and not rule.get("off"):
            yield Complaint(path, f"{key} is missing", "Say what the reply means, and what to do about it")
    yield from _recognised(path, rule)
    action = rule.get("action", "none")
    if action not in ACTIONS:
        yield Complaint((*path, "action"), f'there is no action "{action}"', f"Write one of {', '.join(ACTIONS)}")
    elif action in TIMED and not rule.get("for_s"):
        yield Complaint((*path, "action"), f"{action} needs for_s", "Write for how many seconds: for_s = 3600")
    elif action not in TIMED and rule.get("for_s"):
        yield Complaint((*path, "for_s"), f"{action} lasts no time", f"Remove it, or use {', '.join(TIMED)}")


def _taken_back(path: Path, shipped: Table) -> Iterator[Complaint]:
    """A rule that is taken back should be there."""
    if path[-1] not in shipped:
        near = closest(str(path[-1]), shipped)
        fix = f'Did you mean "{near}"?' if near else f"Remove it; there are {', '.join(shipped) or 'none'}"
        yield Complaint(path, f"{path[0]} has no rule of this name to take back", fix, fatal=False)


def _recognised(path: Path, rule: Table) -> Iterator[Complaint]:
    code, enhanced = rule.get("code", ""), rule.get("enhanced", "")
    if not (code or enhanced or rule.get("text") or rule.get("off")):
        yield Complaint(
            path, "the rule would fit every reply", 'Give it a code, an enhanced code or a text: code = "421"'
        )
    if code and not (code.isdecimal() and len(code) <= 3 and code[0] in "45"):
        yield Complaint((*path, "code"), f'"{code}" begins no reply of refusal', 'Write up to three digits: "421"')
    parts = enhanced.split(".") if enhanced else []
    if len(parts) > 3 or any(not part.isdecimal() for part in parts) or (parts and parts[0] not in "45"):
        fix = 'Write it as "4.7.28", or "4.7" for all of them'
        yield Complaint((*path, "enhanced"), f'"{enhanced}" is no enhanced code', fix)
    try:
        Pattern(rule.get("text", ""))
    except ValueError as error:
        what, _, fix = str(error).partition(". ")
        yield Complaint((*path, "text"), what, fix)
