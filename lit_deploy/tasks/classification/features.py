"""Whether two sessions give the same feature vectors of the same images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.core.specs import Tolerance
from lit_deploy.tasks.arrays import Pair
from lit_deploy.tasks.comparison import compared
from lit_deploy.tasks.protocol import Metric, OutputAgreement

MIN_SENSITIVITY = 4.0
"""Features must differ between images by at least this many times the allowed error, as logits must; see
``agreement``."""


def agreement(tolerance: Tolerance, pairs: Iterable[Pair]) -> OutputAgreement:
    """Compare the features of a file with those of the float32 reference.

    Args:
        tolerance: limits of the file's precision.
        pairs: ``features`` ``[N, C]`` of the reference and of the file, of the same images.
    """
    expected, got = zip(*pairs, strict=True)
    wanted, found = (np.concatenate([outputs["features"] for outputs in side]) for side in (expected, got))
    error = compared("features", wanted, found)
    faults = []
    if not np.isfinite(found).all():
        faults.append("features: not finite (NaN or infinity)")
    if not error.relative <= tolerance.relative:  # written so that NaN is a fault
        faults.append(f"features: relative error {error.relative:.2e} exceeds {tolerance.relative:.0e}")
    if not error.cosine >= tolerance.cosine:
        faults.append(f"features: cosine {error.cosine:.6f} is below {tolerance.cosine}")
    return OutputAgreement(
        output=error,
        metrics=(
            Metric(
                "relative",
                "relative error, features",
                error.relative,
                f"{error.relative:.2e}",
                f"<= {tolerance.relative:.0e}",
            ),
            Metric("cosine", "cosine, worst image", error.cosine, f"{error.cosine:.7f}", f">= {tolerance.cosine}"),
            Metric("max_abs", "largest absolute error", error.max_abs, f"{error.max_abs:.2e}"),
            Metric("mean_abs", "mean absolute error", error.mean_abs, f"{error.mean_abs:.2e}"),
        ),
        faults=tuple(faults),
        blind=tuple(_blind(wanted, tolerance)),
    )


def _blind(wanted: NDArray[Any], tolerance: Tolerance) -> list[str]:
    """Why nobody would have noticed features that ignore the image; empty where somebody would."""
    spread = float(np.ptp(wanted, axis=0).max())
    if spread >= MIN_SENSITIVITY * tolerance.relative * float(np.abs(wanted).max()):
        return []
    return [
        f"features differ by {spread:.1e} only between the images: they hardly depend on the input, or the images are "
        "equal; give at least two different images"
    ]


def difference(reference: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> float:
    """Largest absolute difference over the reference's largest magnitude; infinite for NaN, and where one of the two
    has no features."""
    if "features" not in reference or "features" not in outputs:
        return float("inf")
    found = compared("features", reference["features"], outputs["features"])
    return found.relative
