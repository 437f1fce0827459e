"""Sections of the GPU suite about whole networks: ONNX Runtime, TensorRT engines, and the tests that need a GPU."""

from __future__ import annotations

import json
import statistics
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from gpu_suite import ROOT, Section, SectionFailed, Skip, Suite, Values, last_lines, need

from lit_deploy import native

CLI = (sys.executable, "-c", "from lit_deploy.cli import main; main()")
PACKAGE_NEEDS = ("msgspec", "numpy", "onnx", "onnxscript", "pillow", "rich", "safetensors", "torch", "typer")
BATCHES = "1,8,64"
SAME_ARITHMETIC = {"NVIDIA_TF32_OVERRIDE": "0"}
"""Float32 is float32 for everybody; ONNX Runtime would round its products' inputs to TensorFloat-32 otherwise."""


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
    values: Values = {"onnxruntime": ort.__version__}
    ways = {"function": "--no-library", "kernel": "--library"}
    library = suite.find_built(native.LIBRARY_NAME)
    if library is None or not native.has_cuda_kernel(library):
        del ways["kernel"]
        values["kernel"] = (
            f"not measured: {library or native.LIBRARY_NAME} was built without the CUDA kernel, or not at all"
        )
    checkpoint = seeded_checkpoint(suite)
    files, failures = [], []
    for precision in ("fp32", "fp16"):
        path = suite.work / f"lit_s_{precision}.onnx"
        command = ["export", "--ckpt", checkpoint, "--precision", precision, "--no-verify", "--out", path]
        suite.run_well([*CLI, *command], 120)
        files.append(path)
        for way, option in ways.items():
            name = f"verify {precision} {way}"
            values[name], failure = verified(suite, path, checkpoint, option)
            failures += [f"{name}: {failure}"] if failure else []
    values |= benched(suite, files, checkpoint)
    if failures:
        raise SectionFailed("; ".join(failures), values)
    return values


def engine(suite: Suite) -> Values:
    """LIT-S in fp16 as an engine: built, compared with PyTorch, measured."""
    need(*PACKAGE_NEEDS)
    backend = engine_backend(suite.gpu.compute_capability)
    checkpoint = seeded_checkpoint(suite)
    path = suite.work / "lit_s_fp16.engine"
    command = ["export", "--ckpt", checkpoint, "--format", "trt", "--precision", "fp16", "--batch", "1:8:64"]
    suite.run_well([*CLI, *command, "--no-verify", "--out", path], 300, SAME_ARITHMETIC)
    values: Values = {"backend": backend, "engine_bytes": path.stat().st_size}
    values["plugin"] = "built" if suite.find_built(native.PLUGIN_NAME) else "not built: the portable function was used"
    values["verify"], failure = verified(suite, path, checkpoint)
    values |= benched(suite, [path], checkpoint)
    if failure:
        raise SectionFailed(failure, values)
    return values


def engine_backend(compute_capability: str) -> str:
    """The TensorRT that can build and run an engine on a GPU of that compute capability; Skip, by name, if none."""
    from lit_deploy import trt
    from lit_deploy.exporters.tensorrt import RTX_TARGETS

    if trt.installed_version("tensorrt") is not None:
        return "tensorrt"
    if trt.installed_version("tensorrt_rtx") is None:
        raise Skip("neither `tensorrt` nor `tensorrt_rtx` is importable")
    if compute_capability not in RTX_TARGETS:
        raise Skip(
            f"`tensorrt` is not importable, and TensorRT-RTX does not target compute capability {compute_capability} "
            f"(only {', '.join(RTX_TARGETS)})"
        )
    return "tensorrt_rtx"


def seeded_checkpoint(suite: Suite) -> Path:
    """LIT-S with seeded weights, written once per run."""
    path = suite.work / "lit_s.pth"
    if not path.exists():
        suite.run_well([sys.executable, "-m", "lit_deploy.seeded", "lit_s", path], 60)
    return path


def verified(suite: Suite, path: Path, checkpoint: Path, *options: str) -> tuple[Values, str]:
    """Compare a file with PyTorch on the GPU: the report's metrics, and why it failed (empty if it passed)."""
    report = suite.work / "verify.json"
    report.unlink(missing_ok=True)
    command = [*CLI, "verify", path, "--ckpt", checkpoint, "--device", suite.device, "--json", *options]
    code, output = suite.run(command, 120, SAME_ARITHMETIC, stdout=report)
    if code not in (0, 1):
        return {}, f"verify ended with exit code {code} ({last_lines(output, 1)})"
    values = json.loads(report.read_text())
    kept = ("tested", "precision", "tolerance", "output", "top1", "top5", "verdict", "reasons")
    return {name: values[name] for name in kept}, "; ".join(values["reasons"]) if code else ""


def benched(suite: Suite, files: list[Path], checkpoint: Path) -> Values:
    """Measure files beside PyTorch: the benchmark's report, and every ratio to PyTorch eager."""
    report = suite.work / "bench.json"
    report.unlink(missing_ok=True)
    rounds = "3" if suite.quick else "8"
    command = [*CLI, "bench", *files, "--ckpt", checkpoint, "--device", suite.device, "--json"]
    code, output = suite.run([*command, "--batch", BATCHES, "--rounds", rounds], 240, SAME_ARITHMETIC, stdout=report)
    if code != 0:
        raise SectionFailed(f"bench ended with exit code {code} ({last_lines(output, 1)})")
    values = json.loads(report.read_text())
    return {"bench": values, "over_pytorch_eager": over_pytorch(values)}


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
    Section("onnxruntime", "LIT-S on ONNX Runtime's CUDA provider", onnxruntime, 90),
    Section("engine", "LIT-S as a TensorRT engine", engine, 90),
    Section("pytest", "the tests marked gpu", tests, 30),
)
