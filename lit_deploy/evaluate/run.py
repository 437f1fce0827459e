"""Accuracy on images: how good files are, and how far they agree with PyTorch and with each other.

All files see the same images. One that cannot be used is named and left out for all of them. What is done with an image
is the task's (``table.py``); here is what all have in common: sessions, threads, the state, the report.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.core.journal import Key
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.core.specs import MAX_BATCH, MAX_IMAGES, MAX_THREADS
from lit_deploy.core.text import shown_name
from lit_deploy.evaluate.entries import (
    Entry,
    entry_of,
    is_checkpoint,
    origin_notes,
    task_of_all,
    unique_labels,
    with_inputs_of_exports,
)
from lit_deploy.evaluate.protocol import Evaluation, Request, refuse_strangers
from lit_deploy.evaluate.result import EvaluateReport
from lit_deploy.evaluate.state import FORMAT, BatchRecord, State, default_path, open_state
from lit_deploy.evaluate.table import EVALUATIONS
from lit_deploy.images.ahead import prepared_ahead
from lit_deploy.images.datasets import Folders, Skipped
from lit_deploy.tasks.promises import require_results

FOR_ALL = {"images", "limit", "against_checkpoint"}
"""Fields of ``Request`` that every task knows."""


def evaluate_artifacts(
    artifacts: Sequence[str | Path],
    images: str | Path,
    checkpoint: str | Path | None = None,
    *,
    labels_file: str | Path | None = None,
    folders: Folders = "auto",
    annotations: str | Path | None = None,
    labels_dir: str | Path | None = None,
    results: str | Path | None = None,
    predictions: str | Path | None = None,
    batch: int | None = None,
    workers: int | None = None,
    limit: int | None = None,
    state: str | Path | None = None,
    options: SessionOptions | None = None,
    progress: Progress = unseen,
    asked: Sequence[str] = (),
) -> EvaluateReport[Any]:
    """Measure how good files are on a folder of images, and how far what they find agrees.

    Top-1 and top-5 accuracy of classifiers, COCO's average precision of detectors, mean intersection over union of
    semantic segmentation. The same call after a kill goes on where it stopped, with the numbers it would have had. For
    that, finished batches are kept in the cache folder until the evaluation is complete, or in ``state``, which stays.

    Args:
        artifacts: exported files, engines or checkpoints; the first is the reference where ``checkpoint`` is None.
        images: folder of images.
        checkpoint: what PyTorch runs as the reference. Every checkpoint is fed as the first file exported from it.
        labels_file, folders: of a classifier's images, see ``datasets.labelled_images``.
        annotations: of a detector's images: COCO's JSON, see ``coco.annotated_images``.
        labels_dir: of images to be segmented: folder of label maps, see ``label_maps.mapped_images``.
        results: file to write a detector's results to, in COCO's JSON.
        predictions: file to write a classifier's to: a line of JSON per image and file, with ``image``, ``true_class``,
            ``true_label``, ``file``, ``right``, and the best ``classes``, ``labels`` and ``probabilities``.
        batch: images per batch, 32 when None; a file that takes fewer gets it in parts, one that takes more gets its
            own number. Classifiers only, the others take one image at a time.
        workers: threads that decode and resize; None for all cores.
        limit: most images, evenly spaced over the sorted list.
        state: file to go on from and to add to.
        options: device, threads and library of every session.
        progress: called with each step, and with the share done and images per second.
        asked: what will be asked of the report, gates and tables, by name (``min_ap``, ``per_class``): refused at once
            where the files are of a task that has no such thing.

    Raises:
        UsageError: arguments, files or classes that do not fit together; a state of another evaluation.
        ImageError: no image there, or none that can be read.
        ArtifactError, CheckpointError, MissingDependency: as the name says.
    """
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    bounds = {"batch": (batch, MAX_BATCH), "workers": (workers, MAX_THREADS), "limit": (limit, MAX_IMAGES)}
    for name, (value, most) in bounds.items():
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"{name} is {value}, expected 1 to {most}")
    sources = [*([] if checkpoint is None else [checkpoint]), *artifacts]
    request = Request(
        Path(images), _path(labels_file), folders, _path(annotations), _path(labels_dir), _path(results),
        _path(predictions), batch, limit, checkpoint is not None,
    )  # fmt: skip
    names = unique_labels(sources)
    options = options or SessionOptions()
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        entries, like = _opened(names, sources, options, stack, progress)
        task = task_of_all(entries)
        refuse_strangers(
            task, entries[-1].label, [*_given(request), *asked],
            {name: evaluation.OPTIONS for name, evaluation in EVALUATIONS.items()},
        )  # fmt: skip
        notes = origin_notes(entries, checked=checkpoint is not None)
        if like is None:
            entries = with_inputs_of_exports(entries, notes)
        progress(Step("list the images"))
        evaluation = EVALUATIONS[task](entries, request, notes)
        files, size = evaluation.dataset.files, evaluation.batch
        saved = stack.enter_context(_state(state, _key(evaluation, entries, options), evaluation.RECORD, notes))
        parts = [range(start, min(start + size, len(files))) for start in range(0, len(files), size)]
        records = dict(enumerate(saved.records))
        # what could not be read then may be readable now
        todo = [number for number in range(len(parts)) if number not in records or records[number].unreadable]
        running = _run_batches(evaluation, parts, todo, workers, len(entries), progress)
        for record in stack.enter_context(contextlib.closing(running)):
            records[record.batch] = record
            try:
                saved.append(record)
            except UsageError as error:
                if state is not None:
                    raise
                notes.append(f"a kill would have lost the later batches, as {error}")
        result = _result(
            evaluation, entries, parts, [records[number] for number in range(len(parts))], notes, workers=workers,
            resumed=len(files) - sum(len(parts[number]) for number in todo), started=started,
            against_checkpoint=checkpoint is not None,
        )  # fmt: skip
        if state is None:
            saved.forget()
        return result


def _opened(
    names: Sequence[str],
    sources: Sequence[str | Path],
    options: SessionOptions,
    stack: contextlib.ExitStack,
    progress: Progress,
) -> tuple[list[Entry], Manifest | None]:
    """The files, open, and what checkpoints were opened like.

    A detector or segmentation network has its normalisation and thresholds inside: PyTorch is given those of the first
    exported file, which for that is opened before any checkpoint. A classifier has none, so None.
    """
    like: Manifest | None = None
    entries: dict[str, Entry] = {}
    for name, source in sorted(zip(names, sources, strict=True), key=lambda pair: is_checkpoint(pair[1])):
        progress(Step(f"open {name}"))
        session = stack.enter_context(
            open_session(source, replace(options, like=like) if is_checkpoint(source) else options)
        )
        require_results(session.manifest, source)
        entries[name] = entry_of(name, source, session)
        if like is None and not is_checkpoint(source) and session.manifest.dense is not None:
            like = session.manifest
    return [entries[name] for name in names], like


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _given(request: Request) -> list[str]:
    """Fields of a request that are not for all tasks, and not as they are when nobody asks."""
    return [f.name for f in fields(request) if f.name not in FOR_ALL and getattr(request, f.name) != f.default]


def _key(evaluation: Evaluation, entries: Sequence[Entry], options: SessionOptions) -> Key:
    common = f"batches of {evaluation.batch}, {options.threads or 'all'} threads"
    settings = tuple(f"{entry.session.description}, {entry.spec}, {common}" for entry in entries)
    return Key(evaluation.dataset.sha256(), tuple(entry.sha256 for entry in entries), settings, FORMAT)


@contextlib.contextmanager
def _state(path: str | Path | None, key: Key, record: Any, notes: list[str]) -> Iterator[State]:
    """The state that was asked for, or the one in the cache folder; none where that folder cannot be written."""
    if path is not None:
        with open_state(Path(path), key, record) as state:
            yield state
        return
    with contextlib.ExitStack() as stack:
        try:
            state = stack.enter_context(open_state(default_path(key), key, record))
        except UsageError as error:
            notes.append(f"a kill would have lost everything, as {error}")
            state = State()
        yield state


def _run_batches(
    evaluation: Evaluation,
    parts: Sequence[range],
    todo: Sequence[int],
    workers: int,
    count: int,
    progress: Progress,
) -> Generator[BatchRecord[Any], None, None]:
    """Prepare the batches of these numbers and run them on ``count`` files."""
    total = len(evaluation.dataset.files)
    done = begin = total - sum(len(parts[number]) for number in todo)
    progress(Step(f"{begin} of {total} images", begin / max(total, 1)))
    started = time.monotonic()
    with prepared_ahead(evaluation.prepare, [parts[number] for number in todo], workers) as batches:
        for number, batch in zip(todo, batches, strict=True):
            unusable = tuple(
                (place, _reason(evaluation, parts[number][place], error)) for place, error in batch.unusable.items()
            )
            found, seconds = evaluation.run(batch.usable) if batch.usable else ([()] * count, (0.0,) * count)
            yield BatchRecord(number, unusable, tuple(map(tuple, found)), seconds)
            done += len(batch)
            rate = (done - begin) / max(time.monotonic() - started, 1e-9)
            progress(Step(f"{done} of {total} images, {rate:.1f} images/s", done / total))


def _reason(evaluation: Evaluation, index: int, error: ImageError) -> str:
    """Why an image cannot be used, without its path."""
    path = evaluation.dataset.root / evaluation.dataset.files[index]
    return shown_name(str(error).removeprefix(f"{path} ").removeprefix(f"{path}: "))


def _result(
    evaluation: Evaluation,
    entries: Sequence[Entry],
    parts: Sequence[range],
    records: Sequence[BatchRecord[Any]],
    notes: Sequence[str],
    *,
    workers: int,
    resumed: int,
    started: float,
    against_checkpoint: bool,
) -> EvaluateReport[Any]:
    dataset = evaluation.dataset
    unusable = {part[place]: why for part, rec in zip(parts, records, strict=True) for place, why in rec.unreadable}
    skipped = [*dataset.skipped, *(Skipped(shown_name(dataset.files[index]), why) for index, why in unusable.items())]
    places = [index for index in range(len(dataset.files)) if index not in unusable]
    if not places:
        first = skipped[-1]
        raise ImageError(
            f"none of the {len(dataset.files)} images in {dataset.root} can be read, e.g. {first.image} {first.reason}"
        )
    found = [[kept for record in records for kept in record.found[i]] for i in range(len(entries))]
    seconds = [sum(record.seconds[i] for record in records) for i in range(len(entries))]
    scores, agreement = evaluation.scores(places, found, seconds)
    return EvaluateReport(
        source=str(dataset.root),
        mapping=dataset.mapping,
        images=len(places),
        listed=len(dataset.files),
        classes=entries[0].session.manifest.model.num_classes,
        reference=entries[0].label,
        against_checkpoint=against_checkpoint,
        scores=scores,
        agreement=agreement,
        skipped=tuple(skipped),
        batch=evaluation.batch,
        workers=workers,
        seconds=time.monotonic() - started,
        resumed=resumed,
        notes=tuple(notes),
    )
