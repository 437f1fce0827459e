"""What the table of back ends says without loading any of them."""

from __future__ import annotations

import importlib.metadata
import importlib.util

import pytest

from lit_deploy.backends.table import BACKENDS

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: pip install 'lit-deploy[ort]'")


def test_a_back_end_is_told_by_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds of ONNX Runtime come under many names of distributions; all of them are ONNX Runtime."""

    def unknown(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    record = BACKENDS["onnxruntime"]
    assert record.missing() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert record.missing() == "ONNX Runtime is not installed; run: pip install 'lit-deploy[ort]'"
