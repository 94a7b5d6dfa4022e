"""`postroad-sendmail`, which is also `sendmail`, `mailq`, `newaliases` and `postqueue`: what every Unix program knows.

Started for every mail, so it imports little and nothing that is not needed for the call at hand. The order is: read
all of standard input, make mail of it, hand it to the server's socket; what the server cannot take now goes to the
maildrop. The exit status is 0 only when every recipient is in one of the two.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import BinaryIO, Final

from postroad.console import sendmail_options as options
from postroad.console.sendmail_client import Door, Down, Fate, Parcel, xtext
from postroad.console.sendmail_options import Call
from postroad.console.sendmail_place import Place, place
from postroad.console.sysexits import (
    BAD_CONFIG,
    DATA,
    IO,
    OK,
    SOFTWARE,
    TRY_AGAIN,
    USAGE,
    Failure,
)
from postroad.wire.mime.submitted import (
    Author,
    Text,
    Unsendable,
    completed,
    mailbox,
    named_recipients,
    qualified,
    spelled_addresses,
    taken_in,
    without_bcc,
)

INPUT_OCTETS: Final = 256 * 1024 * 1024
"""Octets of input that are read at most; the server's own limit is far below."""

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def main() -> int:
    """Entry of the script; returns the exit status."""
    name = os.path.basename(sys.argv[0])
    try:
        return run(name, sys.argv[1:], sys.stdin.buffer)
    except Failure as failure:
        print(f"{name}: {failure.text}", file=sys.stderr)
        return failure.status
    except KeyboardInterrupt:
        print(f"{name}: interrupted, nothing was sent", file=sys.stderr)
        return TRY_AGAIN
    except Exception as bug:
        print(f"{name}: a bug, please report it: {type(bug).__name__}: {bug}", file=sys.stderr)
        return SOFTWARE


def run(name: str, words: list[str], stdin: BinaryIO) -> int:
    """One call under this name; returns the exit status or raises Failure."""
    call = options.read(name, words)
    if call.mode == options.ALIASES:
        print("Aliases are in the store and hold at once: nothing to rebuild. See: postroad alias list")
        return OK
    if call.mode == options.VERSION:
        from postroad import __version__

        print(f"postroad-sendmail {__version__}")
        return OK
    if call.mode == options.QUEUE:
        from postroad.console.mailq import show

        return show(call.config)
    if call.mode == options.QUEUE_JSON:
        from postroad.console.mailq import show

        return show(call.config, as_json=True)
    if call.mode == options.FLUSH:
        from postroad.console.mailq import flush

        return flush(call)
    if call.mode in (options.RETRY, options.MESSAGE):
        from postroad.console.mailq import act

        return act(call)
    if call.mode == options.REHEARSE:
        return _rehearse(call)
    if call.mode == options.SMTP:
        return _speak_smtp(place(call.config), stdin)
    if call.mode in (options.VERIFY, options.TEST):
        return _verify(call, place(call.config))
    return _send(call, place(call.config), stdin)


def _rehearse(call: Call) -> int:
    """-bh: a session at the MX as if from an address, of which nothing is kept."""
    addresses = [call.what] if call.what else call.recipients
    if len(addresses) != 1:
        raise Failure(USAGE, "-bh needs one IP address, where the client seems to come from")
    from postroad.console.cli.exits import Trouble
    from postroad.console.cli.place import Place
    from postroad.console.cli.rehearse import play

    try:
        play(Place(Path(call.config) if call.config else None), addresses[0])
    except Trouble as trouble:
        raise Failure(USAGE if trouble.exit_code == 2 else trouble.exit_code, trouble.format_message()) from trouble
    return OK


# -- sending -----------------------------------------------------------------------------------------------------------


def _send(call: Call, where: Place, stdin: BinaryIO) -> int:
    if not call.recipients and not call.from_header:
        raise Failure(USAGE, "No recipients: name them behind the options, or use -t to take them from the header")
    recipients = _addresses(call.recipients)
    raw = _read(stdin, call.dot_ends)
    try:
        text = taken_in(raw)
        if call.from_header:
            recipients += [_checked(one) for one in named_recipients(text.header)]
        text = text._replace(header=without_bcc(text.header))
    except Unsendable as error:
        raise Failure(DATA, f"{error}. Nothing was sent") from error
    recipients = list(dict.fromkeys(recipients))
    if not recipients:
        raise Failure(USAGE, "No recipients: the header has none in To, Cc or Bcc. Nothing was sent")
    try:
        door = Door(where.socket, verbose=call.verbose) if where.socket else None
        why = "the configuration names no socket"
    except Down as down:
        door, why = None, str(down)
    if door is None:
        return _leave(call, where, text, recipients, why)
    host = door.host
    try:
        fate = door.deliver(_parcel(call, text, recipients, host))
    finally:
        door.close()
    return _report(call, where, text, fate)


def _parcel(call: Call, text: Text, recipients: list[str], host: str) -> Parcel:
    """The message with what the program left out, for a server of this name."""
    user, gecos = _user()
    own = mailbox(user, host)
    sender = own if call.sender is None else qualified(call.sender, host) if call.sender else ""
    if not call.gateway:
        now = time.time()
        header = completed(
            text.header,
            author=Author(sender or own, _full_name(call, gecos)),
            host=host,
            date=date_text(now),
            ident=f"{int(now * 1e6):x}.{os.urandom(6).hex()}@{host}",
        )
        text = text._replace(header=header)
    return Parcel(
        sender=sender,
        recipients=[qualified(one, host) for one in recipients],
        octets=text.octets,
        notify=call.notify,
        ret=call.ret,
        envid=call.envid,
        smtputf8=call.smtputf8,
        requiretls=call.requiretls,
    )


def _report(call: Call, where: Place, text: Text, fate: Fate) -> int:
    """Say what was refused, leave for later what must wait, and find the exit status."""
    name = os.path.basename(sys.argv[0])
    for recipient, answer in fate.refused:
        print(f"{name}: not sent to {recipient}: {str(answer).replace(chr(10), ' / ')}", file=sys.stderr)
    if fate.refused and (fate.taken or fate.later):
        print(f"{name}: the other recipients are served", file=sys.stderr)
    if fate.later:
        _leave(call, where, text, [recipient for recipient, _ in fate.later], fate.later[0][1])
    return fate.refused[0][1].status if fate.refused else OK


def _leave(call: Call, where: Place, text: Text, recipients: list[str], why: str) -> int:
    """Leave the message in the maildrop for these recipients."""
    if call.requiretls:
        raise Failure(TRY_AGAIN, f"Not sent: {why}. Try again later")
    if not where.maildrop:
        raise Failure(TRY_AGAIN, f"Not sent: {why}, and no maildrop is configured. Try again later")
    from postroad.console.sendmail_drop import leave

    slip = {
        "recipients": recipients,
        "sender": call.sender,
        "full_name": _full_name(call, _user()[1]),
        "notify": call.notify,
        "ret": call.ret,
        "envid": xtext(call.envid),
        "smtputf8": call.smtputf8,
        "gateway": call.gateway,
    }
    try:
        left = leave(where.maildrop, slip, text.octets)
    except Failure as failure:
        raise Failure(failure.status, f"Not sent: {why}, and {failure.text}. Try again later") from failure
    if call.verbose:
        name = os.path.basename(sys.argv[0])
        print(f"{name}: {why}; left in {where.maildrop} as {left}, the server takes it up", file=sys.stderr)
    return OK


def _user() -> tuple[str, str]:
    """Name and GECOS field of who runs us."""
    import pwd

    try:
        account = pwd.getpwuid(os.getuid())
    except KeyError:
        return f"uid{os.getuid()}", ""
    return account.pw_name, account.pw_gecos


def _full_name(call: Call, gecos: str) -> str:
    """What stands before the address in a From line of ours: -F, the variable NAME, or the user database."""
    if call.full_name:
        return call.full_name
    name = os.environ.get("NAME", "") or gecos.partition(",")[0]
    return "".join(letter for letter in name if letter.isprintable()).strip()


def _addresses(words: list[str]) -> list[str]:
    """Recipients of the command line; one word may hold several, with commas."""
    found: list[str] = []
    for word in words:
        spelled = spelled_addresses(word.encode("utf-8", "surrogateescape"))
        if not spelled:
            raise Failure(DATA, f'"{word}" is no address')
        found += [_checked(one.text.decode("utf-8", "surrogateescape")) for one in spelled]
    return found


def _checked(address: str) -> str:
    """The address, unless it could become more than one word of a command."""
    bare = address.rpartition('"')[2]
    if not address.isprintable() or any(mark in bare for mark in "<> "):
        raise Failure(DATA, f"{address!r} is no address. Nothing was sent")
    return address


def date_text(at: float) -> str:
    """A Date value of this moment in local time (RFC 5322 section 3.3)."""
    now = time.localtime(at)
    east = now.tm_gmtoff // 60
    zone = f"{'-' if east < 0 else '+'}{abs(east) // 60:02d}{abs(east) % 60:02d}"
    day = f"{_DAYS[now.tm_wday]}, {now.tm_mday} {_MONTHS[now.tm_mon - 1]} {now.tm_year}"
    return f"{day} {now.tm_hour:02d}:{now.tm_min:02d}:{now.tm_sec:02d} {zone}"


def _read(stdin: BinaryIO, dot_ends: bool) -> bytes:
    """All input, or with `dot_ends` up to a line of one dot."""
    try:
        raw = _up_to_dot(stdin) if dot_ends else stdin.read(INPUT_OCTETS + 1)
    except OSError as error:
        raise Failure(IO, f"Standard input cannot be read: {error.strerror}. Nothing was sent") from error
    if len(raw) > INPUT_OCTETS:
        raise Failure(DATA, f"The message is larger than {INPUT_OCTETS} octets. Nothing was sent")
    return raw


def _up_to_dot(stdin: BinaryIO) -> bytes:
    lines: list[bytes] = []
    size = 0
    while size <= INPUT_OCTETS and (line := stdin.readline(INPUT_OCTETS + 1 - size)):
        if line.rstrip(b"\r\n") == b"." and line != b".\r":
            break
        lines.append(line)
        size += len(line)
    return b"".join(lines)


# -- other modes -------------------------------------------------------------------------------------------------------


def _verify(call: Call, where: Place) -> int:
    """-bv and -bt: ask the server about each recipient and send nothing.

    -bv ends with the status of the first refusal, -bt as Exim's does: 0 all, 1 one undecided, 2 one fails.
    """
    if not call.recipients:
        raise Failure(USAGE, "No addresses to look at")
    addresses = _addresses(call.recipients)
    try:
        door = Door(where.socket, verbose=call.verbose)
        answers = door.examine([qualified(one, door.host) for one in addresses])
        door.close()
    except Down as down:
        raise Failure(TRY_AGAIN, f"Not known: {down}") from down
    ways = _ways(call, [recipient for recipient, answer in answers if answer.good], where)
    failing, undecided, first = False, False, OK
    for recipient, answer in answers:
        word = "deliverable" if answer.good else "undecided" if answer.later else "undeliverable"
        word, why, lines = ways.get(recipient, (word, "", ()))
        print(f"{recipient} ... {word}: {why or answer}")
        for line in lines:
            print(line)
        undecided, failing = undecided or word == "undecided", failing or word == "undeliverable"
        first = first or (answer.status if not answer.good and not answer.later else OK)
    if call.mode == options.TEST:
        return 2 if failing else 1 if undecided else 0
    return first or (TRY_AGAIN if undecided else OK)


_WORDS: Final = {"routable": "deliverable", "undecided": "undecided", "fails": "undeliverable"}
"""What an address test calls the prospects of `flow.tryout`."""


def _ways(call: Call, recipients: list[str], where: Place) -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """-bt: word, reason and way of each address that is taken, as `postroad try` tells them.

    Only where the configuration may be read.
    """
    if call.mode != options.TEST or not where.config:
        return {}
    from postroad.config.load import examine
    from postroad.console.cli.exits import Trouble
    from postroad.console.cli.tryout import lines, parse, run
    from postroad.flow.tryout import worst

    config = examine(where.config).config
    told: dict[str, tuple[str, str, tuple[str, ...]]] = {}
    for recipient in recipients if config is not None else ():
        assert config is not None
        try:
            trials = run(config, [parse(recipient)], call.sender or None, "")
        except Trouble:  # the data folder belongs to the service, and not everybody may look into it
            continue
        why = next((trial.why for trial in trials if trial.prospect is worst(trials)), "")
        way = tuple(line for trial in trials for line in lines(trial)[1:])
        told[recipient] = _WORDS[worst(trials).value], why, way
    return told


def _speak_smtp(where: Place, stdin: BinaryIO) -> int:
    """-bs: SMTP on standard input and output, passed to the server octet by octet."""
    from postroad.console.sendmail_pipe import join

    if not where.socket:
        raise Failure(BAD_CONFIG, f"{where.config} names no listen.local, and -bs needs it")
    return join(where.socket, stdin.fileno(), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
