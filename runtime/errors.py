"""The errors a caller may see. Any other that escapes is a bug in Antiphon."""

__all__ = [
    "AntiphonError",
    "CheckpointError",
    "ConfigError",
    "EngineBusy",
    "EngineDead",
    "EngineOverloaded",
    "InvalidRequest",
]


class AntiphonError(Exception):
    """Base of all errors that Antiphon raises on purpose."""


class InvalidRequest(AntiphonError, ValueError):
    """A request that cannot be served as it is: says what was expected, what came, and where."""


class ConfigError(AntiphonError, ValueError):
    """A setting of an engine, codec or command that cannot be used: says what was expected and what came."""


class CheckpointError(AntiphonError, ValueError):
    """A checkpoint that cannot be loaded: names the file, the tensor or key, expected and found."""


class EngineOverloaded(AntiphonError):
    """The waiting queue is full; the request was not taken and may be sent again later."""


class EngineBusy(AntiphonError):
    """The engine is in use: another thread is inside it, or an `AsyncEngine` has taken it over. Nothing was
    done."""


class EngineDead(AntiphonError):
    """The engine was closed, has failed, or belongs to another process; it can serve nothing more."""
