"""Results as terminal tables, JSON and Markdown; charts are drawn by ``plots``. Measures nothing.

Table functions return rich renderables and text functions return strings; ``show`` prints either.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from lit_deploy.artifact import atomic_path
from lit_deploy.errors import BuildFailed, ParityFailed, StateDictMismatch

# cli.py knows one module for everything that is shown.
from lit_deploy.plots import bench_plot, check_chart, layers_plot
from lit_deploy.report_bench import bench_from_json, bench_markdown, bench_table
from lit_deploy.report_evaluate import evaluate_markdown, evaluate_table
from lit_deploy.report_quantize import gates_table, scan_table
from lit_deploy.runtime.session import input_specs
from lit_deploy.sidecar import target_of
from lit_deploy.trt import BACKENDS
from lit_deploy.verify import MIN_OFFSET_STD

if TYPE_CHECKING:
    from lit_deploy.doctor import Diagnosis
    from lit_deploy.errors import LitDeployError
    from lit_deploy.export import ExportResult
    from lit_deploy.models.registry import OfficialModel
    from lit_deploy.predict import Prediction
    from lit_deploy.quantize import QuantizeResult
    from lit_deploy.sidecar import Sidecar
    from lit_deploy.verify import VerifyReport

__all__ = [
    "bench_from_json", "bench_markdown", "bench_plot", "bench_table", "check_chart", "evaluate_markdown",
    "evaluate_table", "gates_table", "layers_plot", "scan_table",
]  # fmt: skip

PIPED_WIDTH = 140
"""Columns of a table that goes to a file or a pipe."""

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
    columns = (SpinnerColumn(), _Bar(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("start", total=None)

        def step(text: str) -> None:
            share = re.match(r" *(\d+) %  ", text)
            if share is None:
                progress.reset(task, description=text, total=None)
            else:  # the clock and the bar go on
                progress.update(task, description=text, total=100, completed=int(share.group(1)))

        yield step


class _Bar(BarColumn):
    """A bar for steps that say how much is done ("37 %  what"), nothing for the others."""

    def render(self, task: Task) -> Any:
        return Text("") if task.total is None else super().render(task)


def write_text(text: str, path: Path) -> None:
    """Write a report to a file, whole or not at all; raises UsageError when that is impossible."""
    with atomic_path(path) as part:
        part.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")


def as_json(value: Any) -> str:
    """Any result as JSON, whole; numbers that JSON lacks (NaN, infinity) become null."""
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode()


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
    if result.sidecar is None:
        table.add_row("operator", operator)
    else:
        for key, value in _engine_rows(result.sidecar):
            table.add_row(key, _text(value))
    for what, report in (("parity", result.report), ("engine parity", result.engine_report)):
        if report is not None:
            text = Text(report.verdict, VERDICT_STYLES[report.verdict])
            text.append(
                f"  relative error {report.output.relative:.1e} (limit {report.tolerance.relative:.0e}), "
                f"top-1 {report.top1:.0%} on {report.images} images, {report.tested} against {report.reference}",
                "not bold default",
            )
            table.add_row(what, text)
    if result.unchecked:
        table.add_row("not checked", _text(result.unchecked, "yellow"))
    return table if result.gates is None else Group(table, "", gates_table(result.gates))


def quantize_summary(result: QuantizeResult) -> RenderableType:
    """What was written, and how it compares with what it was made from."""
    done = result.manifest.quantization
    assert done is not None
    table = Table.grid(padding=(0, 2))
    table.add_row("wrote", _text(f"{result.path} ({result.size / 1e6:.1f} MB)", "bold"))
    table.add_row("products", _text(f"{done.products} in {result.manifest.precision}, the rest in {done.base}"))
    return Group(table, "", gates_table(result.gates))


def _engine_rows(sidecar: Sidecar) -> Iterator[tuple[str, str]]:
    """What a user has to know about an engine to ship it."""
    build, plugin = sidecar.build, sidecar.plugin
    where = f"on {build.gpu}" if build.backend == "tensorrt" else f"for {target_of(build)}"
    yield "engine", f"{BACKENDS[build.backend].title} {build.backend_version}, {where}"
    sizes = [":".join(map(str, profile)) for profile in sidecar.profiles] or [str(sidecar.manifest.batch)]
    yield "batch", ", ".join(sizes)
    if plugin is None:
        yield "plugin", "none: the standard operators of the function are in the engine; ship the engine and its .json"
    elif plugin.embedded:
        yield "plugin", "inside the engine; ship the engine and its .json, and open it with --allow-engine-code"
    else:
        yield "plugin", f"{plugin.library} (SHA-256 {plugin.sha256[:12]}); ship it with the engine and its .json"
    for found in sidecar.inspections:
        types = ", ".join(f"{count} {kind}" for kind, count in found.products.items())
        what = "matrix products" if found.source == "network" else "outputs"
        yield f"{found.source} holds", f"{found.layers} layers; {what}: {types}; plugin calls: {found.plugin_layers}"


def error_details(error: LitDeployError) -> RenderableType:
    """What an error carries beside its sentence: the keys that differ, the failed comparison, the builder's log."""
    if isinstance(error, ParityFailed):
        return verify_table(error.report)
    if isinstance(error, BuildFailed):
        return _text("\n".join(("the last lines of the builder:", *error.log)) if error.log else "", "dim")
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
