"""What was written, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lit_deploy.artifacts.preflight import target_of
from lit_deploy.artifacts.sidecar import Sidecar
from lit_deploy.core.files import sha256_of
from lit_deploy.machine.tensorrt import BACKENDS
from lit_deploy.report.quantize import gates_table
from lit_deploy.report.terminal import as_json, text
from lit_deploy.report.verify import VERDICT_STYLES
from lit_deploy.tasks.table import task_of
from lit_deploy.workflows.advice import Advice
from lit_deploy.workflows.export import ExportResult


def export_summary(result: ExportResult) -> RenderableType:
    """What was written, what it takes and gives, and how parity was proven."""
    manifest = result.manifest
    images, *_ = task_of(manifest).input_specs(manifest)
    operator = "inlined (portable)" if manifest.portable else "one node, with a built-in function as fallback"
    if result.extension is not None:
        operator = f"{result.extension.library} (SHA-256 {result.extension.sha256[:12]}); ship it with the two files"
    table = Table.grid(padding=(0, 2))
    table.add_row("wrote", text(f"{result.path} ({result.size / 1e6:.1f} MB)", "bold"))
    table.add_row("model", text(f"{manifest.model.name}, {manifest.model.num_classes} classes, {manifest.precision}"))
    table.add_row("input", text(f"{images.name} {images.dtype} [{', '.join(map(str, images.shape))}]"))
    table.add_row("output", text(manifest.output))
    if result.sidecar is None:
        table.add_row("operator", text(operator))
    else:
        for key, value in _engine_rows(result.sidecar):
            table.add_row(key, text(value))
    for what, report in (("parity", result.report), ("engine parity", result.engine_report)):
        if report is not None:
            told = [f"{metric.title} {metric.text} ({metric.limit})" for metric in report.metrics if metric.limit]
            line = Text(report.verdict, VERDICT_STYLES[report.verdict])
            line.append(
                f"  {'; '.join(told)}; {report.images} images, {report.tested} against {report.reference}",
                "not bold default",
            )
            table.add_row(what, line)
    if result.unchecked:
        table.add_row("not checked", text(result.unchecked, "yellow"))
    return table if result.gates is None else Group(table, "", gates_table(result.gates))


def export_json(result: ExportResult, advice: Advice | None) -> str:
    """The same for machines: what was written, with hashes, and every number that was measured on the way."""
    files = [{"path": path, "size": path.stat().st_size, "sha256": sha256_of(path)} for path in result.files]
    return as_json(
        {
            "path": result.path,
            "sha256": files[0]["sha256"],
            "size": result.size,
            "files": files,
            "parity": None if result.report is None else result.report.summary(),
            "engine_parity": None if result.engine_report is None else result.engine_report.summary(),
            "unchecked": result.unchecked,
            "gates": result.gates,
            "advice": advice,
            "extension": result.extension,
            "manifest": result.manifest,
        }
    )


def advice_line(advice: Advice) -> RenderableType:
    """What runs the file faster on this machine."""
    return text(
        f"faster here: {advice.options} takes {advice.milliseconds:.1f} ms where ONNX Runtime takes {advice.usual:.1f} "
        f"ms (a few runs; cosine with PyTorch {advice.cosine:.6f}); lit-deploy bench measures it",
        "green",
    )


def _engine_rows(sidecar: Sidecar) -> Iterator[tuple[str, str]]:
    """What a user has to know about an engine to ship it."""
    build, plugin = sidecar.build, sidecar.plugin
    where = f"on {build.gpu}" if build.backend == "tensorrt" else f"for {target_of(build)}"
    yield "engine", f"{BACKENDS[build.backend].title} {build.backend_version}, {where}"
    sizes = [":".join(map(str, profile)) for profile in sidecar.profiles] or [str(sidecar.manifest.batch)]
    yield "batch", ", ".join(sizes)
    if sidecar.sizes is not None:
        for side, name in (("height", "height"), ("width", "width"), ("original", "original sides")):
            yield name, f"{':'.join(map(str, getattr(sidecar.sizes, side)))} pixels"
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
