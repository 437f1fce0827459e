"""The state of an evaluation on disk, so that one that was killed goes on where it stopped.

A journal with one JSON object per finished batch. A batch with unreadable images may be done again, as an error of
reading may pass; its last line counts.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from lit_deploy.core.errors import UsageError
from lit_deploy.core.files import cache_dir
from lit_deploy.core.journal import Journal, Key, Kind, open_journal

FORMAT = "lit-deploy evaluate 3"
"""First word of every state file: what it is, and the version of its layout. 2 keeps what any task records, 3 the
probabilities of classes."""

_KIND = Kind("state file", "evaluation", "evaluate", "give another --state")

R = TypeVar("R")


def default_path(key: Key) -> Path:
    """The state file of an evaluation in the cache folder."""
    return cache_dir() / "evaluate" / f"{hashlib.sha256(key.line()).hexdigest()[:24]}.jsonl"


@dataclass(frozen=True)
class BatchRecord(Generic[R]):
    """What came out of one batch of the list.

    Attributes:
        batch: its number, from 0.
        unreadable: position within the batch, and the reason, of the images that could not be read.
        found: ``[artifacts][readable images]``: what the task keeps of an image, ``Evaluation.RECORD``.
        seconds: per artifact, spent in its runs.
    """

    batch: int
    unreadable: tuple[tuple[int, str], ...]
    found: tuple[tuple[R, ...], ...]
    seconds: tuple[float, ...]


class State:
    """What is known of an evaluation, and the journal that it is added to."""

    def __init__(self, records: tuple[BatchRecord[Any], ...] = (), journal: Journal | None = None) -> None:
        self.records = records
        self._journal = journal or Journal(_KIND)

    def append(self, record: BatchRecord[Any]) -> None:
        """Write one batch through to the disk; UsageError when that is impossible, and then no more is written."""
        self._journal.append(msgspec.json.encode(record))

    def forget(self) -> None:
        """Delete the file, of an evaluation that is complete."""
        self._journal.forget()


@contextlib.contextmanager
def open_state(path: Path, key: Key, record: Any) -> Iterator[State]:
    """Open or begin the state file of one evaluation, for this process alone.

    Args:
        path: of the file; ``key``: what is evaluated.
        record: type of what is kept of an image.

    Raises:
        UsageError: the file is something else, belongs to another evaluation, is in use, or cannot be written.
    """
    with open_journal(path, key, _KIND) as journal:
        yield State(_records(path, journal, record), journal)


def _records(path: Path, journal: Journal, kept: Any) -> tuple[BatchRecord[Any], ...]:
    """The last record of every batch; each comes after those before it, or again after one with unreadable images."""
    decoder = msgspec.json.Decoder(BatchRecord[kept])
    records: dict[int, BatchRecord[Any]] = {}
    for number, (_, line) in enumerate(journal.lines(), start=2):
        try:
            record: BatchRecord[Any] | None = decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            record = None
        if record is None or not (
            record.batch == len(records) or (record.batch in records and records[record.batch].unreadable)
        ):
            raise UsageError(f"line {number} of the state file {path} is damaged; delete the file to begin again")
        records[record.batch] = record
    return tuple(records.values())
