"""Figures of the metrics page that cost a query: how long the queue is, and when the certificate ends."""

from __future__ import annotations

import time
from pathlib import Path

from postroad.flow.meters import series_text
from postroad.store.reader import Reader
from postroad.store.records import NEVER_US
from postroad.values.errors import StoreBroken
from postroad.values.ids import made_at_us


class ServerFigures:
    """Asks the store, by a read-only connection of its own, and the certificate's file; `gather` feeds the page."""

    def __init__(self, data_dir: Path, certificate: Path | None) -> None:
        self._data_dir = data_dir
        self._certificate = certificate
        self._reader: Reader | None = None
        self._expiry: tuple[float, float] = (0.0, 0.0)
        """When the certificate's file was changed, and the end of the certificate in it."""

    async def gather(self) -> dict[str, float]:
        """The figures by series; those that cannot be had now are left out."""
        return self._queue(time.time_ns() // 1000) | self._certificates()

    def close(self) -> None:
        """End the connection."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _queue(self, now_us: int) -> dict[str, float]:
        try:
            if self._reader is None:
                self._reader = Reader(self._data_dir)
            rows = self._reader.rows_now(
                "SELECT (SELECT count(*) FROM deliveries WHERE due_us <= ?), (SELECT count(*) FROM deliveries),"
                " (SELECT count(*) FROM deliveries WHERE due_us >= ?),"
                # What waits for a hand is nobody's delay.
                " (SELECT message FROM deliveries WHERE due_us < ? ORDER BY message LIMIT 1)",
                (now_us, NEVER_US, NEVER_US),
            )
        except StoreBroken:  # before the first start of the store, and while it is repaired
            self.close()
            return {}
        due, every, held, oldest = rows[0]
        return {
            series_text("postroad_queue_messages", {"state": "due"}): due,
            series_text("postroad_queue_messages", {"state": "waiting"}): every - due - held,
            series_text("postroad_queue_messages", {"state": "held"}): held,
            "postroad_queue_oldest_seconds": max(0, now_us - made_at_us(oldest)) / 1e6 if oldest else 0,
        }

    def _certificates(self) -> dict[str, float]:
        if self._certificate is None:
            return {}
        try:
            changed = self._certificate.stat().st_mtime
            if changed != self._expiry[0]:
                self._expiry = (changed, _ends_at(self._certificate))
        except (OSError, ValueError):
            return {}
        return {series_text("postroad_cert_expiry_timestamp_seconds", {"name": "server"}): self._expiry[1]}


def _ends_at(certificate: Path) -> float:
    from cryptography import x509

    return x509.load_pem_x509_certificates(certificate.read_bytes())[0].not_valid_after_utc.timestamp()
