"""What is refused: files of 8 bits that predict something else, that are slower, or that depart from PyTorch."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from support.engines import SIDECAR
from support.exported import export_of
from support.quantization import (
    INT8,
    SLOWER,
    CheckpointFile,
    Digits,
    constants,
    converted,
    damaged,
    digits,
    digits_int8,
    faster,
    measured_speed,
    photos,
    pretend,
    products_in_8_bits,
    scratch,
    shown,
    without_measurements,
)

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.core.errors import GateFailed
from lit_deploy.core.specs import EightBit
from lit_deploy.exporters import engine_files
from lit_deploy.exporters.onnx import OnnxOptions
from lit_deploy.quantize import gates
from lit_deploy.quantize.run import QuantizeOptions, quantize_file
from lit_deploy.workflows import export as export_module
from lit_deploy.workflows.export import export_checkpoint, export_engine
from lit_deploy.workflows.verify import ParityFailed

__all__ = ["converted", "damaged", "digits", "digits_int8", "faster", "photos", "scratch"]  # fixtures


@pytest.mark.usefixtures("damaged", "converted")
def test_a_damaged_network_is_refused(digits: Digits, scratch: Path, tmp_path: Path) -> None:
    """With the numbers and with advice; an older file of that name stays."""
    out = tmp_path / "out" / "a.onnx"
    out.parent.mkdir()
    out.write_text("old")
    options = QuantizeOptions(digits.calib, accuracy_budget=0.0)
    sentence = (
        r"^nothing was written: top-1 differs from fp32 on \d+ of 48 images \(\d+\.\d\d%\), the budget is 0\.00%; try "
        r"another --calib-method, or find modules to --keep with lit-deploy quantize --scan; --force writes it all the "
        r"same$"
    )
    for attempt in (
        lambda: export_checkpoint(digits.checkpoint, out, INT8, quantize=options),
        lambda: quantize_file(export_of(digits.checkpoint), out, options),
    ):
        with pytest.raises(GateFailed, match=sentence) as caught:
            attempt()
        assert caught.value.exit_code == 1
        assert os.listdir(out.parent) == ["a.onnx"]
        assert out.read_text() == "old"


@pytest.mark.usefixtures("damaged", "converted")
def test_force_writes_it_and_says_so(digits: Digits, scratch: Path, tmp_path: Path) -> None:
    """Neither the budget nor parity holds it back, and file and summary tell what it fails by."""
    options = QuantizeOptions(digits.calib, accuracy_budget=0.0, force=True)
    result = export_checkpoint(digits.checkpoint, tmp_path / "a.onnx", INT8, quantize=options)
    manifest = read_manifest(tmp_path / "a.onnx")
    assert manifest.quantization is not None
    assert manifest.quantization.agreement is not None
    assert manifest.quantization.agreement < 1
    assert manifest.parity is not None
    assert manifest.parity["verdict"] == "fail"
    text = " ".join(shown(result).split())
    assert "FAIL 48 images of" in text
    assert "the budget is 0.00%" in text
    assert "parity fail relative error" in text
    plain = quantize_file(export_of(digits.checkpoint), tmp_path / "b.onnx", options)
    assert without_measurements(plain.path)[0] == without_measurements(result.path)[0]
    assert "FAIL" in shown(plain)


@pytest.mark.usefixtures("damaged", "converted")
def test_parity_is_the_last_gate(digits: Digits, scratch: Path, tmp_path: Path) -> None:
    """A budget that lets everything through is no leave to write what does not compute the same."""
    with pytest.raises(ParityFailed, match=r"a\.onnx was not written: .*; --force writes it all the same$"):
        export_checkpoint(
            digits.checkpoint, tmp_path / "a.onnx", INT8, quantize=QuantizeOptions(digits.calib, accuracy_budget=0.99)
        )
    assert os.listdir(tmp_path) == ["scratch"]


@pytest.mark.usefixtures("converted")
def test_a_slow_file_is_refused(
    checkpoint_file: CheckpointFile, photos: Path, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "measure_speed", pretend(SLOWER))
    tiny, options = checkpoint_file("tiny"), QuantizeOptions(photos, accuracy_budget=0.6)
    with pytest.raises(GateFailed) as caught:
        export_checkpoint(tiny, tmp_path / "a.onnx", INT8, quantize=options, verify=False)
    assert str(caught.value) == (
        "nothing was written: it is 0.80x as fast as fp32 on ONNX Runtime here (batch 1, 1 thread: 2.0 ms against "
        "1.6 ms); --force writes it all the same"
    )
    assert os.listdir(tmp_path) == ["scratch"]
    result = export_checkpoint(
        tiny, tmp_path / "a.onnx", INT8, quantize=replace(options, force=True), verify=False
    )  # fmt: skip
    assert result.manifest.quantization is not None
    assert result.manifest.quantization.speedup == 0.8
    assert "FAIL" in shown(result)


@pytest.mark.usefixtures("converted")
def test_fp8_is_slower_on_a_cpu(digits: Digits, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Really measured, if briefly: several times slower than float32, and refused with what it is good for."""
    monkeypatch.setattr(gates, "measure_speed", measured_speed)
    monkeypatch.setattr(gates, "ROUNDS", (2, 2))
    monkeypatch.setattr(gates, "TURN_SECONDS", 0.02)
    options = QuantizeOptions(digits.calib)
    with pytest.raises(GateFailed, match=r"it is 0\.\d\dx as fast as fp32 .*an engine has: .*--format trt; .*--force"):
        export_checkpoint(digits.checkpoint, tmp_path / "a.onnx", OnnxOptions(precision="fp8"), quantize=options)
    assert os.listdir(tmp_path) == ["scratch"]


@pytest.mark.usefixtures("converted")
def test_fp8_by_force(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "measure_speed", pretend(SLOWER))
    options = QuantizeOptions(digits.calib, force=True)
    result = export_checkpoint(
        digits.checkpoint, tmp_path / "a.onnx", OnnxOptions(precision="fp8"), quantize=options
    )  # fmt: skip
    assert result.manifest.precision == "fp8"
    assert result.manifest.quantization is not None
    assert (result.manifest.quantization.base, result.manifest.quantization.products) == ("fp16", 25)
    assert len(products_in_8_bits(result.path, TensorProto.FLOAT8E4M3FN)) == 25
    assert digits.accuracy(result.path) >= digits.accuracy(export_of(digits.checkpoint)) - 0.5


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.usefixtures("converted")
def test_an_engine_is_not_measured_here(
    precision: EightBit, digits: Digits, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the builder gets has float16 around its products; a CPU's speed at that is nobody's concern."""
    given: list[Any] = []

    def build(model: bytes, manifest: Manifest, *rest: Any) -> Any:
        given.append((model, manifest))
        return b"engine", replace(SIDECAR, manifest=manifest)

    monkeypatch.setattr(gates, "measure_speed", None)
    monkeypatch.setattr(engine_files, "engine_from_onnx", build)
    monkeypatch.setattr(export_module, "ready_to_build", lambda *rest, **more: None)
    monkeypatch.setattr(export_module, "find_gpu", lambda: None)
    out = tmp_path / "out"
    out.mkdir()
    result = export_engine(
        digits.checkpoint, out / "a.engine", OnnxOptions(precision=precision), quantize=QuantizeOptions(digits.calib)
    )
    ((model, manifest),) = given
    assert (out / "a.engine.onnx").read_bytes() == model
    assert read_manifest(out / "a.engine.onnx") == manifest == result.manifest
    done = manifest.quantization
    assert done is not None
    assert (manifest.precision, done.base, done.speedup) == (precision, "fp16", None)
    assert done.agreement is not None
    kinds = {value.dtype for name, value in constants(out / "a.engine.onnx").items() if name.endswith("/scale")}
    assert kinds == {np.dtype(np.float16)}
    assert result.report is not None
    assert result.report.verdict == "pass"
    text = " ".join(shown(result).split())
    assert "speed was not measured: it is for an engine, and ONNX Runtime's says nothing about that" in text
    assert "PASS 48 images of" in text
