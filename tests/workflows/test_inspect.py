"""What ``inspect`` tells about checkpoints and exported files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.command import Run
from support.engines import BESIDE, SIDECAR, write_engine
from support.exported import export_of
from support.golden import TINY

from lit_deploy.checkpoints.seeded import make_state, save_checkpoint
from lit_deploy.core.errors import ArtifactError, CheckpointError, LitDeployError
from lit_deploy.models.layout import mac_count, parameter_count
from lit_deploy.workflows.inspect import inspect_file

CheckpointFile = Callable[[str], Path]


def test_checkpoint(checkpoint_file: CheckpointFile) -> None:
    path = checkpoint_file("tiny")
    told = inspect_file(path)
    assert told["kind"] == "LIT checkpoint"
    assert told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert told["container"] == "zip, 'model' + CfgNode"
    assert (told["parameters"], told["macs"]) == (parameter_count(TINY), mac_count(TINY))
    assert told["model"]["embed_dims"] == TINY.embed_dims
    assert told["model"]["num_classes"] == 7
    assert told["metadata"]["epoch"] == 299
    json.dumps(told)


@pytest.mark.parametrize("portable", [False, True])
def test_exported_file(portable: bool, checkpoint_file: CheckpointFile) -> None:
    checkpoint = checkpoint_file("tiny")
    path = export_of(checkpoint, portable=True) if portable else export_of(checkpoint)
    told = inspect_file(str(path))
    assert told["kind"] == "lit-deploy ONNX file"
    assert told["size"] == path.stat().st_size
    assert told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert told["source_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert told["source"] == "tiny.pth"
    if portable:
        assert told["opset"] == {"ai.onnx": 20}
        assert told["functions"] == []
        assert told["nodes"]["GridSample"] == 3
    else:
        assert told["opset"] == {"ai.onnx": 20, "lit_deploy": 1}
        assert told["functions"] == ["DeformableTokenMerging", "RelativePositionAttention"]
        assert (told["nodes"]["DeformableTokenMerging"], told["nodes"]["RelativePositionAttention"]) == (3, 3)
    assert told["input"]["mean"] == (0.485, 0.456, 0.406)
    assert (told["precision"], told["output"], told["batch"], told["portable"]) == ("fp32", "logits", None, portable)
    assert told["parity"] is None
    assert told["labels"] == ["class 0", "class 1", "class 2", "... 7 in all"]
    json.dumps(told)


def test_people_read_no_python(checkpoint_file: CheckpointFile, run: Run, tmp_path: Path) -> None:
    """Sizes with units, sizes of pictures, words for what is not fixed; no None, no dict, no empty line."""
    file = " ".join(run("inspect", export_of(checkpoint_file("tiny"))).out.split())
    checkpoint = " ".join(run("inspect", checkpoint_file("tiny")).out.split())
    engine = " ".join(run("inspect", write_engine(tmp_path, SIDECAR)).out.split())
    for words, where in (
        ("size │ 0.2 MB (", file), ("batch │ dynamic", file), ("image_size │ 64 x 64", file), ("portable │ no", file),
        ("nodes │ Add 29, MatMul 21,", file), ("opset │ ai.onnx 20, lit_deploy 1", file), ("field ┃ value", file),
        ("parameters │ 36.7 k (36,679)", checkpoint), ("macs │ 668.9 k (668,896)", checkpoint),
        ("inputs │ images float32 [batch, 3, 64, 64]", engine), ("profiles │ 1:8:32", engine),
    ):  # fmt: skip
        assert words in where, words
    for shown in (file, checkpoint, engine):
        for python in ("None", "{", "True", "False", "()"):
            assert python not in shown


def test_few_labels_are_all_shown(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    told = inspect_file(export_of(checkpoint_file("tiny"), output="top5"))
    assert told["output"] == "top5"
    save_checkpoint(make_state(TINY), tmp_path / "LIT.PTH")
    assert inspect_file(tmp_path / "LIT.PTH")["kind"] == "LIT checkpoint", "the content counts, not the ending"


def test_engine(tmp_path: Path) -> None:
    """The sidecar and the manifest in one; both know a parity, and each is told as what it is."""
    measured = replace(SIDECAR, parity={"cosine": 0.9, "verdict": "pass"}, plugin=BESIDE)
    path = write_engine(tmp_path, measured)
    link = tmp_path / "current.engine"
    link.symlink_to(path)
    for source in (path, link):
        told = inspect_file(source)
        assert (told["kind"], told["file"]) == ("lit-deploy engine", str(source))
        assert told["engine_parity"] == {"cosine": 0.9, "verdict": "pass"}
        assert told["onnx_parity"] == {"cosine": 1.0}
        assert "parity" not in told
        assert "manifest" not in told
        assert told["build"]["backend"] == "tensorrt_rtx"
        assert told["plugin"]["sha256"] == BESIDE.sha256
        assert (told["precision"], told["profiles"], told["model"]["num_classes"]) == ("fp16", ((1, 8, 32),), 7)
        assert told["labels"] == ["a", "b", "c", "... 7 in all"]
        json.dumps(told)
    write_engine(tmp_path)
    assert inspect_file(path)["engine_parity"] is None, "it was not run; the ONNX file was"


@pytest.mark.parametrize("name", ["lit.engine", "lit.plan"])
def test_engines_without_a_sidecar(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a file"):
        inspect_file(tmp_path / name)
    (tmp_path / name).touch()
    with pytest.raises(ArtifactError, match=f"no readable sidecar {name}.json"):
        inspect_file(tmp_path / name)


def test_other_files(tmp_path: Path) -> None:
    for name, content in (("a.pth", b"hello"), ("b.pth", b"\x89PNG\r\n\x1a\n"), ("c.bin", b""), ("d.onnx", b"hello")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LitDeployError, match=name) as caught:
            inspect_file(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError):
        inspect_file(tmp_path / "absent.pth")
