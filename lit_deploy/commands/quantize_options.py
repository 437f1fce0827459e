"""Options of ``export`` and ``quantize`` that concern files of 8 bits."""

from __future__ import annotations

from typing import Annotated

import typer

from lit_deploy.core.specs import MAX_CALIBRATION_IMAGES, CalibrationMethod

EIGHT_BITS = "Eight bits (--precision int8, fp8)"
CALIB = "Images to choose ranges with: a folder, or an .npz (uint8 NHWC, or normalised float32 NCHW)."
CalibMethod = Annotated[
    CalibrationMethod,
    typer.Option(
        help="Range of an activation: its largest magnitude, a percentile of the magnitudes, or the threshold of least "
        "divergence.",
        rich_help_panel=EIGHT_BITS,
    ),
]
CalibPercentile = Annotated[
    float | None,
    typer.Option(help="For percentile; 99.99 when left out.", show_default=False, rich_help_panel=EIGHT_BITS),
]
CalibLimit = Annotated[
    int,
    typer.Option(
        help="Most calibration images, evenly spaced.", min=1, max=MAX_CALIBRATION_IMAGES, rich_help_panel=EIGHT_BITS
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        help="Leave these PyTorch modules unquantised, e.g. 'layers.3.*'; may be repeated.",
        show_default=False,
        rich_help_panel=EIGHT_BITS,
    ),
]
AccuracyBudget = Annotated[
    float,
    typer.Option(
        metavar="PERCENT",
        help="Most calibration images whose top-1 may differ from fp32; beyond it nothing is written (exit code 1).",
        min=0,
        max=100,
        rich_help_panel=EIGHT_BITS,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Write the file even if it is over the budget, slower than fp32, or beyond the limits of parity.",
        rich_help_panel=EIGHT_BITS,
    ),
]
EIGHT_BIT_OPTIONS = ("calib_method", "calib_percentile", "calib_limit", "keep", "accuracy_budget", "force")
