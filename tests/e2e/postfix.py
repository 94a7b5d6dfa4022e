"""Debian's Postfix with a configuration of its own: takes mail for one domain, sends the rest to one host."""

from __future__ import annotations

import os
import shutil
import socketserver
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.mail import until
from tests.e2e.receiver import LATE, SIZE, USERS, Receiver

MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/spool
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = {hosts}
inet_protocols = {protocols}
myhostname = mx.{domain}
mydestination =
mynetworks = 127.0.0.0/8
relayhost = [127.0.0.1]:{relay_port}
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtpd_peername_lookup = no
alias_maps =
local_recipient_maps =
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = inline:{{ {people} }}
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_minimum_uid = 100
message_size_limit = {size}
maillog_file = {folder}/log/maillog
maillog_file_prefixes = {folder}
smtpd_recipient_restrictions = check_policy_service unix:door
{settings}
"""
TLS = """
smtpd_tls_security_level = may
smtpd_tls_cert_file = {folder}/conf/server.pem
smtpd_tls_key_file = {folder}/conf/server.key
smtpd_tls_loglevel = 1
"""


@contextmanager
def postfix(
    domain: str,
    port: int,
    relay_port: int,
    *,
    hosts: Sequence[str] = ("127.0.0.1",),
    certificate: Path | None = None,
    settings: str = "",
) -> Iterator[Receiver]:
    """A running Postfix; `certificate` is a folder with server.pem and server.key, `settings` more lines of main.cf.

    Its folder must be open to the accounts of its processes, who may not enter those of pytest.
    """
    folder = Path(tempfile.mkdtemp(prefix="postroad-postfix-"))
    folder.chmod(0o755)
    for name in ("spool/etc", "data", "conf", "mail", "log"):
        (folder / name).mkdir(parents=True)
    shutil.chown(folder / "data", "postfix")
    os.chown(folder / "mail", 65534, 65534)
    shutil.copytree("/etc/postfix", folder / "conf", dirs_exist_ok=True)
    if certificate is not None:
        for file in ("server.pem", "server.key"):
            shutil.copy(certificate / file, folder / "conf" / file)
        settings += TLS.format(folder=folder)
    main = MAIN.format(
        folder=folder, domain=domain, relay_port=relay_port, settings=settings, size=SIZE,
        hosts=", ".join(hosts), protocols="all" if any(":" in host for host in hosts) else "ipv4",
        people=", ".join(f"{{{user}@{domain} = {user}/}}" for user in USERS),
    )  # fmt: skip
    (folder / "conf/main.cf").write_text(main)
    services = Path("/usr/share/postfix/master.cf.dist").read_text()
    (folder / "conf/master.cf").write_text(services.replace("smtp      inet  n", f"{port} inet n", 1))
    # What Debian's start script copies for those of its processes that see only the spool.
    for file in ("services", "nsswitch.conf", "hosts", "resolv.conf"):
        if Path("/etc", file).exists():
            shutil.copy(Path("/etc", file), folder / "spool/etc")

    door = _Door(str(folder / "spool/door"))
    receiver = Receiver(domain, folder, folder / "log/maillog", door.open)
    _postfix(folder, "start")
    try:
        until(lambda: "starting the Postfix" in receiver.log)
        yield receiver
    finally:
        _postfix(folder, "stop")
        door.close()
        shutil.rmtree(folder, ignore_errors=True)


class _Door(socketserver.ThreadingUnixStreamServer):
    """Whom Postfix asks about each recipient, because its own tables hold for a whole session (SMTPD_POLICY_README)."""

    daemon_threads = True

    def __init__(self, path: str) -> None:
        super().__init__(path, _Question)
        os.chmod(path, 0o666)
        self.closed_for_late = True
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def open(self) -> None:
        """From now on everybody may in."""
        self.closed_for_late = False

    def close(self) -> None:
        self.shutdown()
        self._thread.join(10)
        self.server_close()


class _Question(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        """Answers lines of name=value; an empty one ends a question."""
        late = False
        for line in self.rfile:
            late = late or line.startswith(b"recipient=late@")
            if line == b"\n":
                assert isinstance(self.server, _Door)
                busy = late and self.server.closed_for_late
                self.wfile.write(f"action={f'450 4.2.0 {LATE}' if busy else 'DUNNO'}\n\n".encode())
                late = False


def _postfix(folder: Path, command: str) -> None:
    with open(folder / "log/commands", "ab") as output:
        subprocess.run(
            ["postfix", "-c", folder / "conf", command], stdout=output, stderr=output, timeout=50, check=False
        )
