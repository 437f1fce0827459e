"""Accuracy on images: how often files are right, and how often they agree with PyTorch and with each other.

All files see the same images, prepared by the rule in the file's own manifest. An image that cannot be read is named
and left out for all of them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.backends.base import filled
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.core.specs import BEST_CLASSES, MAX_BATCH, InputSpec
from lit_deploy.core.text import shown_name
from lit_deploy.evaluate.entries import (
    Entry,
    class_names,
    entry_of,
    origin_notes,
    unique_labels,
    with_inputs_of_exports,
)
from lit_deploy.evaluate.result import EvaluateReport, Score
from lit_deploy.evaluate.state import BatchRecord, State, StateKey, open_state
from lit_deploy.images.datasets import Folders, LabelledImages, Skipped, labelled_images
from lit_deploy.images.decoding import load_image
from lit_deploy.images.preprocessing import normalize, resize_and_crop
from lit_deploy.tasks.classification.ranking import best_classes, same_prediction
from lit_deploy.tasks.classification.scores import accuracy
from lit_deploy.tasks.table import task_of

Pixels = NDArray[np.uint8]

BATCH = 32
"""Images per batch where the files take that many, and between two writes of the state."""

BATCHES_AHEAD = 2
"""Batches that are prepared while another one runs."""


def evaluate_artifacts(
    artifacts: Sequence[str | Path],
    images: str | Path,
    checkpoint: str | Path | None = None,
    *,
    labels_file: str | Path | None = None,
    folders: Folders = "auto",
    batch: int = BATCH,
    workers: int | None = None,
    limit: int | None = None,
    state: str | Path | None = None,
    options: SessionOptions | None = None,
    progress: Progress = unseen,
) -> EvaluateReport:
    """Measure top-1 and top-5 accuracy of files on a folder of images, and how far their predictions agree.

    The same call after a kill goes on where it stopped, with the numbers it would have had. For that, finished batches
    are kept in the cache folder until the evaluation is complete, or in ``state``, which stays.

    Args:
        artifacts: exported files, engines or checkpoints; the first is the reference where ``checkpoint`` is None.
        images, labels_file, folders: see ``datasets.labelled_images``.
        checkpoint: what PyTorch runs as the reference. Every checkpoint is fed as the first file exported from it.
        batch: images per batch; a file that takes fewer gets it in parts, one that takes more gets its own number.
        workers: threads that decode and resize; None for all cores.
        limit: most images, evenly spaced over the sorted list.
        state: file to go on from and to add to.
        options: device, threads and library of every session.
        progress: called with each step, and with the share done and images per second.

    Raises:
        UsageError: arguments, files or classes that do not fit together; a state of another evaluation.
        ImageError: no image there, or none that can be read.
        ArtifactError, CheckpointError, MissingDependency: as the name says.
    """
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    if not 1 <= batch <= MAX_BATCH or workers < 1 or (limit is not None and limit < 1):
        raise UsageError(
            f"got batch {batch}, workers {workers} and limit {limit}, expected 1 to {MAX_BATCH} and at least 1"
        )
    sources = [*([] if checkpoint is None else [checkpoint]), *artifacts]
    names = unique_labels(sources)
    options = options or SessionOptions()
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        sessions = []
        for name, source in zip(names, sources, strict=True):
            progress(Step(f"open {name}"))
            sessions.append(stack.enter_context(open_session(source, options)))
        entries = [entry_of(*entry) for entry in zip(names, sources, sessions, strict=True)]
        notes = origin_notes(entries, checked=checkpoint is not None)
        entries = with_inputs_of_exports(entries, notes)
        progress(Step("list the images"))
        dataset = labelled_images(images, class_names(entries, notes), labels_file, folders).limited(limit)
        size = max(batch, *(entry.session.batch_range[0] for entry in entries))
        saved = stack.enter_context(_state(state, _key(dataset, entries, size, options), notes))
        parts = [range(start, min(start + size, len(dataset.files))) for start in range(0, len(dataset.files), size)]
        records = dict(enumerate(saved.records))
        # what could not be read then may be readable now
        todo = [number for number in range(len(parts)) if number not in records or records[number].unreadable]
        running = _run_batches(entries, dataset, parts, todo, workers, progress)
        for record in stack.enter_context(contextlib.closing(running)):
            records[record.batch] = record
            try:
                saved.append(record)
            except UsageError as error:
                if state is not None:
                    raise
                notes.append(f"a kill would have lost the later batches, as {error}")
        result = _result(
            entries, dataset, parts, [records[number] for number in range(len(parts))], notes, batch=size,
            workers=workers, resumed=len(dataset.files) - sum(len(parts[number]) for number in todo),
            started=started, against_checkpoint=checkpoint is not None,
        )  # fmt: skip
        if state is None:
            saved.forget()
        return result


def _key(dataset: LabelledImages, entries: Sequence[Entry], size: int, options: SessionOptions) -> StateKey:
    common = f"batches of {size}, {options.threads or 'all'} threads"
    settings = tuple(f"{entry.session.description}, {entry.spec}, {common}" for entry in entries)
    return StateKey(dataset.sha256(), tuple(entry.sha256 for entry in entries), settings)


@contextlib.contextmanager
def _state(path: str | Path | None, key: StateKey, notes: list[str]) -> Iterator[State]:
    """The state that was asked for, or the one in the cache folder; none where that folder cannot be written."""
    if path is not None:
        with open_state(Path(path), key) as state:
            yield state
        return
    with contextlib.ExitStack() as stack:
        try:
            state = stack.enter_context(open_state(key.default_path(), key))
        except UsageError as error:
            notes.append(f"a kill would have lost everything, as {error}")
            state = State()
        yield state


def _run_batches(
    entries: Sequence[Entry],
    dataset: LabelledImages,
    parts: Sequence[range],
    todo: Sequence[int],
    workers: int,
    progress: Progress,
) -> Generator[BatchRecord, None, None]:
    """Prepare and run the batches of these numbers."""
    total = len(dataset.files)
    done = begin = total - sum(len(parts[number]) for number in todo)
    progress(Step(f"{begin} of {total} images", begin / max(total, 1)))
    geometries = sorted({_geometry(entry.spec) for entry in entries}, key=repr)
    warm: set[str] = set()
    started = time.monotonic()
    with _prepared(dataset, [parts[number] for number in todo], geometries, workers) as batches:
        for number, prepared in zip(todo, batches, strict=True):
            readable = [crops for crops in prepared if not isinstance(crops, str)]
            unreadable = tuple((place, crops) for place, crops in enumerate(prepared) if isinstance(crops, str))
            pixels = {geometry: [crops[i] for crops in readable] for i, geometry in enumerate(geometries)}
            found, seconds = _run_all(entries, pixels, len(readable), parts[0], warm)
            yield BatchRecord(number, unreadable, found, seconds)
            done += len(prepared)
            rate = (done - begin) / max(time.monotonic() - started, 1e-9)
            progress(Step(f"{done} of {total} images, {rate:.1f} images/s", done / total))


@contextlib.contextmanager
def _prepared(
    dataset: LabelledImages, parts: Sequence[range], geometries: Sequence[InputSpec], workers: int
) -> Iterator[Iterator[list[list[Pixels] | str]]]:
    """Batches in order, a few of them prepared ahead; per image its crops, or why it cannot be read."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prepare")

    def batches() -> Iterator[list[list[Pixels] | str]]:
        waiting: deque[list[Future[list[Pixels] | str]]] = deque()
        for part in parts:
            waiting.append([pool.submit(_crops, dataset.root / dataset.files[i], geometries) for i in part])
            if len(waiting) > BATCHES_AHEAD:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]

    try:
        yield batches()
    finally:
        pool.shutdown(cancel_futures=True)


def _crops(path: Path, geometries: Sequence[InputSpec]) -> list[Pixels] | str:
    """One image, decoded once, cut to every size that is needed; a text says why it cannot be read."""
    try:
        image = load_image(path)
        return [resize_and_crop(image, geometry) for geometry in geometries]
    except ImageError as error:
        text = str(error).removeprefix(f"{path} ").removeprefix(f"{path}: ")
        return shown_name(text)


def _geometry(spec: InputSpec) -> InputSpec:
    """What decides over the pixels, without what is done to them afterwards; files that share it share crops."""
    return replace(spec, kind="uint8", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def _run_all(
    entries: Sequence[Entry], pixels: dict[InputSpec, list[Pixels]], count: int, full: range, warm: set[str]
) -> tuple[tuple[tuple[tuple[int, ...], ...], ...], tuple[float, ...]]:
    """Predicted classes ``[files][count][k]`` and seconds of every file for one batch."""
    if not count:
        return tuple(() for _ in entries), tuple(0.0 for _ in entries)
    feeds: dict[InputSpec, NDArray[Any]] = {}
    found, seconds = [], []
    for entry in entries:
        if entry.spec not in feeds:
            stacked = np.stack(pixels[_geometry(entry.spec)])
            feeds[entry.spec] = stacked if entry.spec.kind == "uint8" else normalize(stacked, entry.spec)
        feed, manifest = feeds[entry.spec], entry.session.manifest
        low, high = entry.session.batch_range
        size = max(low, min(len(full), high))
        parts, spent = [], 0.0
        for start in range(0, count, size):
            part = feed[start : start + size]
            whole = filled(part, low)
            if entry.label not in warm:  # the first run allocates and, on a GPU, loads kernels
                entry.session.run(task_of(manifest).feed(whole))
                warm.add(entry.label)
            began = time.perf_counter()
            outputs = entry.session.run(task_of(manifest).feed(whole))
            spent += time.perf_counter() - began
            parts += best_classes(outputs, manifest.output, manifest.model.num_classes)[: len(part)].tolist()
        found.append(tuple(map(tuple, parts)))
        seconds.append(spent)
    return tuple(found), tuple(seconds)


def _result(
    entries: Sequence[Entry],
    dataset: LabelledImages,
    parts: Sequence[range],
    records: Sequence[BatchRecord],
    notes: Sequence[str],
    *,
    batch: int,
    workers: int,
    resumed: int,
    started: float,
    against_checkpoint: bool,
) -> EvaluateReport:
    skipped = list(dataset.skipped)
    unreadable = {part[place]: why for part, rec in zip(parts, records, strict=True) for place, why in rec.unreadable}
    skipped += [Skipped(shown_name(dataset.files[index]), why) for index, why in unreadable.items()]
    truth = np.array([c for index, c in enumerate(dataset.classes) if index not in unreadable], dtype=np.int64)
    if not len(truth):
        first = skipped[-1]
        raise ImageError(
            f"none of the {len(dataset.files)} images in {dataset.root} can be read, e.g. {first.image} {first.reason}"
        )
    found = [np.array([row for rec in records for row in rec.classes[i]], dtype=np.int64) for i in range(len(entries))]
    agreement = tuple(tuple(float(same_prediction(a, b).mean()) for b in found) for a in found)
    classes = entries[0].session.manifest.model.num_classes
    scores = tuple(
        Score(
            label=entry.label,
            path=entry.path,
            description=entry.session.description,
            precision=entry.session.manifest.precision,
            sha256=entry.sha256,
            top1=accuracy(classes_[:, 0] == truth),
            top5=accuracy((classes_ == truth[:, None]).any(axis=1)) if classes > BEST_CLASSES else None,
            differing=int((~same_prediction(found[0], classes_)).sum()),
            agreement=agreement[0][i],
            not_finite=int((classes_[:, 0] < 0).sum()),
            images_per_second=len(truth) / max(sum(record.seconds[i] for record in records), 1e-9),
        )
        for i, (entry, classes_) in enumerate(zip(entries, found, strict=True))
    )
    return EvaluateReport(
        source=str(dataset.root),
        mapping=dataset.mapping,
        images=len(truth),
        listed=len(dataset.files),
        classes=classes,
        reference=entries[0].label,
        against_checkpoint=against_checkpoint,
        scores=scores,
        agreement=agreement,
        skipped=tuple(skipped),
        batch=batch,
        workers=workers,
        seconds=time.monotonic() - started,
        resumed=resumed,
        notes=tuple(notes),
    )
