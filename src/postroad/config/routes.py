"""The routes file: which mail takes which way out, as a list of named rules that is read from the top.

A table is one route. Its `recipients`, `senders` and `users` say what mail it is for, all of those that are given; the
first route that fits counts. `examine` says everything that is wrong with a file at once, with line and fix; `load`
returns the routes with their passwords or raises `ConfigError`.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, inspect

from postroad.config.endpoints import is_address, is_hostname
from postroad.config.load import read_tables
from postroad.config.problems import Complaint, ConfigError, Path, Problem, closest
from postroad.config.shape import value_complaints
from postroad.values.address import Address, AddressError
from postroad.values.next_hop import parse_next_hop
from postroad.wire.sasl import MAX_FIELD, Credentials

ROUTES_MAX: Final = 1000
"""Routes of one file: each is looked at for every recipient, 0.3 us apiece."""

PASSWORD_FILE_MAX: Final = 4096
"""Octets of a password file; a larger one is the wrong file."""

AS_USUAL, MX, DISCARD, HOLD = "", "mx", "discard", "hold"
WORDS: Final = {
    MX: "by the mail exchangers of the recipient's domain, whatever relay.next_hop says",
    DISCARD: "nowhere: it ends as if it had been delivered, and the journal says so",
    HOLD: "nowhere for now: it waits in the queue until somebody releases it",
}
"""What `via` may say besides a next hop; documents and tests read this table."""
LEVELS: Final = ("may", "encrypt", "verify")


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One way out and the mail that takes it. Its password is not here: `password_file` names the file."""

    recipients: tuple[str, ...] = ()
    """"example.org", ".example.org" for all below it, or "name@example.org"; none: all."""
    senders: tuple[str, ...] = ()
    """The same of envelope senders; "<>" is the sender of reports."""
    users: tuple[str, ...] = ()
    """The same of the logins that mail was submitted with."""
    via: str = AS_USUAL
    """A next hop or one of WORDS; empty: where the mail would go without this route."""
    tls: str = ""
    """What must hold of TLS at least, one of LEVELS; empty: what the domain and relay.tls_policy ask for."""
    login: str = ""
    password_file: str = ""
    source: tuple[str, ...] = ()
    """Addresses to connect from; of several of one family each sender's domain keeps one."""
    ehlo: str = ""
    """How the server calls itself there."""
    fallback: str = ""
    """The next hop that is used once `fallback_after` attempts have failed."""
    fallback_after: Annotated[int, Meta(ge=1, le=100)] = 3
    why: str = ""
    """For people: stands in the journal of what is held or discarded."""


class Loaded(msgspec.Struct, frozen=True):
    """A usable routes file: the routes in order, and the logins of those that have one."""

    routes: dict[str, Route]
    logins: dict[str, Credentials]


def load(file: str) -> Loaded:
    """The routes of a file, none for an empty name; raises ConfigError, also for a password that cannot be used."""
    if not file:
        return Loaded({}, {})
    routes, problems = examine(file)
    fatal = [problem for problem in problems if problem.fatal]
    logins = {}
    for name, route in routes.items() if not fatal else ():
        if route.login:
            password, wrong = read_password(route.password_file)
            if wrong is not None:
                fatal.append(Problem(file, 0, f"{name}.password_file", *wrong))
            logins[name] = Credentials(route.login, password)
    if fatal:
        raise ConfigError(fatal)
    return Loaded(routes, logins)


def examine(file: str) -> tuple[dict[str, Route], list[Problem]]:
    """The routes of a file and everything that is wrong with it; never raises for its content."""
    tables, lines, problem = read_tables(file)
    if problem is not None:
        return {}, [problem]
    placed = (one.at(file, lines.line(one.path)) for one in _complaints(tables))
    found = sorted(placed, key=lambda one: one.line)
    if any(one.fatal for one in found):
        return {}, found
    return {name: msgspec.convert(table, Route) for name, table in tables.items()}, found


def read_password(file: str) -> tuple[str, tuple[str, str] | None]:
    """The password in a file, without its line end; else what is wrong with the file, and the fix."""
    try:
        with open(file, "rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            raw = opened.read(PASSWORD_FILE_MAX + 1)
    except OSError as error:
        return "", (f"{file} cannot be read ({error.strerror or error})", "Let the account of the service read it")
    if mode & stat.S_IRWXO:
        return "", (f"every account of this machine can read the password in {file}", f"chmod 640 {file}")
    try:
        password = raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        password = ""
    if not password or len(raw) > PASSWORD_FILE_MAX or len(password.encode()) > MAX_FIELD or not password.isprintable():
        return "", (f"{file} holds no password", "Write the password into it, on one line and nothing else")
    return password, None


# -- what is wrong ---------------------------------------------------------------------------------------------------


@functools.cache
def _fields() -> dict[str, inspect.Type]:
    described = inspect.type_info(Route)
    assert isinstance(described, inspect.StructType)
    return {field.name: field.type for field in described.fields}


def _complaints(tables: dict[str, Any]) -> Iterator[Complaint]:
    if len(tables) > ROUTES_MAX:
        yield Complaint((), f"there are more than {ROUTES_MAX} routes", "Put domains that share a way into one route")
    everything = ""
    for name, table in tables.items():
        path = (name,)
        if not isinstance(table, dict):
            yield Complaint(path, "this is no route", "Write its keys below a header such as [partner]")
            continue
        shape = list(_shape(table, path))
        yield from shape
        if shape:
            continue
        route = msgspec.convert(table, Route)
        yield from _route(path, route)
        if "fallback_after" in table and not route.fallback:
            yield Complaint((*path, "fallback_after"), "there is no fallback to go to", "Name one, or remove the key")
        if everything:
            what = f"no mail comes this far: [{everything}] takes all of it"
            yield Complaint(path, what, f"Move [{everything}] to the end of the file", fatal=False)
        elif not (route.recipients or route.senders or route.users):
            everything = name


def _shape(table: dict[str, Any], path: Path) -> Iterator[Complaint]:
    fields = _fields()
    for key, value in table.items():
        if key not in fields:
            near = closest(key, fields)
            fix = f'Did you mean "{near}"?' if near else f"Remove it; a route knows {', '.join(fields)}"
            yield Complaint((*path, key), "there is no key of this name", fix)
        else:
            yield from value_complaints(value, fields[key], (*path, key))


def _route(path: Path, route: Route) -> Iterator[Complaint]:
    if not path[0].isascii() or not path[0].isprintable() or " " in path[0]:
        yield Complaint(path, "the name of a route is one word", "Write it as [to-partner], without spaces")
    for key in ("recipients", "senders", "users"):
        for text in getattr(route, key):
            wrong = _pattern(text, key)
            if wrong:
                yield Complaint((*path, key), *wrong)
    if route.via not in (AS_USUAL, *WORDS):
        yield from _hop((*path, "via"), route.via, WORDS)
    if route.via in (DISCARD, HOLD):
        for key in ("tls", "login", "source", "ehlo", "fallback"):
            if getattr(route, key):
                yield Complaint((*path, key), f'"{route.via}" sends nothing anywhere', f"Remove {key}")
    if route.fallback:
        yield from _hop((*path, "fallback"), route.fallback, {})
    if route.tls and route.tls not in LEVELS:
        yield Complaint((*path, "tls"), f'"{route.tls}" is no level of TLS', f"Write one of {', '.join(LEVELS)}")
    yield from _login(path, route)
    for text in route.source:
        if not is_address(text):
            yield Complaint((*path, "source"), f'"{text}" is not an IP address', "Write an address of this machine")
    if route.ehlo and (not is_hostname(route.ehlo) or "." not in route.ehlo):
        yield Complaint((*path, "ehlo"), f'"{route.ehlo}" is not a host name', 'Write it as "out1.example.org"')


def _pattern(text: str, key: str) -> tuple[str, str] | None:
    """What is wrong with one text of what mail a route is for."""
    if text == "<>" and key == "senders":
        return None
    if text.startswith("*"):
        bare = text[1:].removeprefix("@").lower()
        fix = f'Write "{bare}"' if is_hostname(bare.removeprefix(".")) else 'Write "example.org" or ".example.org"'
        return f'"{text}": a * stands for nothing else here', fix
    if "@" in text:
        try:
            Address.parse(text, utf8=True)
        except AddressError as error:
            domain = text.removeprefix("@")
            fix = f'Write "{domain}"' if text.startswith("@") and is_hostname(domain) else 'Write "name@example.org"'
            return f'"{text}" is no address ({error.reason})', fix
        return None
    if not is_hostname(text.removeprefix(".")) or text != text.lower():
        fix = f'Write "{text.lower()}"' if is_hostname(text.removeprefix(".")) else 'Write "example.org"'
        return f'"{text}" is neither a domain in small letters nor an address', fix
    return None


def _hop(path: Path, text: str, words: dict[str, str]) -> Iterator[Complaint]:
    near = closest(text, words) if words and "." not in text and ":" not in text else ""
    if near:
        yield Complaint(path, f'"{text}" is no way out', f'Did you mean "{near}"?')
        return
    try:
        parse_next_hop(text)
    except ValueError as error:
        what, _, fix = str(error).partition(". ")
        yield Complaint(path, what, fix)


def _login(path: Path, route: Route) -> Iterator[Complaint]:
    if bool(route.login) != bool(route.password_file):
        key = "password_file" if route.login else "login"
        yield Complaint(path, f"{key} is missing", "Name the login, and the file that holds its password")
        return
    if not route.login:
        return
    if route.via in (AS_USUAL, *WORDS) or route.via.startswith("lmtp:"):
        yield Complaint((*path, "login"), "a login belongs to one host", 'Name it: via = "smtp.example.net:587"')
    if route.tls not in ("", "verify"):
        what = f'with tls = "{route.tls}" the password would go to whoever answers'
        yield Complaint((*path, "tls"), what, 'Write tls = "verify", or remove the key: a login means it')
