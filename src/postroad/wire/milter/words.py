"""Letters and flags of the milter protocol, as libmilter's `mfdef.h` numbers them."""

from __future__ import annotations

from enum import Enum, IntEnum, IntFlag
from typing import Final

VERSION: Final = 6
"""What we speak; a milter may answer with any version down to `OLDEST`."""
OLDEST: Final = 2

MAX_PACKET: Final = 1024 * 1024
"""Octets of one packet behind its length, in either direction: the largest size that libmilter can agree on."""

MAX_CHUNK: Final = 65_535
"""Octets of the body in one packet (MILTER_CHUNK_SIZE)."""

USUAL_PACKET: Final = 65_535
"""Octets of arguments in one packet, unless the milter agreed to more (MILTER_MAX_DATA_SIZE)."""


class Command(Enum):
    """What we say (SMFIC_*)."""

    NEGOTIATE = b"O"
    MACRO = b"D"
    CONNECT = b"C"
    HELO = b"H"
    MAIL = b"M"
    RCPT = b"R"
    DATA = b"T"
    HEADER = b"L"
    END_OF_HEADER = b"N"
    BODY = b"B"
    END_OF_BODY = b"E"
    UNKNOWN = b"U"
    ABORT = b"A"
    QUIT = b"Q"
    QUIT_FOR_ANOTHER = b"K"
    """QUIT_NC: this session is over, and another one follows on the same connection."""


class Word(Enum):
    """What a milter says (SMFIR_*)."""

    ADD_RECIPIENT = b"+"
    ADD_RECIPIENT_PARAMS = b"2"
    DELETE_RECIPIENT = b"-"
    CHANGE_SENDER = b"e"
    ADD_HEADER = b"h"
    INSERT_HEADER = b"i"
    CHANGE_HEADER = b"m"
    REPLACE_BODY = b"b"
    QUARANTINE = b"q"
    PROGRESS = b"p"
    CONTINUE = b"c"
    ACCEPT = b"a"
    DISCARD = b"d"
    REJECT = b"r"
    TEMPFAIL = b"t"
    REPLY_CODE = b"y"
    SKIP = b"s"
    CONNECTION_FAILED = b"f"
    SHUTDOWN = b"4"
    NEGOTIATE = b"O"


class Actions(IntFlag):
    """What a milter may ask to be changed (SMFIF_*); it names those it needs."""

    ADD_HEADERS = 0x001
    CHANGE_BODY = 0x002
    ADD_RECIPIENTS = 0x004
    DELETE_RECIPIENTS = 0x008
    CHANGE_HEADERS = 0x010
    QUARANTINE = 0x020
    CHANGE_SENDER = 0x040
    ADD_RECIPIENTS_PARAMS = 0x080
    SET_MACROS = 0x100


class Steps(IntFlag):
    """Which steps of the dialogue are left out or unanswered (SMFIP_*); the milter chooses among what we offer."""

    NO_CONNECT = 0x000001
    NO_HELO = 0x000002
    NO_MAIL = 0x000004
    NO_RCPT = 0x000008
    NO_BODY = 0x000010
    NO_HEADERS = 0x000020
    NO_END_OF_HEADER = 0x000040
    UNANSWERED_HEADER = 0x000080
    NO_UNKNOWN = 0x000100
    NO_DATA = 0x000200
    SKIP = 0x000400
    """The milter may answer SKIP: no more of this command in this message."""
    REFUSED_RCPT = 0x000800
    """The milter wants to hear of recipients that were refused, too."""
    UNANSWERED_CONNECT = 0x001000
    UNANSWERED_HELO = 0x002000
    UNANSWERED_MAIL = 0x004000
    UNANSWERED_RCPT = 0x008000
    UNANSWERED_DATA = 0x010000
    UNANSWERED_UNKNOWN = 0x020000
    UNANSWERED_END_OF_HEADER = 0x040000
    UNANSWERED_BODY = 0x080000
    LEADING_SPACE = 0x100000
    """Header values come and go with the blank behind the colon."""
    PACKETS_256K = 0x10000000
    PACKETS_1M = 0x20000000


ALL_ACTIONS: Final = Actions(0x1FF)
ALL_STEPS: Final = Steps(0x301FFFFF)

OFFERED: Final[dict[int, tuple[Actions, Steps]]] = {
    2: (Actions(0x3F), Steps(0x7F)),
    3: (Actions(0x3F), Steps(0x1FF)),
    4: (Actions(0x3F), Steps(0x3FF)),
    5: (Actions(0x3F), Steps(0x3FF)),
    6: (ALL_ACTIONS, ALL_STEPS),
}
"""What exists in each version: nothing later is offered, sent or obeyed. DATA came with 4, unknown commands with 3."""

LEFT_OUT: Final = {
    Command.CONNECT: Steps.NO_CONNECT,
    Command.HELO: Steps.NO_HELO,
    Command.MAIL: Steps.NO_MAIL,
    Command.RCPT: Steps.NO_RCPT,
    Command.DATA: Steps.NO_DATA,
    Command.HEADER: Steps.NO_HEADERS,
    Command.END_OF_HEADER: Steps.NO_END_OF_HEADER,
    Command.BODY: Steps.NO_BODY,
    Command.UNKNOWN: Steps.NO_UNKNOWN,
}
"""The flag with which a milter does without a command."""

UNANSWERED: Final = {
    Command.CONNECT: Steps.UNANSWERED_CONNECT,
    Command.HELO: Steps.UNANSWERED_HELO,
    Command.MAIL: Steps.UNANSWERED_MAIL,
    Command.RCPT: Steps.UNANSWERED_RCPT,
    Command.DATA: Steps.UNANSWERED_DATA,
    Command.HEADER: Steps.UNANSWERED_HEADER,
    Command.END_OF_HEADER: Steps.UNANSWERED_END_OF_HEADER,
    Command.BODY: Steps.UNANSWERED_BODY,
    Command.UNKNOWN: Steps.UNANSWERED_UNKNOWN,
}
"""The flag with which a milter says that it does not answer a command."""

SINCE: Final = {Command.UNKNOWN: 3, Command.DATA: 4}
"""The version that brought a command, where it is later than 2."""


class MacroStage(IntEnum):
    """The points at which macros are told, as a milter numbers them in its own lists (SMFIM_*)."""

    CONNECT = 0
    HELO = 1
    MAIL = 2
    RCPT = 3
    DATA = 4
    END_OF_BODY = 5
    END_OF_HEADER = 6


MACRO_STAGES: Final = {
    Command.CONNECT: MacroStage.CONNECT,
    Command.HELO: MacroStage.HELO,
    Command.MAIL: MacroStage.MAIL,
    Command.RCPT: MacroStage.RCPT,
    Command.DATA: MacroStage.DATA,
    Command.END_OF_HEADER: MacroStage.END_OF_HEADER,
    Command.END_OF_BODY: MacroStage.END_OF_BODY,
}

MACROS: Final[dict[MacroStage, tuple[str, ...]]] = {
    MacroStage.CONNECT: (
        "j", "_", "v", "{daemon_name}", "{client_addr}", "{client_name}", "{client_port}", "{client_ptr}",
    ),
    MacroStage.HELO: ("{tls_version}", "{cipher}"),
    MacroStage.MAIL: (
        "i", "{auth_type}", "{auth_authen}", "{mail_addr}", "{mail_host}", "{mail_mailer}", "{tls_version}", "{cipher}",
    ),
    MacroStage.RCPT: ("i", "{rcpt_addr}", "{rcpt_host}", "{rcpt_mailer}"),
    MacroStage.DATA: ("i",),
    MacroStage.END_OF_HEADER: ("i",),
    MacroStage.END_OF_BODY: ("i",),
}  # fmt: skip
"""What is told at each point, unless the milter has a list of its own for it; those without a value are left out."""
