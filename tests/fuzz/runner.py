"""Runs the fuzz targets (see README.md beside this file): two processes at a time, each for so many seconds.

With atheris installed its coverage leads the search; without it a seeded mutator goes on by chance, so that the targets
run everywhere. An input that breaks a target's invariant is kept in `.fuzz/TARGET/`, and the run fails.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutator import Mutator
from tests.testdata import REPOSITORY

FOLDER = Path(__file__).parent
FOUND = REPOSITORY / ".fuzz"
"""Inputs that broke an invariant, a folder for each target."""

AT_A_TIME = 2
"""Processes: as many as the smallest machine of CI has cores."""
LONGEST = 4096
"""Octets of an input: longer ones find nothing more and cost the number of tries."""
HANGS_S = 10
"""An input that takes longer than this is a finding too; atheris alone can tell."""


@dataclass(frozen=True)
class Target:
    """One `fuzz_NAME.py`: what is called with octets, and what the search begins with."""

    name: str
    check: Callable[[bytes], None]
    seeds: Sequence[bytes]
    words: Sequence[bytes]
    invariant: str


def names() -> list[str]:
    """Every target there is, by name."""
    return sorted(path.stem.removeprefix("fuzz_") for path in FOLDER.glob("fuzz_*.py"))


def target(name: str) -> Target:
    """The target of that name."""
    module = importlib.import_module(f"tests.fuzz.fuzz_{name}")
    return Target(name, module.check, module.SEEDS, module.WORDS, (module.__doc__ or "").partition("\n")[0])


def inputs(of: Target, seed: int) -> Iterator[bytes]:
    """The seeds as they are, then mutations of them for ever; the same ones for the same `seed`."""
    yield from of.seeds
    mutator = Mutator(of.seeds, of.words, LONGEST, seed)
    while True:
        yield mutator.next_input()


def run_by_chance(of: Target, seconds: float, seed: int, found: Path) -> int:
    """Feed mutations for so many seconds; returns their number, raises what the target raised."""
    end = time.monotonic() + seconds
    for count, octets in enumerate(inputs(of, seed)):
        if time.monotonic() > end:
            return count
        try:
            of.check(octets)
        except BaseException:
            keep(octets, found / of.name)
            raise
    raise AssertionError("mutations have no end")


def keep(octets: bytes, folder: Path) -> Path:
    """Write an input down under the name libFuzzer would give it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"crash-{hashlib.sha1(octets).hexdigest()}"
    path.write_bytes(octets)
    return path


def run_by_coverage(name: str, seconds: int, seed: int, found: Path) -> None:
    """Let atheris search; it ends this process, with a status above 0 when an invariant broke."""
    import atheris

    with atheris.instrument_imports(include=["postroad"]):
        of = target(name)
    folder = found / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch, "corpus")
        corpus.mkdir()
        for number, octets in enumerate(of.seeds):
            (corpus / str(number)).write_bytes(octets)
        words = Path(scratch, "words")
        words.write_text("".join('"' + "".join(f"\\x{octet:02x}" for octet in word) + '"\n' for word in of.words))
        options = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", f"-timeout={HANGS_S}", f"-seed={seed}"]
        options += [f"-dict={words}", f"-artifact_prefix={folder}/", "-print_final_stats=1"]
        atheris.Setup([name, *options, str(corpus)], of.check)
        atheris.Fuzz()


def run_apart(name: str, seconds: int, seed: int) -> tuple[str, int, str]:
    """One target in a process of its own: its name, exit status, and what it said."""
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.runner",
        "--alone",
        "--seconds",
        str(seconds),
        "--seed",
        str(seed),
        name,
    ]
    done = subprocess.run(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    return name, done.returncode, done.stdout


def run_all(chosen: Sequence[str], seconds: int, seed: int) -> int:
    """Run targets side by side; returns how many failed."""
    failed = 0
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for name, status, said in pool.map(lambda name: run_apart(name, seconds, seed), chosen):
            print(f"fuzz {name}: {'failed' if status else 'holds'}, {tries(said)} inputs", flush=True)
            if status:
                failed += 1
                print(said[-8000:], flush=True)
    return failed


def tries(said: str) -> str:
    """How many inputs a process says it tried."""
    for line in reversed(said.split("\n")):
        if "number_of_executed_units:" in line or line.startswith("tried:"):
            return line.split()[-1]
    return "?"


def run_alone(name: str, seconds: int, seed: int) -> None:
    """One target in this process, in whichever way this machine can."""
    if importlib.util.find_spec("atheris") is not None:
        run_by_coverage(name, seconds, seed, FOUND)
    else:
        print("tried:", run_by_chance(target(name), seconds, seed, FOUND))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.runner", description="Run fuzz targets.")
    parser.add_argument("--seconds", type=int, default=30, help="for each target")
    parser.add_argument("--seed", type=int, default=1, help="another one makes another search")
    parser.add_argument("--replay", type=Path, help="check this one input and nothing else; needs one target")
    parser.add_argument("--alone", action="store_true", help="in this process; needs one target")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all when none is named")
    asked = parser.parse_args(words)
    unknown = set(asked.targets) - set(names())
    if unknown or ((asked.replay or asked.alone) and len(asked.targets) != 1):
        parser.error(f"targets are {', '.join(names())}")
    if asked.replay:
        target(asked.targets[0]).check(asked.replay.read_bytes())
    elif asked.alone:
        run_alone(asked.targets[0], asked.seconds, asked.seed)
    else:
        return min(run_all(asked.targets or names(), asked.seconds, asked.seed), 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
