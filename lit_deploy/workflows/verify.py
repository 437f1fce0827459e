"""Parity with PyTorch: the same images through the float32 reference and through the file under test.

Limits are fixed per precision in ``specs.TOLERANCES``. A comparison that could not have noticed a fault (zero
sampling offsets, an output that ignores the input) is refused rather than passed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import OnnxArtifact, changed_by_others
from lit_deploy.backends.base import filled
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import Session, SessionOptions, Source
from lit_deploy.checkpoints.load import Checkpoint, load_checkpoint, state_sha256
from lit_deploy.core.errors import GateFailed, UsageError
from lit_deploy.core.specs import TOLERANCES, Tolerance
from lit_deploy.core.text import shown_key
from lit_deploy.images.datasets import even_parts
from lit_deploy.images.folders import images_in
from lit_deploy.images.picture import Picture
from lit_deploy.tasks.comparison import Comparison, RunningComparison
from lit_deploy.tasks.protocol import Arrays, Metric, OutputAgreement, Pair
from lit_deploy.tasks.table import task_of

Verdict = Literal["pass", "fail", "inconclusive"]

MIN_OFFSET_STD = 1e-3
"""Pixels. Offsets that vary less than this between positions cannot reveal swapped or permuted taps."""

BATCHES = (2, 1, 5)
"""Batch sizes that seeded images are run in where the file takes them."""


@dataclass(frozen=True)
class VerifyReport:
    """Outcome of one verification.

    Attributes:
        artifact: path of the file; ``tested`` and ``reference``: descriptions of the two sessions.
        precision, tolerance: which limits applied.
        images: number of images; ``source``: ``seeded`` or the directory they came from.
        output: error of the output that says most: logits, the logarithm of probabilities or scores, boxes.
        metrics: all that the file's task tells about the outputs.
        offset_std: least standard deviation, over merges, of the sampling offsets in pixels.
        layers: comparisons per layer in execution order; empty unless asked for.
        first_departure: first layer outside the tolerance, None when all are inside.
        verdict: ``inconclusive`` means that the check could not have noticed a fault.
        reasons: one sentence for every gate that was not met.
        notes: what else should be known of the file: that another tool took something from it.
    """

    artifact: str
    tested: str
    reference: str
    precision: str
    tolerance: Tolerance
    images: int
    source: str
    output: Comparison
    metrics: tuple[Metric, ...]
    offset_std: float
    layers: tuple[Comparison, ...]
    first_departure: str | None
    verdict: Verdict
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """The metrics that a manifest keeps."""
        return {
            "verdict": self.verdict,
            "images": self.images,
            **{metric.key: metric.value for metric in self.metrics},
        }


class ParityFailed(GateFailed):
    """An exported file departs from PyTorch, or the check could not have noticed if it did.

    Attributes:
        report: the full comparison.
    """

    detailed = True

    def __init__(self, message: str, report: VerifyReport) -> None:
        super().__init__(message)
        self.report = report


def verify_artifact(
    artifact: Source,
    checkpoint: str | Path | Checkpoint,
    *,
    images: str | Path | None = None,
    limit: int = 64,
    layers: bool = False,
    options: SessionOptions | None = None,
) -> VerifyReport:
    """Compare an exported file with the PyTorch float32 model of its checkpoint.

    Args:
        artifact: file to test; a checkpoint is accepted too.
        checkpoint: checkpoint it was exported from (checked by SHA-256); of a network that was exported from memory,
            any that holds its weights.
        images: directory of images; None for eight seeded ones.
        limit: most images taken from the directory, evenly spaced over it.
        layers: compare every layer as well and name the first that departs.
        options: device, threads and library of the tested session.

    Raises:
        UsageError: another checkpoint than the one the file was made from.
        ImageError, ArtifactError, CheckpointError, MissingDependency: as the name says.
    """
    base = options or SessionOptions()
    with open_session(artifact, replace(base, layers=layers)) as tested:
        manifest, task = tested.manifest, task_of(tested.manifest)
        like = task.reference(manifest)
        with open_session(checkpoint, SessionOptions(threads=base.threads, layers=True, like=like)) as reference:
            _check_source(artifact, manifest, checkpoint, reference.manifest)
            pictures, source = _pictures(manifest, images, limit)
            compared = {name: RunningComparison(name) for name in manifest.layers if layers}
            offsets: list[Arrays] = []

            def pairs() -> Iterator[Pair]:
                for batch, count in _batches(pictures, tested.batch_range, seeded=images is None):
                    wanted, found = (
                        _cut(session.run(task.feed(batch, described)), count, len(batch))
                        for session, described in ((reference, like), (tested, manifest))
                    )
                    # Layers are compared batch by batch and dropped: those of many images would not fit in memory.
                    for name, running in compared.items():
                        running.add(wanted[name], found[name])
                    offsets.append({name: value for name, value in wanted.items() if name.endswith(".conv_offset")})
                    yield wanted, found

            tolerance = TOLERANCES[tested.precision]
            outputs = task.agreement(manifest, tolerance, pairs())
            report = _judged(
                artifact=str(artifact),
                source=source,
                images=len(pictures),
                tested=tested,
                reference=reference,
                tolerance=tolerance,
                outputs=outputs,
                offset_std=_offset_std(offsets),
                layers=tuple(running.comparison() for running in compared.values()),
            )
            return replace(report, notes=_notes(artifact))


def _check_source(artifact: Source, manifest: Manifest, checkpoint: str | Path | Checkpoint, given: Manifest) -> None:
    """The file is compared with what it was made from, by its hash or that of its weights, and with nothing else.

    Args:
        given: the manifest of the checkpoint that it is compared with.
    """
    if manifest.source_sha256 != given.source_sha256:
        held = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
        if manifest.source_sha256 == state_sha256(held.state):  # exported from memory
            return
        raise UsageError(
            f"{artifact} was exported from {manifest.source} (SHA-256 {manifest.source_sha256[:12]}), but "
            f"{held.path} has SHA-256 {given.source_sha256[:12]}; name the original checkpoint"
        )
    made, found = (each.source.partition("#")[2] for each in (manifest, given))
    if made != found:
        named = f"'{shown_key(made)}'" if made else "the usual one"
        mend = f"add --key {shown_key(made)}" if made else "drop --key"
        raise UsageError(f"{artifact} was exported from another network of {checkpoint}, {named}; {mend}")


def _notes(artifact: Source) -> tuple[str, ...]:
    """A library that knows our operators runs a file whose functions are lost, and the comparison passes."""
    if isinstance(artifact, Checkpoint):
        return ()
    if not isinstance(artifact, OnnxArtifact):
        if Path(artifact).suffix.lower() != ".onnx":
            return ()
        artifact = OnnxArtifact.read(Path(artifact))
    note = changed_by_others(artifact)
    return (note,) if note else ()


def _pictures(manifest: Manifest, images: str | Path | None, limit: int) -> tuple[list[Picture], str]:
    """Pictures and where they came from; every session is fed the same pixels."""
    task = task_of(manifest)
    if images is None:
        return task.seeded(manifest), "seeded"
    paths = images_in(Path(images))
    taken = [paths[part.start] for part in even_parts(len(paths), limit)]
    source = f"{images} ({len(taken)} of {len(paths)})" if len(taken) < len(paths) else str(images)
    return task.pictures(taken, manifest), source


def _batches(pictures: list[Picture], limits: tuple[int, int], seeded: bool) -> list[tuple[list[Picture], int]]:
    """Batches and how many of their images count."""
    low, high = limits
    starts = [0]
    if seeded and low < high and max(BATCHES) <= high:
        starts += np.cumsum(BATCHES)[:-1].tolist()
    else:
        size = max(low, min(8, high))
        starts = list(range(0, len(pictures), size))
    parts = [pictures[start:stop] for start, stop in zip(starts, [*starts[1:], len(pictures)], strict=True)]
    return [(filled(part, low), len(part)) for part in parts]


def _cut(outputs: Arrays, count: int, batch: int) -> Arrays:
    """The rows of those images that count; what has another number of rows belongs to one picture."""
    return {name: value[:count] if len(value) == batch else value for name, value in outputs.items()}


def _judged(
    *,
    artifact: str,
    source: str,
    images: int,
    tested: Session,
    reference: Session,
    tolerance: Tolerance,
    outputs: OutputAgreement,
    offset_std: float,
    layers: tuple[Comparison, ...],
) -> VerifyReport:
    """Add to what the task says about the outputs what every LIT has: layers and sampling offsets."""
    departed = next((layer.name for layer in layers if not layer.relative <= tolerance.relative), None)
    faults = [*outputs.faults, *([f"{departed} is the first layer outside the tolerance"] if departed else [])]
    blind = [*_still(offset_std), *outputs.blind]
    return VerifyReport(
        artifact=artifact,
        tested=tested.description,
        reference=reference.description,
        precision=tested.precision,
        tolerance=tolerance,
        images=images,
        source=source,
        output=outputs.output,
        metrics=outputs.metrics,
        offset_std=offset_std,
        layers=layers,
        first_departure=departed,
        verdict="fail" if faults else "inconclusive" if blind else "pass",
        reasons=(*faults, *blind),
    )


def _offset_std(offsets: Sequence[Arrays]) -> float:
    """Least standard deviation, over mergings, of the reference's sampling offsets in pixels, batch by batch."""
    spreads: dict[str, list[NDArray[np.float64]]] = {}
    for batch in offsets:
        for name, value in batch.items():
            channels = value.astype(np.float64).transpose(1, 0, 2, 3).reshape(value.shape[1], -1)
            spreads.setdefault(name, []).append(channels)
    return min(float(np.concatenate(parts, axis=1).std(axis=1).max()) for parts in spreads.values())


def _still(offset_std: float) -> list[str]:
    if offset_std >= MIN_OFFSET_STD:
        return []
    return [
        f"sampling offsets vary by {offset_std:.1e} pixels only, as where a merging was not trained: the file may well "
        "be right, but from a wrong merging it could not be told; train it, or export with --no-verify"
    ]
