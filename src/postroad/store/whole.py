"""A whole message for people who look at it: header and body together in memory, wherever the body is kept."""

from __future__ import annotations

from pathlib import Path

from postroad.store import folder
from postroad.store.reader import Reader


def whole_message(data_dir: Path, ident: int) -> tuple[bytes, bytes] | None:
    """Header block and body as they are kept; None when the message is finished or never was. Raises StoreBroken."""
    reader = Reader(data_dir)
    try:
        rows = reader.rows_now("SELECT header, body, body_file FROM messages WHERE id = ?", (ident,))
    finally:
        reader.close()
    if not rows:
        return None
    header, body, body_file = rows[0]
    if not body_file:
        return header, body or b""
    try:
        return header, (data_dir / folder.SPOOL / body_file).read_bytes()
    except FileNotFoundError:
        return None  # it ended in between, and its file with it
