"""Sections of the GPU suite about whole networks: on the CPU, and with a stand-in for the command line."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.exported import change_initializer, edited, export_of
from support.gpu_modules import Section, Skip, engine_section, gpu_suite, make_suite, network_sections
from typer.testing import CliRunner

from lit_deploy import cli


@pytest.fixture
def suite(tmp_path: Path) -> Any:
    return make_suite(tmp_path)


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
    trt: ModuleType = importlib.import_module("lit_deploy.machine.tensorrt")
    monkeypatch.setattr(trt, "installed_version", lambda name: "11.0" if name in installed else None)
    monkeypatch.setattr(engine_section, "need", lambda *names: None)
    if words is None:
        assert engine_section.engine_backend(capability) == installed[0]
        return
    with pytest.raises(Skip, match=words):
        engine_section.engine_backend(capability)


@pytest.mark.usefixtures("uncompiled")
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
    measured, failure = network_sections.benched(suite, [path], checkpoint, all_must_run=False)
    assert failure == ""
    rows = measured["over_pytorch_eager"]
    assert {row["batch"] for row in rows} == {2}
    assert {row["precision"] for row in rows} >= {"fp32"}
    assert all(row["speedup"] > 0 for row in rows)
    values, failure = network_sections.predicted(suite, path, checkpoint)
    assert failure == ""
    assert len(values["classes"]) == 5
    assert "predict ended with exit code 2" in network_sections.predicted(suite, missing, checkpoint)[1]


@pytest.mark.usefixtures("uncompiled")
def test_a_file_that_computes_something_else_fails(
    suite: Any, checkpoint_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_sections, "BATCHES", "2")
    suite.device, suite.quick = "cpu", True
    checkpoint, other = checkpoint_file("tiny"), suite.work / "other.onnx"

    def change(model: onnx.ModelProto) -> None:
        change_initializer(model, "head.weight", lambda value: value[:, ::-1])

    edited(export_of(checkpoint), other, change)
    assert "apart from PyTorch's" in network_sections.predicted(suite, other, checkpoint)[1]
    assert "refused" in network_sections.benched(suite, [other], checkpoint, all_must_run=False)[1]


FAKE_CLI = """
import json, os, sys
from pathlib import Path
command, *rest = sys.argv[1:]
with open(os.environ["LOG"], "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
if command == os.environ.get("FAILING"):
    sys.exit("error: it cannot be done")
if command == "export":
    path = Path(rest[rest.index("--out") + 1])
    path.write_text("engine")
    parity = None if "--no-verify" in rest or os.environ.get("NOT_RUN") else {"verdict": "pass", "cosine": 1.0}
    path.with_name(path.name + ".json").write_text(json.dumps({"parity": parity}))
elif command == "verify":
    print(json.dumps({"verdict": "pass", "reasons": [], "layers": ["a"] if "--layers" in rest else []}))
elif command == "predict":
    print(json.dumps([{"classes": [3, 1], "labels": ["c", "a"], "probabilities": [0.6, 0.4]}]))
elif command == "bench":
    left_out = [{"label": "engine", "batch": None, "reason": "no"}] if os.environ.get("NOT_RUN") else []
    print(json.dumps({"measurements": [], "exclusions": left_out}))
"""


@pytest.fixture
def engines(suite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, list[list[str]]]]:
    """Run the engine section with a stand-in for the command line; its outcome, and every command line."""
    fake = tmp_path / "cli.py"
    fake.write_text(FAKE_CLI)
    monkeypatch.setattr(network_sections, "CLI", (sys.executable, str(fake)))
    monkeypatch.setattr(engine_section, "CLI", (sys.executable, str(fake)))
    monkeypatch.setattr(engine_section, "engine_backend", lambda capability: "tensorrt")
    monkeypatch.setattr(engine_section, "need", lambda *names: None)
    monkeypatch.setattr(engine_section, "installed_version", lambda name: "1.25")
    monkeypatch.setattr(engine_section, "seeded_checkpoint", lambda suite, name="lit_s": suite.work / f"{name}.pth")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))

    def run() -> tuple[Any, list[list[str]]]:
        outcome = gpu_suite.run_section(engine_section.SECTION, suite)
        return outcome, [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]

    return run


@pytest.mark.parametrize("plugin", [True, False])
def test_every_kind_of_engine_is_built_and_compared(suite: Any, engines: Any, plugin: bool) -> None:
    if plugin:
        (suite.native / "liblit_deploy_tensorrt.so").touch()
    outcome, commands = engines()
    assert outcome.status == "run", outcome.reason
    exports = [command for command in commands if command[0] == "export"]
    for precision in ("fp32", "fp16", "bf16"):
        ways = [command for command in exports if precision in command and "--no-verify" in command]
        assert any("--no-plugin" in command for command in ways)
        assert any("--plugin" in command for command in ways) == plugin
    assert any("--embed-plugin" in command for command in exports) == plugin
    assert any("--allow-engine-code" in command for command in commands if command[0] == "verify") == plugin
    assert sum("--layers" in command for command in commands if command[0] == "verify") == 1
    assert sum("--no-verify" not in command for command in exports) == 1
    for precision in ("int8", "fp8"):
        (command,) = [command for command in exports if precision in command]
        with np.load(command[command.index("--calib") + 1]) as calibration:
            assert calibration["images"].shape == (16, 224, 224, 3)
    assert outcome.values["variants"]["fp32 layers"]["layers"] == ["a"]
    assert outcome.values["variants"]["fp16 verified by export"]["verdict"] == "pass"
    assert {"verify", "predict", "bench", "engine_bytes"} <= set(outcome.values)
    for command, *rest in commands:  # the real command line knows every option
        accepted = CliRunner().invoke(cli.app, [command, *rest, "--help"])
        assert accepted.exit_code == 0, accepted.output


def test_engines_that_fail_are_named_and_the_others_go_on(
    engines: Any, suite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILING", "export")
    outcome, commands = engines()
    assert outcome.status == "failed"
    assert "lit_s fp16: " in outcome.reason
    assert "fp32 layers: " in outcome.reason
    assert "it cannot be done" in outcome.reason
    assert len(commands) == 1 + len(engine_section.every_variant(plugin=False)) + 2, "int8 and fp8"
    monkeypatch.delenv("FAILING")
    monkeypatch.setenv("NOT_RUN", "1")
    outcome, _ = engines()
    assert "export did not run the engine" in outcome.reason
    assert "bench: left out engine: no" in outcome.reason


def test_engines_that_the_budget_does_not_reach_are_named(
    engines: Any, suite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_section, "VARIANT_SECONDS", 10_000)
    outcome, _ = engines()
    assert outcome.status == "run"
    assert all("budget" in variant["not_begun"] for variant in outcome.values["variants"].values())


def test_onnxruntime_without_its_cuda_provider(suite: Any) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    with pytest.raises(Skip, match=r"has no CUDAExecutionProvider, only .*CPUExecutionProvider"):
        network_sections.onnxruntime(suite)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_pytorch_without_a_device_is_skipped(
    suite: Any, checkpoint_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_sections, "seeded_checkpoint", lambda suite: checkpoint_file("tiny"))
    with pytest.raises(Skip, match="PyTorch sees no CUDA device"):
        network_sections.pytorch(suite)


def test_pytorch_is_compared_layer_by_layer(
    suite: Any, checkpoint_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_sections, "seeded_checkpoint", lambda suite: checkpoint_file("tiny"))
    suite.device = "cpu"
    outcome = gpu_suite.run_section(Section("pytorch", "", network_sections.pytorch), suite)
    assert outcome.status == "run", outcome.reason
    assert outcome.values["verify"]["layers"]
    assert outcome.values["predict"]["apart"] == 0


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
