"""Debian's Postfix with a configuration of its own: takes mail for one domain, sends the rest to one host."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.mail import until

MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/spool
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
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
virtual_mailbox_maps = inline:{{ {{bob@{domain} = bob/}} }}
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_minimum_uid = 100
maillog_file = {folder}/log/maillog
maillog_file_prefixes = {folder}
"""


@contextmanager
def postfix(domain: str, port: int, relay_port: int) -> Iterator[Path]:
    """A running Postfix on 127.0.0.1; yields its folder, where `mail/bob/new` is the mailbox of bob at the domain.

    Its folder must be open to the accounts of its processes, who may not enter those of pytest.
    """
    folder = Path(tempfile.mkdtemp(prefix="postroad-postfix-"))
    folder.chmod(0o755)
    for name in ("spool/etc", "data", "conf", "mail", "log"):
        (folder / name).mkdir(parents=True)
    shutil.chown(folder / "data", "postfix")
    os.chown(folder / "mail", 65534, 65534)
    shutil.copytree("/etc/postfix", folder / "conf", dirs_exist_ok=True)
    (folder / "conf/main.cf").write_text(MAIN.format(folder=folder, domain=domain, relay_port=relay_port))
    services = Path("/usr/share/postfix/master.cf.dist").read_text()
    (folder / "conf/master.cf").write_text(services.replace("smtp      inet  n", f"127.0.0.1:{port} inet n", 1))
    # What Debian's start script copies for those of its processes that see only the spool.
    for file in ("services", "nsswitch.conf", "hosts", "resolv.conf"):
        if Path("/etc", file).exists():
            shutil.copy(Path("/etc", file), folder / "spool/etc")
    _postfix(folder, "start")
    try:
        until(lambda: "starting the Postfix" in _log(folder))
        yield folder
    finally:
        _postfix(folder, "stop")
        shutil.rmtree(folder, ignore_errors=True)


def _postfix(folder: Path, command: str) -> None:
    with open(folder / "log/commands", "ab") as output:
        subprocess.run(
            ["postfix", "-c", folder / "conf", command], stdout=output, stderr=output, timeout=50, check=False
        )


def _log(folder: Path) -> str:
    log = folder / "log/maillog"
    return log.read_text() if log.exists() else ""
