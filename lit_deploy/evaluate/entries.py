"""The files of one evaluation: their sessions, how each is fed, and what their classes are called."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lit_deploy.artifacts.sidecar import ENGINE_SUFFIXES
from lit_deploy.backends.protocol import Session
from lit_deploy.core.errors import UsageError
from lit_deploy.core.files import sha256_of
from lit_deploy.core.specs import InputSpec
from lit_deploy.images.labels import default_labels, imagenet_labels


@dataclass(frozen=True)
class Entry:
    """A file that is evaluated: its open session, and how its images are prepared."""

    label: str
    path: str
    session: Session
    spec: InputSpec
    sha256: str


def _is_checkpoint(entry: Entry) -> bool:
    """Whether it has no input rule of its own: whatever is no exported file is a checkpoint (see ``open_session``)."""
    return Path(entry.path).suffix.lower() not in (".onnx", *ENGINE_SUFFIXES)


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


def with_inputs_of_exports(entries: Sequence[Entry], notes: list[str]) -> list[Entry]:
    """A checkpoint knows neither mean nor resize rule; it gets those of the first file that was exported from it."""
    exported: dict[str, InputSpec] = {}
    for entry in entries:
        if not _is_checkpoint(entry):
            exported.setdefault(entry.session.manifest.source_sha256, entry.spec)
    fed = []
    for entry in entries:
        if _is_checkpoint(entry):
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
    given = [entry for entry in entries if entry.session.manifest.labels != default_labels(count)]
    if not given:
        return imagenet_labels() if count == 1000 else default_labels(count)
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


def origin_notes(entries: Sequence[Entry], checked: bool) -> list[str]:
    """Files that were not made from the checkpoint they are compared with."""
    reference, *others = entries
    source = reference.session.manifest.source_sha256
    return [
        f"{entry.label} was not made from {reference.label} but from {entry.session.manifest.source}"
        for entry in others
        if checked and entry.session.manifest.source_sha256 != source
    ]
