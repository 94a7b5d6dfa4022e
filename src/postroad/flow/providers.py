"""Whose hosts are these, and what does its reply mean for the lane? The provider file, ready for use; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from postroad.config.patterns import Pattern
from postroad.config.providers import EVERYBODY, Provider, ReplyRule
from postroad.values.reply import Reply

CHANGE_SOURCE: Final = "change-source"
SUSPENDING: Final = ("suspend", CHANGE_SOURCE)
"""Actions after which nothing goes from this source to this site for a while."""


class Signal(NamedTuple):
    """A reply that a rule knows: what it tells about the lane."""

    rule: str
    """Provider and rule: "google: unusual-rate"."""
    means: str
    action: str
    for_s: float


class _Rule:
    __slots__ = ("_code", "_enhanced", "_text", "signal")

    def __init__(self, provider: str, name: str, rule: ReplyRule) -> None:
        self._code = rule.code
        self._enhanced = tuple(rule.enhanced.split(".")) if rule.enhanced else ()
        self._text = Pattern(rule.text) if rule.text else None
        self.signal = Signal(f"{provider}: {name}", rule.means, rule.action, rule.for_s)

    def fits(self, code: str, enhanced: tuple[str, ...], text: str) -> bool:
        if not code.startswith(self._code) or enhanced[: len(self._enhanced)] != self._enhanced:
            return False
        return self._text is None or self._text.is_in(text)


class Providers:
    """All providers of the file, by host and by name."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        hosts = [(host, name) for name, one in providers.items() for host in one.hosts]
        self._by_end = {host[1:]: name for host, name in hosts if host.startswith(".")}
        self._by_name = {host: name for host, name in hosts if not host.startswith(".")}
        self._providers = dict(providers)
        self._rules = {name: _rules(name, one) for name, one in providers.items()}

    def of(self, hosts: Iterable[str]) -> str:
        """The name of the provider to which all these hosts belong; empty when there is none or more than one."""
        names = {self._of(host) for host in hosts}
        return names.pop() if len(names) == 1 else ""

    def _of(self, host: str) -> str:
        """The longest end that fits decides: "x.mail.example.net" before "example.net"."""
        found = self._by_name.get(host, "")
        at = host.find(".")
        while not found and at >= 0:
            found = self._by_end.get(host[at + 1 :], "")
            at = host.find(".", at + 1)
        return found

    def get(self, name: str) -> Provider | None:
        """What the file says of a provider."""
        return self._providers.get(name)

    def signal(self, provider: str, reply: Reply) -> Signal | None:
        """What a refusal means for the lane: by the first rule of its provider that fits it, else of everybody's.

        None when no rule knows it or the rule says that nothing is to be done.
        """
        code, enhanced = str(reply.code), tuple(reply.enhanced.split("."))
        text = " ".join((*reply.lines, reply.text))
        for name in (provider, EVERYBODY):
            for rule in self._rules.get(name, ()):
                if rule.fits(code, enhanced, text):
                    return rule.signal if rule.signal.action != "none" else None
        return None


def _rules(name: str, provider: Provider) -> list[_Rule]:
    return [_Rule(name, key, rule) for key, rule in provider.replies.items() if not rule.off]
