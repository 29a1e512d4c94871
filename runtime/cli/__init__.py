"""The command line: `antiphon generate | chat | profile | doctor | bench`."""

from antiphon.cli.program import main

__all__ = ["main"]
