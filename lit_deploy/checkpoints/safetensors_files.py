"""Safetensors files: one, or several with an index (``model.safetensors.index.json``, as Hugging Face writes them).

The safetensors package maps a file, and a mapped file that shrinks ends the process. The format is a JSON header and
numbers, so it is read here as all others are.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from lit_deploy.checkpoints.pickles import UnusualTensor
from lit_deploy.checkpoints.stored import MAX_DIMENSIONS, MAX_NUMBER, Ranges, Storage, StoredTensor, whole_tensor
from lit_deploy.core.errors import CheckpointError
from lit_deploy.core.files import check_regular_file
from lit_deploy.core.text import shown_key

MAX_JSON = 16 << 20
"""Bytes of a header or an index: names and shapes, and no weights."""

_MAX_SHARDS = 1000
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip

Tensors = dict[str, StoredTensor | UnusualTensor]


def read_safetensors(file: BinaryIO, ranges: Ranges, name: str = "") -> tuple[Tensors, dict[str, str]]:
    """The tensors of a file and its metadata; where their numbers lie is added to ``ranges``.

    Args:
        file: stays open as long as tensors are to be read.
        name: what tells its storages from those of other files.

    Raises:
        CheckpointError: the file is damaged.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, MAX_JSON):
        raise _damaged(f"its header claims {length} bytes")
    try:
        header = _json(file.read(length))
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(item, str) for pair in metadata.items() for item in pair):
            raise _damaged("its metadata is no text")
        found = {key: _entry(key, entry) for key, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(str(error)) from error
    end = 0
    for begin, stop, _, _ in sorted(found.values(), key=lambda entry: entry[:2]):
        if begin != end or stop < begin:
            raise _damaged("its tensors do not lie one after the other")
        end = stop
    if 8 + length + end != size:
        raise _damaged(f"its tensors end at {8 + length + end} of {size} bytes")
    tensors: Tensors = {}
    for key, (begin, stop, dtype, shape) in found.items():
        if dtype is None:
            tensors[key] = UnusualTensor()
            continue
        storage = Storage(f"{name}:{key}", dtype, math.prod(shape))
        if storage.size != stop - begin:
            raise _damaged(f"{key} has {stop - begin} bytes for {storage.size}")
        ranges.places[storage.key] = (file, 8 + length + begin, storage.size)
        tensors[key] = whole_tensor(storage, shape)
    return tensors, metadata


def read_sharded(
    path: Path, index: bytes, files: ExitStack, seen: Callable[[BinaryIO], None]
) -> tuple[Tensors, Ranges]:
    """The tensors of all files that an index names; they lie beside it.

    Args:
        path: of the index; ``index``: its bytes.
        files: takes the open files; ``seen`` is called with each of them.

    Raises:
        CheckpointError: a shard that is missing, damaged or outside the folder, or a tensor that its shard lacks.
    """
    try:
        places = _json(index)["weight_map"]
        if not all(isinstance(item, str) for pair in places.items() for item in pair):
            raise ValueError("weight_map is no table of file names")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"the index is damaged ({shown_key(str(error))}); download or copy it again") from error
    shards: dict[str, list[str]] = {}
    for key, name in places.items():
        shards.setdefault(name, []).append(key)
    if len(shards) > _MAX_SHARDS:
        raise CheckpointError(f"the index names {len(shards)} files, expected at most {_MAX_SHARDS}")
    ranges, tensors = Ranges(), Tensors()
    for name, keys in sorted(shards.items()):
        file = _shard(path, name, files)
        seen(file)
        try:
            held, _ = read_safetensors(file, ranges, name)
        except CheckpointError as error:
            raise CheckpointError(f"{shown_key(name)}: {error}") from error
        tensors |= {key: held[key] for key in keys if key in held}
    lacking = next((key for key in places if key not in tensors), None)
    if lacking is not None:
        raise CheckpointError(
            f"the tensor {shown_key(lacking)} is not in {shown_key(places[lacking])}, where the index has it; download "
            "the files again"
        )
    return tensors, ranges


def _shard(index: Path, name: str, files: ExitStack) -> BinaryIO:
    """A file beside the index, open."""
    if Path(name).name != name or name in ("", ".", "..") or not name.isprintable() or "\\" in name:
        raise CheckpointError(
            f"the index names the file {shown_key(name)}, expected names of files beside it; the index is forged"
        )
    path = index.with_name(name)
    check_regular_file(path, "a safetensors file", CheckpointError)
    try:
        return files.enter_context(path.open("rb"))
    except OSError as error:
        raise CheckpointError(
            f"the file {shown_key(name)} that the index names cannot be read ({error.strerror}); put it beside "
            "the index"
        ) from error


def _entry(key: str, entry: Any) -> tuple[int, int, str | None, tuple[int, ...]]:
    """Begin and end of a tensor's bytes, torch's name of its type (None for unusual ones) and its shape."""
    (begin, stop), shape = entry["data_offsets"], tuple(entry["shape"])
    whole = all(type(number) is int and 0 <= number < MAX_NUMBER for number in (begin, stop, *shape))
    if not whole or len(shape) > MAX_DIMENSIONS or not isinstance(entry["dtype"], str):
        raise ValueError(f"the entry {key} is no tensor")
    return begin, stop, _DTYPES.get(entry["dtype"]), shape


def _json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def _damaged(why: str) -> CheckpointError:
    return CheckpointError(
        f"the safetensors file is truncated or damaged ({shown_key(why)}); download or copy it again"
    )
