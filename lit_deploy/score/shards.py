"""Sources cut into shards, in order, and shards into batches.

A shard is named by its number and by what decides its rows, so that one that is there need not be made again, whichever
run and engine made it.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import IO

from lit_deploy.core.errors import UsageError
from lit_deploy.core.progress import Progress, Step
from lit_deploy.core.specs import MAX_IMAGES
from lit_deploy.score.sources import Entry

SUFFIX = ".parquet"


@dataclass(frozen=True)
class Shard:
    """Pictures whose rows stand in one file.

    Attributes:
        number: from 0; ``name``: of its file, without an ending.
        count: of pictures.
    """

    number: int
    name: str
    count: int


@dataclass(frozen=True)
class Batch:
    """Pictures that go through the network together, where all of them can be used.

    Attributes:
        shard: that they belong to; ``start``: place in it of the first.
        entries: the pictures.
    """

    shard: Shard
    start: int
    entries: tuple[Entry, ...]


class Listing:
    """All shards, and what is in each; only the names of shards are in memory, the rest is in a file without a name."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._starts: list[int] = []
        self.shards: list[Shard] = []

    @property
    def pictures(self) -> int:
        """How many there are."""
        return sum(shard.count for shard in self.shards)

    def add(self, entries: list[Entry], key: bytes) -> None:
        """Append a shard; ``key``: what else decides its rows."""
        digest = hashlib.sha256(key)
        for entry in entries:
            digest.update(
                repr((entry.path, entry.state, entry.column, entry.place)).encode("utf-8", "backslashreplace")
            )
        number = len(self.shards)
        self._starts.append(self._file.seek(0, 2))
        pickle.dump([tuple(entry) for entry in entries], self._file, pickle.HIGHEST_PROTOCOL)
        self.shards.append(Shard(number, f"{number:06}-{digest.hexdigest()[:16]}", len(entries)))

    def batches(self, shards: Iterable[Shard], size: int) -> Iterator[Batch]:
        """The batches of some shards, in order; none reaches from one shard into the next."""
        for shard in shards:
            self._file.seek(self._starts[shard.number])
            entries = [Entry(*fields) for fields in pickle.load(self._file)]  # nobody else can write there
            for start in range(0, len(entries), size):
                yield Batch(shard, start, tuple(entries[start : start + size]))


@contextlib.contextmanager
def listed(entries: Iterable[Entry], size: int, key: bytes, progress: Progress) -> Iterator[Listing]:
    """Cut pictures into shards.

    Args:
        entries: the pictures; ``size``: of a shard, at least 1.
        key: what decides rows beside the pictures: model, options.
    """
    rest = iter(entries)
    with tempfile.TemporaryFile() as file:
        listing = Listing(file)
        while part := list(islice(rest, size)):
            listing.add(part, key)
            if listing.shards[-1].number * size > MAX_IMAGES:
                raise UsageError(f"there are more than {MAX_IMAGES:,} images, the most of one run; score them in parts")
            progress(Step(f"listing, {listing.shards[-1].number * size + len(part):,} images"))
        yield listing
