"""`postroad try`: shown to people and programs, with and without a data folder."""

from __future__ import annotations

from pathlib import Path

from tests.console.conftest import CommandLine


def configured(run: CommandLine, text: str = "") -> str:
    file = run.data.parent / "postroad.toml"
    file.write_text(f'hostname = "mail.ours.test"\ndata_dir = "{run.data}"\n[relay]\nnext_hop = "127.0.0.1:9"\n{text}')
    return str(file)


def test_a_mailbox_an_unknown_one_and_somebody_elsewhere(dev_test: CommandLine) -> None:
    config = configured(dev_test)
    found = dev_test.json(
        "try", "--config", config, "anna@dev.test", "nobody@dev.test", "bob@far.test", status=2
    )  # fmt: skip
    assert found["schema"] == "try/1"
    anna, nobody, bob = found["rows"]
    assert (anna["prospect"], anna["mailboxes"]) == ("routable", ["anna@dev.test"])
    assert nobody["why"].startswith("550 5.1.1")
    assert [(host["host"], host["port"]) for host in bob["hosts"]] == [("127.0.0.1", 9)]
    assert bob["ehlo"] == "mail.ours.test"


def test_without_a_data_folder_and_for_people(run: CommandLine) -> None:
    said = run("try", "--config", configured(run), "bob@far.test").stdout
    assert "bob@far.test: routable" in said
    assert "1. 127.0.0.1 port 9: 127.0.0.1" in said


def test_a_host_that_is_not_there(run: CommandLine) -> None:
    said = run("try", "--config", configured(run), "bob@far.test", "--connect", status=1).stdout
    assert "undecided" in said
    assert "connection refused" in said


def test_a_route_with_its_password_never_shown(run: CommandLine, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("open sesame\n")
    password.chmod(0o600)
    routes = tmp_path / "routes.toml"
    routes.write_text(
        f'[relay]\nusers = ["anna@ours.test"]\nvia = "127.0.0.1:587"\nlogin = "key"\npassword_file = "{password}"\n'
    )
    config = configured(run, f'routes_file = "{routes}"\n')
    said = run("try", "--config", config, "bob@far.test", "--user", "anna@ours.test").stdout
    assert "login    key" in said
    assert "route relay" in said
    assert "sesame" not in said


def test_mistakes(run: CommandLine, tmp_path: Path) -> None:
    assert "not an address" in run("try", "--config", configured(run), "bob", status=2).stderr
    config = configured(run, f'routes_file = "{tmp_path}/absent.toml"\n')
    assert "absent.toml" in run("try", "--config", config, "bob@far.test", status=78).stderr
