"""The command ``explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lit_deploy.commands.options import Json, Library, Threads
from lit_deploy.core.errors import UsageError

Model = Annotated[Path, typer.Argument(help="Exported .onnx file, of any task; not a portable one.", metavar="FILE")]
Photo = Annotated[Path, typer.Argument(help="Image file.", metavar="IMAGE")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Picture to write, .png.", metavar="PNG")]
Tokens = Annotated[
    list[str] | None,
    typer.Option(
        "--token",
        help="A token whose attention is drawn, too: row and column, from 0, of the map of stage 3, which has a token "
        "for every 16 x 16 pixels. May be given several times.",
        metavar="ROW,COL",
        show_default=False,
    ),
]
MOST_TOKENS = 16


def explain(
    artifact: Model,
    image: Photo,
    out: Out = Path("explain.png"),
    token: Tokens = None,
    json: Json = False,
    threads: Threads = None,
    library: Library = None,
) -> None:
    """Draw where a file looks in a picture: what its mergings sample, and what tokens attend to.

    It is read from the file itself, by ONNX Runtime, and not from PyTorch.
    """
    from lit_deploy.backends.protocol import SessionOptions
    from lit_deploy.core.files import check_target
    from lit_deploy.report.explain import explanation_json, explanation_table, save_explanation
    from lit_deploy.report.terminal import show
    from lit_deploy.workflows.explain import explain_image

    if out.suffix.lower() != ".png":
        raise UsageError(f"--out is {out}, expected a name that ends in .png")
    if out.exists() and image.exists() and out.samefile(image):
        raise UsageError(f"--out {out} is the image itself; choose another name")
    check_target(out)
    tokens = [_token(each) for each in token or []]
    if len(tokens) > MOST_TOKENS:
        raise UsageError(f"--token is given {len(tokens)} times, expected at most {MOST_TOKENS}")
    found = explain_image(artifact, image, tokens, SessionOptions(threads=threads, library=library))
    save_explanation(found, out)
    show(explanation_json(found, out) if json else explanation_table(found))
    if not json:
        show(f"wrote {out}")


def _token(given: str) -> tuple[int, int]:
    """``ROW,COL``."""
    numbers = [part.strip() for part in given.split(",")]
    if len(numbers) != 2 or not all(number.isdecimal() and len(number) < 6 for number in numbers):
        raise UsageError(f"--token is '{given}', expected a row and a column from 0, e.g. --token 6,7")
    return int(numbers[0]), int(numbers[1])
