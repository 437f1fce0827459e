"""The files of one evaluation: their sessions, how each is fed, and what their classes are called."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.openvino_file import IR_SUFFIX
from lit_deploy.artifacts.sidecar import ENGINE_SUFFIXES
from lit_deploy.backends.protocol import Session
from lit_deploy.core.errors import UsageError
from lit_deploy.core.files import sha256_of
from lit_deploy.core.specs import DenseSpec, InputSpec, TaskName
from lit_deploy.images.categories import default_categories
from lit_deploy.images.labels import default_labels


@dataclass(frozen=True)
class Entry:
    """A file that is evaluated: its open session, and how its images are prepared."""

    label: str
    path: str
    session: Session
    spec: InputSpec
    sha256: str

    @property
    def manifest(self) -> Manifest:
        """What the network is, and how its images are prepared here."""
        return replace(self.session.manifest, input=self.spec)


def is_checkpoint(source: str | Path) -> bool:
    """Whether it has no input rule of its own: whatever is no exported file is a checkpoint (see ``open_session``)."""
    return Path(source).suffix.lower() not in (".onnx", IR_SUFFIX, *ENGINE_SUFFIXES)


def unique_labels(sources: Sequence[str | Path]) -> list[str]:
    """File names, or whole paths where two files share a name."""
    if not sources:
        raise UsageError("got nothing to evaluate; name an exported file, or a checkpoint (--ckpt)")
    paths = [str(source) for source in sources]
    resolved = [os.path.realpath(path) for path in paths]
    for path, place in zip(paths, resolved, strict=True):
        if resolved.count(place) > 1:
            raise UsageError(f"{path} is named twice; name every file once, the reference with --ckpt only")
    names = [Path(path).name for path in paths]
    return [path if names.count(name) > 1 else name for path, name in zip(paths, names, strict=True)]


def entry_of(label: str, source: str | Path, session: Session) -> Entry:
    path = Path(source)
    sha256 = sha256_of(path) if path.is_file() else session.manifest.source_sha256
    return Entry(label=label, path=str(source), session=session, spec=session.manifest.input, sha256=sha256)


def task_of_all(entries: Sequence[Entry]) -> TaskName:
    """The task of the files, which must be one; UsageError otherwise."""
    tasks = {entry.session.manifest.task: entry.label for entry in reversed(entries)}
    if len(tasks) > 1:
        told = ", ".join(f"{label} is made for {task.replace('_', ' ')}" for task, label in tasks.items())
        raise UsageError(f"the files have different tasks ({told}); evaluate them one by one")
    (task,) = tasks
    return task


def geometry(spec: InputSpec) -> InputSpec:
    """What decides over the pixels, without what is done to them afterwards; files that share it share pictures."""
    return replace(spec, kind="uint8", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def with_inputs_of_exports(entries: Sequence[Entry], notes: list[str]) -> list[Entry]:
    """A checkpoint knows neither mean nor resize rule; it gets those of the first file that was exported from it."""
    exported: dict[str, InputSpec] = {}
    for entry in entries:
        if not is_checkpoint(entry.path):
            exported.setdefault(entry.session.manifest.source_sha256, entry.spec)
    fed = []
    for entry in entries:
        if is_checkpoint(entry.path):
            spec = exported.get(entry.session.manifest.source_sha256)
            if spec is None:
                notes.append(
                    f"images for {entry.label} are prepared with the default mean, std and resize rule, as no file "
                    "here was exported from it"
                )
            else:
                entry = replace(entry, spec=replace(spec, kind=entry.spec.kind))
        fed.append(entry)
    return fed


def class_names(entries: Sequence[Entry], notes: list[str]) -> tuple[str, ...]:
    """The class names of the files, which must agree on what they number; given names win over default ones."""
    counts = {entry.session.manifest.model.num_classes: entry.label for entry in entries}
    if len(counts) > 1:
        told = ", ".join(f"{label} has {count}" for count, label in counts.items())
        raise UsageError(f"the files have different numbers of classes ({told}); evaluate them one by one")
    (count,) = counts
    task = entries[0].session.manifest.task
    default = default_labels(count) if task == "classification" else default_categories(task, count).labels
    given = [entry for entry in entries if entry.session.manifest.labels != default]
    if not given:
        return default
    first, *others = given
    names = first.session.manifest.labels
    for other in others:
        different = sum(a != b for a, b in zip(names, other.session.manifest.labels, strict=True))
        if different:
            notes.append(
                f"{different} of the {count} class names of {other.label} are not those of {first.label}, which were "
                "used for both"
            )
        for index, name in enumerate(other.session.manifest.labels):
            if name in names and names[index] != name:
                raise UsageError(
                    f"class {index} is '{name}' for {other.label} and '{names[index]}' for {first.label}: their "
                    "outputs stand in different orders, so evaluate them one by one"
                )
    return names


def category_ids(entries: Sequence[Entry]) -> tuple[int, ...]:
    """The data set's number of every class, as the files say, which must agree.

    A checkpoint does not know them; its manifest holds guesses, which count where there is nothing else.
    """
    told = [entry for entry in entries if not is_checkpoint(entry.path)] or list(entries)
    first = told[0]
    for other in told[1:]:
        if _dense(other).category_ids != _dense(first).category_ids:
            raise UsageError(
                f"{other.label} numbers its classes otherwise than {first.label} (category_ids); evaluate them one by "
                "one"
            )
    return _dense(first).category_ids


def threshold_notes(entries: Sequence[Entry]) -> list[str]:
    """Files that leave out detections by another rule than the reference."""
    reference, *others = entries
    notes = []
    for entry in others:
        told = [
            f"{name} {mine:g} and {theirs:g}"
            for name, mine, theirs in (
                ("score thresholds", _dense(entry).score_threshold, _dense(reference).score_threshold),
                ("IoU thresholds", _dense(entry).iou_threshold, _dense(reference).iou_threshold),
                ("most detections", _dense(entry).max_detections, _dense(reference).max_detections),
            )
            if mine != theirs
        ]
        if told:
            notes.append(f"{entry.label} and {reference.label} differ for a reason of their own: {', '.join(told)}")
    return notes


def _dense(entry: Entry) -> DenseSpec:
    spec = entry.session.manifest.dense
    assert spec is not None, "the manifest of every task but classification has one"
    return spec


def origin_notes(entries: Sequence[Entry], checked: bool) -> list[str]:
    """Files that were not made from the checkpoint they are compared with."""
    reference, *others = entries
    source = reference.session.manifest.source_sha256
    return [
        f"{entry.label} was not made from {reference.label} but from {entry.session.manifest.source}"
        for entry in others
        if checked and entry.session.manifest.source_sha256 != source
    ]
