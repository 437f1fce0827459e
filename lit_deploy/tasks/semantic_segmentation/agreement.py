"""Whether two sessions give pixels the same labels where the reference is sure, and whether a fault would show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.core.specs import Tolerance
from lit_deploy.tasks.comparison import RunningComparison
from lit_deploy.tasks.protocol import Metric, OutputAgreement, Outputs, Pair


@dataclass
class _Pixels:
    """Counts over all pictures: pixels, those of another label, those of another label that are not tied."""

    total: int = 0
    differing: int = 0
    wrong: int = 0


def reference(manifest: Manifest) -> Manifest:
    """Logits, as label maps alone do not tell which pixels are tied."""
    return replace(manifest, output="logits")


def agreement(manifest: Manifest, tolerance: Tolerance, pairs: Iterable[Pair]) -> OutputAgreement:
    """Compare label maps, or logits, with the logits of the float32 reference, picture by picture.

    A pixel whose two best logits are nearer than twice the allowed error is tied: either label will do.

    Args:
        manifest: of the tested file; ``tolerance``: the limits of its precision.
        pairs: the reference's ``logits`` ``[1, classes, h, w]``, and the tested file's ``labels`` or ``logits``.
    """
    pixels, running, shapes = _Pixels(), RunningComparison("logits"), []
    best: set[int] = set()
    for expected, tested in pairs:
        logits = expected["logits"]
        labels = logits.argmax(axis=1)
        best.update(np.unique(labels).tolist())
        if "logits" in tested:
            running.add(logits, tested["logits"])
            found = tested["logits"].argmax(axis=1) if tested["logits"].shape == logits.shape else None
        else:
            found = tested["labels"]
        if found is None or found.shape != labels.shape:
            got_shape = None if found is None else list(found.shape)
            shapes.append(f"the label map is {got_shape}, expected {list(labels.shape)}")
            continue
        count(pixels, logits, labels, found, tolerance.relative)
    share = pixels.differing / max(pixels.total, 1)
    comparison = running.comparison()
    metrics = [
        Metric("wrong", "pixels of another label, ties apart", pixels.wrong, str(pixels.wrong), "0"),
        Metric("differing", "pixels of another label", share, f"{share:.3%}"),
        Metric("pixels", "pixels", pixels.total, str(pixels.total)),
    ]
    faults = shapes
    if pixels.wrong:
        faults.append(f"{pixels.wrong} pixels have another label where the reference is sure")
    if running.count or running.max_abs:
        relative, cosine = comparison.relative, comparison.cosine
        metrics += [
            Metric("relative", "relative error, logits", relative, f"{relative:.2e}", f"<= {tolerance.relative:.0e}"),
            Metric("cosine", "cosine, worst picture", cosine, f"{cosine:.7f}", f">= {tolerance.cosine}"),
        ]
        if not relative <= tolerance.relative:
            faults.append(f"logits: relative error {relative:.2e} exceeds {tolerance.relative:.0e}")
        if not cosine >= tolerance.cosine:
            faults.append(f"logits: cosine {cosine:.6f} is below {tolerance.cosine}")
    blind = []
    if len(best) < 2:
        blind.append("the reference sees one class everywhere, which cannot reveal a fault; give other images")
    return OutputAgreement(comparison, tuple(metrics), tuple(dict.fromkeys(faults)), tuple(blind))


def count(pixels: _Pixels, logits: NDArray[Any], labels: NDArray[Any], found: NDArray[Any], relative: float) -> None:
    """Add a picture's pixels to the counts."""
    differing = labels != found
    pixels.total += labels.size
    pixels.differing += int(differing.sum())
    slack = 2 * relative * float(np.abs(logits).max())
    classes = np.clip(found, 0, logits.shape[1] - 1).astype(np.intp)
    given = np.take_along_axis(logits, classes[:, None], axis=1)[:, 0]
    sure = (logits.max(axis=1) - given > slack) | (found >= logits.shape[1])
    pixels.wrong += int((differing & sure).sum())


def difference(reference: Outputs, outputs: Outputs) -> float:
    """Share of pixels with another label; infinite for unlike shapes."""
    one, other = (
        values["labels"] if "labels" in values else values["logits"].argmax(axis=1) for values in (reference, outputs)
    )
    return float((one != other).mean()) if one.shape == other.shape else float("inf")
