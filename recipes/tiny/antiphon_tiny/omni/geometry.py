"""The sizes of the model."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GEOMETRY", "Geometry"]


@dataclass(frozen=True)
class Geometry:
    hidden: int = 192
    heads: int = 6
    kv_heads: int = 3
    head_dim: int = 32
    intermediate: int = 512
    layers: int = 5
    bottom_layers: int = 3
    top_layers: int = 4
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    max_positions: int = 4096
    units: int = 1000

    image_size: int = 96
    patch: int = 16
    tower_hidden: int = 128
    tower_heads: int = 4
    tower_intermediate: int = 384
    tower_layers: int = 5
    """Those that the file holds: its config counts one more, whose output is not used."""

    @property
    def side(self) -> int:
        """Patches along a side: a picture takes side * side positions."""
        return self.image_size // self.patch


GEOMETRY = Geometry()
