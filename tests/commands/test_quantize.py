"""Eight bits on the command line: what is printed, what is written, and that a mistake costs one sentence."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from support.command import Run, assert_one_sentence
from support.engines import check_files, needs_rtx
from support.exported import export_of
from support.quantization import (
    SLOWER,
    Digits,
    converted,
    damaged,
    digits,
    digits_int8,
    faster,
    photos,
    pretend,
    without_measurements,
)

import lit_deploy
from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.quantize import gates
from lit_deploy.workflows.export import ExportResult

__all__ = ["converted", "damaged", "digits", "digits_int8", "faster", "photos"]  # fixtures

CheckpointFile = Callable[[str], Path]
HALF = ("--accuracy-budget", "50")
"""What the tiny network, whose random weights tell images apart by little, needs."""


# ----------------------------------------------------------------------------------------------------------- the job


@pytest.mark.usefixtures("converted")
def test_every_option_arrives(run: Run, digits: Digits) -> None:
    outcome = run(
        "export", "--ckpt", digits.checkpoint, "--precision", "int8", "--calib", digits.calib, "--calib-method",
        "percentile", "--calib-percentile", "99.9", "--calib-limit", "23", "--keep", "layers.3", "--keep", "*.fc2",
        "--accuracy-budget", "5",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert os.listdir() == ["digits.onnx"]
    manifest = read_manifest("digits.onnx")
    done = manifest.quantization
    assert done is not None
    assert (done.method, done.percentile, done.images) == ("percentile", 99.9, 23)
    assert (done.kept, done.source, done.base) == (("layers.3", "*.fc2"), f"{digits.calib} (23 of 48)", "fp32")
    text = " ".join(outcome.out.split())
    for word in ("int8 against fp32", "<= 5.00%", "1.50x", "PASS 23 images of", "(23 of 48)", "parity pass"):
        assert word in text, word
    assert run("export", "--ckpt", digits.checkpoint, "--precision", "int8", "--calib", digits.calib).code == 0
    done = read_manifest("digits.onnx").quantization
    assert done is not None
    assert (done.method, done.percentile, done.images, done.kept) == ("minmax", None, 48, ())


def test_quantize_a_file(run: Run, checkpoint_file: CheckpointFile, photos: Path) -> None:
    """Named after its source, beside which it does not lie; as text and as JSON."""
    source = export_of(checkpoint_file("tiny"))
    outcome = run("quantize", source, "--calib", photos, *HALF)
    assert outcome.code == 0, outcome.err
    assert os.listdir() == ["tiny_int8.onnx"]
    done = read_manifest("tiny_int8.onnx").quantization
    assert done is not None
    for word in ("tiny_int8.onnx", f"{done.products} in int8, the rest in fp32", "PASS  10 images of"):
        assert word in outcome.out, word
    outcome = run("quantize", source, "--calib", photos, *HALF, "--out", "other.onnx", "--json")
    told = json.loads(outcome.out)
    assert told["path"] == "other.onnx"
    assert told["size"] == Path("other.onnx").stat().st_size
    assert told["manifest"]["quantization"] == json.loads(read_manifest("other.onnx").to_json())["quantization"]
    found = told["gates"]
    assert (found["precision"], found["reference"], found["images"], found["budget"]) == ("int8", "fp32", 10, 0.5)
    assert found["agreement"] == 1 - found["differing"] / 10 == done.agreement
    assert found["speed"]["speedup"] == done.speedup == 1.5
    assert found["reasons"] == []
    assert 0.9 < found["cosine_min"] <= found["cosine_mean"] < 0.99999
    assert without_measurements(Path("other.onnx")) == without_measurements(Path("tiny_int8.onnx"))


def test_scan(run: Run, checkpoint_file: CheckpointFile, photos: Path) -> None:
    """A table and an option to paste; the JSON says the same, and nothing is written."""
    command = ("quantize", export_of(checkpoint_file("tiny")), "--calib", photos, "--scan", "--keep", "layers.3")
    outcome = run(*command, *HALF)
    assert outcome.code == 0, outcome.err
    told = json.loads(run(*command, *HALF, "--json").out)
    assert os.listdir() == []
    modules = [damage["module"] for damage in told["damages"]]
    assert len(modules) == len(set(modules)) > 5
    assert not [module for module in modules if module.startswith("layers.3.")], "that is kept in any case"
    errors = [damage["error"] for damage in told["damages"]]
    assert errors == sorted(errors, reverse=True)
    places = [outcome.out.index(module) for module in modules]
    assert places == sorted(places)
    assert (told["keep"], told["trials"][0]["keep"]) == (["layers.3"], ["layers.3"])
    assert "Nothing more has to be kept: top-1 differs on" in outcome.out


@pytest.mark.usefixtures("damaged")
def test_what_a_scan_proposes_can_be_pasted(run: Run, digits: Digits) -> None:
    """One module is damaged: the scan finds it, and the options that it prints are accepted."""
    source = export_of(digits.checkpoint)
    command = ("quantize", source, "--calib", digits.calib, "--accuracy-budget", "2")
    assert run(*command).code == 1
    outcome = run(*command, "--scan")
    assert outcome.code == 0, outcome.err
    (options,) = re.findall(r"^Use ((?:--keep \S+ ?)+):", outcome.out, flags=re.MULTILINE)
    assert options.startswith("--keep layers.1.downsample.dconv")
    outcome = run(*command, *shlex.split(options))
    assert outcome.code == 0, outcome.err
    assert "PASS" in outcome.out


@needs_rtx
@pytest.mark.usefixtures("converted")
def test_an_engine(run: Run, digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """Really built; nobody measures how fast ONNX Runtime would be."""
    monkeypatch.setattr(gates, "measure_speed", None)
    outcome = run(
        "export", "--format", "trt", "--builder", "tensorrt_rtx", "--no-plugin", "--ckpt", digits.checkpoint,
        "--precision", "int8", "--calib", digits.calib, "--target", "8.9",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    sidecar = check_files(Path("digits.engine"))
    done = sidecar.manifest.quantization
    assert done is not None
    assert (sidecar.manifest.precision, done.base, done.agreement, done.speedup) == ("int8", "fp16", 1.0, None)
    text = " ".join(outcome.out.split())
    assert "speed was not measured: it is for an engine" in text
    assert "int8 against fp32" in text


# ------------------------------------------------------------------------------------- everything else on such a file


def test_the_other_commands_take_it(run: Run, digits: Digits, digits_int8: ExportResult) -> None:
    path, checkpoint = digits_int8.path, digits.checkpoint
    for options in ((), ("--layers",), ("--images", digits.held_out, "--limit", "32", "--no-library")):
        outcome = run("verify", path, "--ckpt", checkpoint, *options)
        assert outcome.code == 0, outcome.out + outcome.err
        assert "PASS  int8" in outcome.out
    told = json.loads(run("evaluate", path, "--ckpt", checkpoint, "--images", digits.held_out, "--json").out)
    accuracy = {score["label"]: score["top1"]["share"] for score in told["scores"]}
    assert accuracy.keys() == {"int8.onnx", "digits.pth"}
    assert accuracy["int8.onnx"] >= accuracy["digits.pth"] - 0.005 > 0.98
    pictures = sorted((digits.held_out / "3").iterdir())[:2]
    told = json.loads(run("predict", path, *pictures, "--json").out)
    assert [entry["classes"][0] for entry in told] == [3, 3]
    told = json.loads(run("inspect", path, "--json").out)
    assert (told["precision"], told["quantization"]["products"]) == ("int8", 19)
    assert told["nodes"]["QuantizeLinear"] < told["nodes"]["DequantizeLinear"], "weights are stored in 8 bits"
    table = run("inspect", path).out
    for word in ("quantization.images_sha256", "quantization.agreement", "quantization.products", "int8"):
        assert word in table, word
    outcome = run("bench", path, "--batch", "2", "--rounds", "1", "--threads", "1", "--json")
    assert outcome.code == 0, outcome.err
    assert any("int8" in measurement["label"] for measurement in json.loads(outcome.out)["measurements"])


# -------------------------------------------------------------------------------------------------------------- gates


@pytest.mark.usefixtures("damaged", "converted")
def test_a_failed_gate_exits_with_one(run: Run, digits: Digits) -> None:
    export = ("export", "--ckpt", digits.checkpoint, "--precision", "int8")
    for command in (export, ("quantize", export_of(digits.checkpoint))):
        outcome = run(*command, "--calib", digits.calib, "--accuracy-budget", "0", "--out", "a.onnx")
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err.count("\n") == 1
        assert re.match(r"error: nothing was written: top-1 differs from fp32 on \d+ of 48 images \(", outcome.err)
        assert os.listdir() == []
        outcome = run(*command, "--calib", digits.calib, "--accuracy-budget", "0", "--out", "a.onnx", "--force")
        assert (outcome.code, outcome.err) == (0, "")
        assert "FAIL  48 images of" in outcome.out
        assert re.search(r"top-1 differs +│ +\d+ of 48 \(\d+\.\d\d%\) │ +<= 0\.00% │", outcome.out)
        os.unlink("a.onnx")


@pytest.mark.usefixtures("converted")
def test_slower_than_fp32_exits_with_one(run: Run, digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "measure_speed", pretend(SLOWER))
    for precision, word in (("int8", "ms against"), ("fp8", "lit-deploy export --format trt")):
        outcome = run("export", "--ckpt", digits.checkpoint, "--precision", precision, "--calib", digits.calib)
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err.count("\n") == 1
        assert "it is 0.80x as fast as fp32 on ONNX Runtime here" in outcome.err
        assert word in outcome.err
        assert "--scan" not in outcome.err, "keeping modules makes nothing faster"
        assert os.listdir() == []


# ------------------------------------------------------------------------------------------------------- wrong inputs


@pytest.fixture(scope="module")
def places(
    checkpoint_file: CheckpointFile, photos: Path, digits_int8: ExportResult, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Good and bad arguments by name; ``{name}`` in the cases below stands for one of them."""
    folder = tmp_path_factory.mktemp("places")
    for name in ("empty", "one", "black", "unreadable"):
        (folder / name).mkdir()
    (folder / "one" / "a.png").write_bytes((photos / "0.png").read_bytes())
    for number in range(5):
        Image.new("RGB", (80, 70 + number)).save(folder / "black" / f"{number}.png")
        (folder / "unreadable" / f"{number}.jpg").write_text("no image")
    np.savez(folder / "small.npz", images=np.zeros((8, 32, 32, 3), np.uint8))
    (folder / "text.npz").write_text("no archive")
    identity = onnx.helper.make_node("Identity", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([identity], "foreign", values[:1], values[1:])
    onnx.save(onnx.helper.make_model(graph), str(folder / "foreign.onnx"))
    tiny = checkpoint_file("tiny")
    made = {path.name: path for path in folder.iterdir()}
    given = {"photos": photos, "ckpt": tiny, "onnx": export_of(tiny), "int8": digits_int8.path}
    paths = {**made, **given, "bf16": export_of(tiny, precision="bf16"), "none": folder / "none"}
    return {name: str(path) for name, path in paths.items()}


INT8 = "export --ckpt {ckpt} --precision int8"
WRONG = [
    (INT8, "int8 needs images to choose its ranges with; add --calib with a folder or an .npz"),
    (f"{INT8} --format trt", "int8 needs images to choose its ranges with"),
    ("export --ckpt {ckpt} --calib {photos}", "the precision is fp32, but calibration is for int8 and fp8; drop --cal"),
    ("export --ckpt {ckpt} --calib {photos} --precision fp16", "the precision is fp16"),
    ("export --ckpt {ckpt} --calib {photos} --precision bf16 --format trt", "the precision is bf16"),
    (
        "export --ckpt {ckpt} --keep layers.3",
        "--keep is for files of 8 bits; add --precision int8 (or fp8) and --calib",
    ),
    ("export --ckpt {ckpt} --force", "--force is for files of 8 bits"),
    ("export --ckpt {ckpt} --calib-method entropy", "--calib-method is for files of 8 bits"),
    (
        f"{INT8} --calib {{photos}} --calib-percentile 99",
        "--calib-percentile is for --calib-method percentile, not minmax",
    ),
    (f"{INT8} --calib {{photos}} --calib-method percentile --calib-percentile 50", "percentile is 50.0, expected"),
    (f"{INT8} --calib {{photos}} --calib-method percentile --calib-percentile 100.1", "percentile is 100.1"),
    (f"{INT8} --calib {{photos}} --calib-method percentile --calib-percentile nan", "percentile is nan"),
    (f"{INT8} --calib {{photos}} --keep layers.7", "nothing that could be quantised is named 'layers.7'; names are"),
    (f"{INT8} --calib {{photos}} --keep head", "nothing that could be quantised is named 'head'"),
    (f"{INT8} --calib {{photos}} --keep *", "everything is kept by *, so nothing is left to quantise"),
    (f"{INT8} --calib {{photos}} --keep layers.[01] --keep layers.2 --keep layers.3.*", "everything is kept by layers"),
    (f"{INT8} --calib {{photos}} --out absent/a.onnx", "the directory absent does not exist"),
    (f"{INT8} --calib {{photos}} --out {{ckpt}}", "expected a name that ends in .onnx"),
    (f"{INT8} --calib {{photos}} --calib-limit 3", "expected 4 to 4096; 128 are usual (--calib-limit)"),
    (f"{INT8} --calib {{empty}}", "holds no image"),
    (f"{INT8} --calib {{one}}", "gives 1 image for calibration; expected at least 4 different photos"),
    (f"{INT8} --calib {{black}}", "each of the 5 images of"),
    (f"{INT8} --calib {{unreadable}}", "none of the 5 images of"),
    (f"{INT8} --calib {{none}}", "none does not exist: expected a folder of images for calibration, or an .npz file"),
    (f"{INT8} --calib {{onnx}}", "is neither: expected a folder of images"),
    (f"{INT8} --calib {{small.npz}}", "holds uint8 [8, 32, 32, 3], expected uint8 [N, 64, 64, 3] of raw RGB"),
    (f"{INT8} --calib {{text.npz}}", "text.npz is damaged or no .npz file"),
    (
        "export --ckpt {onnx} --format trt --calib {photos}",
        "--calib is for checkpoints: an .onnx file is taken as it is",
    ),
    ("export --ckpt {onnx} --format trt --precision int8 --calib {photos}", "--calib is for checkpoints"),
    ("export --ckpt {onnx} --format trt --precision int8", "--precision is decided already in tiny.onnx"),
    ("quantize {int8} --calib {photos}", "is of int8; expected a file of fp32 or fp16, so export it again"),
    ("quantize {bf16} --calib {photos} --precision fp8", "is of bf16; expected a file of fp32 or fp16"),
    ("quantize {int8} --calib {photos} --scan", "is of int8; expected a file of fp32 or fp16"),
    ("quantize {foreign.onnx} --calib {photos}", "foreign.onnx holds no lit-deploy manifest"),
    (
        "quantize {ckpt} --calib {photos}",
        "quantise a checkpoint with lit-deploy export --precision int8 --calib instead",
    ),
    ("quantize {none}.onnx --calib {photos}", "none.onnx is not a file"),
    ("quantize {onnx} --calib {photos} --out {onnx}", "is the source itself; choose another name with --out"),
    ("quantize {onnx} --calib {photos} --out a.engine", "the output is a.engine, expected a name that ends in .onnx"),
    ("quantize {onnx} --calib {photos} --scan --out a.onnx", "--scan writes no file; drop --out"),
    ("quantize {onnx} --calib {photos} --scan --force", "--scan writes no file; drop --force"),
    ("quantize {onnx} --calib {photos} --scan --keep *", "everything is kept by *, so nothing is left to quantise"),
    ("quantize {onnx} --calib {photos} --keep *", "everything is kept by *"),
    ("quantize {onnx} --calib {black}", "is of one colour"),
    ("quantize {onnx} --calib {one} --scan", "gives 1 image for calibration"),
]


@pytest.mark.parametrize(("command", "word"), WRONG, ids=[command for command, _ in WRONG])
@pytest.mark.usefixtures("converted")
def test_wrong_inputs(command: str, word: str, run: Run, places: dict[str, str]) -> None:
    """Exit code 2 and exactly one sentence, which names the culprit; nothing is written."""
    before = Path(places["onnx"]).read_bytes()
    assert_one_sentence(run(*(filled(argument, places) for argument in command.split())), word)
    assert os.listdir() == []
    assert Path(places["onnx"]).read_bytes() == before


def filled(argument: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        argument = argument.replace(f"{{{name}}}", value)
    return argument


@pytest.mark.parametrize(
    "options",
    [
        "--calib-limit 0",
        "--accuracy-budget 200",
        "--accuracy-budget -1",
        "--accuracy-budget nan",
        "--calib-method mean",
    ],
)
@pytest.mark.parametrize("command", ["export --precision int8 --ckpt", "quantize"])
def test_usage_errors(command: str, options: str, run: Run, photos: Path) -> None:
    """What the option parser refuses itself: exit code 2, the option's name, and no traceback."""
    outcome = run(*command.split(), "absent.onnx", "--calib", photos, *options.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert options.split()[0] in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.usefixtures("converted")
def test_without_onnx_runtime(
    run: Run, checkpoint_file: CheckpointFile, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before anything is converted, and with the command that mends it."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    tiny = checkpoint_file("tiny")
    for command in (
        ("export", "--ckpt", tiny, "--precision", "int8", "--no-verify"),
        ("quantize", export_of(tiny)),
        ("quantize", export_of(tiny), "--scan"),
    ):
        assert_one_sentence(run(*command, "--calib", photos), "ONNX Runtime", "pip install 'lit-deploy[ort]'")
        assert os.listdir() == []


# --------------------------------------------------------------------------------------------------------- interrupts


STOPPED = """
import sys, time
from pathlib import Path
from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.cli import main
from lit_deploy.quantize import run as quantize
from lit_deploy.workflows import export
source = sys.argv.pop(1)
export.onnx_from_checkpoint = lambda *rest: OnnxArtifact.read(Path(source))
class Ranges(quantize.Ranges):
    batches = 0
    def add(self, values):
        super().add(values)
        self.batches += 1
        if self.batches == 2:
            print("reached", flush=True)
            time.sleep(600)
quantize.Ranges = Ranges
main()
"""


def test_a_terminated_export_leaves_nothing(checkpoint_file: CheckpointFile, photos: Path, tmp_path: Path) -> None:
    """In the middle of the calibration: neither beside the output nor in the folder for temporary files."""
    work, scratch = tmp_path / "work", tmp_path / "scratch"
    work.mkdir()
    scratch.mkdir()
    tiny = checkpoint_file("tiny")
    environment = {**os.environ, "PYTHONPATH": str(Path(lit_deploy.__file__).parents[1]), "TMPDIR": str(scratch)}
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(export_of(tiny)), "export", "--ckpt", str(tiny), "--precision", "int8",
         "--calib", str(photos)],
        cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "reached\n"
    assert (len(os.listdir(work)), len(ours(scratch))) == (1, 0), "what is there meanwhile"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in err
    assert os.listdir(work) == []
    assert ours(scratch) == []


def ours(scratch: Path) -> list[str]:
    """Of what lies in a folder for temporary files, where other libraries keep theirs."""
    return [name for name in os.listdir(scratch) if name.startswith("lit-deploy")]
