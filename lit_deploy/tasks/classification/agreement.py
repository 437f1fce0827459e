"""Whether two sessions say the same about the same images, and whether the check could have noticed if not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.core.specs import BEST_CLASSES, EIGHT_BIT, OutputKind, PrecisionName, Tolerance
from lit_deploy.tasks.classification import features
from lit_deploy.tasks.classification.ranking import Classes, Floats, log_probabilities, ranked, softmax
from lit_deploy.tasks.comparison import Comparison, compared
from lit_deploy.tasks.protocol import Metric, OutputAgreement, Pair

MIN_SENSITIVITY = 4.0
"""The logits must differ between images by at least this many times the allowed error. An output that ignores the
image is then wrong by twice the allowed error on one image at least, so it cannot pass."""

MAX_RESIDUAL = 0.7
"""Where they differ by less, the tested output must be seen to follow the image: at most this share of how far images
lie from the reference's mean image may be missing or wrong. An output that ignores the image, or follows it at less
than a third of the strength, misses more. Limits of 8 bits need this, on weights that tell images apart by little."""


@dataclass(frozen=True, kw_only=True)
class _Outputs:
    """Both sides of a comparison, on the scale of logits.

    Attributes:
        logits: the reference's ``[N, all classes]``; ``scores``: the same in the form of the tested output.
        name: of that form; ``value``: the tested output ``[N, k]``, which is about ``given`` ``[N, k]``.
        disorder: what is wrong with a ranking as such; empty when nothing is.
        comparison: of the values; ``top1``, ``top5``: share of images whose classes agree.
    """

    precision: PrecisionName
    tolerance: Tolerance
    logits: Floats
    scores: Floats
    given: Classes
    value: Floats
    disorder: str
    comparison: Comparison
    top1: float
    top5: float


def reference(manifest: Manifest) -> Manifest:
    """Normalised pixels to logits, or to features, whatever the form of the file's input and output."""
    output: OutputKind = "features" if manifest.output == "features" else "logits"
    return replace(manifest, input=replace(manifest.input, kind="float"), output=output)


def agreement(manifest: Manifest, tolerance: Tolerance, pairs: Iterable[Pair]) -> OutputAgreement:
    """Compare the outputs of a file with the logits, or the features, of the float32 reference.

    Args:
        manifest: of the tested file; ``tolerance``: the limits of its precision.
        pairs: the reference's ``logits`` ``[N, classes]``, or ``features``, and the tested file's outputs of the same
            images.
    """
    if manifest.output == "features":
        return features.agreement(tolerance, pairs)
    expected, got = zip(*pairs, strict=True)
    logits = np.concatenate([outputs["logits"] for outputs in expected]).astype(np.float64)
    joined = {name: np.concatenate([outputs[name] for outputs in got]) for name in got[0]}
    both = _outputs(manifest, tolerance, logits, joined)
    found = both.comparison
    return OutputAgreement(
        output=found,
        metrics=(
            Metric(
                "relative",
                f"relative error, {found.name}",
                found.relative,
                f"{found.relative:.2e}",
                f"<= {tolerance.relative:.0e}",
            ),
            Metric("cosine", "cosine, worst image", found.cosine, f"{found.cosine:.7f}", f">= {tolerance.cosine}"),
            Metric("top1", "top-1 agreement", both.top1, f"{both.top1:.1%}", "100%"),
            Metric("top5", "top-5 agreement", both.top5, f"{both.top5:.1%}"),
            Metric("max_abs", "largest absolute error", found.max_abs, f"{found.max_abs:.2e}"),
            Metric("mean_abs", "mean absolute error", found.mean_abs, f"{found.mean_abs:.2e}"),
        ),
        faults=tuple(filter(None, (check(both) for check in _CHECKS))),
        blind=tuple(filter(None, [_blind(both)])),
    )


def _outputs(manifest: Manifest, tolerance: Tolerance, logits: Floats, got: Mapping[str, NDArray[Any]]) -> _Outputs:
    kind, count = manifest.output, logits.shape[1]
    scores = logits if kind == "logits" else log_probabilities(softmax(logits))
    disorder = ""
    if kind == "top5":
        ranking = got["classes"].astype(np.int64)
        disorder = _disorder(ranking, got["scores"], count)
        ranking = np.clip(ranking, 0, count - 1)
        given, value, name = ranking, log_probabilities(got["scores"]), "log(scores)"
    else:
        ranking = ranked(got[kind], min(BEST_CLASSES, count))
        given = np.broadcast_to(np.arange(count), logits.shape)
        value = got[kind] if kind == "logits" else log_probabilities(got[kind])
        name = kind if kind == "logits" else f"log({kind})"
    slack = 2 * tolerance.relative * float(np.abs(scores).max())
    return _Outputs(
        precision=manifest.precision,
        tolerance=tolerance,
        logits=logits,
        scores=scores,
        given=given,
        value=value,
        disorder=disorder,
        comparison=compared(name, np.take_along_axis(scores, given, axis=1), value),
        top1=_agreeing(scores, ranking[:, :1], slack),
        top5=_agreeing(scores, ranking, slack),
    )


def _disorder(classes: Classes, scores: NDArray[Any], count: int) -> str:
    if classes.min() < 0 or classes.max() >= count:
        return f"classes: an index is outside 0..{count - 1}"
    if any(len(set(row)) < len(row) for row in classes.tolist()):
        return "classes: the same class occurs twice for one image"
    if (np.diff(scores.astype(np.float64), axis=1) > 0).any():
        return "scores: they are not in descending order"
    return ""


def _finite(both: _Outputs) -> str:
    return "" if np.isfinite(both.value).all() else f"{both.comparison.name}: not finite (NaN or infinity)"


def _relative_error(both: _Outputs) -> str:
    found, limit = both.comparison, both.tolerance.relative
    if found.relative <= limit:  # written so that NaN is a fault
        return ""
    return f"{found.name}: relative error {found.relative:.2e} exceeds {limit:.0e}"


def _cosine(both: _Outputs) -> str:
    found, limit = both.comparison, both.tolerance.cosine
    return "" if found.cosine >= limit else f"{found.name}: cosine {found.cosine:.6f} is below {limit}"


def _first_classes(both: _Outputs) -> str:
    return f"top-1 differs on {1 - both.top1:.1%} of the images" if both.top1 < 1 else ""


_CHECKS: tuple[Callable[[_Outputs], str], ...] = (
    lambda both: both.disorder,
    _finite,
    _relative_error,
    _cosine,
    _first_classes,
)
"""Each gives one sentence about what is not met, or nothing."""


def _blind(both: _Outputs) -> str:
    """Why nobody would have noticed an output that ignores the image; empty where somebody would."""
    spread = float(np.ptp(both.logits, axis=0).max())
    allowed = both.tolerance.relative * float(np.abs(both.logits).max())
    if spread >= MIN_SENSITIVITY * allowed:
        return ""
    if both.precision in EIGHT_BIT and _residual(both.scores, both.value, both.given) <= MAX_RESIDUAL:
        return ""
    return (
        f"logits differ by {spread:.1e} only between the images: the output hardly depends on the input, or the "
        "images are equal; give at least two different images"
    )


def _residual(reference: Floats, value: NDArray[Any], classes: Classes) -> float:
    """Error relative to how far images lie from the reference's mean image; infinite where that says nothing.

    Args:
        reference: scores ``[images, all classes]``; ``value``: those of ``classes`` ``[images, k]``.
    """
    mean = reference.mean(axis=0)
    expected = np.take_along_axis(reference - mean, classes, axis=1)
    error = float(np.linalg.norm(value - mean[classes] - expected))
    scale = float(np.linalg.norm(expected))
    return error / scale if scale > 0 and np.isfinite(error) else np.inf


def _agreeing(reference: Floats, classes: Classes, slack: float) -> float:
    """Share of images whose predicted classes are, within ``slack``, as good as the reference's best ones."""
    count = classes.shape[1]
    threshold = np.sort(reference, axis=1)[:, -count] - slack
    chosen = np.take_along_axis(reference, classes, axis=1)
    return float((chosen >= threshold[:, None]).all(axis=1).mean())


def difference(reference: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> float:
    """Largest absolute difference over the reference's largest magnitude; infinite for NaN or unlike shapes.

    Outputs of different forms (logits, probabilities, top5) are compared as probabilities.
    """
    if "features" in reference or "features" in outputs:
        return features.difference(reference, outputs)
    if "logits" in reference and "logits" in outputs:
        expected, got = reference["logits"], outputs["logits"]
    elif "classes" in reference and "classes" in outputs:
        expected, got = reference["scores"], outputs["scores"]
    elif "classes" in outputs:
        expected, got = np.take_along_axis(_probabilities(reference), outputs["classes"], axis=1), outputs["scores"]
    elif "classes" in reference:
        expected, got = reference["scores"], np.take_along_axis(_probabilities(outputs), reference["classes"], axis=1)
    else:
        expected, got = _probabilities(reference), _probabilities(outputs)
    if expected.shape != got.shape or not (np.isfinite(expected).all() and np.isfinite(got).all()):
        return float("inf")
    return float(np.abs(expected - got).max() / max(np.abs(expected).max(), np.finfo(np.float64).tiny))


def _probabilities(outputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    return outputs["probabilities"] if "probabilities" in outputs else softmax(outputs["logits"])
