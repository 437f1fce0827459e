"""What is scored, and how: what an engine gets, and what a folder of results is of."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import MAX_SHARD_SIZE, SHARD_SIZE


@dataclass(frozen=True)
class Wanted:
    """What is asked of every picture.

    Attributes:
        top: most classes or detections; by default 5 classes of a classifier, and all that the others find.
        score_threshold: hide detections that do not score above this; the file's own when None.
        batch: pictures per run, 32 when None; a file of a fixed batch gets its own number.
    """

    top: int | None = None
    score_threshold: float | None = None
    batch: int | None = None


@dataclass(frozen=True)
class Job:
    """What is scored, and how.

    Attributes:
        source: an exported file, an engine or a checkpoint.
        sources: pictures, see ``Sources``; ``column``: of tables.
        wanted: what is asked of every picture; ``options``: device, threads, library.
        shard_size: pictures a file of results.
    """

    source: str
    sources: tuple[str, ...]
    wanted: Wanted = field(default_factory=Wanted)
    options: SessionOptions = field(default_factory=SessionOptions)
    column: str | None = None
    shard_size: int = SHARD_SIZE

    def __post_init__(self) -> None:
        if not 1 <= self.shard_size <= MAX_SHARD_SIZE:
            raise UsageError(f"the shard size is {self.shard_size}, expected 1 to {MAX_SHARD_SIZE}")

    @property
    def settings(self) -> dict[str, Any]:
        """The options that decide rows. How many threads and processes there are, and of which engine, does not."""
        how = {name: getattr(self.options, name) for name in ("device", "backend", "library", "precision_hint")}
        return {**dataclasses.asdict(self.wanted), "column": self.column, "shard_size": self.shard_size, **how}
