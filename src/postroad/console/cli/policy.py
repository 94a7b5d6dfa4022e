"""`postroad policy`: look at a policy.py outside of a server, in a process of its own like theirs."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeVar

import click
from msgspec import structs

from postroad.console.cli.exits import NOTHING, Trouble
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.show import json_option, print_json

if TYPE_CHECKING:
    from postroad.config import Config
    from postroad.serve.policy_frames import Loaded
    from postroad.serve.policy_process import PolicyProcess
    from postroad.values.address import Address
    from postroad.values.facts import Content, Facts
    from postroad.values.verdict import Verdict

STAGES: Final = ("connect", "hello", "auth", "mail", "rcpt", "message")

R = TypeVar("R")


@click.group()
def policy() -> None:
    """Check and try a policy.py, the rules of your own.

    \b
    Examples:
      postroad policy check /etc/postroad/policy.py
      postroad policy try --stage rcpt --recipient anna@example.org
    """


@policy.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@json_option
@place_options
def check(file: Path | None, as_json: bool, place: Place) -> None:
    """Load the file as a server would, and say what is wrong with it.

    Without FILE it is that of the configuration. As root it is loaded by the
    account of the service. Exit status 1 when it cannot be loaded.

    \b
    Examples:
      postroad policy check
      postroad policy check /tmp/policy.py
    """
    config = place.config()
    file = _named(file, config)
    loaded = load(file, config)
    if as_json:
        rows = {"error": loaded.error, "line": loaded.line, "stages": list(loaded.stages)}
        print_json("policy-check/1", file=str(file), ok=not loaded.error, **rows)
    else:
        click.secho(told(file, loaded), fg="red" if loaded.error else None)
    if loaded.error:
        raise click.exceptions.Exit(NOTHING)


@policy.command("try")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--stage", type=click.Choice(STAGES), required=True, help="Which function to ask.")
@click.option("--door", default="mx", show_default=True, help="Where the client came in.")
@click.option("--peer", default="192.0.2.1", show_default=True, help="Address of the client.")
@click.option("--helo", default="client.example.net", show_default=True, help="What it calls itself.")
@click.option("--login", default="", help="Account that logged in.")
@click.option("--sender", default="", help="Envelope sender; none is the null sender.")
@click.option("--recipient", "recipients", multiple=True, help="Recipient; several for a message.")
@click.option("--message", type=click.File("rb"), help="File with a message, or - for standard input.")
@json_option
@place_options
def attempt(
    file: Path | None,
    stage: str,
    door: str,
    peer: str,
    helo: str,
    login: str,
    sender: str,
    recipients: tuple[str, ...],
    message: IO[bytes] | None,
    as_json: bool,
    place: Place,
) -> None:
    """Ask one function of the file and print its verdict.

    \b
    Examples:
      postroad policy try --stage rcpt --sender bob@example.net \\
          --recipient anna@example.org
      postroad policy try /tmp/policy.py --stage message --message mail.eml
    """

    from postroad.values.facts import Facts, Stage

    config = place.config()
    file = _named(file, config)
    facts = Facts(
        Stage(stage), session=1, door=door, peer=peer, helo=helo, esmtp=True, login=login, account=1 if login else 0
    )
    addresses = tuple(map(_address, recipients))
    facts = structs.replace(facts, sender=_address(sender) if sender else None)
    if stage == "rcpt" and addresses:
        facts = structs.replace(facts, recipient=addresses[0])
    elif stage == "message":
        facts = structs.replace(facts, recipients=addresses, content=_content(message.read() if message else b""))
    verdict, loaded = run(file, config, _asking(facts, config.policy.timeout_s))
    if loaded.error:
        raise Trouble(told(file, loaded))
    _show(verdict, stage, loaded.stages, as_json)


def _show(verdict: Verdict | None, stage: str, stages: tuple[str, ...], as_json: bool) -> None:
    ruling = verdict.ruling.value if verdict is not None else "no opinion"
    if as_json:
        said = str(verdict.say) if verdict is not None and verdict.say is not None else ""
        why = verdict.why if verdict is not None else ""
        evidence = verdict.evidence if verdict is not None else ""
        print_json("policy-try/1", stage=stage, ruling=ruling, why=why, reply=said, evidence=evidence)
        return
    if stage not in stages:
        click.echo(f"{ruling}: the file has no function {stage}()")
        return
    click.echo(ruling if verdict is None else f"{ruling}: {verdict.why}")
    if verdict is not None:
        for name, text in (("reply", str(verdict.say or "")), ("evidence", verdict.evidence), *_changes(verdict)):
            if text:
                click.echo(f"  {name:<12}{text}")


def _changes(verdict: Verdict) -> list[tuple[str, str]]:
    changes = verdict.changes
    lines = [("quarantine", changes.quarantine), ("discard", "yes" if changes.discard else "")]
    if changes.header is not None:
        lines += [("header", line.decode("utf-8", "replace")) for line in changes.header.rstrip(b"\r\n").split(b"\r\n")]
    return lines


def told(file: Path, loaded: Loaded) -> str:
    """What is known of a file, for people."""
    from postroad.serve.policy import told as told_error

    if loaded.error:
        return told_error(file, loaded)
    return f"{file}: ok, asked at {', '.join(loaded.stages) or 'no stage: it has no function of their names'}"


def run(file: Path, config: Config, work: Callable[[PolicyProcess], Awaitable[R]]) -> tuple[R | None, Loaded]:
    """Load a file in a process, as the service's account where we are root, and do something with it."""
    import asyncio

    from postroad.serve.policy import SourceError, examine
    from postroad.serve.policy_frames import Loaded

    user = config.user if os.geteuid() == 0 else ""

    async def worked() -> tuple[R | None, Loaded]:
        process, loaded = await examine(file, user)
        if process is None:
            return None, loaded
        try:
            return await work(process), loaded
        finally:
            await process.close()

    try:
        return asyncio.run(worked())
    except SourceError as error:
        return None, Loaded(error=str(error).removeprefix(f"{file} "))
    except (OSError, KeyError) as error:
        raise Trouble(f"No process can be started to load {file}: {error}") from error


def load(file: Path, config: Config) -> Loaded:
    """What loading a file tells."""
    return run(file, config, _nothing)[1]


async def _nothing(process: PolicyProcess) -> None:
    return


def _asking(facts: Facts, timeout_s: float) -> Callable[[PolicyProcess], Awaitable[Verdict | None]]:
    async def ask(process: PolicyProcess) -> Verdict | None:
        from postroad.rules.opinions import verdict_of
        from postroad.serve.policy_frames import question
        from postroad.serve.policy_process import PolicyEnded, PolicyFailed
        from postroad.values.verdict import doubt

        if facts.stage.value not in process.stages:
            return None
        try:
            return verdict_of(await process.ask(question(facts), facts.content, timeout_s), facts)
        except PolicyFailed as failure:
            return doubt("policy failed", str(failure))
        except PolicyEnded as end:
            return doubt("policy hung" if end.hung else "policy failed", f"the process {end}")

    return ask


def _content(raw: bytes) -> Content:
    from collections.abc import AsyncIterator

    from postroad.values.facts import Content
    from postroad.wire.mime.submitted import Unsendable, taken_in

    try:
        text = taken_in(raw)
    except Unsendable as error:
        raise Trouble(f"{error}.") from error

    async def body() -> AsyncIterator[bytes]:
        yield text.body

    return Content(text.header + b"\r\n", len(text.octets), body, eightbit=not text.octets.isascii())


def _address(text: str) -> Address:
    from postroad.values.address import Address, AddressError

    try:
        return Address.parse(text, utf8=True)
    except AddressError as error:
        raise Trouble(f'"{text}" is no address: {error.reason}.') from error


def _named(file: Path | None, config: Config) -> Path:
    if file is not None:
        return file.absolute()
    if not config.policy.file:
        raise Trouble("No policy file is configured.", "Name one, or set policy.file: see docs/policy.md.")
    return Path(config.policy.file)
