"""What the opinions of `policy.py` mean for the gate: one verdict, with what shall be changed."""

from __future__ import annotations

from collections.abc import Sequence

from postroad.rules.policy import Opinion, Wish
from postroad.values.facts import Facts
from postroad.values.verdict import Changes, Verdict, accept, doubt, refuse
from postroad.wire.mime.headers import HeaderIndex


def verdict_of(opinions: Sequence[Opinion], facts: Facts) -> Verdict | None:
    """The first refusal, else the first "unsure", else the changes; None when nothing was said."""
    by = f"policy.py, {facts.stage.value}"
    for one in opinions:
        if one.wish is Wish.REFUSE:
            if one.code >= 500:
                return refuse("refused by policy", one.code, one.enhanced, one.text, by)
            return refuse("postponed by policy", one.code, one.enhanced, one.text, by)
    for one in opinions:
        if one.wish is Wish.UNSURE:
            return doubt("policy undecided", f"{by}: {one.text}" if one.text else by)
    return accept(changes=_changes(opinions, facts), evidence=by) if opinions else None


def _changes(opinions: Sequence[Opinion], facts: Facts) -> Changes:
    return Changes(
        header=_header(opinions, facts.content.header) if facts.content is not None else None,
        quarantine=next((one.text for one in opinions if one.wish is Wish.QUARANTINE), ""),
        discard=any(one.wish is Wish.DISCARD for one in opinions),
    )


def _header(opinions: Sequence[Opinion], header: bytes) -> bytes | None:
    """The header block with the fields that are wanted above the others; None when none is."""
    wanted = [one for one in opinions if one.wish in (Wish.ADD_HEADER, Wish.SET_HEADER)]
    if not wanted:
        return None
    replaced = {one.name.lower().encode() for one in wanted if one.wish is Wish.SET_HEADER}
    return b"".join(one.field() for one in wanted) + (_without(header, replaced) if replaced else header)


def _without(header: bytes, names: set[bytes]) -> bytes:
    """The header block without the fields of these names; what ends it stays."""
    index = HeaderIndex(header)
    rest = header[index.ends[-1] :] if index.ends else header
    return b"".join(index.raw_field(at) for at, name in enumerate(index.names) if name not in names) + rest
