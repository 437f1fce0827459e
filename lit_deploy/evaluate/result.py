"""What an evaluation found: accuracy per file, agreement between files, and the gates that they are held to."""

from __future__ import annotations

from dataclasses import dataclass

from lit_deploy.core.errors import GateFailed, UsageError
from lit_deploy.core.specs import PrecisionName
from lit_deploy.images.datasets import Skipped
from lit_deploy.tasks.classification.scores import Accuracy

SLACK = 1e-9
"""What a share may lack of a gate: 497 of 500 reaches 99.4 %, though 99.4 / 100 is rounded to slightly more. Far below
the share of one image."""


@dataclass(frozen=True)
class Score:
    """What one file reached.

    Attributes:
        label: its name in tables; ``path``: as it was given.
        description: back end, version, and what of lit-deploy it uses; ``precision``: of its weights.
        sha256: of the file.
        top1, top5: accuracy; ``top5`` is None for up to five classes, where it says nothing.
        differing: predictions that differ from the reference's; ``agreement``: share of those that do not.
        not_finite: images whose output was NaN or infinite, or no class; they count as wrong and as differing.
        images_per_second: of ``Session.run``, disturbed by what runs beside it; ``bench`` measures speed properly.
    """

    label: str
    path: str
    description: str
    precision: PrecisionName
    sha256: str
    top1: Accuracy
    top5: Accuracy | None
    differing: int
    agreement: float
    not_finite: int
    images_per_second: float


@dataclass(frozen=True)
class EvaluateReport:
    """Outcome of one evaluation.

    Attributes:
        source: the folder; ``mapping``: how its classes were told.
        images: images that were evaluated; ``listed``: those and the unreadable ones; ``classes``: of the network.
        reference: label of the file the others are compared with: the checkpoint, else the first file.
        against_checkpoint: the reference is a checkpoint that was given as such, and so is held to no gate.
        scores: one per file, the reference first.
        agreement: share of images with the same prediction, ``[file][file]`` in the order of ``scores``.
        skipped: unreadable, unlabelled and missing images, and class folders without any, each with its reason.
        batch, workers: images per batch, and threads that prepared them.
        seconds: of this run; ``resumed``: how many of ``listed`` an earlier run had done already.
        notes: sentences about what a reader might overlook.
    """

    source: str
    mapping: str
    images: int
    listed: int
    classes: int
    reference: str
    against_checkpoint: bool
    scores: tuple[Score, ...]
    agreement: tuple[tuple[float, ...], ...]
    skipped: tuple[Skipped, ...]
    batch: int
    workers: int
    seconds: float
    resumed: int
    notes: tuple[str, ...]


def check_gates(report: EvaluateReport, min_top1: float | None = None, min_agreement: float | None = None) -> None:
    """Raise GateFailed when a file is less often right, or agrees less with the reference, than asked for.

    Args:
        report: of at least two files for ``min_agreement``.
        min_top1: share 0..1 that every file must reach, but not a checkpoint that others are compared with.
        min_agreement: share 0..1 that every file but the reference must reach. None asks for nothing.
    """
    others = report.scores[1:]
    if min_agreement is not None and len(report.scores) < 2:
        raise UsageError("an agreement needs two files, got one; name PyTorch's checkpoint (--ckpt) or a second file")
    for score in others or report.scores if report.against_checkpoint else report.scores:
        if min_top1 is not None and score.top1.share < min_top1 - SLACK:
            raise GateFailed(
                f"{score.label} is right on {score.top1.share:.2%} of the {report.images} images, "
                f"expected at least {min_top1:.2%}"
            )
    for score in others:
        if min_agreement is not None and score.agreement < min_agreement - SLACK:
            raise GateFailed(
                f"{score.label} agrees with {report.reference} on {score.agreement:.2%} of the {report.images} images "
                f"({score.differing} differ), expected at least {min_agreement:.2%}"
            )
