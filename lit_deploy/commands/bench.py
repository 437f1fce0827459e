"""The command ``bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lit_deploy.commands.options import Device, EngineCode, Json, Markdown, Threads
from lit_deploy.commands.values import batch_size, one_form

Artifacts = Annotated[
    list[str] | None,
    typer.Argument(
        help="Exported files to measure; LIT-S with seeded weights on everything here when left out.",
        metavar="[FILE]...",
        show_default=False,
    ),
]
Ckpt = Annotated[
    str | None, typer.Option("--ckpt", help="Also measure PyTorch on this checkpoint.", show_default=False)
]
Batch = Annotated[str, typer.Option(help="Batch sizes, separated by commas.", rich_help_panel="Run")]
Rounds = Annotated[
    int, typer.Option(help="Turns of every contender; ratios are taken turn by turn.", min=1, rich_help_panel="Run")
]
Plot = Annotated[Path | None, typer.Option(help="Draw a chart: PNG, SVG or PDF.", rich_help_panel="Report")]


def bench(
    artifacts: Artifacts = None,
    ckpt: Ckpt = None,
    batch: Batch = "1,8",
    rounds: Rounds = 20,
    device: Device = "cpu",
    threads: Threads = None,
    allow_engine_code: EngineCode = False,
    json: Json = False,
    markdown: Markdown = False,
    plot: Plot = None,
) -> None:
    """Measure latency, throughput and memory, contenders taking turns in processes of their own."""
    from lit_deploy.bench.run import bench_files
    from lit_deploy.report.bench import bench_markdown, bench_table
    from lit_deploy.report.charts import bench_plot, check_chart
    from lit_deploy.report.terminal import as_json, show, steps

    one_form(json, markdown)
    batches = tuple(batch_size("--batch", part, "numbers separated by commas, e.g. 1,8") for part in batch.split(","))
    if plot is not None:
        check_chart(plot)
    with steps() as progress:
        result = bench_files(
            artifacts or [], ckpt, batches=batches, rounds=rounds, threads=threads, device=device,
            allow_engine_code=allow_engine_code, progress=progress,
        )  # fmt: skip
    if plot is not None:
        bench_plot(result, plot)
    if json:
        show(as_json(result))
    elif markdown:
        show(bench_markdown(result))
    else:
        show(bench_table(result))
