"""Relay against Postfix, by the measuring harness: CPU per message and messages a second, in alternating runs.

    python bench/relay.py [--rounds 3] [--scenarios abAB] [--peers postfix postroad]

Needs root, Postfix from Debian and what the harness's setup-peers.sh makes. Scenarios, all 5 kB and 50 sessions, until
the queue is empty: `a` one message per connection, `b` 100, `A` and `B` the same with smtp-source (`B`: -d, one
connection per session) and smtp-sink. The harness is copied, with the adapter of this project and scenario `B` added.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import rig

ADAPTER: Final = Path(__file__).resolve().parent / "harness/postroad.py"
SCENARIO_B: Final = """
def B_(p):
    yield 'B', relay(p, n(5000), tool='smtp-source', per_conn=100)

SCENARIOS = {'B': B_, """
MEANING: Final = {
    "a": "one message per connection",
    "b": "100 messages per connection",
    "A": "smtp-source, one message per connection",
    "B": "smtp-source -d, one connection per session",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Relay against Postfix.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scenarios", default="abAB")
    parser.add_argument("--peers", nargs="+", default=["postfix", "postroad"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        records = measure(Path(folder), options.scenarios, options.peers, options.rounds)
    for letter in options.scenarios:
        compare(letter, [record for record in records if record["scenario"] == letter], options.peers)


def measure(folder: Path, scenarios: str, peers: list[str], rounds: int) -> list[dict[str, Any]]:
    """Runs the harness and returns its records."""
    harness = folder / "bench"
    shutil.copytree(rig.HARNESS, harness)
    for path in (harness, harness / "adapters", harness / "run.py"):
        path.chmod(0o755)
    shutil.copy(ADAPTER, harness / "adapters/postroad.py")
    text = (harness / "run.py").read_text()
    (harness / "run.py").write_text(text.replace("\nSCENARIOS = {", SCENARIO_B, 1))
    out = folder / "records.jsonl"
    argv = [
        shutil.which("python3") or "python3",
        "run.py",
        scenarios,
        *peers,
        "--rounds",
        str(rounds),
        "--out",
        str(out),
    ]
    environment = {"POSTROAD": str(Path(rig.PYTHON).parent / "postroad"), **os.environ}
    subprocess.run(argv, cwd=harness, env=environment, stdout=subprocess.DEVNULL, check=True)
    return [json.loads(line) for line in out.read_text().splitlines()]


def compare(letter: str, records: list[dict[str, Any]], peers: list[str]) -> None:
    """Reports medians of each peer, and the median of the rounds' ratios of the last one to the first."""
    rounds = sorted({record["round"] for record in records})
    by_peer = {peer: [r for r in records if r["peer"] == peer] for peer in peers}
    numbers: dict[str, object] = {}
    for peer, own in by_peer.items():
        numbers[f"{peer}_cpu_us"] = round(median(own, "cpu_us"))
        numbers[f"{peer}_relayed_per_s"] = round(median(own, "relayed_s"))
        numbers[f"{peer}_foreign"] = [record["foreign"] for record in own]
        if any(record["missing"] or record["dup"] for record in own):
            numbers[f"{peer}_missing"] = [(record["missing"], record["dup"]) for record in own]
    if len(peers) > 1:
        first, last = by_peer[peers[0]], by_peer[peers[-1]]
        for what in ("cpu_us", "relayed_s"):
            ratios = [last[i][what] / first[i][what] for i in range(len(rounds))]
            numbers[f"{what}_ratio"] = round(statistics.median(ratios), 3)
    rig.report(f"relay, {MEANING[letter]}", **numbers)


def median(records: list[dict[str, Any]], what: str) -> float:
    """The median of one number over the rounds."""
    return statistics.median(float(record[what]) for record in records)


if __name__ == "__main__":
    main()
