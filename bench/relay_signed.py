"""Relay with DKIM against Postfix with OpenDKIM: CPU per message in the clear and with TLS on both legs.

    python bench/relay_signed.py [--rounds 3] [--messages 5000] [--scenes single many tls] [--peers postfix postroad]

Needs root, Postfix and OpenDKIM from Debian, and dkimpy (`make install-dev`). All messages have 5 kB and come over 50
sessions from a network that may relay, to a fixed next hop:

- `single`: one message per connection, no TLS;
- `many`: 100 messages per connection, no TLS;
- `tls`: STARTTLS with P-256 certificates to the server and from it (level `encrypt`), ten messages per connection on
  both legs. Nobody resumes a session.

Measured is the CPU time of all processes of a server by its control group, OpenDKIM's with Postfix's, until the sink
has every message. The sink counts the DKIM-Signature fields of every message, and dkimpy verifies those of the first.
OpenDKIM makes one RSA-2048 signature, Postroad one with RSA-2048 and one with Ed25519, as it does by default.
`PROFILE=FILE` lets perf look at the processes that run when the measured load begins, and leaves its report in FILE.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dkim
import rig

sys.path.insert(0, str(rig.HARNESS))
import peer as harness
from adapters import postfix

DOMAIN: Final = "bench.test"
"""That of the sender in the harness's load."""
SELECTOR: Final = "bench"
SESSIONS: Final = 50
WARM: Final = 500
CARRIERS: Final = 5
MOST: Final = 9
"""Places in a line of the sink: connections that carried mail, and the most messages of one."""
SINK: Final = Path(__file__).resolve().parent / "tls_sink.py"
PROFILE: Final = os.environ.get("PROFILE", "")


@dataclass(frozen=True)
class Scene:
    """What one figure asks of both servers."""

    title: str
    per_connection: int
    tls: bool


SCENES: Final = {
    "single": Scene("signed relay, one message per connection", 1, False),
    "many": Scene("signed relay, 100 messages per connection", 100, False),
    "tls": Scene("signed relay, TLS on both legs, ten messages per connection", 10, True),
}

POSTFIX: Final = """
smtpd_milters = unix:opendkim/opendkim.sock
milter_default_action = tempfail
smtpd_tls_cert_file = {certificate}
smtpd_tls_key_file = {key}
"""

# CONNECTION_CACHE_README and TLS_README ("Client-side TLS connection reuse"): all mail to the next hop shares
# connections, which tlsproxy keeps, for one message and nine more.
POSTFIX_TLS: Final = """
smtp_tls_security_level = encrypt
smtp_tls_connection_reuse = yes
smtp_connection_reuse_count_limit = 9
smtp_connection_cache_destinations = [127.0.0.1]:{sink}
"""

# opendkim.conf(5). A Unix socket below Postfix's chroot; nothing is verified, nothing is logged, nothing is looked up
# in a database, and header and body are canonicalized as Postroad does. The key is below /tmp, which is not safe enough
# for it to be read unasked.
OPENDKIM: Final = """
Mode s
Socket local:{d}/spool/opendkim/opendkim.sock
UserID postfix
UMask 007
Domain {domain}
Selector {selector}
KeyFile {d}/opendkim/{selector}.pem
SignatureAlgorithm rsa-sha256
Canonicalization relaxed/relaxed
OversignHeaders From
InternalHosts 127.0.0.0/8
RequireSafeKeys no
Background no
AutoRestart no
Syslog no
"""

POSTROAD: Final = """
hostname = "mx.bench.test"
data_dir = "{d}/data"
[listen]
mx = ["127.0.0.1:{port}"]
submission = []
submissions = []
imap = []
imaps = []
pop3 = []
pop3s = []
metrics = "127.0.0.1:{metrics}"
[tls]
certificate = "{certificate}"
key = "{key}"
[relay]
relay_from = ["127.0.0.0/8"]
next_hop = "127.0.0.1:{sink}"
allow_private = ["127.0.0.0/8"]
connections_per_lane = 50
{tls}
"""

POSTROAD_TLS: Final = """
messages_per_connection = 10
tls_policy = {"dest.test" = "encrypt"}
"""


class Postfix(postfix.Adapter):  # type: ignore[misc]
    """Postfix as the harness sets it up, with OpenDKIM as its milter."""

    scene: Scene
    signatures = 1

    def extra(self) -> str:
        certificate, key = pair(self)
        text = POSTFIX.format(certificate=certificate, key=key)
        return text + (POSTFIX_TLS.format(sink=self.sink) if self.scene.tls else "")

    def config(self) -> None:
        super().config()
        rig.settle_postfix(Path(self.dir, "conf/main.cf"))
        master = Path(self.dir, "conf/master.cf")
        # Debian leaves it out; without it no connection with TLS is used twice.
        master.write_text(re.sub(r"(?m)^#(tlsproxy\s)", r"\1", master.read_text()))
        self.mkdir("spool/opendkim", "postfix", 0o750), self.mkdir("opendkim", "postfix", 0o700)
        key = self.dir + f"/opendkim/{SELECTOR}.pem"
        made = "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out"
        subprocess.run([*made.split(), key], check=True, capture_output=True)
        os.chown(key, *self.ids("postfix"))
        os.chmod(key, 0o600)
        self.write("opendkim/opendkim.conf", OPENDKIM.format(d=self.dir, domain=DOMAIN, selector=SELECTOR))

    def start(self) -> None:
        self.spawn("opendkim", "-f", "-x", f"{self.dir}/opendkim/opendkim.conf")
        until = time.monotonic() + 20
        while not os.path.exists(f"{self.dir}/spool/opendkim/opendkim.sock"):
            if time.monotonic() > until:
                raise RuntimeError(Path(self.dir, "log/output").read_text()[-2000:])
            time.sleep(0.05)
        super().start()

    def records(self) -> dict[str, str]:
        """What DNS would say about the keys that sign."""
        argv = ["openssl", "pkey", "-in", f"{self.dir}/opendkim/{SELECTOR}.pem", "-pubout", "-outform", "DER"]
        public = subprocess.run(argv, check=True, capture_output=True).stdout
        return {f"{SELECTOR}._domainkey.{DOMAIN}": f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"}


class Postroad(harness.Peer):  # type: ignore[misc]
    """Postroad as installed, with the pair of keys that `domain add` makes."""

    scene: Scene
    signatures = 2

    def config(self) -> None:
        certificate, key = pair(self)
        text = POSTROAD.format(
            d=self.dir,
            port=self.port,
            sink=self.sink,
            metrics=rig.free_port(),
            certificate=certificate,
            key=key,
            tls=POSTROAD_TLS if self.scene.tls else "",
        )
        self.write("postroad.toml", text)
        self.mkdir("data", mode=0o700)
        self._command("domain", "add", DOMAIN)

    def _command(self, *words: str) -> str:
        argv = [rig.PYTHON, "-m", "postroad", "--config", f"{self.dir}/postroad.toml", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def start(self) -> None:
        self.spawn(rig.PYTHON, "-m", "postroad", "--config", f"{self.dir}/postroad.toml", "serve")

    def records(self) -> dict[str, str]:
        rows = json.loads(self._command("domain", "dkim", DOMAIN, "--json"))["rows"]
        return {row["name"]: row["record"] for row in rows}


PEERS: Final = {"postfix": Postfix, "postroad": Postroad}


def pair(one: Any) -> tuple[str, str]:
    """The certificate (P-256) and key that both servers and the sink show, made once."""
    certificate, key = Path(one.dir).parent / "p256.pem", Path(one.dir).parent / "p256.key"
    if not certificate.exists():
        certificate.parent.mkdir(parents=True, exist_ok=True)
        made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=mx.bench.test"
        subprocess.run([*made.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return str(certificate), str(key)


def measure(name: str, scene: Scene, messages: int) -> dict[str, float]:
    """One fresh start of a server and its figures. Raises RuntimeError when a message is not what it should be."""
    one = PEERS[name](f"signed-{name}")
    one.scene, one.port, outside = scene, rig.free_port(), harness.Cgroup("bench-signed-load")
    with tempfile.TemporaryDirectory(prefix="postroad-bench-kept-") as kept:
        words = ["--keep", kept]
        if scene.tls:
            certificate, key = pair(one)
            words += ["--certificate", certificate, "--key", key]
        with rig.Sink(program=SINK, words=words, enter=outside.enter) as sink:
            one.sink = sink.port
            one.up()
            try:
                return watched(one, scene, sink, outside, messages, Path(kept))
            finally:
                one.down()
                shutil.rmtree(one.dir, ignore_errors=True)


def watched(
    one: Any, scene: Scene, sink: rig.Sink, outside: harness.Cgroup, messages: int, kept: Path
) -> dict[str, float]:
    send(one.port, WARM, scene, outside)
    sink.wait(WARM)
    time.sleep(1.0)
    looked_at = verify(kept, one)
    before, cpu, load = sink.numbers(), one.cg.cpu_us(), outside.cpu_us()
    busy, began = rig.busy_cpu_s(), time.monotonic()
    with profiled(one.cg.pids()):
        counted = send(one.port, messages, scene, outside)
        done = sink.wait(WARM + messages) - began
        time.sleep(1.0)
    spent, wall = one.cg.cpu_us() - cpu, time.monotonic() - began
    others = rig.busy_cpu_s() - busy - (spent + outside.cpu_us() - load) / 1e6
    after = sink.numbers()
    came, _, _, strangers, signatures, _, handshakes, resumed, clear, _ = (
        now - then for now, then in zip(after, before, strict=True)
    )
    most = after[MOST]
    if (came, strangers, signatures) != (messages, 0, messages * one.signatures):
        raise RuntimeError(f"{one.name}: of {messages} messages came {came} with {signatures} signatures")
    if scene.tls and (clear or resumed or not handshakes or most > scene.per_connection):
        raise RuntimeError(f"{one.name}: {clear} in the clear, {resumed} resumed, {most} in one connection")
    return {
        "cpu_us": spent / messages,
        "accepted_s": messages / counted["seconds"],
        "relayed_s": messages / done,
        "foreign": max(0.0, others) / wall / (os.cpu_count() or 1),
        # Since the start, because connections of the warm-up carry on.
        "per_connection_out": after[0] / after[CARRIERS],
        "verified": looked_at,
    }


def send(port: int, messages: int, scene: Scene, outside: harness.Cgroup) -> dict[str, Any]:
    """The harness's load, in the control group of what is not measured."""
    argv = rig.load_argv(port, messages, sessions=SESSIONS, per_conn=scene.per_connection)
    if scene.tls:
        argv.append("--tls")
    out = subprocess.run(argv, capture_output=True, text=True, check=True, preexec_fn=outside.enter).stdout
    counted: dict[str, Any] = json.loads(out)
    if counted["accepted"] != messages:
        raise RuntimeError(f"not all was accepted: {counted}")
    return counted


def verify(kept: Path, one: Any) -> int:
    """Looks at the messages that the sink has kept; returns how many signatures dkimpy found good."""
    records = {f"{name}.".encode(): text.encode() for name, text in one.records().items()}
    good = 0
    for path in kept.glob("*.eml"):
        message = path.read_bytes()
        for number in range(one.signatures):
            if not dkim.DKIM(message).verify(number, dnsfunc=lambda name, timeout=5: records[name]):
                raise RuntimeError(f"{one.name}: signature {number} of {path.name} is bad")
            good += 1
        received = re.search(rb"(?m)^Received: .*\r\n(?:[ \t].*\r\n)*", message)
        # RFC 3848: "ESMTPS" is ESMTP over TLS.
        if one.scene.tls and (received is None or b" with ESMTPS " not in received[0].replace(b"\r\n\t", b" ")):
            raise RuntimeError(f"{one.name}: {path.name} came to it in the clear: {received and received[0]!r}")
    if not good:
        raise RuntimeError(f"{one.name}: the sink has kept no message")
    return good


@contextlib.contextmanager
def profiled(pids: list[int]) -> Iterator[None]:
    """perf over these processes, when `PROFILE` names a file for its report."""
    if not PROFILE:
        yield
        return
    recorded = f"{PROFILE}.perf"
    words = ["perf", "record", "-q", "-F", "499", "-o", recorded, "-p", ",".join(map(str, pids))]
    with subprocess.Popen(words) as perf:
        try:
            yield
        finally:
            perf.terminate()
    with open(PROFILE, "wb") as out:
        subprocess.run(
            ["perf", "report", "--stdio", "-i", recorded, "--sort", "comm,dso,symbol"], stdout=out, check=True
        )
    Path(recorded).unlink()


def compare(scene: Scene, rounds: list[dict[str, dict[str, float]]], peers: list[str]) -> None:
    """Reports medians of each peer, and each round's ratios of the last one to the first with their medians."""
    numbers: dict[str, object] = {}
    for name in peers:
        own = [one[name] for one in rounds]
        for what, key in (("cpu_us", "cpu_us"), ("accepted_s", "accepted_per_s"), ("relayed_s", "relayed_per_s")):
            numbers[f"{name}_{key}"] = round(statistics.median(record[what] for record in own))
        numbers[f"{name}_foreign"] = [round(record["foreign"], 3) for record in own]
        numbers[f"{name}_messages_per_connection_out"] = round(min(record["per_connection_out"] for record in own), 1)
        numbers[f"{name}_signatures_verified"] = sum(int(record["verified"]) for record in own)
    if len(peers) > 1:
        for what in ("cpu_us", "relayed_s"):
            ratios = [one[peers[-1]][what] / one[peers[0]][what] for one in rounds]
            numbers[f"{what}_ratios"] = [round(ratio, 3) for ratio in ratios]
            numbers[f"{what}_ratio"] = round(statistics.median(ratios), 3)
    rig.report(scene.title, **numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description="Signed relay against Postfix with OpenDKIM.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--scenes", nargs="+", default=list(SCENES), choices=list(SCENES))
    parser.add_argument("--peers", nargs="+", default=["postfix", "postroad"], choices=list(PEERS))
    options = parser.parse_args()
    for scene in (SCENES[name] for name in options.scenes):
        rounds = [
            {name: measure(name, scene, options.messages) for name in options.peers} for _ in range(options.rounds)
        ]
        compare(scene, rounds, options.peers)


if __name__ == "__main__":
    main()
