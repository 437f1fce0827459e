"""Charts of results as PNG, SVG or PDF, with matplotlib, which is imported only here and only when one is drawn."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_deploy.core.errors import UsageError
from lit_deploy.core.files import atomic_path
from lit_deploy.core.text import printable
from lit_deploy.machine.packages import PACKAGES, imported
from lit_deploy.models.families import PUBLISHED

if TYPE_CHECKING:
    from lit_deploy.bench.result import BenchReport, Measurement
    from lit_deploy.evaluate.result import EvaluateReport
    from lit_deploy.workflows.verify import VerifyReport

FORMATS = (".png", ".svg", ".pdf")
DPI = 160
INK, MUTED, GRID = "#1f2328", "#656d76", "#d8dee4"
ACCENT, NEUTRAL, FLOOR = "#0b6e4f", "#a8b3bd", "#e6eaee"
WARNING = "#c0392b"
OURS = ("onnxruntime", "openvino-kernels", "openvino-bf16", "engine", "engine-graph")
"""Kinds of contenders that are set off from those they are compared with."""
NAMED_CLASSES, COUNTED_CLASSES = 40, 12
"""Most classes whose names, and whose counts, are written into a confusion matrix."""
SMALLEST_ERROR = 1e-9
"""Where an error of exactly zero is drawn on a logarithmic axis."""


def model_title(report: BenchReport) -> str:
    """The networks' names and the input size, as people write them: ``LIT-S 224x224``."""
    names = (report.model, *report.further_models)
    titles = [PUBLISHED[name].title if name in PUBLISHED else "LIT (custom)" for name in names]
    height, width = report.image_size
    return f"{' and '.join(titles)} {height}x{width}"


def bench_settings(report: BenchReport) -> str:
    """Precision and threads of a benchmark in a few words."""
    precisions = " and ".join(dict.fromkeys(m.precision for m in report.measurements))
    return f"{precisions}, {report.threads} thread{'s' if report.threads > 1 else ''}"


def bench_plot(report: BenchReport, path: Path) -> None:
    """Draw images per second of every contender, one panel per batch size, and write it to ``path``.

    Raises:
        MissingDependency: matplotlib is not installed. UsageError: nothing to draw, or an unknown file type.
    """
    batches = list(dict.fromkeys(m.batch for m in report.measurements))
    if not batches:
        raise UsageError("the benchmark has no measurement to draw; see its reasons in the table")
    labels = list(dict.fromkeys(m.label for m in report.measurements))
    fastest = max(m.images_per_second for m in report.measurements)
    size = (3.0 + 3.6 * len(batches), 0.36 * len(labels) + 1.55)
    with _figure(path, len(batches), size) as (figure, panels):
        for panel, batch in zip(panels, batches, strict=True):
            _bench_panel(panel, report, batch, labels, named=panel is panels[0])
            panel.set_xlim(0, fastest * 1.42)  # one scale for all panels, and room for the numbers behind the bars
        missing = "".join(f"; {exclusion.label}: not measured" for exclusion in report.exclusions)
        _titles(
            figure,
            f"{model_title(report)}: images per second (higher is better)",
            f"{report.machine.cpu}{''.join(f', {gpu}' for gpu in report.machine.gpus)}; {bench_settings(report)}; "
            f"in brackets: speed-up over {report.baseline}{missing}",
        )


def _bench_panel(panel: Any, report: BenchReport, batch: int, labels: list[str], named: bool) -> None:
    """One bar per contender, in the order of ``labels``; numbers stand behind the bars, so no axis is needed."""
    panel.set_title(f"batch {batch}", loc="left", fontsize=10, color=MUTED)
    for m in (m for m in report.measurements if m.batch == batch):
        row, lower_bound = labels.index(m.label), m.max_relative_difference is None
        style = {"hatch": "////", "edgecolor": NEUTRAL, "linewidth": 0} if lower_bound else {}
        panel.barh(row, m.images_per_second, color=_color(m), height=0.68, **style)
        panel.annotate(
            f"{m.images_per_second:.1f}" + ("" if m.label == report.baseline else f"  ({m.speedup:.2f}x)"),
            (m.images_per_second, row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9,
            color=INK, fontweight=_weight(m.kind),
        )  # fmt: skip
    kinds = {m.label: m.kind for m in report.measurements}
    panel.set_yticks(range(len(labels)), [_plain(label) for label in labels] if named else [""] * len(labels))
    panel.set_ylim(len(labels) - 0.5, -0.5)
    panel.tick_params(axis="y", length=0, labelsize=9, labelcolor=INK)
    for tick, label in zip(panel.get_yticklabels(), labels, strict=True):
        tick.set_fontweight(_weight(kinds[label]))
    panel.set_xticks([])
    panel.spines["bottom"].set_visible(False)
    panel.axvline(0, color=MUTED, linewidth=0.8)


def _weight(kind: str) -> str:
    return "bold" if kind in OURS else "normal"


def _color(measurement: Measurement) -> str:
    if measurement.max_relative_difference is None:
        return FLOOR
    return ACCENT if measurement.kind in OURS else NEUTRAL


def layers_plot(report: VerifyReport, path: Path) -> None:
    """Draw the relative error of every layer on a logarithmic axis, with the tolerance, and write it to ``path``.

    Raises:
        MissingDependency: matplotlib is not installed. UsageError: no layers were compared, or an unknown file type.
    """
    if not report.layers:
        raise UsageError("the report holds no layers to draw; verify with --layers")
    limit = report.tolerance.relative
    finite = [layer.relative for layer in report.layers if math.isfinite(layer.relative)]
    worst = max([limit, *finite]) * 3
    values = [min(max(layer.relative, SMALLEST_ERROR), worst) for layer in report.layers]
    names = [layer.name for layer in report.layers]
    with _figure(path, 1, (8.6, 0.235 * len(names) + 1.9)) as (figure, panels):
        panel = panels[0]
        rows = range(len(names))
        colors = [ACCENT if layer.relative <= limit else WARNING for layer in report.layers]
        panel.hlines(rows, min(values) / 2, values, color=GRID, linewidth=1.2)
        panel.scatter(values, rows, color=colors, s=26, zorder=3)
        panel.axvline(limit, color=WARNING, linestyle="--", linewidth=1.2)
        panel.annotate(
            f"limit {limit:.0e}", (limit, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
            textcoords="offset points", ha="center", fontsize=8.5, color=WARNING,
        )  # fmt: skip
        if report.first_departure in names:
            row = names.index(report.first_departure)
            left = values[row] > math.sqrt(limit * worst)
            panel.annotate(
                "first departure", (values[row], row), xytext=(-8 if left else 8, 0), textcoords="offset points",
                ha="right" if left else "left", va="center", fontsize=9, fontweight="bold", color=WARNING,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        for row, layer in enumerate(report.layers):
            if not math.isfinite(layer.relative):
                panel.annotate(
                    "not finite ", (values[row], row), xytext=(8, 0), textcoords="offset points", va="center",
                    fontsize=8, color=WARNING,
                )  # fmt: skip
        panel.set_xscale("log")
        panel.set_xlim(min(values) / 2, worst * 2)
        panel.set_yticks(rows, [_plain(name) for name in names])
        panel.set_ylim(len(names) - 0.4, -0.6)
        panel.tick_params(axis="y", length=0, labelsize=8, labelcolor=INK)
        panel.tick_params(axis="x", labelsize=8.5, labelcolor=MUTED)
        panel.set_xlabel("largest error, relative to the layer's largest value", fontsize=9, color=MUTED)
        panel.grid(axis="x", color=GRID, linewidth=0.6)
        _titles(
            figure,
            f"{Path(report.artifact).name}: error by layer ({report.verdict})",
            f"{report.tested} against {report.reference}; {report.images} images",
        )


def confusion_plot(report: EvaluateReport[Any], path: Path) -> None:
    """Draw which class is taken for which, as shares of every true class, one panel per file, and write it to ``path``.

    Raises:
        MissingDependency: matplotlib is not installed. UsageError: an unknown file type.
    """
    names = [entry.name for entry in report.scores[0].classes]
    side, named = min(max(2.6, 0.24 * len(names)), 9.0), len(names) <= NAMED_CLASSES
    margin = 0.3 + (0.075 * min(max(map(len, names)), 40) if named else 0)
    size = (max(4.6, len(report.scores) * (side + margin)), side + margin + 0.8)
    with _figure(path, len(report.scores), size) as (figure, panels):
        for panel, score in zip(panels, report.scores, strict=True):
            _confusion_panel(panel, score, names if named else [])
        _titles(
            figure,
            "Confusion matrix: share of a true class",
            f"row: true class, column: predicted class; {report.images:,} images, {report.classes:,} classes",
        )


def _confusion_panel(panel: Any, score: Any, names: list[str]) -> None:
    """A heat map; a column of its own for what is not finite, where there is any."""
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    count = len(score.classes)
    matrix = np.zeros((count, count + 1))
    for true, predicted, number in score.confusion:  # -1 is the last column
        matrix[true, predicted] = number
    if not matrix[:, count].any():
        matrix = matrix[:, :count]
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    panel.imshow(shares, cmap=LinearSegmentedColormap.from_list("", ["white", ACCENT]), vmin=0, vmax=1, aspect="auto")
    panel.set_title(score.label, loc="left", fontsize=10, color=MUTED, parse_math=False)  # a dollar is a dollar
    panel.tick_params(length=0, labelsize=8, labelcolor=INK)
    columns = [*names, *(["not finite"] if names and matrix.shape[1] > count else [])]
    panel.set_xticks(range(len(columns)), columns, rotation=90, parse_math=False)
    panel.set_yticks(range(len(names)), names, parse_math=False)
    if count <= COUNTED_CLASSES:
        for (row, column), number in np.ndenumerate(matrix):
            if number:
                color = "white" if shares[row, column] > 0.5 else INK
                panel.annotate(f"{number:,.0f}", (column, row), ha="center", va="center", fontsize=7, color=color)


def _titles(figure: Any, title: str, setting: str) -> None:
    """A headline, the setting below it in small print, and the panels in the space that is left."""
    inch = 1 / figure.get_size_inches()[1]
    figure.text(0.012, 1 - 0.10 * inch, _plain(title), fontsize=13, fontweight="bold", color=INK, ha="left", va="top")
    figure.text(0.012, 1 - 0.38 * inch, _plain(setting), fontsize=8.5, color=MUTED, ha="left", va="top")
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.52 * inch), w_pad=1.0)


def _plain(text: str) -> str:
    """Text that holds names of others: what stands between dollars is no formula."""
    return printable(text).replace("$", r"\$")


def check_chart(path: Path) -> None:
    """Raise what drawing to ``path`` would raise; call it before minutes of measuring.

    Raises:
        MissingDependency: matplotlib is not installed. UsageError: an unknown file type, or no such directory.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"the chart is to be written to {path.name}, expected a name ending in {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: its directory {path.parent} does not exist")
    install = PACKAGES["matplotlib"].install
    absent = f"charts need matplotlib, which is not installed; run: {install}"
    with imported("matplotlib", absent, "matplotlib", install), _agg():
        import matplotlib.figure  # noqa: F401


@contextmanager
def _agg() -> Iterator[None]:
    """While matplotlib loads: what a notebook named for its own window is not here, and is no reason to fail."""
    named = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"
    try:
        yield
    finally:
        if named is None:
            del os.environ["MPLBACKEND"]
        else:
            os.environ["MPLBACKEND"] = named


@contextmanager
def _figure(path: Path, columns: int, size: tuple[float, float]) -> Iterator[tuple[Any, list[Any]]]:
    """Yield a figure and its panels in a row; write it to ``path`` when the body ends without an error."""
    check_chart(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, facecolor="white")
    FigureCanvasAgg(figure)
    panels = [figure.add_subplot(1, columns, column + 1) for column in range(columns)]
    for panel in panels:
        panel.set_axisbelow(True)
        for side in ("top", "right", "left"):
            panel.spines[side].set_visible(False)
        panel.spines["bottom"].set_color(GRID)
    yield figure, panels
    with atomic_path(path) as part:
        figure.savefig(part, format=path.suffix.lower()[1:], dpi=DPI)
