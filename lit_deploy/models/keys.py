"""What the key layouts of all LIT families share, and dimensions read from the shapes under those keys.

Needs neither torch nor a checkpoint. Source: official code at commit 742e961.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from lit_deploy.core.errors import CheckpointError, StateDictMismatch

if TYPE_CHECKING:
    import numpy as np

Shape = tuple[int, ...]
Entry = tuple[str, Shape]

INDEX = "attn.relative_position_index"
COUNTER = "num_batches_tracked"
TABLE = "attn.relative_position_bias_table"


def optional_key(key: str) -> bool:
    """Tell whether a key carries no weight: counters, and the index that follows from the map size."""
    return key.endswith((COUNTER, INDEX))


def linear_entries(prefix: str, *weight: int) -> Iterator[Entry]:
    """Weight of this shape, and a bias as long as its first axis."""
    yield prefix + "weight", weight
    yield prefix + "bias", weight[:1]


def norm_entries(prefix: str, dim: int) -> Iterator[Entry]:
    """A BatchNorm with its statistics."""
    yield from linear_entries(prefix, dim)
    yield prefix + "running_mean", (dim,)
    yield prefix + "running_var", (dim,)
    yield prefix + COUNTER, ()


def merge_entries(prefix: str, dim: int, out: int) -> Iterator[Entry]:
    """A deformable token merging from ``dim`` to ``out`` channels."""
    yield from linear_entries(prefix + "dconv.", out, dim, 2, 2)
    yield from linear_entries(prefix + "dconv.conv_offset.", 8, dim, 2, 2)
    yield from norm_entries(prefix + "norm_layer.", out)


def attention_entries(prefix: str, dim: int, bias: Iterable[Entry] = ()) -> Iterator[Entry]:
    """The attention half of a block, with the entries of a position bias where the family has one."""
    yield from linear_entries(prefix + "norm1.", dim)
    yield from bias
    yield from linear_entries(prefix + "attn.qkv.", 3 * dim, dim)
    yield from linear_entries(prefix + "attn.proj.", dim, dim)


def mlp_entries(prefix: str, dim: int, hidden: int) -> Iterator[Entry]:
    """The MLP half of a block, which is all of a block in stages 1 and 2."""
    yield from linear_entries(prefix + "norm2.", dim)
    yield from linear_entries(prefix + "mlp.fc1.", hidden, dim)
    yield from linear_entries(prefix + "mlp.fc2.", dim, hidden)


def relative_position_index(height: int, width: int) -> np.ndarray:
    """Return the int64 ``[H*W, H*W]`` buffer that official LIT-S/M/B files store in every attention block.

    Entry (query a, key b) is ``(ra - rb + H - 1) * (2W - 1) + (ca - cb + W - 1)``.
    Source: official code at commit 742e961.
    """
    import numpy as np

    row, col = np.divmod(np.arange(height * width, dtype=np.int64), width)
    index: np.ndarray = (row[:, None] - row + height - 1) * (2 * width - 1) + (col[:, None] - col + width - 1)
    return index


class Votes:
    """Reads one dimension from many keys by majority, so that one wrong tensor is blamed and not all the others."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self.shapes = shapes

    def numbered(self, start: str) -> list[str]:
        """Prefixes ``start`` + number + ``.``; counting them gives the depth, so a forged number cannot inflate it."""
        numbers = (key[len(start) :].partition(".")[0] for key in self.shapes if key.startswith(start))
        return [f"{start}{number}." for number in dict.fromkeys(numbers) if number.isdecimal()]

    def size(self, what: str, *places: tuple[str, int, int]) -> int:
        """Most common size at these ``(key, rank, axis)`` places; StateDictMismatch where there is none."""
        found = [self.shapes[key][axis] for key, rank, axis in places if len(self.shapes.get(key, ())) == rank]
        votes = Counter(size for size in found if size > 0)
        if votes:
            return votes.most_common(1)[0][0]
        raise StateDictMismatch(
            f"the {what} cannot be told because {places[0][0] if places else 'every block of its stage'} is missing "
            "or has an unusable shape; pass an unmodified LIT checkpoint",
            missing=tuple(key for key, _, _ in places if key not in self.shapes),
        )

    def mlp_ratio(self, stage: int, dim: int, blocks: list[str]) -> int:
        """Hidden width of the MLPs of a stage over its channels."""
        layers = (("fc1.weight", 2, 0), ("fc1.bias", 1, 0), ("fc2.weight", 2, 1))
        places = [(f"{prefix}mlp.{key}", rank, axis) for prefix in blocks for key, rank, axis in layers]
        hidden = self.size(f"MLP width of stage {stage + 1}", *places)
        if hidden % dim:
            raise CheckpointError(
                f"the MLP of stage {stage + 1} is {hidden} wide, expected a multiple of its {dim} channels; "
                "such a network is not a LIT"
            )
        return hidden // dim
