"""The command line: `antiphon generate | chat | doctor | bench`."""

from antiphon.cli.app import main

__all__ = ["main"]
