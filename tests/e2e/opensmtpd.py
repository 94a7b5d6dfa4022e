"""Debian's OpenSMTPD with a configuration of its own: takes mail for one domain, sends the rest to one host."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.mail import until
from tests.e2e.receiver import LATE, SIZE, USERS, Receiver, greets
from tests.e2e.unpacked import command, running, server_folder

CONF = """
smtp max-message-size "{size}"
{settings}
table late file:/etc/late
table people file:/etc/people
filter "late" phase rcpt-to match rcpt-to <late> reject "450 4.2.0 {late}"
{pki}
{listen}
action "mailbox" maildir "{folder}/mail/%{{dest.user}}" virtual <people>
action "remote" relay host "smtp://127.0.0.1:{relay_port}"
match from any for domain {{ "{domain}", "*.{domain}" }} action "mailbox"
match from src 127.0.0.1 for any action "remote"
match from local for any action "remote"
"""
PKI = 'pki mx.{domain} cert "/etc/server.pem"\npki mx.{domain} key "/etc/server.key"'
LISTEN = 'listen on {host} port {port} {tls} hostname mx.{domain} filter "late"\n'
NOBODY, USER, QUEUE = 65534, 8102, 8103


@contextmanager
def opensmtpd(
    domain: str,
    port: int,
    relay_port: int,
    *,
    hosts: Sequence[str] = ("127.0.0.1",),
    certificate: Path | None = None,
    settings: str = "",
) -> Iterator[Receiver]:
    """A running OpenSMTPD; `certificate` is a folder with server.pem and server.key, `settings` more of its lines."""
    with server_folder("opensmtpd", {"opensmtpd": USER, "opensmtpq": QUEUE}) as folder:
        tls = f"tls pki mx.{domain}" if certificate else ""
        conf = CONF.format(
            domain=domain, relay_port=relay_port, folder=folder, size=SIZE, late=LATE, settings=settings,
            pki=PKI.format(domain=domain) if certificate else "",
            listen="".join(LISTEN.format(host=host, port=port, tls=tls, domain=domain) for host in hosts),
        )  # fmt: skip
        (folder / "etc/smtpd.conf").write_text(conf)
        (folder / "etc/late").write_text(f"late@{domain}\n")
        (folder / "etc/people").write_text("".join(f"{user} nobody\n" for user in USERS))
        (folder / "etc/mailname").write_text(f"mx.{domain}\n")
        if certificate is not None:
            for file in ("server.pem", "server.key"):
                shutil.copy(certificate / file, folder / "etc" / file)
        spool = folder / "var/spool/smtpd"
        for part, owner, mode in (("", 0, 0o711), ("purge", QUEUE, 0o700), ("offline", 0, 0o770)):
            (spool / part).mkdir(parents=True, exist_ok=True)
            os.chown(spool / part, owner, QUEUE if part == "offline" else 0)
            (spool / part).chmod(mode)
        for part in ("var/lib/opensmtpd/empty", "var/empty"):
            (folder / part).mkdir(parents=True)
        os.chown(folder / "mail", NOBODY, NOBODY)

        def change_mind() -> None:
            (folder / "etc/late").write_text("")
            # What Debian does by a setgid bit.
            as_queue = ("setpriv", "--regid", str(QUEUE), "--clear-groups")
            control = command("smtpd", folder, *as_queue, "/usr/sbin/smtpctl", "update", "table", "late")
            subprocess.run(control, check=True, timeout=20, stdout=subprocess.DEVNULL)

        receiver = Receiver(domain, folder, folder / "log/output", change_mind)
        with running("smtpd", folder, "/usr/sbin/smtpd", "-d"):
            until(lambda: greets(hosts[0], port))
            yield receiver
