"""What the playground tells people besides the journeys: who is there, how to connect, how it ended."""

from __future__ import annotations

import shlex

from postroad.dev.layout import ADDRESSES, ANNA, DEV, DOMAIN, FRIENDS, GRUMPY, HERE, PASSWORD, Layout
from postroad.dev.screen import Screen


def starting(screen: Screen) -> None:
    """The first line, while everything else starts."""
    screen.line("Starting a private DNS server and three mail servers on this machine ...")


def welcome(screen: Screen, layout: Layout, seconds: float) -> None:
    """Who takes part, once everybody listens."""
    ports = layout.ports
    screen.line(f"Ready after {duration(seconds)}. Nothing leaves this machine.", "strong")
    rows = (
        (DOMAIN, ADDRESSES[DOMAIN], ports.smtp, "our server, just as `postroad serve` starts it"),
        (FRIENDS, ADDRESSES[FRIENDS], ports.world, "another organisation: uses TLS, answers all mail"),
        (GRUMPY, ADDRESSES[GRUMPY], ports.world, 'another one: first says "later", and has no TLS'),
        ("DNS", HERE, ports.dns, "knows these three domains and nothing else"),
    )
    for name, address, port, what in rows:
        screen.line(f"   {name.ljust(12)} {f'{address}:{port}'.ljust(15)} {what}")


def connect(screen: Screen, layout: Layout, program: str, *, kept: bool) -> None:
    """How to use it with one's own programs; every command works as it stands."""
    ports, ca = layout.ports, shlex.quote(str(layout.ca_file))
    screen.line()
    screen.line("It keeps serving. Connect your own programs:", "strong")
    rows = (
        ("user", f"{DEV} or {ANNA}, password {PASSWORD}"),
        ("submission", f"{HERE} port {ports.submission} (STARTTLS) or {ports.submissions} (TLS), with login"),
        ("SMTP", f"{HERE} port {ports.smtp}, without login; from this machine to anybody here"),
        ("IMAP", f"{HERE} port {ports.imap} (STARTTLS) or {ports.imaps} (TLS)"),
        ("POP3", f"{HERE} port {ports.pop3} (STARTTLS) or {ports.pop3s} (TLS)"),
        ("CA file", f"{layout.ca_file}"),
        ("metrics", f"http://{HERE}:{ports.metrics}/metrics"),
        ("data", f"{layout.root} ({'kept' if kept else 'removed at the end; --keep DIR keeps it'})"),
    )
    for name, what in rows:
        screen.line(f"   {name.ljust(12)} {what}")
    screen.line()
    screen.line("Try in another terminal:", "strong")
    for what, command in tries(layout, ca, program):
        screen.line(f"   {screen.style('# ' + what, 'quiet')}")
        screen.line(f"   {screen.style(command, 'command')}")
    screen.line()
    screen.line("What happens from now on (Ctrl-C ends the playground):", "strong")


def tries(layout: Layout, ca: str, program: str) -> list[tuple[str, str]]:
    """Commands to copy, each with what it does."""
    ports = layout.ports
    login = f"{DEV}:{PASSWORD}"
    mail = "printf 'Subject: hello\\n\\nHello!\\n'"
    swaks = f"swaks --server {HERE}:{ports.submission} --tls --auth-user {DEV} --auth-password {PASSWORD}"
    curl = f"curl -sS --crlf --cacert {ca} --ssl-reqd --user {login} smtp://{HERE}:{ports.submission}"
    bob, greta = f"bob@{FRIENDS}", f"greta@{GRUMPY}"
    return [
        (
            "send a mail to another organisation, with swaks",
            f"{swaks} --from {DEV} --to {bob}",
        ),
        (
            "and to the grumpy one, with curl",
            f"{mail} | {curl} --mail-from {DEV} --mail-rcpt {greta} -T -",
        ),
        (
            "read the newest mail of a mailbox",
            f"curl -sS --cacert {ca} --user {login} 'imaps://{HERE}:{ports.imaps}/INBOX;MAILINDEX=*'",
        ),
        ("what happened to all mail of an address", why_command(program, ANNA, layout)),
    ]


def why_command(program: str, what: str, layout: Layout) -> str:
    """The command that tells the story of a queue id, a reference or an address in this playground."""
    return f"{program} why {what} --data {shlex.quote(str(layout.data_dir))}"


def goodbye(screen: Screen, layout: Layout, program: str, *, kept: bool) -> None:
    """The last line."""
    if kept:
        again = f"{program} dev --keep {shlex.quote(str(layout.root))}"
        screen.line(f"Ended. Mail, journal and log are kept; go on with: {again}")
    else:
        screen.line("Ended. Nothing is left behind.")


def duration(seconds: float) -> str:
    """A short time for people: "40 ms", "2.1 s"."""
    if seconds < 0.001:
        return "under 1 ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"
