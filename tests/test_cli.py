"""The command line: what it prints, what it exits with, and that a mistake costs one sentence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from exported import change_initializer, edited, export_of, needs_library
from golden import TINY
from PIL import Image
from test_predict import broken_images, odd_images

import lit_deploy
from lit_deploy import cli
from lit_deploy.artifact import read_manifest
from lit_deploy.errors import UsageError
from lit_deploy.exporters.tensorrt import EngineOptions
from lit_deploy.seeded import make_state, save_checkpoint, synthetic_image

CheckpointFile = Callable[[str], Path]
ROOT = Path(lit_deploy.__file__).parents[1]
COMMANDS = ("export", "verify", "evaluate", "bench", "predict", "inspect", "models", "doctor")


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command in this process, through ``main``, in a folder of its own."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["lit-deploy", *map(str, arguments)])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call


def in_process(*arguments: object, script: str | None = None) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a command as a process of its own; the outcome and how long it took, in seconds."""
    command = [sys.executable, *(["-c", script] if script else ["-m", "lit_deploy.cli"]), *map(str, arguments)]
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    return done, time.perf_counter() - start


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(synthetic_image(6, "cli", 90, 120)).save(path)
    return path


def assert_one_sentence(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in outcome.err


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
    done, _ = in_process("--help", script=script)
    assert done.stdout.splitlines()[-2:] == ["exit 0", "loaded"], done.stdout[-300:] + done.stderr
    for command in COMMANDS:
        assert command in done.stdout
    best = min(in_process("--help")[1] for _ in range(5))
    print(f"lit-deploy --help: {best:.3f} s (goal 0.3 s)")
    assert best < 1.0, "generous, for a busy machine"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_commands(command: str, run: Run) -> None:
    outcome = run(command, "--help")
    assert outcome.code == 0
    assert "Usage" in outcome.out
    assert outcome.err == ""


def test_version(run: Run) -> None:
    assert run("--version") == Outcome(0, f"lit-deploy {lit_deploy.__version__}\n", "")


def test_exit_codes_are_told(run: Run) -> None:
    assert "0 done, 1 a gate failed (parity, accuracy), 2 usage or environment" in " ".join(run("--help").out.split())


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
    assert Image.open("layers.png").width > 300
    done, _ = in_process("verify", path, "--ckpt", checkpoint)
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
        assert_one_sentence(run("predict", path, paths[0], broken), str(broken))


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
    for word in ("lit_ti", "lit_s", "lit_m", "lit_b", "224 x 224", "81.50", "github.com/ziplab/LIT"):
        assert word in outcome.out, word
    listed = json.loads(run("models", "--json").out)
    assert list(listed) == ["lit_ti", "lit_s", "lit_m", "lit_b"]
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


# ------------------------------------------------------------------------------------------------------- wrong inputs


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
        "doctor extra", "export --ckpt a --precision int8", "predict a.onnx b.png --top 0", "bench --rounds 0",
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

    monkeypatch.setattr("lit_deploy.export.export_engine", build)
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
    done, _ = in_process("--debug", "inspect", tmp_path / "absent.onnx")
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "ArtifactError" in done.stderr
    done, _ = in_process("inspect", tmp_path / "absent.onnx")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_closed_pipe_is_no_crash(checkpoint_file: CheckpointFile) -> None:
    """``lit-deploy inspect FILE | head -1`` ends quietly."""
    command = f"{sys.executable} -m lit_deploy.cli inspect {export_of(checkpoint_file('tiny'))} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr


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
    assert (done.returncode, done.stderr) == (2, "error: the package torch is not installed; run: pip install torch\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pth"]


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
