"""Compares what a domain's own servers say with what `flow.identity` wants: yes, no, or could not tell.

Each record has a judge that reads one server's view of it; the worst view counts. Only an answer of a responsible
server can make a "no": silence, errors and lame servers are "could not tell".
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from postroad.flow.identity import Identity, Wanted, is_public, reverse_name, wanted, wanted_policy
from postroad.flow.mta_sts import Getting, fetch_policy
from postroad.net.https import FETCH_ERROR, Unfetched
from postroad.trust.dkim.keys import RecordUnusable, parse_record
from postroad.trust.mta_sts import ENFORCE, NONE
from postroad.values.ports import Authority, Told, View

FOUND_MAX: Final = 300
"""Characters of a found value that are shown: a foreign record may be of any length."""

SPF_QUESTIONS_MAX: Final = 10
"""RFC 7208 section 4.6.4: "SPF implementations MUST limit the total number of those terms to 10"."""


class Truth(Enum):
    """What a check says."""

    YES = "yes"
    NO = "no"
    COULD_NOT_TELL = "could not tell"


@dataclass(frozen=True, slots=True)
class Finding:
    """One record compared."""

    wanted: Wanted
    truth: Truth
    found: str = ""
    advice: str = ""
    """What to do, or what else was noticed."""


Judged = tuple[Truth, str]
"""What one view comes to, and what to do about it."""

YES: Final[Judged] = (Truth.YES, "")


async def check(identity: Identity, authority: Authority, https: Getting | None = None) -> list[Finding]:
    """A finding for every wanted record, in their order, and with `https` one for the MTA-STS policy at the end; asks
    all at the same time and never raises."""
    records = Checker(identity, authority).run()
    if https is None:
        return await records
    found, policy = await asyncio.gather(records, check_policy(identity, https))
    return [*found, policy]


async def check_policy(identity: Identity, https: Getting) -> Finding:
    """What the web server of the policy says, as a sender of mail would see it."""
    record = wanted_policy(identity)
    try:
        policy = await fetch_policy(https, identity.domain)
    except Unfetched as error:
        # A web server that cannot be reached from here may be reached by others.
        truth = Truth.NO if error.answered or error.result != FETCH_ERROR else Truth.COULD_NOT_TELL
        return Finding(record, truth, _clean(str(error)), f"Have a web server hand out the policy at {record.name}.")
    found = _clean(" | ".join(policy.lines))
    if policy.mode == NONE:
        return Finding(record, Truth.NO, found, "mode: none protects nothing; write testing, and later enforce.")
    if not policy.allows(identity.hostname):
        return Finding(record, Truth.NO, found, f"It does not allow this server: add the line mx: {identity.hostname}")
    if policy.mode != ENFORCE:
        later = "mode: testing only reports; when the reports are good: mode: enforce, and a new id in the record."
        return Finding(record, Truth.YES, found, later)
    return Finding(record, Truth.YES, found)


class Checker:
    """One check of one domain."""

    def __init__(self, identity: Identity, authority: Authority) -> None:
        self._identity = identity
        self._authority = authority
        self._questions: dict[tuple[str, str], asyncio.Task[Told]] = {}

    async def run(self) -> list[Finding]:
        """Learns the addresses that mail leaves from where nobody configured them, then compares."""
        identity = self._identity
        if not identity.sources:
            identity = self._identity = replace(identity, sources=tuple(await self._addresses(identity.hostname)))
        return list(await asyncio.gather(*(self._compare(record) for record in wanted(identity))))

    async def _ask(self, name: str, kind: str) -> Told:
        """Every question once."""
        task = self._questions.get((name, kind))
        if task is None:
            task = asyncio.ensure_future(self._authority.ask(name, kind))
            self._questions[name, kind] = task
        return await task

    async def _addresses(self, host: str) -> list[str]:
        """Every address that any server names for a host; empty also when nobody could tell."""
        four, six = await asyncio.gather(self._ask(host, "A"), self._ask(host, "AAAA"))
        return sorted({record for told in (four, six) for view in told.views for record in view.records})

    async def _compare(self, record: Wanted) -> Finding:
        match record.record:
            case "address":
                return await self._compare_address(record)
            case "ptr":
                return await self._compare_ptr(record)
            case "policy-host" | "autoconfig":
                return await self._compare_host(record)
            case "spf" | "spf-host":
                return await self._compare_spf(record)
        return _judged(record, await self._ask(record.name, record.kind), JUDGES[record.record])

    # -- records that need more than one question --------------------------------------------------------------------

    async def _compare_address(self, record: Wanted) -> Finding:
        if record.value:
            return _judged(record, await self._ask(record.name, record.kind), _has_address)
        found = await self._addresses(record.name)
        if found:
            return Finding(record, Truth.YES, ", ".join(found))
        told = await self._ask(record.name, "A")
        if not told.views:
            return _untold(record, told)
        return Finding(record, Truth.NO, "no address", f"Add an A record (and AAAA) for {record.name}.")

    async def _compare_host(self, record: Wanted) -> Finding:
        """An alias or an address of its own, whichever: what counts is that somebody is there."""
        four, six = await asyncio.gather(self._ask(record.name, "A"), self._ask(record.name, "AAAA"))
        for told in (four, six):
            for view in told.views:
                if view.records:
                    return Finding(record, Truth.YES, view.alias or ", ".join(view.records), _silence(told))
        if not four.views or not six.views:
            return _untold(record, four if not four.views else six)
        return Finding(record, Truth.NO, "nothing", f"Add the record {record.name} CNAME {record.value}")

    async def _compare_ptr(self, record: Wanted) -> Finding:
        """RFC 8601 section 2.7.3, iprev: the address has a name, and the name has the address."""
        source = next((s for s in self._identity.sources if reverse_name(s) == record.name), "")
        if not source:
            advice = f"No address of {self._identity.hostname} is known; name it as relay.bind in the configuration."
            return Finding(record, Truth.COULD_NOT_TELL, "", advice)
        if not is_public(source):
            advice = f"{source} is private: ask for the public address that it is translated to."
            return Finding(record, Truth.COULD_NOT_TELL, "", advice)
        told = await self._ask(record.name, "PTR")
        if not told.views:
            return _untold(record, told)
        names = sorted({name for view in told.views for name in view.records})
        ask = f"Ask whoever gave you {source} to name it {record.value}."
        if not names:
            return Finding(record, Truth.NO, "no name", ask)
        return await self._confirm(record, source, names, ask)

    async def _confirm(self, record: Wanted, source: str, names: list[str], ask: str) -> Finding:
        unclear = ""
        for name in sorted(names, key=lambda name: name != record.value):
            found = await self._addresses(name)
            if any(ipaddress.ip_address(address) == ipaddress.ip_address(source) for address in found):
                advice = (
                    "" if name == record.value else f"Others greet better who is called as it says: {record.value}."
                )
                return Finding(record, Truth.YES, name, advice)
            if not found and not (await self._ask(name, "A")).views:
                unclear = name
        if unclear:
            return Finding(record, Truth.COULD_NOT_TELL, ", ".join(names), f"Nobody told the addresses of {unclear}.")
        return Finding(record, Truth.NO, ", ".join(names), f"That name does not lead back to {source}. {ask}")

    # -- SPF ---------------------------------------------------------------------------------------------------------

    async def _compare_spf(self, record: Wanted) -> Finding:
        told = await self._ask(record.name, "TXT")
        verdicts = {}
        for view in told.views:
            verdicts[view] = await self._judge_spf(view, record)
        return _judged(record, told, lambda view, _: verdicts[view], shown=_spf_records)

    async def _judge_spf(self, view: View, record: Wanted) -> Judged:
        found = _spf_records(view)
        if not found:
            return Truth.NO, "Add the record."
        if len(found) > 1:
            # RFC 7208 section 4.5: more than one record is an error.
            return Truth.NO, "Only one record may begin with v=spf1: make one of them."
        sources = self._identity.public_sources
        if not sources:
            return Truth.YES, "It is there; whether it allows this server was not compared: no address is known."
        missing = []
        for source in sources:
            allowed = await self._allows(found[0], source, record.name)
            if allowed is Truth.COULD_NOT_TELL:
                return Truth.YES, f"It is there; whether it allows {source} was not followed through all its parts."
            if allowed is Truth.NO:
                missing.append(source)
        if missing:
            parts = " ".join(f"ip{6 if ':' in source else 4}:{source}" for source in missing)
            return Truth.NO, f"It does not allow {', '.join(missing)}: add {parts} before its end."
        return YES

    async def _allows(self, text: str, source: str, domain: str) -> Truth:
        """Whether a record lets an address send, read from left to right; what only an evaluator can follow is "could
        not tell"."""
        ip = ipaddress.ip_address(source)
        questions = 0
        for word in text.split()[1:]:
            found = _SPF_TERM.fullmatch(word)
            if found is None or "%" in word:
                return Truth.COULD_NOT_TELL
            qualifier, name, value = found[1] or "+", found[2].lower(), found[3] or ""
            questions += name in ("a", "mx")
            matches: bool | None
            if name == "all":
                matches = True
            elif name in ("ip4", "ip6"):
                matches = _in_network(ip, value)
            elif name in ("a", "mx") and "/" not in word and questions <= SPF_QUESTIONS_MAX:
                matches = await self._is_host_of(ip, name, value.removeprefix(":") or domain)
            else:
                matches = None
            if matches is None:
                return Truth.COULD_NOT_TELL
            if matches:
                return Truth.YES if qualifier == "+" else Truth.NO
        # RFC 7208 section 4.7: without a match the result is "neutral", which allows nothing.
        return Truth.NO

    async def _is_host_of(self, ip: _Ip, mechanism: str, host: str) -> bool | None:
        hosts = [host]
        if mechanism == "mx":
            told = await self._ask(host, "MX")
            if not told.views:
                return None
            hosts = sorted({record.split(" ")[1] for view in told.views for record in view.records})
        for one in hosts:
            found = await self._addresses(one)
            if any(ipaddress.ip_address(address) == ip for address in found):
                return True
            if not found and not (await self._ask(one, "A")).views:
                return None
        return False


_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address

_SPF_TERM: Final = re.compile(r"([+?~-]?)(all|ip4|ip6|a|mx)((?::[^\s]+)?(?:/[^\s]+)?)", re.IGNORECASE)


def _in_network(ip: _Ip, value: str) -> bool | None:
    try:
        return ip in ipaddress.ip_network(value.removeprefix(":"), strict=False)
    except ValueError:
        return None  # a syntax error makes the whole record void for some and not for others


def _spf_records(view: View) -> list[str]:
    # RFC 7208 section 4.5: "v=spf1" is followed by a blank or the end; ABNF knows no case.
    return [text for text in view.records if (text.lower() + " ").startswith("v=spf1 ")]


# -- judges of one view ------------------------------------------------------------------------------------------------


def _mx(view: View, record: Wanted) -> Judged:
    hosts = [text.split(" ")[1] for text in view.records]
    host = record.value.split(" ")[1]
    if view.alias:
        # RFC 2181 section 10.3 forbids an alias behind MX, RFC 1034 section 3.6.2 other records beside one.
        return Truth.NO, f"The domain is an alias of {view.alias}: it must have its own records."
    if host in hosts:
        return YES
    if hosts == ["."]:
        return Truth.NO, "It says that the domain takes no mail at all (RFC 7505): replace that record."
    return Truth.NO, "Add the record." if not hosts else f"Mail goes to other hosts: add {host}, or replace them."


def _has_address(view: View, record: Wanted) -> Judged:
    try:
        same = {ipaddress.ip_address(text) for text in view.records}
    except ValueError:
        same = set()
    if ipaddress.ip_address(record.value) in same:
        return YES
    return Truth.NO, f"Add the record, so that {record.name} leads to {record.value}."


def _dkim(view: View, record: Wanted) -> Judged:
    if not view.records:
        return Truth.NO, "Add the record."
    if len(view.records) > 1:
        # RFC 6376 section 3.6.2.2: "TXT RRs MUST be unique for a particular selector name".
        return Truth.NO, "Only one TXT record may stand at that name: remove the others."
    ours = parse_record(record.value)
    try:
        theirs = parse_record(view.records[0])
    except RecordUnusable as error:
        return Truth.NO, f"No verifier takes it: {error}. Replace it."
    if not theirs.public:
        return Truth.NO, "It says that the key was revoked: replace it, or rotate the key."
    if theirs != ours:
        return Truth.NO, "It is another key: replace it, or publish it under its own selector."
    return YES


def _tagged(version: str, needed: str) -> Callable[[View, Wanted], Judged]:
    """A judge of records that begin with a version and must have one more tag."""

    def judge(view: View, record: Wanted) -> Judged:
        begins = [text for text in view.records if re.match(r"\s*v\s*=\s*" + version, text, re.IGNORECASE)]
        exact = [text for text in begins if re.match(r"v[ \t]*=[ \t]*" + version + r"[ \t]*(;|$)", text)]
        if not begins:
            return Truth.NO, "Add the record."
        if not exact:
            return Truth.NO, f"It must begin with v={version}, exactly so: others pass over it as it is."
        if len(begins) > 1:
            return Truth.NO, f"Only one record may begin with v={version}: remove the others."
        tags = dict(part.strip().partition("=")[::2] for part in exact[0].split(";"))
        value = {name.strip(): text.strip() for name, text in tags.items()}.get(needed, "")
        if not value:
            return Truth.NO, f"It has no {needed}=: replace it."
        return _more(version, value)

    return judge


def _more(version: str, value: str) -> Judged:
    if version == "DMARC1":
        if value.lower() not in ("none", "quarantine", "reject"):
            return Truth.NO, "p= must be none, quarantine or reject."
        if value.lower() == "none":
            return Truth.YES, "p=none only watches; when the reports are good: p=quarantine, then p=reject."
    if version == "STSv1" and not re.fullmatch(r"[A-Za-z0-9]{1,32}", value):
        return Truth.NO, "id= must be 1 to 32 letters and digits."
    return YES


def _srv(view: View, record: Wanted) -> Judged:
    port_and_host = record.value.split(" ")[2:]
    if any(text.split(" ")[2:] == port_and_host for text in view.records):
        return YES
    return Truth.NO, "Add the record." if not view.records else "It leads elsewhere: replace it."


JUDGES: Final[dict[str, Callable[[View, Wanted], Judged]]] = {
    "mx": _mx,
    "dkim": _dkim,
    "dmarc": _tagged("DMARC1", "p"),
    "mta-sts": _tagged("STSv1", "id"),
    "tls-rpt": _tagged("TLSRPTv1", "rua"),
    "srv": _srv,
}
"""By `Wanted.record`; those that need further questions are methods of `Checker`."""


# -- from views to findings --------------------------------------------------------------------------------------------


def _judged(
    record: Wanted,
    told: Told,
    judge: Callable[[View, Wanted], Judged],
    shown: Callable[[View], Sequence[str]] = lambda view: view.records,
) -> Finding:
    if not told.views:
        return _untold(record, told)
    verdicts = [judge(view, record) for view in told.views]
    worst = next((verdict for verdict in verdicts if verdict[0] is not Truth.YES), verdicts[0])
    if len(told.views) == 1:
        advice = " ".join(part for part in (worst[1], _silence(told)) if part)
        return Finding(record, worst[0], _found(shown(told.views[0])), advice)
    each = "; ".join(f"{', '.join(view.servers)}: {_found(shown(view))}" for view in told.views)
    split = "The servers of the zone differ: wait until all of them have it, or ask whoever runs them."
    return Finding(record, worst[0], each, " ".join(part for part in (split, worst[1], _silence(told)) if part))


def _untold(record: Wanted, told: Told) -> Finding:
    why = _clean(told.why) or "no server answered"
    end = "" if why.endswith("?") else "."
    return Finding(record, Truth.COULD_NOT_TELL, "", f"Nobody told: {why}{end} Try again.")


def _silence(told: Told) -> str:
    return f"Not all servers answered: {_clean('; '.join(told.silent))}." if told.silent else ""


def _found(records: Sequence[str]) -> str:
    return _clean(" | ".join(records)) or "nothing"


def _clean(text: str) -> str:
    """Words of others on one line, without anything a terminal would act on."""
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    shown = "".join(letter if letter.isprintable() else "?" for letter in shown)
    return shown if len(shown) <= FOUND_MAX else shown[:FOUND_MAX] + "..."
