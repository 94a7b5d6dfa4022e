"""Judging messages by a tree of SEARCH keys, without recursion and without asking more than needed.

The tree is compiled to a row of tests, each with the place to go on when it holds and when it does not. Among the keys
of one AND or OR the cheap ones (flags, numbers) come before those that need a header, and these before those that need
the text; what cannot change the result is never asked.

    >>> keys, _ = read_search(Cursor(b"NOT DELETED OR 1 SUBJECT road"))
    >>> matcher = Matcher(keys, largest_sequence=9, largest_uid=120)
    >>> [step.key.name for step in matcher.program], matcher.cost
    (['FLAG', 'SET', 'SUBJECT'], <Cost.HEADER: 1>)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from postroad.wire.imap.search import Cost, Key, Node, Op, read_search
from postroad.wire.imap.sets import contains, resolve
from postroad.wire.imap.syntax import Cursor
from postroad.wire.mime.addresses import read_addresses
from postroad.wire.mime.content import part_text, walk
from postroad.wire.mime.dates import read_date
from postroad.wire.mime.headers import HeaderIndex, HeaderTooLarge
from postroad.wire.mime.tree import Tree
from postroad.wire.mime.words import decode_words

__all__ = ["Cursor", "Matcher", "MessageText", "MessageView", "Step", "read_search"]

MAX_SEARCHED_OCTETS: Final = 16 * 1024 * 1024
"""Octets of one message's text parts that are searched."""

MATCH: Final = -1
MISS: Final = -2

_ADDRESS_FIELDS: Final = frozenset((b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc"))


class MessageView(Protocol):
    """What a matcher may ask about one message. Only what is asked has to be loaded."""

    @property
    def sequence(self) -> int:
        """Its sequence number in this session."""
        ...

    @property
    def uid(self) -> int:
        """Its UID."""
        ...

    @property
    def flags(self) -> frozenset[bytes]:
        """Flags and keywords in lower case; \\recent among them when it applies."""
        ...

    @property
    def day(self) -> int:
        """INTERNALDATE as days since 1970-01-01 (UTC)."""
        ...

    @property
    def size(self) -> int:
        """RFC822.SIZE."""
        ...

    @property
    def modseq(self) -> int:
        """Mod-sequence (RFC 7162)."""
        ...

    @property
    def text(self) -> MessageText:
        """Its content; asked only by tests that cost `Cost.HEADER` or more."""
        ...


class MessageText:
    """The searchable text of one message, each part of it made when first asked for; all of it case-folded.

    `body` gives the octets and the tree; it is called only for `Cost.TEXT`.
    """

    __slots__ = ("_body", "_body_text", "_header", "_index", "_values")

    def __init__(self, header: bytes, body: Callable[[], tuple[Tree, bytes]]) -> None:
        self._header = header
        self._body = body
        self._body_text: str | None = None
        self._index: HeaderIndex | None = None
        self._values: dict[bytes, list[str]] = {}

    def _fields(self) -> HeaderIndex:
        if self._index is None:
            try:
                self._index = HeaderIndex(self._header)
            except HeaderTooLarge:
                self._index = HeaderIndex(b"")
        return self._index

    def header(self, name: bytes) -> list[str]:
        """The values of every field of this (lower case) name, encoded words decoded.

        For address fields also each address as `name <local@domain>`, since RFC 3501 searches the envelope.
        """
        known = self._values.get(name)
        if known is None:
            raw = self._fields().all(name)
            known = [decode_words(value).casefold() for value in raw]
            if name in _ADDRESS_FIELDS:
                known += [shown for value in raw for shown in _address_texts(value)]
            self._values[name] = known
        return known

    def sent_day(self) -> int | None:
        """The Date field's day on the writer's calendar, or None without a readable one."""
        value = self._fields().first(b"date")
        moment = None if value is None else read_date(value)
        return None if moment is None else moment.day

    def header_holds(self, text: str) -> bool:
        """Whether any line of the header, name included, holds `text`."""
        index = self._fields()
        shown = (decode_words(index.raw_field(at)).casefold() for at in range(len(index)))
        return any(text in line for line in shown)

    def body_holds(self, text: str) -> bool:
        """Whether the text of any text part, or the header of an inner message, holds `text`."""
        if self._body_text is None:
            tree, body = self._body()
            self._body_text = _body_text(tree, body)
        return text in self._body_text


def _address_texts(value: bytes) -> list[str]:
    shown: list[str] = []
    for address in read_addresses(value):
        display = decode_words(address.display or b"")
        mailbox, host = ((octets or b"").decode("utf-8", "replace") for octets in (address.mailbox, address.host))
        shown.append(f"{display} <{mailbox}@{host}>".casefold())
    return shown


def _body_text(tree: Tree, body: bytes) -> str:
    pieces: list[str] = []
    left = MAX_SEARCHED_OCTETS
    for part in walk(tree.root):
        if left <= 0:
            break
        if part.main == b"text":
            pieces.append(part_text(body, part, left))
            left -= part.size
        elif part.is_message and part.children:
            inner = part.children[0]
            pieces.append(decode_words(body[inner.header_start : inner.header_end]))
    return "\n".join(pieces).casefold()


class Step(NamedTuple):
    """One test of a program and the places to go on; `MATCH` and `MISS` end it."""

    key: Key
    if_true: int
    if_false: int


class Matcher:
    """A tree of keys made ready for one mailbox: `matches` judges a message."""

    __slots__ = ("_predicates", "cost", "program")

    def __init__(self, keys: Node, *, largest_sequence: int, largest_uid: int) -> None:
        """`largest_sequence` and `largest_uid` give "*" its meaning; 0 in an empty mailbox."""
        self.program = compile_keys(keys)
        """The tests in order; the first is where judging begins. Empty when the keys match everything."""
        self.cost = max((step.key.cost for step in self.program), key=lambda cost: cost.value, default=Cost.NUMBERS)
        """The most that any test may ask for."""
        self._predicates = [
            (_predicate(step.key, largest_sequence, largest_uid), step.if_true, step.if_false) for step in self.program
        ]

    def matches(self, message: MessageView) -> bool:
        """Whether the message fits; each test is asked at most once."""
        predicates = self._predicates
        at = 0 if predicates else MATCH
        while at >= 0:
            holds, if_true, if_false = predicates[at]
            at = if_true if holds(message) else if_false
        return at == MATCH


Predicate = Callable[[MessageView], bool]


def _predicate(test: Key, largest_sequence: int, largest_uid: int) -> Predicate:
    """A test as a function of a message; sets are resolved here, once."""
    number, text, name = test.number, test.text, test.header
    if test.name == "SET":
        sequences = resolve(test.numbers, largest_sequence)
        return lambda message: contains(sequences, message.sequence)
    if test.name == "UID":
        uids = resolve(test.numbers, largest_uid)
        return lambda message: contains(uids, message.uid)
    if name and test.name != "FLAG":
        return lambda message: any(text in value for value in message.text.header(name))
    predicates: dict[str, Predicate] = {
        "FLAG": lambda message: name in message.flags,
        "BEFORE": lambda message: message.day < number,
        "ON": lambda message: message.day == number,
        "SINCE": lambda message: message.day >= number,
        "LARGER": lambda message: message.size > number,
        "SMALLER": lambda message: message.size < number,
        "MODSEQ": lambda message: message.modseq >= number,
        "SENTBEFORE": lambda message: _compare(message, lambda day: day < number),
        "SENTON": lambda message: _compare(message, lambda day: day == number),
        "SENTSINCE": lambda message: _compare(message, lambda day: day >= number),
        "BODY": lambda message: message.text.body_holds(text),
        "TEXT": lambda message: message.text.header_holds(text) or message.text.body_holds(text),
        "NEVER": lambda message: False,
    }
    return predicates[test.name]


def _compare(message: MessageView, holds: Callable[[int], bool]) -> bool:
    day = message.text.sent_day()
    return day is not None and holds(day)


def compile_keys(keys: Node) -> tuple[Step, ...]:
    """A tree of keys as a program, which begins at its first step; empty when everything matches.

    Compiled from the last key to the first, so that the place to go on is always known; then turned round.
    """
    steps: list[Step] = []
    entry = _compile(keys, _costs(keys), steps)
    if entry == MATCH:
        return ()
    if entry == MISS:
        return (Step(Key("NEVER"), MISS, MISS),)
    # A step is only reached from steps compiled after it: what was compiled after the entry is never reached.
    reached = steps[: entry + 1]
    return tuple(
        Step(test, *(place if place < 0 else entry - place for place in places)) for test, *places in reversed(reached)
    )


def _costs(keys: Node) -> dict[int, int]:
    """What each inner node may cost, by id: the most that any test below it costs."""
    nodes = [keys]
    for node in nodes:
        nodes.extend(child for child in node.children if isinstance(child, Node))
    costs: dict[int, int] = {}
    for node in reversed(nodes):
        costs[id(node)] = max((_cost(child, costs) for child in node.children), default=0)
    return costs


def _cost(key: Node | Key, costs: dict[int, int]) -> int:
    return key.cost.value if isinstance(key, Key) else costs[id(key)]


class _Frame:
    """A node whose children are being compiled, the dearest first."""

    __slots__ = ("if_false", "if_true", "last", "node", "waiting")

    def __init__(self, node: Node, costs: dict[int, int], if_true: int, if_false: int) -> None:
        self.node = node
        self.waiting = sorted(node.children, key=lambda child: _cost(child, costs))
        self.last = True
        self.if_true = if_true
        self.if_false = if_false

    def next_child(self, entry: int) -> tuple[Node | Key, int, int]:
        """The next child from the end, and where it leads; `entry` is where the child behind it begins."""
        child = self.waiting.pop()
        if_true, if_false = self.if_true, self.if_false
        if self.node.op is Op.NOT:
            return child, if_false, if_true
        if not self.last:
            if_true, if_false = (entry, if_false) if self.node.op is Op.ALL else (if_true, entry)
        self.last = False
        return child, if_true, if_false


def _compile(keys: Node, costs: dict[int, int], steps: list[Step]) -> int:
    """Append the tests of `keys` to `steps`, last first; returns the place where judging begins."""
    frames = [_Frame(keys, costs, MATCH, MISS)]
    entry = MATCH
    while frames:
        frame = frames[-1]
        if not frame.waiting:
            frames.pop()
            continue
        child, if_true, if_false = frame.next_child(entry)
        if isinstance(child, Key):
            steps.append(Step(child, if_true, if_false))
            entry = len(steps) - 1
        elif child.children:
            frames.append(_Frame(child, costs, if_true, if_false))
        else:
            # ALL: an AND of nothing.
            entry = if_true
    return entry
