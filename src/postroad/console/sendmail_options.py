"""The command line of sendmail(8): forty years of habits, read in one place.

Options come first, as getopt(3) reads them; the first word that is none begins the recipients, and so does `--`. A
later word that begins with a hyphen is refused instead of being taken for either, so that an address which a stranger
chose cannot become an option.
"""

from __future__ import annotations

from typing import Final

from postroad.console.sysexits import USAGE, Failure

MAIL: Final = "mail"
"""Read a message from standard input and send it."""
SMTP: Final = "smtp"
QUEUE: Final = "queue"
ALIASES: Final = "aliases"
VERIFY: Final = "verify"
TEST: Final = "test"
VERSION: Final = "version"
RETRY: Final = "retry"
MESSAGE: Final = "message"

FLUSH: Final = "flush"
QUEUE_JSON: Final = "queue as json"

_BY_NAME: Final = {"mailq": QUEUE, "newaliases": ALIASES}
_BY_LETTER: Final = {
    "m": MAIL, "s": SMTP, "p": QUEUE, "i": ALIASES, "v": VERIFY, "t": TEST, "V": VERSION, "P": QUEUE,
}  # fmt: skip

REHEARSE: Final = "rehearse"
"""-bh: play a client of the MX."""

_WITH_WORD: Final = frozenset("ABCFLNORVXbefhopr")
"""Options whose value is the rest of the word or else the next word."""
_WITH_REST: Final = frozenset("MdDq")
"""Options whose value is the rest of the word alone."""
_WITHOUT: Final = frozenset("GIUcimntvxs")

_NOTIFY: Final = ("success", "failure", "delay")


class Call:
    """What one command line asks for; no dataclass, because loading those takes as long as everything else here."""

    mode: str = MAIL
    from_header: bool = False
    """-t: recipients are those of the header, and those of the command line besides."""
    dot_ends: bool = True
    """A line of one dot ends the message; not with -i."""
    sender: str | None = None
    """-f; None is the user's own address, "" the null sender."""
    full_name: str = ""
    gateway: bool = False
    """-G: the message comes from elsewhere, its header stays as it is."""
    notify: str = ""
    ret: str = ""
    envid: str = ""
    smtputf8: bool = False
    requiretls: bool = False
    verbose: bool = False
    config: str = ""
    what: str = ""
    """-q: "", "I" + id or "R" + site; -M: the letters behind it; postqueue: "f", "i" + id or "s" + site."""
    recipients: list[str]

    def __init__(self) -> None:
        self.recipients = []


def read(name: str, words: list[str]) -> Call:
    """The call of a program of this name (`sendmail`, `mailq`, `newaliases`, `postqueue`) with these words.

    Raises Failure(USAGE) for what no sendmail knows.
    """
    if name == "postqueue":
        return _read_postqueue(words)
    call = Call()
    call.mode = _BY_NAME.get(name, MAIL)
    rest = list(words)
    while rest and rest[0].startswith("-") and len(rest[0]) > 1:
        word = rest.pop(0)
        if word == "--":
            call.recipients = rest
            return call
        _take_cluster(call, word, rest)
    for word in rest:
        if word.startswith("-"):
            raise Failure(USAGE, f'"{word}" stands behind a recipient. Options come first; write -- before an address')
    call.recipients = rest
    return call


def _read_postqueue(words: list[str]) -> Call:
    """postqueue(1): -p, -j, -f, -i ID or -s SITE, with -c FILE and -v."""
    call = Call()
    rest, found = list(words), ""
    while rest:
        word = rest.pop(0)
        letter, value = word[1:2], word[2:]
        if not word.startswith("-") or letter not in _POSTQUEUE or (value and letter not in "cis"):
            raise Failure(USAGE, f"postqueue does not know {word!r}. It takes -p, -j, -f, -i ID, -s SITE, -c FILE, -v")
        if letter in "cis" and not value:
            if not rest:
                raise Failure(USAGE, f"-{letter} lacks its value")
            value = rest.pop(0)
        if letter == "c":
            call.config = value
        elif letter == "v":
            call.verbose = True
        elif found:
            raise Failure(USAGE, f"postqueue does one thing: {found}, or -{letter}")
        else:
            found = f"-{letter}"
            call.mode, call.what = _POSTQUEUE[letter], letter + value if letter in "fis" else ""
    if not found:
        raise Failure(USAGE, "postqueue takes one of -p, -j, -f, -i ID and -s SITE")
    return call


_POSTQUEUE: Final = {"p": QUEUE, "j": QUEUE_JSON, "f": FLUSH, "i": FLUSH, "s": FLUSH, "c": "", "v": ""}


def _take_cluster(call: Call, word: str, rest: list[str]) -> None:
    """One word of options: letters without a value, and then perhaps one with."""
    at = 1
    while at < len(word):
        letter, behind = word[at], word[at + 1 :]
        if letter in _WITHOUT:
            _set_flag(call, letter)
            at += 1
            continue
        if letter in _WITH_REST:
            _set_value(call, letter, behind)
        elif letter not in _WITH_WORD:
            raise Failure(USAGE, f"sendmail has no option -{letter}")
        elif behind:
            _set_value(call, letter, behind)
        elif rest:
            _set_value(call, letter, rest.pop(0))
        else:
            raise Failure(USAGE, f"-{letter} lacks its value")
        return


def _set_flag(call: Call, letter: str) -> None:
    if letter == "t":
        call.from_header = True
    elif letter == "i":
        call.dot_ends = False
    elif letter == "v":
        call.verbose = True
    elif letter == "G":
        call.gateway = True
    elif letter == "I":
        call.mode = ALIASES
    # -U, -c, -m, -n, -s and -x asked for what is always so or long gone


def _set_value(call: Call, letter: str, value: str) -> None:
    if letter in "fr":
        call.sender = _one_sender(value)
    elif letter == "F":
        call.full_name = _without_controls("-F", value)
    elif letter == "b":
        _set_mode(call, value)
    elif letter == "o":
        # -oi is -i, -ot is -t; -oem, -oee, -odb, -odi, -odq and the like change nothing here: the exit status tells
        # of errors, and the server delivers at once.
        if value in ("i", "t", "G"):
            _set_flag(call, value)
    elif letter == "O":
        _set_long(call, value)
    elif letter == "C":
        call.config = value
    elif letter == "q":
        call.mode, call.what = RETRY, value
    elif letter == "M":
        call.mode, call.what = MESSAGE, value
    elif letter == "N":
        call.notify = _notify(value)
    elif letter == "R":
        call.ret = _ret(value)
    elif letter == "V":
        call.envid = _without_controls("-V", value)
    # -A, -B, -L, -X, -d, -D, -e, -h and -p are read and change nothing


def _set_mode(call: Call, value: str) -> None:
    if value in ("d", "D"):
        raise Failure(
            USAGE, "This program starts no server. Start it with: systemctl start postroad, or postroad serve"
        )
    if value[:1] == "h":
        # -bh ADDRESS: the address is the next word, which here stands where a recipient would.
        call.mode, call.what = REHEARSE, value[1:]
        return
    if value not in _BY_LETTER:
        raise Failure(USAGE, f"-b{value} is not offered here")
    call.mode = _BY_LETTER[value]


def _set_long(call: Call, value: str) -> None:
    name, _, setting = value.partition("=")
    wanted = setting.strip().lower() in ("yes", "true", "1", "on")
    if name.strip().lower() == "smtputf8":
        call.smtputf8 = wanted
    elif name.strip().lower() == "requiretls":
        call.requiretls = wanted


def _one_sender(value: str) -> str:
    text = _without_controls("-f", value).strip()
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1].strip()
    if any(mark in text for mark in "<>,;") and not text.startswith('"'):
        raise Failure(USAGE, f'"{value}" is not one address, and -f takes one')
    return text


def _without_controls(option: str, value: str) -> str:
    """The value, which becomes a part of a line: a line end in it could begin another."""
    if any(letter < " " or "\x7f" <= letter <= "\x9f" or letter in "\u2028\u2029" for letter in value):
        raise Failure(USAGE, f"The value of {option} holds a line end or another control character")
    return value


def _notify(value: str) -> str:
    words = [word.strip().lower() for word in value.split(",")]
    if words != ["never"] and not all(word in _NOTIFY for word in words):
        raise Failure(USAGE, f'-N {value}: write "never", or any of success, failure and delay with commas')
    return ",".join(dict.fromkeys(words)).upper()


def _ret(value: str) -> str:
    if value.lower() not in ("full", "hdrs"):
        raise Failure(USAGE, f'-R {value}: write "full" or "hdrs"')
    return value.upper()
