"""The options of engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lit_deploy.core.specs import MAX_SIDE, MAX_WORKSPACE_MIB

ENGINE = "Engine (--format trt)"
ENGINE_OPTIONS = (
    "max_original", "nms_candidates", "builder", "plugin", "embed_plugin", "target", "hardware_compatible",
    "version_compatible", "workspace",
    "optimization_level", "timing_cache", "layers",
)  # fmt: skip
Builder = Annotated[
    Literal["auto", "tensorrt", "tensorrt_rtx"],
    typer.Option(
        help="auto: tensorrt where it and a GPU are, else tensorrt_rtx, which also builds without a GPU.",
        rich_help_panel=ENGINE,
    ),
]
MaxOriginal = Annotated[
    int,
    typer.Option(
        metavar="PIXELS",
        help="Longest side of a picture before it is resized, of detection and segmentation.",
        min=1,
        max=MAX_SIDE,
        rich_help_panel=ENGINE,
    ),
]
NmsCandidates = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Best candidates of a detector that are compared with each other; the output 'complete' says whether more "
        "could have changed the result.",
        min=1,
        max=3840,
        rich_help_panel=ENGINE,
    ),
]
Plugin = Annotated[
    bool | None,
    typer.Option(
        "--plugin/--no-plugin",
        help="Require the plugin, or build the function in the file, which needs no library anywhere; the plugin "
        "where its library is found when left out.",
        show_default=False,
        rich_help_panel=ENGINE,
    ),
]
EmbedPlugin = Annotated[
    bool, typer.Option("--embed-plugin", help="Put the plugin library into the engine.", rich_help_panel=ENGINE)
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="CAPABILITIES",
        help="tensorrt_rtx: compute capabilities to build for, separated by commas, e.g. 8.6,8.9,12.0; all "
        "from 8.0 when left out.",
        show_default=False,
        rich_help_panel=ENGINE,
    ),
]
HardwareCompatible = Annotated[
    bool,
    typer.Option(
        "--hardware-compatible",
        help="tensorrt: run on every GPU of compute capability 8.0 and above.",
        rich_help_panel=ENGINE,
    ),
]
VersionCompatible = Annotated[
    bool,
    typer.Option(
        "--version-compatible",
        help="tensorrt: run on later releases of the same major version too.",
        rich_help_panel=ENGINE,
    ),
]
Workspace = Annotated[
    int | None,
    typer.Option(
        metavar="MIB",
        help="Most scratch memory of a layer in MiB.",
        min=1,
        max=MAX_WORKSPACE_MIB,
        show_default=False,
        rich_help_panel=ENGINE,
    ),
]
OptimizationLevel = Annotated[
    int | None,
    typer.Option(metavar="LEVEL", help="0 (fast build) to 5; 3 when left out.", min=0, max=5, rich_help_panel=ENGINE),
]
TimingCache = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="tensorrt: file of measured kernel times, read if it is there, and written.",
        show_default=False,
        rich_help_panel=ENGINE,
    ),
]
Layers = Annotated[
    bool,
    typer.Option(
        "--layers",
        help="Debug build: layers are outputs too, for `verify --layers`.",
        rich_help_panel=ENGINE,
    ),
]
