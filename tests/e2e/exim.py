"""Debian's Exim 4 with a configuration of its own: takes mail for one domain, sends the rest to one host."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.mail import until
from tests.e2e.receiver import LATE, SIZE, USERS, Receiver
from tests.e2e.unpacked import running, server_folder

CONF = """
primary_hostname = mx.{domain}
local_interfaces = <; {hosts}
daemon_smtp_ports = {port}
spool_directory = /var/spool/exim4
log_file_path = /var/log/exim4/%slog
pid_file_path = /run/exim.pid
exim_user = Debian-exim
exim_group = Debian-exim
never_users =
rfc1413_query_timeout = 0s
smtp_accept_queue_per_connection = 0
host_lookup =
message_size_limit = {size}
log_selector = +smtp_connection +incoming_port +received_recipients
tls_advertise_hosts = {tls}
tls_certificate = /etc/exim4/server.pem
tls_privatekey = /etc/exim4/server.key
acl_smtp_rcpt = rcpt
domainlist here = {domain} : *.{domain}
{settings}

begin acl
rcpt:
  defer  local_parts = late
         condition = ${{if exists{{/var/busy}}}}
         message = 450 4.2.0 {late}
  deny   domains = +here
         ! local_parts = {users}
         message = 550 5.1.1 no such user
  accept domains = +here
  accept hosts = 127.0.0.1
  deny   message = 550 5.7.1 no relaying

begin routers
here:
  driver = accept
  domains = +here
  local_parts = {users}
  transport = mailbox
elsewhere:
  driver = manualroute
  route_list = * 127.0.0.1
  self = send
  transport = remote

begin transports
mailbox:
  driver = appendfile
  maildir_format
  directory = {folder}/mail/$local_part_data
  user = nobody
remote:
  driver = smtp
  port = {relay_port}
  hosts_try_dane =

begin retry
* * F,1h,1s
"""


@contextmanager
def exim(
    domain: str,
    port: int,
    relay_port: int,
    *,
    hosts: Sequence[str] = ("127.0.0.1",),
    certificate: Path | None = None,
    settings: str = "",
) -> Iterator[Receiver]:
    """A running Exim; `certificate` is a folder with server.pem and server.key, `settings` more of its main options."""
    with server_folder("exim", {"Debian-exim": 8101}) as folder:
        (folder / "etc/exim4").mkdir()
        conf = CONF.format(
            domain=domain, port=port, relay_port=relay_port, folder=folder, hosts=" ; ".join(hosts), size=SIZE,
            tls="*" if certificate else "", late=LATE, users=" : ".join(USERS), settings=settings,
        )  # fmt: skip
        (folder / "etc/exim4/exim4.conf").write_text(conf)
        for part in ("var/spool/exim4", "var/log/exim4"):
            (folder / part).mkdir(parents=True)
            shutil.chown(folder / part, 8101, 8101)
        if certificate is not None:
            for file in ("server.pem", "server.key"):
                shutil.copy(certificate / file, folder / "etc/exim4" / file)
                shutil.chown(folder / "etc/exim4" / file, 8101, 8101)
        shutil.chown(folder / "mail", "nobody")
        busy = folder / "var/busy"
        busy.touch()
        receiver = Receiver(domain, folder, folder / "var/log/exim4/mainlog", busy.unlink)
        with running("exim4", folder, "/usr/sbin/exim4", "-bdf", "-q1m"):
            until(lambda: "listening for SMTP" in receiver.log)
            yield receiver
