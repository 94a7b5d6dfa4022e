"""All figures in one command: runs the programs of this folder and writes what they say into docs/performance.md.

    make bench            or  python bench/figures.py [NAME ...]

NAMEs are programs: relay, relay_signed, submission, two_workers, memory, idle_tls, restart, busy_loop, million,
queue_views, dead_destinations. Without any, all run, which takes about 25 minutes: relay_signed six of them, relay
five, million three, dead_destinations two, and each of the others one or two. It wants a machine that does nothing
else: how busy it was with other things stands beside each figure. `BENCH_PYTHON` names the interpreter of the virtual
environment that runs the server.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import rig

PAGE: Final = rig.ROOT / "docs/performance.md"
PROGRAMS: Final = (
    "relay", "relay_signed", "submission", "two_workers", "memory", "idle_tls", "restart", "busy_loop", "million",
    "queue_views", "dead_destinations",
)  # fmt: skip
COMPARED: Final = ("relay", "relay_signed", "submission")
"""Programs whose servers live in control groups of their own, so that the rest of the machine is not others' work."""
BEGIN: Final = "<!-- {name}: written by bench/figures.py -->\n"
END: Final = "<!-- end of {name} -->"


def main() -> None:
    names = sys.argv[1:] or list(PROGRAMS)
    if unknown := set(names) - set(PROGRAMS):
        raise SystemExit(f"no such figure: {', '.join(sorted(unknown))}")
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        write(name, run(name))


def run(name: str) -> str:
    """What a program found, as Markdown."""
    busy, began = rig.busy_cpu_s(), time.monotonic()
    program = Path(__file__).resolve().parent / f"{name}.py"
    before = os.times()
    out = subprocess.run([rig.PYTHON, str(program)], stdout=subprocess.PIPE, text=True, check=True).stdout
    after = os.times()
    print(out, end="", file=sys.stderr)
    own = after.children_user + after.children_system - before.children_user - before.children_system
    used = (rig.busy_cpu_s() - busy) / ((time.monotonic() - began) * (os.cpu_count() or 1))
    share = own / ((time.monotonic() - began) * (os.cpu_count() or 1))
    others = f" Other work took {max(0.0, used - share):.0%} of the cores." if name not in COMPARED else ""
    lines = [f"Taken {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC: {machine()}.{others}", ""]
    for record in map(json.loads, out.splitlines()):
        lines.append(
            f"- **{record.pop('figure')}**: "
            + "; ".join(f"{said(key)} {shown(value)}" for key, value in record.items())
        )
    return "\n".join(lines) + "\n"


def said(key: str) -> str:
    """A key of a record in words."""
    return key.replace("_per_s", "/s").replace("_", " ")


def shown(value: Any) -> str:
    """A value of a record as people write it."""
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def write(name: str, text: str) -> None:
    """Puts a program's findings between its marks on the page."""
    page = PAGE.read_text()
    begin, end = BEGIN.format(name=name), END.format(name=name)
    block = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not block.search(page):
        raise SystemExit(f"{PAGE.name} has no place for {name}")
    PAGE.write_text(block.sub(lambda _: begin + text + end, page))


def machine() -> str:
    """Where it was measured, in a line."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*([0-9]+)", Path("/proc/meminfo").read_text())
    version = subprocess.run(
        [rig.PYTHON, "-c", "import platform; print(platform.python_version())"], capture_output=True, text=True
    )
    parts = [
        f"{os.cpu_count()} cores of {cpu[1].strip() if cpu else 'an unknown processor'}",
        f"{int(memory[1]) >> 20 if memory else '?'} GB",
        f"Linux {platform.release()}",
        f"Python {version.stdout.strip()}",
    ]
    if shutil.which("postconf"):
        said_version = subprocess.run(["postconf", "-d", "mail_version"], capture_output=True, text=True).stdout
        parts.append(f"Postfix {said_version.rpartition('=')[2].strip()}")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
