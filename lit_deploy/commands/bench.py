"""The command ``bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lit_deploy.commands.options import Device, EngineCode, Json, Markdown, NetworkKey, Sha256, Threads
from lit_deploy.commands.values import batch_size, checkpoint_source, height_width, one_form
from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import MAX_ROUNDS

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
Batch = Annotated[
    str | None,
    typer.Option(
        help="Batch sizes, separated by commas; 1,8 for classifiers and 1 for others when left out.",
        show_default=False,
        rich_help_panel="Run",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="HxW",
        help="Height and width of the picture in pixels, for detectors and segmentation networks; an ordinary one when "
        "left out.",
        show_default=False,
        rich_help_panel="Run",
    ),
]
Rounds = Annotated[
    int,
    typer.Option(
        help="Turns of every contender; ratios are taken turn by turn.", min=1, max=MAX_ROUNDS, rich_help_panel="Run"
    ),
]
Plot = Annotated[Path | None, typer.Option(help="Draw a chart: PNG, SVG or PDF.", rich_help_panel="Report")]


def bench(
    artifacts: Artifacts = None,
    ckpt: Ckpt = None,
    key: NetworkKey = None,
    sha256: Sha256 = None,
    batch: Batch = None,
    size: Size = None,
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
    batches = None
    if batch is not None:
        expected = "numbers separated by commas, e.g. 1,8"
        batches = tuple(batch_size("--batch", part, expected) for part in batch.split(","))
    if plot is not None:
        check_chart(plot)
    if ckpt is not None:
        ckpt = checkpoint_source(ckpt, key, sha256)
    elif key is not None or sha256 is not None:
        raise UsageError("--key and --sha256 are for --ckpt; write FILE#KEY for a checkpoint among the files")
    with steps() as progress:
        result = bench_files(
            artifacts or [], ckpt, batches=batches, rounds=rounds, threads=threads, size=height_width("--size", size),
            device=device, allow_engine_code=allow_engine_code, progress=progress,
        )  # fmt: skip
    if json:
        show(as_json(result))
    elif markdown:
        show(bench_markdown(result))
    else:
        show(bench_table(result))
    if plot is not None:  # after what cost the time
        bench_plot(result, plot)
        show(f"wrote {plot}", stderr=True)
