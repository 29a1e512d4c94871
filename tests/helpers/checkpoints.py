"""The checkpoints that the golden cases were computed from: small and random, in the released formats."""

from __future__ import annotations

from pathlib import Path

__all__ = ["RANDOM_CODEC", "RANDOM_MODEL"]

GOLDEN = Path(__file__).parents[1] / "golden"
RANDOM_MODEL = GOLDEN / "omni_a" / "checkpoint"
RANDOM_CODEC = GOLDEN / "cosyvoice_a" / "checkpoint"
