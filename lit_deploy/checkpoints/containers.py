"""Open a checkpoint file of any container: what it holds, and how the numbers of its tensors are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lit_deploy.checkpoints.recognition import INDEX_SUFFIX, ContainerKind, container_of
from lit_deploy.checkpoints.safetensors_files import MAX_JSON, read_safetensors, read_sharded
from lit_deploy.checkpoints.stored import Ranges, Read
from lit_deploy.checkpoints.torch_files import read_legacy, read_zip
from lit_deploy.core.errors import CheckpointError
from lit_deploy.core.files import check_regular_file

_CHECKPOINT = "a checkpoint file (.pth, .safetensors)"


@dataclass(frozen=True)
class Content:
    """An open checkpoint file.

    Attributes:
        kind: the container.
        value: what ``read_pickle`` returns; of safetensors files, the tensors by their keys.
        read: reads a storage, while the file is open.
        size: bytes of the file, or of all shards.
        sha256: of the file's bytes, hexadecimal; of several files, of the index's and then of theirs by name.
        metadata: of safetensors files.
    """

    kind: ContainerKind
    value: Any
    read: Read
    size: int
    sha256: Callable[[], str]
    metadata: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def opened(path: Path) -> Iterator[Content]:
    """Open a checkpoint file and read all of it but its weights.

    Raises:
        CheckpointError: not a file that can be read, of another kind, damaged or unsafe.
    """
    if path.is_dir():
        index = next(iter(sorted(path.glob("*" + INDEX_SUFFIX))), None)
        mend = "" if index is None else f"; pass {index}"
        raise CheckpointError(f"{path} is a directory, expected {_CHECKPOINT}{mend}")
    check_regular_file(path, _CHECKPOINT, CheckpointError)
    with ExitStack() as files:
        try:
            file = files.enter_context(path.open("rb"))
            head = file.read(512)
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read ({error.strerror or error}), expected {_CHECKPOINT}"
            ) from error
        size = file.seek(0, 2)
        kind = container_of(head, str(path), size)
        file.seek(0)
        read_files: list[BinaryIO] = [file]
        ranges = Ranges()
        metadata: Mapping[str, str] = {}
        try:
            if kind == "zip":
                value, read = read_zip(file)
            elif kind == "legacy":
                value, read = read_legacy(file)
            elif kind == "safetensors":
                value, metadata = read_safetensors(file, ranges)
                read = ranges.read
            else:
                value, ranges = read_sharded(path, file.read(MAX_JSON), files, read_files.append)
                read = ranges.read
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        size = sum(each.seek(0, 2) for each in read_files)
        yield Content(kind, value, read, size, lambda: _sha256(read_files), metadata)


def _sha256(files: list[BinaryIO]) -> str:
    digest = hashlib.sha256()
    for file in files:
        file.seek(0)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
