"""What the machine says of a configuration: folders, rights, accounts and certificates."""

from __future__ import annotations

import datetime as dt
import os
import pwd
import resource
import socket
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from postroad.config import Config, Limits, Listen, Milter, Relay, Tls, machine
from postroad.config.machine import absent_milters, machine_complaints
from postroad.net.tls import make_authority
from postroad.store.spool import SPACE_RESERVE

NOW = dt.datetime.now(dt.UTC)
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask for another account")


def said(config: Config) -> list[str]:
    """Key and complaint of everything but the remark about running as root."""
    found = [f"{'.'.join(one.path)}: {one.what}" for one in machine_complaints(config)]
    return [text for text in found if not text.startswith("user: the server would run as root")]


def pair(folder: Path, *, days: int = 90, begins: int = -1, name: str = "mail.example.org") -> Tls:
    """A certificate and its key, as files that only we can read."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW + dt.timedelta(days=min(begins, days - 1)))
        .not_valid_after(NOW + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "mail.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "mail.key").write_bytes(key.private_bytes(pem, form, none))
    (folder / "mail.key").chmod(0o600)
    return Tls(certificate=str(folder / "mail.pem"), key=str(folder / "mail.key"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    return folder


def config(data: Path, **more: object) -> Config:
    return Config(data_dir=str(data), listen=Listen(mx=("127.0.0.1:0",)), **more)  # type: ignore[arg-type]


def test_good_machine_is_silent(data: Path, tmp_path: Path) -> None:
    high = Listen(*(), mx=(":2525",), submission=(), submissions=(), imap=(), imaps=(), pop3=(), pop3s=())
    good = Config(data_dir=str(data), listen=high, hostname="mail.example.org", tls=pair(tmp_path))
    assert [text for text in said(good) if not text.startswith("limits.connections")] == []


def test_open_data_folder_is_refused(data: Path) -> None:
    data.chmod(0o755)
    assert any("every account of this machine can look into" in text for text in said(config(data)))


def test_data_folder_may_be_made_later(tmp_path: Path) -> None:
    assert not any("data_dir" in text for text in said(config(tmp_path / "a" / "b")))


def test_data_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    assert any("is not a folder" in text for text in said(config(tmp_path / "data")))


def test_unknown_account(data: Path) -> None:
    assert said(config(data, user="no-such-account")) == ['user: there is no account "no-such-account" on this machine']


@pytest.mark.parametrize(
    "days, begins, words",
    [(-1, -5, "ended on"), (90, 3, "begins on"), (5, -1, "ends on")],
)
def test_dates_of_the_certificate(data: Path, tmp_path: Path, days: int, begins: int, words: str) -> None:
    (complaint,) = [t for t in said(config(data, tls=pair(tmp_path, days=days, begins=begins))) if t.startswith("tls")]
    assert words in complaint


def test_key_of_another_certificate(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    mixed = Tls(certificate=pair(tmp_path).certificate, key=pair(other).key)
    assert any("is not the key of the first certificate" in text for text in said(config(data, tls=mixed)))


def test_files_that_hold_something_else(data: Path, tmp_path: Path) -> None:
    tls = pair(tmp_path)
    Path(tls.key).write_text("not a key")
    assert any("holds no private key" in text for text in said(config(data, tls=tls)))
    Path(tls.certificate).write_text("not a certificate")
    assert any("holds no certificate" in text for text in said(config(data, tls=tls)))


def test_missing_certificate_and_bundle(data: Path, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere.pem")
    found = said(config(data, tls=Tls(certificate=nowhere, key=nowhere), relay=Relay(ca_file=nowhere)))
    assert [text.partition(":")[0] for text in found if "there is no file" in text] == [
        "tls.certificate",
        "tls.key",
        "relay.ca_file",
    ]


def test_key_that_everybody_can_read(data: Path, tmp_path: Path) -> None:
    tls = pair(tmp_path)
    Path(tls.key).chmod(0o644)
    assert any("every account can read the private key" in text for text in said(config(data, tls=tls)))


def test_certificate_for_another_name_is_a_hint(data: Path, tmp_path: Path) -> None:
    found = list(machine_complaints(config(data, hostname="mx.example.net", tls=pair(tmp_path))))
    (hint,) = [one for one in found if one.path == ("tls", "certificate")]
    assert hint.what == "the certificate is for mail.example.org, not for mx.example.net"
    assert not hint.fatal


def test_wildcard_certificate_covers_the_name(data: Path, tmp_path: Path) -> None:
    wild = config(data, hostname="mx.example.org", tls=pair(tmp_path, name="*.example.org"))
    assert not any(text.startswith("tls") for text in said(wild))


def test_low_ports_without_privileges(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(machine, "_may_bind_any", lambda: False)
    monkeypatch.setattr(machine, "_first_unprivileged_port", lambda: 1024)
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    low = Config(data_dir=str(data), listen=Listen(mx=(":25", ":2525")))
    assert [text for text in said(low) if text.startswith("listen.mx")] == [
        "listen.mx: port 25 is for root: ports below 1024 need privileges"
    ]


def test_more_connections_than_files(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    many = config(data, limits=Limits(connections=10_000))
    assert "limits.connections: 10000 connections need 10256 open files, and this account may have 4096" in said(many)


@NEEDS_ROOT
def test_the_question_is_asked_as_the_service_account(data: Path, tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    tls = pair(tmp_path)
    found = said(config(data, user="nobody", tls=tls))
    assert f"tls.key: nobody may not read {tls.key}" in found
    assert f"data_dir: nobody may not write to {data}" in found
    os.chown(tls.key, nobody.pw_uid, -1)
    os.chown(data, nobody.pw_uid, -1)
    assert not any("nobody may not" in text for text in said(config(data, user="nobody", tls=tls)))


def test_wrong_configuration_is_not_looked_at(data: Path) -> None:
    assert said(Config(data_dir="relative", user="no-such-account")) == []


def test_a_provider_file_is_judged_with_the_configuration(tmp_path: Path) -> None:
    """Each mistake in it names its own line, as those of the configuration do."""
    file = tmp_path / "providers.toml"
    file.write_text('[example]\nhosts = [".example.net"]\nconections = 3\n')
    config = Config(data_dir=str(tmp_path), relay=Relay(providers_file=str(file)))
    found = [one for one in machine_complaints(config) if one.path == ("relay", "providers_file")]
    assert [one.what for one in found] == [f"{file} line 3: example.conections: there is no key of this name"]
    assert found[0].fix == 'Did you mean "connections"?'


def test_a_provider_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = Config(data_dir=str(tmp_path), relay=Relay(providers_file=str(tmp_path / "none.toml")))
    [found] = [one for one in machine_complaints(config) if one.path == ("relay", "providers_file")]
    assert "there is no file" in found.what


def test_authorities_that_cannot_vouch_are_named(data: Path, tmp_path: Path) -> None:
    """`openssl req -x509` alone makes such a one, and everything it signed would count as unknown."""
    file = tmp_path / "ca.pem"
    config = Config(data_dir=str(data), relay=Relay(ca_file=str(file)))
    assert said(config) == [f"relay.ca_file: there is no file {file}"]
    file.write_text("nothing of the kind")
    assert said(config) == [f"relay.ca_file: {file} holds no certificate in PEM form"]
    file.write_bytes(make_authority("Root", int(NOW.timestamp() * 1e6)).pem)
    assert said(config) == []
    file.write_bytes(file.read_bytes() + Path(pair(tmp_path, name="root.test").certificate).read_bytes())
    [hint] = said(config)
    assert hint.startswith("relay.ca_file: the authority CN=root.test has no key usage keyCertSign")


def test_a_disk_on_which_no_mail_would_be_taken_is_a_hint(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = os.statvfs_result((4096, 4096, 6000, 5000, 5000, 100, 100, 100, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: small)
    config = Config(data_dir=str(data))
    assert said(config) == [f"data_dir: 20 MB are free for {data}, and below 304 MB no mail is taken"]
    assert not any(one.fatal for one in machine_complaints(config) if one.path == ("data_dir",))
    assert machine.SPACE_RESERVE == SPACE_RESERVE


def test_a_milter_that_is_not_there_is_a_hint(data: Path, tmp_path: Path) -> None:
    here, silent = tmp_path / "here.sock", tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(here))
        listening.listen()
        milter = Milter(mx=(f"unix:{here}", f"unix:{silent}"), submission=("inet:127.0.0.1:1",))
        hints = list(absent_milters(config(data, milter=milter)))
    assert [(one.path, one.fatal) for one in hints] == [(("milter", "mx"), False), (("milter", "submission"), False)]
    assert f"nobody answers at unix:{silent} (No such file or directory)" in hints[0].what
    assert "nobody answers at inet:127.0.0.1:1 (Connection refused)" in hints[1].what


def test_a_routes_file_and_its_passwords_are_judged_with_the_configuration(data: Path, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(0o644)
    file = tmp_path / "routes.toml"
    file.write_text(f'[a]\nvia = "h.test"\nlogin = "x"\npassword_file = "{password}"\n')
    config = Config(data_dir=str(data), relay=Relay(routes_file=str(file)))
    [told] = said(config)
    assert "a.password_file: every account of this machine can read the password" in told
    assert "secret" not in told
    password.chmod(0o600)
    assert said(config) == []
    file.write_text("[a]\nvai = 1\n")
    assert said(config) == [f"relay.routes_file: {file} line 2: a.vai: there is no key of this name"]
    file.unlink()
    assert said(config) == [f"relay.routes_file: there is no file {file}"]
