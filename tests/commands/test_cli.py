"""The command line: what it prints, and what it exits with."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from support.command import Outcome, Run, assert_one_sentence, in_process
from support.exported import change_initializer, edited, export_of, needs_library
from support.golden import TINY
from support.pictures import broken_images, odd_images

import lit_deploy
from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.checkpoints.seeded import make_state, save_checkpoint
from lit_deploy.models.families import OFFICIAL_SPECS

CheckpointFile = Callable[[str], Path]
COMMANDS = ("export", "verify", "evaluate", "bench", "predict", "inspect", "models", "doctor")


# -------------------------------------------------------------------------------------------------------------- help


def test_help_is_instant() -> None:
    """No back end, no NumPy: only what declares the options is loaded."""
    script = (
        "import sys\nfrom lit_deploy import cli\n"
        "try: cli.main()\n"
        "except SystemExit as stop: print('exit', stop.code)\n"
        "heavy = 'torch', 'onnx', 'onnxruntime', 'onnxscript', 'PIL', 'numpy', 'cuda', 'tensorrt_rtx_bindings'\n"
        "print('loaded', *[name for name in heavy if name in sys.modules])"
    )
    done = in_process("--help", script=script)
    assert done.stdout.splitlines()[-2:] == ["exit 0", "loaded"], done.stdout[-300:] + done.stderr
    for command in COMMANDS:
        assert command in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_commands(command: str, run: Run) -> None:
    outcome = run(command, "--help")
    assert outcome.code == 0
    assert "Usage" in outcome.out
    assert outcome.err == ""


def test_version(run: Run) -> None:
    assert run("--version") == Outcome(0, f"lit-deploy {lit_deploy.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("lit-deploy ver", ["verify"]), ("lit-deploy export --precision ", ["fp32", "fp16", "bf16", "int8", "fp8"])],
)
def test_shells_complete(words: str, wanted: list[str], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_LIT_DEPLOY_COMPLETE", "complete_bash"), ("COMP_WORDS", words)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    assert run().out.split() == wanted


def test_exit_codes_are_told(run: Run) -> None:
    assert "0 done, 1 a gate failed (parity, accuracy, speed) or images left out, 2 usage or environment" in " ".join(
        run("--help").out.split()
    )


# ------------------------------------------------------------------------------------------------------------ the job


def test_export_then_everything_else(
    run: Run, checkpoint_file: CheckpointFile, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main road: export with its check, verify, predict, inspect."""
    checkpoint = checkpoint_file("tiny")
    outcome = run("export", "--ckpt", checkpoint)
    assert outcome.code == 0, outcome.err
    path = Path("tiny.onnx")
    assert os.listdir() == ["tiny.onnx"], "named after the checkpoint, in the working directory, and nothing else"
    for word in ("tiny.onnx", "7 classes", "fp32", "images float32 [batch, 3, 64, 64]", "logits", "parity", "pass"):
        assert word in outcome.out, word
    parity = read_manifest(path).parity
    assert parity is not None
    assert parity["verdict"] == "pass"

    outcome = run("verify", path, "--ckpt", checkpoint, "--layers")
    assert outcome.code == 0, outcome.err
    assert "PASS" in outcome.out
    assert "layers.2.blocks.1" in outcome.out
    outcome = run("verify", path, "--ckpt", checkpoint, "--json")
    assert json.loads(outcome.out)["verdict"] == "pass"

    outcome = run("predict", path, photo, photo, "--top", 2)
    assert outcome.code == 0, outcome.err
    assert len(re.findall(r"class \d", outcome.out)) == 4
    told = json.loads(run("predict", path, photo, "--json").out)
    assert [len(told), len(told[0]["classes"])] == [1, 5]
    assert sum(told[0]["probabilities"]) < 1.001

    outcome = run("inspect", path)
    assert outcome.code == 0
    assert "lit-deploy ONNX file" in outcome.out
    assert json.loads(run("inspect", path, "--json").out)["model"]["num_classes"] == 7
    assert json.loads(run("inspect", checkpoint, "--json").out)["kind"] == "LIT checkpoint"


def test_every_option_of_export_arrives(run: Run, checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefg"))
    outcome = run(
        "export", "--ckpt", checkpoint_file("tiny"), "-o", "a.onnx", "--precision", "fp16", "--batch", "2", "--input",
        "uint8", "--output", "top5", "--portable", "--labels", names, "--resize", "70", "--mean", "0.5", "0.4", "0.3",
        "--std", "0.3", "0.2", "0.1", "--no-verify", "--threads", "1",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "not checked" in outcome.out
    manifest = read_manifest(Path("a.onnx"))
    assert (manifest.precision, manifest.batch, manifest.output, manifest.portable) == ("fp16", 2, "top5", True)
    assert (manifest.labels, manifest.parity) == (tuple("abcdefg"), None)
    spec = manifest.input
    assert (spec.kind, spec.resize, spec.mean, spec.std) == ("uint8", 70, (0.5, 0.4, 0.3), (0.3, 0.2, 0.1))


def test_verify_exits_with_one_on_a_fault(run: Run, checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    checkpoint = checkpoint_file("tiny")

    def change(model: onnx.ModelProto) -> None:
        for part in ("weight", "bias"):
            name = f"layers.1.downsample.dconv.conv_offset.{part}"
            change_initializer(model, name, lambda value: value[[1, 0, 3, 2, 5, 4, 7, 6]])

    path = edited(export_of(checkpoint), tmp_path / "swapped.onnx", change)
    outcome = run("verify", path, "--ckpt", checkpoint)
    assert outcome.code == 1
    assert "FAIL" in outcome.out
    assert "Traceback" not in outcome.err
    outcome = run("verify", path, "--ckpt", checkpoint, "--layers", "--json", "--plot", "layers.png")
    assert outcome.code == 1
    assert json.loads(outcome.out)["first_departure"] == "layers.1.downsample"
    assert outcome.err == "wrote layers.png\n"
    assert Image.open("layers.png").width > 300
    done = in_process("verify", path, "--ckpt", checkpoint)
    assert done.returncode == 1, "and so does the process"


def test_export_that_fails_parity_exits_with_one(run: Run, tmp_path: Path) -> None:
    state = make_state(TINY)
    zero = {key: np.zeros_like(value) if "conv_offset" in key else value for key, value in state.items()}
    save_checkpoint(zero, tmp_path / "zero.pth")
    outcome = run("export", "--ckpt", tmp_path / "zero.pth")
    assert outcome.code == 1
    assert outcome.err.startswith("error: zero.onnx was not written: ")
    assert "INCONCLUSIVE" in outcome.err, "the comparison is shown behind the sentence"
    assert os.listdir() == []


def test_predict_odd_images(run: Run, checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    path = export_of(checkpoint_file("tiny"))
    paths = odd_images(tmp_path)
    outcome = run("predict", path, *paths, "--json")
    assert outcome.code == 0, outcome.err
    assert [Path(entry["image"]) for entry in json.loads(outcome.out)] == paths
    for broken in broken_images(tmp_path):
        assert_one_sentence(run("predict", path, broken), str(broken))


@needs_library
def test_library_options(
    run: Run, checkpoint_file: CheckpointFile, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export_of(checkpoint_file("tiny"))
    verify = ("verify", path, "--ckpt", checkpoint_file("tiny"), "--json")
    assert "(built-in function)" in json.loads(run(*verify, "--no-library").out)["tested"]
    assert "(lit-deploy kernel)" in json.loads(run(*verify, "--library").out)["tested"]
    monkeypatch.setenv("LIT_DEPLOY_LIBRARY", "/absent/library.so")
    assert_one_sentence(run("predict", path, photo, "--library"), "/absent/library.so", "build it")


def test_models(run: Run) -> None:
    outcome = run("models")
    assert outcome.code == 0
    for word in (
        "lit_ti",
        "lit_s",
        "lit_m",
        "lit_b",
        "224 x 224",
        "81.5",
        "mIoU 41.7",
        "800 x 1216",
        "github.com/ziplab/LIT",
    ):
        assert word in outcome.out, word
    listed = json.loads(run("models", "--json").out)
    assert list(listed) == list(OFFICIAL_SPECS)
    assert listed["mask_rcnn_lit_s"]["parameters"] == 48_240_096
    assert listed["lit_ti"]["macs"] == 3_613_743_104


def test_doctor(run: Run) -> None:
    outcome = run("doctor")
    assert outcome.code == 0, "everything that the tests need is what doctor requires"
    assert "onnxruntime" in outcome.out.lower()
    assert json.loads(run("doctor", "--json").out)["checks"]


def test_bench_of_one_file(run: Run, checkpoint_file: CheckpointFile) -> None:
    checkpoint = checkpoint_file("tiny")
    outcome = run(
        "bench",
        export_of(checkpoint),
        "--ckpt",
        checkpoint,
        "--batch",
        "1",
        "--rounds",
        "1",
        "--threads",
        "1",
        "--json",
    )
    assert outcome.code == 0, outcome.err
    assert len(json.loads(outcome.out)["measurements"]) >= 2
