"""The GPU suite where there is no GPU: what it reports, what it skips, and that failures stay failures."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from exported import export_of

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

gpu, gpu_suite, kernel_sections, network_sections = (
    importlib.import_module(name) for name in ("gpu", "gpu_suite", "gpu_kernel_sections", "gpu_network_sections")
)
Section, Skip, SectionFailed, Suite = (
    getattr(gpu_suite, name) for name in ("Section", "Skip", "SectionFailed", "Suite")
)
DEVICE = gpu_suite.Gpu("NVIDIA H200", "143771 MiB", "580.1", "9.0")


@pytest.fixture
def suite(tmp_path: Path) -> Any:
    """A suite whose folder of built libraries is empty."""
    for name in ("native", "work"):
        (tmp_path / name).mkdir()
    return Suite(DEVICE, tmp_path / "native", True, tmp_path / "work")


def program(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def modified(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


# --- the command ------------------------------------------------------------------------------------------------------


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    before = modified(ROOT / "benchmarks" / "results")
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py"]
    environment = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "no NVIDIA GPU here" in result.stderr
    assert modified(ROOT / "benchmarks" / "results") == before
    assert not list(tmp_path.iterdir())


def test_the_gpu_is_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(
        tmp_path / "nvidia-smi", 'echo "NVIDIA H200, 143771 MiB, 580.1, 9.0"; echo "NVIDIA H200, 1 MiB, 580.1, 9.0"'
    )
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = gpu.find_gpu()
    assert found == DEVICE
    assert (found.slug, found.architecture) == ("nvidia_h200", "90")
    assert gpu.results_file(found).name == "gpu_nvidia_h200.json"


def failing(_: Any) -> dict[str, Any]:
    raise SectionFailed("two cases are wrong", {"error": float("nan"), "limit": 5e-6})


def crashing(_: Any) -> dict[str, Any]:
    raise ZeroDivisionError("division by nothing\nsecond line")


def skipping(_: Any) -> dict[str, Any]:
    raise Skip("no such package")


def working(_: Any) -> dict[str, Any]:
    return {"value": 1.5}


FAKES = {
    function.__name__: Section(function.__name__, "does as it says", function)
    for function in (working, failing, crashing, skipping)
}


def run_suite(monkeypatch: pytest.MonkeyPatch, output: Path, names: tuple[str, ...], *arguments: str) -> int:
    monkeypatch.setattr(gpu, "find_gpu", lambda: DEVICE)
    sections = (Section("machine", "the machine", gpu.machine), *(FAKES[name] for name in names))
    return gpu.main(["--output", str(output), "--native", str(output.parent), *arguments], sections)


def test_a_failure_is_recorded_and_the_suite_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "new" / "report.json"
    output.parent.mkdir()
    assert run_suite(monkeypatch, output, ("failing", "crashing", "skipping", "working")) == 1
    report = json.loads(output.read_text())
    assert report["gpu"] == "NVIDIA H200"
    assert report["failed"] == ["failing", "crashing"]
    assert report["skipped"] == ["skipping"]
    machine, failed, crashed, skipped, worked = report["sections"]
    assert machine["values"]["gpu"]["driver"] == "580.1"
    assert machine["values"]["packages"]["torch"] == torch.__version__
    assert set(worked) == {"name", "what", "status", "reason", "seconds", "values"}
    assert (failed["status"], failed["reason"]) == ("failed", "two cases are wrong")
    assert failed["values"] == {"error": None, "limit": 5e-6}, "JSON has no NaN"
    assert (crashed["status"], crashed["reason"]) == ("failed", "ZeroDivisionError: division by nothing")
    assert (skipped["status"], skipped["reason"]) == ("skipped", "no such package")
    assert (worked["status"], worked["reason"], worked["values"]) == ("run", None, {"value": 1.5})
    assert [path.name for path in output.parent.iterdir()] == ["report.json"]


def test_a_skip_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_suite(monkeypatch, tmp_path / "report.json", ("skipping", "working")) == 0


def test_only_runs_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "report.json"
    assert run_suite(monkeypatch, output, ("failing", "working"), "--only", "working") == 0
    assert [section["name"] for section in json.loads(output.read_text())["sections"]] == ["machine", "working"]


def test_a_partial_run_is_not_kept_as_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_gpu", lambda: DEVICE)
    monkeypatch.setattr(gpu, "BUILD_FOLDER", tmp_path)
    monkeypatch.setattr(gpu, "results_file", lambda device: tmp_path / "whole.json")
    for arguments in (["--only", "working"], ["--quick"]):
        assert gpu.main(arguments, (FAKES["working"],)) == 0
        assert [path.name for path in tmp_path.iterdir()] == ["gpu_nvidia_h200_partial.json"]
    assert gpu.main([], (FAKES["working"],)) == 0
    assert (tmp_path / "whole.json").is_file()


def test_a_spent_budget_skips_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "report.json"
    assert run_suite(monkeypatch, output, ("working",), "--seconds", "0") == 0
    (working_section,) = json.loads(output.read_text())["sections"][1:]
    assert working_section["status"] == "skipped"
    assert "--only working" in working_section["reason"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--only", "parity,bandwith"],
            "'bandwith', which is no section; expected some of parity, bandwidth, sanitizer",
        ),
        (["--native", "/no/such/folder"], "/no/such/folder, which is no folder"),
    ],
)
def test_usage_errors(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        gpu.main(arguments)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


# --- programs that sections run ---------------------------------------------------------------------------------------


def test_a_program_that_hangs_is_ended_with_all_it_started(suite: Any, tmp_path: Path) -> None:
    with pytest.raises(SectionFailed, match="sh was not done within 1 s"):
        suite.run(["/bin/sh", "-c", f"sleep 60 & echo $! > {tmp_path}/child; wait"], 1)
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    end = time.monotonic() + 5
    while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < end:
        time.sleep(0.05)
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_the_exit_code_and_the_last_words_of_a_program(suite: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SectionFailed, match=r"exit code 3 \(no luck\)"):
        suite.run_well(["/bin/sh", "-c", "echo trying; echo 'no luck' >&2; exit 3"], 10)
    assert "trying\nno luck" in capfd.readouterr().out
    with pytest.raises(Skip, match=r"^enqueue: no device$"):
        suite.run_well(["/bin/sh", "-c", "echo 'SKIPPED: enqueue: no device'"], 10)


def test_programs_use_this_checkout_and_the_built_libraries(suite: Any) -> None:
    script = "import lit_deploy, os; print(lit_deploy.__file__, os.environ.get('LIT_DEPLOY_LIBRARY'))"
    inside = suite.native / "onnxruntime"
    inside.mkdir()
    library = inside / "liblit_deploy_onnxruntime.so"
    library.touch()
    output = suite.run_well([sys.executable, "-c", script], 30)
    assert output.split() == [str(ROOT / "lit_deploy" / "__init__.py"), str(library)]


@pytest.mark.parametrize("name", ["parity", "bandwidth", "sanitizer", "harness"])
def test_sections_skip_what_was_not_built(suite: Any, name: str) -> None:
    (section,) = (section for section in gpu.SECTIONS if section.name == name)
    outcome = gpu_suite.run_section(section, suite)
    assert outcome.status == "skipped"
    assert "it was not built" in outcome.reason


def test_build_skips_what_is_missing(suite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Skip, match="--native names built libraries"):
        kernel_sections.build(suite)
    suite.given = False
    monkeypatch.setattr(kernel_sections, "find_tool", lambda name: None if name == "nvcc" else name)
    with pytest.raises(Skip, match="not found: nvcc"):
        kernel_sections.build(suite)


def test_build_failure_shows_the_log(
    suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cmake = program(tmp_path / "cmake", 'echo "$@"; echo "nvcc fatal: unsupported"; exit 1')
    monkeypatch.setattr(kernel_sections, "find_tool", lambda name: str(cmake))
    suite.given = False
    with pytest.raises(SectionFailed, match=r"cmake ended with exit code 1 \(nvcc fatal: unsupported\)"):
        kernel_sections.build(suite)
    assert "-DCMAKE_CUDA_ARCHITECTURES=90" in capfd.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_parity_and_bandwidth_without_a_device(suite: Any) -> None:
    (suite.native / kernel_sections.LAUNCHER).touch()
    for section in (kernel_sections.parity, kernel_sections.bandwidth):
        with pytest.raises(Skip, match="sees no CUDA device"):
            section(suite)


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ('echo "ERROR SUMMARY: 0 errors"', "run", None),
        ('echo "ERROR SUMMARY: 2 errors"; exit 66', "failed", "memcheck ended with exit code 66"),
        ('echo "Error: Device not supported"; exit 1', "skipped", "not supported"),
    ],
)
def test_sanitizer(
    suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, status: str, words: str | None
) -> None:
    (suite.native / kernel_sections.LAUNCHER).touch()
    tool = program(tmp_path / "compute-sanitizer", text)
    monkeypatch.setattr(kernel_sections, "find_tool", lambda name: str(tool))
    outcome = gpu_suite.run_section(Section("sanitizer", "", kernel_sections.sanitizer), suite)
    assert outcome.status == status
    assert outcome.reason is None if words is None else words in outcome.reason
    if status == "run":
        assert set(outcome.values["checks"]) == {"memcheck", "racecheck", "synccheck"}


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ('test -s "$2" && basename "$1"', "run"),
        ('echo "SKIPPED: enqueue (no CUDA device)"', "skipped"),
        ('echo "1 of 33 cases failed"; exit 1', "failed"),
    ],
)
def test_harness(suite: Any, text: str, status: str) -> None:
    """It is handed the plugin and the golden cases."""
    (suite.native / "liblit_deploy_tensorrt.so").touch()
    program(suite.native / kernel_sections.HARNESS, text)
    outcome = gpu_suite.run_section(Section("harness", "", kernel_sections.harness), suite)
    assert outcome.status == status, outcome
    if status == "run":
        assert outcome.values["output"] == ["liblit_deploy_tensorrt.so"]


def test_build_tells_what_it_left_out(suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "  The TensorRT plugin is NOT built: no headers (10.0 or newer; pip\\n  packages carry none).  To get them: ..."
    )
    cmake = program(tmp_path / "cmake", f"printf '{text}\\n'; touch {suite.native}/{kernel_sections.LAUNCHER}")
    monkeypatch.setattr(kernel_sections, "find_tool", lambda name: str(cmake))
    suite.given = False
    values = kernel_sections.build(suite)
    sentence = "The TensorRT plugin is NOT built: no headers (10.0 or newer; pip packages carry none)."
    assert values["left_out"] == [sentence]
    assert values["built"][kernel_sections.LAUNCHER] == kernel_sections.LAUNCHER
    (suite.native / kernel_sections.LAUNCHER).unlink()
    program(tmp_path / "cmake", "true")
    with pytest.raises(SectionFailed, match=r"made no liblit_deploy_cuda\.so"):
        kernel_sections.build(suite)


def test_a_missing_package_is_named() -> None:
    with pytest.raises(Skip, match=r"^not installed: no-such-package$"):
        gpu_suite.need("torch", "no-such-package")


# --- networks ---------------------------------------------------------------------------------------------------------


def test_speed_ups_over_every_pytorch_baseline() -> None:
    def measurement(label: str, kind: str, precision: str, batch: int, *round_ms: float) -> dict[str, Any]:
        return {"label": label, "kind": kind, "precision": precision, "batch": batch, "round_ms": list(round_ms)}

    report = {
        "measurements": [
            measurement("eager", "torch", "fp32", 1, 8, 80, 8),
            measurement("eager half", "torch", "fp16", 1, 4, 40, 4),
            measurement("compiled", "torch.compile", "fp32", 1, 6, 60, 6),
            measurement("ort", "onnxruntime", "fp16", 1, 2, 20, 2),
            measurement("ort", "onnxruntime", "fp16", 8, 2, 2, 2),
        ]
    }
    rows = {(row["contender"], row["baseline"]): row["speedup"] for row in network_sections.over_pytorch(report)}
    assert rows["ort", "eager, fp32"] == 4
    assert rows["ort", "eager half, fp16"] == 2
    assert ("ort", "compiled, fp32") not in rows
    assert len(rows) == 6, "batch 8 has no baseline"


@pytest.mark.parametrize(
    ("installed", "capability", "words"),
    [
        ((), "9.0", "neither `tensorrt` nor `tensorrt_rtx`"),
        (("tensorrt_rtx",), "9.0", "does not target compute capability 9.0"),
        (("tensorrt_rtx",), "8.9", None),
        (("tensorrt", "tensorrt_rtx"), "9.0", None),
    ],
)
def test_which_tensorrt_serves_which_gpu(
    monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], capability: str, words: str | None
) -> None:
    trt: ModuleType = importlib.import_module("lit_deploy.trt")
    monkeypatch.setattr(trt, "installed_version", lambda name: "11.0" if name in installed else None)
    if words is None:
        assert network_sections.engine_backend(capability) == installed[0]
        return
    with pytest.raises(Skip, match=words):
        network_sections.engine_backend(capability)


def test_a_file_is_verified_and_measured(
    suite: Any, checkpoint_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a section does with each file, on the CPU; the reports hold what the section reads of them."""
    monkeypatch.setattr(network_sections, "BATCHES", "2")
    suite.device, suite.quick = "cpu", True
    checkpoint = checkpoint_file("tiny")
    path = export_of(checkpoint)
    values, failure = network_sections.verified(suite, path, checkpoint, "--no-library")
    assert failure == ""
    assert values["verdict"] == "pass"
    assert values["output"]["relative"] < values["tolerance"]["relative"]
    missing = suite.work / "missing.onnx"
    assert "verify ended with exit code 2 (error: " in network_sections.verified(suite, missing, checkpoint)[1]
    rows = network_sections.benched(suite, [path], checkpoint)["over_pytorch_eager"]
    assert {row["batch"] for row in rows} == {2}
    assert {row["precision"] for row in rows} >= {"fp32"}
    assert all(row["speedup"] > 0 for row in rows)


def test_onnxruntime_without_its_cuda_provider(suite: Any) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    with pytest.raises(Skip, match=r"has no CUDAExecutionProvider, only .*CPUExecutionProvider"):
        network_sections.onnxruntime(suite)


def test_counts_of_a_test_run(suite: Any, tmp_path: Path) -> None:
    module = tmp_path / "test_three.py"
    module.write_text(
        "import pytest\ndef test_good(): pass\ndef test_bad(): assert 0\ndef test_not(): pytest.skip('no device')\n"
    )
    results = tmp_path / "results.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={results}", module]
    code, _ = suite.run(command, 60)
    counts = network_sections.test_counts(results)
    assert code == 1
    assert counts["passed"] == 1
    assert [name.split("::")[1] for name in counts["failed"]] == ["test_bad"]
    assert list(counts["skipped"].values()) == ["no device"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_marked_tests_that_were_all_skipped_are_no_pass(suite: Any) -> None:
    with pytest.raises(Skip, match=r"every test was skipped: .*GPU"):
        network_sections.tests(suite)
