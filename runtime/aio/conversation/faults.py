"""What a client is told of an error."""

from __future__ import annotations

from antiphon.errors import AntiphonError
from antiphon.plain import one_line, told

__all__ = ["why"]


def why(error: Exception) -> str:
    """In one line: the message alone if it was written for clients."""
    return one_line(error) if isinstance(error, AntiphonError) else told(error)
