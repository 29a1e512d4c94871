"""What a stage of the recipe is, and where all stages are found."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["STAGE_MODULES", "Run", "Stage", "all_stages", "stage"]

STAGE_MODULES = ("antiphon_tiny.speech.stages", "antiphon_tiny.omni.stages")
"""Modules that register stages when they are imported, in the order in which `make.py all` runs them."""

_STAGES: dict[str, Stage] = {}


@dataclass(frozen=True)
class Run:
    """Where a stage works and from which seed."""

    work: Path
    """Everything generated lies below it."""
    seed: int = 0
    num_threads: int = 1
    num_steps: int | None = None
    """Of a training; None: as many as the stage is meant to have."""

    def folder(self, name: str) -> Path:
        """A folder below `work`, made if it is not there."""
        path = self.work / name
        path.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True)
class Stage:
    name: str
    about: str
    run: Callable[[Run], None]
    """Goes on where it was interrupted; does nothing if it is done."""


def stage(name: str, about: str) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
    """Register a function as a stage."""

    def register(run: Callable[[Run], None]) -> Callable[[Run], None]:
        if name in _STAGES:
            raise ValueError(f"stage {name!r}: registered twice")
        _STAGES[name] = Stage(name, about, run)
        return run

    return register


def all_stages() -> dict[str, Stage]:
    """By name, in the order in which they are run."""
    for module in STAGE_MODULES:
        importlib.import_module(module)
    return dict(_STAGES)
