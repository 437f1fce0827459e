"""Sections of the GPU suite about the kernel, with stand-ins for the programs that they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpu_modules import Section, SectionFailed, Skip, gpu, gpu_suite, kernel_sections, make_suite, program


@pytest.fixture
def suite(tmp_path: Path) -> Any:
    return make_suite(tmp_path)


@pytest.mark.parametrize("name", ["parity", "bandwidth", "operators", "sanitizer", "harness"])
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
    with pytest.raises(Skip, match=r"not found: nvcc \("):
        kernel_sections.build(suite)
    monkeypatch.setattr(kernel_sections, "find_tool", lambda name: None if name in ("make", "ninja") else name)
    monkeypatch.setattr(kernel_sections, "cpp_compiler", lambda: None)
    with pytest.raises(Skip, match=r"not found: a C\+\+ compiler, ninja or make"):
        kernel_sections.build(suite)


def test_build_failure_shows_the_log(
    suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cmake = program(tmp_path / "cmake", 'echo "$@"; echo "nvcc fatal: unsupported"; exit 1')
    monkeypatch.setattr(kernel_sections, "find_tool", lambda name: str(cmake))
    suite.given = False
    with pytest.raises(SectionFailed, match=r"cmake ended with exit code 1 \(nvcc fatal: unsupported\)"):
        kernel_sections.build(suite)
    out = capfd.readouterr().out
    assert "-DCMAKE_CUDA_ARCHITECTURES=90" in out
    assert f"-G Ninja -DCMAKE_MAKE_PROGRAM={cmake}" in out
    (suite.native / "CMakeCache.txt").touch()
    with pytest.raises(SectionFailed):
        kernel_sections.build(suite)
    assert "-G" not in capfd.readouterr().out.split(), "CMake refuses to change the generator of an earlier run"


def test_build_does_without_a_download(suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = suite.native / kernel_sections.LAUNCHER
    text = f'echo "$@" >> {tmp_path}/calls; case "$*" in *HEADERS=ON*) exit 1;; *HEADERS=OFF*) touch {launcher};; esac'
    cmake = program(tmp_path / "cmake", text)
    monkeypatch.setattr(kernel_sections, "find_tool", lambda name: str(cmake))
    suite.given = False
    for installed, configured in ((None, ["OFF"]), ("1.25", ["ON", "OFF"])):
        monkeypatch.setattr(kernel_sections, "installed_version", lambda name, version=installed: version)
        assert kernel_sections.build(suite)["built"][kernel_sections.LAUNCHER]
        calls = [line for line in (tmp_path / "calls").read_text().splitlines() if "HEADERS" in line]
        assert [call.rsplit("HEADERS=")[-1] for call in calls] == configured
        (tmp_path / "calls").unlink()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_measurements_without_a_device(suite: Any) -> None:
    (suite.native / kernel_sections.LAUNCHER).touch()
    for section in (kernel_sections.parity, kernel_sections.bandwidth, kernel_sections.operators):
        with pytest.raises(Skip, match="sees no CUDA device"):
            section(suite)


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ('echo "ERROR SUMMARY: 0 errors"', "run", None),
        ('echo "ERROR SUMMARY: 2 errors"; exit 66', "failed", "memcheck, gpu_parity.py ended with exit code 66"),
        ('echo "ERROR SUMMARY: 1 error"', "failed", "SUMMARY: 1 error"),
        ('echo "33 cases, 0 failed"', "failed", "33 cases"),
        ('echo "SKIPPED: no CUDA device"; echo "ERROR SUMMARY: 0 errors"', "skipped", "no CUDA device"),
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
        tools, scripts = ("memcheck", "racecheck", "synccheck"), ("gpu_parity.py", "gpu_operators.py")
        assert set(outcome.values["checks"]) == {f"{check}, {script}" for check in tools for script in scripts}


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


def test_a_target_that_does_not_compile_leaves_the_others(
    suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = suite.native / kernel_sections.LAUNCHER
    cases = f"""*lit_deploy_cuda*) touch {launcher};;
        *lit_deploy_onnxruntime*) echo "error: no such type"; exit 1;;
        *lit_deploy_tensorrt*) echo "ninja: error: unknown target"; exit 1;;"""
    cmake = program(tmp_path / "cmake", f'case "$*" in {cases} esac')
    monkeypatch.setattr(kernel_sections, "find_tool", lambda name: str(cmake))
    suite.given = False
    outcome = gpu_suite.run_section(Section("build", "", kernel_sections.build), suite)
    assert outcome.status == "failed"
    expected = "lit_deploy_onnxruntime: the build ended with exit code 1 (error: no such type)"
    assert outcome.reason == expected, "what is not configured is no failure"
    assert outcome.values["built"][kernel_sections.LAUNCHER] == kernel_sections.LAUNCHER


def test_a_missing_package_is_named() -> None:
    with pytest.raises(Skip, match=r"^not installed: no-such-package$"):
        gpu_suite.need("torch", "no-such-package")
