"""From scores to an order of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.core.specs import BEST_CLASSES, OutputKind

Classes = NDArray[np.int64]
Floats = NDArray[np.float64]

_UNDERFLOW = 1e-30


def softmax(logits: NDArray[Any]) -> Floats:
    """Probabilities ``[N, classes]`` of logits ``[N, classes]``, in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    result: Floats = powers / powers.sum(axis=1, keepdims=True)
    return result


def log_probabilities(probabilities: NDArray[Any]) -> Floats:
    """Probabilities on the scale of logits, where one tolerance fits all; 1e-30 stands for an underflow, NaN stays."""
    result: Floats = np.log(np.maximum(probabilities.astype(np.float64), _UNDERFLOW))
    return result


def ranked(scores: NDArray[Any], count: int | None = None) -> Classes:
    """The best classes ``[N, count]`` by scores ``[N, classes]``, best first, equal ones in order of their index."""
    return np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :count]


def ranked_probabilities(outputs: Mapping[str, NDArray[Any]], kind: OutputKind) -> tuple[Classes, NDArray[Any]]:
    """Classes and their probabilities, both ``[N, k]``, best first: all classes, or those of a ``top5`` output."""
    if kind == "top5":
        return outputs["classes"].astype(np.int64), outputs["scores"]
    scores = softmax(outputs[kind]) if kind == "logits" else outputs[kind]
    classes = ranked(scores)
    return classes, np.take_along_axis(scores, classes, axis=1)


def best_classes(outputs: Mapping[str, NDArray[Any]], kind: OutputKind, num_classes: int) -> Classes:
    """Up to five classes ``[N, k]`` of every image, best first; -1 where scores are not finite or classes do not exist.

    Args:
        outputs: of a session; ``kind``: of its manifest.
        num_classes: of the network.
    """
    if kind == "top5":
        scores, classes = outputs["scores"].astype(np.float64), outputs["classes"].astype(np.int64)
    else:
        scores = outputs[kind].astype(np.float64)
        classes = ranked(scores, min(BEST_CLASSES, num_classes))
    usable = np.isfinite(scores).all(axis=1) & np.all((classes >= 0) & (classes < num_classes), axis=1)
    result: Classes = np.where(usable.reshape(-1, 1), classes, -1)
    return result


def output_fault(outputs: Mapping[str, NDArray[Any]], kind: OutputKind, num_classes: int, image: int) -> str | None:
    """Say why an output names no class for one image of a batch; None where it does."""
    if best_classes({name: value[image : image + 1] for name, value in outputs.items()}, kind, num_classes)[0, 0] >= 0:
        return None
    name = "scores" if kind == "top5" else kind
    if not np.isfinite(outputs[name][image]).all():
        return f"its {name} are not finite (NaN or infinity)"
    return f"its class indices are outside 0 to {num_classes - 1}"


def probabilities_of(outputs: Mapping[str, NDArray[Any]], kind: OutputKind, classes: Classes) -> Floats:
    """The probabilities ``[N, k]`` of classes as ``best_classes`` gives them; 0 where a class is -1."""
    rows = slice(len(classes))
    if kind == "top5":
        values = outputs["scores"][rows].astype(np.float64)
    else:
        with np.errstate(invalid="ignore"):  # what is not finite has no classes
            scores = softmax(outputs[kind][rows]) if kind == "logits" else outputs[kind][rows].astype(np.float64)
        values = np.take_along_axis(scores, np.maximum(classes, 0), axis=1)
    result: Floats = np.where(classes >= 0, values, 0.0)
    return result


def logits_of(outputs: Mapping[str, NDArray[Any]], kind: OutputKind) -> Floats | None:
    """Logits ``[N, classes]``; of probabilities their logarithm without each image's mean, which they do not keep.

    None for a ``top5`` output, which does not hold all classes.
    """
    if kind == "top5":
        return None
    if kind == "logits":
        return outputs[kind].astype(np.float64)
    values = log_probabilities(outputs[kind])
    values -= values.mean(axis=1, keepdims=True)
    return values


def same_prediction(a: Classes, b: Classes) -> NDArray[np.bool_]:
    """``[N]``: where two files predict the same class; an output that is not finite agrees with itself only."""
    same: NDArray[np.bool_] = (a[:, 0] == b[:, 0]) & ((a[:, 0] >= 0) | (a is b))
    return same
