"""The report of a benchmark as a terminal table and as Markdown, and back from JSON. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lit_deploy.bench.result import (
    LAUNCH_BOUND,
    LEAST_SAMPLES,
    LEAST_SECONDS,
    UNSTEADY,
    BenchReport,
    GpuTimes,
    Measurement,
)
from lit_deploy.core.errors import UsageError
from lit_deploy.report.charts import bench_settings, model_title
from lit_deploy.report.terminal import text

BENCH_COLUMNS = (
    "contender", "type", "batch",
    "p50", "p90", "p95", "p99", "mean", "images/s", "peak MiB", "speed-up (quartiles)", "difference",
)  # fmt: skip
GPU_COLUMNS = (
    "contender", "batch", "compute p50", "p90", "p95", "p99", "variation",
    "copy in", "copy out", "in + compute + out", "enqueue",
)  # fmt: skip

PARTS_TITLE = "Where the time of one picture goes, in milliseconds"
PARTS_CAPTION = (
    "By ONNX Runtime's profiler, in runs of their own; median. The network is everything that the other columns are "
    "not. Pasting is the host's, at the original size."
)


def bench_table(report: BenchReport) -> RenderableType:
    """Latency percentiles (ms), throughput, memory and speed-up of every contender and batch size, phases on a GPU."""
    table = Table(
        title=_bench_title(report), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, collapse_padding=True
    )
    table.add_column("contender", min_width=14, overflow="fold")
    for column in BENCH_COLUMNS[3:-2]:
        table.add_column(column.replace(" ", "\n"), justify="right", no_wrap=True, overflow="fold")
    table.add_column(BENCH_COLUMNS[-2].replace(" ", "\n"), justify="right", min_width=12)
    mixed = len({m.precision for m in report.measurements}) > 1
    for batch in dict.fromkeys(m.batch for m in report.measurements):
        table.add_row(f"batch {batch}", style="dim")
        for measurement in (m for m in report.measurements if m.batch == batch):
            label, precision, _, *numbers, _ = map(text, _bench_row(measurement, report))
            fastest = measurement.label == report.fastest(batch)
            shown = Text.assemble(label, f" {precision.plain}") if mixed else label  # a column would be too much
            table.add_row(shown, *numbers, style="bold" if fastest else None)
        table.add_section()
    lines = (_bench_differences(report), *_bench_caption(report).splitlines())
    notes = Text("\n").join(text(line, "dim") for line in lines)
    phases = [_gpu_table(report)] if _gpu_rows(report) else []
    phases += [_parts_table(report)] if report.breakdowns else []
    return Group(table, *phases, *(text(line, "yellow") for line in _warning_lines(report)), notes)


def _gpu_table(report: BenchReport) -> RenderableType:
    table = Table(title="Phases on the GPU in milliseconds", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for column in GPU_COLUMNS:
        table.add_column(column, justify="left" if column == "contender" else "right", overflow="fold")
    for row in _gpu_rows(report):
        table.add_row(*map(text, row))
    return Group(table, text(_gpu_caption(report), "dim"), text(""))


def _parts_table(report: BenchReport) -> RenderableType:
    table = Table(title=PARTS_TITLE, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    header, *rows = _parts_rows(report)
    for column in header:
        table.add_column(column, justify="left" if column == header[0] else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(text, row))
    return Group(table, text(PARTS_CAPTION, "dim"), text(""))


def bench_from_json(text: str) -> BenchReport:
    """Read ``as_json`` of a benchmark, to draw or to format it again; UsageError when it is something else."""
    try:
        return msgspec.json.decode(text, type=BenchReport)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UsageError(
            f"this is not the JSON of a benchmark ({error}); write it with lit-deploy bench --json"
        ) from None


def bench_markdown(report: BenchReport) -> str:
    """The table, the setting and the machine as Markdown."""
    lines = [
        f"**{_bench_title(report)}**",
        "",
        f"| {' | '.join(BENCH_COLUMNS)} |",
        f"|-|-|{'-:|' * (len(BENCH_COLUMNS) - 2)}",
        *(f"| {' | '.join(_bench_row(measurement, report))} |" for measurement in report.measurements),
        "",
        _bench_caption(report).replace("\n", "\n\n"),
    ]
    if rows := _gpu_rows(report):
        lines += [
            "",
            "**Phases on the GPU in milliseconds**",
            "",
            f"| {' | '.join(GPU_COLUMNS)} |",
            f"|-|{'-:|' * (len(GPU_COLUMNS) - 1)}",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            _gpu_caption(report),
        ]
    if report.breakdowns:
        header, *rows = _parts_rows(report)
        lines += [
            "",
            f"**{PARTS_TITLE}**",
            "",
            f"| {' | '.join(header)} |",
            f"|-|{'-:|' * (len(header) - 1)}",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            PARTS_CAPTION,
        ]
    warnings = _warning_lines(report)
    if warnings:
        lines += ["", *(f"* {line}" for line in warnings)]
    return "\n".join(lines) + "\n"


def _bench_title(report: BenchReport) -> str:
    return f"{model_title(report)}: latency of one batch in milliseconds"


def _bench_differences(report: BenchReport) -> str:
    differences = [m.max_relative_difference for m in report.measurements if m.max_relative_difference is not None]
    networks = ", each network's with its own" if report.further_models else ""
    return f"Outputs agree within {max(differences, default=0.0):.1e} of the largest{networks}."


def _bench_row(m: Measurement, report: BenchReport) -> list[str]:
    lower, upper = m.speedup_quartiles
    times = [f"{value:.{_decimals(m.p50)}f}" for value in (m.p50, m.p90, m.p95, m.p99, m.mean)]
    speedup = f"{m.speedup:.2f} ({lower:.2f}-{upper:.2f})"
    difference = "not compared" if m.max_relative_difference is None else f"{m.max_relative_difference:.1e}"
    return [
        f"{m.label} (fastest)" if m.label == report.fastest(m.batch) else m.label,
        m.precision,
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
    emulated = dict.fromkeys(m.label for m in report.measurements if "emulated" in m.description)
    lines += [f"{label}: emulated here, so that its times say nothing about other machines" for label in emulated]
    if not report.quiet:
        lines.append(
            f"disturbed: other processes kept {report.other_cores:.1f} of {report.machine.cores} cores busy; "
            "measure again on a quiet machine"
        )
    return [*lines, *_gpu_warnings(report)]


def _parts_rows(report: BenchReport) -> list[list[str]]:
    """The heading, then one row for every contender that was profiled."""
    names = list(dict.fromkeys(part.name for breakdown in report.breakdowns for part in breakdown.parts))
    rows = [["contender", *names]]
    for breakdown in report.breakdowns:
        cells = {
            part.name: f"{part.milliseconds:.{_decimals(part.milliseconds)}f} "
            f"({part.milliseconds / breakdown.milliseconds:.1%})"
            for part in breakdown.parts
        }
        rows.append([breakdown.label, *(cells.get(name, "") for name in names)])
    return rows


def _gpu_rows(report: BenchReport) -> list[list[str]]:
    """One row for every contender and batch size whose phases on the GPU were measured."""
    return [_gpu_row(m, m.gpu) for m in report.measurements if m.gpu is not None]


def _gpu_row(m: Measurement, gpu: GpuTimes) -> list[str]:
    compute = gpu.compute
    times = (compute.p50, compute.p90, compute.p95, compute.p99)
    rest = (gpu.host_to_device, gpu.device_to_host, gpu.latency.p50, gpu.enqueue)
    shown = [f"{value:.{_decimals(value)}f}" for value in (*times, *rest)]
    return [m.label, str(m.batch), *shown[:4], f"{gpu.compute_variation:.1%}", *shown[4:]]


def _gpu_caption(report: BenchReport) -> str:
    """What was part of the runs: without it the times cannot be compared with anybody else's."""
    settings = dict.fromkeys(m.gpu.settings for m in report.measurements if m.gpu is not None)
    words = [
        f"transfers {_on(s.transfers)}, spin-wait {_on(s.spin_wait)}, CUDA graph {_on(s.cuda_graph)}" for s in settings
    ]
    return f"On the GPU by CUDA events, enqueue on the host; medians where nothing else is said. {'; '.join(words)}."


def _on(setting: bool) -> str:
    return "on" if setting else "off"


def _gpu_warnings(report: BenchReport) -> Iterator[str]:
    for m in report.measurements:
        gpu, name = m.gpu, f"{m.label}, batch {m.batch}"
        if gpu is None:
            continue
        if gpu.launch_bound:
            yield (
                f"{name}: launching takes {gpu.enqueue:.3f} ms of the host, more than {LAUNCH_BOUND:.0%} of the GPU's "
                f"{gpu.compute.p50:.3f} ms, so the host decides the speed; use a CUDA graph or a larger batch"
            )
        if gpu.unsteady:
            yield (
                f"{name}: the GPU's time varies by {gpu.compute_variation:.1%}, more than {UNSTEADY:.1%}; "
                "lock its clocks and keep others off it"
            )
        if gpu.seconds < LEAST_SECONDS or m.samples < LEAST_SAMPLES:
            yield (
                f"{name}: measured for {gpu.seconds:.1f} s and {m.samples} runs, expected at least {LEAST_SECONDS:g} s "
                f"and {LEAST_SAMPLES} runs; use more --rounds"
            )
