"""What a verification found, as terminal tables."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lit_deploy.report.terminal import text
from lit_deploy.workflows.verify import MIN_OFFSET_STD, VerifyReport

VERDICT_STYLES = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}


def verify_table(report: VerifyReport) -> RenderableType:
    """Every metric beside its fixed limit, then the verdict and its reasons."""
    title = f"{Path(report.artifact).name} ({report.tested}) against {report.reference}"
    table = Table(title=text(title), min_width=60)
    for column, justify in (("metric", "left"), ("value", "right"), ("limit", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for metric in report.metrics:
        table.add_row(metric.title, metric.text, metric.limit)
    table.add_row("spread of sampling offsets (pixels)", f"{report.offset_std:.2e}", f">= {MIN_OFFSET_STD:.0e}")
    source = "seeded images" if report.source == "seeded" else f"images of {report.source}"
    verdict = Text(report.verdict.upper(), VERDICT_STYLES[report.verdict])
    verdict.append(f"  {report.precision}, {report.images} {source}", "not bold default")
    notes = (text(f"  note: {note}", "yellow") for note in report.notes)
    return Group(table, verdict, *(text(f"  {reason}") for reason in report.reasons), *notes)


def layers_table(report: VerifyReport) -> RenderableType:
    """One row per layer in execution order; the first departure is marked."""
    table = Table(title=f"Layers (relative error limit {report.tolerance.relative:.0e})")
    table.add_column("layer", overflow="fold")
    for column in ("relative error", "largest error", "cosine"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for layer in report.layers:
        first = layer.name == report.first_departure
        inside = layer.relative <= report.tolerance.relative
        table.add_row(
            text(layer.name), f"{layer.relative:.2e}", f"{layer.max_abs:.2e}", f"{layer.cosine:.7f}",
            "first departure" if first else "" if inside else "outside",
            style="bold red" if first else None if inside else "red",
        )  # fmt: skip
    return table
