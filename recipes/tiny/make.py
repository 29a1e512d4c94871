"""Makes the embedded model, stage by stage: `python recipes/tiny/make.py run STAGE`, or `list`, or `all`."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Annotated

import typer

from antiphon_tiny.stages import Run, Stage, all_stages

app = typer.Typer(add_completion=False, no_args_is_help=True)

Work = Annotated[Path, typer.Option(help="Folder for everything that is generated.")]
Seed = Annotated[int, typer.Option(help="Seed of data and training.")]
Threads = Annotated[int, typer.Option(help="Threads that training may use.")]
Steps = Annotated[int | None, typer.Option(help="Steps of a training, instead of the stage's own number.")]
OnlyLosses = Annotated[
    bool,
    typer.Option("--only-losses", help="Not the weights, which a later stage went on with."),
]

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Of `mallopt` in malloc.h."""
DEFAULT_WORK = Path("build/tiny")


@app.command("list")
def list_stages() -> None:
    """Show all stages, in the order in which they are run."""
    for stage in all_stages().values():
        print(f"{stage.name:<16} {stage.about}")


@app.command()
def run(
    names: list[str],
    work: Work = DEFAULT_WORK,
    seed: Seed = 0,
    threads: Threads = 1,
    steps: Steps = None,
) -> None:
    """Run the named stages. A stage that was interrupted goes on from its last checkpoint."""
    stages = all_stages()
    for name in names:
        if name not in stages:
            raise typer.BadParameter(f"expected one of {', '.join(stages)}, got {name!r}")
    for name in names:
        _run(stages[name], Run(work, seed, threads, steps))


@app.command("keep")
def keep_parts(names: list[str], work: Work = DEFAULT_WORK, only_losses: OnlyLosses = False) -> None:
    """Keep what these stages have trained, in half precision, with the recipe."""
    from antiphon_tiny.kept import KEPT, keep

    for name in names:
        try:
            print(f"{KEPT / name}: {keep(Run(work), name, only_losses=only_losses) / 1e6:.1f} MB")
        except FileNotFoundError as error:
            raise typer.BadParameter(str(error)) from None


@app.command("restore")
def restore_parts(work: Work = DEFAULT_WORK) -> None:
    """Put what is kept where the stages look for it, instead of training it."""
    from antiphon_tiny.kept import restore

    try:
        restored = restore(Run(work))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    print("restored: " + (", ".join(restored) or "nothing: all of it is there already"))


@app.command("all")
def run_all(work: Work = DEFAULT_WORK, seed: Seed = 0, threads: Threads = 1) -> None:
    """Run every stage."""
    for stage in all_stages().values():
        _run(stage, Run(work, seed, threads))


def _run(stage: Stage, arguments: Run) -> None:
    import torch

    _keep_memory()
    torch.set_num_threads(arguments.num_threads)
    start = time.perf_counter()
    print(f"== {stage.name}: {stage.about}", flush=True)
    stage.run(arguments)
    print(f"== {stage.name}: done in {(time.perf_counter() - start) / 60:.1f} min", flush=True)


def _keep_memory() -> None:
    """Make glibc, where it is the allocator, keep the memory of large tensors: a training asks for the same
    again and again, and new pages took an eighth of its time."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return
    for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 1 << 28)):
        libc.mallopt(option, value)


if __name__ == "__main__":
    app()
