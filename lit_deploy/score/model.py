"""The files that a network consists of, and their hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from lit_deploy.artifacts.openvino_file import IR_SUFFIX, weights_path
from lit_deploy.artifacts.sidecar import ENGINE_SUFFIXES, sidecar_path
from lit_deploy.checkpoints.downloads import resolve_checkpoint, split_key
from lit_deploy.core.errors import UsageError
from lit_deploy.core.files import sha256_of


@dataclass(frozen=True)
class Model:
    """What is run.

    Attributes:
        files: its files, that which is named first; ``key``: of a network in a checkpoint.
        sha256: of the file, or of the hashes of several, hexadecimal.
    """

    files: tuple[Path, ...]
    key: str | None
    sha256: str

    @property
    def name(self) -> str:
        """Its file's name, and its key."""
        return self.files[0].name + ("" if self.key is None else f"#{self.key}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names under which the files find one another, in the order of ``files``."""
        first = self.files[0]
        beside = (weights_path if first.suffix.lower() == IR_SUFFIX else sidecar_path)(first)
        return (first.name, beside.name)[: len(self.files)]


def model_of(source: str | Path) -> Model:
    """Find the files of an exported file, engine or checkpoint, and hash them.

    Raises:
        UsageError: a file that is not there. CheckpointError: the same of a checkpoint, or of its download.
    """
    place, key = split_key(source)
    path = Path(place)
    suffix = path.suffix.lower()
    if suffix in (".onnx", IR_SUFFIX, *ENGINE_SUFFIXES):
        files = [path]
        if suffix == IR_SUFFIX:
            files.append(weights_path(path))
        elif suffix != ".onnx":
            beside = sidecar_path(path)
            files.append(beside if beside.is_file() else sidecar_path(path.resolve()))  # a link has it at its target
        for file in files:
            if not file.is_file():
                raise UsageError(
                    f"{file} does not exist or is no file; give an exported file, an engine or a checkpoint"
                )
    else:
        files = [resolve_checkpoint(place)]
        if not files[0].is_file():
            raise UsageError(f"{files[0]} is a folder; give an exported file, an engine or a checkpoint")
    hashes = [sha256_of(file) for file in files]
    whole = hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    return Model(tuple(files), key, whole)
