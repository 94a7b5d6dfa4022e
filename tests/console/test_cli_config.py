"""`postroad config`."""

from __future__ import annotations

import json
from pathlib import Path

from postroad.config import Config
from postroad.config.load import examine_text
from tests.console.conftest import CommandLine


def write(run: CommandLine, text: str) -> str:
    file = run.data.parent / "postroad.toml"
    file.write_text(text)
    return str(file)


def test_check_of_a_good_file(run: CommandLine) -> None:
    run.data.mkdir(mode=0o700)
    file = write(run, f'hostname = "mail.example.org"\ndata_dir = "{run.data}"\n')
    assert f"{file}: ok" in run("config", "check", file).output


def test_check_names_line_key_and_fix_and_fails(run: CommandLine) -> None:
    file = write(run, "[limits]\nrecipents = 5\nhops = 0\n")
    output = run("config", "check", file, status=1).output
    assert f'{file} line 2: limits.recipents: there is no key of this name. Did you mean "recipients"?' in output
    assert "line 3: limits.hops: 0 is too small. Write 1 or more." in output
    assert f"{file}: 2 problems" in output


def test_check_looks_at_the_machine(run: CommandLine) -> None:
    run.data.mkdir(mode=0o755)
    file = write(run, f'data_dir = "{run.data}"\n')
    assert "line 1: data_dir: every account of this machine" in run("config", "check", file, status=1).output


def test_hints_do_not_fail(run: CommandLine) -> None:
    run.data.mkdir(mode=0o700)
    file = write(run, f'data_dir = "{run.data}"\n[limits]\ncommand_timeout_s = 10\n')
    assert "hint: limits.command_timeout_s" in run("config", "check", file).output


def test_check_as_json(run: CommandLine) -> None:
    file = write(run, "workers = true\n")
    told = json.loads(run("config", "check", file, "--json", status=1).stdout)
    assert told["ok"] is False
    assert told["problems"][0]["key"] == "workers"
    assert told["problems"][0]["line"] == 1


def test_show_marks_what_changed(run: CommandLine) -> None:
    file = write(run, "workers = 3\n")
    output = run("--config", file, "config", "show").output
    assert "workers = 3    # changed, default 0" in output
    assert "\n[limits]\n" in output
    assert "hops = 50\n" in output


def test_show_prints_a_file_that_reads_back_the_same(run: CommandLine) -> None:
    file = write(run, '[relay.routes]\n"a.test" = "b.test:25"\n[retry]\ndelays_s = [1, 2.5]\n')
    shown = run("--config", file, "config", "show").output.encode()
    reading = examine_text(shown, "shown")
    assert reading.config is not None
    assert reading.config.relay.routes == {"a.test": "b.test:25"}
    assert reading.config.retry.delays_s == (1, 2.5)


def test_show_only_what_changed_as_json(run: CommandLine) -> None:
    file = write(run, "workers = 3\n[log]\nevents = true\n")
    rows = run.json("--config", file, "config", "show", "--changed")["rows"]
    assert [(row["key"], row["value"]) for row in rows if row["key"] != "data_dir"] == [("workers", 3)]


def test_sample_is_a_file_that_changes_nothing(run: CommandLine) -> None:
    assert examine_text(run("config", "sample").output.encode(), "sample").config == Config()


def test_serve_refuses_what_cannot_work(run: CommandLine, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.pem"
    file = write(run, f'[tls]\ncertificate = "{nowhere}"\nkey = "{nowhere}"\n')
    result = run("--config", file, "serve", status=78)
    assert f"{file} line 2: tls.certificate: there is no file {nowhere}" in result.stderr
