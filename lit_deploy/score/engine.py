"""What an engine has to offer, and the local one: this process's session, with pictures prepared in others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from lit_deploy.backends.open import open_session
from lit_deploy.score.inference import Facts, Scored, Scorer
from lit_deploy.score.job import Job
from lit_deploy.score.model import Model
from lit_deploy.score.preparing import Prepared, preparing
from lit_deploy.score.shards import Batch


class Engine(Protocol):
    """A network that is ready, wherever it is."""

    @property
    def facts(self) -> Facts:
        """What is known of it."""

    def scored(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Scored]]:
        """The rows of batches, in any order; batches are asked for no faster than they can be done."""


Opened = Callable[[Job, Model], AbstractContextManager[Engine]]
"""Makes the network of a job ready."""


class _Local:
    def __init__(self, scorer: Scorer, prepared: Callable[[Iterable[Batch]], Iterator[tuple[Batch, Prepared]]]) -> None:
        self.facts, self._scorer, self._prepared = scorer.facts, scorer, prepared

    def scored(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Scored]]:
        for batch, prepared in self._prepared(batches):
            yield batch, self._scorer(batch, prepared)


def local(workers: int | None = None) -> Opened:
    """The engine that is this machine; ``workers``: processes that decode, as many as there are cores when None."""
    count = workers or len(os.sched_getaffinity(0))

    @contextlib.contextmanager
    def opened(job: Job, model: Model) -> Iterator[Engine]:
        with open_session(job.source, job.options) as session:
            scorer = Scorer(session, job.wanted)
            with preparing(scorer.facts.manifest, count) as prepared:
                yield _Local(scorer, prepared)

    return opened
