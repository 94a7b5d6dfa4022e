"""The composition of the server: paths, sockets, certificate, privileges, then the supervisor and its children."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from postroad.config import Acme, Config, Tls
from postroad.net.acme_challenges import Challenges
from postroad.net.listen import ListenError, open_listeners, systemd_listeners
from postroad.net.tls import ensure_self_signed
from postroad.serve.certificates import FOLDER, PAIR, CertificateKeeper, prepare_folder
from postroad.serve.local_submission import prepare_maildrop
from postroad.serve.logs import log_line, setup_logs
from postroad.serve.metrics import forget_meters
from postroad.serve.supervisor import StartError, Supervisor, drop_privileges
from postroad.store import folder
from postroad.values.clock import SystemClock

SERVICES: Final = ("mx", "submission", "submissions", "imap", "imaps", "pop3", "pop3s", "lmtp", "local")

FILES_WANTED: Final = 65_536
"""Open files a process asks for: one per connection, and few others."""


def serve(config: Config) -> int:
    """Run the whole server until a signal ends it; returns the exit status.

    Raises StartError with a text for people when it cannot start.
    """
    lines = setup_logs(config.log, "supervisor")
    raise_file_limit()
    data_dir = prepare_data_dir(Path(config.data_dir))
    sockets = open_all(config)
    require_free(data_dir)
    keeper = make_keeper(config, data_dir, sockets.acme)
    config = with_certificate(with_hostname(config), data_dir)
    prepare_maildrop(config)
    drop_privileges(config.user, data_dir)
    forget_meters(data_dir)
    workers = config.workers or os.cpu_count() or 1
    try:
        return asyncio.run(Supervisor(config, data_dir, sockets.services, workers, sockets.metrics, keeper).run())
    finally:
        lines.close()


def raise_file_limit() -> None:
    """Ask for as many open files as the system lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


STORE_ENDS_S: Final = 12.0
"""How long the store of a server that was just killed may take to notice and to finish: its last commit has 10 s."""


def require_free(data_dir: Path) -> None:
    """Raises StartError when another server runs on this folder; the store process takes the lock itself."""
    try:
        if not (data_dir / folder.LOCK).exists():
            return
    except PermissionError:
        raise StartError(f"{data_dir} may not be entered. Run this as its owner, or as root.") from None
    end = time.monotonic() + STORE_ENDS_S
    while True:
        try:
            os.close(folder.lock(data_dir))
            return
        except folder.StoreLocked:
            if time.monotonic() >= end:
                raise StartError(f"Another server runs on {data_dir}. Stop it, or set another `data_dir`.") from None
        time.sleep(0.1)


def prepare_data_dir(data_dir: Path) -> Path:
    """The data folder as an absolute path, made when absent, for its owner alone."""
    data_dir = data_dir.absolute()
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(
            f"The data folder {data_dir} cannot be made: {error.strerror}. Make it, or set `data_dir`."
        ) from error
    if data_dir.stat().st_mode & 0o007:
        log_line("warning", f"{data_dir} can be read by everybody on this machine; mail is kept there: chmod 700 it")
    return data_dir


class Sockets(NamedTuple):
    """Everything that listens: the services' sockets by name, the metrics page's, and ACME's by kind of challenge."""

    services: dict[str, list[socket.socket]]
    metrics: list[socket.socket]
    acme: dict[str, list[socket.socket]]


def open_all(config: Config) -> Sockets:
    """Every listening socket: systemd's where it passed one of that name, else opened."""
    given = systemd_listeners()
    opened: dict[str, list[socket.socket]] = {}

    def take(name: str, *addresses: str) -> list[socket.socket]:
        opened[name] = given.get(name) or [s for address in addresses if address for s in open_listeners(name, address)]
        return opened[name]

    acme = config.acme if config.acme.names else Acme(http="", alpn="")
    try:
        return Sockets(
            services={service: take(service, *getattr(config.listen, service)) for service in SERVICES},
            metrics=take("metrics", config.listen.metrics),
            acme={name: take(f"acme-{name}", getattr(acme, name)) for name in ("http", "alpn")},
        )
    except ListenError as error:
        for sockets in opened.values():
            for sock in sockets:
                sock.close()
        raise StartError(str(error)) from error


def make_keeper(config: Config, data_dir: Path, sockets: dict[str, list[socket.socket]]) -> CertificateKeeper | None:
    """Who gets certificates by ACME, with the folder made; None where ACME is not used."""
    if not config.acme.names:
        return None
    clock = SystemClock()
    folder = prepare_folder(data_dir, config.acme.names, clock.wall_us()).parent
    challenges = Challenges(sockets["http"], sockets["alpn"], folder, clock.wall_us)
    return CertificateKeeper(config.acme, data_dir, challenges, clock)


def with_hostname(config: Config) -> Config:
    """The configuration with a name for this machine: the configured one, or what the system says."""
    return config if config.hostname else msgspec.structs.replace(config, hostname=socket.getfqdn())


def with_certificate(config: Config, data_dir: Path) -> Config:
    """The configuration with a certificate: the configured one, ACME's, or a self-signed one made at first start."""
    if config.tls.certificate:
        return config
    if config.acme.names:
        pair = str(data_dir / FOLDER / PAIR)
        return config.with_tls(pair, pair)
    folder = data_dir / "tls"
    certificate, key = folder / "self-signed.pem", folder / "self-signed.key"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        made = ensure_self_signed([config.hostname], certificate, key, time.time_ns() // 1000)
    except OSError as error:
        raise StartError(
            f"No certificate can be made in {folder}: {error.strerror}. "
            "Make room there and the folder writable, or set tls.certificate and tls.key."
        ) from error
    if made:
        log_line(
            "warning",
            f"made a self-signed certificate for {config.hostname}: mail clients will warn about it. "
            "Set acme.names, or tls.certificate and tls.key, and start again.",
            certificate=str(certificate),
        )
    return msgspec.structs.replace(config, tls=Tls(certificate=str(certificate), key=str(key)))
