"""Hints from the store, handed to whoever asked for their kind; a lost hint costs seconds, never mail."""

from __future__ import annotations

from collections.abc import Callable

Listener = Callable[[int], None]


class Hints:
    """Called by the store's client with kind and key."""

    __slots__ = ("_listeners",)

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}

    def add(self, kind: str, listener: Listener) -> None:
        """Call `listener(key)` for every hint of this kind."""
        self._listeners.setdefault(kind, []).append(listener)

    def __call__(self, kind: str, key: int) -> None:
        for listener in self._listeners.get(kind, ()):
            listener(key)
