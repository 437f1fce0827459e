"""Networks that are in memory: built, exported, and verified against what is saved of them later.

The whole road, with a step of training, is that of docs/python.md (tests/documentation/test_python.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.checkpoints import tensors
from support.command import Run
from support.golden import TINY

import lit_deploy
from lit_deploy.core.errors import CheckpointError, LitDeployError, StateDictMismatch, UsageError
from lit_deploy.models.build import build
from lit_deploy.models.families import OFFICIAL_SPECS
from lit_deploy.models.layout import state_entries
from lit_deploy.workflows.verify import verify_artifact

CheckpointFile = Callable[[str], Path]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network, exported from a module that is being trained."""
    folder = tmp_path_factory.mktemp("memory")
    model = build(TINY, tensors()).train()
    result = lit_deploy.export_model(model, folder / "tiny.onnx", threads=1)
    assert result.report is not None
    assert result.report.verdict == "pass"
    assert result.manifest.source == "state dict in memory"
    assert model.training, "it goes on being trained"
    return result.path


def test_it_is_verified_with_what_is_saved_later(exported: Path, tmp_path: Path) -> None:
    """In whatever container: the manifest knows the weights, not a file."""
    state = build(TINY, tensors()).state_dict()
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "later.pth")
    assert verify_artifact(exported, tmp_path / "later.pth").verdict == "pass"
    assert verify_artifact(exported, lit_deploy.checkpoint_from_state(state)).verdict == "pass"
    state["head.bias"] += 1
    with pytest.raises(UsageError, match=r"exported from state dict in memory \(SHA-256"):
        verify_artifact(exported, lit_deploy.checkpoint_from_state(state))


def test_a_state_dict_gives_the_same_file(exported: Path, tmp_path: Path) -> None:
    result = lit_deploy.export_model(tensors(), tmp_path / "again.onnx", verify=False)
    assert result.manifest.source_sha256 == lit_deploy.read_manifest(exported).source_sha256


@pytest.mark.parametrize("wrong", [torch.nn.Linear(100, 100), torch.rand(100, 100), {}, [torch.rand(100)], None, 3.5])
def test_what_is_no_lit_is_refused_without_a_number(wrong: object, tmp_path: Path) -> None:
    with pytest.raises(LitDeployError) as caught:
        lit_deploy.export_model(wrong, tmp_path / "a.onnx")  # type: ignore[arg-type]
    assert "tensor(" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert not list(tmp_path.iterdir())


def test_another_layout_is_listed(tmp_path: Path) -> None:
    state = tensors()
    state["head.scale"] = torch.ones(7)
    with pytest.raises(StateDictMismatch, match=r"1 unexpected \(head.scale\)"):
        lit_deploy.export_model(state, tmp_path / "a.onnx")
    state = tensors()
    state["head.bias"] = torch.full((7,), torch.nan)
    with pytest.raises(CheckpointError, match=r"head.bias holds NaN"):
        lit_deploy.export_model(state, tmp_path / "a.onnx")


# ------------------------------------------------------------------------------------------------------- build_model


@pytest.mark.parametrize("name", ["lit_s", "lit_ti", "retinanet_lit_s", "mask_rcnn_lit_ti", "sem_fpn_lit_s"])
def test_initial_weights(name: str) -> None:
    """Deviations of what the official code draws; biases and sampling offsets zero; told again from its state."""
    torch.manual_seed(1)
    model = lit_deploy.build_model(name, num_classes=5, image_size=64)
    state = dict(model.state_dict())
    spec = lit_deploy.checkpoint_from_state(state).spec
    assert (spec.name, spec.num_classes, spec.image_size) == (name, 5, (64, 64))
    drawn = {
        "mlp.fc1.weight": 0.02,
        "attn.qkv.weight": 0.02,
        "retina_reg.weight": 0.01,
        "cls_convs.0.conv.weight": 0.01,
    }
    drawn |= {"rpn_conv.weight": 0.01, "fc_cls.weight": 0.01, "fc_reg.weight": 0.001, "conv_seg.weight": 0.01}
    drawn |= {"mask_head.convs.0.conv.weight": (2 / (9 * 256)) ** 0.5, "scale_heads.0.0.conv.weight": 0.0417}
    seen = 0
    for key, value in state.items():
        wanted = next((std for end, std in drawn.items() if key.endswith(end)), None)
        if wanted is not None:
            assert value.std().item() == pytest.approx(wanted, rel=0.15), key
            seen += 1
        if "conv_offset" in key or key.endswith(("mlp.fc1.bias", "attn.qkv.bias", "lateral_convs.0.conv.bias")):
            assert not value.any(), key
    assert seen > 10
    if name.startswith("retinanet"):
        assert state["bbox_head.retina_cls.bias"].sigmoid().numpy() == pytest.approx(0.01)


def test_seeds_decide() -> None:
    weights = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        weights.append(lit_deploy.build_model("lit_ti", num_classes=2, image_size=32).head.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_official_dimensions_when_nothing_is_said() -> None:
    shapes = {key: tuple(value.shape) for key, value in lit_deploy.build_model("lit_ti").state_dict().items()}
    assert shapes == dict(state_entries(OFFICIAL_SPECS["lit_ti"]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "lit_xl"}, "the model is 'lit_xl', expected one of lit_ti, lit_s"),
        ({"name": torch.rand(99)}, "the model is a Tensor"),
        ({"num_classes": 0}, "num_classes is 0, expected 1 to"),
        ({"num_classes": torch.rand(99)}, "num_classes is a Tensor, expected a whole number"),
        ({"num_classes": True}, "num_classes is a bool"),
        ({"num_classes": 2.0}, "num_classes is a float"),
        ({"image_size": 170}, "expected a multiple of 32 pixels: patches of 4, halved three times; use 160 or 192"),
        ({"image_size": -32}, "image_size is -32, expected 32 to"),
        ({"image_size": (64, 64)}, "image_size is a tuple"),
        ({"image_size": 10**9}, "expected 32 to"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        lit_deploy.build_model(**{"name": "lit_ti", **arguments})  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


# ------------------------------------------------------------------------------------------------------ export --json


def test_json_for_ci(run: Run, checkpoint_file: CheckpointFile) -> None:
    outcome = run("export", "--ckpt", checkpoint_file("tiny"), "--out", "a.onnx", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    told = json.loads(outcome.out)
    assert (told["path"], told["files"][0]["path"]) == ("a.onnx", "a.onnx")
    assert told["size"] == Path("a.onnx").stat().st_size
    assert told["sha256"] == json.loads(run("inspect", "a.onnx", "--json").out)["sha256"]
    assert told["parity"]["verdict"] == "pass"
    assert told["parity"]["max_abs"] < 1e-3
    assert (told["gates"], told["engine_parity"], told["unchecked"]) == (None, None, "")
    assert told["manifest"]["model"]["num_classes"] == 7
    assert "advice" in told
    np.testing.assert_equal(told["manifest"]["parity"], told["parity"])
