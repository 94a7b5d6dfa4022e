"""The public isemail set: SMTP accepts exactly its classes VALID, DNSWARN and RFC5321."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from postroad.values.address import Address, AddressError
from tests.testdata import testdata

ACCEPTED = {"ISEMAIL_VALID_CATEGORY", "ISEMAIL_DNSWARN", "ISEMAIL_RFC5321"}

SEVEN_GROUPS = (
    'IPv6-comp of RFC 5321 section 4.1.3 allows at most six groups beside "::"; '
    "the set itself moved the same form to DEPREC in its version 3.05 (tests.xml 71)"
)

#: Cases where the class does not decide, with what SMTP does and why.
EXCEPTIONS = {
    "tests-original.xml 39": (False, SEVEN_GROUPS),
    "tests-original.xml 45": (False, SEVEN_GROUPS),
    "tests-original.xml 230": (False, SEVEN_GROUPS),
    "tests-original.xml 231": (False, SEVEN_GROUPS),
    "tests-original.xml 252": (False, SEVEN_GROUPS),
    "tests-original.xml 254": (False, SEVEN_GROUPS),
}


def cases() -> list[tuple[str, str, bool]]:
    """Name, address and whether SMTP accepts it, of both files."""
    found = []
    for name in ("tests.xml", "tests-original.xml"):
        for case in ElementTree.parse(testdata(f"addresses/isemail/{name}")).iter("test"):
            label = f"{name} {case.get('id')}"
            # The files write control characters as U+2400 and the code.
            text = "".join(
                chr(ord(char) - 0x2400) if 0x2400 <= ord(char) <= 0x2420 else char
                for char in case.findtext("address") or ""
            )
            accepted = case.findtext("category") in ACCEPTED
            found.append((label, text, EXCEPTIONS[label][0] if label in EXCEPTIONS else accepted))
    return found


CASES = cases()


def test_the_whole_set_is_there() -> None:
    assert len(CASES) == 164 + 279


@pytest.mark.parametrize(("text", "accepted"), [pytest.param(case[1], case[2], id=case[0]) for case in CASES])
def test_isemail(text: str, accepted: bool) -> None:
    try:
        Address.parse(text)
    except AddressError:
        assert not accepted
    else:
        assert accepted
