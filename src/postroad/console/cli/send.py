"""`postroad send`: write a message or take a whole one from standard input, and hand it to the server."""

from __future__ import annotations

import os
import re
import secrets
import sys
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

import click

from postroad.console.cli.exits import NOTHING, TRY_AGAIN, Trouble
from postroad.console.cli.place import Place, place_options
from postroad.console.cli.show import json_option, print_json

if TYPE_CHECKING:
    from postroad.console.cli.submit import Sent
    from postroad.values.address import Address

ID_OCTETS: Final = 9
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")


@click.command()
@click.option("--from", "sender", required=True, metavar="ADDRESS", help='Sender; "" is the null sender.')
@click.option("--to", "recipients", required=True, multiple=True, metavar="ADDRESS", help="Recipient; repeatable.")
@click.option("--subject", metavar="TEXT", help="Subject of the message that is written.")
@click.option("--body", metavar="TEXT", help="Its text; standard input when not given.")
@click.option("--server", metavar="HOST:PORT", help="Where to hand it in [our own].")
@click.option("--user", metavar="LOGIN", help="Log in, on the submission port.")
@click.option("--password-stdin", is_flag=True, help="Read the password from the first line of input.")
@click.option("--direct", is_flag=True, help="Put it into the queue without SMTP.")
@json_option
@place_options
def send(
    sender: str,
    recipients: tuple[str, ...],
    subject: str | None,
    body: str | None,
    server: str | None,
    user: str | None,
    password_stdin: bool,
    direct: bool,
    as_json: bool,
    place: Place,
) -> None:
    """Send a message and say how to follow it.

    With --subject or --body a message is written; otherwise standard input is
    the whole message, header and all. Without --user it is handed to the MX
    port, which takes mail for our domains and from relay_from networks.

    Exit status: 0 all recipients were taken, 1 one was refused, 75 not now.

    \b
    Examples:
      postroad send --from anna@example.org --to bob@example.net \\
          --subject Hello --body "How are you?"
      postroad send --from a@example.org --to b@example.org < message.eml
      postroad send --from a@example.org --to b@example.net --user \\
          a@example.org --subject Hi --body Ho
      postroad send --direct --from a@example.org --to b@example.net \\
          --subject Hi --body Ho
    """
    if direct and (server or user):
        raise click.UsageError("--direct goes round SMTP; --server and --user do not go with it.")
    envelope_from = _address(sender) if sender else None
    envelope_to = [_address(text) for text in recipients]
    password = _password(user, password_stdin)
    message = _message(sender, recipients, subject, body)
    config = place.config()
    if len(message) > config.limits.message_size:
        raise Trouble(f"The message has {len(message)} octets; the limit is {config.limits.message_size}.")
    if direct:
        from postroad.console.cli.direct import put

        sent = put(config, envelope_from, envelope_to, message)
    else:
        from postroad.console.cli.submit import submit

        sent = submit(config, envelope_from, envelope_to, message, server, user, password)
    _report(sent, as_json)


def _address(text: str) -> Address:
    from postroad.values.address import Address, AddressError

    try:
        return Address.parse(text.strip(), utf8=True)
    except AddressError as error:
        raise click.UsageError(f'"{text}" is no mail address ({error}). Write it as anna@example.org.') from error


def _password(user: str | None, from_stdin: bool) -> str:
    if not user:
        return ""
    if from_stdin:
        return sys.stdin.buffer.readline().decode().rstrip("\r\n")
    if "POSTROAD_PASSWORD" in os.environ:
        return os.environ["POSTROAD_PASSWORD"]
    if not sys.stdin.isatty():
        raise click.UsageError("A password is needed: --password-stdin, or the variable POSTROAD_PASSWORD.")
    return str(click.prompt("Password", hide_input=True))


def _message(sender: str, recipients: tuple[str, ...], subject: str | None, body: str | None) -> bytes:
    if subject is None and body is None:
        raw = sys.stdin.buffer.read()
        if not raw.strip():
            raise click.UsageError("Nothing to send: give --subject and --body, or a message on standard input.")
        if b"\0" in raw:
            raise click.UsageError("The message holds a NUL octet, which mail cannot carry.")
        # Only its line ends are made those of the wire; the rest is the message as it was written.
        lines = _LINE_END.sub(b"\r\n", raw)
        return lines if lines.endswith(b"\r\n") else lines + b"\r\n"
    text = body if body is not None else sys.stdin.read()
    return _written(sender, recipients, subject or "", text)


def _written(sender: str, recipients: tuple[str, ...], subject: str, text: str) -> bytes:
    from postroad.wire.mime.compose import Composer, UnsafeHeader

    domain = sender.rpartition("@")[2] or "localhost"
    mail = Composer()
    try:
        mail.add_structured("From", sender or "MAILER-DAEMON")
        mail.add_structured("To", ", ".join(recipients))
        mail.add("Subject", subject)
        mail.add_structured("Date", formatdate(time.time(), localtime=True))
        mail.add_structured("Message-ID", f"<{secrets.token_urlsafe(ID_OCTETS)}@{domain}>")
        return mail.text(text)
    except UnsafeHeader as error:
        raise click.UsageError(f"The {error} holds a line break or another control character.") from error


def _report(sent: Sent, as_json: bool) -> None:
    """Say what became of it, and end with the status that tells it to a script."""
    if as_json:
        refused = [{"recipient": name, "reply": reply} for name, reply in sent.refused]
        print_json("send/1", id=sent.id, accepted=sent.accepted, refused=refused, reply=sent.reply)
    else:
        for name, reply in sent.refused:
            click.secho(f"refused {name}: {reply}", fg="red", err=True)
        if sent.id:
            click.echo(f"{sent.id}   {sent.reply}")
            click.echo(f"What becomes of it: postroad why {sent.id}", err=True)
        elif sent.accepted:
            click.echo(sent.reply)
    if not sent.accepted:
        later = sent.reply.startswith("4")
        fix = "Try again later." if later else "The reply says why."
        raise Trouble(f"Not sent: {sent.reply}", fix, exit_code=TRY_AGAIN if later else NOTHING)
    if sent.refused:
        raise click.exceptions.Exit(NOTHING)
