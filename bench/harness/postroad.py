"""Postroad for the measuring harness: the installed package, started by its own command and configuration file."""

import json
import os
import subprocess
from pathlib import Path

from peer import Peer

POSTROAD = os.environ.get("POSTROAD", str(Path(__file__).resolve().parents[2] / ".venv/bin/postroad"))

CONFIG = """
hostname = "mx.bench.test"
data_dir = "{dir}/data"
workers = {workers}
insecure_auth = true

[listen]
mx = ["127.0.0.1:{port}"]
submission = []
submissions = []
imap = ["127.0.0.1:17143"]
imaps = []
pop3 = ["127.0.0.1:17110"]
pop3s = []
metrics = "127.0.0.1:17925"

[tls]
certificate = "{tls}.pem"
key = "{tls}.key"

[relay]
relay_from = ["127.0.0.0/8"]
next_hop = "127.0.0.1:{sink}"
allow_private = ["127.0.0.0/8"]
connections_per_lane = 50

[limits]
connections_per_address = 10000
"""


class Adapter(Peer):
    """`workers=N` as an option sets the number of worker processes (default: one per core)."""

    settings = (
        "defaults (journal, log, limits, metrics on), fixed next hop, 50 connections to it, "
        "no connection limit per address"
    )
    durable = "message row and body in SQLite, WAL, synchronous=FULL, committed before the 250"
    pop3, imap = 17110, 17143
    skip = ("h",)  # that scenario logs in as "reader"; a login here is the whole address

    def config(self):
        peers = os.environ.get("PEERS", "/tmp/peers")
        self.write(
            "postroad.toml",
            CONFIG.format(
                dir=self.dir, port=self.port, sink=self.sink, tls=f"{peers}/tls", workers=self.opts.get("workers", 0)
            ),
        )
        self.mkdir("data", mode=0o700)
        self._command("domain", "add", self.mailbox_domain)
        for user in [*(f"u{n}" for n in range(20)), "reader"]:
            self._command("user", "add", f"{user}@{self.mailbox_domain}", "--password-stdin", given="secret\n")

    def _command(self, *words, given=""):
        return subprocess.run(
            [POSTROAD, "--config", f"{self.dir}/postroad.toml", *words],
            input=given,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def start(self):
        self.spawn(POSTROAD, "--config", f"{self.dir}/postroad.toml", "serve")

    def flush(self):
        self._command("queue", "retry", "--all")

    def queued(self):
        return sum(row["deliveries"] for row in json.loads(self._command("queue", "list", "--json"))["rows"])
