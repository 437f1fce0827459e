"""The command ``score``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from lit_deploy.commands.values import session_options
from lit_deploy.core.errors import ImagesLeftOut
from lit_deploy.core.specs import MAX_SHARD_SIZE, MAX_THREADS, SHARD_SIZE

MOST_NAMED = 20
"""Pictures that cannot be used of which every one is named on stderr; results name all."""

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
    int | None,
    typer.Option(
        help="Processes that read and decode images; as many as there are cores when left out.",
        min=1,
        max=MAX_THREADS,
        show_default=False,
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
    workers: Workers = None,
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
    from lit_deploy.score.engine import Wanted, local
    from lit_deploy.score.plan import Job
    from lit_deploy.score.run import score as run

    options = session_options(
        [artifact], device=device, threads=threads, library=library, backend=backend, precision_hint=precision_hint,
        allow_engine_code=allow_engine_code,
    )  # fmt: skip
    wanted = Wanted(top, score_threshold, batch)
    job = Job(artifact, tuple(sources), wanted, options, column, shard_size)
    named = 0

    def left_out(path: str, error: str) -> None:
        nonlocal named
        named += 1
        if named <= MOST_NAMED:
            show(f"left out: {shown_name(path)}: {shown_name(error)}", stderr=True)

    with steps() as progress:
        summary = run(job, out, engine=local(workers), retry_errors=retry_errors, left_out=left_out, progress=progress)
    if named > MOST_NAMED:
        show(f"left out: {named - MOST_NAMED} more, which the column error names", stderr=True)
    show(as_json(summary) if json else score_text(summary))
    if summary.errors:
        raise ImagesLeftOut(
            f"{summary.errors:,} of {summary.pictures:,} images could not be used; the column error says why"
        )
