"""The command ``evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lit_deploy.commands.options import (
    Backend,
    Device,
    EngineCode,
    Json,
    Library,
    Markdown,
    NetworkKey,
    PrecisionHint,
    Sha256,
    Threads,
    Workers,
)
from lit_deploy.commands.values import checkpoint_source, one_form, session_options, share
from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import MAX_BATCH, MAX_IMAGES

EVALUATE_IMAGES = "Images"
MOST_NAMED = 100_000
"""Most images that a table names."""
GATES = "Gates (exit code 1)"
Artifacts = Annotated[
    list[str], typer.Argument(help="Exported files, engines or checkpoints.", metavar="FILE...", show_default=False)
]
Images = Annotated[
    Path,
    typer.Option(
        help="Folder of images; a classifier's hold one sub-folder per class, unless there is a --labels-file.",
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
Annotations = Annotated[
    Path | None,
    typer.Option(
        help="Of detectors: the true objects, in COCO's JSON (instances_val2017.json).",
        metavar="JSON",
        show_default=False,
        rich_help_panel=EVALUATE_IMAGES,
    ),
]
LabelsDir = Annotated[
    Path | None,
    typer.Option(
        help="Of semantic segmentation: folder of the true label maps, PNG files named as the images, with the class's "
        "number at every pixel, as ADE20K's.",
        show_default=False,
        rich_help_panel=EVALUATE_IMAGES,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        help="Most images, evenly spaced; all when left out.",
        min=1,
        max=MAX_IMAGES,
        show_default=False,
        rich_help_panel=EVALUATE_IMAGES,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        help="Classifiers: images per batch, 32 when left out; a file of a fixed batch gets its own number. All others "
        "take one image at a time.",
        min=1,
        max=MAX_BATCH,
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
Results = Annotated[
    Path | None,
    typer.Option(
        help="Of detectors: also write what FILE detected to this file, in COCO's JSON of results.",
        metavar="JSON",
        show_default=False,
    ),
]
Predictions = Annotated[
    Path | None,
    typer.Option(
        help="Of classifiers: also write the best classes of every image and file to this file, in JSON Lines.",
        metavar="JSONL",
        show_default=False,
    ),
]
PerClass = Annotated[
    bool,
    typer.Option("--per-class", help="Also print a table of all classes.", rich_help_panel="Report"),
]
Misclassified = Annotated[
    int,
    typer.Option(
        help="Of classifiers: also name that many of the images that are predicted wrong; --json has all.",
        min=0,
        max=MOST_NAMED,
        metavar="N",
        rich_help_panel="Report",
    ),
]
Confusion = Annotated[
    Path | None,
    typer.Option(
        help="Of classifiers and semantic segmentation: also draw the confusion matrix, as .png, .svg or .pdf; --json "
        "has it in numbers.",
        metavar="FILE",
        show_default=False,
        rich_help_panel="Report",
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
MinAp = Annotated[
    float | None,
    typer.Option(
        "--min-ap",
        help="Least average precision of boxes (COCO's AP) of every FILE, as --min-top1; in percent, e.g. 41.",
        metavar="PERCENT",
        min=0,
        max=100,
        show_default=False,
        rich_help_panel=GATES,
    ),
]
MinMaskAp = Annotated[
    float | None,
    typer.Option(
        "--min-mask-ap",
        help="The same of masks.",
        metavar="PERCENT",
        min=0,
        max=100,
        show_default=False,
        rich_help_panel=GATES,
    ),
]
MinMiou = Annotated[
    float | None,
    typer.Option(
        "--min-miou",
        help="Least mean intersection over union of every FILE, as --min-top1; in percent, e.g. 41.",
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
        help="Least share of images (of detections, of pixels) on which every FILE says what --ckpt does, or without "
        "it the first FILE; in percent, e.g. 99.",
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
    key: NetworkKey = None,
    sha256: Sha256 = None,
    labels_file: LabelsFile = None,
    folders: Folders = "auto",
    annotations: Annotations = None,
    labels_dir: LabelsDir = None,
    limit: Limit = None,
    batch: Batch = None,
    workers: Workers = None,
    state: State = None,
    device: Device = "cpu",
    threads: Threads = None,
    library: Library = None,
    backend: Backend = "onnxruntime",
    precision_hint: PrecisionHint = None,
    allow_engine_code: EngineCode = False,
    min_top1: MinTop1 = None,
    min_ap: MinAp = None,
    min_mask_ap: MinMaskAp = None,
    min_miou: MinMiou = None,
    min_agreement: MinAgreement = None,
    results: Results = None,
    predictions: Predictions = None,
    per_class: PerClass = False,
    misclassified: Misclassified = 0,
    confusion: Confusion = None,
    json: Json = False,
    markdown: Markdown = False,
) -> None:
    """Measure accuracy on a folder of images, and how far files agree. Goes on where it was killed.

    Top-1 and top-5 of classifiers, COCO's AP of detectors and instance segmentation, mIoU of semantic segmentation.
    """
    from lit_deploy.evaluate.result import check_gates
    from lit_deploy.evaluate.run import evaluate_artifacts
    from lit_deploy.report.charts import check_chart, confusion_plot
    from lit_deploy.report.evaluate import evaluate_markdown, evaluate_table
    from lit_deploy.report.terminal import as_json, show, steps

    one_form(json, markdown)
    given = {"min_top1": min_top1, "min_ap": min_ap, "min_mask_ap": min_mask_ap, "min_miou": min_miou}
    gates = {
        name: share(f"--{name.replace('_', '-')}", percent) for name, percent in given.items() if percent is not None
    }
    agreement = share("--min-agreement", min_agreement)
    if agreement is not None and len(artifacts) + (ckpt is not None) < 2:
        raise UsageError("--min-agreement needs something to agree with; add --ckpt, or name a second file")
    if ckpt is not None:
        ckpt = checkpoint_source(ckpt, key, sha256)
    elif key is not None or sha256 is not None:
        raise UsageError("--key and --sha256 are for --ckpt; write FILE#KEY for a checkpoint among the files")
    if confusion is not None:
        check_chart(confusion)
    tables = {"per_class": per_class, "misclassified": misclassified, "confusion": confusion is not None}
    options = session_options(
        artifacts, device=device, threads=threads, library=library, backend=backend, precision_hint=precision_hint,
        allow_engine_code=allow_engine_code,
    )  # fmt: skip
    with steps() as progress:
        result = evaluate_artifacts(
            artifacts, images, ckpt, labels_file=labels_file, folders=folders, annotations=annotations,
            labels_dir=labels_dir, results=results, predictions=predictions, batch=batch, workers=workers,
            limit=limit, state=state, options=options, progress=progress,
            asked=[*gates, *(name for name, wanted in tables.items() if wanted)],
        )  # fmt: skip
    if json:
        show(as_json(result))
    else:
        table = evaluate_markdown if markdown else evaluate_table
        show(table(result, per_class=per_class, misclassified=misclassified))
    if confusion is not None:
        confusion_plot(result, confusion)
        show(f"wrote {confusion}", stderr=True)
    check_gates(result, min_agreement=agreement, **gates)
