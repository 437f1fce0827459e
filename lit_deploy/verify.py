"""Parity: does a session compute what the PyTorch float32 model computes?

Limits are fixed per precision in ``specs.TOLERANCES``. A comparison that could not have noticed a fault (zero
sampling offsets, an output that ignores the input) is refused rather than passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifact import Manifest
from lit_deploy.datasets import even_parts
from lit_deploy.errors import UsageError
from lit_deploy.predict import softmax
from lit_deploy.preprocessing import images_in, load_image, normalize, resize_and_crop
from lit_deploy.runtime.session import Arrays, Session, SessionOptions, filled, open_session
from lit_deploy.specs import EIGHT_BIT, TOLERANCES, Tolerance

Verdict = Literal["pass", "fail", "inconclusive"]
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

MIN_OFFSET_STD = 1e-3
"""Pixels. Offsets that vary less than this between positions cannot reveal swapped or permuted taps."""

MIN_SENSITIVITY = 4.0
"""The logits must differ between images by at least this many times the allowed error. An output that ignores the
image is then wrong by twice the allowed error on one image at least, so it cannot pass."""

MAX_RESIDUAL = 0.7
"""Where they differ by less, the tested output must be seen to follow the image: at most this share of how far images
lie from the reference's mean image may be missing or wrong. An output that ignores the image, or follows it at less
than a third of the strength, misses more. Limits of 8 bits need this, on weights that tell images apart by little."""

BATCHES = (2, 1, 5)
"""Batch sizes that seeded images are run in where the file takes them."""


@dataclass(frozen=True)
class Comparison:
    """One tensor against its reference, over all images.

    Attributes:
        name: output or PyTorch module name.
        max_abs, mean_abs: absolute error.
        relative: ``max_abs`` over the largest magnitude of the reference.
        cosine: least cosine similarity of one image.
    """

    name: str
    max_abs: float
    mean_abs: float
    relative: float
    cosine: float


@dataclass(frozen=True)
class VerifyReport:
    """Outcome of one verification.

    Attributes:
        artifact: path of the file; ``tested`` and ``reference``: descriptions of the two sessions.
        precision, tolerance: which limits applied.
        images: number of images; ``source``: ``seeded`` or the directory they came from.
        output: the compared output: logits, or the logarithm of probabilities or scores.
        top1, top5: share of images whose predictions agree (a tie of the reference counts as agreement).
        offset_std: least standard deviation, over merges, of the sampling offsets in pixels.
        layers: comparisons per layer in execution order; empty unless asked for.
        first_departure: first layer outside the tolerance, None when all are inside.
        verdict: ``inconclusive`` means that the check could not have noticed a fault.
        reasons: one sentence for every gate that was not met.
    """

    artifact: str
    tested: str
    reference: str
    precision: str
    tolerance: Tolerance
    images: int
    source: str
    output: Comparison
    top1: float
    top5: float
    offset_std: float
    layers: tuple[Comparison, ...]
    first_departure: str | None
    verdict: Verdict
    reasons: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """The metrics that a manifest keeps."""
        return {
            "verdict": self.verdict,
            "images": self.images,
            "max_abs": self.output.max_abs,
            "relative": self.output.relative,
            "cosine": self.output.cosine,
            "top1": self.top1,
            "top5": self.top5,
        }


def verify_artifact(
    artifact: str | Path,
    checkpoint: str | Path,
    *,
    images: str | Path | None = None,
    limit: int = 64,
    layers: bool = False,
    options: SessionOptions | None = None,
) -> VerifyReport:
    """Compare an exported file with the PyTorch float32 model of its checkpoint.

    Args:
        artifact: file to test; a checkpoint is accepted too.
        checkpoint: checkpoint it was exported from (checked by SHA-256).
        images: directory of images; None for eight seeded ones.
        limit: most images taken from the directory, evenly spaced over it.
        layers: compare every layer as well and name the first that departs.
        options: device, threads and library of the tested session.

    Raises:
        UsageError: another checkpoint than the one the file was made from.
        ImageError, ArtifactError, CheckpointError, MissingDependency: as the name says.
    """
    base = options or SessionOptions()
    with (
        open_session(checkpoint, SessionOptions(threads=base.threads, layers=True)) as reference,
        open_session(artifact, replace(base, layers=layers)) as tested,
    ):
        manifest = tested.manifest
        if manifest.source_sha256 != reference.manifest.source_sha256:
            raise UsageError(
                f"{artifact} was exported from {manifest.source} (SHA-256 {manifest.source_sha256[:12]}), but "
                f"{checkpoint} has SHA-256 {reference.manifest.source_sha256[:12]}; name the original checkpoint"
            )
        pixels, source = _pixels(manifest, images, limit)
        expected: list[Arrays] = []
        got: list[Arrays] = []
        compared = {name: _Running(name) for name in manifest.layers if layers}
        for batch, count in _batches(pixels, tested.batch_range, seeded=images is None):
            # Layers are compared batch by batch and dropped: those of many images would not fit in memory.
            wanted, found = (
                {
                    name: value[:count]
                    for name, value in session.run({"images": _feed(session, batch, manifest)}).items()
                }
                for session in (reference, tested)
            )
            for name, running in compared.items():
                running.add(wanted[name], found[name])
            expected.append({name: wanted[name] for name in wanted if name not in reference.manifest.layers})
            got.append({name: found[name] for name in found if name not in compared})
        comparisons = tuple(running.comparison() for running in compared.values())
        return _judge(str(artifact), source, tested, reference, _joined(expected), _joined(got), comparisons)


def _pixels(manifest: Manifest, images: str | Path | None, limit: int) -> tuple[Pixels, str]:
    """Uint8 ``[N, H, W, 3]`` crops and where they came from; every session is fed the same pixels."""
    spec = manifest.input
    if images is None:
        from lit_deploy.seeded import DEFAULT_SEED, synthetic_image

        names = [f"verify:{index}" for index in range(sum(BATCHES))]
        return np.stack([synthetic_image(DEFAULT_SEED, name, spec.height, spec.width) for name in names]), "seeded"
    paths = images_in(Path(images))
    taken = [paths[part.start] for part in even_parts(len(paths), limit)]
    source = f"{images} ({len(taken)} of {len(paths)})" if len(taken) < len(paths) else str(images)
    return np.stack([resize_and_crop(load_image(path), spec) for path in taken]), source


def _batches(pixels: Pixels, limits: tuple[int, int], seeded: bool) -> list[tuple[Pixels, int]]:
    """Batches and how many of their images count."""
    low, high = limits
    if seeded and low < high and max(BATCHES) <= high:
        parts = np.split(pixels, np.cumsum(BATCHES)[:-1])
    else:
        size = max(low, min(8, high))
        parts = [pixels[start : start + size] for start in range(0, len(pixels), size)]
    return [(filled(part, low), len(part)) for part in parts]


def _feed(session: Session, pixels: Pixels, tested: Manifest) -> NDArray[Any]:
    """Pixels in a session's layout; the normalisation is that of the tested file."""
    return pixels if session.manifest.input.kind == "uint8" else normalize(pixels, tested.input)


def _joined(outputs: list[Arrays]) -> Arrays:
    return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}


class _Running:
    """A comparison that grows batch by batch, in float64; NaN anywhere makes every metric the worst there is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.max_abs = self.sum_abs = self.scale = 0.0
        self.count = 0
        self.cosine = 1.0

    def add(self, reference: NDArray[Any], value: NDArray[Any]) -> None:
        """Take in two arrays ``[images, ...]``."""
        if reference.shape != value.shape or not np.isfinite(value).all():
            self.max_abs, self.sum_abs, self.cosine = np.inf, np.inf, -1.0
            return
        a = reference.astype(np.float64).reshape(len(reference), -1)
        b = value.astype(np.float64).reshape(len(value), -1)
        error = np.abs(a - b)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosine = np.sum(a * b, axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
        self.max_abs = max(self.max_abs, float(error.max()))
        self.sum_abs += float(error.sum())
        self.count += error.size
        self.scale = max(self.scale, float(np.abs(a).max()))
        self.cosine = min(self.cosine, float(cosine.min()))

    def comparison(self) -> Comparison:
        """The metrics over all that was taken in."""
        relative = self.max_abs / max(self.scale, np.finfo(np.float64).tiny)
        return Comparison(self.name, self.max_abs, self.sum_abs / max(self.count, 1), relative, self.cosine)


def _compare(name: str, reference: NDArray[Any], value: NDArray[Any]) -> Comparison:
    running = _Running(name)
    running.add(reference, value)
    return running.comparison()


def _log(probabilities: NDArray[Any]) -> Floats:
    """Probabilities on the scale of logits, where one tolerance fits all; 1e-30 stands for an underflow."""
    result: Floats = np.log(np.maximum(probabilities.astype(np.float64), 1e-30))
    return result


def _agreement(reference: Floats, classes: NDArray[np.int64], slack: float) -> float:
    """Share of images whose predicted classes are, within ``slack``, as good as the reference's best ones."""
    count = classes.shape[1]
    threshold = np.sort(reference, axis=1)[:, -count] - slack
    chosen = np.take_along_axis(reference, classes, axis=1)
    return float((chosen >= threshold[:, None]).all(axis=1).mean())


def _residual(reference: Floats, value: NDArray[Any], classes: NDArray[np.int64]) -> float:
    """Error relative to how far images lie from the reference's mean image; infinite where that says nothing.

    Args:
        reference: scores ``[images, all classes]``; ``value``: those of ``classes`` ``[images, k]``.
    """
    mean = reference.mean(axis=0)
    expected = np.take_along_axis(reference - mean, classes, axis=1)
    error = float(np.linalg.norm(value - mean[classes] - expected))
    scale = float(np.linalg.norm(expected))
    return error / scale if scale > 0 and np.isfinite(error) else np.inf


def _ranking_fault(classes: NDArray[np.int64], scores: NDArray[Any], count: int) -> str:
    """What is wrong with a top-k output as such; empty when nothing is."""
    if classes.min() < 0 or classes.max() >= count:
        return f"classes: an index is outside 0..{count - 1}"
    if any(len(set(row)) < len(row) for row in classes.tolist()):
        return "classes: the same class occurs twice for one image"
    if (np.diff(scores.astype(np.float64), axis=1) > 0).any():
        return "scores: they are not in descending order"
    return ""


def _judge(
    artifact: str,
    source: str,
    tested: Session,
    reference: Session,
    expected: Mapping[str, NDArray[Any]],
    got: Mapping[str, NDArray[Any]],
    layers: tuple[Comparison, ...],
) -> VerifyReport:
    manifest = tested.manifest
    tolerance = TOLERANCES[manifest.precision]
    kind = manifest.output
    scores = expected["logits"].astype(np.float64)
    if kind != "logits":
        scores = _log(softmax(scores))
    damaged = ""
    if kind == "top5":
        classes = got["classes"].astype(np.int64)
        damaged = _ranking_fault(classes, got["scores"], scores.shape[1])
        classes = np.clip(classes, 0, scores.shape[1] - 1)
        value = _log(got["scores"])
        output = _compare("log(scores)", np.take_along_axis(scores, classes, axis=1), value)
        given = classes
    else:
        classes = np.argsort(-got[kind], axis=1, kind="stable")[:, : min(5, scores.shape[1])]
        value = got[kind] if kind == "logits" else _log(got[kind])
        given = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        output = _compare(kind if kind == "logits" else f"log({kind})", scores, value)
    slack = 2 * tolerance.relative * float(np.abs(scores).max())
    top1, top5 = _agreement(scores, classes[:, :1], slack), _agreement(scores, classes, slack)

    departed = next((layer.name for layer in layers if not layer.relative <= tolerance.relative), None)

    reasons = [damaged] if damaged else []
    if not output.relative <= tolerance.relative:
        reasons.append(f"{output.name}: relative error {output.relative:.2e} exceeds {tolerance.relative:.0e}")
    if not output.cosine >= tolerance.cosine:
        reasons.append(f"{output.name}: cosine {output.cosine:.6f} is below {tolerance.cosine}")
    if top1 < 1:
        reasons.append(f"top-1 differs on {1 - top1:.1%} of the images")
    if departed is not None:
        reasons.append(f"{departed} is the first layer outside the tolerance")
    verdict: Verdict = "fail" if reasons else "pass"

    offsets = [value for name, value in expected.items() if name.endswith(".conv_offset")]
    offset_std = min(float(value.astype(np.float64).std(axis=(0, 2, 3)).max()) for value in offsets)
    blind = []
    if offset_std < MIN_OFFSET_STD:
        blind.append(f"sampling offsets vary by {offset_std:.1e} pixels only, which cannot reveal a wrong merging")
    spread = float(np.ptp(expected["logits"].astype(np.float64), axis=0).max())
    allowed = tolerance.relative * float(np.abs(expected["logits"]).max())
    followed = manifest.precision in EIGHT_BIT and _residual(scores, value, given) <= MAX_RESIDUAL
    if spread < MIN_SENSITIVITY * allowed and not followed:
        blind.append(
            f"logits differ by {spread:.1e} only between the images: the output hardly depends on the input, or the "
            "images are equal; give at least two different images"
        )
    if blind and verdict == "pass":
        verdict = "inconclusive"
    return VerifyReport(
        artifact, tested.description, reference.description, manifest.precision, tolerance, len(scores), source,
        output, top1, top5, offset_std, layers, departed, verdict, tuple(reasons + blind),
    )  # fmt: skip
