"""The command `postroad`: which words it knows and where each is implemented.

A command's module is imported only when that command runs, so `postroad --help` and completion stay quick.
"""

from __future__ import annotations

import importlib
from typing import Final

import click

from postroad.console.cli.place import Place, place_options

COMMANDS: Final = {
    "serve": ("serve:serve", "Run the mail server."),
    "dev": ("serve:dev", "Run the playground: mail servers on this machine, nothing to configure."),
    "why": ("why:why", "Tell what happened to a message, and why."),
    "send": ("send:send", "Send a message."),
    "try": ("tryout:tryout", "Tell what would become of mail for an address."),
    "queue": ("queue:queue", "See mail that has not left yet, and decide over it."),
    "shaping": ("shaping:shaping", "See which hosts take no mail for a while, or less, and lift that."),
    "domain": ("domain:domain", "Say for which domains mail is taken."),
    "user": ("user:user", "Make and change accounts."),
    "alias": ("alias:alias", "Lead addresses to other addresses."),
    "cert": ("cert:cert", "Show and renew the certificate."),
    "tls": ("tls:tls", "Read reports about TLS that others sent."),
    "config": ("config:config", "Check, show and begin the configuration file."),
    "policy": ("policy:policy", "Check and try rules of your own in Python."),
    "rehearse": ("rehearse:rehearse", "Play a client of the MX from any address; nothing is kept."),
    "verify": ("upkeep:verify", "Prove that the store is whole."),
    "backup": ("upkeep:backup", "Copy the store while it runs."),
    "version": ("upkeep:version", "Tell which version this is."),
}
"""Each command with its module and name below this package, and its line in the list of commands."""

EPILOG: Final = """\b
Begin here:
  postroad dev                          look at it, on this machine alone
  postroad config sample                a configuration file to start from
  postroad domain add example.org       take mail for a domain
  postroad user add anna@example.org    make an account
  postroad serve                        run the server
  postroad why anna@example.org         what happened to her mail
"""


class Commands(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order people need them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or of the only one that begins with it."""
        name = cmd_name if cmd_name in COMMANDS else _only_beginning(cmd_name)
        if not name:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        command = getattr(importlib.import_module(f"postroad.console.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with a guess for a misspelt word."""
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            guess = f' Did you mean "{near[0]}"?' if near else ""
            ctx.fail(f'There is no command "{name}".{guess}')
        return super().resolve_command(ctx, args)


def _only_beginning(word: str) -> str:
    found = [name for name in COMMANDS if name.startswith(word)]
    return found[0] if len(found) == 1 and word else ""


@click.group(
    cls=Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 79, "auto_envvar_prefix": None},
)
@place_options
@click.pass_context
def postroad(ctx: click.Context, place: Place) -> None:
    """Postroad, a complete mail system that answers "why?"."""
    ctx.obj = place


def main() -> None:
    """Entry of the script and of `python -m postroad`."""
    postroad(prog_name="postroad")
