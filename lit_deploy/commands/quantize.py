"""The command ``quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lit_deploy.commands.options import Backend, Json, Threads
from lit_deploy.commands.quantize_options import (
    CALIB,
    EIGHT_BITS,
    AccuracyBudget,
    CalibLimit,
    CalibMethod,
    CalibPercentile,
    Force,
    Keep,
)
from lit_deploy.commands.values import quantize_options
from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import EightBit

RequiredCalib = Annotated[
    Path, typer.Option("--calib", metavar="DIR|NPZ", help=CALIB, show_default=False, rich_help_panel=EIGHT_BITS)
]
EightBits = Annotated[EightBit, typer.Option(help="Type of the matrix products.", rich_help_panel=EIGHT_BITS)]
Artifact = Annotated[
    str, typer.Argument(help="Exported .onnx file of fp32 or fp16.", metavar="FILE", show_default=False)
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="File to write; <file>_<precision>.onnx here when left out.",
        show_default=False,
    ),
]
Scan = Annotated[
    bool,
    typer.Option(
        "--scan", help="Write nothing: quantise every module alone, rank them, and measure what to keep for the budget."
    ),
]


def quantize(
    artifact: Artifact,
    calib: RequiredCalib,
    out: Out = None,
    precision: EightBits = "int8",
    scan: Scan = False,
    calib_method: CalibMethod = "minmax",
    calib_percentile: CalibPercentile = None,
    calib_limit: CalibLimit = 128,
    keep: Keep = None,
    accuracy_budget: AccuracyBudget = 1.0,
    force: Force = False,
    threads: Threads = None,
    backend: Backend = "onnxruntime",
    json: Json = False,
) -> None:
    """Quantise an exported file to 8 bits; or (--scan) rank its modules by the damage that does, and propose --keep."""
    from lit_deploy.quantize.run import quantize_file, scan_file
    from lit_deploy.report.quantize import quantize_summary, scan_table
    from lit_deploy.report.terminal import as_json, show, steps

    options = quantize_options(
        calib=calib, method=calib_method, percentile=calib_percentile, limit=calib_limit, keep=keep,
        budget=accuracy_budget, force=force,
    )  # fmt: skip
    if scan and (out is not None or force):
        raise UsageError(f"--scan writes no file; drop {'--out' if out is not None else '--force'}")
    if scan and backend != "onnxruntime":
        raise UsageError("--scan runs on ONNX Runtime, which shows every value of a graph; drop --backend")
    with steps() as progress:
        if scan:
            found = scan_file(artifact, options, precision, threads=threads, progress=progress)
        else:
            path = out or Path(f"{Path(artifact).stem}_{precision}.onnx")
            result = quantize_file(
                artifact, path, options, precision, threads=threads, backend=backend, progress=progress
            )
    if scan:
        show(as_json(found) if json else scan_table(found))
    else:
        show(as_json(result) if json else quantize_summary(result))
