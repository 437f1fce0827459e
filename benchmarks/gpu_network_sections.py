"""Sections of the GPU suite about whole networks on PyTorch and ONNX Runtime, and the tests that need a GPU."""

from __future__ import annotations

import json
import statistics
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from gpu_suite import ROOT, Section, SectionFailed, Skip, Suite, Values, last_lines, need

from lit_deploy.machine import native

CLI = (sys.executable, "-c", "from lit_deploy.cli import main; main()")
PACKAGE_NEEDS = ("msgspec", "numpy", "onnx", "onnxscript", "pillow", "rich", "safetensors", "torch", "typer")
BATCHES = "1,8,64"
PREDICTED_APART = 0.05
"""Largest difference of a predicted probability to PyTorch's, of PyTorch's largest; float16 logits are off by less."""


def pytorch(suite: Suite) -> Values:
    """LIT-S in float32 on CUDA against the same on the CPU, layer by layer."""
    need(*PACKAGE_NEEDS)
    checkpoint = seeded_checkpoint(suite)
    suite.values["verify"], failure = verified(suite, checkpoint, checkpoint, "--layers")
    if "PyTorch sees no CUDA device" in failure:
        raise Skip(failure)
    suite.gate("verify", failure)
    suite.values["predict"], failure = predicted(suite, checkpoint, checkpoint)
    suite.gate("predict", failure)
    return {}


def onnxruntime(suite: Suite) -> Values:
    """LIT-S on ONNX Runtime's CUDA provider, with our kernel and with the function inside the file."""
    need(*PACKAGE_NEEDS)
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise Skip(f"onnxruntime does not import ({error}); install onnxruntime-gpu") from None
    providers = ort.get_available_providers()
    if "CUDAExecutionProvider" not in providers:
        raise Skip(f"onnxruntime {ort.__version__} has no CUDAExecutionProvider, only {', '.join(providers)}")
    values = suite.values
    values["onnxruntime"] = ort.__version__
    ways = {"function": "--no-library", "kernel": "--library"}
    library = suite.find_built(native.LIBRARY_NAME)
    if library is None or not native.has_cuda_kernel(library):
        del ways["kernel"]
        values["kernel"] = (
            f"not measured: {library or native.LIBRARY_NAME} was built without the CUDA kernel, or not at all"
        )
    checkpoint = seeded_checkpoint(suite)
    files = []
    for precision in ("fp32", "fp16"):
        path = suite.work / f"lit_s_{precision}.onnx"
        command = ["export", "--ckpt", checkpoint, "--precision", precision, "--no-verify", "--out", path]
        suite.run_well([*CLI, *command], 120)
        files.append(path)
        for way, option in ways.items():
            name = f"verify {precision} {way}"
            values[name], failure = verified(suite, path, checkpoint, option)
            if "could not start CUDAExecutionProvider" in failure:
                raise Skip(failure)
            suite.gate(name, failure)
    values["predict"], failure = predicted(suite, files[0], checkpoint)
    suite.gate("predict", failure)
    measured, failure = benched(suite, files, checkpoint, all_must_run="kernel" in ways)
    suite.gate("bench", failure)
    return measured


def seeded_checkpoint(suite: Suite, name: str = "lit_s") -> Path:
    """An official network with seeded weights, written once per run."""
    path = suite.work / f"{name}.pth"
    if not path.exists():
        suite.run_well([sys.executable, "-m", "lit_deploy.checkpoints.seeded", name, path], 60)
    return path


def verified(suite: Suite, path: Path, checkpoint: Path, *options: str) -> tuple[Values, str]:
    """Compare a file with PyTorch on the GPU: the report's metrics, and why it failed (empty if it passed)."""
    report = suite.work / "verify.json"
    report.unlink(missing_ok=True)
    command = [*CLI, "verify", path, "--ckpt", checkpoint, "--device", suite.device, "--json", *options]
    code, output = suite.run(command, 120, stdout=report)
    if code not in (0, 1):
        return {}, f"verify ended with exit code {code} ({last_lines(output, 1)})"
    values = json.loads(report.read_text())
    kept = {name: value for name, value in values.items() if name not in ("artifact", "reference", "source")}
    return kept, "; ".join(values["reasons"]) if code else ""


def predicted(suite: Suite, path: Path, checkpoint: Path, *options: str) -> tuple[Values, str]:
    """Classify a seeded image on the GPU, and with PyTorch on the CPU: the best classes, and why it failed."""
    from PIL import Image

    from lit_deploy.checkpoints.seeded import DEFAULT_SEED, synthetic_image

    image, report = suite.work / "image.png", suite.work / "predict.json"
    Image.fromarray(synthetic_image(DEFAULT_SEED, "gpu", 240, 320)).save(image)
    answers = []
    runs = ((path, "5", ("--device", suite.device, *options)), (checkpoint, "1000", ("--device", "cpu")))
    for source, top, how in runs:
        report.unlink(missing_ok=True)
        code, output = suite.run([*CLI, "predict", source, image, "--json", "--top", top, *how], 120, stdout=report)
        if code != 0:
            return {}, f"predict ended with exit code {code} ({last_lines(output, 1)})"
        (answer,) = json.loads(report.read_text())
        answers.append(answer)
    got, want = answers
    expected = dict(zip(want["classes"], want["probabilities"], strict=True))
    rows = [
        {"class": label, "probability": probability, "pytorch": expected[index]}
        for index, label, probability in zip(got["classes"], got["labels"], got["probabilities"], strict=True)
    ]
    apart = max(abs(row["probability"] - row["pytorch"]) for row in rows) / max(expected.values())
    failure = f"predicted probabilities are {apart:.1%} apart from PyTorch's" if apart > PREDICTED_APART else ""
    return {"classes": rows, "apart": apart}, failure


def benched(suite: Suite, files: list[Path], checkpoint: Path, all_must_run: bool = True) -> tuple[Values, str]:
    """Measure files beside PyTorch: the benchmark's report, and every ratio to PyTorch eager; and why it failed.

    Args:
        all_must_run: False where it is known that something the files could run on is not there.
    """
    report = suite.work / "bench.json"
    report.unlink(missing_ok=True)
    rounds = "3" if suite.quick else "8"
    command = [*CLI, "bench", *files, "--ckpt", checkpoint, "--device", suite.device, "--json"]
    code, output = suite.run([*command, "--batch", BATCHES, "--rounds", rounds], 240, stdout=report)
    if code != 0:
        return {}, f"bench ended with exit code {code} ({last_lines(output, 1)})"
    values = json.loads(report.read_text())
    wrong = [
        f"left out {each['label']}: {each['reason']}"
        for each in values["exclusions"]
        if all_must_run or each["batch"] is not None  # with a batch size, its outputs were refused
    ]
    return {"bench": values, "over_pytorch_eager": over_pytorch(values)}, "; ".join(wrong)


def over_pytorch(report: Values) -> list[Values]:
    """Speed-ups over PyTorch eager of the same batch, for every precision it was measured in.

    Args:
        report: a ``BenchReport`` as JSON; ratios are taken round by round, and their median is given.
    """
    measurements: list[dict[str, Any]] = report["measurements"]
    baselines = [m for m in measurements if m["kind"].startswith("torch") and "compile" not in m["kind"]]
    return [
        {
            "contender": m["label"],
            "precision": m["precision"],
            "batch": m["batch"],
            "baseline": f"{baseline['label']}, {baseline['precision']}",
            "speedup": round(
                statistics.median(b / own for b, own in zip(baseline["round_ms"], m["round_ms"], strict=True)), 3
            ),
        }
        for m in measurements
        for baseline in baselines
        if baseline["batch"] == m["batch"] and baseline is not m
    ]


def tests(suite: Suite) -> Values:
    """The tests that are marked ``gpu``."""
    need("pytest", *PACKAGE_NEEDS)
    # Only files with such tests: collecting the others would need every package that they need.
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    results = suite.work / "pytest.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={results}"]
    code, output = suite.run([*command, *files], 240)
    print(last_lines(output), flush=True)
    if not results.exists():
        raise SectionFailed(f"pytest ended with exit code {code} ({last_lines(output, 1)})")
    values = test_counts(results)
    if code != 0 or values["failed"]:
        raise SectionFailed(f"pytest ended with exit code {code}: {', '.join(values['failed']) or 'no test'}", values)
    if values["passed"] == 0:
        raise Skip(f"every test was skipped: {'; '.join(sorted(set(values['skipped'].values())))}")
    return values


def test_counts(results: Path) -> Values:
    """How many tests passed, which failed, and which were skipped and why, from a JUnit XML file."""
    passed, failed, skipped = 0, [], {}
    for case in ElementTree.parse(results).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        reason = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif reason is not None:
            skipped[name] = reason.get("message", "")
        else:
            passed += 1
    return {"passed": passed, "failed": failed, "skipped": skipped}


SECTIONS = (
    Section("pytorch", "LIT-S on PyTorch for CUDA", pytorch, 30),
    Section("onnxruntime", "LIT-S on ONNX Runtime's CUDA provider", onnxruntime, 90),
)
TESTS = Section("pytest", "the tests marked gpu", tests, 30)
