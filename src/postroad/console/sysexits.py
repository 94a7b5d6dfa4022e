"""Exit statuses of sysexits.h for programs that other programs call, and the one exception that ends them.

Apart from `console.cli.exits`, because a program that is started for every mail must not wait for click.
"""

from __future__ import annotations

from typing import Final

OK: Final = 0
NOTHING: Final = 1
"""What was asked for is not there."""
USAGE: Final = 64
"""The command line is wrong, or names nobody to send to."""
DATA: Final = 65
"""The message or an address cannot be mail."""
NO_USER: Final = 67
NO_HOST: Final = 68
UNAVAILABLE: Final = 69
"""Refused for another reason; the text has it."""
SOFTWARE: Final = 70
"""A bug here, or somebody at the socket who speaks no SMTP."""
IO: Final = 74
TRY_AGAIN: Final = 75
NO_PERMISSION: Final = 77
BAD_CONFIG: Final = 78


class Failure(Exception):
    """The program ends here: what happened with what to do about it, and the exit status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
