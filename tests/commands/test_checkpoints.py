"""Checkpoints with several networks, and known hashes, on the command line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from support.checkpoints import tensors, write
from support.command import Run, assert_one_sentence

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.bench import worker
from lit_deploy.core.files import sha256_of

NOTE = "note: read 'model' of both.pth; the file also holds 'model_ema': --key model_ema\n"


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """Weights, and others as their average."""
    averaged = {key: value * 1.5 if key.startswith("head.") else value for key, value in tensors().items()}
    return write(tmp_path / "both.pth", {"model": tensors(), "model_ema": averaged})


def test_inspect_says_which_network_it_read(run: Run, both: Path) -> None:
    silent, chosen = run("inspect", both), run("inspect", both, "--key", "model_ema", "--sha256", sha256_of(both))
    assert (silent.code, silent.err) == (0, NOTE)
    assert "zip, 'model'" in silent.out
    assert (chosen.code, chosen.err) == (0, "")
    assert "zip, 'model_ema'" in chosen.out


def test_an_exported_file_remembers_its_network(run: Run, both: Path) -> None:
    outcome = run("export", "--ckpt", both, "--key", "model_ema", "--out", "a.onnx")
    assert (outcome.code, outcome.err) == (0, "")
    assert read_manifest(Path("a.onnx")).source == "both.pth#model_ema"
    assert run("verify", "a.onnx", "--ckpt", both, "--key", "model_ema").code == 0
    assert run("verify", "a.onnx", "--ckpt", f"{both}#model_ema").code == 0
    other = run("verify", "a.onnx", "--ckpt", both)
    assert other.code == 2
    assert "from another network of" in other.err
    assert "add --key model_ema" in other.err


def test_a_benchmark_process_says_it_too(both: Path) -> None:
    """Its stderr is read by nobody, so its parent is told."""
    request = {"do": "open", "kind": "torch", "source": str(both), "device": "cpu", "threads": 1}
    replies = io.StringIO()
    worker._serve(io.StringIO(json.dumps(request | {"allow_engine_code": False})), replies)
    assert json.loads(replies.getvalue())["notes"] == [NOTE.removeprefix("note: ").strip()]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("inspect {both} --key x", "it holds 'model', 'model_ema'"),
        ("inspect {both} --sha256 " + "0" * 64, "it is not the file you meant"),
        ("export --ckpt {both} --sha256 00", "expected 64 hexadecimal digits"),
        ("export --ckpt {both}#model --key model_ema", "choose the network in one way"),
        ("export --ckpt a.onnx --format openvino --key x", "--key is for checkpoints"),
        ("evaluate a.onnx --images . --key x", "--key and --sha256 are for --ckpt"),
        ("bench a.onnx --key x", "--key and --sha256 are for --ckpt"),
        ("bench a.onnx --ckpt {both} --sha256 " + "0" * 64, "it is not the file you meant"),
    ],
)
def test_mistakes(run: Run, both: Path, command: str, words: str) -> None:
    assert_one_sentence(run(*command.replace("{both}", str(both)).split()), words)
