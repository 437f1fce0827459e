"""Which of the dicts in a checkpoint is the network: where it lies, what wraps its keys, what stands beside it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_deploy.checkpoints.containers import Content
from lit_deploy.checkpoints.pickles import CfgNode, Inert, Namespace, UnusualTensor
from lit_deploy.checkpoints.stored import MAX_NUMBER, StoredTensor
from lit_deploy.core.errors import CheckpointError
from lit_deploy.core.text import shown_key

Metadata = dict[str, str | int | float | bool]
Palette = tuple[tuple[int, int, int], ...]

MAX_TENSORS = 20_000
_MAX_METADATA, _MAX_TEXT = 50, 200
_MAX_LISTED = 8
_MAX_LEVEL = 3  # a network lies at most so many dicts deep
_MAX_WRAPPERS = 8

_USUAL = ("state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and Lightning put before every key. No LIT key begins so."""
_MERGING = "dconv.conv_offset."
_LIT = re.compile(r"(?:^|(?<=\.))(backbone\.)?(layers\.\d|patch_embed\d)")
"""A part of some keys of every LIT network and of no other; how such keys begin."""
_INNER = re.compile(r"(?<=\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.|^_fsdp_wrapped_module\.")
"""What compiling, sharding or checkpointing a part of a network puts into keys."""


@dataclass(frozen=True)
class Network:
    """A network in a file, and what stands beside it.

    Attributes:
        tensors: by their keys, without what wraps those.
        key: where it lies, as ``--key`` takes it; empty for a bare state dict.
        usual: whether that is where it is looked for without ``--key``; ``others``: keys of other networks there.
        container: how the weights were packed, in words.
        metadata: simple values beside the weights; ``classes``, ``palette``: names and colours of the classes.
    """

    tensors: dict[str, StoredTensor]
    key: str
    usual: bool
    others: tuple[str, ...]
    container: str
    metadata: Metadata = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    palette: Palette | None = None


def network_in(content: Content, key: str | None = None) -> Network:
    """Find the network: under ``key``; else under ``state_dict``, under ``model``, or where alone one is.

    Raises:
        CheckpointError: there is none, or no one can tell which of several; the sentence names them.
    """
    if "safetensors" in content.kind:
        if key is not None:
            raise CheckpointError(f"there is no '{shown_key(key)}': safetensors files hold one network; drop --key")
        tensors, note = plain_tensors(content.value)
        return Network(tensors, "", True, (), f"{content.kind}{note}", simple_values(content.metadata))
    value = content.value
    if not isinstance(value, Mapping):
        raise CheckpointError(f"it holds {_kind(value)}, expected a state dict; save model.state_dict()")
    found = dict(_networks(value))
    usual = _usual(value, found)
    name = usual if key is None else key
    if name is None:
        raise CheckpointError(f"it holds several networks, {_listed(found)}; choose one with --key NAME")
    state = value if name == "" else found.get(name, _at(value, name))
    if not isinstance(state, Mapping):
        there = f"it holds {_listed(found)}" if found else "it holds no other dict of tensors"
        raise CheckpointError(f"there is no network '{shown_key(name)}' in it; {there}")
    beside = {} if name == "" else {entry: item for entry, item in value.items() if isinstance(entry, str)}
    meta = beside.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    words = [f"'{shown_key(name)}'" if name else "bare state dict"]
    words += ["CfgNode"] if isinstance(beside.get("config"), CfgNode) else []
    words += ["Namespace"] if isinstance(beside.get("args"), Namespace) else []
    words += ["meta"] if meta else []
    tensors, note = plain_tensors(state)
    return Network(
        tensors=tensors,
        key=name,
        usual=name == usual,
        others=tuple(other for other, item in found.items() if item is not state),
        container=f"{content.kind}, {' + '.join(words)}{note}",
        metadata=simple_values(meta) | simple_values(beside),
        classes=_names(meta.get("CLASSES")),
        palette=_palette(meta.get("PALETTE")),
    )


def _usual(value: Mapping[Any, Any], found: Mapping[str, Any]) -> str | None:
    """Where the network is looked for when nobody says: empty for the whole, None when that cannot be told."""
    for name in _USUAL:
        if isinstance(value.get(name), Mapping):
            inner = [key for key in found if key.startswith(name + ".")]
            return inner[0] if name not in found and len(inner) == 1 else name
    if any(_is_weight(key, item) for key, item in value.items()):
        return ""
    if found:
        return next(iter(found)) if len(found) == 1 else None
    if "param_groups" in value or isinstance(value.get("optimizer"), Mapping):
        raise CheckpointError("it holds an optimizer's state and no weights; pass the file of the model")
    return ""


def _is_weight(key: Any, item: Any) -> bool:
    """Whether this is a network's entry: unlike a random state beside it, its key has dots."""
    return isinstance(item, StoredTensor | UnusualTensor) and isinstance(key, str) and "." in key


def _networks(value: Mapping[Any, Any], prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """All dicts of tensors below a dict, each once, by their dotted keys."""
    seen = set() if seen is None else seen
    for key, item in value.items():
        if not isinstance(key, str) or not isinstance(item, Mapping) or id(item) in seen:
            continue
        seen.add(id(item))
        tensors = (isinstance(each, StoredTensor | UnusualTensor) for each in item.values())
        if all(tensors) and any(_is_weight(name, each) for name, each in item.items()):
            yield prefix + key, item
        elif prefix.count(".") < _MAX_LEVEL - 1:
            yield from _networks(item, f"{prefix}{key}.", seen)


def _at(value: Mapping[Any, Any], name: str) -> Any:
    """What lies under a key, or under a dotted path of keys; None for nothing."""
    if name in value:
        return value[name]
    for part in name.split("."):
        value = value.get(part, {}) if isinstance(value, Mapping) else {}
    return value or None


def _listed(found: Mapping[str, Any]) -> str:
    names = [f"'{shown_key(name)}'" for name in found]
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _kind(value: Any) -> str:
    if isinstance(value, Inert):
        return "an object"
    return "a dict" if isinstance(value, Mapping) else f"a {type(value).__name__}"


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


def simple_values(values: Mapping[Any, Any]) -> Metadata:
    """The values worth showing: numbers and short texts under short texts, fifty at most."""
    simple: Metadata = {
        key: value
        for key, value in values.items()
        if isinstance(key, str)
        and len(key) <= _MAX_TEXT
        and (
            isinstance(value, float)
            or (isinstance(value, int) and abs(value) < MAX_NUMBER)
            or (isinstance(value, str) and len(value) <= _MAX_TEXT)
        )
    }
    if len(simple) <= _MAX_METADATA:
        return simple
    return dict(list(simple.items())[:_MAX_METADATA]) | {"...": f"{len(simple) - _MAX_METADATA} more values"}


def plain_tensors(state: Mapping[Any, Any]) -> tuple[dict[str, StoredTensor], str]:
    """Make sure that every value is an ordinary tensor, and take from the keys what wraps all of them.

    Returns:
        The tensors and a note on the container (empty when there is nothing to say).
    """
    if len(state) > MAX_TENSORS:
        raise CheckpointError(f"the state dict has {len(state)} entries, expected at most {MAX_TENSORS}")
    for key, value in state.items():
        if not isinstance(key, str):
            raise CheckpointError(
                f"the state dict has the key {shown_key(repr(key))}, expected only strings; save model.state_dict()"
            )
        if not isinstance(value, StoredTensor):
            kind = "an unusual tensor" if isinstance(value, UnusualTensor) else _kind(value)
            raise CheckpointError(
                f"the entry {shown_key(key)} is {kind}, expected a dense tensor; save model.state_dict()"
            )
    tensors, note = _unwrapped(dict(state))
    inner = {_INNER.sub("", key): value for key, value in tensors.items()}
    if inner.keys() != tensors.keys():
        if len(inner) != len(tensors):
            raise CheckpointError("two of its keys differ by a wrapper only (_orig_mod); save model.state_dict()")
        tensors, note = inner, note + ", wrappers inside keys dropped"
    types = {tensor.storage.dtype for tensor in tensors.values() if "float" in tensor.storage.dtype} - {"float32"}
    return tensors, note + "".join(f", {name}" for name in sorted(types))


def _unwrapped(tensors: dict[str, StoredTensor]) -> tuple[dict[str, StoredTensor], str]:
    """Take from the keys what stands before a LIT's, whatever its name is, or the wrappers of another network.

    Returns:
        What lies under that prefix (a loss beside the network is left out), and a note on it.
    """
    prefixes = {key[: _place_of_lit(key)] for key in tensors if _MERGING in key}
    if len(prefixes) > 1:
        shown = ", ".join(f"'{shown_key(prefix)}'" for prefix in sorted(prefixes)[:3])
        raise CheckpointError(
            f"its keys are those of several networks, under {shown}; save the state_dict of one of them"
        )
    prefix = prefixes.pop() if prefixes else _wrappers(tensors)
    kept = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    left_out = len(tensors) - len(kept)
    others = f", {left_out} other {'entry' if left_out == 1 else 'entries'} left out" if left_out else ""
    return kept, f", prefix '{shown_key(prefix)}' dropped{others}" if prefix else ""


def _place_of_lit(key: str) -> int:
    """Where in a key that of a LIT network begins."""
    found = _LIT.search(key)
    return found.start() if found else 0


def _wrappers(keys: Collection[str]) -> str:
    """The wrappers that stand before all keys, in any order."""
    prefix = ""
    for _ in range(_MAX_WRAPPERS):
        following = (prefix + each for each in _WRAPPERS if all(key.startswith(prefix + each) for key in keys))
        prefix = next(following, prefix) if keys else ""
    return prefix
