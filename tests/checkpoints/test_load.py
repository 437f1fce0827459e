"""Loading checkpoints: every container form and every refusal; nothing in a file is ever run."""

from __future__ import annotations

import os
import pickle
import struct
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.checkpoints import changed, tensors, write
from support.golden import TINY, TINY_TI

from lit_deploy.checkpoints.load import Checkpoint, load_checkpoint
from lit_deploy.checkpoints.seeded import Form, make_state, save_checkpoint
from lit_deploy.core.errors import CheckpointError, StateDictMismatch
from lit_deploy.core.specs import ModelSpec
from lit_deploy.models.build import build
from lit_deploy.models.families import OFFICIAL_SPECS
from lit_deploy.models.keys import optional_key

BIAS = "layers.3.blocks.0.attn.relative_position_bias_table"
INDEX = "layers.2.blocks.1.attn.relative_position_index"


def assert_holds(checkpoint: Checkpoint, spec: ModelSpec) -> None:
    """The checkpoint is the seeded network of that spec: same dimensions, same weights, and a model takes it."""
    assert checkpoint.spec == spec
    expected = {key: value for key, value in make_state(spec).items() if not optional_key(key)}
    assert list(checkpoint.state) == list(expected)
    for key, tensor in checkpoint.state.items():
        assert tensor.dtype == torch.float32
        assert (tensor.numpy() == expected[key]).all(), key
    build(spec, checkpoint.state)


# ---------------------------------------------------------------------------------------------------- what loads


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("prefix", ["", "module."], ids=["plain", "module"])
@pytest.mark.parametrize("form", ["bare", "model", "model+cfgnode", "model+namespace", "state_dict"])
def test_container_forms(tmp_path: Path, form: Form, prefix: str, legacy: bool) -> None:
    path = tmp_path / "lit.pth"
    save_checkpoint(make_state(TINY), path, form, prefix, classes=tuple("abcdefg"), legacy=legacy)
    checkpoint = load_checkpoint(path)
    assert_holds(checkpoint, TINY)
    words = {"bare": "bare state dict", "model": "'model'", "state_dict": "'state_dict' + meta"}
    words |= {"model+cfgnode": "'model' + CfgNode", "model+namespace": "'model' + Namespace"}
    assert checkpoint.container == ("legacy" if legacy else "zip") + ", " + words[form] + (
        ", prefix 'module.' dropped" if prefix else ""
    )
    assert checkpoint.classes == (tuple("abcdefg") if form == "state_dict" else None)
    epochs = {"bare": None, "state_dict": 12}
    assert checkpoint.metadata.get("epoch") == epochs.get(form, 299)
    if form == "model+cfgnode":
        assert checkpoint.metadata["max_accuracy"] == 81.5


def test_cfgnode_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither writing nor reading the official training form changes what this process trusts."""
    before = set(torch.serialization.get_safe_globals())
    save_checkpoint(make_state(TINY), tmp_path / "lit.pth", "model+cfgnode")
    load_checkpoint(tmp_path / "lit.pth")
    assert "yacs" not in sys.modules
    assert set(torch.serialization.get_safe_globals()) == before


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "lit.bin"  # told from the content, not from the suffix
    save_file(dict(tensors()), path, metadata={"epoch": "7"})
    checkpoint = load_checkpoint(path)
    assert_holds(checkpoint, TINY)
    assert checkpoint.container == "safetensors"
    assert checkpoint.metadata == {"epoch": "7"}


def test_sha256_and_path(tmp_path: Path) -> None:
    path = write(tmp_path / "lit.pth", tensors())
    import hashlib

    checkpoint = load_checkpoint(str(path))
    assert checkpoint.path == path
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_official_size(checkpoint_file: Callable[[str], Path]) -> None:
    assert load_checkpoint(checkpoint_file("lit_s")).spec == OFFICIAL_SPECS["lit_s"]


@pytest.mark.parametrize(
    "spec",
    [
        TINY_TI,
        replace(TINY, num_classes=1),
        replace(TINY, depths=(2, 1, 3, 2), mlp_ratios=(4, 3, 2, 1)),
        replace(TINY, embed_dims=(16, 24, 40, 56), num_heads=(5, 7)),
        replace(TINY, image_size=(96, 96), in_channels=1),
        replace(TINY, image_size=(64, 96)),
        replace(TINY, image_size=(112, 80)),
        replace(TINY, patch_size=2, image_size=(32, 32)),
        replace(TINY_TI, image_size=(96, 96), depths=(1, 1, 2, 2)),
    ],
)
def test_other_dimensions(tmp_path: Path, spec: ModelSpec) -> None:
    path = tmp_path / "lit.pth"
    save_checkpoint(make_state(spec), path)
    assert_holds(load_checkpoint(path), spec)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in tensors().items()}
    checkpoint = load_checkpoint(write(tmp_path / "lit.pth", {"model": state}))
    assert checkpoint.container == f"zip, 'model', {str(dtype).removeprefix('torch.')}"
    for key, tensor in checkpoint.state.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[key].float())


def test_counters_and_index_are_optional(tmp_path: Path) -> None:
    state = {key: value for key, value in tensors().items() if not optional_key(key)}
    assert_holds(load_checkpoint(write(tmp_path / "lit.pth", state)), TINY)


def test_parameters_and_views(tmp_path: Path) -> None:
    """nn.Parameter values and non-contiguous views load like plain tensors."""
    state: dict[str, torch.Tensor] = {}
    for key, value in tensors().items():
        state[key] = torch.nn.Parameter(value) if value.is_floating_point() else value
    state["head.weight"] = state["head.weight"].detach().t().contiguous().t()
    checkpoint = load_checkpoint(write(tmp_path / "lit.pth", state))
    assert_holds(checkpoint, TINY)
    assert not any(tensor.requires_grad for tensor in checkpoint.state.values())


def test_state_survives_the_file(tmp_path: Path) -> None:
    """The tensors are copies: overwriting the file afterwards changes nothing."""
    path = write(tmp_path / "lit.pth", tensors())
    checkpoint = load_checkpoint(path)
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert_holds(checkpoint, TINY)


# ------------------------------------------------------------------------------------------------ what is refused


class Runs:
    """Pickles to a call of ``os.system``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("where", ["model", "beside", "whole"])
def test_malicious_pickle(tmp_path: Path, where: str, legacy: bool) -> None:
    """Refused, named, and not executed; unrestricted loading of the same file does execute it."""
    proof, path = tmp_path / "proof", tmp_path / "lit.pth"
    evil = Runs(f"touch {proof}")
    content: Any = {"model": {**tensors(), "x": evil}, "beside": {"model": tensors(), "config": evil}, "whole": evil}[
        where
    ]
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"wants to call (posix|os)\.system while it is loaded") as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists(), "the file would have been dangerous"


def test_malicious_plain_pickle(tmp_path: Path) -> None:
    """Also without torch's container, and with a newer pickle protocol."""
    proof, path = tmp_path / "proof", tmp_path / "lit.pth"
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps(Runs(f"touch {proof}"), protocol=protocol))
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
        torch.save(Runs(f"touch {proof}"), path, pickle_protocol=protocol)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
    assert not proof.exists()


def test_pickled_module(tmp_path: Path) -> None:
    """torch.save(model) instead of its state_dict: the sentence says what to do."""
    path = write(tmp_path / "lit.pth", build(TINY))
    with pytest.raises(CheckpointError, match=r"lit_deploy\.models\.networks\.lit\.Lit .* save only the state_dict"):
        load_checkpoint(path)


def keys(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(2) for name in names}


def dense(state: dict[str, torch.Tensor], *norms: str) -> dict[str, torch.Tensor]:
    """The backbone of a detector: no classifier, no final norm, norms of the outputs instead."""
    kept = {key: value for key, value in state.items() if not key.startswith(("head.", "norm.", "cls_token"))}
    return kept | keys(*norms)


def backbone(*others: str) -> dict[str, torch.Tensor]:
    return {"backbone." + key: value for key, value in dense(tensors()).items()} | keys(*others)


SWIN = "layers.0.blocks.0.attn.relative_position_bias_table"
BACKBONE = "the backbone of a LIT detector without neck and head"

FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "dense": (dense(tensors(), "norm1.weight", "norm2.weight", "norm3.weight"), BACKBONE),
    "dense_ti": (dense(tensors(TINY_TI)), BACKBONE),
    "dense_prefixed": (backbone(), BACKBONE),
    "other_detector": (keys("backbone.conv1.weight", "rpn_head.rpn_conv.weight"), "Mask R-CNN detector with a foreign"),
    "litv2": (keys("layers.2.blocks.0.attn.l_q.weight", "patch_embed.proj.weight"), "a LITv2 network"),
    "swin": (keys(SWIN, "layers.0.blocks.0.norm1.weight", "patch_embed.proj.weight"), "a Swin Transformer"),
    "pvt": (keys("patch_embed1.proj.weight", "block1.0.attn.q.weight", "pos_embed1"), "Pyramid Vision Transformer"),
    "deit": (keys("cls_token", "pos_embed", "blocks.0.attn.qkv.weight"), "a Vision Transformer (ViT or DeiT)"),
    "resnet": (keys("conv1.weight", "layer1.0.conv1.weight"), "a ResNet"),
    "vgg": (keys("features.0.weight", "classifier.0.weight"), "a convolutional network of the torchvision kind"),
    "unknown": (keys("encoder.w", "decoder.w"), "an unknown network (its keys begin decoder.w, encoder.w)"),
    "empty": ({}, "a file without any tensor"),
    "optimizer": ({"state": {}, "param_groups": []}, "an optimizer's state and no weights"),
    "training_rest": ({"optimizer": {"state": {}}, "epoch": 3}, "an optimizer's state and no weights"),
    "list": ([1, 2], "holds a list, expected a state dict"),  # type: ignore[dict-item]
    "numbers": ({"head.weight": 3.0}, "the entry head.weight is a float"),
    "int_keys": ({1: torch.zeros(2)}, "has the key 1, expected only strings"),  # type: ignore[dict-item]
    "sparse": ({"head.weight": torch.eye(2).to_sparse()}, "head.weight is an unusual tensor"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_networks(tmp_path: Path, name: str) -> None:
    content, sentence = FOREIGN[name]
    path = write(tmp_path / "other.pth", content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty (0 bytes)"),
    "html": (b"\n<!DOCTYPE html><html><title>404</title>", "an HTML or XML page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
    "onnx": (b"\x08\x0a\x12\x07pytorch\x1a\x03", "an ONNX model"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    "gzip": (b"\x1f\x8b\x08\x00", "a gzip archive"),
    "json": (b'{"detail": "not found"}', "a JSON text"),
    "tar": (b"\0" * 257 + b"ustar" + b"\0" * 250, "a tar archive"),
    "garbage": (bytes(range(200, 256)), "of an unknown kind (it begins with c8 c9"),
    "short": (b"PK\x03\x04", "truncated or damaged"),
    "pickle": (b"\x80\x02", "truncated, damaged or no torch.save file"),
    "safetensors": (struct.pack("<Q", 4) + b"{xx}", "the safetensors file is truncated or damaged"),
}


@pytest.mark.parametrize("name", FILES)
def test_other_files(tmp_path: Path, name: str) -> None:
    content, sentence = FILES[name]
    path = tmp_path / "lit_s.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_torchscript_npz_and_directory(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "script.pt"))
    np.savez(tmp_path / "arrays.npz", a=np.zeros(2))
    for name, sentence in (("script.pt", "a TorchScript archive"), ("arrays.npz", "a NumPy .npz"), ("", "a directory")):
        with pytest.raises(CheckpointError, match=sentence):
            load_checkpoint(tmp_path / name)


def test_real_onnx_file_is_recognised(tmp_path: Path) -> None:
    import onnx

    graph = onnx.helper.make_graph([], "g", [], [])
    onnx.save(onnx.helper.make_model(graph, producer_name="lit-deploy"), tmp_path / "m.onnx")
    with pytest.raises(CheckpointError, match="an ONNX model, which is an exported file"):
        load_checkpoint(tmp_path / "m.onnx")


def test_unprintable_keys(tmp_path: Path) -> None:
    """Keys with line breaks, escape codes or a megabyte of text still give one short printable line."""
    for key in ("a\nb", "a\x1b[2Jb", "k" * 10**6):
        for state in (keys(key), {**tensors(), key: torch.zeros(1)}):
            with pytest.raises(CheckpointError) as caught:
                load_checkpoint(write(tmp_path / "lit.pth", state))
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 1000


def test_mismatch_carries_the_listing(tmp_path: Path) -> None:
    state = tensors()
    state["classifier.bias"] = state.pop("head.bias")
    state[BIAS] = torch.zeros(25, 4)
    with pytest.raises(StateDictMismatch) as caught:
        load_checkpoint(write(tmp_path / "lit.pth", state))
    assert caught.value.missing == ("head.bias",)
    assert caught.value.unexpected == ("classifier.bias",)
    assert caught.value.misshapen == ((BIAS, (25, 4), (9, 4)),)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("norm.weight", torch.full((32,), float("nan")), "norm.weight holds NaN or infinite values"),
        ("head.bias", torch.full((7,), float("inf")), "head.bias holds NaN or infinite values"),
        ("head.bias", torch.full((7,), 1e300, dtype=torch.float64), "head.bias holds NaN or infinite values"),
        ("head.bias", torch.zeros(7, dtype=torch.int8), "head.bias is stored as int8"),
        ("head.bias", torch.zeros(7, dtype=torch.complex64), "head.bias is stored as complex64"),
        ("layers.0.downsample.norm_layer.running_var", torch.full((16,), -1.0), "holds a negative variance"),
        (INDEX, make_state(TINY)[INDEX].T.copy(), "is not the index of a 4x4 map"),
        (INDEX, np.zeros((16, 16)), "is not the index of a 4x4 map"),
    ],
)
def test_bad_values(tmp_path: Path, key: str, value: Any, sentence: str) -> None:
    path = write(tmp_path / "lit.pth", changed(key, torch.as_tensor(value)))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert sentence in str(caught.value)
