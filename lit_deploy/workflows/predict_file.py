"""Predictions of any number of images, written to a file. A run that was killed goes on where it was.

What is done lies in a journal beside the file, hidden, batch by batch, until all is done; then the file is written
whole. So what it holds does not depend on kills, and memory holds no more than a few batches.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lit_deploy.backends.protocol import SessionOptions, Source
from lit_deploy.core.errors import UsageError
from lit_deploy.core.files import atomic_path, sha256_of
from lit_deploy.core.journal import Journal, Key, Kind, open_journal
from lit_deploy.core.progress import Progress, unseen
from lit_deploy.images.datasets import file_state
from lit_deploy.tasks.protocol import Task
from lit_deploy.workflows.predict import Done, Drawn, LeftOut, Wanted, Work, opened, raise_it
from lit_deploy.workflows.results_files import check_results, columns_of, encoded, writing

FORMAT = "lit-deploy predict 1"
"""First word of every journal: what it is, and the version of its layout."""

_KIND = Kind("state file", "prediction", "predict", "give another --out")


@dataclass(frozen=True)
class WrittenResults:
    """What was written.

    Attributes:
        path: of the file; ``images``: in it, ``left_out``: those that could not be used.
        resumed: images that an earlier run had done.
        seconds: of this run.
    """

    path: Path
    images: int
    left_out: int
    resumed: int
    seconds: float


@dataclass(frozen=True)
class _Record:
    """What is kept of a batch: its number, how many images could not be used, and the others, as they are written."""

    batch: int
    unusable: int
    images: list[msgspec.Raw]


def predict_to_file(
    source: Source,
    images: Sequence[str | Path],
    results: str | Path,
    wanted: Wanted | None = None,
    options: SessionOptions | None = None,
    left_out: LeftOut | None = None,
    progress: Progress = unseen,
) -> WrittenResults:
    """Write what an exported file or a checkpoint finds in images; the same call after a kill goes on.

    Args:
        source, images, wanted, options: see ``predict_images``.
        results: ``.jsonl``: an object an image, with the fields of the task's ``Prediction``; ``.csv`` or ``.parquet``:
            a row a class or object. In the order of the images; what was drawn is named by ``picture``, ``label_map``.
        left_out: called with the error of every image that cannot be used, which is left out and tried again when a run
            is resumed. None raises the first.
        progress: called with the share done and images per second.

    Raises:
        ImageError: none of the images can be used, or with ``left_out`` None one of them.
        UsageError: as ``predict_images``; a place or ending that cannot be; an unfinished run of other images, files
            or settings.
        MissingDependency: Parquet without pyarrow.
    """
    started = time.monotonic()
    path, wanted = Path(results), wanted or Wanted()
    check_results(path)
    suffix = path.suffix.lower()
    with opened(source, images, wanted, options) as work:
        journal_path = path.with_name(f".{path.name}.unfinished")
        with open_journal(journal_path, _key(source, work, options, wanted), _KIND) as journal:
            starts, again = _finished(journal, journal_path, len(work.parts))
            todo = [number for number in range(len(work.parts)) if number not in starts or number in again]
            missing: dict[int, int] = dict.fromkeys(starts, 0)
            for done in work.run(todo, progress):
                work.tell(done.unusable.values(), left_out or raise_it)
                starts[done.number] = journal.end
                missing[done.number] = len(done.unusable)
                journal.append(msgspec.json.encode(_record(done, suffix, work.task)))
                del done
            count = len(work.paths) - sum(missing.values())
            if not count:
                journal.forget()
            work.require(count)
            columns = columns_of(work.task, drawn=work.folder is not None)
            decoder = msgspec.json.Decoder(_Record)
            with atomic_path(path) as part, writing(part, suffix, columns) as write:
                for line in journal.at(starts[number] for number in range(len(work.parts))):
                    for image in decoder.decode(line).images:
                        write(image)
            journal.forget()
    resumed = len(work.paths) - sum(len(work.parts[number]) for number in todo)
    return WrittenResults(path, count, len(work.paths) - count, resumed, time.monotonic() - started)


def _record(done: Done, suffix: str, task: Task) -> _Record:
    drawn: Sequence[Drawn | None] = done.drawn or [None] * len(done.predictions)
    images = [encoded(found, files, suffix, task) for found, files in zip(done.predictions, drawn, strict=True)]
    return _Record(done.number, len(done.unusable), images)


def _key(source: Source, work: Work, options: SessionOptions | None, wanted: Wanted) -> Key:
    digest = hashlib.sha256()
    for path in work.paths:
        digest.update(os.fsencode(path) + f"\0{file_state(path)}\n".encode())
    session, threads = work.session, (options or SessionOptions()).threads
    artifact = session.manifest.source_sha256
    if isinstance(source, str | Path) and Path(source).is_file():
        artifact = sha256_of(Path(source))
    settings = (
        f"{session.description}, {session.manifest.input}, batches of {work.size}, {threads or 'all'} threads, the "
        f"best {work.top}, scores above {wanted.score_threshold}, drawn in {work.folder}"
    )
    return Key(digest.hexdigest(), (artifact,), (settings,), FORMAT)


def _finished(journal: Journal, path: Path, batches: int) -> tuple[dict[int, int], set[int]]:
    """Where the last line of every finished batch begins, and the batches that had images that could not be used."""
    decoder = msgspec.json.Decoder(_Record)
    starts: dict[int, int] = {}
    again: set[int] = set()
    for number, (start, line) in enumerate(journal.lines(), start=2):
        try:
            record = decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            record = None
        if record is None or not 0 <= record.batch < batches:
            raise UsageError(f"line {number} of the state file {path} is damaged; delete the file to begin again")
        starts[record.batch] = start
        if record.unusable:
            again.add(record.batch)
        else:
            again.discard(record.batch)
    return starts, again
