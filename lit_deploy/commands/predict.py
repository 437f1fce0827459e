"""The command ``predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lit_deploy.commands.options import Artifact, Device, EngineCode, Json, Library, Threads
from lit_deploy.commands.values import session_options

Images = Annotated[list[Path], typer.Argument(help="Image files.", metavar="IMAGE...", show_default=False)]
Top = Annotated[int, typer.Option(help="Classes per image.", min=1)]


def predict(
    artifact: Artifact,
    images: Images,
    top: Top = 5,
    json: Json = False,
    device: Device = "cpu",
    threads: Threads = None,
    library: Library = None,
    allow_engine_code: EngineCode = False,
) -> None:
    """Print the most probable classes of images, by the resize rule the file carries."""
    from lit_deploy.report.predict import predictions_table
    from lit_deploy.report.terminal import as_json, show
    from lit_deploy.workflows.predict import predict_images

    options = session_options([artifact], device, threads, library, allow_engine_code)
    predictions = predict_images(artifact, images, top, options)
    show(as_json(predictions) if json else predictions_table(predictions))
