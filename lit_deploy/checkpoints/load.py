"""Load LIT checkpoints safely: every container that people have, nothing a file could run.

Keys and shapes are known before a number is read, so what is no LIT network is refused at once.
Source: official code at commit 742e961.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_deploy.checkpoints.containers import opened
from lit_deploy.checkpoints.downloads import resolve_checkpoint, split_key
from lit_deploy.checkpoints.networks import Metadata, Palette, network_in, plain_tensors
from lit_deploy.checkpoints.pickles import UnusualTensor
from lit_deploy.checkpoints.recognition import other_network
from lit_deploy.checkpoints.stored import ITEM_SIZES, Read, Storage, StoredTensor, tensor_of, whole_tensor
from lit_deploy.core.errors import CheckpointError, LitDeployWarning, StateDictMismatch
from lit_deploy.core.specs import ModelSpec
from lit_deploy.core.text import shown_key, shown_name
from lit_deploy.models.families import FAMILIES, OFFICIAL_SPECS
from lit_deploy.models.keys import INDEX, optional_key, relative_position_index
from lit_deploy.models.layout import check_keys, spec_from_shapes, state_entries

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Checkpoint", "checkpoint_from_state", "load_checkpoint", "resolve_checkpoint", "state_sha256"]

IN_MEMORY = "state dict in memory"
"""Stands for the file of a checkpoint that never was in one."""

_MAX_SHARING = 8
"""How many times the file's size its tensors may have together, as several may view the same numbers."""


@dataclass(frozen=True)
class Checkpoint:
    """A LIT checkpoint, checked and ready for the model.

    Attributes:
        path: the local file.
        sha256: of the file's bytes, hexadecimal; of a sharded one, of its index's and then of its files' by name.
        container: how the weights were packed, e.g. ``zip, 'model' + CfgNode``.
        spec: the network's dimensions.
        state: contiguous float32 CPU tensors, official keys in official order, without index buffers and BatchNorm
            counters.
        metadata: simple values stored beside the weights (epoch, max_accuracy ...).
        classes: class names stored in the file, None when there are none or their number differs.
        palette: colours of the classes, RGB 0..255; the same.
        key: where in the file the network was, when it is not where it is looked for without ``--key``; else empty.
        others: keys of the other networks in the file.
    """

    path: Path
    sha256: str
    container: str
    spec: ModelSpec
    state: dict[str, Tensor] = field(repr=False)
    metadata: Metadata
    classes: tuple[str, ...] | None
    palette: Palette | None = None
    key: str = ""
    others: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's name, with the network's key where it is not the usual one."""
        return f"{self.path.name}#{shown_key(self.key)}" if self.key else self.path.name


def load_checkpoint(source: str | Path, key: str | None = None) -> Checkpoint:
    """Read a checkpoint and tell which LIT network it holds.

    Args:
        source: a file (``.pth`` of either torch format, ``.safetensors`` or the index of several), an official name or
            an https URL; ``#KEY`` behind it is the same as ``key``.
        key: which network of a file with several, e.g. ``model_ema``, dotted for a dict in a dict; when left out, what
            is under ``state_dict`` or ``model``, with a ``LitDeployWarning`` that names the others.

    Returns:
        The checkpoint; float16, bfloat16 and float64 weights come back as float32.

    Raises:
        CheckpointError: unreadable, unsafe, damaged, not finite, or another network.
        StateDictMismatch: a LIT network whose keys or shapes do not fit together; carries the full listing.
    """
    place, behind = split_key(source)
    path = resolve_checkpoint(place)
    with opened(path) as content:
        try:
            network = network_in(content, key or behind)
            _check_sizes(network.tensors, content.size)
            spec = _told_spec(network.tensors, content.read)
            _check_official(str(place), path, spec)
            state = _weights(network.tensors, spec, content.read)
        except StateDictMismatch as error:
            raise StateDictMismatch(f"{path}: {error}", error.missing, error.unexpected, error.misshapen) from error
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        sha256 = content.sha256()
    if network.others and not (key or behind):
        others = [f"'{shown_key(other)}'" for other in network.others[:3]]
        warnings.warn(
            f"read '{shown_key(network.key)}' of {shown_name(path.name)}; the file also holds {', '.join(others)}: "
            f"--key {shown_key(network.others[0])}",
            LitDeployWarning,
            stacklevel=1,  # one place, so that a file that is read twice says it once
        )
    names, palette = network.classes, network.palette
    return Checkpoint(
        path=path,
        sha256=sha256,
        container=network.container,
        spec=spec,
        state=state,
        metadata=network.metadata,
        classes=names if names and len(names) == spec.num_classes else None,
        palette=palette if palette and len(palette) == spec.num_classes else None,
        key="" if network.usual else network.key,
        others=network.others,
    )


def checkpoint_from_state(state: Mapping[str, Tensor]) -> Checkpoint:
    """Check a state dict that is in memory, and tell which LIT network it holds.

    Args:
        state: tensors of any device by their official keys, with the prefixes that a file may have.

    Returns:
        The checkpoint, a copy: float32 on the CPU. Its ``path`` names no file, and its ``sha256`` is that of the
        tensors (``state_sha256``).

    Raises:
        CheckpointError: an entry that is no tensor, not finite, or of another network.
        StateDictMismatch: a LIT network whose keys or shapes do not fit together.
    """
    import torch

    held: dict[str, Tensor] = {}

    def stored(place: str, value: Any) -> Any:
        dtype = str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else ""
        if not dtype:
            return value
        if value.layout != torch.strided or value.is_quantized or value.is_meta or dtype not in ITEM_SIZES:
            return UnusualTensor()
        held[place] = value.detach()
        return whole_tensor(Storage(place, dtype, value.numel()), tuple(value.shape))

    def read(storage: Storage) -> bytearray:
        flat = held[storage.key].cpu().contiguous().reshape(-1)
        return bytearray(flat.view(torch.uint8).numpy()) if flat.numel() else bytearray()

    tensors, note = plain_tensors({key: stored(str(place), state[key]) for place, key in enumerate(state)})
    spec = _told_spec(tensors, read)
    own = _weights(tensors, spec, read)
    return Checkpoint(
        path=Path(IN_MEMORY),
        sha256=state_sha256(own),
        container=f"{IN_MEMORY}{note}",
        spec=spec,
        state=own,
        metadata={},
        classes=None,
    )


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a checked state: of every key, shape and float32 little-endian bytes, in order; hexadecimal."""
    digest = hashlib.sha256()
    for key, tensor in state.items():
        digest.update(f"{key} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def _check_sizes(state: Mapping[str, StoredTensor], file_size: int) -> None:
    """Refuse shapes that need more memory than the file has bytes: a forged shape must not fill the machine.

    Bytes that several tensors view count once, within reason.
    """
    stored = sum(storage.size for storage in {tensor.storage for tensor in state.values()})
    viewed = sum(tensor.size for tensor in state.values())
    if stored > file_size or viewed > _MAX_SHARING * file_size:
        raise CheckpointError(
            f"its tensors claim {max(stored, viewed)} bytes, expected at most the {file_size} bytes of the file; "
            "the file is damaged or forged"
        )


def _check_official(name: str, path: Path, spec: ModelSpec) -> None:
    """Whatever was downloaded under an official name, now or long ago, is that network."""
    expected = OFFICIAL_SPECS.get(name)
    if expected is not None and path != Path(name) and spec != expected:
        raise CheckpointError(
            f"what was downloaded as {name} is {spec.name} for {spec.num_classes} classes at "
            f"{spec.image_size[0]}x{spec.image_size[1]} pixels, expected the published network; delete the file and "
            "try again"
        )


def _told_spec(state: Mapping[str, StoredTensor], read: Read) -> ModelSpec:
    """Tell the network from the state dict and check every key, shape and index buffer against it."""
    other = other_network(state.keys())
    if other:
        raise CheckpointError(f"it looks like {other}, expected a LIT classifier, detector or segmentation network")
    shapes = {key: tensor.shape for key, tensor in state.items()}
    third_stages = tuple(family.stage_prefix(2) for family in FAMILIES.values())
    indices = [
        tensor for key, tensor in state.items()
        if key.startswith(third_stages) and key.endswith(INDEX) and len(tensor.shape) == 2 and tensor.size
    ]  # fmt: skip
    column = tensor_of(indices[0], read(indices[0].storage))[:, 0].tolist() if indices else None
    spec = spec_from_shapes(shapes, column)
    check_keys(shapes, spec)
    for stage in (2, 3):
        _check_index(state, spec, stage, read)
    return spec


def _check_index(state: Mapping[str, StoredTensor], spec: ModelSpec, stage: int, read: Read) -> None:
    """Official files store an index that follows from the map size; another one would mean another network."""
    start = FAMILIES[spec.family].stage_prefix(stage)
    keys = [f"{start}{block}.{INDEX}" for block in range(spec.depths[stage])]
    stored = {key: state[key] for key in keys if key in state}
    if not stored:
        return
    height, width = spec.map_sizes[stage]
    expected = relative_position_index(height, width)
    for key, tensor in _read_all(stored, read):
        whole = not (tensor.is_floating_point() or tensor.is_complex())
        if not whole or tensor.shape != expected.shape or (tensor.numpy() != expected).any():
            raise CheckpointError(
                f"{key} is not the index of a {height}x{width} map in row-major order, expected "
                "(query row - key row + H - 1) * (2W - 1) + query column - key column + W - 1; the file is damaged or "
                "from a modified LIT"
            )


def _read_all(tensors: Mapping[str, StoredTensor], read: Read) -> Iterator[tuple[str, Tensor]]:
    """The tensors themselves; every storage is read once, whatever views it, and let go before the next."""
    views: dict[Storage, list[str]] = {}
    for key, stored in tensors.items():
        views.setdefault(stored.storage, []).append(key)
    for storage, keys in views.items():
        data = read(storage)
        for key in keys:
            yield key, tensor_of(tensors[key], data)


def _weights(tensors: Mapping[str, StoredTensor], spec: ModelSpec, read: Read) -> dict[str, Tensor]:
    """The network's weights in official order."""
    wanted = {key: tensors[key] for key in state_entries(spec) if not optional_key(key)}
    for key, stored in wanted.items():
        if not stored.storage.dtype.startswith(("float", "bfloat")):
            raise CheckpointError(
                f"{key} is stored as {stored.storage.dtype}, expected float32, float16, bfloat16 or float64; pass the "
                "checkpoint from before quantization"
            )
    state = {key: _float32(key, tensor) for key, tensor in _read_all(wanted, read)}
    return {key: state[key] for key in wanted}


def _float32(key: str, tensor: Tensor) -> Tensor:
    """Own float32 copy of a weight; it must be finite, and a variance must not be negative."""
    import torch

    value = tensor.to(torch.float32, copy=True).contiguous()
    if not bool(torch.isfinite(value).all()):
        raise CheckpointError(
            f"{key} holds NaN or infinite values, expected finite weights; pass an earlier checkpoint"
        )
    if key.endswith("running_var") and bool((value < 0).any()):
        raise CheckpointError(f"{key} holds a negative variance, expected none; the file is damaged")
    return value
