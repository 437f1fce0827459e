"""Tensors that are still in their file: dtype, shape and place are known, and numbers are read when they are wanted.

So a file of another network is refused without reading its weights, and an optimizer's state is never read at all.
Files are read, not mapped: one that is truncated meanwhile is an error, and no signal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from lit_deploy.core.errors import CheckpointError
from lit_deploy.core.text import shown_key

if TYPE_CHECKING:
    from torch import Tensor

MAX_DIMENSIONS = 16
MAX_NUMBER = 1 << 63
_CHUNK = 1 << 20

ITEM_SIZES: Mapping[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
    "bool": 1, "complex64": 8, "complex128": 16,
}  # fmt: skip
"""Bytes of a number, by torch's name of its type."""


class Storage(NamedTuple):
    """A run of numbers in a file, which several tensors may view. Immutable, whatever a pickle does to it."""

    key: str
    dtype: str
    numel: int

    @property
    def size(self) -> int:
        """In bytes, as the file claims."""
        return self.numel * ITEM_SIZES[self.dtype]


class StoredTensor(NamedTuple):
    """A view of a storage; offset and strides in numbers. ``stored_tensor`` makes those that fit their storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of its numbers when it owns them."""
        return math.prod(self.shape) * ITEM_SIZES[self.storage.dtype]


Read = Callable[[Storage], bytearray]
"""Reads a storage's bytes; raises CheckpointError where the file does not hold as many as it claims."""


def stored_tensor(storage: Storage, offset: Any, shape: Any, strides: Any) -> StoredTensor:
    """Check what a file says of a tensor; raises CheckpointError for one that is larger than its storage."""
    numbers = (offset, *shape, *strides) if isinstance(shape, tuple) and isinstance(strides, tuple) else ()
    whole = bool(numbers) and all(isinstance(number, int) and 0 <= number < MAX_NUMBER for number in numbers)
    if not whole or len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise CheckpointError("the file is damaged or forged: a tensor's shape and strides are not whole numbers")
    count = math.prod(shape)
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if count and (last >= storage.numel or count > storage.numel):
        raise CheckpointError(
            f"a tensor in it claims {count} numbers, expected at most the {storage.numel} that are stored for it; the "
            "file is damaged or forged"
        )
    return StoredTensor(storage, offset, shape, strides)


def whole_tensor(storage: Storage, shape: tuple[int, ...]) -> StoredTensor:
    """The tensor that owns a storage alone, row by row."""
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return stored_tensor(storage, 0, shape, strides)


def tensor_of(stored: StoredTensor, data: bytearray) -> Tensor:
    """The tensor itself, a view of its storage's bytes ``data``."""
    import torch

    dtype = getattr(torch, stored.storage.dtype)
    if not data or not math.prod(stored.shape):
        return torch.zeros(stored.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).as_strided(stored.shape, stored.strides, stored.offset)


def filled(file: BinaryIO, size: int, name: str) -> bytearray:
    """``size`` bytes from where ``file`` stands; CheckpointError when it ends before. ``name`` is for the sentence."""
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = file.readinto(view[done : done + _CHUNK])  # type: ignore[attr-defined]  # binary files have it
        if not count:
            raise CheckpointError(
                f"the file is truncated or damaged: {shown_key(name)} has {done} of {size} bytes; download or copy it "
                "again"
            )
        done += count
    return data


class Ranges:
    """Storages that lie in files as they are: where each begins, and its length in bytes."""

    def __init__(self) -> None:
        self.places: dict[str, tuple[BinaryIO, int, int]] = {}

    def read(self, storage: Storage) -> bytearray:
        file, begin, size = self.places.get(storage.key, (None, 0, 0))
        if file is None or size != storage.size:
            raise CheckpointError(
                f"the file is truncated or damaged: it holds {size} bytes where {storage.size} belong to a tensor; "
                "download or copy it again"
            )
        file.seek(begin)
        return filled(file, size, "a tensor")
