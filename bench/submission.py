"""Submission against Postfix with Dovecot's SASL: CPU per accepted message over TLS with a login, in alternating runs.

    python bench/submission.py [--rounds 3] [--messages 3000] [--sessions 20] [--peers postfix postroad]

Needs root, Postfix and Dovecot (dovecot-core) from Debian. Both get the same P-256 certificate, take 5 kB messages on
an implicit-TLS port from one logged-in user, ten messages in a connection, check that the sender belongs to the login,
and relay to the same sink. Measured is the CPU time of all processes of a server, by its control group, until the sink
has every message; Postroad's default checks of submission are on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import rig

sys.path.insert(0, str(rig.HARNESS))
import peer as harness
from adapters import postfix

USER: Final = "a@bench.test"
PASSWORD: Final = "secret-of-a"
LOAD: Final = Path(__file__).resolve().parent / "submit_load.py"

POSTFIX: Final = """
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = dovecot/auth
smtpd_tls_auth_only = yes
smtpd_sender_login_maps = inline:{{ {{ {user} = {user} }} }}
smtpd_sender_restrictions = reject_authenticated_sender_login_mismatch
smtpd_relay_restrictions = permit_sasl_authenticated,reject
smtpd_recipient_restrictions = permit_sasl_authenticated,reject
smtpd_tls_cert_file = {certificate}
smtpd_tls_key_file = {key}
"""

DOVECOT: Final = """
base_dir = {d}/dovecot/run
log_path = {d}/log/dovecot
protocols =
ssl = no
auth_mechanisms = plain login
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {d}/dovecot/users
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}}
service auth {{
  unix_listener {d}/spool/dovecot/auth {{
    user = postfix
    mode = 0600
  }}
}}
"""

POSTROAD: Final = """
hostname = "mx.bench.test"
data_dir = "{d}/data"
[listen]
mx = []
submission = []
submissions = ["127.0.0.1:{port}"]
imap = []
imaps = []
pop3 = []
pop3s = []
metrics = ""
[tls]
certificate = "{certificate}"
key = "{key}"
[relay]
next_hop = "127.0.0.1:{sink}"
allow_private = ["127.0.0.0/8"]
connections_per_lane = 50
[sending]
messages_per_hour = 1000000
recipients_per_day = 1000000
first_time_recipients_per_day = 1000000
[limits]
connections_per_address = 10000
[dkim]
sign = false
"""


class Postfix(postfix.Adapter):  # type: ignore[misc]
    """Postfix on an implicit-TLS port, asking a Dovecot that does nothing but check passwords."""

    def extra(self) -> str:
        certificate, key = pair(self)
        return POSTFIX.format(user=USER, certificate=certificate, key=key)

    def config(self) -> None:
        super().config()
        rig.settle_postfix(Path(self.dir, "conf/main.cf"))
        master = Path(self.dir, "conf/master.cf")
        service = f"127.0.0.1:{self.port} inet n"
        lines = [
            line + "\n  -o smtpd_tls_wrappermode=yes" if line.startswith(service) else line
            for line in master.read_text().split("\n")
        ]
        master.write_text("\n".join(lines))
        self.mkdir("spool/dovecot"), self.mkdir("dovecot/run")
        self.write("dovecot/users", f"{USER}:{{PLAIN}}{PASSWORD}\n")
        self.write("dovecot/dovecot.conf", DOVECOT.format(d=self.dir))

    def start(self) -> None:
        self.spawn("dovecot", "-F", "-c", f"{self.dir}/dovecot/dovecot.conf")
        until = time.monotonic() + 20
        while not os.path.exists(f"{self.dir}/spool/dovecot/auth") and time.monotonic() < until:
            time.sleep(0.05)
        super().start()


class Postroad(harness.Peer):  # type: ignore[misc]
    """Postroad as installed, on its submissions port."""

    def config(self) -> None:
        certificate, key = pair(self)
        text = POSTROAD.format(d=self.dir, port=self.port, sink=self.sink, certificate=certificate, key=key)
        self.write("postroad.toml", text)
        self.mkdir("data", mode=0o700)
        self._command("domain", "add", USER.partition("@")[2])
        self._command("user", "add", USER, "--password-stdin", given=PASSWORD + "\n")

    def _command(self, *words: str, given: str = "") -> None:
        argv = [rig.PYTHON, "-m", "postroad", "--config", f"{self.dir}/postroad.toml", *words]
        subprocess.run(argv, input=given, capture_output=True, text=True, check=True)

    def start(self) -> None:
        self.spawn(rig.PYTHON, "-m", "postroad", "--config", f"{self.dir}/postroad.toml", "serve")


PEERS: Final = {"postfix": Postfix, "postroad": Postroad}


def pair(one: Any) -> tuple[str, str]:
    """The certificate (P-256) and key that both servers show, made once."""
    certificate, key = Path(one.dir).parent / "p256.pem", Path(one.dir).parent / "p256.key"
    if not certificate.exists():
        made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=mx.bench.test"
        subprocess.run([*made.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return str(certificate), str(key)


def ready(port: int, patience: float = 60.0) -> None:
    """Waits until TLS and a greeting come from a port."""
    argv = [rig.PYTHON, str(LOAD), "--port", str(port), "--greeting"]
    until = time.monotonic() + patience
    while subprocess.run(argv, capture_output=True).returncode:
        if time.monotonic() > until:
            raise RuntimeError(f"nobody greets on port {port}")
        time.sleep(0.1)


def send(port: int, messages: int, sessions: int) -> dict[str, Any]:
    """Submits messages; returns what the load counted."""
    words = {"port": port, "messages": messages, "sessions": sessions, "user": USER, "password": PASSWORD}
    argv = [rig.PYTHON, str(LOAD), *(word for name, value in words.items() for word in (f"--{name}", str(value)))]
    out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    counted: dict[str, Any] = json.loads(out)
    if counted["accepted"] != messages:
        raise RuntimeError(f"not all was accepted: {counted}")
    return counted


def measure(name: str, messages: int, sessions: int) -> dict[str, float]:
    """One fresh start of a server and its figures."""
    with rig.Sink() as sink:
        one = PEERS[name](f"submission-{name}")
        one.port, one.sink = rig.free_port(), sink.port
        one.ready = lambda *_: ready(one.port)
        one.up()
        try:
            send(one.port, 200, sessions)
            sink.wait(200)
            time.sleep(1.0)
            cpu, busy, began = one.cg.cpu_us(), rig.busy_cpu_s(), time.monotonic()
            counted = send(one.port, messages, sessions)
            done = sink.wait(200 + messages) - began
            time.sleep(1.0)
            spent = one.cg.cpu_us() - cpu
            used = rig.busy_cpu_s() - busy
        finally:
            one.down()
            shutil.rmtree(one.dir, ignore_errors=True)
    return {"cpu_us": spent / messages, "accepted_s": messages / counted["seconds"], "relayed_s": messages / done,
            "machine_busy": used / (time.monotonic() - began)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Submission against Postfix.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=3000)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--peers", nargs="+", default=["postfix", "postroad"], choices=list(PEERS))
    options = parser.parse_args()
    rounds = [
        {name: measure(name, options.messages, options.sessions) for name in options.peers}
        for _ in range(options.rounds)
    ]
    numbers: dict[str, object] = {}
    for name in options.peers:
        for what in ("cpu_us", "accepted_s", "relayed_s"):
            numbers[f"{name}_{what}"] = round(statistics.median(one[name][what] for one in rounds))
    if len(options.peers) > 1:
        first, last = options.peers[0], options.peers[-1]
        ratios = [one[last]["cpu_us"] / one[first]["cpu_us"] for one in rounds]
        numbers["cpu_ratio"] = round(statistics.median(ratios), 3)
    rig.report("submission, TLS and login, ten messages per connection", **numbers)


if __name__ == "__main__":
    main()
