"""Results as terminal tables, JSON and Markdown; charts are drawn by ``plots``. Measures nothing.

Table functions return rich renderables and text functions return strings; ``show`` prints either.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from lit_deploy.artifact import atomic_path
from lit_deploy.errors import ParityFailed, StateDictMismatch, UsageError

# cli.py knows one module for everything that is shown.
from lit_deploy.plots import bench_plot, bench_settings, check_chart, layers_plot, model_title
from lit_deploy.runtime.session import input_specs
from lit_deploy.verify import MIN_OFFSET_STD

if TYPE_CHECKING:
    from lit_deploy.bench import BenchReport, Measurement
    from lit_deploy.doctor import Diagnosis
    from lit_deploy.errors import LitDeployError
    from lit_deploy.export import ExportResult
    from lit_deploy.models.registry import OfficialModel
    from lit_deploy.predict import Prediction
    from lit_deploy.verify import VerifyReport

__all__ = ["bench_plot", "check_chart", "layers_plot"]

PIPED_WIDTH = 140
"""Columns of a table that goes to a file or a pipe."""

BENCH_COLUMNS = (
    "contender", "batch",
    "p50", "p90", "p95", "p99", "mean", "images/s", "peak MiB", "speed-up (quartiles)", "difference",
)  # fmt: skip
VERDICT_STYLES = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}
STATUS_STYLES = {"ok": "green", "missing": "bold red", "optional": "yellow"}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1, which means that a gate failed


def show(what: RenderableType, *, stderr: bool = False) -> None:
    """Print a table, or a string exactly as it is (so that JSON stays JSON)."""
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(what, str):
        print(what, file=stream)
    else:
        _Console(file=stream, width=None if stream.isatty() else PIPED_WIDTH).print(what)


@contextlib.contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the current step and its time on stderr; silent where that is no terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("start")
        yield lambda step: progress.reset(task, description=step)


def write_text(text: str, path: Path) -> None:
    """Write a report to a file, whole or not at all; raises UsageError when that is impossible."""
    with atomic_path(path) as part:
        part.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")


def as_json(value: Any) -> str:
    """Any result as JSON, whole; numbers that JSON lacks (NaN, infinity) become null."""
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode()


# --- bench ------------------------------------------------------------------------------------------------------------


def bench_table(report: BenchReport) -> RenderableType:
    """Latency percentiles (ms), throughput, memory and speed-up of every contender and batch size."""
    table = Table(
        title=_bench_title(report), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, collapse_padding=True
    )
    table.add_column("contender", min_width=14, overflow="fold")
    for column in BENCH_COLUMNS[2:-2]:
        table.add_column(column.replace(" ", "\n"), justify="right", no_wrap=True, overflow="fold")
    table.add_column(BENCH_COLUMNS[-2].replace(" ", "\n"), justify="right", min_width=12)
    for batch in dict.fromkeys(m.batch for m in report.measurements):
        table.add_row(f"batch {batch}", style="dim")
        for measurement in (m for m in report.measurements if m.batch == batch):
            label, _, *numbers, _ = map(_text, _bench_row(measurement))
            table.add_row(label, *numbers, style="bold" if measurement.kind == "onnxruntime" else None)
        table.add_section()
    notes = _text(f"{_bench_differences(report)}\n{_bench_caption(report)}", "dim")
    return Group(table, *(_text(line, "yellow") for line in _warning_lines(report)), notes)


def bench_from_json(text: str) -> BenchReport:
    """Read ``as_json`` of a benchmark, to draw or to format it again; UsageError when it is something else."""
    from lit_deploy.bench import BenchReport

    try:
        return msgspec.json.decode(text, type=BenchReport)
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"this is not the JSON of a benchmark ({error}); write it with lit-deploy bench --json"
        ) from None


def bench_markdown(report: BenchReport) -> str:
    """The table, the setting and the machine as Markdown."""
    lines = [
        f"**{_bench_title(report)}**",
        "",
        f"| {' | '.join(BENCH_COLUMNS)} |",
        f"|-|{'-:|' * (len(BENCH_COLUMNS) - 1)}",
        *(f"| {' | '.join(_bench_row(measurement))} |" for measurement in report.measurements),
        "",
        _bench_caption(report).replace("\n", "\n\n"),
    ]
    warnings = _warning_lines(report)
    if warnings:
        lines += ["", *(f"* {line}" for line in warnings)]
    return "\n".join(lines) + "\n"


def _bench_title(report: BenchReport) -> str:
    return f"{model_title(report)}: latency of one batch in milliseconds"


def _bench_differences(report: BenchReport) -> str:
    differences = [m.max_relative_difference for m in report.measurements if m.max_relative_difference is not None]
    return f"Outputs agree within {max(differences, default=0.0):.1e} of the largest."


def _bench_row(m: Measurement) -> list[str]:
    lower, upper = m.speedup_quartiles
    times = [f"{value:.{_decimals(m.p50)}f}" for value in (m.p50, m.p90, m.p95, m.p99, m.mean)]
    speedup = f"{m.speedup:.2f} ({lower:.2f}-{upper:.2f})"
    difference = "not compared" if m.max_relative_difference is None else f"{m.max_relative_difference:.1e}"
    return [
        m.label,
        str(m.batch),
        *times,
        f"{m.images_per_second:.1f}",
        f"{m.peak_memory_mib:.0f}",
        speedup,
        difference,
    ]


def _decimals(milliseconds: float) -> int:
    """Decimals that show three digits."""
    return 3 if milliseconds < 1 else 2 if milliseconds < 10 else 1


def _bench_caption(report: BenchReport) -> str:
    machine = report.machine
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    samples = [m.samples for m in report.measurements] or [0]
    return (
        f"Speed-up over {report.baseline}: median and quartiles over {report.rounds} rounds, pair by pair. "
        f"{bench_settings(report)}; turns of {report.turn_seconds:g} s, {min(samples)} to {max(samples)} runs each.\n"
        f"{machine.cpu}, {machine.cores} cores{''.join(f', {gpu}' for gpu in machine.gpus)}; {machine.os}; "
        f"Python {machine.python}, {packages}; {machine.date}; load average at the start {machine.load_average:g}."
    )


def _warning_lines(report: BenchReport) -> list[str]:
    lines = [
        f"{e.label}{'' if e.batch is None else f', batch {e.batch}'}: not measured, {e.reason}"
        for e in report.exclusions
    ]
    if not report.quiet:
        lines.append(
            f"disturbed: other processes kept {report.other_cores:.1f} of {report.machine.cores} cores busy; "
            "measure again on a quiet machine"
        )
    return lines


# --- verify and export ------------------------------------------------------------------------------------------------


def verify_table(report: VerifyReport) -> RenderableType:
    """Every metric beside its fixed limit, then the verdict and its reasons."""
    title = f"{Path(report.artifact).name} ({report.tested}) against {report.reference}"
    table = Table(title=_text(title), min_width=60)
    for column, justify in (("metric", "left"), ("value", "right"), ("limit", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    output, limits = report.output, report.tolerance
    table.add_row(f"relative error, {output.name}", f"{output.relative:.2e}", f"<= {limits.relative:.0e}")
    table.add_row("cosine, worst image", f"{output.cosine:.7f}", f">= {limits.cosine}")
    table.add_row("top-1 agreement", f"{report.top1:.1%}", "100%")
    table.add_row("top-5 agreement", f"{report.top5:.1%}", "")
    table.add_row("largest absolute error", f"{output.max_abs:.2e}", "")
    table.add_row("mean absolute error", f"{output.mean_abs:.2e}", "")
    table.add_row("spread of sampling offsets (pixels)", f"{report.offset_std:.2e}", f">= {MIN_OFFSET_STD:.0e}")
    source = "seeded images" if report.source == "seeded" else f"images of {report.source}"
    verdict = Text(report.verdict.upper(), VERDICT_STYLES[report.verdict])
    verdict.append(f"  {report.precision}, {report.images} {source}", "not bold default")
    return Group(table, verdict, *(_text(f"  {reason}") for reason in report.reasons))


def layers_table(report: VerifyReport) -> RenderableType:
    """One row per layer in execution order; the first departure is marked."""
    table = Table(title=f"Layers (relative error limit {report.tolerance.relative:.0e})")
    table.add_column("layer", overflow="fold")
    for column in ("relative error", "largest error", "cosine"):
        table.add_column(column, justify="right")
    table.add_column("")
    for layer in report.layers:
        first = layer.name == report.first_departure
        inside = layer.relative <= report.tolerance.relative
        table.add_row(
            _text(layer.name), f"{layer.relative:.2e}", f"{layer.max_abs:.2e}", f"{layer.cosine:.7f}",
            "first departure" if first else "" if inside else "outside",
            style="bold red" if first else None if inside else "red",
        )  # fmt: skip
    return table


def export_summary(result: ExportResult) -> RenderableType:
    """What was written, what it takes and gives, and how parity was proven."""
    manifest = result.manifest
    (images,) = input_specs(manifest)
    operator = "inlined (portable)" if manifest.portable else "one node, with a built-in function as fallback"
    table = Table.grid(padding=(0, 2))
    table.add_row("wrote", _text(f"{result.path} ({result.size / 1e6:.1f} MB)", "bold"))
    table.add_row("model", _text(f"{manifest.model.name}, {manifest.model.num_classes} classes, {manifest.precision}"))
    table.add_row("input", _text(f"{images.name} {images.dtype} [{', '.join(map(str, images.shape))}]"))
    table.add_row("output", _text(manifest.output))
    table.add_row("operator", operator)
    if result.report is None:
        table.add_row("parity", Text("not checked (--no-verify)", "yellow"))
        return table
    report = result.report
    text = Text(report.verdict, VERDICT_STYLES[report.verdict])
    text.append(
        f"  relative error {report.output.relative:.1e} (limit {report.tolerance.relative:.0e}), "
        f"top-1 {report.top1:.0%} on {report.images} images, {report.tested} against {report.reference}",
        "not bold default",
    )
    table.add_row("parity", text)
    return table


def error_details(error: LitDeployError) -> RenderableType:
    """What an error carries beside its sentence: the keys that differ, or the failed comparison."""
    if isinstance(error, ParityFailed):
        return verify_table(error.report)
    if not isinstance(error, StateDictMismatch):
        return Text("")
    table = Table()
    for column in ("key", "problem"):
        table.add_column(column, overflow="fold")
    for key in error.missing:
        table.add_row(_text(key), "missing")
    for key in error.unexpected:
        table.add_row(_text(key), "unexpected")
    for key, got, expected in error.misshapen:
        table.add_row(_text(key), _text(f"shape {list(got)}, expected {list(expected)}"))
    return table


# --- predict, inspect, models, doctor ---------------------------------------------------------------------------------


def predictions_table(predictions: Sequence[Prediction]) -> RenderableType:
    """Most probable classes of every image, best first."""
    table = Table()
    table.add_column("image", overflow="fold")
    table.add_column("probability", justify="right")
    table.add_column("class")
    table.add_column("index", justify="right")
    for prediction in predictions:
        rows = zip(prediction.probabilities, prediction.labels, prediction.classes, strict=True)
        for rank, (probability, label, index) in enumerate(rows):
            table.add_row(_text("" if rank else prediction.image), f"{probability:.2%}", _text(label), str(index))
        table.add_section()
    return table


def inspection_table(description: Mapping[str, Any]) -> RenderableType:
    """The nested description of a file, one ``key value`` line each."""
    table = Table.grid(padding=(0, 2))
    for key, value in _flatten(description):
        table.add_row(_text(key, "bold"), _text(value))
    return table


def _flatten(description: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in description.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", "-" if value is None or value == "" else str(value)


def models_table(models: Mapping[str, OfficialModel]) -> RenderableType:
    """The official models; accuracy is what the authors published for ImageNet-1K."""
    table = Table(
        caption="Accuracy: published by the authors for ImageNet-1K, mixed precision.", caption_justify="left"
    )
    table.add_column("name", no_wrap=True)
    for column in ("parameters", "MACs", "input", "top-1 %", "top-5 %"):
        table.add_column(column, justify="right")
    table.add_column("checkpoint", overflow="fold")
    for name, model in models.items():
        height, width = model.spec.image_size
        table.add_row(
            name, f"{model.parameters / 1e6:.1f} M", f"{model.macs / 1e9:.2f} G", f"{height} x {width}",
            f"{model.top1:.2f}", "-" if model.top5 is None else f"{model.top5:.2f}", _text(model.url),
        )  # fmt: skip
    return table


def models_json(models: Mapping[str, OfficialModel]) -> str:
    """The official models by name, with parameters, MACs and URL."""
    return as_json(
        {
            name: {**dataclasses.asdict(model), "parameters": model.parameters, "macs": model.macs, "url": model.url}
            for name, model in models.items()
        }
    )


def doctor_table(diagnosis: Diagnosis) -> RenderableType:
    """Every check with what was found, the paths that were searched, and the command that mends it."""
    table = Table()
    table.add_column("what", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", overflow="fold")
    for check in diagnosis.checks:
        found = _text(check.found)
        if check.status != "ok":
            found.append("".join(f"\n  searched {path}" for path in check.searched), "dim")
        if check.remedy:
            found.append(f"\n  {check.remedy}", "cyan")
        table.add_row(check.name, Text(check.status, STATUS_STYLES[check.status]), found)
    conclusion = (
        Text("Everything required to export and run is here.", "green")
        if diagnosis.ok
        else Text("Something required is missing; the commands above mend it.", "bold red")
    )
    return Group(table, conclusion)


def _text(value: str, style: str = "") -> Text:
    """Text that came from outside: square brackets in it are not markup."""
    return Text(value, style)
