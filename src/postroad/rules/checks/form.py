"""Whether a message has the form of one."""

from __future__ import annotations

import re
from typing import Final

from postroad.rules.ports import Ports
from postroad.values.facts import Facts
from postroad.values.verdict import Verdict, refuse

_FIELD: Final = re.compile(rb"(?:[^\r\n]*\r\n)*?[!-9;-~]+[ \t]*:").match


async def has_a_header(facts: Facts, ports: Ports) -> Verdict | None:
    """There is at least one header field: mail of the world without any was not made by a mail program."""
    content = facts.content
    if content is None or _FIELD(content.header):
        return None
    return refuse("no header", 554, "5.6.0", "The message has no header field. Send at least From and Date.")
