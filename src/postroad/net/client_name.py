"""The name of a client as DNS proves it: an address whose name leads back to it."""

from __future__ import annotations

import asyncio
from typing import Final

from postroad.values.ports import Lookup

NAMES_MAX: Final = 5
"""Names of one address that are looked at; an honest address has one or two."""

PATIENCE_S: Final = 5.0


async def proved_name(address: str, lookup: Lookup) -> str:
    """The first name of an address that has this address; empty when there is none, or DNS cannot tell within 5 s."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            names = (await lookup.ptr(address)).records[:NAMES_MAX]
            for name in names:
                if address in (await lookup.addresses(name)).records:
                    return name.removesuffix(".")
    except TimeoutError:
        pass
    return ""
