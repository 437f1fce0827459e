"""Processes that read, hash, decode and resize pictures, ahead of the network and no further than it can follow."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.core.errors import ImageError, OutOfMemory
from lit_deploy.core.processes import die_with_parent
from lit_deploy.images.picture import Picture
from lit_deploy.score.reading import Reader
from lit_deploy.score.shards import Batch
from lit_deploy.score.sources import Entry
from lit_deploy.tasks.table import task_of

AHEAD = 2
"""Batches, beside one for every process, that are prepared while the network runs."""


@dataclass(frozen=True)
class Prepared:
    """A batch that was read.

    Attributes:
        pictures: those that can be used, in order; ``places``: where they stand in the batch, from 0.
        sha256: of the bytes of every picture, hexadecimal; None where they cannot be read.
        errors: what is wrong with the others, by their place.
    """

    pictures: list[Picture]
    places: list[int]
    sha256: list[str | None]
    errors: dict[int, str]


class Preparer:
    """Prepares the pictures of a network in one process."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest, self._reader = manifest, Reader()

    def __call__(self, entries: Iterable[Entry]) -> Prepared:
        """Read and decode pictures; whatever is wrong with one is told of it, and goes no further."""
        done = Prepared([], [], [], {})
        for place, entry in enumerate(entries):
            done.sha256.append(None)
            try:
                content = self._reader.content(entry)
                done.sha256[place] = hashlib.sha256(content).hexdigest()
                (picture,) = task_of(self._manifest).pictures([content], self._manifest)
            except ImageError as error:
                done.errors[place] = str(error).replace("image 0", "the image", 1)  # so bytes without a name are called
            else:
                done.pictures.append(picture)
                done.places.append(place)
        return done


_preparer: Preparer | None = None  # of a worker process


def _begin(parent: int, manifest: Manifest) -> None:
    global _preparer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends us
    die_with_parent(parent)
    _preparer = Preparer(manifest)


def _prepare(entries: tuple[Entry, ...]) -> Prepared:
    assert _preparer is not None
    return _preparer(entries)


@contextlib.contextmanager
def preparing(
    manifest: Manifest, workers: int
) -> Iterator[Callable[[Iterable[Batch]], Iterator[tuple[Batch, Prepared]]]]:
    """Yield what prepares batches in ``workers`` processes and gives them in order.

    Of all batches no more than ``workers + AHEAD`` are on their way, and no other is asked for, until the first of them
    has been taken: so memory does not grow with the source, and a slow network holds up those that decode.

    Raises:
        OutOfMemory: a process was killed.
    """
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(os.getpid(), manifest)
    )

    def prepared(batches: Iterable[Batch]) -> Iterator[tuple[Batch, Prepared]]:
        waiting: deque[tuple[Batch, Future[Prepared]]] = deque()
        for batch in batches:
            waiting.append((batch, pool.submit(_prepare, batch.entries)))
            if len(waiting) >= workers + AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()

    try:
        yield prepared
    except BrokenProcessPool:
        raise OutOfMemory(
            "a process that decodes pictures has ended, most often killed for lack of memory; take fewer workers or a "
            "smaller batch; the same command goes on where this one was"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
