"""What the C API refuses: every status that can be caused without a GPU, and the words that say why."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
from collections.abc import Callable
from ctypes import byref, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from support.exported import export_of
from support.runtime_library import Options, Output, check, needs_runtime, picture_of, runtime
from support.runtime_models import (
    CLASSES,
    SIDE,
    UINT8,
    Model,
    in_new_process,
    micro,
    micro_manifest,
    needs_onnxruntime,
    opened,
    options,
)
from support.runtime_refusals import assert_refused, opens

from lit_deploy.artifacts.manifest import MANIFEST_KEY
from lit_deploy.core.specs import InputSpec
from lit_deploy.machine.native import find_onnxruntime_library

pytestmark = [needs_runtime, needs_onnxruntime, pytest.mark.usefixtures("backend")]

FLOATS = np.zeros((2, 3, SIDE, SIDE), np.float32)
PIXELS = np.zeros((2, SIDE, SIDE, 3), np.uint8)
Change = Callable[[dict[str, Any]], None]


# ------------------------------------------------------------------------------------------------------------- files


def test_files_that_are_not_there(tmp_path: Path) -> None:
    missing, folder = tmp_path / "missing.onnx", tmp_path / "folder.onnx"
    folder.mkdir()
    assert_refused("LIT_FILE_ERROR", f"{missing} cannot be opened .*No such file", opens(missing))
    assert_refused("LIT_FILE_ERROR", f"{folder} is not a file", opens(folder))
    for name in ("lit_s.pth", "lit_s", ".", "", "lit_s.ONNX"):
        assert_refused("LIT_INVALID_ARGUMENT", "expected .onnx, .engine or .plan", opens(name))


def test_damaged_files(tmp_path: Path) -> None:
    whole = micro(tmp_path / "whole.onnx").read_bytes()
    path = tmp_path / "damaged.onnx"
    for kept in (*range(1, len(whole), 97), len(whole) - 1):
        path.write_bytes(whole[:kept])
        assert_refused("LIT_BAD_MODEL", "damaged.onnx", opens(path))
    for content, words in (
        (b"", "no lit-deploy manifest"),
        (b"a text about networks\n" * 40, "not a whole ONNX file"),
        (bytes(1000), "not a whole ONNX file"),
        (b"\xff" * 1000, "not a whole ONNX file"),
        (b"\x72\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "not a whole ONNX file"),  # an entry of 2^63 bytes
    ):
        path.write_bytes(content)
        assert_refused("LIT_BAD_MODEL", words, opens(path))


def rewritten(path: Path, change: Change) -> Path:
    """A micro file with another manifest, also one that Python's classes do not allow."""

    def edit(model: onnx.ModelProto) -> None:
        entry = next(entry for entry in model.metadata_props if entry.key == MANIFEST_KEY)
        fields = json.loads(entry.value)
        change(fields)
        entry.value = json.dumps(fields)

    return micro(path, change=edit)


def setter(*keys: Any) -> Change:
    """Set a field, named by all but the last of ``keys``; ``...`` as the value takes it away."""
    *outer, name, value = keys

    def change(fields: dict[str, Any]) -> None:
        for key in outer:
            fields = fields[key]
        if value is ...:
            del fields[name]
        else:
            fields[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (setter("format", 3), "LIT_WRONG_VERSION", "format 3, this library reads 1 to 2; "),
        (setter("format", 0), "LIT_WRONG_VERSION", "format 0"),
        (setter("op_version", 2), "LIT_WRONG_VERSION", "version 2 of the operator, this library implements version 1"),
        (setter("model", "in_channels", 4), "LIT_NOT_SUPPORTED", "not RGB"),
        (setter("format", "1"), "LIT_BAD_MODEL", "format is no whole number"),
        (setter("format", ...), "LIT_BAD_MODEL", "format is missing"),
        (setter("model", []), "LIT_BAD_MODEL", "model is no object"),
        (setter("model", "num_classes", 8), "LIT_BAD_MODEL", "another number of labels than of classes"),
        (setter("labels", ["one"]), "LIT_BAD_MODEL", "another number of labels than of classes"),
        (setter("labels", [*range(CLASSES)]), "LIT_BAD_MODEL", "a label is no text"),
        (setter("labels", None), "LIT_BAD_MODEL", "labels is no list"),
        (setter("output", "embedding"), "LIT_BAD_MODEL", "output has a value that is not known here"),
        (setter("batch", 0), "LIT_BAD_MODEL", "batch is no whole number from 1 to 1024"),
        (setter("batch", 2**64 - 1), "LIT_BAD_MODEL", "batch"),
        (setter("batch", -(2**63)), "LIT_BAD_MODEL", "batch"),
        (setter("batch", ...), "LIT_BAD_MODEL", "batch is missing"),
        (setter("portable", 1), "LIT_BAD_MODEL", "portable is neither true nor false"),
        (setter("precision", 32), "LIT_BAD_MODEL", "precision is no text"),
        (setter("precision", "fp99"), "LIT_BAD_MODEL", "precision has a value that is not known here"),
        (setter("quantization", {}), "LIT_BAD_MODEL", "quantization.method is missing"),
        (setter("input", "kind", "int8"), "LIT_BAD_MODEL", "kind"),
        (setter("input", "height", 0), "LIT_BAD_MODEL", "height is no whole number from 1"),
        (setter("input", "width", 1 << 20), "LIT_BAD_MODEL", "width"),
        (setter("input", "width", 4.0), "LIT_BAD_MODEL", "width"),
        (setter("input", "resize", 16 * SIDE + 1), "LIT_BAD_MODEL", "resize"),
        (setter("input", "interpolation", "nearest"), "LIT_BAD_MODEL", "interpolation"),
        (setter("input", "std", [1, 0, 1]), "LIT_BAD_MODEL", "std is out of range"),
        (setter("input", "std", [1, 1e300, 1]), "LIT_BAD_MODEL", "std is out of range"),
        (setter("input", "mean", [0, 0, -2e4]), "LIT_BAD_MODEL", "mean is out of range"),
        (setter("input", "mean", [0, 0]), "LIT_BAD_MODEL", "mean has not 3 numbers"),
        (setter("input", "mean", [0, 0, "0"]), "LIT_BAD_MODEL", "mean"),
        # The graph is another one than the manifest promises.
        (setter("batch", 3), "LIT_BAD_MODEL", "other inputs or outputs than"),  # which nobody knows the graph to run
        (setter("output", "top5"), "LIT_BAD_MODEL", "other inputs or outputs than its manifest promises"),
        (setter("output", "probabilities"), "LIT_BAD_MODEL", "other inputs or outputs"),
        (setter("input", "kind", "uint8"), "LIT_BAD_MODEL", "other inputs or outputs"),
        (setter("input", "height", 5), "LIT_BAD_MODEL", "other inputs or outputs"),
    ],
)
def test_manifests(change: Change, status: str, words: str, tmp_path: Path) -> None:
    path = rewritten(tmp_path / "other.onnx", change)
    if status == "LIT_OK":
        opens(path)()
    else:
        assert_refused(status, f"other.onnx.*{words}" if status == "LIT_BAD_MODEL" else words, opens(path))


def test_a_manifest_is_looked_for_and_read(tmp_path: Path) -> None:
    def without(model: onnx.ModelProto) -> None:
        del model.metadata_props[:]

    def text(value: str) -> Callable[[onnx.ModelProto], None]:
        return lambda model: setattr(model.metadata_props[0], "value", value)

    path = tmp_path / "micro.onnx"
    assert_refused("LIT_BAD_MODEL", "holds no lit-deploy manifest", opens(micro(path, change=without)))
    for value in ("", "{", "null", "[1]", '"text"', "[" * 100_000, '{"format":1' + 500 * " ", "{'format': 1}"):
        assert_refused("LIT_BAD_MODEL", "is damaged", opens(micro(path, change=text(value))))


def test_graphs_that_onnxruntime_refuses(tmp_path: Path) -> None:
    def unknown(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = "NoSuchOperator"

    assert_refused(
        "LIT_BAD_MODEL", r"ONNX Runtime .* refuses .*micro.onnx", opens(micro(tmp_path / "micro.onnx", change=unknown))
    )


def test_bf16_on_the_cpu(checkpoint_file: Callable[[str], Path]) -> None:
    path = export_of(checkpoint_file("tiny"), precision="bf16")
    assert_refused("LIT_NOT_SUPPORTED", "is of bf16, which ONNX Runtime .* not compute on a CPU", opens(path))


# ----------------------------------------------------------------------------------------------------------- options


def test_nulls(tmp_path: Path) -> None:
    library, path, handle = runtime(), os.fsencode(micro(tmp_path / "micro.onnx")), c_void_p()
    calls: list[Callable[[], int]] = [
        lambda: library.lit_model_open(None, None, byref(handle)),
        lambda: library.lit_model_open(path, None, None),
        lambda: library.lit_options_init(None, ctypes.sizeof(Options)),
        lambda: library.lit_context_create(None, byref(handle)),
        lambda: library.lit_run(None, None, byref(Output())),
        lambda: library.lit_run_images(None, None, 1, byref(Output())),
    ]
    with opened(os.fsdecode(path)) as model, model.context() as context:
        calls += [
            lambda: library.lit_context_create(model.handle, None),
            lambda: library.lit_run(context.handle, None, byref(Output())),
            lambda: library.lit_run(context.handle, byref(context.tensor(FLOATS)), None),
            lambda: library.lit_run_images(context.handle, None, 1, byref(Output())),
            lambda: library.lit_run_images(context.handle, None, 1, None),
        ]
        for call in calls:
            handle.value = 1
            assert_refused("LIT_INVALID_ARGUMENT", r"NULL|expected lit_options_init", lambda c=call: check(c()))
        assert handle.value in (1, None)
    library.lit_model_close(None)
    library.lit_context_destroy(None)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    handle = c_void_p(1)
    assert runtime().lit_model_open(b"/nowhere/a.onnx", None, byref(handle)) != 0
    assert handle.value is None
    with opened(micro(tmp_path / "micro.onnx")) as model, model.context() as context:
        tensor, output = context.tensor(FLOATS), Output(None, None, 5, 5)
        tensor.batch = -1
        assert runtime().lit_run(context.handle, byref(tensor), byref(output)) != 0
        assert (output.batch, output.count, bool(output.scores)) == (0, 0, False)
        assert context.run(FLOATS)["logits"].shape == (2, CLASSES)  # it stays usable


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"device": 7}, "LIT_INVALID_ARGUMENT", "neither LIT_CPU nor LIT_CUDA"),
        ({"device": -1}, "LIT_INVALID_ARGUMENT", "neither LIT_CPU nor LIT_CUDA"),
        ({"device_index": -1}, "LIT_INVALID_ARGUMENT", "device_index is negative"),
        ({"threads": -1}, "LIT_INVALID_ARGUMENT", r"threads is outside 0\.\.1024"),
        ({"threads": 1025}, "LIT_INVALID_ARGUMENT", "threads"),
        ({"struct_size": 0}, "LIT_INVALID_ARGUMENT", "not initialised; call lit_options_init"),
        ({"struct_size": 2**63}, "LIT_INVALID_ARGUMENT", "not initialised"),  # what a stack may hold by chance
        ({"struct_size": 0x7F7F7F7F7F7F}, "LIT_INVALID_ARGUMENT", "not initialised"),
        ({"operator_library": "/nowhere/op.so"}, "LIT_LIBRARY_NOT_FOUND", "/nowhere/op.so.*built-in function"),
        ({"operator_library": "liblit_nowhere.so"}, "LIT_LIBRARY_NOT_FOUND", r"\(searched liblit_nowhere.so\)"),
        ({"backend_library": "/nowhere/ort.so"}, "LIT_LIBRARY_NOT_FOUND", "/nowhere/ort.so.*LIT_DEPLOY_ONNXRUNTIME"),
    ],
)
def test_options(fields: dict[str, Any], status: str, words: str, tmp_path: Path) -> None:
    assert_refused(status, words, opens(micro(tmp_path / "micro.onnx"), **fields))


def test_options_of_older_and_newer_programs(tmp_path: Path) -> None:
    path = micro(tmp_path / "micro.onnx")

    class Newer(Options):
        _fields_ = (("more", ctypes.c_int64 * 4),)

    newer = Newer()
    check(runtime().lit_options_init(ctypes.cast(byref(newer), ctypes.POINTER(Options)), ctypes.sizeof(newer)))
    assert newer.struct_size == ctypes.sizeof(newer)
    Model(path, newer).close()
    newer.more[3] = 1
    assert_refused("LIT_WRONG_VERSION", "an option was set that this library", lambda: Model(path, newer))
    older = options(operator_library="/nowhere/op.so", threads=-1)
    older.struct_size = Options.threads.offset  # what lies behind is none of ours
    Model(path, older).close()


def test_cuda_without_a_gpu(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has a CUDA provider")
    words = "could not start its CUDA provider: name the library of onnxruntime-gpu, or open the model with LIT_CPU"
    assert_refused("LIT_NOT_SUPPORTED", words, opens(micro(tmp_path / "a.onnx"), device=1))


# -------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    ("kind", "given", "fields", "words"),
    [
        ("float", FLOATS, {"batch": 0}, "the batch has 0 images; this model takes 1 to 1024"),
        ("float", FLOATS, {"batch": 1025}, "1025 images"),
        ("float", FLOATS, {"batch": -(2**63)}, "images"),
        ("float", FLOATS, {"data": None}, "data is NULL"),
        ("float", FLOATS, {"type": 2}, "neither LIT_UINT8 nor LIT_FLOAT32"),
        ("float", FLOATS, {"type": -1}, "neither LIT_UINT8 nor LIT_FLOAT32"),
        ("float", FLOATS, {"row_stride": 48}, "LIT_FLOAT32 input has strides"),
        ("float", FLOATS, {"image_stride": 48}, "LIT_FLOAT32 input has strides"),
        ("uint8", FLOATS, {}, "this model takes LIT_UINT8"),
        ("uint8", PIXELS, {"row_stride": 3 * SIDE - 1}, "row_stride is 11 bytes, a row has 12"),
        ("uint8", PIXELS, {"row_stride": 1 - 3 * SIDE}, "row_stride is -11 bytes"),
        ("uint8", PIXELS, {"row_stride": 2**63 - 1, "image_stride": 0}, "address space"),
        ("uint8", PIXELS, {"row_stride": -(2**63), "image_stride": 0}, "address space"),
        ("uint8", PIXELS, {"image_stride": 2**63 - 1}, "address space"),
        ("uint8", PIXELS, {"image_stride": -(2**63)}, "address space"),
    ],
)
def test_inputs(kind: Any, given: Any, fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    spec = InputSpec(kind, SIDE, SIDE, SIDE)
    with opened(micro(tmp_path / "micro.onnx", micro_manifest(input=spec))) as model, model.context() as context:
        tensor = context.tensor(given)
        for name, value in fields.items():
            setattr(tensor, name, value)
        assert_refused("LIT_INVALID_ARGUMENT", words, lambda: context.raw(tensor))


def test_fixed_batches_and_pictures(tmp_path: Path) -> None:
    path = micro(tmp_path / "micro.onnx", micro_manifest(batch=2, input=UINT8))
    with opened(path) as model, model.context() as context:
        for batch in (1, 3):
            tensor = context.tensor(np.zeros((batch, SIDE, SIDE, 3), np.uint8))
            assert_refused("LIT_INVALID_ARGUMENT", f"has {batch} images.* 2 to 2", lambda t=tensor: context.raw(t))
        picture = picture_of(PIXELS[0])
        for count in (0, 3, 2**31, 2**64 - 1):
            refused = lambda c=count: check(  # noqa: E731
                runtime().lit_run_images(context.handle, byref(picture), c, byref(Output()))
            )
            assert_refused("LIT_INVALID_ARGUMENT", "images; this model takes 1 to 2", refused)
        picture.pixels = None
        refused = lambda: check(runtime().lit_run_images(context.handle, byref(picture), 1, byref(Output())))  # noqa: E731
        assert_refused("LIT_INVALID_ARGUMENT", "image 0: the picture.s pixels are NULL", refused)


def test_a_run_that_fails(tmp_path: Path) -> None:
    """A graph that returns as many scores as its largest input says: not what the manifest promises."""

    def change(model: onnx.ModelProto) -> None:
        nodes = model.graph.node
        next(node for node in nodes if node.op_type == "Slice").input[2] = "largest"
        nodes.insert(2, helper.make_node("ReduceMax", ["same"], ["most"]))
        nodes.insert(3, helper.make_node("Cast", ["most"], ["whole"], to=TensorProto.INT64))
        nodes.insert(4, helper.make_node("Reshape", ["whole", "axis"], ["largest"]))
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "scores"

    with opened(micro(tmp_path / "micro.onnx", change=change)) as model, model.context() as context:
        for _ in range(2):
            assert_refused("LIT_RUN_FAILED", "results of another size", lambda: context.run(FLOATS + CLASSES - 1))
            assert context.run(FLOATS + CLASSES)["logits"].shape == (2, CLASSES)


OUT_OF_MEMORY = """
import resource, sys
import numpy as np
from support.runtime_library import Failure
from support.runtime_models import opened
with opened(sys.argv[1], threads=1) as model, model.context() as context:
    resource.setrlimit(resource.RLIMIT_AS, (2**35, 2**35))
    tensor = context.tensor(np.zeros((1, 4, 4, 3), np.uint8))
    tensor.batch, tensor.row_stride, tensor.image_stride = 1024, 0, 0
    try:
        context.raw(tensor)
    except Failure as failure:
        print(failure.status, failure)
"""


def test_out_of_memory(tmp_path: Path) -> None:
    """A batch of 3 TiB, refused before a pixel of it is read; a limit stands in for the end of the memory."""
    path = micro(tmp_path / "micro.onnx", micro_manifest(input=InputSpec("float", 1 << 14, 1 << 14, 1 << 14)))
    said = in_new_process(OUT_OF_MEMORY, path, LIT_DEPLOY_ONNXRUNTIME=str(find_onnxruntime_library()))
    assert said == "LIT_OUT_OF_MEMORY out of memory\n"
