"""`antiphon export verify --word-error`: how well speech made by exported flows is understood."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from antiphon.export.word_error import WordError

__all__ = ["measured", "table_of"]


def measured(folders: Sequence[Path]) -> list[WordError]:
    """With a progress bar. Raises ConfigError and CheckpointError."""
    from rich.console import Console
    from rich.progress import Progress

    from antiphon.export.word_error import judged

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting")

        def report(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        return list(judged(folders, report))


def table_of(rows: Sequence[WordError]) -> Table:
    from rich.table import Table

    first = rows[0]
    title = f"word error of {first.num_sentences} replies ({first.num_words} words), heard by {first.judge}"
    table = Table(title=title, title_justify="left")
    for name in ("flow", "precision", "word error", "worse by", "allowed", ""):
        table.add_column(name, justify="left" if name in ("flow", "precision") else "right", overflow="fold")
    for row in rows:
        is_first = row is first
        table.add_row(
            row.way,
            row.precision,
            f"{row.per_cent:.1f} %",
            "" if is_first else f"{row.worse:+.1f}",
            "" if is_first else f"{row.most_worse:.1f}",
            "" if is_first else "ok" if row.is_within else "off",
        )
    return table
