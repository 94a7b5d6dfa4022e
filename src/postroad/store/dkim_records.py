"""DKIM keys as they travel to the store and back. A private key never shows itself in a repr."""

from __future__ import annotations

from typing import Final

from postroad.store.records import Record

PUBLISHED: Final = 0
"""To be found in DNS, and signs nothing yet."""
ACTIVE: Final = 1
"""Signs."""
RETIRED: Final = 2
"""Signs no more; its record stays until the mail it signed has arrived."""

STATES: Final = {PUBLISHED: "published", ACTIVE: "active", RETIRED: "retired"}
"""What people read."""

KEYS_MAX: Final = 20
"""Keys of one domain: two sign, two wait, and some are remembered."""


class DkimKey(Record, frozen=True):
    """One key of a domain."""

    selector: str
    """Labels below which the public half is published, in lower case: SELECTOR._domainkey.DOMAIN."""
    algorithm: str
    """A word of `trust.dkim.keys.ALGORITHMS`."""
    private: bytes
    """PKCS #8 in DER."""
    state: int = ACTIVE
    created_us: int = 0
    changed_us: int = 0
    """When it came to its state."""

    def __repr__(self) -> str:
        return f"DkimKey({self.selector}, {self.algorithm}, {STATES.get(self.state, self.state)})"


class DkimAdd(Record, frozen=True):
    """Keys for a domain, all or none. `first` adds them only to a domain that has no key at all."""

    domain: str
    keys: list[DkimKey]
    first: bool = False


class DkimActivate(Record, frozen=True):
    """Let the published keys of a domain sign from now on, and retire those that signed."""

    domain: str


class DkimSelect(Record, frozen=True):
    """One key of a domain."""

    domain: str
    selector: str


class DkimChanged(Record, frozen=True):
    """A word of `account_records.WORDS`, and the selectors it was about."""

    word: str
    selectors: list[str] = []

    @property
    def done(self) -> bool:
        """Whether the change was made."""
        return self.word == "done"
