"""What was the case when this process, or one that it was forked from, first asked for an engine."""

from __future__ import annotations

import os
import sys

__all__ = ["FIRST_PID", "TORCH_CAME_FIRST"]

FIRST_PID = os.getpid()
"""The process that asked."""
TORCH_CAME_FIRST = "torch" in sys.modules
"""If so, torch may have computed already, perhaps in a process that this one was forked from."""
