"""Reads of the keys that domains sign with. Methods are `async` because PostgreSQL answers later."""

from __future__ import annotations

from typing import Final

from postroad.store.directory import Rows
from postroad.store.dkim_records import ACTIVE, PUBLISHED, DkimKey

LABELS_MAX: Final = 10
"""Labels of an author's domain, from the right, for which keys are looked up: longer names are nobody's."""

_KEYS: Final = (
    "SELECT d.name, k.selector, k.algorithm, k.private, k.state, k.created_us, k.changed_us"
    " FROM dkim_keys k JOIN domains d ON d.id = k.domain"
)


class DkimKeys:
    """The keys of all domains, read through one connection."""

    __slots__ = ("_rows",)

    def __init__(self, reader: Rows) -> None:
        self._rows = reader.rows

    async def signing(self, author: str) -> tuple[str, list[DkimKey]]:
        """The domain that signs for an author's domain (A-labels, lower case) and its active keys, RSA first.

        That is the author's domain itself or else the nearest above it that has such keys: DMARC takes a signature of
        the organisation for its sub-domains (relaxed alignment). Empty when there is none.
        """
        labels = author.split(".")[-LABELS_MAX:]
        names = [".".join(labels[at:]) for at in range(len(labels))]
        rows = await self._rows(
            f"{_KEYS} WHERE d.name IN ({', '.join('?' * len(names))}) AND k.state = ?"
            " ORDER BY length(d.name) DESC, k.algorithm DESC, k.selector",
            (*names, ACTIVE),
        )
        domain = rows[0][0] if rows else ""
        return domain, [DkimKey(*row[1:]) for row in rows if row[0] == domain]

    async def of(self, domain: str) -> list[DkimKey]:
        """All keys of a domain by its name in A-labels and lower case, those that sign first."""
        order = f"CASE k.state WHEN {ACTIVE} THEN 0 WHEN {PUBLISHED} THEN 1 ELSE 2 END"
        rows = await self._rows(f"{_KEYS} WHERE d.name = ? ORDER BY {order}, k.algorithm DESC, k.selector", (domain,))
        return [DkimKey(*row[1:]) for row in rows]
