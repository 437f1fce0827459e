"""OpenVINO's C library and small files for it, for the tests of the C API."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner
import pytest

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.machine.native import BUILD_COMMAND, find_extension
from support.runtime_library import BACKENDS
from support.runtime_models import Model, micro, micro_manifest, opened

OPENVINO = BACKENDS.index("openvino")


def find_openvino() -> Path | None:
    """The folder of Python's ``openvino``, which carries the C library and its headers."""
    spec = importlib.util.find_spec("openvino")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def find_openvino_library() -> Path | None:
    folder = find_openvino()
    return None if folder is None else next(iter(sorted((folder / "libs").glob("libopenvino_c.so*"))), None)


needs_openvino = pytest.mark.skipif(
    find_openvino_library() is None, reason="no libopenvino_c.so in a wheel: pip install openvino"
)
EXTENSION = find_extension()
"""Found before a test changes the environment."""

needs_extension = pytest.mark.skipif(EXTENSION is None, reason=f"OpenVINO's extension is not built: {BUILD_COMMAND}")


@pytest.fixture
def openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO is that of the wheel, and nobody names an extension."""
    monkeypatch.setenv("LIT_DEPLOY_OPENVINO", str(find_openvino_library()))
    monkeypatch.delenv("LIT_DEPLOY_OPENVINO_EXTENSION", raising=False)


@pytest.fixture
def extension(openvino: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names our extension, for Python's session and for the library."""
    monkeypatch.setenv("LIT_DEPLOY_OPENVINO_EXTENSION", str(EXTENSION))


@contextmanager
def opened_on_openvino(path: Path | str, **fields: Any) -> Iterator[Model]:
    with opened(path, backend=OPENVINO, **fields) as model:
        yield model


def portable_micro(
    path: Path, manifest: Manifest | None = None, change: Callable[[onnx.ModelProto], None] | None = None
) -> Path:
    """``micro`` without functions, as ``--portable`` writes files."""

    def inline(model: onnx.ModelProto) -> None:
        model.CopyFrom(onnx.inliner.inline_local_functions(model))
        if change is not None:
            change(model)

    return micro(path, manifest or micro_manifest(portable=True), inline)
