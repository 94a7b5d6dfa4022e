"""`postroad domain dkim`: the keys that a domain signs its mail with."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click

from postroad.console.cli.answers import demand
from postroad.console.cli.domain_dns import ask_servers, domain_name, identity_of, port_option
from postroad.console.cli.exits import NOT_TOLD, Trouble
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.show import json_option, print_json, print_rows, wall

if TYPE_CHECKING:
    from postroad.store.dkim_records import DkimKey

PEM_MAX: Final = 64 * 1024
"""Octets of a key file: an RSA key of 16,384 bits has 13,000."""

ACTIONS: Final = ("list", "make", "rotate", "retire", "remove", "import")
"""What may be done; the first is what no word means."""

KEEP_DAYS: Final = 7
"""How long the record of a retired key should stay: mail is tried for five days, and then read."""


@click.command()
@click.argument("name")
@click.argument("action", type=click.Choice(ACTIONS), default="list")
@click.argument("selector", default="")
@click.option("--now", "at_once", is_flag=True, help="rotate: do not wait for the records in DNS.")
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="import: the key, as PEM.")
@port_option
@json_option
@place_options
def dkim(
    name: str, action: str, selector: str, at_once: bool, file: Path | None, port: int, as_json: bool, place: Place
) -> None:
    """Show or change the keys that a domain signs its mail with.

    \b
    list              the keys, their states and records (the default)
    make              the first pair of a domain that has no key
    rotate            first call: make new keys to publish; second call,
                      when DNS has them: sign with them, retire the old
    retire SELECTOR   sign no more with one key
    remove SELECTOR   forget a retired key
    import SELECTOR   sign with a key of your own too (--file)

    \b
    Examples:
      postroad domain dkim example.org
      postroad domain dkim example.org rotate
      postroad domain dkim example.org import s1 --file s1.pem
    """
    if (action in ("retire", "remove", "import")) != bool(selector):
        raise click.UsageError(f"{action} {'needs a SELECTOR.' if not selector else 'takes no SELECTOR.'}")
    if (file is not None) != (action == "import"):
        raise click.UsageError("import needs --file, and nothing else does.")
    domain = domain_name(name)
    match action:
        case "list":
            _list(domain, as_json, place)
        case "make":
            _make(domain, place)
        case "rotate":
            _rotate(domain, at_once, port, place)
        case "retire":
            _retire(domain, selector, place)
        case "remove":
            _remove(domain, selector, place)
        case "import":
            assert file is not None
            _import(domain, selector, file, place)


def add_first_pair(call: Callable[..., Any], domain: str) -> Any:
    """Gives a domain that has no key its first two."""
    import time

    from postroad.store.dkim import dkim_add, month_of, new_pair
    from postroad.store.dkim_records import DkimAdd

    return call(dkim_add, DkimAdd(domain, new_pair(month_of(time.time_ns() // 1000), set()), first=True))


def _list(domain: str, as_json: bool, place: Place) -> None:
    from postroad.store.dkim_records import STATES
    from postroad.trust.dkim.keys import key_record, public_octets

    keys = _keys(domain, place)
    rows = [
        {
            "selector": key.selector, "algorithm": key.algorithm, "state": STATES[key.state],
            "created_us": key.created_us, "changed_us": key.changed_us, "name": f"{key.selector}._domainkey.{domain}",
            "record": key_record(key.algorithm, public_octets(key.algorithm, key.private)),
        }
        for key in keys
    ]  # fmt: skip
    if as_json:
        print_json("dkim-keys/1", domain=domain, rows=rows)
        return
    print_rows(
        ("selector", "algorithm", "state", "since"),
        [(key.selector, key.algorithm, STATES[key.state], wall(key.changed_us)) for key in keys],
        f"{domain} has no key. Make them: postroad domain dkim {domain} make",
    )


def _keys(domain: str, place: Place) -> list[DkimKey]:
    from postroad.console.cli.stores import looking, now
    from postroad.store.directory import Directory
    from postroad.store.dkim_reads import DkimKeys

    with looking(place.data_dir()) as reader:
        if now(Directory(reader).domain(domain)) is None:
            raise Trouble(f"{domain} is not served here.", f"Add it: postroad domain add {domain}")
        return cast("list[DkimKey]", now(DkimKeys(reader).of(domain)))


def _make(domain: str, place: Place) -> None:
    from postroad.console.cli.stores import changing

    with changing(place.data_dir()) as call:
        made = add_first_pair(call, domain)
    demand(made, domain)
    click.echo(f"Mail of {domain} is signed with {' and '.join(made.selectors)} from now on.")
    click.echo(f"Publish their records: postroad domain dns {domain}")


def _rotate(domain: str, at_once: bool, port: int, place: Place) -> None:
    from postroad.console.cli.stores import changing
    from postroad.store.dkim import dkim_activate
    from postroad.store.dkim_records import PUBLISHED, DkimActivate

    keys = _keys(domain, place)
    if not any(key.state == PUBLISHED for key in keys):
        _publish(domain, {key.selector for key in keys}, place)
        if not at_once:
            return
    elif not at_once:
        _require_published(domain, port, place)
    with changing(place.data_dir()) as call:
        changed = call(dkim_activate, DkimActivate(domain))
        demand(changed, domain)
    click.echo(f"Mail of {domain} is signed with {' and '.join(changed.selectors)} from now on.")
    click.echo(f"Keep the records of the retired keys for {KEEP_DAYS} days, for the mail that is on its way.")


def _publish(domain: str, taken: set[str], place: Place) -> None:
    from postroad.console.cli.stores import changing
    from postroad.store.dkim import dkim_add, month_of, new_pair
    from postroad.store.dkim_records import PUBLISHED, DkimAdd

    pair = new_pair(month_of(time.time_ns() // 1000), taken, PUBLISHED)
    with changing(place.data_dir()) as call:
        made = call(dkim_add, DkimAdd(domain, pair))
    demand(made, domain)
    click.echo(f"The new keys of {domain} are {' and '.join(made.selectors)}; they sign nothing yet.")
    click.echo(f"Publish their records: postroad domain dns {domain}     then: postroad domain dkim {domain} rotate")


def _require_published(domain: str, port: int, place: Place) -> None:
    """Ends the command while a server of the domain does not have the records: others could not verify."""
    from postroad.flow.identity_check import Truth

    for finding in ask_servers(place.config(), port, identity_of(domain, place)):
        if finding.wanted.record == "dkim" and finding.truth is not Truth.YES and "published" in finding.wanted.note:
            raise Trouble(
                f"{finding.wanted.name}: {finding.truth.value}. {finding.advice} Nothing was changed.",
                f"See: postroad domain check {domain}     or add --now.",
                exit_code=1 if finding.truth is Truth.NO else NOT_TOLD,
            )


def _retire(domain: str, selector: str, place: Place) -> None:
    from postroad.console.cli.stores import changing
    from postroad.store.dkim import dkim_retire
    from postroad.store.dkim_records import ACTIVE, DkimSelect

    with changing(place.data_dir()) as call:
        changed = call(dkim_retire, DkimSelect(domain, selector))
    demand(changed, f"{selector} of {domain}")
    click.echo(f"{changed.selectors[0]} signs no more. Keep its record for {KEEP_DAYS} days.")
    if not any(key.state == ACTIVE for key in _keys(domain, place)):
        click.echo(f"No key is left: mail of {domain} leaves unsigned until you rotate.", err=True)


def _remove(domain: str, selector: str, place: Place) -> None:
    from postroad.console.cli.stores import changing
    from postroad.store.dkim import dkim_remove
    from postroad.store.dkim_records import DkimSelect

    retired_us = next((key.changed_us for key in _keys(domain, place) if key.selector == selector.lower()), 0)
    with changing(place.data_dir()) as call:
        changed = call(dkim_remove, DkimSelect(domain, selector))
    demand(changed, f"{selector} of {domain}")
    until_us = retired_us + KEEP_DAYS * 86_400_000_000
    if until_us > time.time_ns() // 1000:
        until = f"Keep its record until {wall(until_us)[:10]}, for the mail it signed."
    else:
        until = "Its record may go."
    click.echo(f"{changed.selectors[0]} is forgotten. {until}")


def _import(domain: str, selector: str, file: Path, place: Place) -> None:
    from postroad.console.cli.stores import changing
    from postroad.store.dkim import dkim_add
    from postroad.store.dkim_records import DkimAdd, DkimKey
    from postroad.trust.dkim.keys import KeyUnusable, read_pem

    try:
        with file.open("rb") as opened:
            algorithm, private = read_pem(opened.read(PEM_MAX))
    except OSError as error:
        raise Trouble(f"{file} cannot be read: {error.strerror}.") from error
    except KeyUnusable as error:
        raise Trouble(f"{file}: {error}. Nothing was changed.") from error
    with changing(place.data_dir()) as call:
        made = call(dkim_add, DkimAdd(domain, [DkimKey(selector.lower(), algorithm, private)]))
    demand(made, f"{selector} of {domain}")
    click.echo(f"Mail of {domain} is signed with {made.selectors[0]} too from now on.")
    click.echo(f"Compare its record: postroad domain check {domain}")
