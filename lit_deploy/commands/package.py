"""The command ``package`` and its options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lit_deploy.commands.options import EngineCode, Json
from lit_deploy.core.specs import MAX_BATCH
from lit_deploy.packaging.options import MAX_COPIES, MAX_DELAY_US

SERVING = "Serving"
IMAGE = "Container"

Source = Annotated[str, typer.Argument(help="Exported .onnx file or engine.", metavar="FILE", show_default=False)]
Target = Annotated[Literal["triton"], typer.Option(help="Server to write a package for.")]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", metavar="DIR", help="Model repository; made when it is not there, other models in it stay."
    ),
]
Name = Annotated[
    str | None, typer.Option(help="Name of the model; the file's when left out.", metavar="NAME", show_default=False)
]
Ensemble = Annotated[
    bool,
    typer.Option(
        "--ensemble/--raw",
        help="Take encoded images (JPEG, PNG ...), which the server decodes, resizes and crops by the file's rule; or "
        "the network's own tensors.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a model of that name, and the parts it has.")]
MaxBatch = Annotated[
    int | None,
    typer.Option(
        help="Largest batch that Triton puts together; 8, or all that an engine takes, when left out.",
        min=1,
        max=MAX_BATCH,
        show_default=False,
        rich_help_panel=SERVING,
    ),
]
MaxDelay = Annotated[
    int,
    typer.Option(
        "--max-delay-us",
        metavar="MICROSECONDS",
        help="Longest that a request waits for others to share its batch.",
        min=0,
        max=MAX_DELAY_US,
        rich_help_panel=SERVING,
    ),
]
Instances = Annotated[
    int,
    typer.Option(
        help="Copies of the network that run at the same time: per GPU, or on the CPU.",
        min=1,
        max=MAX_COPIES,
        rich_help_panel=SERVING,
    ),
]
Device = Annotated[
    Literal["cpu", "cuda"] | None,
    typer.Option(
        help="Where an .onnx file runs, cpu when left out; engines run on cuda.",
        show_default=False,
        rich_help_panel=SERVING,
    ),
]
Backend = Annotated[
    Literal["onnxruntime", "openvino"] | None,
    typer.Option(
        help="What runs an .onnx file, onnxruntime when left out; openvino takes portable files, on the CPU.",
        show_default=False,
        rich_help_panel=SERVING,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="Threads of one inference on the CPU; all cores when left out.",
        min=1,
        max=MAX_COPIES,
        show_default=False,
        rich_help_panel=SERVING,
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        help="Processes that decode and resize images; for detectors and segmentation networks as many again make "
        "answers of what is found.",
        min=1,
        max=MAX_COPIES,
        rich_help_panel=SERVING,
    ),
]
Library = Annotated[
    bool | None,
    typer.Option(
        "--library/--no-library",
        help="Require, or leave out, the custom-op library; shipped where found when left out.",
        show_default=False,
        rich_help_panel=SERVING,
    ),
]
Release = Annotated[
    str | None,
    typer.Option(
        "--triton",
        metavar="YY.MM",
        help="Container release of Triton; an engine needs the one with its TensorRT, 26.06 for .onnx files when left "
        "out.",
        show_default=False,
        rich_help_panel=IMAGE,
    ),
]
Image = Annotated[
    str | None,
    typer.Option(
        metavar="IMAGE",
        help="Container image that Kubernetes pulls; named after the model, or Triton's own, when left out.",
        show_default=False,
        rich_help_panel=IMAGE,
    ),
]


def package(
    source: Source,
    target: Target,
    out: Out = Path("model_repository"),
    name: Name = None,
    ensemble: Ensemble = True,
    force: Force = False,
    max_batch: MaxBatch = None,
    max_delay_us: MaxDelay = 500,
    instances: Instances = 1,
    device: Device = None,
    backend: Backend = None,
    threads: Threads = None,
    workers: Workers = 2,
    library: Library = None,
    allow_engine_code: EngineCode = False,
    triton: Release = None,
    image: Image = None,
    json: Json = False,
) -> None:
    """Package an exported file for a server: a Triton model repository, with its start command and Kubernetes files."""
    from lit_deploy.packaging.options import TritonOptions
    from lit_deploy.packaging.package import package_triton
    from lit_deploy.report.package import package_summary
    from lit_deploy.report.terminal import as_json, show

    options = TritonOptions(
        name=name,
        max_batch=max_batch,
        max_delay_us=max_delay_us,
        instances=instances,
        threads=threads,
        workers=workers,
        device=device,
        backend=backend,
        library=library,
        ensemble=ensemble,
        release=triton,
        image=image,
        allow_engine_code=allow_engine_code,
        force=force,
    )
    result = package_triton(source, out, options)
    show(as_json(result) if json else package_summary(result))
