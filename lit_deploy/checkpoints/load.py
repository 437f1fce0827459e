"""Load LIT checkpoints safely: every container the official code writes, nothing a file could run.

Pickled files are read by torch's restricted unpickler only (``weights_only=True``). Two harmless names that official
training checkpoints carry are mapped to inert types; any other name is refused.
Source: official code at commit 742e961.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_deploy.checkpoints.downloads import resolve_checkpoint
from lit_deploy.checkpoints.recognition import ContainerKind, checkpoint_container, other_network
from lit_deploy.core.errors import CheckpointError, StateDictMismatch
from lit_deploy.core.files import sha256_of
from lit_deploy.core.specs import ModelSpec
from lit_deploy.core.text import shown_key
from lit_deploy.models.families import FAMILIES
from lit_deploy.models.keys import INDEX, optional_key, relative_position_index
from lit_deploy.models.layout import check_keys, spec_from_shapes, state_entries

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Checkpoint", "checkpoint_from_state", "load_checkpoint", "resolve_checkpoint", "state_sha256"]

IN_MEMORY = "state dict in memory"
"""Stands for the file of a checkpoint that never was in one."""

Metadata = dict[str, str | int | float | bool]
Palette = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Checkpoint:
    """A LIT checkpoint, checked and ready for the model.

    Attributes:
        path: the local file.
        sha256: of the file's bytes, hexadecimal.
        container: how the weights were packed, e.g. ``zip, 'model' + CfgNode``.
        spec: the network's dimensions.
        state: contiguous float32 CPU tensors, official keys in official order, without index buffers and BatchNorm
            counters.
        metadata: simple values stored beside the weights (epoch, max_accuracy ...).
        classes: class names stored in the file, None when there are none or their number differs.
        palette: colours of the classes, RGB 0..255; the same.
    """

    path: Path
    sha256: str
    container: str
    spec: ModelSpec
    state: dict[str, Tensor] = field(repr=False)
    metadata: Metadata
    classes: tuple[str, ...] | None
    palette: Palette | None = None


@dataclass(frozen=True)
class _Unpacked:
    state: dict[str, Tensor]
    container: str
    metadata: Metadata
    classes: tuple[str, ...] | None = None
    palette: Palette | None = None


def load_checkpoint(source: str | Path) -> Checkpoint:
    """Read a checkpoint and tell which LIT network it holds.

    Args:
        source: a file (``.pth`` of either torch format, ``.safetensors``), an official name or an https URL.

    Returns:
        The checkpoint; float16, bfloat16 and float64 weights come back as float32.

    Raises:
        CheckpointError: unreadable, unsafe, damaged, not finite, or another network.
        StateDictMismatch: a LIT network whose keys or shapes do not fit together; carries the full listing.
    """
    path = resolve_checkpoint(source)
    kind = checkpoint_container(path)
    try:
        unpacked = _read_safetensors(path) if kind == "safetensors" else _unpack(kind, _read_torch(path, kind))
        _check_sizes(unpacked.state, path.stat().st_size)
        spec, state = _checked(unpacked.state)
    except StateDictMismatch as error:
        raise StateDictMismatch(f"{path}: {error}", error.missing, error.unexpected, error.misshapen) from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    names, palette = unpacked.classes, unpacked.palette
    return Checkpoint(
        path=path,
        sha256=sha256_of(path),
        container=unpacked.container,
        spec=spec,
        state=state,
        metadata=unpacked.metadata,
        classes=names if names and len(names) == spec.num_classes else None,
        palette=palette if palette and len(palette) == spec.num_classes else None,
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

    moved = {key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in state.items()}
    tensors, note = _plain_tensors(moved)
    spec, own = _checked(tensors)
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


def _checked(tensors: Mapping[str, Tensor]) -> tuple[ModelSpec, dict[str, Tensor]]:
    """The network that tensors are of, and its weights as ``Checkpoint.state`` has them."""
    spec = _told_spec(tensors)
    return spec, {key: _float32(key, tensors[key]) for key in state_entries(spec) if not optional_key(key)}


def _read_torch(path: Path, kind: ContainerKind) -> Any:
    import torch

    # the restricted unpickler fills dicts of exactly these types only, so the yacs class becomes an OrderedDict
    inert: list[Any] = [(OrderedDict, "yacs.config.CfgNode"), argparse.Namespace]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(inert):
            warnings.simplefilter("ignore")
            # mapped storages cannot be resized: a shape larger than its data fails instead of allocating
            return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zip")
    except Exception as error:  # damaged pickles make the unpickler raise anything
        text = str(error)
        refused = re.search(r"GLOBAL (\S+)", text) or re.search(r"reduce for unrecognized function (.+)", text)
        if refused:
            raise CheckpointError(
                f"the file wants to call {shown_key(refused[1])} while it is loaded, which is refused because it could "
                "run anything; save only the state_dict, on a machine that trusts the file"
            ) from error
        if "Unsupported operand" in text:
            raise CheckpointError(
                "the file is damaged, or pickled with another protocol than torch.save's default (2), which cannot be "
                "read safely; save its state_dict again with torch.save"
            ) from error
        raise CheckpointError(
            "the file is truncated, damaged or no torch.save file; download or copy it again"
        ) from error


def _unpack(kind: ContainerKind, content: Any) -> _Unpacked:
    """Find the state dict in what was pickled: under ``state_dict``, under ``model``, or the object itself."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"it holds a {type(content).__name__}, expected a state dict; save model.state_dict()")
    words = []
    state: Any = content
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            state = content[key]
            words.append(f"'{key}'")
            break
    else:
        if "param_groups" in content or isinstance(content.get("optimizer"), Mapping):
            raise CheckpointError("it holds an optimizer's state and no weights; pass the file of the model")
        words.append("bare state dict")
    beside = {} if state is content else {key: value for key, value in content.items() if isinstance(key, str)}
    config = beside.get("config")
    if isinstance(config, OrderedDict) and "__immutable__" in vars(config):
        words.append("CfgNode")
    if isinstance(beside.get("args"), argparse.Namespace):
        words.append("Namespace")
    meta = beside.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    if meta:
        words.append("meta")
    tensors, note = _plain_tensors(state)
    container = f"{kind}, {' + '.join(words)}{note}"
    return _Unpacked(
        tensors, container, _simple(meta) | _simple(beside), _names(meta.get("CLASSES")), _palette(meta.get("PALETTE"))
    )


def _names(value: Any) -> tuple[str, ...] | None:
    """Class names, without the blanks around them that one of ADE20K's has in official files."""
    if isinstance(value, tuple | list) and all(isinstance(name, str) for name in value):
        return tuple(name.strip() for name in value)
    return None


def _palette(value: Any) -> Palette | None:
    """One colour a class, or None for whatever else a file may hold there."""
    if not isinstance(value, tuple | list):
        return None
    for colour in value:
        if not isinstance(colour, tuple | list) or len(colour) != 3:
            return None
        if not all(isinstance(part, int) and 0 <= part <= 255 for part in colour):
            return None
    return tuple((red, green, blue) for red, green, blue in value)


def _read_safetensors(path: Path) -> _Unpacked:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata: Metadata = dict(file.metadata() or {})
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"the safetensors file is truncated or damaged ({shown_key(str(error))}); download or copy it again"
        ) from error
    tensors, note = _plain_tensors(state)
    return _Unpacked(tensors, f"safetensors{note}", _simple(metadata))


def _simple(values: Mapping[Any, Any]) -> Metadata:
    """Keep the values worth showing: numbers and short strings under string keys."""
    return {
        key: value
        for key, value in values.items()
        if isinstance(key, str) and (isinstance(value, int | float) or (isinstance(value, str) and len(value) <= 200))
    }


def _plain_tensors(state: Mapping[Any, Any]) -> tuple[dict[str, Tensor], str]:
    """Strip a common ``module.`` prefix and make sure that every value is an ordinary CPU tensor.

    Returns:
        The tensors and a note on the container (empty when there is nothing to say).
    """
    import torch

    for key, value in state.items():
        if not isinstance(key, str):
            raise CheckpointError(
                f"the state dict has the key {shown_key(repr(key))}, expected only strings; save model.state_dict()"
            )
        ordinary = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
        if not ordinary or value.is_quantized:
            kind = "an unusual tensor" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
            raise CheckpointError(
                f"the entry {shown_key(key)} is {kind}, expected a dense tensor; save model.state_dict()"
            )
    note = ""
    tensors = {key: value.detach() for key, value in state.items()}
    if tensors and all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
        note = ", 'module.' prefix"
    types = {str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()} - {"float32"}
    return tensors, note + "".join(f", {name}" for name in sorted(types))


def _check_sizes(state: Mapping[str, Tensor], file_size: int) -> None:
    """Refuse shapes that need more memory than the file has bytes: a forged shape must not fill the machine."""
    needed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if needed > file_size:
        raise CheckpointError(
            f"its tensors claim {needed} bytes, expected at most the {file_size} bytes of the file; "
            "the file is damaged or forged"
        )


def _told_spec(state: Mapping[str, Tensor]) -> ModelSpec:
    """Tell the network from the state dict and check every key, shape and index buffer against it."""
    other = other_network(state.keys())
    if other:
        raise CheckpointError(f"it looks like {other}, expected a LIT classifier, detector or segmentation network")
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    third_stages = tuple(family.stage_prefix(2) for family in FAMILIES.values())
    indices = [key for key in state if key.startswith(third_stages) and key.endswith(INDEX) and state[key].ndim == 2]
    column = state[indices[0]][:, 0].tolist() if indices and state[indices[0]].numel() else None
    spec = spec_from_shapes(shapes, column)
    check_keys(shapes, spec)
    for stage in (2, 3):
        _check_index(state, spec, stage)
    return spec


def _check_index(state: Mapping[str, Tensor], spec: ModelSpec, stage: int) -> None:
    """Official files store an index that follows from the map size; another one would mean another network."""
    start = FAMILIES[spec.family].stage_prefix(stage)
    keys = [f"{start}{block}.{INDEX}" for block in range(spec.depths[stage])]
    stored = {key: state[key] for key in keys if key in state}
    if not stored:
        return
    height, width = spec.map_sizes[stage]
    expected = relative_position_index(height, width)
    for key, tensor in stored.items():
        if tensor.is_floating_point() or tensor.is_complex() or (tensor.numpy() != expected).any():
            raise CheckpointError(
                f"{key} is not the index of a {height}x{width} map in row-major order, expected "
                "(query row - key row + H - 1) * (2W - 1) + query column - key column + W - 1; the file is damaged or "
                "from a modified LIT"
            )


def _float32(key: str, tensor: Tensor) -> Tensor:
    """Own float32 copy of a weight; it must be floating point, finite, and a variance must not be negative."""
    import torch

    if not tensor.is_floating_point() or tensor.element_size() < 2:
        raise CheckpointError(
            f"{key} is stored as {str(tensor.dtype).removeprefix('torch.')}, expected float32, float16, bfloat16 or "
            "float64; pass the checkpoint from before quantization"
        )
    value = tensor.to(torch.float32, copy=True).contiguous()
    if not bool(torch.isfinite(value).all()):
        raise CheckpointError(
            f"{key} holds NaN or infinite values, expected finite weights; pass an earlier checkpoint"
        )
    if key.endswith("running_var") and bool((value < 0).any()):
        raise CheckpointError(f"{key} holds a negative variance, expected none; the file is damaged")
    return value
