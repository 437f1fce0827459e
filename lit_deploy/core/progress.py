"""How a long job says what it is doing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """What a long job does now.

    Attributes:
        name: in a few words.
        fraction: how much of the job is done, 0..1; None where nobody knows.
    """

    name: str
    fraction: float | None = None

    def __str__(self) -> str:
        if self.fraction is None:
            return self.name
        return f"{math.floor(100 * self.fraction + 1e-9):3} %  {self.name}"  # 100 % is the end, and nothing before it


Progress = Callable[[Step], None]
"""Called as a step begins."""


def unseen(step: Step) -> None:
    """The progress of a job that nobody watches."""
