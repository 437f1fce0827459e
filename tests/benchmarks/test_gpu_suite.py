"""The GPU suite where there is no GPU: what it reports and skips, and that failures stay failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.engines import needs_rtx
from support.gpu_modules import (
    DEVICE,
    ROOT,
    Section,
    SectionFailed,
    Skip,
    gpu,
    gpu_suite,
    kernel_sections,
    make_suite,
    program,
)

from lit_deploy.machine import cuda


@pytest.fixture
def suite(tmp_path: Path) -> Any:
    return make_suite(tmp_path)


def modified(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


# --- the command ------------------------------------------------------------------------------------------------------


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    before = modified(ROOT / "benchmarks" / "results")
    # -S and -E: a plain checkout, with nothing installed and no PYTHONPATH
    command = [sys.executable, "-S", "-E", ROOT / "benchmarks" / "gpu.py"]
    environment = {**os.environ, "PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
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


@pytest.mark.parametrize("line", ["NVIDIA H200, [N/A], 580.1, [N/A]", "Field compute_cap is not a valid field", ""])
def test_the_driver_is_asked_where_nvidia_smi_does_not_tell(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "nvidia-smi", f'echo "{line}"')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(gpu.cuda, "find_gpu", lambda: cuda.Gpu("NVIDIA H200", "9.0", "13.0"))
    assert gpu.find_gpu() == gpu_suite.Gpu("NVIDIA H200", "not known", "not known", "9.0")


@pytest.mark.parametrize("script", ["gpu_parity.py", "gpu_bandwidth.py", "gpu_operators.py"])
def test_the_scripts_start_alone(script: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, ROOT / "benchmarks" / script, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr


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


def test_a_run_that_is_ended_leaves_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(_: Any) -> dict[str, Any]:
        raise SystemExit(143)

    monkeypatch.setitem(FAKES, "ended", Section("ended", "is ended", ended))
    output = tmp_path / "report.json"
    with pytest.raises(SystemExit):
        run_suite(monkeypatch, output, ("failing", "ended", "working"))
    report = json.loads(output.read_text())
    assert report["failed"] == ["failing"]
    assert report["skipped"] == ["ended", "working"]
    assert "ended from outside" in report["sections"][-1]["reason"]


def test_sigterm_ends_what_it_started(tmp_path: Path) -> None:
    program(tmp_path / "nvidia-smi", 'echo "NVIDIA H200, 1 MiB, 580.1, 9.0"')
    program(tmp_path / kernel_sections.HARNESS, f"sleep 60 & echo $! > {tmp_path}/child; wait")
    (tmp_path / "liblit_deploy_tensorrt.so").touch()
    output = tmp_path / "report.json"
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--native", tmp_path, "--only", "harness"]
    command += ["--output", output]
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL)
    wait_for((tmp_path / "child").exists)
    process.terminate()
    assert process.wait(30) == 143
    assert json.loads(output.read_text())["skipped"] == ["build", "harness"]
    wait_for(lambda: has_ended(tmp_path / "child"))


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "results").write_text("not a folder: nothing can be written in it, whoever asks")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(gpu.tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(gpu, "find_gpu", lambda: DEVICE)
    monkeypatch.setattr(gpu, "results_file", lambda device: tmp_path / "results" / "gpu.json")
    monkeypatch.setattr(gpu, "BUILD_FOLDER", tmp_path / "results" / "build")
    assert gpu.main([], (FAKES["working"],)) == 0
    report = tmp_path / "temporary" / "lit-deploy-gpu" / "gpu.json"
    assert json.loads(report.read_text())["failed"] == []
    assert f"wrote {report}" in capsys.readouterr().out


def test_no_git_is_no_clean_checkout(suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    values = gpu.machine(suite)
    assert values["commit"] is None
    assert values["changed_files"] is None


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
            "'bandwith', which is no section; expected some of parity, bandwidth, operators, harness",
        ),
        (["--native", "/no/such/folder"], "/no/such/folder, which is no folder"),
    ],
)
def test_usage_errors(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        gpu.main(arguments)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_what_was_measured_and_missed_is_kept_when_the_rest_is_skipped(suite: Any) -> None:
    def section(running: Any) -> dict[str, Any]:
        running.values["first"] = 1
        running.gate("first", "")
        running.gate("second", "is wrong")
        raise Skip("no time")

    outcome = gpu_suite.run_section(Section("two", "", section), suite)
    assert (outcome.status, outcome.reason, outcome.values) == ("failed", "second: is wrong; no time", {"first": 1})
    outcome = gpu_suite.run_section(FAKES["working"], suite)
    assert (outcome.status, outcome.values) == ("run", {"value": 1.5}), "nothing of the section before"


# --- programs that sections run ---------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def has_ended(file: Path) -> bool:
    """Whether the process is gone, or dead, whose number the file holds."""
    stat = Path(f"/proc/{file.read_text().strip()}/stat")
    try:
        return stat.read_text().split()[2] == "Z"
    except OSError:
        return True


def test_a_program_that_hangs_is_ended_with_all_it_started(suite: Any, tmp_path: Path) -> None:
    with pytest.raises(SectionFailed, match="sh was not done within 1 s"):
        suite.run(["/bin/sh", "-c", f"sleep 60 & echo $! > {tmp_path}/child; wait"], 1)
    wait_for(lambda: has_ended(tmp_path / "child"))


def test_a_program_that_the_budget_ended_is_no_failure(suite: Any) -> None:
    suite.deadline = time.monotonic() + 1
    with pytest.raises(Skip, match=r"within 1 s and was ended, as the budget of the whole run was spent"):
        suite.run(["/bin/sleep", "30"], 20)


def test_the_exit_code_and_the_last_words_of_a_program(suite: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SectionFailed, match=r"exit code 3 \(no luck\)"):
        suite.run_well(["/bin/sh", "-c", "echo trying; echo 'no luck' >&2; exit 3"], 10)
    assert "trying\nno luck" in capfd.readouterr().out
    with pytest.raises(Skip, match=r"^enqueue: no device$"):
        suite.run_well(["/bin/sh", "-c", "echo 'SKIPPED: enqueue: no device'"], 10)


def test_programs_use_this_checkout_and_the_built_libraries(suite: Any) -> None:
    names = {
        "LIT_DEPLOY_LIBRARY": "liblit_deploy_onnxruntime.so",
        "LIT_DEPLOY_PLUGIN": "liblit_deploy_tensorrt.so",
        "LIT_DEPLOY_CUDA_LAUNCHER": "liblit_deploy_cuda.so",
    }
    inside = suite.native / "inside"
    inside.mkdir()
    for name in names.values():
        (inside / name).touch()
    script = f"import lit_deploy, os; print(lit_deploy.__file__, *[os.environ[name] for name in {list(names)}])"
    output = suite.run_well([sys.executable, "-c", script], 30)
    assert output.split() == [str(ROOT / "lit_deploy" / "__init__.py"), *(str(inside / n) for n in names.values())]


def test_the_launcher_that_the_suite_names_is_the_one_that_is_tested(suite: Any) -> None:
    (suite.native / gpu_suite.LAUNCHER).write_text("no library")
    script = "import sys; sys.path[:0] = ['tests/plugins']; import test_cuda_kernel; print(test_cuda_kernel.LAUNCHER)"
    assert suite.run_well([sys.executable, "-c", script], 60).strip() == str(suite.native / gpu_suite.LAUNCHER)


@needs_rtx
def test_programs_find_tensorrt_rtx(suite: Any) -> None:
    script = "import ctypes; ctypes.CDLL('libtensorrt_rtx.so'); print('found')"
    assert suite.run_well([sys.executable, "-c", script], 30).strip() == "found"
