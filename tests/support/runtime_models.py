"""Small files for the tests of the C API, and the API as Python objects."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import byref, c_size_t, c_void_p
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import set_manifest
from lit_deploy.core.specs import OP_VERSION, InputSpec, ModelSpec
from lit_deploy.machine.native import find_onnxruntime_library
from support.runtime_library import ROOT, TYPES, ModelInfo, Options, Output, Prediction, Tensor, check, runtime

Arrays = dict[str, NDArray[Any]]
CLASSES, SIDE = 7, 4
UINT8 = InputSpec("uint8", SIDE, SIDE, SIDE)
"""Of the files that ``micro`` writes."""


needs_onnxruntime = pytest.mark.skipif(
    find_onnxruntime_library() is None,
    reason="no libonnxruntime.so in a wheel: pip install onnxruntime",
)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime is that of the wheel, and nobody names an operator library."""
    monkeypatch.setenv("LIT_DEPLOY_ONNXRUNTIME", str(find_onnxruntime_library()))
    monkeypatch.delenv("LIT_DEPLOY_LIBRARY", raising=False)


def micro_manifest(**changes: Any) -> Manifest:
    """The manifest of ``micro``, whose format has to stay within what Python's classes allow."""
    labels = (*(f"class {i}" for i in range(CLASSES - 1)), "Käfer · 甲虫")
    model = ModelSpec("custom", "lit", (8, 16, 32, 32), (1, 1, 1, 1), (1, 1), (2, 2, 2, 2), (SIDE, SIDE), CLASSES)
    spec = InputSpec("float", SIDE, SIDE, SIDE)
    manifest = Manifest(model, spec, "logits", labels, "fp32", None, False, (), "micro.pth", "0" * 64, OP_VERSION)
    return replace(manifest, **changes)


def micro(
    path: Path, manifest: Manifest | None = None, change: Callable[[onnx.ModelProto], None] | None = None
) -> Path:
    """Write a file that opens in a millisecond: the scores of an image are the first values of its data.

    ``change`` alters the graph behind the manifest's back.
    """
    manifest = micro_manifest() if manifest is None else manifest
    spec = manifest.input
    uint8 = spec.kind == "uint8"
    batch = manifest.batch or "batch"
    shape = [batch, spec.height, spec.width, 3] if uint8 else [batch, 3, spec.height, spec.width]
    constants = {"flat": [0, -1], "zero": [0], "end": [CLASSES], "axis": [1], "five": [5]}
    nodes = [
        helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Same", ["values"], ["same"], domain="test"),  # a function, as the operator is
        helper.make_node("Reshape", ["same", "flat"], ["rows"]),
        helper.make_node("Slice", ["rows", "zero", "end", "axis"], ["first"]),
    ]
    width = CLASSES
    name = "scores" if manifest.output == "top5" else manifest.output
    if manifest.output == "top5":
        nodes.append(helper.make_node("TopK", ["first", "five"], ["scores", "classes"], axis=1))
        width = 5
    else:
        nodes.append(helper.make_node("Identity", ["first"], [name]))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, width])]
    if manifest.output == "top5":
        outputs.append(helper.make_tensor_value_info("classes", TensorProto.INT64, [batch, width]))
    image = helper.make_tensor_value_info("images", TensorProto.UINT8 if uint8 else TensorProto.FLOAT, shape)
    initializers = [helper.make_tensor(key, TensorProto.INT64, [len(value)], value) for key, value in constants.items()]
    graph = helper.make_graph(nodes, "micro", [image], outputs, initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("test", 1)]
    identity = helper.make_node("Identity", ["x"], ["y"])
    same = helper.make_function("test", "Same", ["x"], ["y"], [identity], opsets[:1])
    model = helper.make_model(graph, opset_imports=opsets, functions=[same], ir_version=8)
    set_manifest(model, manifest)
    if change is not None:
        change(model)
    onnx.save(model, str(path))
    return path


def options(**fields: Any) -> Options:
    """``lit_options`` with its defaults and ``fields``; paths may be given as such."""
    made = Options()
    check(runtime().lit_options_init(byref(made), ctypes.sizeof(made)))
    for name, value in fields.items():
        setattr(made, name, os.fsencode(value) if isinstance(value, (str, Path)) else value)
    return made


class Context:
    """``lit_context``; ``run`` returns copies, by the outputs' names."""

    def __init__(self, model: c_void_p, info: ModelInfo) -> None:
        self._info = info
        self.handle = c_void_p()
        check(runtime().lit_context_create(model, byref(self.handle)))

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """The C form of a batch; uint8 may have any strides between rows and images."""
        kind = TYPES.index("uint8" if array.dtype == np.uint8 else "float")
        strides = array.strides[1::-1] if array.dtype == np.uint8 else (0, 0)
        return Tensor(kind, array.ctypes.data, array.shape[0], *strides)

    def raw(self, tensor: Tensor) -> Output:
        output = Output()
        check(runtime().lit_run(self.handle, byref(tensor), byref(output)))
        return output

    def run(self, array: NDArray[Any]) -> Arrays:
        output = self.raw(self.tensor(array))
        name = ("logits", "probabilities", "scores")[self._info.output]
        shape = (output.batch, output.count)
        arrays: Arrays = {name: np.ctypeslib.as_array(output.scores, shape).copy()}
        if output.classes:
            arrays["classes"] = np.ctypeslib.as_array(output.classes, shape).copy()
        return arrays

    def close(self) -> None:
        runtime().lit_context_destroy(self.handle)


class Model:
    """``lit_model``."""

    def __init__(self, path: Path | str, settings: Options | None = None) -> None:
        self.handle = c_void_p()
        given = byref(settings) if settings is not None else None
        check(runtime().lit_model_open(os.fsencode(path), given, byref(self.handle)))
        self.info: ModelInfo = runtime().lit_model_get_info(self.handle).contents

    @contextmanager
    def context(self) -> Iterator[Context]:
        context = Context(self.handle, self.info)
        try:
            yield context
        finally:
            context.close()

    def top_k(self, output: Output, image: int, k: int) -> list[tuple[int, float, str]]:
        """(class, probability, label), best first."""
        best, count = (Prediction * max(k, 1))(), c_size_t()
        check(runtime().lit_top_k(self.handle, byref(output), image, k, best, byref(count)))
        return [(p.class_index, p.probability, p.label.decode()) for p in best[: count.value]]

    def close(self) -> None:
        runtime().lit_model_close(self.handle)


@contextmanager
def opened(path: Path | str, **fields: Any) -> Iterator[Model]:
    """Open a file with ``options(**fields)``."""
    model = Model(path, options(**fields))
    try:
        yield model
    finally:
        model.close()


def in_new_process(code: str, *arguments: object, **environment: str) -> str:
    """Run Python code that can import these modules, with other variables; its output. For what is once per process."""
    folders = os.pathsep.join(map(str, (ROOT / "tests", ROOT)))
    searched = ("LIT_DEPLOY_ONNXRUNTIME", "LIT_DEPLOY_LIBRARY", "LD_LIBRARY_PATH")
    kept = {name: value for name, value in os.environ.items() if name not in searched}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**kept, "PYTHONPATH": folders, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
