"""Options that several commands share; the others stand beside their command."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from lit_deploy.core.specs import MAX_THREADS

Artifact = Annotated[
    str, typer.Argument(help="Exported .onnx or .xml file, engine, or checkpoint.", metavar="FILE", show_default=False)
]
NetworkKey = Annotated[
    str | None,
    typer.Option(
        "--key",
        help="Which network of a checkpoint with several, e.g. model_ema, dotted for a dict in a dict; the same as "
        "CKPT#NAME. What is under state_dict or model when left out.",
        metavar="NAME",
        show_default=False,
    ),
]
Sha256 = Annotated[
    str | None,
    typer.Option(
        "--sha256", help="Take the checkpoint only if its file has this SHA-256.", metavar="HEX", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.", rich_help_panel="Report")]
Threads = Annotated[
    int | None,
    typer.Option(
        help="Threads of one inference; all cores when left out.", min=1, max=MAX_THREADS, rich_help_panel="Run"
    ),
]
Device = Annotated[
    Literal["cpu", "cuda"], typer.Option(help="Where to run; engines always run on cuda.", rich_help_panel="Run")
]
EngineCode = Annotated[
    bool,
    typer.Option(
        "--allow-engine-code",
        help="Let an engine run the code it carries (embedded plugin, version-compatible); only for files you trust.",
        rich_help_panel="Run",
    ),
]
Library = Annotated[
    bool | None,
    typer.Option(
        "--library/--no-library",
        help="Require, or leave out, our kernels (ONNX Runtime's custom-op library, OpenVINO's extension); used where "
        "found when left out.",
        show_default=False,
        rich_help_panel="Run",
    ),
]
Backend = Annotated[
    Literal["onnxruntime", "openvino"],
    typer.Option(help="What runs an .onnx file; an .xml file always runs on OpenVINO.", rich_help_panel="Run"),
]
PrecisionHint = Annotated[
    Literal["f32", "bf16"] | None,
    typer.Option(
        help="OpenVINO: compute in bfloat16, where this CPU does, or in float32; as the file says when left out.",
        show_default=False,
        rich_help_panel="Run",
    ),
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.", rich_help_panel="Report")]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Threads that decode and resize images; all cores when left out.",
        min=1,
        max=MAX_THREADS,
        show_default=False,
        rich_help_panel="Run",
    ),
]
