"""The command ``verify``."""

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
    NetworkKey,
    PrecisionHint,
    Sha256,
    Threads,
)
from lit_deploy.commands.values import checkpoint_source, session_options
from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import MAX_IMAGES

Checkpoint = Annotated[
    str,
    typer.Option(
        "--ckpt",
        help="Checkpoint file (.pth, .safetensors), official name (lit_s) or https URL.",
        metavar="CKPT",
        show_default=False,
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(help="Directory of images; eight seeded images when left out.", show_default=False),
]
Limit = Annotated[int, typer.Option(help="Most images taken from the directory.", min=1, max=MAX_IMAGES)]
Layers = Annotated[
    bool, typer.Option("--layers", help="Compare every block and merging, and name the first that departs.")
]
Plot = Annotated[
    Path | None,
    typer.Option(help="Draw the error per layer: PNG, SVG or PDF (with --layers).", rich_help_panel="Report"),
]


def verify(
    artifact: Artifact,
    ckpt: Checkpoint,
    key: NetworkKey = None,
    sha256: Sha256 = None,
    images: Images = None,
    limit: Limit = 64,
    layers: Layers = False,
    plot: Plot = None,
    json: Json = False,
    device: Device = "cpu",
    threads: Threads = None,
    library: Library = None,
    backend: Backend = "onnxruntime",
    precision_hint: PrecisionHint = None,
    allow_engine_code: EngineCode = False,
) -> None:
    """Compare a file with the PyTorch float32 model of its checkpoint. Exits with 1 when it departs."""
    from lit_deploy.report.charts import check_chart, layers_plot
    from lit_deploy.report.terminal import as_json, show
    from lit_deploy.report.verify import layers_table, verify_table
    from lit_deploy.workflows.verify import verify_artifact

    if plot is not None and not layers:
        raise UsageError("--plot draws the error per layer; add --layers")
    if plot is not None:
        check_chart(plot)
    options = session_options(
        [artifact], device=device, threads=threads, library=library, backend=backend, precision_hint=precision_hint,
        allow_engine_code=allow_engine_code,
    )  # fmt: skip
    ckpt = checkpoint_source(ckpt, key, sha256)
    result = verify_artifact(artifact, ckpt, images=images, limit=limit, layers=layers, options=options)
    if json:
        show(as_json(result))
    else:
        show(verify_table(result))
        if layers:
            show(layers_table(result))
    if plot is not None:  # after what cost the time
        layers_plot(result, plot)
        show(f"wrote {plot}", stderr=True)
    if result.verdict != "pass":
        raise typer.Exit(1)
