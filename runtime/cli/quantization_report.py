"""`antiphon quantize --report`: what was saved and what was lost, in tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from antiphon.bench.quantization import MatrixSignal, QuantizationReport
    from antiphon.model.checkpoint.quantized_folder import Sizes

__all__ = ["show", "tables"]

MB = 1e6
LAYER = ("qkv", "o", "gate_up", "down", "fusion q", "fusion o")
"""Matrices of a layer; the others are heads."""
NUM_LEAST = 3


def show(source: Path, target: Path, sizes: Sizes, json_out: Path | None) -> None:
    """Measure with a progress bar, print tables, and write the figures as JSON. Raises CheckpointError."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from antiphon.bench.quantization import report
    from antiphon.cli.streams import say
    from antiphon.files.writing import write_whole

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def progress(what: str, done: int, total: int | None) -> None:
            bar.update(task, description=what, completed=done, total=total)

        found = report(source, target, sizes, progress)
    console = Console()
    for table in tables(found):
        with console.capture() as shown:
            console.print(table)
        say(f"\n{shown.get()}", nl=False)
    for line in _lines(found):
        say(line)
    if json_out is not None:
        write_whole(json_out, (json.dumps(asdict(found), indent=1) + "\n").encode())


def tables(found: QuantizationReport) -> Iterator[Table]:
    yield _memory(found)
    yield _signals(found)
    yield _agreements(found)


def _memory(found: QuantizationReport) -> Table:
    table = _table("weights, MB", "", "before", "after", "of before")
    rows = [("files", found.files.source, found.files.target)]
    rows += [(f"read by a step: {part.name}", part.source, part.target) for part in found.parts]
    before, after = (sum(sizes) for sizes in zip(*(row[1:] for row in rows[1:]), strict=True))
    rows.append(("read by one of each", before, after))
    for name, before, after in rows:
        table.add_row(name, _size(before), _size(after), f"{100 * after / before:.0f} %")
    table.caption = f"before: read in {found.dtype}; after: {found.scheme}"
    return table


def _size(num_bytes: int) -> str:
    return f"{num_bytes / MB:,.1f}" if num_bytes < 100 * MB else f"{num_bytes / MB:,.0f}"


def _signals(found: QuantizationReport) -> Table:
    rows: dict[str, dict[str, str]] = {}
    for each in found.signals:
        layer, column = _place(each.name)
        if column:
            rows.setdefault(layer, {})[column] = _decibels(each)
    used = [column for column in LAYER if any(column in row for row in rows.values())]
    table = _table("signal to noise of products, dB", "layer", *used)
    for layer, row in rows.items():
        table.add_row(layer, *(row.get(column, "") for column in used))
    heads = [f"{each.name} {_decibels(each)}" for each in found.signals if not _place(each.name)[1]]
    table.caption = ", ".join(heads)
    return table


def _place(name: str) -> tuple[str, str]:
    """The layer and the matrix in it; of a head, its name and nothing."""
    words = name.split(" ", 2)
    return (" ".join(words[:2]), words[2]) if words[1].isdecimal() else (name, "")


def _decibels(signal: MatrixSignal) -> str:
    if signal.kept:
        return "kept"
    return "exact" if signal.decibels is None else f"{signal.decibels:.1f}"


def _agreements(found: QuantizationReport) -> Table:
    prompts = [f"{each.num_prompts} {each.prompts}" for each in found.agreements]
    table = _table("same as before, of the replies to prompts", "", *prompts)
    for name, cells in (
        (
            "transcripts",
            ["" if each.prompts == "typed" else f"{each.same_transcripts}" for each in found.agreements],
        ),
        ("texts", [f"{each.same_texts}" for each in found.agreements]),
        ("texts and units", [f"{each.same_units}" for each in found.agreements]),
        ("text ids", [_share(each.same_text_ids, each.num_text_ids) for each in found.agreements]),
        ("unit ids", [_share(each.same_unit_ids, each.num_unit_ids) for each in found.agreements]),
    ):
        if any(cells):
            table.add_row(name, *cells)
    return table


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} % of {whole}" if whole else ""


def _lines(found: QuantizationReport) -> Iterator[str]:
    yield ""
    lossy = [(each.decibels, each.name) for each in found.signals if each.decibels is not None]
    least = ", ".join(f"{name} {decibels:.1f} dB" for decibels, name in sorted(lossy)[:NUM_LEAST])
    if least:
        yield f"least signal to noise: {least}"
    before, after = found.source_perplexity, found.target_perplexity
    moved = round(100 * (after / before - 1), 3) + 0.0  # not -0
    yield f"perplexity of the replies before: {before:.5f}, after: {after:.5f} ({moved:+.3f} %)"


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption_justify="left")
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", overflow="fold")
    return table
