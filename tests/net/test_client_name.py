"""The name of a client, as far as DNS proves it."""

from __future__ import annotations

import pytest

from postroad.net.client_name import proved_name
from postroad.values.ports import Answer, LookupStatus
from tests.fakes.lookup import FAILED, FakeLookup


class Reverse(FakeLookup):
    """A lookup that also knows names of addresses."""

    def __init__(self, names: dict[str, Answer | tuple[str, ...]], addresses: dict[str, list[str] | Answer]) -> None:
        super().__init__(addresses=addresses)
        self._names = names

    async def ptr(self, address: str) -> Answer:
        found = self._names.get(address, ())
        return found if isinstance(found, Answer) else Answer(LookupStatus.FOUND, found)


@pytest.mark.parametrize(
    "names, addresses, proved",
    [
        ({"192.0.2.1": ("mx.example.org.",)}, {"mx.example.org.": ["192.0.2.1"]}, "mx.example.org"),
        (
            {"192.0.2.1": ("no.example", "mx.example.org")},
            {"mx.example.org": ["192.0.2.9", "192.0.2.1"]},
            "mx.example.org",
        ),
        ({"192.0.2.1": ("mx.example.org",)}, {"mx.example.org": ["192.0.2.9"]}, ""),
        ({"192.0.2.1": ("mx.example.org",)}, {"mx.example.org": FAILED}, ""),
        ({"192.0.2.1": FAILED}, {}, ""),
        ({}, {}, ""),
    ],
)
async def test_name_counts_when_it_leads_back(
    names: dict[str, Answer | tuple[str, ...]], addresses: dict[str, list[str] | Answer], proved: str
) -> None:
    assert await proved_name("192.0.2.1", Reverse(names, addresses)) == proved
