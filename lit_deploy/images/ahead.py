"""Pictures that are prepared in threads while others run: Pillow decodes and resizes outside Python's lock."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lit_deploy.core.errors import ImageError

BATCHES_AHEAD = 2
"""Batches, at least, that are prepared while another one runs."""

T = TypeVar("T")


@dataclass(frozen=True)
class Batch(Generic[T]):
    """Images that were prepared together.

    Attributes:
        usable: what was made of those that can be used, in order.
        places: where they stand in the batch, from 0.
        unusable: the others, by their place.
    """

    usable: list[T]
    places: list[int]
    unusable: dict[int, ImageError]

    def __len__(self) -> int:
        return len(self.usable) + len(self.unusable)


@contextlib.contextmanager
def prepared_ahead(prepare: Callable[[int], T], parts: Sequence[range], workers: int) -> Iterator[Iterator[Batch[T]]]:
    """Batches in order, a few of them prepared ahead, so that memory holds no more than those.

    Args:
        prepare: what is done with an image, by its index, in any thread; ImageError where it cannot be used.
        parts: indices of every batch.
        workers: threads.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
    largest = max(map(len, parts), default=1)
    ahead = max(BATCHES_AHEAD, -(-workers // largest))  # enough for every thread where a batch is one image

    def attempt(index: int) -> T | ImageError:
        try:
            return prepare(index)
        except ImageError as error:
            return error

    def batches() -> Iterator[Batch[T]]:
        waiting: deque[list[Future[Any]]] = deque()
        for part in parts:
            waiting.append([pool.submit(attempt, index) for index in part])
            if len(waiting) > ahead:
                yield _batch(waiting.popleft())
        while waiting:
            yield _batch(waiting.popleft())

    try:
        yield batches()
    finally:
        pool.shutdown(cancel_futures=True)


def _batch(futures: list[Future[Any]]) -> Batch[Any]:
    results = dict(enumerate(future.result() for future in futures))
    unusable = {place: result for place, result in results.items() if isinstance(result, ImageError)}
    usable = {place: result for place, result in results.items() if place not in unusable}
    return Batch(list(usable.values()), list(usable), unusable)
