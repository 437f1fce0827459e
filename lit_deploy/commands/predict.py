"""The command ``predict``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    Workers,
)
from lit_deploy.commands.values import session_options
from lit_deploy.core.errors import ImagesLeftOut, UsageError
from lit_deploy.core.specs import MAX_BATCH, MAX_TOP
from lit_deploy.core.text import shown_name

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lit_deploy.core.errors import ImageError

MOST_SHOWN = 1000
"""Images above which a table is refused: nobody reads it, and it would be kept in memory."""

Images = Annotated[
    list[Path],
    typer.Argument(
        help="Image files, folders of them, patterns ('photos/**/*.jpg'), and - for paths on stdin, one a line.",
        metavar="IMAGE...",
        show_default=False,
    ),
]
Top = Annotated[
    int | None,
    typer.Option(
        help="Classes or detections per image; 5 classes of a classifier and all that others find when left out.",
        min=1,
        max=MAX_TOP,
        show_default=False,
    ),
]
Out = Annotated[
    list[Path] | None,
    typer.Option(
        help="A .jsonl, .csv or .parquet file for the results, which a killed run goes on with; any other name is a "
        "folder for a picture of every result, and for the map of labels of semantic segmentation. One of each at "
        "most.",
        metavar="FILE|DIR",
        show_default=False,
        rich_help_panel="Report",
    ),
]
ScoreThreshold = Annotated[
    float | None,
    typer.Option(
        help="Hide detections that do not score above this, 0 to 1; the file's own when left out.",
        min=0.0,
        max=1.0,
        show_default=False,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        help="Images per run, 32 when left out; a file of a fixed batch gets its own number.",
        min=1,
        max=MAX_BATCH,
        show_default=False,
        rich_help_panel="Run",
    ),
]


def predict(
    artifact: Artifact,
    images: Images,
    top: Top = None,
    score_threshold: ScoreThreshold = None,
    out: Out = None,
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
    """Print, write and draw what a file finds in images, by the resize rule it carries.

    Images that cannot be used are named and left out, and the exit code is 1; it is 2 where none can be used.

    Transparency is dropped. Detectors and segmentation follow a picture's EXIF orientation, classifiers do not.
    """
    from lit_deploy.report.predict import (
        noting_orientations,
        orientation_hint,
        predictions_json,
        predictions_table,
        written_text,
    )
    from lit_deploy.report.terminal import show, steps
    from lit_deploy.workflows.predict import Wanted, image_files, predicted
    from lit_deploy.workflows.predict_file import predict_to_file

    folder, results = _outs(out or [])
    if json and results is not None:
        raise UsageError(f"--json and --out {results} are two forms of one result; choose one")
    options = session_options(
        [artifact], device=device, threads=threads, library=library, backend=backend, precision_hint=precision_hint,
        allow_engine_code=allow_engine_code,
    )  # fmt: skip
    files = image_files(_named(images), folder)
    if len(files) > MOST_SHOWN and results is None and not json:
        raise UsageError(
            f"{len(files)} images are too many for a table; add --out results.jsonl, a .csv or .parquet file, or --json"
        )
    wanted = Wanted(top, score_threshold, folder, batch, workers)
    bad = 0
    turned: list[str] = []

    def left_out(error: ImageError) -> None:
        nonlocal bad
        bad += 1
        show(f"left out: {shown_name(str(error))}", stderr=True)

    with steps() as progress:
        if results is not None:
            shown: RenderableType = written_text(
                predict_to_file(artifact, files, results, wanted, options, left_out, progress)
            )
        else:
            found = predicted(artifact, files, wanted, options, left_out, progress)
            predictions = noting_orientations(found, turned)
            shown = predictions_json(predictions) if json else predictions_table(predictions)
    show(shown)
    if turned:
        show(orientation_hint(turned), stderr=True)
    if bad:
        raise ImagesLeftOut(f"{bad} of {len(files)} images could not be used and were left out; they are named above")


def _outs(out: list[Path]) -> tuple[Path | None, Path | None]:
    """The folder for pictures and the file for results among the targets, either None."""
    from lit_deploy.workflows.results_files import FORMATS

    results = [path for path in out if path.suffix.lower() in FORMATS and not path.is_dir()]
    folders = [path for path in out if path not in results]
    for path in folders:
        if path.suffix.lower() in (".json", ".ndjson", ".tsv", ".txt"):
            raise UsageError(f"--out {path} is no kind of file that can be written, expected {', '.join(FORMATS)}")
    if len(results) > 1 or len(folders) > 1:
        raise UsageError(f"--out is given {len(out)} times, expected at most one file for results and one folder")
    return folders[0] if folders else None, results[0] if results else None


def _named(images: list[Path]) -> list[Path]:
    """The images that arguments name: files and folders as they are, what patterns match, and what stdin lists."""
    from lit_deploy.images.folders import images_like, is_pattern

    stdin = Path("-")
    if images.count(stdin) > 1:
        raise UsageError("- is named twice, and stdin can be read once; name it once")
    found: list[Path] = []
    for image in images:
        if image == stdin:
            lines = sys.stdin.buffer.read().split(b"\n")
            found += (Path(os.fsdecode(line)) for each in lines if (line := each.removesuffix(b"\r")))
        elif is_pattern(image):
            found += images_like(image)
        else:
            found.append(image)
    return found
