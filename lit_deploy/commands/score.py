"""The command ``score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lit_deploy.commands.options import (
    Artifact,
    Backend,
    Device,
    EngineCode,
    Json,
    Library,
    PrecisionHint,
    Threads,
)
from lit_deploy.commands.predict import Batch, ScoreThreshold, Top
from lit_deploy.commands.values import session_options, worker_range
from lit_deploy.core.errors import ImagesLeftOut, UsageError
from lit_deploy.core.specs import MAX_SHARD_SIZE, SHARD_SIZE

if TYPE_CHECKING:
    from lit_deploy.score.engine import Opened

MOST_NAMED = 20
"""Pictures that cannot be used of which every one is named on stderr; results name all."""

MAX_GPUS = 64
"""Most GPUs of a session; more is a typing mistake."""

Sources = Annotated[
    list[str],
    typer.Argument(
        help="Folders, images, patterns ('shards/*.tar'), .txt lists of paths, .parquet tables and .tar archives, as "
        "paths or URLs (s3://, gs://, https://).",
        metavar="SOURCE...",
        show_default=False,
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        help="Folder of the results, .parquet files of --shard-size images each; a killed run goes on there.",
        metavar="DIR",
        show_default=False,
    ),
]
Column = Annotated[
    str | None,
    typer.Option(
        help="Of .parquet tables: the column of images or their paths; 'image', or the only one that can be, when left "
        "out.",
        metavar="NAME",
        show_default=False,
    ),
]
ShardSize = Annotated[int, typer.Option(help="Images a file of results.", min=1, max=MAX_SHARD_SIZE)]
RetryErrors = Annotated[
    bool,
    typer.Option("--retry-errors", help="Also score files of results again in which images could not be used."),
]
Workers = Annotated[
    str | None,
    typer.Option(
        help="Engine local: processes that read and decode images; as many as there are cores when left out. Engine "
        "ray: sessions, as many as are needed between two numbers; from one to one a machine, or one a GPU, when left "
        "out.",
        metavar="N|MIN:MAX",
        show_default=False,
        rich_help_panel="Run",
    ),
]
EngineName = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", help="Where it runs: on this machine, or on a Ray cluster.", rich_help_panel="Run"),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Engine ray: the cluster; one that starts here for this run when left out.",
        metavar="auto|HOST:PORT",
        show_default=False,
        rich_help_panel="Run",
    ),
]
GpusPerWorker = Annotated[
    float,
    typer.Option(
        help="Engine ray: GPUs of a session; a part of one where several share it.",
        min=0,
        max=MAX_GPUS,
        rich_help_panel="Run",
    ),
]


def score(
    artifact: Artifact,
    sources: Sources,
    out: Out,
    column: Column = None,
    top: Top = None,
    score_threshold: ScoreThreshold = None,
    shard_size: ShardSize = SHARD_SIZE,
    retry_errors: RetryErrors = False,
    json: Json = False,
    batch: Batch = None,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = 0.0,
    device: Device = "cpu",
    threads: Threads = None,
    library: Library = None,
    backend: Backend = "onnxruntime",
    precision_hint: PrecisionHint = None,
    allow_engine_code: EngineCode = False,
) -> None:
    """Score any number of images into Parquet files: a row an image. Goes on where it was killed.

    Images that cannot be used have a row that says why, and the exit code is 1.
    """
    from lit_deploy.core.text import shown_name
    from lit_deploy.report.score import score_text
    from lit_deploy.report.terminal import as_json, show, steps
    from lit_deploy.score.job import Job, Wanted
    from lit_deploy.score.run import score as run

    options = session_options(
        [artifact], device=device, threads=threads, library=library, backend=backend, precision_hint=precision_hint,
        allow_engine_code=allow_engine_code,
    )  # fmt: skip
    opened = _engine(engine, address, workers, gpus_per_worker)
    wanted = Wanted(top, score_threshold, batch)
    job = Job(artifact, tuple(sources), wanted, options, column, shard_size)
    named = 0

    def left_out(path: str, error: str) -> None:
        nonlocal named
        named += 1
        if named <= MOST_NAMED:
            show(f"left out: {shown_name(path)}: {shown_name(error)}", stderr=True)

    with steps() as progress:
        summary = run(job, out, engine=opened, retry_errors=retry_errors, left_out=left_out, progress=progress)
    if named > MOST_NAMED:
        show(f"left out: {named - MOST_NAMED} more, which the column error names", stderr=True)
    show(as_json(summary) if json else score_text(summary))
    if summary.errors:
        raise ImagesLeftOut(
            f"{summary.errors:,} of {summary.pictures:,} images could not be used; the column error says why"
        )


def _engine(name: str, address: str | None, workers: str | None, gpus_per_worker: float) -> Opened:
    """The engine that is meant; an option of the other one is refused."""
    from lit_deploy.score.engine import local
    from lit_deploy.score.on_ray import Cluster, on_ray

    counts = None if workers is None else worker_range(workers, several=name == "ray")
    if name == "ray":
        return on_ray(Cluster(address, counts, gpus_per_worker))
    if address is not None or gpus_per_worker:
        raise UsageError("--address and --gpus-per-worker are for --engine ray; add it, or leave them out")
    return local(None if counts is None else counts[1])
