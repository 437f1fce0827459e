"""One line after an export: a faster back end, if it computes the same; times are stand-ins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.command import Run
from support.exported import export_of

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.report.export import advice_line
from lit_deploy.workflows import advice
from lit_deploy.workflows.advice import Advice, faster_choice

pytest.importorskip("openvino", reason="the openvino extra is not installed")

CheckpointFile = Callable[[str], Path]
BF16 = "--backend openvino --precision-hint bf16"


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Milliseconds of ONNX Runtime and of OpenVINO in either type, to be changed by the test."""
    taken = {"onnxruntime": 20.0, "openvino": 15.0, "bf16": 6.0}
    monkeypatch.setattr(advice, "_milliseconds", lambda path, options: taken[options.precision_hint or options.backend])
    monkeypatch.setattr(advice, "computes_bf16", lambda flags: True)
    return taken


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[SessionOptions]:
    """The options of every verification; one in bfloat16 passes wherever this runs, as it is computed in float32."""
    asked: list[SessionOptions] = []
    verify = advice.verify_artifact

    def verify_artifact(path: Path, checkpoint: Path, *, options: SessionOptions) -> object:
        asked.append(options)
        return verify(path, checkpoint, options=replace(options, precision_hint=None))

    monkeypatch.setattr(advice, "verify_artifact", verify_artifact)
    return asked


def choice(checkpoint: Path, threads: int = 1) -> Advice | None:
    path = export_of(checkpoint, portable=True)
    return faster_choice(path, read_manifest(path), checkpoint, threads)


def test_the_fastest_that_passes(
    checkpoint_file: CheckpointFile, times: dict[str, float], verified: list[SessionOptions]
) -> None:
    found = choice(checkpoint_file("tiny"))
    assert found is not None
    assert (found.options, found.milliseconds, found.usual) == (BF16, 6.0, 20.0)
    assert found.cosine > 0.9999
    assert [options.precision_hint for options in verified] == ["bf16"]
    assert str(advice_line(found)).startswith(f"faster here: {BF16} takes 6.0 ms where ONNX Runtime takes 20.0 ms")
    times["bf16"] = 16.0
    found = choice(checkpoint_file("tiny"))
    assert found is not None
    assert found.options == "--backend openvino"


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"openvino": 18.0, "bf16": 18.0}, id="hardly faster"),
        pytest.param({"onnxruntime": 1.0, "openvino": 0.1, "bf16": 0.1}, id="nothing to save"),
    ],
)
def test_nothing_to_say(
    changed: dict[str, float], checkpoint_file: CheckpointFile, times: dict[str, float], verified: list[SessionOptions]
) -> None:
    times |= changed
    assert choice(checkpoint_file("tiny")) is None
    assert verified == []


def test_what_departs_is_not_advised(
    checkpoint_file: CheckpointFile, times: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = advice.verify_artifact

    def departing_in_bf16(path: Path, checkpoint: Path, *, options: SessionOptions) -> object:
        report = verify(path, checkpoint, options=replace(options, precision_hint=None))
        return replace(report, verdict="fail") if options.precision_hint else report

    monkeypatch.setattr(advice, "verify_artifact", departing_in_bf16)
    found = choice(checkpoint_file("tiny"))
    assert found is not None
    assert found.options == "--backend openvino"


def test_on_the_command_line(
    run: Run, checkpoint_file: CheckpointFile, times: dict[str, float], verified: list[SessionOptions]
) -> None:
    done = run("export", "--ckpt", checkpoint_file("tiny"), "--portable", "--threads", 1)
    assert done.code == 0, done.err
    assert f"faster here: {BF16}" in " ".join(done.out.split())
    for quiet in (("--no-verify",), ("--backend", "onnxruntime")):
        assert "faster here" not in run("export", "--ckpt", checkpoint_file("tiny"), "--portable", *quiet).out
