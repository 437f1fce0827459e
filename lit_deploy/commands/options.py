"""Options that several commands share; the others stand beside their command."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Artifact = Annotated[
    str, typer.Argument(help="Exported .onnx file, engine, or checkpoint.", metavar="FILE", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.", rich_help_panel="Report")]
Threads = Annotated[
    int | None,
    typer.Option(help="Threads of one inference; all cores when left out.", min=1, rich_help_panel="Run"),
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
        help="Require, or leave out, the custom-op library; used where found when left out.",
        show_default=False,
        rich_help_panel="Run",
    ),
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.", rich_help_panel="Report")]
