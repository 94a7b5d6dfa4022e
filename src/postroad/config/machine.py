"""Does a configuration fit this machine? Files, rights, ports and accounts, asked before anything is opened.

Every question is answered as the account the server will run as: a key that only root can read works until the first
restart after the privileges are gone, which is the worst moment to find out.
"""

from __future__ import annotations

import os
import pwd
import resource
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from postroad.config import Config
from postroad.config.endpoints import MilterPlace, parse_endpoint, parse_milter
from postroad.config.problems import Complaint
from postroad.config.providers import examine as examine_providers
from postroad.config.routes import examine as examine_routes
from postroad.config.routes import read_password
from postroad.config.rules import SERVICES, complaints

if TYPE_CHECKING:
    from cryptography import x509

CAP_NET_BIND_SERVICE: Final = 10
DAY_S: Final = 86400.0
CERTIFICATE_SOON_S: Final = 14 * DAY_S
"""A certificate that ends within two weeks is worth a word; renewals usually happen a month before."""
SPARE_FILES: Final = 256
"""File descriptors beside the connections: databases, sockets to the store, logs, body files."""
SPACE_RESERVE: Final = 200 * 1000 * 1000
"""What `store.spool` keeps free beside two messages of the largest size."""
KNOCK_S: Final = 1.0
"""A milter in the neighbourhood takes a connection within milliseconds."""
CANNOT_ASK: Final = 2
"""Exit code of the asking process when it could not become the account."""


def machine_complaints(config: Config) -> Iterator[Complaint]:
    """What stands in the way of running this configuration here and now."""
    if any(one.fatal for one in complaints(config)):
        return
    account = _account(config.user)
    if config.user and account is None:
        fix = f"Make it (useradd --system --home-dir {config.data_dir} {config.user}), or name another"
        yield Complaint(("user",), f'there is no account "{config.user}" on this machine', fix)
        return
    yield from _switch(config, account)
    yield from _ports(config)
    yield from _folder(config, account)
    yield from _certificate(config, account)
    yield from _files_of_others(config, account)
    yield from _open_files(config)


def absent_milters(config: Config) -> Iterator[Complaint]:
    """Hints about milters at whose place nobody listens. It connects to each, so a server at its start does not ask."""
    if any(one.fatal for one in complaints(config)):
        return
    for name in ("mx", "submission"):
        for text in getattr(config.milter, name):
            place = parse_milter(text)
            try:
                _knock(place)
            except OSError as error:
                what = f"nobody answers at {text} ({error.strerror or error})"
                fix = "Start the milter, or correct its place; what becomes of mail meanwhile says milter.on_failure"
                yield Complaint(("milter", name), what, fix, fatal=False)


def _knock(place: MilterPlace) -> None:
    """Raises OSError when nobody takes a connection."""
    if place.path:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(KNOCK_S)
            sock.connect(place.path)
    else:
        socket.create_connection((place.host, place.port), KNOCK_S).close()


def _account(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name) if name else None
    except KeyError:
        return None


def _switch(config: Config, account: pwd.struct_passwd | None) -> Iterator[Complaint]:
    if account is not None and os.geteuid() not in (0, account.pw_uid):
        what = f'only root can become "{config.user}"'
        yield Complaint(("user",), what, "Start as root or as that account", fatal=False)
    elif account is None and os.geteuid() == 0:
        what = "the server would run as root"
        yield Complaint(("user",), what, 'Write user = "postroad" and make that account', fatal=False)


def _ports(config: Config) -> Iterator[Complaint]:
    """Ports below the system's limit need root, a capability, or sockets handed over by systemd."""
    first_free = _first_unprivileged_port()
    if os.geteuid() == 0 or _may_bind_any() or os.environ.get("LISTEN_FDS"):
        return
    for path, text in _addresses(config):
        port = parse_endpoint(text, every_host=True, port_zero=True).port
        if 0 < port < first_free:
            what = f"port {port} is for root: ports below {first_free} need privileges"
            fix = f'Start as root with user set, by systemd, or listen on ":{port + 2500}"'
            yield Complaint(path, what, fix, fatal=False)


def _addresses(config: Config) -> Iterator[tuple[tuple[str, str], str]]:
    """Every address that will be listened on, with its key."""
    for service in SERVICES:
        yield from ((("listen", service), text) for text in getattr(config.listen, service))
    if config.acme.names:
        yield from ((("acme", name), text) for name in ("http", "alpn") if (text := getattr(config.acme, name)))


def _first_unprivileged_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return 1024


def _may_bind_any() -> bool:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    effective = next((line.split()[1] for line in status.split("\n") if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> CAP_NET_BIND_SERVICE & 1)


def _folder(config: Config, account: pwd.struct_passwd | None) -> Iterator[Complaint]:
    """The data folder exists and is private, or can be made."""
    path, folder = ("data_dir",), Path(config.data_dir)
    try:
        status = folder.stat()
    except FileNotFoundError:
        yield from _creatable(folder, account)
        return
    except OSError as error:
        yield Complaint(path, f"{folder} cannot be looked at ({error.strerror})", "Check the folders above it")
        return
    if not stat.S_ISDIR(status.st_mode):
        yield Complaint(path, f"{folder} is not a folder", "Name a folder, or move that file away")
    elif status.st_mode & stat.S_IRWXO:
        what = f"every account of this machine can look into {folder}, where the mail is kept"
        yield Complaint(path, what, f"chmod 750 {folder}")
    elif not _can(account, folder, os.R_OK | os.W_OK | os.X_OK):
        what = f"{_who(account)} may not write to {folder}"
        yield Complaint(path, what, f"chown {_who(account)} {folder}")
    yield from _space(config, folder)


def _space(config: Config, folder: Path) -> Iterator[Complaint]:
    """A disk that is too small, or too full, takes no mail at all from the first minute."""
    disk = os.statvfs(folder)
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    needed = max(total * config.limits.free_space_share, 2 * config.limits.message_size + SPACE_RESERVE)
    if free < needed:
        what = f"{free // 10**6:,} MB are free for {folder}, and below {needed // 10**6:,.0f} MB no mail is taken"
        fix = "Make room; a smaller limits.message_size or limits.free_space_share needs less"
        yield Complaint(("data_dir",), what, fix, fatal=False)


def _creatable(folder: Path, account: pwd.struct_passwd | None) -> Iterator[Complaint]:
    above = next(parent for parent in folder.parents if parent.exists())
    if os.geteuid() == 0 or _can(account, above, os.W_OK | os.X_OK):
        return
    fix = f"Make it as root: install -d -m 750 -o {_who(account)} {folder}"
    yield Complaint(("data_dir",), f"{folder} does not exist, and {_who(account)} may not make it in {above}", fix)


def _certificate(config: Config, account: pwd.struct_passwd | None) -> Iterator[Complaint]:
    """Certificate and key exist, can be read by the service, belong together and have not ended."""
    tls = config.tls
    if not tls.certificate:
        return
    unreadable = False
    for name, file in (("certificate", tls.certificate), ("key", tls.key)):
        for complaint in _readable(("tls", name), Path(file), account):
            unreadable = True
            yield complaint
    if Path(tls.key).exists() and Path(tls.key).stat().st_mode & stat.S_IRWXO:
        yield Complaint(("tls", "key"), f"every account can read the private key {tls.key}", f"chmod 640 {tls.key}")
    if not unreadable:
        yield from _pair(config)


def _pair(config: Config) -> Iterator[Complaint]:
    """Reads both files; the library is imported here because only a checked certificate needs it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        chain = x509.load_pem_x509_certificates(Path(config.tls.certificate).read_bytes())
    except (ValueError, OSError):
        what = f"{config.tls.certificate} holds no certificate in PEM form"
        yield Complaint(("tls", "certificate"), what, 'Name the file that has "BEGIN CERTIFICATE" lines')
        return
    try:
        key = serialization.load_pem_private_key(Path(config.tls.key).read_bytes(), password=None)
    except (ValueError, TypeError, OSError):
        what = f"{config.tls.key} holds no private key in PEM form without a password"
        yield Complaint(("tls", "key"), what, "Name the key of the certificate; remove its password with: openssl pkey")
        return
    mine = key.public_key().public_bytes(encoding, form)
    if mine != chain[0].public_key().public_bytes(encoding, form):
        what = f"{config.tls.key} is not the key of the first certificate in {config.tls.certificate}"
        yield Complaint(("tls", "key"), what, "Name the pair that was issued together, the server's certificate first")
    yield from _dates(chain[0])
    if config.hostname:
        yield from _names(chain[0], config.hostname)


def _dates(certificate: object) -> Iterator[Complaint]:
    from cryptography import x509

    assert isinstance(certificate, x509.Certificate)
    path, now = ("tls", "certificate"), time.time()
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if ends.timestamp() <= now:
        yield Complaint(path, f"the certificate ended on {ends:%Y-%m-%d %H:%M} UTC", "Renew it")
    elif begins.timestamp() > now:
        yield Complaint(
            path, f"the certificate begins on {begins:%Y-%m-%d %H:%M} UTC", "Check the clock of this machine"
        )
    elif ends.timestamp() - now < CERTIFICATE_SOON_S:
        yield Complaint(path, f"the certificate ends on {ends:%Y-%m-%d}", "Renew it soon", fatal=False)


def _names(certificate: object, hostname: str) -> Iterator[Complaint]:
    from cryptography import x509

    assert isinstance(certificate, x509.Certificate)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    except x509.ExtensionNotFound:
        found = []
    wildcard = "*." + hostname.lower().partition(".")[2]
    if hostname.lower() not in found and wildcard not in found:
        what = f"the certificate is for {', '.join(found[:4]) or 'no name'}, not for {hostname}"
        yield Complaint(("tls", "certificate"), what, "Mail programs will warn; get one for the hostname", fatal=False)


def _files_of_others(config: Config, account: pwd.struct_passwd | None) -> Iterator[Complaint]:
    """Files of others that are read while the server runs."""
    if config.relay.ca_file:
        yield from _authorities(Path(config.relay.ca_file), account)
    if config.relay.providers_file:
        yield from _providers_file(config.relay.providers_file, account)
    if config.relay.routes_file:
        yield from _routes(Path(config.relay.routes_file), account)
    if config.policy.file:
        yield from _policy(Path(config.policy.file), account)
    for name in ("ca_file", "binding_key_file") if config.acme.names else ():
        if getattr(config.acme, name):
            yield from _readable(("acme", name), Path(getattr(config.acme, name)), account)


def _authorities(file: Path, account: pwd.struct_passwd | None) -> Iterator[Complaint]:
    """The file of certificate authorities can be read and holds some, and each is made so that it can vouch."""
    from cryptography import x509

    path = ("relay", "ca_file")
    unreadable = list(_readable(path, file, account))
    yield from unreadable
    if unreadable:
        return
    try:
        roots = x509.load_pem_x509_certificates(file.read_bytes())
    except (ValueError, OSError):
        yield Complaint(
            path, f"{file} holds no certificate in PEM form", 'Name the file that has "BEGIN CERTIFICATE" lines'
        )
        return
    for root in roots:
        if not _may_sign(root):
            name = root.subject.rfc4514_string()
            what = f"the authority {name} has no key usage keyCertSign, so nothing it signed holds"
            fix = "Make it with: openssl req -x509 -addext keyUsage=critical,keyCertSign,cRLSign ..."
            yield Complaint(path, what, fix, fatal=False)


def _may_sign(root: x509.Certificate) -> bool:
    """RFC 5280 section 4.2.1.3: who vouches for certificates says so, and the library that judges them insists."""
    from cryptography import x509

    try:
        return root.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except (x509.ExtensionNotFound, ValueError):
        return False


def _providers_file(file: str, account: pwd.struct_passwd | None) -> Iterator[Complaint]:
    """The provider file can be read, and everything that is wrong in it, each with its own line."""
    path = ("relay", "providers_file")
    unreadable = list(_readable(path, Path(file), account))
    yield from unreadable
    for problem in [] if unreadable else examine_providers(file)[1]:
        key = f"{problem.key}: " if problem.key else ""
        place = f"{file} line {problem.line}" if problem.line else file
        yield Complaint(path, f"{place}: {key}{problem.what}", problem.fix, problem.fatal)


def _routes(file: Path, account: pwd.struct_passwd | None) -> Iterator[Complaint]:
    """The routes file and the password files that it names."""
    path = ("relay", "routes_file")
    wrong = list(_readable(path, file, account))
    yield from wrong
    if wrong:
        return
    routes, problems = examine_routes(str(file))
    for problem in problems:
        place = f"{file} line {problem.line}" if problem.line else str(file)
        yield Complaint(path, f"{place}: {problem.key}: {problem.what}", problem.fix, problem.fatal)
    for name, route in routes.items():
        if not route.login:
            continue
        wrong = list(_readable(path, Path(route.password_file), account))
        yield from wrong
        _, bad = read_password(route.password_file) if not wrong else ("", None)
        if bad is not None:
            yield Complaint(path, f"{file}: {name}.password_file: {bad[0]}", bad[1])


def _policy(file: Path, account: pwd.struct_passwd | None) -> Iterator[Complaint]:
    """Whoever can write this file runs code as the service."""
    path = ("policy", "file")
    yield from _readable(path, file, account)
    if file.exists() and file.stat().st_mode & stat.S_IWOTH:
        what = f"every account can write {file}, which the server runs"
        yield Complaint(path, what, f"chmod 644 {file}")


def _open_files(config: Config) -> Iterator[Complaint]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = config.limits.connections + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        what = f"{config.limits.connections} connections need {needed} open files, and this account may have {hard}"
        fix = f"Set LimitNOFILE={needed} in the unit (or ulimit -n), or lower the limit"
        yield Complaint(("limits", "connections"), what, fix, fatal=False)


def _readable(path: tuple[str, ...], file: Path, account: pwd.struct_passwd | None) -> Iterator[Complaint]:
    try:
        is_file = stat.S_ISREG(file.stat().st_mode)
    except FileNotFoundError:
        yield Complaint(path, f"there is no file {file}", "Check the path")
        return
    except PermissionError:
        is_file = True
    if not is_file:
        yield Complaint(path, f"{file} is not a file", "Name the file itself")
    elif not _can(account, file, os.R_OK):
        who = _who(account)
        fix = f"Let its group read it (chgrp {who} {file}; chmod 640 {file}) and the folders above be entered"
        yield Complaint(path, f"{who} may not read {file}", fix)


def _who(account: pwd.struct_passwd | None) -> str:
    if account is not None:
        return account.pw_name
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _can(account: pwd.struct_passwd | None, path: Path, mode: int) -> bool:
    """Whether the service's account may do this; as root the question is asked by a process of that account.

    Without root nobody can act for another account, so the answer is then this account's own.
    """
    if account is None or os.geteuid() != 0 or account.pw_uid == 0:
        return os.access(path, mode, effective_ids=True)
    return _as_account(account, path, mode)


def _as_account(account: pwd.struct_passwd, path: Path, mode: int) -> bool:
    """Asks in a short-lived copy of this process; callers have no other thread and no event loop yet."""
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    child = os.fork()
    if child == 0:
        answer = CANNOT_ASK
        try:
            os.setgroups(groups)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            answer = 0 if os.access(path, mode) else 1
        finally:
            os._exit(answer)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
