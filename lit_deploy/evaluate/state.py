"""The state of an evaluation on disk, so that one that was killed goes on where it stopped.

A text file: what is evaluated on the first line, then one JSON object per finished batch. Lines are only ever
appended, and are on the disk before the next batch begins. A process that is killed leaves at most one half line, at
the end, which is cut off before the next one is written. A batch with unreadable images may be done again, as an error
of reading may pass; its last line counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

import msgspec

from lit_deploy.core.errors import UsageError
from lit_deploy.core.files import cache_dir

FORMAT = "lit-deploy evaluate 2"
"""First word of every state file: what it is, and the version of its layout. 2 keeps what any task records."""

R = TypeVar("R")


@dataclass(frozen=True)
class StateKey:
    """What an evaluation computes; two evaluations with equal keys get equal numbers.

    Attributes:
        images: hash of the list of images and of their truth; ``artifacts``: SHA-256 of every file that is run.
        settings: one line for every artifact on how it is run (back end, input), and the batch size and threads.
    """

    images: str
    artifacts: tuple[str, ...]
    settings: tuple[str, ...]
    format: str = FORMAT

    def line(self) -> bytes:
        """First line of the state file, without its end."""
        return msgspec.json.encode(dataclasses.asdict(self))

    def default_path(self) -> Path:
        """The file of this evaluation in the cache folder."""
        return cache_dir() / "evaluate" / f"{hashlib.sha256(self.line()).hexdigest()[:24]}.jsonl"


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
    """An open state file, or, without a file, an evaluation that cannot be resumed."""

    def __init__(
        self, records: tuple[BatchRecord[Any], ...] = (), path: Path | None = None, file: IO[bytes] | None = None
    ) -> None:
        self.records = records
        self._path = path
        self._file = file

    def append(self, record: BatchRecord[Any]) -> None:
        """Write one batch through to the disk; UsageError when that is impossible, and then no more is written."""
        if self._file is not None and self._path is not None:
            file, self._file = self._file, None  # nothing may follow half a line
            _write(file, self._path, msgspec.json.encode(record))
            self._file = file

    def forget(self) -> None:
        """Delete the file, of an evaluation that is complete."""
        if self._path is not None:
            with contextlib.suppress(OSError):  # a file too many is no reason to lose the result
                self._path.unlink()


@contextlib.contextmanager
def open_state(path: Path, key: StateKey, record: Any) -> Iterator[State]:
    """Open or begin the state file of one evaluation, for this process alone.

    Args:
        path: of the file; ``key``: what is evaluated.
        record: type of what is kept of an image.

    Raises:
        UsageError: the file is something else, belongs to another evaluation, is in use, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a device or a pipe keeps nothing
            raise UsageError(f"cannot write the state file {path}: it is not a regular file; give another --state")
        file = open(path, "r+b" if path.exists() else "x+b", buffering=0)  # noqa: SIM115  (closed below)
    except OSError as error:
        raise UsageError(f"cannot write the state file {path}: {error.strerror or error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"the state file {path} is in use by another evaluation; wait for it, or give another --state"
            ) from None
        except OSError:  # a file system without locks
            pass
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if not lines and not key.line().startswith(content):
            raise UsageError(f"{path} is no state file of lit-deploy evaluate; give another --state")
        if lines:
            _check_key(path, lines[0], key)
        records = _records(path, lines[1:], record)
        file.truncate(len(whole))  # only now is it known to be ours
        file.seek(len(whole))
        if not lines:
            _write(file, path, key.line())
        yield State(records, path, file)


def _check_key(path: Path, line: bytes, key: StateKey) -> None:
    try:
        found = msgspec.json.decode(line, type=StateKey)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise UsageError(f"{path} is no state file of lit-deploy evaluate; give another --state") from None
    for field in dataclasses.fields(StateKey):
        if getattr(found, field.name) != getattr(key, field.name):
            what = {
                "images": "other images or classes (or they were changed since)",
                "artifacts": "other files (or they were written anew since)",
                "settings": "other settings (batch size, threads, device, library or versions)",
                "format": "another version of lit-deploy",
            }[field.name]
            raise UsageError(
                f"the state file {path} belongs to an evaluation with {what}; give another --state, or delete it "
                "to begin again"
            )


def _records(path: Path, lines: list[bytes], kept: Any) -> tuple[BatchRecord[Any], ...]:
    """The last record of every batch; each comes after those before it, or again after one with unreadable images."""
    decoder = msgspec.json.Decoder(BatchRecord[kept])
    records: dict[int, BatchRecord[Any]] = {}
    for number, line in enumerate(lines, start=2):
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


def _write(file: IO[bytes], path: Path, line: bytes) -> None:
    try:
        rest = memoryview(line + b"\n")
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(f"cannot write the state file {path}: {error.strerror or error}") from None
