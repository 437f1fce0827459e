"""The report of an evaluation as a terminal table and as Markdown. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lit_deploy.evaluate.result import EvaluateReport, Score
from lit_deploy.tasks.classification.scores import Accuracy

COLUMNS = ("file", "top-1", "wrong", "differ", "95 % interval", "top-5", "images/s")

SKIPPED_SHOWN = 10
"""Skipped images and folders that a table names; JSON has all of them."""


def evaluate_table(report: EvaluateReport) -> RenderableType:
    """Accuracy, differing predictions and speed of every file, their agreement, and the images that do not count."""
    table = Table(title=Text(_title(report)), title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "file" else "right", overflow="fold")
    for score in report.scores:
        table.add_row(*map(Text, _row(report, score)))
    parts: list[RenderableType] = [table]
    if len(report.scores) > 2:  # of two files, the column above says it
        matrix = Table(title="Share of images with the same prediction", title_justify="left")
        for column in ("", *_labels(report)):
            matrix.add_column(Text(column), justify="right" if column else "left", overflow="fold")
        for row in _agreement_rows(report):
            matrix.add_row(*map(Text, row))
        parts.append(matrix)
    parts += [Text(line, "yellow") for line in _warnings(report)]
    parts += [Text(line, "dim") for line in _captions(report)]
    return Group(*parts)


def evaluate_markdown(report: EvaluateReport) -> str:
    """The same as Markdown."""
    lines = [f"**{_escaped(_title(report))}**", ""]
    lines += _markdown_table(COLUMNS, [_row(report, score) for score in report.scores])
    if len(report.scores) > 2:
        lines += ["", "**Share of images with the same prediction**", ""]
        lines += _markdown_table(("", *_labels(report)), list(_agreement_rows(report)))
    if warnings := list(_warnings(report)):
        lines += ["", *(f"* {_escaped(line)}" for line in warnings)]
    return "\n".join([*lines, "", *(_escaped(line) for line in _captions(report))]) + "\n"


def _markdown_table(columns: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    shown = [columns, *rows]
    header, *body = [f"| {' | '.join(_escaped(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in shown]
    return [header, f"|-|{'-:|' * (len(columns) - 1)}", *body]


def _escaped(text: str) -> str:
    """File names in a paragraph of Markdown: no line ends, and no emphasis by their underscores and stars."""
    return "".join(f"\\{char}" if char in "\\*_`<[" else char for char in " ".join(text.split()))


def _title(report: EvaluateReport) -> str:
    return f"{report.images:,} images, {report.classes:,} classes: {report.source}"


def _labels(report: EvaluateReport) -> list[str]:
    return [score.label for score in report.scores]


def _row(report: EvaluateReport, score: Score) -> list[str]:
    return [
        score.label,
        _percent(score.top1),
        str(report.images - score.top1.right),
        str(score.differing),
        f"{score.top1.low:.2%} to {score.top1.high:.2%}",
        "-" if score.top5 is None else _percent(score.top5),
        f"{score.images_per_second:.1f}",
    ]


def _percent(accuracy: Accuracy) -> str:
    return f"{accuracy.share:.2%}"


def _agreement_rows(report: EvaluateReport) -> Iterator[list[str]]:
    for label, row in zip(_labels(report), report.agreement, strict=True):
        yield [label, *(f"{share:.2%}" for share in row)]


def _warnings(report: EvaluateReport) -> Iterator[str]:
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


def _captions(report: EvaluateReport) -> Iterator[str]:
    yield f"Classes: {report.mapping}. 'differ' counts predictions other than those of {report.reference}."
    yield "; ".join(f"{score.label}: {score.description}, {score.precision}" for score in report.scores) + "."
    resumed = f", of which {report.resumed:,} images were done by an earlier run" if report.resumed else ""
    threads = "1 thread" if report.workers == 1 else f"{report.workers} threads"
    yield (
        f"Batches of {report.batch}, images prepared by {threads}; {report.seconds:.1f} s{resumed}. "
        "images/s: of the network alone, disturbed by the other files and by the preparation of the next images; "
        "lit-deploy bench measures speed."
    )
