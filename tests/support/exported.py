"""Exported files that several test modules share: each is written once in a test run, next to its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from lit_deploy.artifacts.onnx_file import read_manifest, set_manifest
from lit_deploy.core.errors import LitDeployError
from lit_deploy.exporters.onnx import OnnxOptions
from lit_deploy.machine.facts import computes_bf16, cpu_flags
from lit_deploy.machine.native import BUILD_COMMAND, find_extension, find_library
from lit_deploy.workflows.export import export_checkpoint
from support.shared import made_by_one

needs_library = pytest.mark.skipif(
    find_library() is None, reason=f"the custom-op library is not built: {BUILD_COMMAND}"
)
"""Mark of the tests, or parameters, that run on the compiled kernel."""

needs_extension = pytest.mark.skipif(
    find_extension() is None, reason=f"OpenVINO's extension is not built: {BUILD_COMMAND}, where openvino is installed"
)
"""Mark of the tests, or parameters, that run our operators inside OpenVINO."""

needs_bf16 = pytest.mark.skipif(
    not computes_bf16(cpu_flags()), reason="this CPU does not compute in bfloat16 (AMX, AVX512_BF16)"
)
"""Mark of the tests that compare what such a CPU computes."""

KERNELS = (pytest.param(False, id="function"), pytest.param(True, id="library", marks=needs_library))
"""Values of ``SessionOptions.library``: the function inside the file, and the compiled kernel."""


def export_of(checkpoint: Path, **options: Any) -> Path:
    """Export a checkpoint with ``OnnxOptions(**options)``, unverified; the same options again cost nothing."""
    default = OnnxOptions()
    options = {key: value for key, value in options.items() if value != getattr(default, key)}
    words = [checkpoint.stem, *(f"{key}-{value}" for key, value in sorted(options.items()))]
    path = checkpoint.with_name("_".join(words) + ".onnx")
    with made_by_one(path) as mine:
        if mine:
            export_checkpoint(checkpoint, path, OnnxOptions(**options), verify=False)
    return path


def edited(source: Path, target: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """Write a copy of an exported file with ``change`` done to it; its manifest stays."""
    model = onnx.load(str(source))
    change(model)
    onnx.save(model, str(target))
    return target


def relabelled(source: Path, target: Path, /, **changes: Any) -> Path:
    """Write a copy of an exported file with other fields of its manifest: no other graph, and nothing to trace."""
    return edited(source, target, lambda model: set_manifest(model, replace(read_manifest(source), **changes)))


def change_initializer(model: onnx.ModelProto, name: str, change: Callable[[Any], Any]) -> None:
    """Replace one initializer by ``change`` of its array; the type stays, and it must really change."""
    tensor = next(entry for entry in model.graph.initializer if entry.name == name)
    before = numpy_helper.to_array(tensor)
    after = change(before.copy()).astype(before.dtype)
    assert after.shape == before.shape
    assert (after != before).any(), f"the change of {name} changes nothing"
    tensor.CopyFrom(numpy_helper.from_array(after, name))


@contextmanager
def refused_at_most_in_one_sentence() -> Iterator[None]:
    """Let lit-deploy refuse what happens inside, in one line; any other exception is a bug and passes through."""
    try:
        yield
    except LitDeployError as error:
        if "\n" in str(error):
            pytest.fail(f"more than one line: {error}")
