"""Figures for a terminal."""

from __future__ import annotations

from rich.table import Table

from antiphon.evaluation.comparison import Compared
from antiphon.evaluation.report import Report

__all__ = ["comparison_table", "paper_table", "report_table"]


def report_table(report: Report) -> Table:
    """One line a figure, beside the paper's."""
    title = f"{report.task}: {report.num_cases} cases, {len(report.failures)} failed"
    table = Table(title=title, title_justify="left")
    for name in ("set", "figure", "this run", "95 %", "the paper"):
        table.add_column(name, justify="left" if name in ("set", "figure") else "right", overflow="fold")
    for figure in report.figures:
        table.add_row(figure.group, figure.label, figure.told, figure.told_interval, figure.told_paper or "–")
    return table


def paper_table(report: Report) -> Table:
    """The paper's columns, with rows for it and for this run."""
    title = f"As the paper has it (arXiv 2506.13642, {report.paper_source})"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    columns = report.paper_columns
    for figure in columns:
        unit = f", {figure.unit}" if figure.unit else ""
        table.add_column(f"{figure.group}\n{figure.label}{unit}", justify="right", overflow="fold")
    table.add_row("Stream-Omni, the paper", *(figure.told_paper_value for figure in columns))
    table.add_row("this run", *(f"{figure.told_value} ({figure.told_interval})" for figure in columns))
    return table


def comparison_table(compared: Compared) -> Table:
    """One line a figure: of both runs, and of what lies between them."""
    title = (
        f"{compared.task}: {compared.num_common} cases in both, {len(compared.changed)} answered differently"
    )
    table = Table(title=title, title_justify="left")
    for name in ("set", "figure", "A", "B", "B − A", "95 %", "p"):
        table.add_column(name, justify="left" if name in ("set", "figure") else "right", overflow="fold")
    for figure in compared.figures:
        mark = " *" if figure.p < 0.05 else ""
        table.add_row(
            figure.group,
            figure.label,
            f"{figure.first:.2f}",
            f"{figure.second:.2f}",
            f"{figure.value:+.2f}",
            f"{figure.low:+.2f} – {figure.high:+.2f}",
            f"{figure.p:.3f}{mark}",
        )
    return table
