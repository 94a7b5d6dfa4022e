"""The keeper of the certificate: gets one by ACME, renews it in time, and remembers how that went.

It runs in the supervisor, which outlives the workers. Everything stands in `tls/acme` of the data folder:

server.pem     private key and certificate chain; at first a self-signed one, so that mail works meanwhile
account.key    the key of the account at the authority
notes.json     how the last attempt ended
renew.request  made by `postroad cert renew`: try now

Invariant: server.pem is only ever replaced, in one rename, by a key and a chain that belong together, name every host
and have not ended. A failed attempt leaves it alone.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from postroad.config import Acme, Config
from postroad.net.acme import AcmeClient, Send, connected
from postroad.net.acme_challenges import Challenges
from postroad.net.acme_keys import b64url_octets, certificate_request, checked_chain, dns_names, kept_key
from postroad.net.acme_words import AcmeError, joined
from postroad.net.tls import key_pem, make_self_signed, write_private
from postroad.serve.logs import log_bug, log_line
from postroad.values.ports import Clock

LOOK_S: Final = 2.0
"""How often the keeper looks whether it is time; the wall clock may be set, so it never sleeps longer."""
ATTEMPT_S: Final = 900.0
"""An attempt that takes longer is given up."""
RETRY_S: Final = (300.0, 900.0, 3600.0, 10_800.0, 21_600.0, 43_200.0)
"""Pause after the 1st, 2nd, ... failure in a row; the last one repeats. Authorities allow about five failures an hour
for a name."""
JITTER: Final = 0.2
"""Share by which a pause is longer or shorter, so that many servers do not come back in the same second."""
REMAINING_SHARE: Final = 3
"""A certificate is renewed when a third of its lifetime remains: 30 days of 90."""

FOLDER: Final = "tls/acme"
PAIR: Final = "server.pem"
ACCOUNT: Final = "account.key"
NOTES: Final = "notes.json"
REQUEST: Final = "renew.request"

Connect = Callable[[str, str], AbstractAsyncContextManager[Send]]


@dataclass(frozen=True, slots=True)
class Holding:
    """What a certificate file holds; wall times are microseconds since 1970."""

    names: tuple[str, ...]
    issuer: str
    begins_us: int
    ends_us: int
    self_signed: bool

    @property
    def due_us(self) -> int:
        """When it should be renewed: a third of the lifetime before its end."""
        return self.ends_us - (self.ends_us - self.begins_us) // REMAINING_SHARE


class Notes(msgspec.Struct, frozen=True):
    """How the attempts went; times are microseconds since 1970, 0 for never."""

    wish: str = ""
    """What was asked of whom at the last attempt: another wish need not wait for this one's pause."""
    tried_us: int = 0
    renewed_us: int = 0
    issued_by: str = ""
    """Directory of the authority that issued the present certificate."""
    failures: int = 0
    """In a row, since the last success."""
    why: str = ""
    """Why the last attempt failed; empty when it did not."""
    retry_us: int = 0
    """After a failure: not before this."""


def read_holding(file: Path) -> Holding:
    """The first certificate in a file; raises OSError, or ValueError when there is none."""
    certificate = x509.load_pem_x509_certificates(file.read_bytes())[0]
    return Holding(
        names=tuple(dns_names(certificate)),
        issuer=certificate.issuer.rfc4514_string(),
        begins_us=int(certificate.not_valid_before_utc.timestamp()) * 1_000_000,
        ends_us=int(certificate.not_valid_after_utc.timestamp()) * 1_000_000,
        self_signed=certificate.issuer == certificate.subject,
    )


def read_notes(folder: Path) -> Notes:
    """The notes in a folder; without any, or with broken ones, it is as if nothing was tried yet."""
    try:
        return msgspec.json.decode((folder / NOTES).read_bytes(), type=Notes)
    except (OSError, msgspec.MsgspecError):
        return Notes()


def certificate_file(config: Config) -> Path:
    """Where the certificate of the listeners stands: ACME's, the configured one, or the self-signed one."""
    if config.acme.names:
        return Path(config.data_dir) / FOLDER / PAIR
    return Path(config.tls.certificate or Path(config.data_dir) / "tls" / "self-signed.pem")


def wish_of(acme: Acme) -> str:
    """Everything that an authority's answer depends on, as one text."""
    asked = (acme.directory, *sorted(acme.names), acme.http, acme.alpn, acme.contact, acme.binding_id, acme.ca_file)
    return "\n".join(asked)


def next_try_us(holding: Holding | None, acme: Acme, notes: Notes) -> int:
    """When to ask for a certificate; 0 is at once.

    At once while there is none from an authority or it lacks a name, or when another authority shall issue; otherwise
    when a third of the lifetime remains. After a failure not before the pause has ended, unless the wish is a new one.
    """
    due = 0 if holding is None or _unfit(holding, acme, notes) else holding.due_us
    return max(due, notes.retry_us) if notes.why and notes.wish == wish_of(acme) else due


def _unfit(holding: Holding, acme: Acme, notes: Notes) -> bool:
    other_authority = notes.issued_by not in ("", acme.directory)
    return holding.self_signed or other_authority or not {n.lower() for n in acme.names} <= set(holding.names)


def pause_s(failures: int, asked_s: float | None, chance: float) -> float:
    """Seconds until the next attempt after so many failures; `chance` is a random number from 0 to 1.

    An authority that asked for a longer pause gets it.
    """
    pause = RETRY_S[min(failures, len(RETRY_S)) - 1] * (1 - JITTER + 2 * JITTER * chance)
    return max(pause, asked_s or 0.0)


def prepare_folder(data_dir: Path, names: Sequence[str], now_us: int) -> Path:
    """Make the folder and, until the authority issues, a self-signed pair; returns the file with both.

    A pair that cannot be used (a file somebody damaged) is replaced too.
    """
    folder = data_dir / FOLDER
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    pair = folder / PAIR
    if not _usable(pair):
        if pair.exists():
            log_line("error", "the certificate cannot be read and is replaced by a self-signed one", file=str(pair))
        certificate, key = make_self_signed(list(names), now_us)
        write_private(pair, key + certificate)
    return pair


def _usable(pair: Path) -> bool:
    try:
        octets = pair.read_bytes()
        own = x509.load_pem_x509_certificates(octets)[0].public_key()
        return serialization.load_pem_private_key(octets, password=None).public_key() == own
    except (OSError, ValueError, TypeError):
        return False


class CertificateKeeper:
    """Asks for certificates when it is time; `run` goes on until it is cancelled."""

    def __init__(
        self,
        acme: Acme,
        data_dir: Path,
        challenges: Challenges,
        clock: Clock,
        *,
        connect: Connect = connected,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if not acme.agree_terms:
            raise ValueError("the terms of the authority are not agreed to")  # the configuration was not checked
        self._acme = acme
        self._names = [name.lower() for name in acme.names]
        self._wish = wish_of(acme)
        self._folder = data_dir / FOLDER
        self._challenges = challenges
        self._clock = clock
        self._connect = connect
        self._sleep = sleep
        self._chance = chance
        self._notes = read_notes(self._folder)

    async def run(self, reload: Callable[[], None]) -> None:
        """Keep the certificate new; `reload` tells the workers to read it. A bug here never ends the server."""
        serving = asyncio.get_running_loop().create_task(self._challenges.serve())
        try:
            while True:
                await self.look(reload)
                await self._sleep(LOOK_S)
        finally:
            serving.cancel()

    async def look(self, reload: Callable[[], None]) -> None:
        """Make one attempt if it is time or somebody asked for it."""
        asked = self._take_request()
        if not asked and self._clock.wall_us() < next_try_us(self._holding(), self._acme, self._notes):
            return
        self._challenges.prefer(self._notes.failures)
        try:
            async with asyncio.timeout(ATTEMPT_S):
                await self._renew()
        except AcmeError as error:
            self._failed(str(error), error.retry_after)
        except TimeoutError:
            self._failed(f"the authority did not finish within {ATTEMPT_S / 60:.0f} minutes")
        except OSError as error:
            self._failed(f"{error.filename or 'a file'} cannot be used: {error.strerror or error}")
        except Exception as bug:
            self._failed(f"an error of ours, with the reference {log_bug(bug, where='certificate')}")
        else:
            self._succeeded()
            reload()
        self._take_request()  # whoever asked while the attempt ran has got this one's result

    def _holding(self) -> Holding | None:
        try:
            return read_holding(self._folder / PAIR)
        except (OSError, ValueError, IndexError):
            return None

    async def _renew(self) -> None:
        """One attempt; raises AcmeError, OSError or ValueError."""
        log_line("info", f"asking for a certificate for {joined(self._names)}", authority=self._acme.directory)
        account = self._key(self._folder / ACCOUNT)
        key = self._next_key()
        async with self._connect(self._acme.directory, self._acme.ca_file) as send:
            client = AcmeClient(
                send,
                self._acme.directory,
                account,
                contact=self._acme.contact,
                binding=self._binding(),
                sleep=self._sleep,
                now=lambda: self._clock.wall_us() / 1e6,
            )
            chain = await client.issue(self._names, certificate_request(key, self._names), self._challenges)
        write_private(self._folder / PAIR, key_pem(key) + checked_chain(chain, key, self._names, self._clock.wall_us()))

    def _next_key(self) -> ec.EllipticCurvePrivateKey:
        """A new key for the next certificate, or the present one where DNS names it (DANE)."""
        return self._key(self._folder / PAIR) if self._acme.keep_key else ec.generate_private_key(ec.SECP256R1())

    @staticmethod
    def _key(file: Path) -> ec.EllipticCurvePrivateKey:
        try:
            return kept_key(file)
        except ValueError as error:
            raise AcmeError(f"{file} holds no key that we made; move it away") from error

    def _binding(self) -> tuple[str, bytes] | None:
        if not self._acme.binding_id:
            return None
        try:
            return self._acme.binding_id, b64url_octets(Path(self._acme.binding_key_file).read_text().strip())
        except ValueError as error:
            raise AcmeError(f"{self._acme.binding_key_file} holds no key in base64url") from error

    def _succeeded(self) -> None:
        now_us = self._clock.wall_us()
        self._remember(Notes(wish=self._wish, tried_us=now_us, renewed_us=now_us, issued_by=self._acme.directory))
        holding = self._holding()
        ends = time.strftime("%Y-%m-%d", time.gmtime(holding.ends_us // 1_000_000)) if holding else ""
        log_line("info", f"new certificate for {joined(self._names)}", ends=ends)

    def _failed(self, why: str, asked_s: float | None = None) -> None:
        now_us = self._clock.wall_us()
        failures = self._notes.failures + 1 if self._notes.wish == self._wish else 1
        pause = pause_s(failures, asked_s, self._chance())
        notes = Notes(
            wish=self._wish,
            tried_us=now_us,
            renewed_us=self._notes.renewed_us,
            issued_by=self._notes.issued_by,
            failures=failures,
            why=why,
            retry_us=now_us + round(pause * 1e6),
        )
        self._remember(notes)
        log_line("warning", f"no new certificate: {why}. The old one stays in use", next_attempt_s=round(pause))

    def _remember(self, notes: Notes) -> None:
        self._notes = notes
        try:
            write_private(self._folder / NOTES, msgspec.json.encode(notes))
        except OSError as error:  # remembered until the next restart
            log_line("warning", "how the certificate was renewed cannot be noted", cause=str(error))

    def _take_request(self) -> bool:
        """Whether somebody asked for an attempt; a request that cannot be taken away is not heard, or it would be
        carried out again and again.
        """
        try:
            (self._folder / REQUEST).unlink()
        except OSError:
            return False
        return True
