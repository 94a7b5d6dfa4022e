"""Does a parsed TOML table have the shape of `Config`? Unknown keys and wrong types, all of them, in plain words.

msgspec checks the same when it converts, but it stops at the first error and speaks of JSON types; this module walks
the tables against msgspec's own description of the structs, so there is still only one place that says what is allowed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import inspect

from postroad.config import Config
from postroad.config.problems import Complaint, Path, closest, key_text

FOREIGN: Final[dict[str, str]] = {
    "bind_address": "relay.bind",
    "cert": "tls.certificate",
    "cert_file": "tls.certificate",
    "data_directory": "data_dir",
    "haproxy_trusted_networks": "listen.proxy_from",
    "hopcount_limit": "limits.hops",
    "inet_interfaces": "listen.mx",
    "key_file": "tls.key",
    "max_message_size": "limits.message_size",
    "max_recipients": "limits.recipients",
    "maximal_queue_lifetime": "retry.lifetime_s",
    "message_size_limit": "limits.message_size",
    "mynetworks": "relay.relay_from",
    "myhostname": "hostname",
    "nameserver": "dns.nameservers",
    "postscreen_greet_wait": "limits.greeting_wait_s",
    "relayhost": "relay.next_hop",
    "resolver": "dns.nameservers",
    "server_name": "hostname",
    "smarthost": "relay.next_hop",
    "smtpd_authorized_xclient_hosts": "listen.xclient_from",
    "smtpd_client_connection_count_limit": "limits.mx_per_address",
    "smtpd_tls_cert_file": "tls.certificate",
    "smtpd_tls_key_file": "tls.key",
    "spool_dir": "data_dir",
    "transport_maps": "relay.routes",
}
"""Names that other mail servers or habit give to our keys."""


def complaints(tables: dict[str, Any]) -> Iterator[Complaint]:
    """Every unknown key and every value of the wrong type or size in a parsed file."""
    yield from _struct(tables, _description(), ())


@functools.cache
def _description() -> inspect.StructType:
    described = inspect.type_info(Config)
    assert isinstance(described, inspect.StructType)
    return described


@functools.cache
def keys() -> dict[str, tuple[inspect.Type, Any]]:
    """Every key as people write it ("relay.port"), with its type and its default; those without a section first."""
    top: dict[str, tuple[inspect.Type, Any]] = {}
    below: dict[str, tuple[inspect.Type, Any]] = {}
    for field in _description().fields:
        if isinstance(field.type, inspect.StructType):
            below |= {f"{field.name}.{inner.name}": (inner.type, _default(inner)) for inner in field.type.fields}
        else:
            top[field.name] = (field.type, _default(field))
    return top | below


def _default(field: inspect.Field) -> Any:
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default


def _struct(table: dict[str, Any], described: inspect.StructType, path: Path) -> Iterator[Complaint]:
    fields = {field.name: field.type for field in described.fields}
    for name, value in table.items():
        if name not in fields:
            yield _unknown(name, value, fields, path)
        else:
            yield from value_complaints(value, fields[name], (*path, name))


def value_complaints(value: Any, wanted: inspect.Type, path: Path) -> Iterator[Complaint]:
    """The complaint about one value of a key, if any; containers are walked one level, which is all our keys have."""
    if isinstance(wanted, inspect.StructType):
        if isinstance(value, dict):
            yield from _struct(value, wanted, path)
        else:
            yield Complaint(
                path, f"{_shown(value)} is not a section", f"Write the header [{key_text(path)}] above its keys"
            )
    elif isinstance(wanted, inspect.VarTupleType):
        yield from _list(value, wanted.item_type, path)
    elif isinstance(wanted, inspect.DictType):
        yield from _names(value, wanted.value_type, path)
    else:
        wrong = _scalar(value, wanted)
        if wrong:
            yield Complaint(path, *wrong)


def _list(value: Any, wanted: inspect.Type, path: Path) -> Iterator[Complaint]:
    if not isinstance(value, list):
        yield Complaint(path, f"{_shown(value)} is not a list", f"Put it in brackets: [{_shown(value)}]")
        return
    for one in value:
        wrong = _scalar(one, wanted)
        if wrong:
            yield Complaint(path, *wrong)


def _names(value: Any, wanted: inspect.Type, path: Path) -> Iterator[Complaint]:
    if not isinstance(value, dict):
        example = '{ "example.org" = "192.0.2.7:25" }'
        yield Complaint(path, f"{_shown(value)} is not a table of names and values", f"Write it as {example}")
        return
    for name, one in value.items():
        wrong = _scalar(one, wanted)
        if wrong:
            yield Complaint((*path, name), *wrong)


def _scalar(value: Any, wanted: inspect.Type) -> tuple[str, str] | None:
    """What is wrong with one value and the fix, or None when it fits."""
    if isinstance(wanted, inspect.StrType):
        return None if isinstance(value, str) else _not_text(value)
    if isinstance(wanted, inspect.BoolType):
        return None if isinstance(value, bool) else _not_bool(value)
    assert isinstance(wanted, (inspect.IntType, inspect.FloatType))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _not_number(value, wanted)
    if isinstance(wanted, inspect.IntType) and not isinstance(value, int):
        return f"{value} is not a whole number", f"Write {round(value)}" if value == value else "Write a whole number"
    return _size(value, wanted)


def _not_text(value: Any) -> tuple[str, str]:
    if isinstance(value, (int, float)):
        return f"{_shown(value)} is not text", f'Write it in quotes: "{_shown(value)}"'
    return f"{_shown(value)} is not text", "Write one text in quotes"


def _not_bool(value: Any) -> tuple[str, str]:
    truth = str(value).lower() in ("1", "on", "true", "yes", "y")
    return f"{_shown(value)} is neither true nor false", f"Write {'true' if truth else 'false'}, without quotes"


def _not_number(value: Any, wanted: inspect.IntType | inspect.FloatType) -> tuple[str, str]:
    if isinstance(value, str):
        try:
            return f"{_shown(value)} is text, not a number", f"Write it without quotes: {float(value):g}"
        except ValueError:
            pass
    kind = "a whole number" if isinstance(wanted, inspect.IntType) else "a number"
    return f"{_shown(value)} is not a number", f"Write {kind} without a unit and without quotes"


def _size(value: float, wanted: inspect.IntType | inspect.FloatType) -> tuple[str, str] | None:
    if value != value or value in (float("inf"), float("-inf")):
        return f"{value} is not a usable number", "Write a finite number"
    if wanted.ge is not None and value < wanted.ge:
        return f"{value} is too small", f"Write {wanted.ge} or more"
    if wanted.gt is not None and value <= wanted.gt:
        return f"{value} is too small", f"Write a number above {wanted.gt}"
    if wanted.le is not None and value > wanted.le:
        return f"{value} is too large", f"Write {wanted.le} or less"
    if wanted.lt is not None and value >= wanted.lt:
        return f"{value} is too large", f"Write a number below {wanted.lt}"
    return None


def _unknown(name: str, value: Any, fields: dict[str, inspect.Type], path: Path) -> Complaint:
    """A key nobody knows: the nearest one here, else the section it belongs to, else the name others use for it."""
    kind = "section" if isinstance(value, dict) else "key"
    what = f"there is no {kind} of this name"
    fix = _meant(name, fields, path)
    if not fix:
        here = f"[{key_text(path)}]" if path else "the file"
        fix = f"Remove it; {here} knows {', '.join(sorted(fields))}"
    return Complaint((*path, name), what, fix)


def _meant(name: str, fields: dict[str, inspect.Type], path: Path) -> str:
    homes = [key for key in keys() if key.rpartition(".")[2] == name]
    if homes:
        return f"It belongs elsewhere: {_place(homes[0])}"
    foreign = FOREIGN.get(name.lower())
    if foreign:
        return f"The name here is {_place(foreign)}"
    near = closest(name, fields)
    if near:
        return f'Did you mean "{near}"?'
    far = closest(name, {key.rpartition(".")[2] for key in keys()})
    if far:
        home = next(key for key in keys() if key.rpartition(".")[2] == far)
        return f"Did you mean {_place(home)}?"
    return ""


def _place(key: str) -> str:
    section, _, name = key.rpartition(".")
    return f'"{name}" in [{section}]' if section else f'"{name}" at the top of the file, before the first section'


def _shown(value: Any) -> str:
    """A value as it may stand in a message: short, as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value[:60]}..."' if len(value) > 60 else f'"{value}"'
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return str(value)
