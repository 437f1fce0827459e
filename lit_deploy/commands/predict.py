"""The command ``predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lit_deploy.commands.options import Artifact, Backend, Device, EngineCode, Json, Library, PrecisionHint, Threads
from lit_deploy.commands.values import session_options
from lit_deploy.core.specs import MAX_TOP

Images = Annotated[
    list[Path], typer.Argument(help="Image files, or folders of them.", metavar="IMAGE...", show_default=False)
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
    Path | None,
    typer.Option(
        help="Folder for a picture of every result, and for the map of labels of semantic segmentation.",
        metavar="DIR",
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


def predict(
    artifact: Artifact,
    images: Images,
    top: Top = None,
    score_threshold: ScoreThreshold = None,
    out: Out = None,
    json: Json = False,
    device: Device = "cpu",
    threads: Threads = None,
    library: Library = None,
    backend: Backend = "onnxruntime",
    precision_hint: PrecisionHint = None,
    allow_engine_code: EngineCode = False,
) -> None:
    """Print, and draw, what a file finds in images, by the resize rule it carries.

    Transparency is dropped. Detectors and segmentation follow a picture's EXIF orientation, classifiers do not.
    """
    from lit_deploy.report.predict import noting_orientations, orientation_hint, predictions_json, predictions_table
    from lit_deploy.report.terminal import show
    from lit_deploy.workflows.predict import predicted

    options = session_options(
        [artifact], device=device, threads=threads, library=library, backend=backend, precision_hint=precision_hint,
        allow_engine_code=allow_engine_code,
    )  # fmt: skip
    turned: list[str] = []
    predictions = noting_orientations(predicted(artifact, images, top, options, out, score_threshold), turned)
    show(predictions_json(predictions) if json else predictions_table(predictions))
    if turned:
        show(orientation_hint(turned), stderr=True)
