"""Checkpoints that people really have: wrappers around keys, several networks, things beside weights, shards."""

from __future__ import annotations

import argparse
import datetime
import decimal
import json
import pathlib
import uuid
import warnings
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.checkpoints import prefixed, tensors, write
from support.golden import TINY

from lit_deploy.checkpoints.load import Checkpoint, load_checkpoint
from lit_deploy.core.errors import CheckpointError, LitDeployWarning
from lit_deploy.models.build import build


def same(checkpoint: Checkpoint, state: dict[str, torch.Tensor] | None = None) -> bool:
    expected = tensors() if state is None else state
    return all(torch.equal(value, expected[key].float()) for key, value in checkpoint.state.items())


# ------------------------------------------------------------------------------------------------------ wrappers


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "model.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model._orig_mod.",
        "model.module.",
        "net.",
        "student.encoder.",
    ],
)
def test_wrappers_are_dropped_and_said(tmp_path: Path, prefix: str) -> None:
    """DistributedDataParallel, Lightning, torch.compile, in any order; and a module's own name for the network."""
    checkpoint = load_checkpoint(write(tmp_path / "a.pth", {"state_dict": prefixed(prefix)}))
    assert same(checkpoint)
    assert checkpoint.container == f"zip, 'state_dict', prefix '{prefix}' dropped"


def test_a_lightning_checkpoint(tmp_path: Path) -> None:
    beside = {"epoch": 3, "global_step": 10, "pytorch-lightning_version": "2.5.0", "loops": {}, "callbacks": {}}
    content = {**beside, "state_dict": prefixed("model."), "optimizer_states": [], "lr_schedulers": []}
    checkpoint = load_checkpoint(write(tmp_path / "a.ckpt", content))
    assert same(checkpoint)
    assert checkpoint.metadata == {"epoch": 3, "global_step": 10, "pytorch-lightning_version": "2.5.0"}


def test_an_averaged_model(tmp_path: Path) -> None:
    """torch.optim.swa_utils.AveragedModel counts its updates beside the module."""
    average = torch.optim.swa_utils.AveragedModel(build(TINY))
    average.module.load_state_dict(tensors(), strict=False)
    assert same(load_checkpoint(write(tmp_path / "a.pth", average.state_dict())))


def test_what_lies_beside_a_network_in_one_state_dict(tmp_path: Path) -> None:
    """A loss with weights is left out, and that is said; of two networks none is guessed."""
    loss = {"criterion.weight": torch.zeros(7), "temperature": torch.zeros(1)}
    checkpoint = load_checkpoint(write(tmp_path / "a.ckpt", {"state_dict": {**prefixed("model."), **loss}}))
    assert same(checkpoint)
    assert checkpoint.container == "zip, 'state_dict', prefix 'model.' dropped, 2 other entries left out"
    for other in ("teacher.", ""):
        both = {**prefixed("model."), **prefixed(other)}
        with pytest.raises(CheckpointError, match=f"several networks, under .*'{other}'.*; save the state_dict of one"):
            load_checkpoint(write(tmp_path / "a.ckpt", {"state_dict": both}))


def test_wrappers_inside_keys(tmp_path: Path) -> None:
    """Parts of a network that were compiled or checkpointed on their own."""
    state = {key.replace("layers.2.", "layers.2._orig_mod."): value for key, value in tensors().items()}
    checkpoint = load_checkpoint(write(tmp_path / "a.pth", state))
    assert same(checkpoint)
    assert checkpoint.container.endswith("wrappers inside keys dropped")
    with pytest.raises(CheckpointError, match="differ by a wrapper only"):
        load_checkpoint(write(tmp_path / "a.pth", {**state, "layers.2.x": state["head.bias"], **tensors()}))


# ------------------------------------------------------------------------------------------------ several networks


@pytest.fixture
def averaged() -> dict[str, torch.Tensor]:
    return {key: value + 1 if value.is_floating_point() else value for key, value in tensors().items()}


@pytest.mark.parametrize(
    ("usual", "other"), [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("model", "ema")]
)
def test_averaged_weights_are_never_passed_over_in_silence(
    tmp_path: Path, usual: str, other: str, averaged: dict[str, torch.Tensor]
) -> None:
    path = write(tmp_path / "a.pth", {"epoch": 1, other: averaged, usual: tensors()})
    with pytest.warns(LitDeployWarning, match=rf"^read '{usual}' of a\.pth; .* also holds '{other}': --key {other}$"):
        checkpoint = load_checkpoint(path)
    assert same(checkpoint)
    assert (checkpoint.key, checkpoint.others, checkpoint.name) == ("", (other,), "a.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for chosen in (load_checkpoint(path, other), load_checkpoint(f"{path}#{other}")):
            assert same(chosen, averaged)
            assert (chosen.key, chosen.others, chosen.name) == (other, (usual,), f"a.pth#{other}")
        assert load_checkpoint(path, usual).name == "a.pth", "the usual one, asked for"


def test_keys_may_be_dotted(tmp_path: Path, averaged: dict[str, torch.Tensor]) -> None:
    path = write(tmp_path / "a.pth", {"model": tensors(), "ema": {"decay": 0.99, "shadow": averaged}})
    assert same(load_checkpoint(path, "ema.shadow"), averaged)
    path = write(tmp_path / "a.pth", {"model": tensors(), "ema.shadow": averaged})
    assert same(load_checkpoint(path, "ema.shadow"), averaged)
    path = write(tmp_path / "a.pth", {"model": tensors(), "ema": {"0.99": averaged}})
    assert same(load_checkpoint(path, "ema.0.99"), averaged)
    path = write(tmp_path / "a.pth", {"state_dict": {"net": tensors(), "step": 3}})
    assert same(load_checkpoint(path)), "the only one there is"


def test_a_network_under_a_name_of_its_own(tmp_path: Path, averaged: dict[str, torch.Tensor]) -> None:
    """The only network is found wherever it lies; of two, none is guessed."""
    assert load_checkpoint(write(tmp_path / "a.pth", {"net": tensors(), "epoch": 3})).container == "zip, 'net'"
    assert same(load_checkpoint(write(tmp_path / "a.pth", {"net": tensors(), "rng": torch.get_rng_state()})))
    path = write(tmp_path / "a.pth", {"net": tensors(), "best_net": averaged})
    with pytest.raises(CheckpointError, match=r"several networks, 'net', 'best_net'; choose one with --key"):
        load_checkpoint(path)
    assert same(load_checkpoint(path, "net"))


@pytest.mark.parametrize("key", ["nothing", "epoch", "model.head.bias", "a\nb"])
def test_a_key_that_holds_no_network(tmp_path: Path, key: str) -> None:
    path = write(tmp_path / "a.pth", {"model": tensors(), "epoch": 3})
    with pytest.raises(CheckpointError, match=r"there is no network '.*' in it; it holds 'model'") as caught:
        load_checkpoint(path, key)
    assert str(caught.value).isprintable()
    save_file(dict(tensors()), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="safetensors files hold one network"):
        load_checkpoint(tmp_path / "a.safetensors", key)


def test_a_dict_among_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the entry ema is a dict, expected a dense tensor"):
        load_checkpoint(write(tmp_path / "a.pth", {**tensors(), "ema": tensors()}))


def test_a_file_whose_name_has_a_hash(tmp_path: Path) -> None:
    assert same(load_checkpoint(write(tmp_path / "a#1.pth", tensors())))


# ----------------------------------------------------------------------------------------- what lies beside weights

BESIDE: dict[str, Any] = {
    "numpy_float": np.float64(99.4),
    "numpy_int": np.int64(7),
    "numpy_bool": np.bool_(True),
    "numpy_array": np.arange(6.0).reshape(2, 3),
    "numpy_text": np.array(["a", "b"]),
    "path": pathlib.PurePosixPath("/data/imagenet"),
    "windows": pathlib.PureWindowsPath("C:/data"),
    "date": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    "span": datetime.timedelta(hours=3),
    "args": argparse.Namespace(lr=1e-3, out=pathlib.PurePosixPath("/out")),
    "more": SimpleNamespace(a=1),
    "ordered": OrderedDict(a=OrderedDict(b=1)),
    "default": defaultdict(list, {"a": [1, 2]}),
    "counter": Counter("abca"),
    "set": {1, 2},
    "decimal": decimal.Decimal("1.5"),
    "uuid": uuid.UUID(int=5),
    "device": torch.device("cpu"),
    "dtype": torch.float32,
    "size": torch.Size([1, 2]),
    "bytes": b"\x00\xff" * 40,
    "complex": 1 + 2j,
    "rng": torch.get_rng_state(),
    "sparse": torch.eye(2).to_sparse(),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_lies_beside_weights_is_harmless(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.pth", {"model": tensors(), name: BESIDE[name], "nested": [{"deeper": BESIDE[name]}]})
    assert same(load_checkpoint(path))


def test_numpy_numbers_are_shown(tmp_path: Path) -> None:
    numbers = {"acc": np.float64(99.4), "loss": np.float32(0.5), "step": np.int64(7), "done": np.bool_(True)}
    assert load_checkpoint(write(tmp_path / "a.pth", {"model": tensors(), **numbers})).metadata == numbers


def test_metadata_is_cut(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.pth", {"model": tensors(), **{f"k{i}": i for i in range(1000)}, "x": "y" * 500, "z": 1 << 70}
    )
    metadata = load_checkpoint(path).metadata
    assert len(metadata) == 51
    assert metadata["..."] == "950 more values"


@pytest.mark.parametrize("legacy", [False, True])
def test_views_of_one_buffer(tmp_path: Path, legacy: bool) -> None:
    """Tensors that share a storage, two of them the same numbers, count its bytes once."""
    state = tensors()
    own = [key for key, value in state.items() if value.dtype == torch.float32]
    flat, views, at = torch.cat([state[key].reshape(-1) for key in own]), dict(state), 0
    for key in own:
        views[key] = flat[at : at + state[key].numel()].view(state[key].shape)
        at += state[key].numel()
    views["layers.2.blocks.1.mlp.fc1.weight"] = views["layers.2.blocks.0.mlp.fc1.weight"]
    torch.save({"model": views}, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    assert same(load_checkpoint(tmp_path / "a.pth"), views)


# ----------------------------------------------------------------------------------------------------------- shards


def sharded(folder: Path) -> tuple[Path, dict[str, str]]:
    """The tiny network in two files with an index."""
    state, places = dict(tensors()), {}
    for number, part in enumerate((sorted(state)[::2], sorted(state)[1::2])):
        name = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({key: state[key] for key in part}, folder / name)
        places |= dict.fromkeys(part, name)
    return write_index(folder, places), places


def write_index(folder: Path, places: dict[str, str]) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return path


def test_shards(tmp_path: Path) -> None:
    index, _ = sharded(tmp_path)
    checkpoint = load_checkpoint(index)
    assert same(checkpoint)
    assert checkpoint.container == "sharded safetensors"
    before = checkpoint.sha256
    shard = tmp_path / "model-00002-of-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert load_checkpoint(index).sha256 != before, "the hash is of all files"
    with pytest.raises(CheckpointError, match=r"is a directory, .*; pass .*model\.safetensors\.index\.json"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "b/a.safetensors", "..", "", "a\nb", "a\\b"])
def test_shards_lie_beside_their_index(tmp_path: Path, name: str) -> None:
    index, places = sharded(tmp_path)
    write_index(tmp_path, {**places, "head.bias": name})
    with pytest.raises(CheckpointError, match="expected names of files beside it") as caught:
        load_checkpoint(index)
    assert str(caught.value).isprintable()


def test_damaged_shards(tmp_path: Path) -> None:
    index, places = sharded(tmp_path)
    write_index(tmp_path, {**places, "head.bias": "other.safetensors"})
    with pytest.raises(CheckpointError, match=r"other\.safetensors that the index names cannot be read"):
        load_checkpoint(index)
    write_index(tmp_path, {**places, "head.bias": places["head.weight"], "more": places["head.weight"]})
    with pytest.raises(CheckpointError, match="is not in model-0000"):
        load_checkpoint(index)
    for text in ('{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map"', "{" * 100_000):
        index.write_text(text)
        with pytest.raises(CheckpointError, match="index is damaged"):
            load_checkpoint(index)
