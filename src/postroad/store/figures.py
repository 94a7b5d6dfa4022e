"""Figures about the queue that cost a walk through an index, read on a connection of their own."""

from __future__ import annotations

from pathlib import Path

from postroad.store.reader import Reader


def count_deliveries(data_dir: Path) -> int:
    """How many deliveries are open in the whole store; belongs into a thread. Raises `StoreBroken`."""
    reader = Reader(data_dir)
    try:
        count: int = reader.rows_now("SELECT count(*) FROM deliveries")[0][0]
    finally:
        reader.close()
    return count
