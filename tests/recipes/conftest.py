"""The recipe of the embedded model is a folder of scripts: its modules are found as `make.py` finds them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "tiny"))
