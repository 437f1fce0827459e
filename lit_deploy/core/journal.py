"""The journal of a long job, so that one that was killed goes on where it stopped.

A text file: on the first line what the job is, then a line for every part that is done. Lines are only ever appended,
and are on the disk before the next part begins. A process that is killed leaves at most one half line, at the end,
which is cut off before the next one is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from lit_deploy.core.errors import UsageError


@dataclass(frozen=True)
class Kind:
    """What a journal is called in messages.

    Attributes:
        name: of the file, e.g. ``state file``; ``job``: that it belongs to, e.g. ``evaluation``.
        command: that writes it; ``remedy``: what to do where it cannot be used.
    """

    name: str
    job: str
    command: str
    remedy: str


_OTHERS = {
    "images": "other images (or something about them was changed since)",
    "artifacts": "other files (or they were written anew since)",
    "settings": "other settings (batch size, threads, device, library, versions or other options)",
    "format": "another version of lit-deploy",
}
"""How two jobs differ, by the first field of their keys that does."""


@dataclass(frozen=True)
class Key:
    """What a job computes; two jobs with equal keys get equal results.

    Attributes:
        images: hash of the list of images and of all that is known of them; ``artifacts``: SHA-256 of every file that
            is run.
        settings: one line for every artifact on how it is run.
        format: what the journal is, and the version of its layout.
    """

    images: str
    artifacts: tuple[str, ...]
    settings: tuple[str, ...]
    format: str

    def line(self) -> bytes:
        """First line of the journal, without its end."""
        return msgspec.json.encode(dataclasses.asdict(self))


class Journal:
    """An open journal, or, without a file, that of a job that cannot be resumed.

    Attributes:
        end: where the next line begins, in bytes.
    """

    def __init__(self, kind: Kind, path: Path | None = None, file: IO[bytes] | None = None, end: int = 0) -> None:
        self.end = end
        self._kind, self._path, self._file = kind, path, file

    def append(self, line: bytes) -> None:
        """Write one line through to the disk; UsageError when that is impossible, and then no more is written."""
        if self._file is not None and self._path is not None:
            file, self._file = self._file, None  # nothing may follow half a line
            file.seek(self.end)
            _write(file, self._path, line, self._kind)
            self._file, self.end = file, self.end + len(line) + 1

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Where every line but the first begins, and its content, one after the other."""
        if self._path is not None:
            with self._path.open("rb") as file:
                start = len(file.readline())
                while start < self.end:
                    line = file.readline()
                    yield start, line[:-1]
                    start += len(line)

    def at(self, starts: Iterable[int]) -> Iterator[bytes]:
        """The lines that begin there."""
        if self._path is not None:
            with self._path.open("rb") as file:
                for start in starts:
                    file.seek(start)
                    yield file.readline()[:-1]

    def forget(self) -> None:
        """Delete the file, of a job that is complete."""
        if self._path is not None:
            with contextlib.suppress(OSError):  # a file too many is no reason to lose the result
                self._path.unlink()


@contextlib.contextmanager
def open_journal(path: Path, key: Key, kind: Kind) -> Iterator[Journal]:
    """Open or begin the journal of one job, for this process alone.

    Args:
        path: of the file; ``key``: what the job is; ``kind``: for messages.

    Raises:
        UsageError: the file is something else, belongs to another job, is in use, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a device or a pipe keeps nothing
            raise UsageError(f"cannot write the {kind.name} {path}: it is not a regular file; {kind.remedy}")
        file = open(path, "r+b" if path.exists() else "x+b", buffering=0)  # noqa: SIM115  (closed below)
    except OSError as error:
        raise UsageError(f"cannot write the {kind.name} {path}: {error.strerror or error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"the {kind.name} {path} is in use by another {kind.job}; wait for it, or {kind.remedy}"
            ) from None
        except OSError:  # a file system without locks
            pass
        begin, end = _extent(path)
        if end:
            _check_key(path, begin, key, kind)
        elif not key.line().startswith(begin):
            raise _foreign(path, kind)
        journal = Journal(kind, path, file, end)
        if not end:
            journal.append(key.line())
        yield journal


def _foreign(path: Path, kind: Kind) -> UsageError:
    return UsageError(f"{path} is no {kind.name} of lit-deploy {kind.command}; {kind.remedy}")


def _check_key(path: Path, line: bytes, key: Key, kind: Kind) -> None:
    try:
        found = msgspec.json.decode(line, type=Key)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise _foreign(path, kind) from None
    for field, what in _OTHERS.items():
        if getattr(found, field) != getattr(key, field):
            raise UsageError(
                f"the {kind.name} {path} belongs to another {kind.job}, with {what}; {kind.remedy}, or delete it to "
                "begin again"
            )


def _extent(path: Path) -> tuple[bytes, int]:
    """The first line of a file, and where its last whole line ends."""
    with path.open("rb") as file:
        begin = line = file.readline()
        end = 0
        while line.endswith(b"\n"):
            end += len(line)
            line = file.readline()
    return begin, end


def _write(file: IO[bytes], path: Path, line: bytes, kind: Kind) -> None:
    try:
        file.truncate()  # half a line, once it is known to be ours
        rest = memoryview(line + b"\n")
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(f"cannot write the {kind.name} {path}: {error.strerror or error}") from None
