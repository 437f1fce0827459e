"""What an evaluation found: a score per file, agreement between files, and the gates that they are held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lit_deploy.core.errors import GateFailed, UsageError
from lit_deploy.evaluate.protocol import FileScore, Matrix
from lit_deploy.images.datasets import Skipped

SLACK = 1e-9
"""What a share may lack of a gate: 497 of 500 reaches 99.4 %, though 99.4 / 100 is rounded to slightly more. Far below
the share of one image."""

S = TypeVar("S", bound=FileScore)


@dataclass(frozen=True)
class EvaluateReport(Generic[S]):
    """Outcome of one evaluation.

    Attributes:
        source: the folder; ``mapping``: how its classes were told.
        images: images that were evaluated; ``listed``: those and the unreadable ones; ``classes``: of the network.
        reference: label of the file the others are compared with: the checkpoint, else the first file.
        against_checkpoint: the reference is a checkpoint that was given as such, and so is held to no gate.
        scores: one per file, the reference first; what they hold is said by the task's file of this folder.
        agreement: how far files agree, 0..1, ``[file][file]`` in the order of ``scores``: share of images with the same
            prediction, of detections with a partner, or of pixels with the same class.
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
    scores: tuple[S, ...]
    agreement: Matrix
    skipped: tuple[Skipped, ...]
    batch: int
    workers: int
    seconds: float
    resumed: int
    notes: tuple[str, ...]


def check_gates(
    report: EvaluateReport[Any],
    min_top1: float | None = None,
    min_agreement: float | None = None,
    *,
    min_ap: float | None = None,
    min_mask_ap: float | None = None,
    min_miou: float | None = None,
) -> None:
    """Raise GateFailed when a file reaches less, or agrees less with the reference, than asked for, or gives no answer.

    Args:
        report: of at least two files for ``min_agreement``.
        min_top1, min_ap, min_mask_ap, min_miou: share 0..1 that every file must reach, but not a checkpoint that others
            are compared with: of right images, COCO's AP of boxes and of masks, and the mean intersection over union.
        min_agreement: share 0..1 that every file but the reference must reach. None asks for nothing.

    Raises:
        GateFailed: as said.
        UsageError: a gate that needs a second file, or that another task's files have.
    """
    others = report.scores[1:]
    if min_agreement is not None and len(report.scores) < 2:
        raise UsageError("an agreement needs two files, got one; name PyTorch's checkpoint (--ckpt) or a second file")
    limits = {"min_top1": min_top1, "min_ap": min_ap, "min_mask_ap": min_mask_ap, "min_miou": min_miou}
    for score in others or report.scores if report.against_checkpoint else report.scores:
        gates = score.gates(report.images)
        for name, least in limits.items():
            if least is None:
                continue
            if name not in gates:
                raise UsageError(f"{score.label} has no {name}, expected one of {', '.join(gates)}")
            reached, said = gates[name]
            if reached < least - SLACK:
                raise GateFailed(f"{score.label} {said}, expected at least {least:.2%}")
    for score in others:
        if min_agreement is not None and score.agreement < min_agreement - SLACK:
            raise GateFailed(
                f"{score.label} agrees with {report.reference} on {score.agreement:.2%} of "
                f"{score.agreed_on(report.images)}, expected at least {min_agreement:.2%}"
            )
    for score in report.scores:
        if score.not_finite:
            raise GateFailed(
                f"{score.label} gives no answer for {score.not_finite} of {report.images} images (numbers that are not "
                "finite, or classes that do not exist), which count as wrong; verify it against its checkpoint"
            )
