"""The files of a Triton model repository, and how they come there: whole models, or none."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.core.errors import UsageError
from lit_deploy.core.files import PACKAGE
from lit_deploy.core.specs import ORIGINAL_SIZE
from lit_deploy.packaging import kubernetes
from lit_deploy.packaging import serving as texts
from lit_deploy.packaging.triton_configs import LABELS_FILE, MARK, OPENVINO_FILE, Network

PARTS = ("preprocessing", "network", "postprocessing")
"""What an ensemble consists of, as the ends of their names; the last of detectors and segmentation networks only."""

_STEP = re.compile(r'^ *model_name: "(.*)"$', re.MULTILINE)
"""A model that an ensemble consists of, as ``ensemble_config`` writes it."""

_MODEL_FILES = {"onnxruntime": "model.onnx", "openvino": OPENVINO_FILE, "tensorrt": "model.plan"}
"""What Triton's back ends call the file in a version's folder."""


def write_network(folder: Path, config: str, source: Path, network: Network, manifest: Manifest) -> None:
    """The exported file as version 1 of a model, with its labels."""
    _write_model(folder, config, manifest)
    shutil.copyfile(source, folder / "1" / _MODEL_FILES[network.backend])
    _write_labels(folder, manifest)
    if network.sample is not None:
        (folder / "warmup").mkdir()  # the one folder beside versions that Triton knows
        (folder / "warmup" / ORIGINAL_SIZE).write_bytes(struct.pack("<2q", *network.sample.original))


def write_python(folder: Path, config: str, manifest: Manifest, model: str, modules: Sequence[str]) -> None:
    """A python model, with a copy of those of our modules that it imports."""
    _write_model(folder, config, manifest)
    shutil.copyfile(PACKAGE / "packaging" / model, folder / "1" / "model.py")
    for name in modules:
        copy = folder / "1" / "lit_deploy" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / name, copy)


def write_ensemble(folder: Path, config: str, manifest: Manifest) -> None:
    """The ensemble. Its version folder holds the manifest: object stores know no empty folders."""
    _write_model(folder, config, manifest)
    _write_labels(folder, manifest)


def write_start(folder: Path, serving: texts.Serving, library: Path | None) -> None:
    """What starts the server, beside the model that clients ask for.

    These are files and no folder: Triton takes every folder for a version, and warns of others.
    """
    written = {
        "START.md": texts.start_text(serving),
        "deployment.yaml": kubernetes.deployment(serving),
        "autoscaling.yaml": kubernetes.autoscaler(serving),
        "autoscaling-rule.yaml": kubernetes.adapter_rule(),
        "kserve.yaml": kubernetes.kserve(serving),
        "autoscaling-kserve.yaml": kubernetes.kserve_autoscaled(serving),
    }
    if serving.own_image:
        written["Dockerfile"] = texts.dockerfile(serving)
        written[".dockerignore"] = "*\n" + (f"!{serving.library}\n" if serving.library else "")  # not the weights
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
    if library is not None:
        shutil.copyfile(library, folder / library.name)


def _write_model(folder: Path, config: str, manifest: Manifest) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    (folder / "1" / "manifest.json").write_text(manifest.to_json() + "\n", encoding="utf-8")


def _write_labels(folder: Path, manifest: Manifest) -> None:
    (folder / LABELS_FILE).write_text("".join(f"{label}\n" for label in manifest.labels), encoding="utf-8")


def check_place(repository: Path, name: str, models: Sequence[str], force: bool) -> tuple[str, ...]:
    """Check, before any work, that models can be written, and name those of an earlier package that they replace.

    Args:
        repository: a folder, or a path where one can be made.
        name: what the package is called; ``models``: the folders it will have.
        force: whether models may be replaced.

    Raises:
        UsageError: a model is there already, one in its place belongs to another, or the place cannot be written.
    """
    parent = repository.parent
    if repository.exists() and not repository.is_dir():
        raise UsageError(f"cannot write {repository}: it is a file, expected a folder of models")
    if not parent.is_dir():
        raise UsageError(f"cannot write {repository}: the directory {parent} does not exist; create it first")
    for place in (parent, repository):
        if place.exists() and not os.access(place, os.W_OK | os.X_OK):
            raise UsageError(f"cannot write {repository}: permission denied in {place}")
    if os.path.ismount(repository):
        raise UsageError(
            f"cannot write {repository}: it is a mount point, into which whole models cannot be moved; write to a "
            "folder inside it, or elsewhere and copy the models"
        )
    parts = _steps(repository / name) & {f"{name}_{part}" for part in PARTS}
    wanted = dict.fromkeys((name, *models, *sorted(parts)))
    for other in sorted(repository.glob("*/config.pbtxt")):
        shared = [m for m in wanted if m in _steps(other.parent)]
        if shared and other.parent.name != name:
            raise UsageError(
                f"{repository} has a model {other.parent.name}, of which {shared[0]} is a part; choose another --name"
            )
    there = tuple(m for m in wanted if os.path.lexists(repository / m))
    for model in there:
        if model != name and model not in parts:
            raise UsageError(
                f"{repository} has a model {model}, which is no part of a model {name}; choose another --name, or "
                "remove it"
            )
    if there and not force:
        raise UsageError(
            f"{repository} has a model {there[0]} already; choose another --name, or replace it with --force"
        )
    return there


def _steps(model: Path) -> frozenset[str]:
    """Names of the models that an ensemble of ours consists of; none where there is no such ensemble."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        config = (model / "config.pbtxt").read_text(encoding="utf-8")
        if config.startswith(MARK):
            return frozenset(_STEP.findall(config))
    return frozenset()


def install(repository: Path, models: Sequence[str], replaced: Sequence[str], build: Callable[[Path], None]) -> None:
    """Build models in a folder beside the repository, and move them in when all are whole.

    Not inside it: a running server takes every folder there for a model, hidden ones too. What composes an ensemble is
    moved first, the ensemble last. When a move fails, all is put back as it was; the folder is of this run alone, and
    where putting back fails too it stays, for then it holds the old models.

    Args:
        repository: made when it is not there.
        models: folders that ``build`` makes in the folder it is given.
        replaced: models that go.

    Raises:
        UsageError: the disk refuses.
    """
    part = repository.with_name(f".{repository.name}.{secrets.token_hex(8)}.part")
    old, moved = part / ".replaced", list[tuple[Path, Path]]()
    try:
        part.mkdir()
    except OSError as error:
        raise _refused(repository, error) from None
    try:
        build(part)
        if not repository.exists():
            os.rename(part, repository)
            return
        old.mkdir()
        for model in replaced:
            _move(repository / model, old / model, moved)
        for model in models:
            _move(part / model, repository / model, moved)
    except BaseException as error:
        try:
            for source, target in reversed(moved):
                if os.path.lexists(target):  # it is not there where the move itself failed
                    os.rename(target, source)
        except OSError as second:
            raise UsageError(f"cannot write {repository} ({second}); its old models are in {old}") from error
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError):
            raise _refused(repository, error) from None
        raise
    shutil.rmtree(part, ignore_errors=True)


def _refused(repository: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot write {repository}: {error.strerror or error}")


def _move(source: Path, target: Path, moved: list[tuple[Path, Path]]) -> None:
    moved.append((source, target))  # first, so that an interrupt in between is put back too
    os.rename(source, target)
