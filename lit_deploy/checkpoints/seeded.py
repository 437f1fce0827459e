"""Deterministic pseudo-random weights, images and checkpoint files: for tests, benchmarks and demonstrations.

The golden files hold outputs of the official networks for weights that are not stored; they are drawn again here, bit
for bit, from a seed and the keys alone. Two rules make that exact:

* Every tensor has its own generator: the eight little-endian uint32 words of ``sha256("<seed>:<key>")`` seed NumPy's
  frozen ``RandomState``, so adding, removing or reordering keys changes no other tensor.
* Values are drawn in float64 in C order, scaled, and rounded to float32 once.

Default initial values would be a trap: zero offset branches never sample between tokens, BatchNorm statistics of 0 and
1 hide a wrong epsilon, zero tables hide a wrong index. The rules below keep every layer near unit gain, spread the
sampling offsets over 0.3 to 0.8 pixel, and move every norm, bias, table and token away from its default. The result is
a random function: its classes mean nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import re
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lit_deploy.core.errors import UsageError
from lit_deploy.core.files import atomic_path
from lit_deploy.core.specs import ModelSpec
from lit_deploy.images.synthetic import DEFAULT_SEED, random_state, synthetic_image
from lit_deploy.models.keys import COUNTER, INDEX, relative_position_index
from lit_deploy.models.layout import state_entries

__all__ = [
    "DEFAULT_SEED",
    "make_state",
    "make_tensor",
    "random_state",
    "save_checkpoint",
    "state_sha256",
    "synthetic_image",
]

Form = Literal["bare", "model", "model+cfgnode", "model+namespace", "state_dict"]
Array = NDArray[Any]

# (pattern on the key, distribution, its parameters); the first match wins.
#   normal mean std | uniform low high | fan gain: gain * N(0, 1) / sqrt(fan in)
#   fan0: fan, then every output channel's mean removed, because GELU's positive mean would drown the input behind it
#   fan_t: fan of a transposed convolution, whose input channels are its weight's first axis
# In front of a ReLU the gain is the square root of 2, and the pyramid's gains bring its levels to one strength, so that
# every level can win detections.
_NORM = r"(^|\.)(norm\d*|norm_layer|bn)"
_RELU = math.sqrt(2.0)
_RULES: tuple[tuple[re.Pattern[str], str, tuple[float, ...]], ...] = tuple(
    (re.compile(pattern + "$"), kind, parameters)
    for pattern, kind, parameters in (
        (r"running_mean", "normal", (0.0, 0.2)),
        (r"running_var", "uniform", (0.5, 1.5)),
        (_NORM + r"\.weight", "normal", (1.0, 0.1)),
        (_NORM + r"\.bias", "normal", (0.0, 0.1)),
        (r"(layers\.2\.downsample|patch_embed4)\.dconv\.conv_offset\.weight", "fan", (0.11,)),  # larger inputs there
        (r"conv_offset\.weight", "fan", (0.25,)),
        (r"conv_offset\.bias", "normal", (0.0, 0.4)),
        (r"relative_position_bias_table", "normal", (0.0, 1.0)),
        (r"attn\.qkv\.weight", "fan", (1.5,)),  # sharper attention, so that the position bias matters
        (r"attn\.proj\.weight", "fan", (0.6,)),
        (r"pos_embed\d", "normal", (0.0, 0.1)),
        (r"cls_token", "normal", (0.0, 0.5)),
        (r"neck\.fpn_convs\.0\.conv\.weight", "fan", (0.55,)),
        (r"neck\.fpn_convs\.1\.conv\.weight", "fan", (0.65,)),
        (r"neck\.fpn_convs\.4\.conv\.weight", "fan", (1.25,)),
        (r"bbox_head\.(cls|reg)_convs\.\d\.conv\.weight", "fan0", (_RELU,)),
        (r"bbox_head\.retina_cls\.weight", "fan0", (1.3,)),
        (r"bbox_head\.retina_cls\.bias", "normal", (-3.8, 0.2)),
        (r"bbox_head\.retina_reg\.weight", "fan0", (0.3,)),
        (r"rpn_head\.rpn_conv\.weight", "fan", (_RELU,)),
        (r"rpn_head\.rpn_cls\.weight", "fan0", (0.8,)),
        (r"rpn_head\.rpn_reg\.weight", "fan0", (0.4,)),
        (r"rpn_head\.rpn_reg\.bias", "normal", (0.0, 0.3)),
        (r"bbox_head\.shared_fcs\.\d\.weight", "fan0", (_RELU,)),
        (r"bbox_head\.fc_cls\.weight", "fan0", (2.2,)),
        (r"bbox_head\.fc_reg\.weight", "fan0", (0.8,)),
        (r"mask_head\.convs\.\d\.conv\.weight", "fan0", (_RELU,)),
        (r"mask_head\.upsample\.weight", "fan_t", (_RELU,)),
        (r"(mask_head\.conv_logits|decode_head\.conv_seg|mlp\.fc2)\.weight", "fan0", (1.0,)),
        (r"\.bias", "normal", (0.0, 0.05)),
        (r"\.weight", "fan", (1.0,)),
    )
)


def make_tensor(key: str, shape: tuple[int, ...], seed: int) -> Array:
    """Draw one float32 weight; its distribution follows from its key."""
    kind, parameters = next((kind, par) for pattern, kind, par in _RULES if pattern.search(key))
    rng = random_state(seed, key)
    if kind == "uniform":
        low, high = parameters
        value = low + (high - low) * rng.random_sample(shape)
    elif kind == "normal":
        mean, std = parameters
        value = mean + std * rng.standard_normal(shape)
    else:
        fan = math.prod(shape[1:]) if kind != "fan_t" else shape[0]
        value = rng.standard_normal(shape) * (parameters[0] / math.sqrt(float(fan)))
        if kind == "fan0":  # the mean is rounded to float32 so that the summation order cannot matter
            mean_per_output = value.reshape(shape[0], -1).mean(axis=1).astype(np.float32).astype(np.float64)
            value = value - mean_per_output.reshape((-1,) + (1,) * (len(shape) - 1))
    return np.asarray(value, dtype=np.float64).astype(np.float32)


def make_state(spec: ModelSpec, seed: int = DEFAULT_SEED) -> dict[str, Array]:
    """Draw a complete official state dict: float32 weights, int64 index buffers and counters, official order."""
    state: dict[str, Array] = {}
    for key, shape in state_entries(spec).items():
        if key.endswith(COUNTER):
            state[key] = np.zeros(shape, dtype=np.int64)
        elif key.endswith(INDEX):
            state[key] = relative_position_index(*spec.map_sizes[int(key.split(".")[1])])
        else:
            state[key] = make_tensor(key, shape, seed)
    return state


def state_sha256(state: Mapping[str, Array]) -> str:
    """Fingerprint a state: sorted keys, each as ``key|dtype|shape|`` and its little-endian bytes; hexadecimal."""
    digest = hashlib.sha256()
    for key in sorted(state):
        array = np.asarray(state[key])
        digest.update(f"{key}|{array.dtype.name}|{','.join(map(str, array.shape))}|".encode())
        digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


class _CfgNode(dict[str, Any]):
    """Pickles exactly as ``yacs.config.CfgNode`` does: a dict subclass with its flags in ``__dict__``."""

    def __init__(self, items: Mapping[str, Any]) -> None:
        super().__init__(items)
        self.__dict__.update(
            {"__immutable__": True, "__deprecated_keys__": set(), "__renamed_keys__": {}, "__new_allowed__": False}
        )


@contextmanager
def _yacs_name() -> Iterator[None]:
    """While active, ``_CfgNode`` is found under the name that official training checkpoints refer to."""
    package, module = types.ModuleType("yacs"), types.ModuleType("yacs.config")
    module.CfgNode = _CfgNode  # type: ignore[attr-defined]
    saved = {name: sys.modules.get(name) for name in ("yacs", "yacs.config")}
    own = _CfgNode.__module__, _CfgNode.__qualname__
    sys.modules.update({"yacs": package, "yacs.config": module})
    _CfgNode.__module__, _CfgNode.__qualname__ = "yacs.config", "CfgNode"
    try:
        yield
    finally:
        _CfgNode.__module__, _CfgNode.__qualname__ = own
        for name, previous in saved.items():
            if previous is None:
                del sys.modules[name]
            else:
                sys.modules[name] = previous


def save_checkpoint(
    state: Mapping[str, Array],
    path: str | Path,
    form: Form = "bare",
    prefix: str = "",
    classes: tuple[str, ...] | None = None,
    palette: Sequence[tuple[int, int, int]] | None = None,
    legacy: bool = False,
) -> None:
    """Write a state as a torch file in one of the forms that official code writes.

    Args:
        state: arrays in official key layout.
        path: the file to write.
        form: ``bare`` (the state dict itself), ``model`` (under that key), ``model+cfgnode`` (training file of
            LIT-S/M/B), ``model+namespace`` (training file of LIT-Ti), ``state_dict`` (with ``meta``, as runners
            of detection and segmentation write it).
        prefix: put before every key, e.g. ``module.``.
        classes, palette: class names and their colours for ``meta``; only with ``state_dict``.
        legacy: the file format of torch before 1.6.
    """
    import torch

    tensors = OrderedDict((prefix + key, torch.from_numpy(np.array(value))) for key, value in state.items())
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    content: Mapping[str, Any]
    if form == "bare":
        content = tensors
    elif form == "model":
        content = {"model": tensors, "epoch": 299}
    elif form == "model+cfgnode":
        model = _CfgNode({"TYPE": "lit", "NUM_CLASSES": 1000, "DROP_PATH_RATE": 0.2})
        config = _CfgNode({"DATA": _CfgNode({"IMG_SIZE": 224}), "MODEL": model, "AMP_OPT_LEVEL": "O1"})
        content = {"model": tensors, "optimizer": optimizer, "lr_scheduler": {"t_initial": 300}, "max_accuracy": 81.5}
        content |= {"epoch": 299, "config": config, "amp": {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 12}}}
    elif form == "model+namespace":
        args = argparse.Namespace(model="lit_ti", input_size=224, lr=5e-4)
        content = {"model": tensors, "optimizer": optimizer, "lr_scheduler": {"base_values": [0.1]}, "epoch": 299}
        content |= {"scaler": {"scale": 65536.0}, "global_step": 7, "args": args}
    else:
        meta: dict[str, Any] = {"epoch": 12, "iter": 87960, "mmcv_version": "1.3.7", "seed": None, "exp_name": "seeded"}
        if classes is not None:
            meta["CLASSES"] = tuple(classes)
        if palette is not None:
            meta["PALETTE"] = [list(colour) for colour in palette]
        content = {"meta": meta, "state_dict": tensors, "optimizer": optimizer}
    with _yacs_name():
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)


def main() -> None:
    """``python -m lit_deploy.seeded lit_s OUT.pth``: write an official model's checkpoint with seeded weights."""
    from lit_deploy.models.families import OFFICIAL_SPECS

    parser = argparse.ArgumentParser(prog="python -m lit_deploy.seeded", description=main.__doc__)
    parser.add_argument("name", choices=sorted(OFFICIAL_SPECS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    arguments = parser.parse_args()
    try:
        with atomic_path(arguments.out) as part:
            spec = OFFICIAL_SPECS[arguments.name]
            form: Form = "state_dict" if spec.neck_channels else "model"
            save_checkpoint(make_state(spec, arguments.seed), part, form)
    except UsageError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
