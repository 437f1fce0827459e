"""Whether the images that a gate saw are enough to tell."""

from __future__ import annotations

import math

from lit_deploy.tasks.intervals import wilson_interval, wilson_size
from lit_deploy.tasks.protocol import Change

MOST_IMAGES = 50_000
"""Images, as many as ImageNet's validation set has, beyond which nobody is told to calibrate."""


def agreement_interval(change: Change) -> tuple[float, float]:
    """Wilson's interval of 95 % for the share of predictions that agree on further images of the same kind, 0..1."""
    return wilson_interval((1 - change.share) * change.independent, change.independent)


def doubt(change: Change, images: int, budget: float) -> str:
    """Say that on as many other images the outcome could be the other one; empty where it could not.

    Args:
        change: what differed on ``images`` images; ``budget``: share 0..1 that may differ.
    """
    low, high = (1 - end for end in reversed(agreement_interval(change)))
    if budget == 0 or not low <= budget < high:  # where nothing may differ, no number of images can tell
        return ""
    enough = images * wilson_size(change.share, budget) / change.independent
    remedy = f"calibrate with about {_rounded(enough)}" if enough <= MOST_IMAGES else "more of them would hardly tell"
    return (
        f"{images} images are too few to tell on which side of the budget of {budget:.2%} it is: of further ones "
        f"{low:.2%} to {high:.2%} of the {change.counted} may differ (95 %, Wilson's interval); {remedy}"
    )


def _rounded(count: float) -> int:
    """Up, to two digits."""
    unit: int = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return math.ceil(count / unit) * unit
