"""The report of an evaluation as terminal tables and as Markdown. Measures nothing.

Columns, rows and words of a task come with its scores (``FileScore``); how they are laid out is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lit_deploy.evaluate.result import EvaluateReport

Report = EvaluateReport[Any]
Rows = Sequence[Sequence[str]]

SKIPPED_SHOWN = 10
"""Skipped images and folders that a table names; JSON has all of them."""

_MISCLASSIFIED = ("image", "true class", "predicted class")


def evaluate_table(report: Report, *, per_class: bool = False, misclassified: int = 0) -> RenderableType:
    """What every file reached, how far they agree, and the images that do not count.

    Args:
        report: of an evaluation.
        per_class: also what every file reached in every class, a table a file.
        misclassified: also that many of the images that a classifier takes for another class, a table a file.
    """
    parts: list[RenderableType] = []
    for title, columns, rows in _tables(report, per_class, misclassified):
        table = Table(title=Text(title), title_justify="left")
        for column in columns:
            table.add_column(Text(column), justify=_justified(columns, column), overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        parts.append(table)
    parts += [Text(line, "yellow") for line in _warnings(report)]
    parts += [Text(line, "dim") for line in _captions(report)]
    return Group(*parts)


def evaluate_markdown(report: Report, *, per_class: bool = False, misclassified: int = 0) -> str:
    """The same as Markdown."""
    lines: list[str] = []
    for title, columns, rows in _tables(report, per_class, misclassified):
        lines += [*([""] if lines else []), f"**{_escaped(title)}**", "", *_markdown_table(columns, rows)]
    if warnings := list(_warnings(report)):
        lines += ["", *(f"* {_escaped(line)}" for line in warnings)]
    return "\n".join([*lines, "", *(_escaped(line) for line in _captions(report))]) + "\n"


def _tables(report: Report, per_class: bool, misclassified: int) -> Iterator[tuple[str, Sequence[str], Rows]]:
    """Title, headings and rows of every table."""
    first = report.scores[0]
    rows = [row for score in report.scores for row in score.rows(report.images)]
    yield f"{report.images:,} images, {report.classes:,} classes: {report.source}", first.COLUMNS, rows
    if len(report.scores) > 2:  # of two files, the columns above say it
        labels = [score.label for score in report.scores]
        matrix = [
            [label, *(f"{share:.2%}" for share in row)] for label, row in zip(labels, report.agreement, strict=True)
        ]
        yield first.MATRIX, ("", *labels), matrix
    if per_class:
        for score in report.scores:
            yield f"By class: {score.label}", score.CLASS_COLUMNS, score.class_rows()
    if misclassified:
        for score in report.scores:
            wrong = score.misclassified
            shown = f", the first {misclassified:,}" if len(wrong) > misclassified else ""
            rows = [[e.image, e.true_class, e.predicted_class or "not finite"] for e in wrong[:misclassified]]
            yield f"Misclassified: {score.label} ({len(wrong):,} images{shown})", _MISCLASSIFIED, rows


def _justified(columns: Sequence[str], column: str) -> Any:
    return "left" if column in (columns[0], "of", *_MISCLASSIFIED) else "right"


def _markdown_table(columns: Sequence[str], rows: Rows) -> list[str]:
    shown = [columns, *rows]
    header, *body = [f"| {' | '.join(_escaped(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in shown]
    return [header, f"|-|{'-:|' * (len(columns) - 1)}", *body]


def _escaped(text: str) -> str:
    """File names in a paragraph of Markdown: no line ends, and no emphasis by their underscores and stars."""
    return "".join(f"\\{char}" if char in "\\*_`<[" else char for char in " ".join(text.split()))


def _warnings(report: Report) -> Iterator[str]:
    """What a reader must not overlook."""
    yield from report.notes
    for score in report.scores:
        if score.not_finite:
            yield f"{score.label}: the output is not finite for {score.not_finite} images, which count as wrong"
    if report.skipped:
        yield f"{len(report.skipped)} images or class folders do not count:"
        yield from (f"  {skipped.image}: {skipped.reason}" for skipped in report.skipped[:SKIPPED_SHOWN])
        if len(report.skipped) > SKIPPED_SHOWN:
            yield f"  and {len(report.skipped) - SKIPPED_SHOWN} more; --json lists all"


def _captions(report: Report) -> Iterator[str]:
    yield report.scores[0].CAPTION.format(mapping=report.mapping, reference=report.reference)
    yield "; ".join(f"{score.label}: {score.description}, {score.precision}" for score in report.scores) + "."
    resumed = f", of which {report.resumed:,} images were done by an earlier run" if report.resumed else ""
    threads = "1 thread" if report.workers == 1 else f"{report.workers} threads"
    yield (
        f"Batches of {report.batch}, images prepared by {threads}; {report.seconds:.1f} s{resumed}. "
        "images/s: of the network alone, disturbed by the other files and by the preparation of the next images; "
        "lit-deploy bench measures speed."
    )
