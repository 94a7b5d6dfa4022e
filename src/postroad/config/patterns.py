r"""Patterns of replies whose cost is known before they are used: a subset of regular expressions.

A pattern is alternatives (`|`) of pieces with gaps (`.*`, `.+`) between them. A piece may hold letters, classes
(`[a-z]`, `\d`), `.`, groups, alternatives, `?`, and counted repeats of one character up to `REPEAT_MAX`; no unlimited
repeat, no repeat of a group, no look-around and no back-reference. Pieces are sought one behind the other, each at its
first place, so a search costs at most length of text times `WAYS_MAX` times length of pattern, whatever the text is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from re import _constants as words  # type: ignore[attr-defined]  # the one description of Python's own syntax
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, Final

PATTERN_MAX: Final = 200
"""Characters of one pattern: a reply's telling words are far fewer."""
REPEAT_MAX: Final = 64
"""The highest count of a repeat: the longest thing that varies in a reply is an IPv6 address."""
WAYS_MAX: Final = 256
"""Ways in which one piece may be tried at one place: four numbers of an IPv4 address are 81."""
TEXT_MAX: Final = 1000
"""Characters of a reply that are looked at: what the journal keeps of it."""

_PLAIN: Final = (words.LITERAL, words.NOT_LITERAL, words.ANY, words.IN)
_REPEATS: Final = (words.MAX_REPEAT, words.MIN_REPEAT)
_TOKEN: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\.[*+]\??|.", re.DOTALL)


class Pattern:
    """A pattern ready for use; raises ValueError, with "what. fix" for the one who wrote it, when it is none."""

    __slots__ = ("_alternatives", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > PATTERN_MAX:
            raise ValueError(f"the pattern has {len(text)} characters. Keep the telling words, at most {PATTERN_MAX}")
        self._alternatives = [[_compiled(piece) for piece in pieces] for pieces in _alternatives(text)]

    def is_in(self, text: str) -> bool:
        """Whether the text has all pieces of one alternative in their order; upper and lower case are alike."""
        text = text[:TEXT_MAX]
        return any(_follow(pieces, text) for pieces in self._alternatives)


def _follow(pieces: list[re.Pattern[str]], text: str) -> bool:
    at = 0
    for piece in pieces:
        found = piece.search(text, at)
        if found is None:
            return False
        at = found.end()
    return True


def _alternatives(text: str) -> list[list[str]]:
    """The pattern cut at each | outside of groups, and then at its gaps; "a.+b" is "a", then anything and "b"."""
    alternatives: list[list[str]] = [[""]]
    depth = 0
    for token in (found[0] for found in _TOKEN.finditer(text)):
        depth += (token == "(") - (token == ")")
        if depth == 0 and token == "|":
            alternatives.append([""])
        elif depth == 0 and token[0] == "." and len(token) > 1:
            alternatives[-1].append("." if token[1] == "+" else "")
        else:
            alternatives[-1][-1] += token
    return [[piece for piece in pieces if piece] for pieces in alternatives]


def _compiled(piece: str) -> re.Pattern[str]:
    try:
        ways = _ways(parser.parse(piece))
        if ways > WAYS_MAX:
            raise ValueError("the pattern could be tried in too many ways. Write fewer alternatives and repeats")
        return re.compile(piece, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{piece!r} is no pattern ({error}). Put \\ before signs that stand for themselves") from None


def _ways(parsed: Iterable[tuple[Any, Any]]) -> int:
    """In how many ways at most the parsed piece is tried at one place."""
    ways = 1
    for kind, value in parsed:
        if kind in _REPEATS:
            ways *= _ways_of_repeat(*value)
        elif kind is words.SUBPATTERN:
            ways *= _ways(value[-1])
        elif kind is words.BRANCH:
            ways *= sum(_ways(branch) for branch in value[1])
        elif kind not in _PLAIN and kind is not words.AT:
            raise ValueError(f"{str(kind).lower()} is not offered in patterns. Write the telling words and .* between")
    return ways


def _ways_of_repeat(least: int, most: Any, what: Any) -> int:
    if most is words.MAXREPEAT or most > REPEAT_MAX:
        raise ValueError(f"a repeat has no end. Write how often at most, such as {{1,{REPEAT_MAX}}}, or use .* alone")
    if most > 1 and not (len(what) == 1 and what[0][0] in _PLAIN):
        raise ValueError("a group is repeated. Repeat single characters only")
    return int(most - least + 1) * _ways(what)
