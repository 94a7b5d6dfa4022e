"""Does a reply of the server match what the script expects: variables, relative numbers, list directives."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tests.imaptest.arguments import Argument

_DOLLAR = re.compile(rb"\$(?:(\$)|\{([^}]*)\}|(\w*))")
_STATUS_WORDS = (b"OK", b"NO", b"BAD", b"BYE")


class UnknownVariable(ValueError):
    """A command uses a variable that no reply has set yet."""


@dataclass
class Variables:
    """Named variables of a script, and where the messages numbered at the start of a group are now."""

    named: dict[bytes, bytes] = field(default_factory=dict)
    positions: list[int] = field(default_factory=list)
    """positions[n - 1] is today's number of what was message n when the group began; 0 once expunged."""

    def begin_group(self, exists: int) -> None:
        """`$n` counts from the mailbox as it is now."""
        self.positions = list(range(1, exists + 1))

    def expunged(self, sequence: int) -> None:
        """Moves the numbers behind an expunged message down."""
        for place, now in enumerate(self.positions):
            if now == sequence:
                self.positions[place] = 0
            elif now > sequence:
                self.positions[place] = now - 1

    def value(self, name: bytes) -> bytes | None:
        """What `$name` stands for; None while it is not set."""
        if not name.isdigit():
            return self.named.get(name)
        n = int(name)
        if not 1 <= n <= len(self.positions):
            return b"<out of range>"
        return b"%d" % self.positions[n - 1] if self.positions[n - 1] else b"<expunged>"

    def expand(self, text: bytes) -> bytes:
        """A command with all variables replaced; raises UnknownVariable."""

        def replaced(found: re.Match[bytes]) -> bytes:
            if found[1]:
                return b"$"
            name = found[2] or found[3]
            value = self.value(name)
            if value is None:
                raise UnknownVariable(name.decode())
            return value

        return _DOLLAR.sub(replaced, text)


class Matcher:
    """Matches replies against patterns; variables bound on the way are kept only when all of it matches."""

    def __init__(self, variables: Variables) -> None:
        self._variables = variables

    def untagged(self, pattern: list[Argument], reply: list[Argument]) -> bool:
        """Whether one untagged reply is what a `*`, `!` or `?` line describes."""
        prefix = isinstance(reply[0], bytes) and reply[0].upper() in _STATUS_WORDS
        return self._keeping(with_defaults(pattern), reply, prefix=prefix)

    def tagged(self, pattern: list[Argument], reply: list[Argument]) -> bool:
        """Whether a tagged reply (without its tag) begins as the script says."""
        return self._keeping(pattern, reply, prefix=True)

    def _keeping(self, pattern: list[Argument], reply: list[Argument], *, prefix: bool) -> bool:
        before = dict(self._variables.named)
        matched = self._sequence(pattern, reply, prefix=prefix)
        if not matched:
            self._variables.named = before
        return matched

    def _sequence(self, pattern: list[Argument], reply: list[Argument], *, prefix: bool = False) -> bool:
        if len(reply) < len(pattern) or (len(reply) > len(pattern) and not prefix):
            return False
        last = len(pattern) - 1
        return all(
            self._one(wanted, got, prefix=prefix and at == last)
            for at, (wanted, got) in enumerate(zip(pattern, reply, strict=False))
        )

    def _one(self, wanted: Argument, got: Argument, *, prefix: bool) -> bool:
        if wanted is None:
            return got is None
        if isinstance(wanted, list):
            return isinstance(got, list) and self._list(wanted, got)
        if isinstance(got, list):
            return wanted == b"$"
        return got is not None and self._text(wanted, got, prefix=prefix)

    def _text(self, wanted: bytes, got: bytes, *, prefix: bool) -> bool:
        at = 0
        rest = wanted
        while found := _DOLLAR.search(rest):
            at = _same(rest[: found.start()], got, at)
            rest = rest[found.end() :]
            if at < 0:
                return False
            name = found[2] or found[3] or b""
            value = b"$" if found[1] else self._variables.value(name) if name else None
            if value is None:
                end = got.lower().find(rest[:1].lower(), at) if rest else len(got)
                value = got[at : end if end >= 0 else len(got)]
                if name:
                    self._variables.named[name] = value
            at = _same(value, got, at)
            if at < 0:
                return False
        at = _same(rest, got, at)
        return at >= 0 and (prefix or at == len(got))

    def _list(self, wanted: list[Argument], got: list[Argument]) -> bool:
        rule = ListRule()
        start = 0
        for word in wanted:
            if not (isinstance(word, bytes) and word.startswith(b"$!")):
                break
            rule.learn(word[2:])
            start += 1
        elements = wanted[start:]
        if not rule.unordered:
            return self._sequence(elements, got)
        size = rule.chain
        if len(got) % size:
            return False
        chains = [got[at : at + size] for at in range(0, len(got), size)]
        used: set[int] = set()
        for at in range(0, len(elements), size):
            place = next(
                (n for n, chain in enumerate(chains) if self._keeping_chain(elements[at : at + size], chain)), -1
            )
            if place < 0:
                return False
            used.add(place)
        return all(rule.allows(chain[0]) for n, chain in enumerate(chains) if n not in used)

    def _keeping_chain(self, pattern: list[Argument], chain: list[Argument]) -> bool:
        return self._keeping(pattern, chain, prefix=False)


@dataclass
class ListRule:
    """The `$!` directives at the beginning of a list."""

    unordered: bool = False
    chain: int = 1
    extra: bool | None = None
    ignored: set[bytes] = field(default_factory=set)
    banned: set[bytes] = field(default_factory=set)

    def learn(self, directive: bytes) -> None:
        """Takes one directive, without its `$!`; raises ValueError for an unknown one."""
        name, _, value = directive.partition(b"=")
        if name == b"unordered":
            self.unordered, self.chain = True, int(value or 1)
        elif name == b"ordered":
            self.unordered = False
        elif name in (b"extra", b"noextra"):
            self.extra = name == b"extra"
        elif name == b"ignore":
            self.ignored.add(value.lower())
        elif name == b"ban":
            self.banned.add(value.lower())
        else:
            raise ValueError(f"unknown directive $!{directive!r}")

    def allows(self, element: Argument) -> bool:
        """Whether an element that no pattern asked for may be there."""
        if not isinstance(element, bytes):
            return True
        if self.extra is False:
            return element.lower() in self.ignored
        return element.lower() not in self.banned


def with_defaults(pattern: list[Argument]) -> list[Argument]:
    """A pattern with the directives its lists have when the script names none."""
    words = [word.lower() if isinstance(word, bytes) else word for word in pattern]
    if words[0] in (b"list", b"lsub"):
        return _directed(pattern, 1, [b"$!unordered"])
    if words[0] == b"status":
        return _directed(pattern, 2, [b"$!unordered=2"])
    if len(words) > 2 and words[1] == b"fetch":
        return _fetch_defaults(pattern)
    return pattern


def _directed(pattern: list[Argument], at: int, directives: list[Argument]) -> list[Argument]:
    inner = pattern[at] if at < len(pattern) else None
    if not isinstance(inner, list) or _has_directive(inner):
        return pattern
    return [*pattern[:at], [*directives, *inner], *pattern[at + 1 :]]


def _fetch_defaults(pattern: list[Argument]) -> list[Argument]:
    inner = pattern[2]
    if not isinstance(inner, list):
        return pattern
    for at, word in enumerate(inner[:-1]):
        if isinstance(word, bytes) and word.lower() == b"flags":
            inner = _directed(inner, at + 1, [b"$!unordered", b"$!noextra", b"$!ignore=\\recent"])
    return _directed([*pattern[:2], inner, *pattern[3:]], 2, [b"$!unordered=2"])


def _has_directive(elements: list[Argument]) -> bool:
    return bool(elements) and isinstance(elements[0], bytes) and elements[0].startswith(b"$!")


def _same(wanted: bytes, got: bytes, at: int) -> int:
    """Where `got` goes on behind `wanted`, which begins at `at` in any case of letters; -1 when it does not."""
    end = at + len(wanted)
    return end if got[at:end].lower() == wanted.lower() else -1
