"""What contenders are given: as many pictures as all of them take, of a size that all of them take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import MAX_BATCH, MAX_ROUNDS, MAX_SIDE, MAX_THREADS
from lit_deploy.images.keep_ratio import MIN_SIDE
from lit_deploy.models.layout import input_size

BATCHES = (1, 8)
"""Batch sizes that a classifier is measured with. Detectors and segmentation networks take one picture."""


def check_arguments(
    batches: Sequence[int] | None, size: tuple[int, int] | None, rounds: int, threads: int | None
) -> None:
    """Raise UsageError for numbers with which nothing can be measured."""
    if batches is not None and (
        not batches or not 1 <= min(batches) <= max(batches) <= MAX_BATCH or len(set(batches)) != len(batches)
    ):
        raise UsageError(
            f"batch sizes are {list(batches)}, expected distinct sizes from 1 to {MAX_BATCH}, e.g. --batch 1,8"
        )
    if size is not None and not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise UsageError(f"--size is {_shown(size)}, expected {MIN_SIDE} to {MAX_SIDE} pixels for height and width")
    if not 1 <= rounds <= MAX_ROUNDS or (threads is not None and not 1 <= threads <= MAX_THREADS):
        raise UsageError(
            f"got rounds {rounds} and threads {threads}, expected 1 to {MAX_ROUNDS} rounds and 1 to {MAX_THREADS} "
            "threads"
        )


def common_batches(
    batches: Sequence[int] | None, manifests: Mapping[str, Manifest], ranges: Mapping[str, tuple[int, int]]
) -> tuple[int, ...]:
    """The batch sizes to measure.

    Args:
        batches: as asked for; None for the usual ones.
        manifests: of the contenders, by label; ``ranges``: smallest and largest batch that each takes.

    Raises:
        UsageError: networks of different tasks, or one that does not take all of these batches.
    """
    tasks = {manifest.task for manifest in manifests.values()}
    if len(tasks) > 1:
        raise UsageError(f"got networks for {' and '.join(sorted(tasks))}, expected one task; measure them one by one")
    dense = tasks != {"classification"}
    chosen = tuple(batches) if batches is not None else (1,) if dense else BATCHES
    for label, (low, high) in ranges.items():
        if low <= min(chosen) and max(chosen) <= high:
            continue
        if dense:
            raise UsageError(
                f"{label} takes one picture at a time, as pictures of several sizes cannot share a batch without "
                f"changing their numbers, but batch sizes {list(chosen)} were asked for; use --batch 1"
            )
        takes = f"batch size {low} only" if low == high else f"batch sizes {low} to {high}"
        raise UsageError(
            f"{label} was exported for {takes}, but {list(chosen)} were asked for; "
            f"use --batch {low}, or export it with {'a dynamic batch' if low == high else 'other batches'}"
        )
    return chosen


def common_size(size: tuple[int, int] | None, manifests: Mapping[str, Manifest]) -> tuple[int, int]:
    """Height and width in pixels of the picture that all contenders are given.

    Args:
        size: as asked for; None for that of the files, or, where they take any, that of an ordinary picture.
        manifests: of the contenders, by label.

    Raises:
        UsageError: a size for a classifier, another one than a file takes, or files of different sizes.
    """
    first, *_ = manifests.values()
    if first.task == "classification":
        if size is not None:
            raise UsageError(
                f"--size is {_shown(size)}, but a classifier takes pictures of {_shown(first.model.image_size)} only; "
                "leave --size out"
            )
        return first.model.image_size
    fixed = {
        label: (manifest.input.height, manifest.input.width)
        for label, manifest in manifests.items()
        if manifest.input.height and manifest.input.width
    }
    for label, own in fixed.items():
        if size is not None and own != size:
            raise UsageError(
                f"{label} was exported for pictures of {_shown(own)}, but --size is {_shown(size)}; leave --size out, "
                f"or export it with --size {_shown(size)}"
            )
    if len(set(fixed.values())) > 1:
        sizes = ", ".join(f"{label} {_shown(own)}" for label, own in fixed.items())
        raise UsageError(f"the files take pictures of different sizes ({sizes}); measure them one by one")
    return size or next(iter(fixed.values()), input_size(first.model))


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
