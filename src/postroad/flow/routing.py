"""Which way out each delivery takes: the first route that fits, our source address and name, the fallback. Pure.

A route says nothing of mail for gateway domains, whose host stands in the directory, nor of what somebody moved to
another host by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from secrets import token_bytes
from typing import Final

from postroad.config.routes import DISCARD, HOLD, MX, Loaded
from postroad.config.routes import Route as RouteTable
from postroad.values.next_hop import NextHop, parse_next_hop
from postroad.wire.sasl import Credentials


@dataclass(frozen=True, slots=True)
class Matcher:
    """Addresses that a list of domains, ".domains" and addresses names; an empty list names all."""

    whole: frozenset[str] = frozenset()
    below: tuple[str, ...] = ()
    everybody: bool = True

    @classmethod
    def of(cls, texts: Iterable[str]) -> Matcher:
        """The matcher of a list in the routes file."""
        texts = [text.lower() for text in texts]
        if not texts:
            return cls()
        below = tuple(text for text in texts if text.startswith("."))
        return cls(frozenset(text for text in texts if not text.startswith(".")), below, False)

    def fits(self, address: str, domain: str = "") -> bool:
        """Whether an address is one of them; `domain` is its domain in A-labels, where the caller knows it."""
        if self.everybody:
            return True
        if not address:
            return "<>" in self.whole
        address = address.lower()
        domain = domain or address.rpartition("@")[2]
        return domain in self.whole or address in self.whole or (bool(self.below) and domain.endswith(self.below))


@dataclass(frozen=True, slots=True)
class Guise:
    """As whom we come to a host: from where, under which name, with which login."""

    sources: tuple[str, ...] = ()
    """At most one address of each family; none: what the system chooses."""
    ehlo: str = ""
    """How we call ourselves; empty: the name of the source address, else that of the server."""
    login: Credentials | None = None

    @property
    def key(self) -> str:
        """Connections in guises of equal keys may be shared."""
        user = f"login={self.login.user} {_mark(self.login.password)}" if self.login is not None else ""
        return " ".join(filter(None, (",".join(self.sources), self.ehlo, user)))


PLAIN_GUISE: Final = Guise()

_UNTOLD: Final = token_bytes(32)
"""Known to this process alone, so that what stands for a password in a key tells nobody anything about it."""


def _mark(password: str) -> str:
    """What tells two logins of one name apart: some providers call every account by the same, such as "apikey"."""
    return blake2b(password.encode(), key=_UNTOLD, digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Route:
    """One route of the file, ready to be asked."""

    name: str
    recipients: Matcher = Matcher()
    senders: Matcher = Matcher()
    users: Matcher = Matcher()
    hop: NextHop | None = None
    by_mx: bool = False
    discard: bool = False
    hold: bool = False
    tls: str = ""
    """"may", "encrypt" or "verify": what must hold at least; empty for nothing of its own."""
    login: Credentials | None = None
    source: tuple[str, ...] = ()
    ehlo: str = ""
    fallback: NextHop | None = None
    fallback_after: int = 0
    why: str = ""

    @classmethod
    def of(cls, name: str, table: RouteTable, login: Credentials | None = None) -> Route:
        """The route of a table that `config.routes` found nothing wrong with."""
        words = ("", MX, DISCARD, HOLD)
        return cls(
            name,
            Matcher.of(table.recipients),
            Matcher.of(table.senders),
            Matcher.of(table.users),
            hop=None if table.via in words else parse_next_hop(table.via),
            by_mx=table.via == MX,
            discard=table.via == DISCARD,
            hold=table.via == HOLD,
            tls="verify" if login is not None else table.tls,
            login=login,
            source=table.source,
            ehlo=table.ehlo,
            fallback=parse_next_hop(table.fallback) if table.fallback else None,
            fallback_after=table.fallback_after,
            why=table.why,
        )

    @property
    def reason(self) -> str:
        """Why mail is held or discarded, for the journal."""
        return f"route {self.name}: {self.why}" if self.why else f"route {self.name}"


@dataclass(frozen=True, slots=True)
class Course:
    """What decides how a delivery travels besides its domain; equal courses of one domain are planned once."""

    route: Route | None = None
    guise: Guise = PLAIN_GUISE
    falls_back: bool = False
    """So many attempts have failed that the route's fallback takes over."""
    others: tuple[tuple[str, ...], ...] = ()
    """Source addresses that follow, in order, where those of the guise are not welcome."""

    @property
    def following(self) -> Course | None:
        """The same course from the next source addresses; None when there are no others."""
        if not self.others:
            return None
        return replace(self, guise=replace(self.guise, sources=self.others[0]), others=self.others[1:])

    @property
    def hop(self) -> NextHop | None:
        """The next hop that the route names for this attempt."""
        if self.route is None:
            return None
        return self.route.fallback if self.falls_back else self.route.hop

    @property
    def key(self) -> str:
        """Short text that differs for courses that differ; empty for that of mail without a route."""
        name = f"{self.route.name}{'+' if self.falls_back else ''}" if self.route is not None else ""
        return " ".join(filter(None, (f"[{name}]" if name else "", self.guise.key)))


USUAL: Final = Course()


@dataclass(frozen=True, slots=True)
class Routes:
    """The routes of a server and its source addresses."""

    routes: tuple[Route, ...] = ()
    source: tuple[str, ...] = ()
    """Where connections come from when no route says so."""

    @classmethod
    def of(cls, loaded: Loaded, source: Sequence[str] = ()) -> Routes:
        """The routes of a file, and the source addresses of the configuration."""
        routes = (Route.of(name, table, loaded.logins.get(name)) for name, table in loaded.routes.items())
        return cls(tuple(routes), tuple(source))

    @property
    def trivial(self) -> bool:
        """Whether all mail goes the same way, so that nobody needs to ask."""
        return not self.routes and len(_choices(self.source, "")) == 1

    @property
    def usual_source(self) -> str:
        """Where mail leaves from that no route and no choice concerns, for `lanes.site_of`; empty for the system's."""
        return " ".join(_choices(self.source, "")[0])

    @property
    def has_choice(self) -> bool:
        """Whether any mail could leave from another source address than its first."""
        pools = (self.source, *(route.source for route in self.routes))
        return any(len(_choices(pool, "")) > 1 for pool in pools)

    def find(self, recipient: str, domain: str, sender: str, login: str) -> Route | None:
        """The first route that fits; `domain` is the recipient's in A-labels."""
        for route in self.routes:
            if (
                route.recipients.fits(recipient, domain)
                and route.senders.fits(sender)
                and (route.users.everybody or (login != "" and route.users.fits(login)))
            ):
                return route
        return None

    def course(self, recipient: str, domain: str, sender: str, login: str, attempt: int = 1) -> Course:
        """How a delivery travels in its attempt number `attempt` (1 is the first)."""
        route = self.find(recipient, domain, sender, login)
        sender_domain = sender.rpartition("@")[2].lower()
        if route is None:
            first, *others = _choices(self.source, sender_domain)
            return Course(guise=Guise(first), others=tuple(others))
        falls_back = route.fallback is not None and attempt > route.fallback_after
        first, *others = _choices(route.source or self.source, sender_domain)
        # The password is for the host of the route and for nobody else.
        guise = Guise(first, route.ehlo, None if falls_back else route.login)
        return Course(route, guise, falls_back, tuple(others))


@lru_cache(maxsize=4096)
def _choices(sources: tuple[str, ...], key: str) -> tuple[tuple[str, ...], ...]:
    """One address of each family at a time, the first choice first: as many as the larger family has addresses.

    Rendezvous hashing: the order is always the same for the same key, whatever others come or go, and a reputation that
    a sender's domain has earned at one address stays with it.
    """
    families = [[address for address in sources if (":" in address) is six] for six in (False, True)]
    families = [sorted(family, key=lambda one: _weight(one, key), reverse=True) for family in families if family]
    count = max(map(len, families), default=1)
    return tuple(tuple(family[at % len(family)] for family in families) for at in range(count))


def _weight(address: str, key: str) -> bytes:
    return blake2b(f"{address} {key}".encode(), digest_size=8).digest()
