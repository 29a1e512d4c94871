"""The model that comes with the package."""

from __future__ import annotations

from pathlib import Path

__all__ = ["EMBEDDED_CODEC", "EMBEDDED_MODEL", "EMBEDDED_WORLD"]

EMBEDDED_MODEL = Path(__file__).parent / "tiny" / "stream_omni"
EMBEDDED_CODEC = Path(__file__).parent / "tiny" / "cosyvoice"
EMBEDDED_WORLD = "the small packaged model knows coloured shapes, sums up to twenty and small talk"
