"""The command line: a mistake costs one sentence, whatever it is about."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import ROOT, Run, assert_one_sentence, in_process
from support.exported import export_of
from support.golden import DATA, TINY

from lit_deploy.checkpoints.seeded import make_state, save_checkpoint
from lit_deploy.core.errors import UsageError
from lit_deploy.exporters.engine_options import EngineOptions

CheckpointFile = Callable[[str], Path]


@pytest.fixture
def places(checkpoint_file: CheckpointFile, tmp_path: Path, photo: Path) -> dict[str, str]:
    """Good and bad arguments by name; ``{name}`` in the cases below stands for one of them."""
    save_checkpoint(make_state(TINY, seed=1), tmp_path / "other.pth")
    (tmp_path / "notes.txt").write_text("one\ntwo\n")
    (tmp_path / "notes.pth").write_text("not a checkpoint")
    (tmp_path / "cut.onnx").write_bytes(export_of(checkpoint_file("tiny")).read_bytes()[:5000])
    (tmp_path / "empty").mkdir()
    names = {
        name: str(tmp_path / name) for name in ("other.pth", "notes.txt", "notes.pth", "cut.onnx", "empty", "none")
    }
    good = {"ckpt": checkpoint_file("tiny"), "onnx": export_of(checkpoint_file("tiny")), "photo": photo}
    return {**names, **{name: str(path) for name, path in good.items()}}


TRT = "export --format trt --ckpt"
WRONG = [
    ("export --ckpt {none}", "none"),
    ("export --ckpt {notes.pth}", "notes.pth"),
    ("export --ckpt {empty}", "is a directory"),
    ("export --ckpt {onnx}", "ONNX"),
    ("export --ckpt {photo}", "PNG image"),
    ("export --ckpt http://example.org/lit_s.pth", "https"),
    ("export --ckpt {ckpt} --precision int8", "int8 needs images to choose its ranges with; add --calib"),
    ("export --ckpt {ckpt} --layers", "--layers is for engines; add --format trt"),
    ("export --ckpt {ckpt} --no-plugin", "error: --plugin/--no-plugin is for engines; add --format trt"),
    ("export --ckpt {ckpt} --embed-plugin", "--embed-plugin is for engines; add --format trt"),
    ("export --ckpt {ckpt} --builder tensorrt_rtx", "--builder is for engines; add --format trt"),
    ("export --ckpt {ckpt} --optimization-level 3", "--optimization-level is for engines; add --format trt"),
    ("export --ckpt {ckpt} --batch 1:8:32", "expected 'dynamic' or a number of images"),
    (f"{TRT} {{ckpt}} --out lit.onnx", "the output is lit.onnx, expected a name that ends in .engine"),
    (f"{TRT} {{ckpt}} --out absent/lit.engine", "does not exist"),
    (f"{TRT} {{none}}", "none"),
    (f"{TRT} {{cut.onnx}}", "cut.onnx"),
    (f"{TRT} {{ckpt}} --batch 8:4:32", "the batch profile is 8:4:32, expected MIN:OPT:MAX in ascending order"),
    (f"{TRT} {{ckpt}} --batch 1:8", "--batch is '1:8', expected MIN:OPT:MAX"),
    (f"{TRT} {{ckpt}} --batch 1:8:9999", "--batch is '9999', expected MIN:OPT:MAX"),
    (f"{TRT} {{ckpt}} --batch 0", "--batch is '0'"),
    (f"{TRT} {{ckpt}} --target 9.0", "the target is '9.0', expected compute capabilities of"),
    (f"{TRT} {{ckpt}} --target 8.6,,8.9", "the target is ''"),
    (f"{TRT} {{ckpt}} --target=", "the target is ''"),
    (f"{TRT} {{ckpt}} --embed-plugin --no-plugin", "embedded and left out at once"),
    (f"{TRT} {{onnx}} --precision fp16", "--precision is decided already in tiny.onnx; export the checkpoint again"),
    (f"{TRT} {{onnx}} --portable", "--portable is decided already"),
    (f"{TRT} {{onnx}} --batch 4", "give its batch profile as --batch MIN:OPT:MAX"),
    (f"{TRT} {{onnx}} --builder tensorrt_rtx --version-compatible", "its engines never cross releases"),
    (f"{TRT} {{onnx}} --builder tensorrt_rtx --hardware-compatible", "name the GPUs with --target instead"),
    (f"{TRT} {{onnx}} --builder tensorrt_rtx --timing-cache a.cache", "it measures nothing while it builds"),
    (f"{TRT} {{onnx}} --builder tensorrt --target 8.9", "it builds for the GPU it runs on"),
    ("export --ckpt {ckpt} --out lit.engine", ".onnx"),
    ("export --ckpt {ckpt} --out absent/lit.onnx", "does not exist"),
    ("export --ckpt {ckpt} --batch 0", "--batch is '0'"),
    ("export --ckpt {ckpt} --batch -3", "--batch is '-3'"),
    ("export --ckpt {ckpt} --batch two", "--batch is 'two'"),
    ("export --ckpt {ckpt} --labels {none}", "does not exist"),
    ("export --ckpt {ckpt} --labels {notes.txt}", "2 names where the model has 7"),
    ("export --ckpt {ckpt} --std 1 0 1", "std"),
    ("verify {none}.onnx --ckpt {ckpt}", "is not a file"),
    ("verify {cut.onnx} --ckpt {ckpt}", "cut.onnx"),
    ("verify {onnx} --ckpt {none}", "none"),
    ("verify {onnx} --ckpt {other.pth}", "name the original checkpoint"),
    ("verify {onnx} --ckpt {ckpt} --plot a.png", "--layers"),
    ("verify {onnx} --ckpt {ckpt} --layers --plot absent/a.png", "does not exist"),
    ("verify {onnx} --ckpt {ckpt} --images {none}", "does not exist"),
    ("verify {onnx} --ckpt {ckpt} --images {empty}", "holds no image"),
    ("verify {onnx} --ckpt {ckpt} --images {photo}", "is a file"),
    ("verify {onnx} --ckpt {ckpt} --device cuda", "cuda"),
    ("verify lit.engine --ckpt {ckpt}", "lit.engine is not a file; expected an engine written by"),
    ("predict lit.engine {photo}", "lit.engine is not a file"),
    ("predict {none}.onnx {photo}", "is not a file"),
    ("predict {notes.txt} {photo}", "notes.txt"),
    ("predict {onnx} {none}", "does not exist"),
    ("predict {onnx} {notes.txt}", "not an image"),
    ("predict {onnx} {photo} --device cuda", "cuda"),
    ("inspect {none}", "none"),
    ("inspect {empty}", "is a directory"),
    ("inspect {cut.onnx}", "cut.onnx"),
    ("inspect {notes.txt}", "notes.txt"),
    ("inspect lit.plan", "lit.plan is not a file; expected an engine written by"),
    ("bench {onnx} --batch 0", "--batch is '0'"),
    ("bench {onnx} --batch 1,x", "--batch is 'x'"),
    ("bench {onnx} --batch ,", "--batch is ''"),
    ("bench {none}.onnx --rounds 1", "none.onnx"),
    ("bench {notes.txt} --rounds 1", "notes.txt"),
    ("bench {onnx} --ckpt {none} --rounds 1", "none"),
]


@pytest.mark.parametrize(("command", "word"), WRONG, ids=[command for command, _ in WRONG])
def test_wrong_inputs(command: str, word: str, run: Run, places: dict[str, str]) -> None:
    """Exit code 2 and exactly one sentence, which names the culprit; nothing is written."""
    arguments = command.split()
    for name, value in places.items():
        arguments = [argument.replace(f"{{{name}}}", value) for argument in arguments]
    assert_one_sentence(run(*arguments), word)
    assert os.listdir() == []


@pytest.mark.parametrize(
    "command",
    [
        "", "nonsense", "export", "export --ckpt", "verify a.onnx", "predict a.onnx", "inspect", "models --nonsense",
        "doctor extra", "export --ckpt a --precision int4", "predict a.onnx b.png --top 0", "bench --rounds 0",
        "verify a.onnx --ckpt b --limit 0", "export --ckpt a --threads 0", "export --ckpt a --mean 1 2",
        "export --ckpt a --resize 0", "export --ckpt a --format engine", "export --ckpt a --format trt --workspace 0",
        "export --ckpt a --format trt --optimization-level 6", "export --ckpt a --format trt --builder nvcc",
    ],
)  # fmt: skip
def test_usage_errors(command: str, run: Run) -> None:
    """What the option parser refuses itself: exit code 2, and no traceback."""
    outcome = run(*command.split())
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err + outcome.out
    assert re.search("Usage|Error", outcome.err + outcome.out)


def test_targets_as_people_write_them(run: Run, places: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Spaces after commas, and one of them twice: each is built for once, in the order given."""
    built: list[EngineOptions] = []

    def build(source: str, out: Path, options: object, engine: EngineOptions, **more: object) -> None:
        built.append(engine)
        raise UsageError("enough")

    monkeypatch.setattr("lit_deploy.workflows.export.export_engine", build)
    for target in (["--target", "8.6, 8.9,8.6 , 12.0"], []):
        assert_one_sentence(run("export", "--format", "trt", "--ckpt", places["ckpt"], *target), "enough")
    assert [engine.targets for engine in built] == [("8.6", "8.9", "12.0"), ()]
    assert [engine.profile for engine in built] == [None, None], "the builder's own, where none is given"


def test_missing_keys_are_listed(run: Run, tmp_path: Path) -> None:
    """One sentence, then the listing of every key that differs."""
    state = make_state(TINY)
    del state["layers.1.blocks.0.mlp.fc1.weight"], state["norm.bias"]
    save_checkpoint(state, tmp_path / "less.pth")
    outcome = run("export", "--ckpt", tmp_path / "less.pth")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: {tmp_path / 'less.pth'}: ")
    assert "norm.bias" in outcome.err
    assert "layers.1.blocks.0.mlp.fc1.weight" in outcome.err
    assert "Traceback" not in outcome.err


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = in_process("--debug", "inspect", tmp_path / "absent.onnx")
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "ArtifactError" in done.stderr
    done = in_process("inspect", tmp_path / "absent.onnx")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_closed_pipe_is_no_crash(checkpoint_file: CheckpointFile) -> None:
    """``lit-deploy inspect FILE | head -1`` ends quietly."""
    command = f"{sys.executable} -m lit_deploy.cli inspect {export_of(checkpoint_file('tiny'))} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr


OLD = DATA / "v0.1.0"

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # as if it were not installed
from lit_deploy.cli import main
sys.argv = ["lit-deploy", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("command", [["export", "--ckpt", "x.pth"], ["inspect", "x.pth"], ["bench", "--rounds", "1"]])
def test_without_torch(command: list[str], checkpoint_file: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(checkpoint_file("tiny").read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *command], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (
        2,
        "error: the package torch is not installed; run: pip install 'lit-deploy[export]'\n",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pth"]


def test_predict_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "predict", str(OLD / "tiny.onnx"), str(OLD / "picture.png")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "class 5" in done.stdout


def test_lost_output_is_no_failed_gate(checkpoint_file: Callable[[str], Path]) -> None:
    """1 means that a gate failed; output that cannot be written is the environment's fault."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lit_deploy.cli", "inspect", str(checkpoint_file("tiny"))],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
