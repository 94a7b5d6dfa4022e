"""The table of flags: what each word of a sendmail command line means."""

from __future__ import annotations

from typing import Any

import pytest

from postroad.console.sendmail_options import Call, read
from postroad.console.sysexits import USAGE, Failure

TABLE: list[tuple[str, dict[str, Any]]] = [
    ("", {}),
    ("anna", {"recipients": ["anna"]}),
    ("-t", {"from_header": True}),
    ("-i a", {"dot_ends": False, "recipients": ["a"]}),
    ("-oi a", {"dot_ends": False, "recipients": ["a"]}),
    ("-ti", {"from_header": True, "dot_ends": False}),
    ("-f x@y a", {"sender": "x@y", "recipients": ["a"]}),
    ("-fx@y a", {"sender": "x@y", "recipients": ["a"]}),
    ("-r x@y a", {"sender": "x@y", "recipients": ["a"]}),
    ("-f <x@y> a", {"sender": "x@y", "recipients": ["a"]}),
    ("-f <> a", {"sender": "", "recipients": ["a"]}),
    ("-ix a", {"dot_ends": False, "recipients": ["a"]}),
    ("-FCronDaemon -i -B8BITMIME -oem root", {"full_name": "CronDaemon", "dot_ends": False, "recipients": ["root"]}),
    ("-FCronDaemon -i -odi -oem -oi -t -f root", {
        "full_name": "CronDaemon", "dot_ends": False, "from_header": True, "sender": "root",
    }),
    ("-t -i -f x", {"from_header": True, "dot_ends": False, "sender": "x"}),
    ("-oem -oi -f x -- -a@b", {"dot_ends": False, "sender": "x", "recipients": ["-a@b"]}),
    ("-bm a", {"recipients": ["a"]}),
    ("-bs", {"mode": "smtp"}),
    ("-bp", {"mode": "queue"}),
    ("-bi", {"mode": "aliases"}),
    ("-I", {"mode": "aliases"}),
    ("-bv a", {"mode": "verify", "recipients": ["a"]}),
    ("-bt a", {"mode": "test", "recipients": ["a"]}),
    ("-bV", {"mode": "version"}),
    ("-N never a", {"notify": "NEVER", "recipients": ["a"]}),
    ("-N failure,delay a", {"notify": "FAILURE,DELAY", "recipients": ["a"]}),
    ("-R hdrs a", {"ret": "HDRS", "recipients": ["a"]}),
    ("-R full a", {"ret": "FULL", "recipients": ["a"]}),
    ("-V QQ314159 a", {"envid": "QQ314159", "recipients": ["a"]}),
    ("-G a", {"gateway": True, "recipients": ["a"]}),
    ("-v a", {"verbose": True, "recipients": ["a"]}),
    ("-C /x.toml a", {"config": "/x.toml", "recipients": ["a"]}),
    ("-O smtputf8=yes a", {"smtputf8": True, "recipients": ["a"]}),
    ("-O requiretls=yes a", {"requiretls": True, "recipients": ["a"]}),
    ("-O QueueDirectory=/tmp -X /tmp/log a", {"recipients": ["a"]}),
    ("-oee -odb -odq -om -o7 -L tag -h 5 -U -Am -Ac -m -n -c -s -d8.1 -p ESMTP:x a", {"recipients": ["a"]}),
    ("-q", {"mode": "retry"}),
    ("-qI 0ABC", {"mode": "retry", "what": "I", "recipients": ["0ABC"]}),
    ("-qI0ABC", {"mode": "retry", "what": "I0ABC"}),
    ("-qRexample.net", {"mode": "retry", "what": "Rexample.net"}),
    ("-q15m", {"mode": "retry", "what": "15m"}),
    ("-Mrm 0ABC", {"mode": "message", "what": "rm", "recipients": ["0ABC"]}),
]  # fmt: skip


@pytest.mark.parametrize("words, expected", TABLE, ids=[words or "nothing" for words, _ in TABLE])
def test_flags(words: str, expected: dict[str, Any]) -> None:
    assert shown(read("sendmail", words.split())) == shown(Call()) | expected


def shown(call: Call) -> dict[str, Any]:
    """Everything a call says."""
    return {name: getattr(call, name) for name in Call.__annotations__}


@pytest.mark.parametrize("name, mode", [("mailq", "queue"), ("newaliases", "aliases"), ("postroad-sendmail", "mail")])
def test_the_name_it_is_called_by(name: str, mode: str) -> None:
    assert read(name, []).mode == mode


@pytest.mark.parametrize(
    "words",
    [
        ["-f"], ["-Z"], ["-bd"], ["-b?"], ["-N", "sometimes"], ["-R", "half"], ["a", "-f", "x"],
        ["a", "--", "b"], ["-f", "x\nRCPT TO:<y>"], ["-f", "a@b,c@d"], ["-F", "x\r\nBcc: y"], ["-V", "x\ny"],
        ["-F", "a\u2028b"], ["-f", "x\x7f"], ["-fa b> SIZE=1 <"], ["-"],
    ],
    ids=repr,
)  # fmt: skip
def test_wrong_usage(words: list[str]) -> None:
    with pytest.raises(Failure) as failure:
        read("sendmail", words)
    assert failure.value.status == USAGE
