"""Postroad: a complete mail system in one package (docs/README.md says where to start reading)."""

from __future__ import annotations

__version__ = "0.1.0"
