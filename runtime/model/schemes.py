"""The ways in which an engine's weights are quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "BITSANDBYTES",
    "BITSANDBYTES_4BIT",
    "INT8",
    "INT8_WEIGHT_ONLY",
    "SCHEMES",
    "BitsAndBytes4BitScheme",
    "BitsAndBytesScheme",
    "FileScheme",
    "Int8Scheme",
    "Int8WeightOnlyScheme",
    "LibraryScheme",
    "Scheme",
]


@dataclass(frozen=True)
class Int8Scheme:
    """The matrices of all layers, the heads and the tables in int8, symmetric, with a scale for each row; the
    rows that a matrix multiplies are quantized as they come, see `antiphon.kernels.quantize_rows`."""

    name: str = "int8"
    is_dynamic: bool = True
    library: None = None


@dataclass(frozen=True)
class Int8WeightOnlyScheme:
    """The same matrices in int8; what they multiply stays as it is."""

    name: str = "int8-weight-only"
    is_dynamic: bool = False
    library: None = None


@dataclass(frozen=True)
class BitsAndBytesScheme:
    """The matrices of all layers by bitsandbytes' LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339), as the
    released code's --load-8bit has them. Heads and tables stay as they are."""

    name: str = "bitsandbytes"
    library: str = "bitsandbytes"
    threshold: float = 6.0
    """Columns of activations with larger numbers are multiplied in 16 bits, on a GPU."""


@dataclass(frozen=True)
class BitsAndBytes4BitScheme:
    """The matrices of all layers in bitsandbytes' 4 bits (Dettmers et al. 2023, arXiv 2305.14314), as the
    released code's --load-4bit has them. Heads and tables stay as they are."""

    name: str = "bitsandbytes-4bit"
    library: str = "bitsandbytes"
    quant_type: str = "nf4"
    double_quant: bool = True
    """Whether the scales of blocks are quantized, too."""


FileScheme: TypeAlias = "Int8Scheme | Int8WeightOnlyScheme"
"""Those that checkpoints can be written in."""
LibraryScheme: TypeAlias = "BitsAndBytesScheme | BitsAndBytes4BitScheme"
"""Those that another library computes."""
Scheme: TypeAlias = "FileScheme | LibraryScheme"

INT8 = Int8Scheme()
INT8_WEIGHT_ONLY = Int8WeightOnlyScheme()
BITSANDBYTES = BitsAndBytesScheme()
BITSANDBYTES_4BIT = BitsAndBytes4BitScheme()
SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme for scheme in (INT8, INT8_WEIGHT_ONLY, BITSANDBYTES, BITSANDBYTES_4BIT)
}
