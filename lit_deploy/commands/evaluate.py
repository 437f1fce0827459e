"""The command ``evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lit_deploy.commands.options import Device, EngineCode, Json, Library, Markdown, Threads
from lit_deploy.commands.values import one_form, session_options, share
from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import MAX_BATCH

EVALUATE_IMAGES = "Images"
GATES = "Gates (exit code 1)"
Artifacts = Annotated[
    list[str], typer.Argument(help="Exported files, engines or checkpoints.", metavar="FILE...", show_default=False)
]
Images = Annotated[
    Path,
    typer.Option(
        help="Folder with one sub-folder of images per class, or, with --labels-file, of images.",
        show_default=False,
        rich_help_panel=EVALUATE_IMAGES,
    ),
]
Ckpt = Annotated[
    str | None,
    typer.Option(
        "--ckpt",
        help="Also evaluate PyTorch on this checkpoint, and compare the files with it; with the first file when left "
        "out.",
        metavar="CKPT",
        show_default=False,
    ),
]
LabelsFile = Annotated[
    Path | None,
    typer.Option(
        help="Text: a file and its class (name, or index from 0) on every line; or only classes, for the images in "
        "sorted order.",
        show_default=False,
        rich_help_panel=EVALUATE_IMAGES,
    ),
]
Folders = Annotated[
    Literal["auto", "name", "index", "order"],
    typer.Option(
        help="What names of class folders are: the file's labels, class indices from 0, or sorted in the order of "
        "the classes (as torchvision's ImageFolder); auto takes the first that fits.",
        rich_help_panel=EVALUATE_IMAGES,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        help="Most images, evenly spaced; all when left out.",
        min=1,
        show_default=False,
        rich_help_panel=EVALUATE_IMAGES,
    ),
]
Batch = Annotated[
    int,
    typer.Option(
        help="Images per batch; a file of a fixed batch gets its own number.",
        min=1,
        max=MAX_BATCH,
        rich_help_panel="Run",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Threads that decode and resize images; all cores when left out.",
        min=1,
        show_default=False,
        rich_help_panel="Run",
    ),
]
State = Annotated[
    Path | None,
    typer.Option(
        help="File that finished batches are added to, and that a killed evaluation goes on from; one in the cache "
        "folder, until the evaluation is complete, when left out.",
        metavar="FILE",
        show_default=False,
        rich_help_panel="Run",
    ),
]
MinTop1 = Annotated[
    float | None,
    typer.Option(
        "--min-top1",
        help="Least top-1 accuracy of every FILE, the first too, but not of --ckpt; in percent, e.g. 81.",
        metavar="PERCENT",
        min=0,
        max=100,
        show_default=False,
        rich_help_panel=GATES,
    ),
]
MinAgreement = Annotated[
    float | None,
    typer.Option(
        help="Least share of images on which every FILE predicts as --ckpt does, or without it as the first FILE; in "
        "percent, e.g. 99.",
        metavar="PERCENT",
        min=0,
        max=100,
        show_default=False,
        rich_help_panel=GATES,
    ),
]


def evaluate(
    artifacts: Artifacts,
    images: Images,
    ckpt: Ckpt = None,
    labels_file: LabelsFile = None,
    folders: Folders = "auto",
    limit: Limit = None,
    batch: Batch = 32,
    workers: Workers = None,
    state: State = None,
    device: Device = "cpu",
    threads: Threads = None,
    library: Library = None,
    allow_engine_code: EngineCode = False,
    min_top1: MinTop1 = None,
    min_agreement: MinAgreement = None,
    json: Json = False,
    markdown: Markdown = False,
) -> None:
    """Measure accuracy on a folder of images, and how far files agree. Goes on where it was killed."""
    from lit_deploy.evaluate.result import check_gates
    from lit_deploy.evaluate.run import evaluate_artifacts
    from lit_deploy.report.evaluate import evaluate_markdown, evaluate_table
    from lit_deploy.report.terminal import as_json, show, steps

    one_form(json, markdown)
    top1, agreement = share("--min-top1", min_top1), share("--min-agreement", min_agreement)
    if agreement is not None and len(artifacts) + (ckpt is not None) < 2:
        raise UsageError("--min-agreement needs something to agree with; add --ckpt, or name a second file")
    options = session_options(artifacts, device, threads, library, allow_engine_code)
    with steps() as progress:
        result = evaluate_artifacts(
            artifacts, images, ckpt, labels_file=labels_file, folders=folders, batch=batch, workers=workers,
            limit=limit, state=state, options=options, progress=progress,
        )  # fmt: skip
    if json:
        show(as_json(result))
    else:
        show(evaluate_markdown(result) if markdown else evaluate_table(result))
    check_gates(result, top1, agreement)
