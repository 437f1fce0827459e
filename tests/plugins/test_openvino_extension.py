"""OpenVINO's extension: each operator inside OpenVINO's CPU plugin, against the references in PyTorch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from support.attention import TYPES, ULP, assert_attention_equal, attention_expected, attention_inputs, attention_model
from support.detection import nms_model, on_onnxruntime, random_boxes, random_regions, roi_align_model

from lit_deploy.machine import native
from lit_deploy.ops.deformable_token_merging.reference import reference as merging_reference
from lit_deploy.ops.domain import DOMAIN

ov = pytest.importorskip("openvino", reason="the openvino extra is not installed: pip install openvino")

_FOUND = native.find_extension()
pytestmark = pytest.mark.skipif(
    _FOUND is None, reason=f"OpenVINO's extension is not built: {native.BUILD_COMMAND}, where openvino is installed"
)
EXTENSION = str(_FOUND)
HEADS, SCALE = 3, 0.3
MERGING = ("x", "offset_weight", "offset_bias")

Array = NDArray[Any]
Feed = dict[str, Array]


def core() -> Any:
    result = ov.Core()
    result.add_extension(EXTENSION)
    return result


def read(model: onnx.ModelProto) -> Any:
    return core().read_model(model.SerializeToString())


def compiled(model: Any, hint: str = "f32", threads: int = 2) -> Any:
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    return core().compile_model(model, "CPU", settings)


def rounded(feed: Feed, dtype: str) -> Feed:
    """Values that ``dtype`` holds: OpenVINO's own conversion to bfloat16 does not round to the nearest."""
    return {name: torch.from_numpy(array).to(getattr(torch, dtype)).float().numpy() for name, array in feed.items()}


def run(model: onnx.ModelProto, feed: Feed, *, static: bool = False, hint: str = "f32", threads: int = 2) -> Array:
    network = read(model)
    if static:
        network.reshape({name: list(array.shape) for name, array in feed.items()})
    return first(compiled(network, hint, threads), feed)


def first(target: Any, feed: Feed) -> Array:
    array: Array = next(iter(target(feed).values()))
    return array


def evaluated(model: onnx.ModelProto, feed: Feed) -> Array:
    """Without any plugin, which would choose the element types: what the operators' own evaluate gives."""
    outputs = ov.TensorVector([ov.Tensor(ov.Type.f32, ov.Shape([]))])
    network = read(model)
    assert network.evaluate(outputs, ov.TensorVector([ov.Tensor(feed[node.any_name]) for node in network.inputs]))
    array: Array = outputs[0].data.copy()
    return array


def merging_model(dtype: str = "float32", version: str = "1") -> onnx.ModelProto:
    """The operator alone; float32 in and out, ``dtype`` inside; any size. Its function is wrong on purpose."""
    inner = [f"{name}_t" for name in MERGING]
    attributes = {"plugin_namespace": "for TensorRT", "plugin_version": version}
    nodes = [
        *(helper.make_node("Cast", [name], [f"{name}_t"], to=TYPES[dtype]) for name in MERGING),
        helper.make_node("DeformableTokenMerging", inner, ["y_t"], name="op", domain=DOMAIN, **attributes),
        helper.make_node("Cast", ["y_t"], ["y"], to=TensorProto.FLOAT),
    ]
    shapes = ((None,) * 4, (None, None), (None,))
    inputs = [helper.make_tensor_value_info(name, 1, dims) for name, dims in zip(MERGING, shapes, strict=True)]
    graph = helper.make_graph(nodes, "merging", inputs, [helper.make_tensor_value_info("y", 1, (None,) * 4)])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    function = wrong("DeformableTokenMerging", list(MERGING), list(attributes))
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)


def wrong(op_type: str, inputs: list[str], attributes: list[str]) -> onnx.FunctionProto:
    """A function of a node's name that gives zeros of the first input's shape: what computes right is the kernel."""
    body = [helper.make_node("Sub", [inputs[0], inputs[0]], ["y"])]
    return helper.make_function(DOMAIN, op_type, inputs, ["y"], body, [helper.make_opsetid("", 20)], attributes)


WRONG_ATTENTION = wrong("RelativePositionAttention", ["qkv", "table"], ["num_heads", "scale"])
ATTENTION = attention_model(HEADS, SCALE, functions=[WRONG_ATTENTION])


def merging_inputs(shape: tuple[int, ...], seed: int = 0, offsets: float = 1.0) -> Feed:
    rng = np.random.default_rng(seed)
    columns = 4 * shape[3]
    feed = {
        "x": rng.standard_normal(shape),
        "offset_weight": rng.standard_normal((8, columns)) * offsets / np.sqrt(columns),
        "offset_bias": rng.standard_normal(8) * 0.3,
    }
    return {name: array.astype(np.float32) for name, array in feed.items()}


def assert_merged(got: Array, feed: Feed, dtype: str = "float32", offsets: float = 1.0) -> None:
    want = merging_reference(*(torch.from_numpy(feed[name]).to(getattr(torch, dtype)) for name in MERGING))
    assert got.shape == tuple(want.shape)
    np.testing.assert_allclose(got, want.float().numpy(), rtol=ULP[dtype], atol=2e-5 * max(1.0, offsets))


MAPS = [(1, 56, 56, 96), (2, 14, 14, 384), (1, 2, 2, 1), (3, 5, 9, 7), (1, 7, 3, 17), (0, 4, 4, 3)]
OPERATORS = [
    ("DeformableTokenMerging", merging_model(), merging_inputs((1, 4, 6, 3))),
    ("RelativePositionAttention", ATTENTION, attention_inputs(1, HEADS, 3, 4, 8)),
    ("MultiLevelRoiAlign", roi_align_model(), random_regions(2)),
    ("Nms", nms_model(), random_boxes(2)),
]
static_and_dynamic = pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
each_operator = pytest.mark.parametrize(("op_type", "model", "feed"), OPERATORS, ids=[entry[0] for entry in OPERATORS])


@static_and_dynamic
def test_merging_equals_reference(static: bool) -> None:
    network = None if static else compiled(read(merging_model()))
    for shape in MAPS:
        for offsets in (0.0, 1.0, 12.0):
            feed = merging_inputs(shape, offsets=offsets)
            got = first(network, feed) if network else run(merging_model(), feed, static=True)
            assert_merged(got, feed, offsets=offsets)


@pytest.mark.parametrize("dtype", sorted(TYPES))
def test_merging_of_every_element_type(dtype: str) -> None:
    for shape in MAPS[1:-1]:
        feed = rounded(merging_inputs(shape), dtype)
        assert_merged(evaluated(merging_model(dtype), feed), feed, dtype)
        assert_merged(run(merging_model(dtype), feed), feed, dtype)


def assert_attended(got: Array, feed: Feed, dtype: str = "float32") -> None:
    want = attention_expected(feed, HEADS, SCALE, dtype)
    if dtype != "bfloat16":
        assert_attention_equal(got, want, dtype=dtype, sharp=2.0)
        return
    qkv = feed["qkv"].copy()  # the kernel may round weights to bfloat16 before it multiplies such values
    values = qkv[..., qkv.shape[-1] // 3 * 2 :]
    np.abs(values, out=values)
    allowed = 1e-4 + ULP[dtype] * np.abs(want) + 2.0**-8 * attention_expected({**feed, "qkv": qkv}, HEADS, SCALE)
    assert got.shape == want.shape
    assert (np.abs(got - want) <= allowed).all()


CASES = [(1, 14, 14, 32), (2, 1, 300, 32), (1, 27, 41, 64), (1, 1, 1, 8), (1, 4, 5, 512), (3, 5, 7, 13)]


@pytest.mark.parametrize("biased", [True, False], ids=["table", "no table"])
@pytest.mark.parametrize("dtype", sorted(TYPES))
def test_attention_equals_reference(dtype: str, biased: bool) -> None:
    model = attention_model(HEADS, SCALE, dtype=dtype, functions=[WRONG_ATTENTION])
    network = compiled(read(model))
    for batch, rows, columns, dim in CASES:
        feed = attention_inputs(batch, HEADS, rows, columns, dim, biased=biased, sharp=2.0)
        feed["qkv"] = rounded(feed, dtype)["qkv"]
        for got in (first(network, feed), evaluated(model, feed)):
            assert_attended(got, feed, dtype)
    assert_attended(run(model, feed, static=True), feed, dtype)


@pytest.mark.parametrize("shape", [(HEADS, 0, 0), (0, 1, 1), (HEADS, 0, 7)], ids=str)
def test_a_constant_table_without_elements_is_no_bias(shape: tuple[int, ...]) -> None:
    """As exported files of networks without a bias hold it."""
    feed = attention_inputs(1, HEADS, 4, 6, 16, biased=False)
    model = attention_model(HEADS, SCALE, functions=[WRONG_ATTENTION])
    del model.graph.input[1]
    model.graph.initializer.append(helper.make_tensor("table", TensorProto.FLOAT, shape, []))
    for static in (True, False):
        assert_attended(run(model, {"qkv": feed["qkv"]}, static=static), feed)


@static_and_dynamic
@pytest.mark.parametrize(("iou", "length"), [(0.5, 100), (1 / 3, 300), (0.0, 50)])
def test_nms_equals_the_function(iou: float, length: int, static: bool) -> None:
    """Index by index: boxes with IoU at the threshold, equal scores, no candidate and one among them."""
    model = nms_model(iou, 0.05, length)
    function, network = on_onnxruntime(model), compiled(read(model))
    for seed in range(10 if static else 100):
        feed = random_boxes(seed)
        got = run(model, feed, static=True) if static else first(network, feed)
        np.testing.assert_array_equal(got, function(feed), err_msg=str(seed))
    feed["scores"][:] = 0
    assert (first(network, feed) == -1).all()
    assert (first(network, {name: array[:0] for name, array in feed.items()}) == -1).all()


@static_and_dynamic
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_roi_align_equals_the_function(dtype: str, static: bool) -> None:
    model = roi_align_model(7, dtype)
    function, network = on_onnxruntime(model), compiled(read(model))
    for seed in range(12 if static else 60):
        feed = random_regions(seed, dtype)
        got = run(model, feed, static=True) if static else first(network, feed)
        want = function(feed)
        assert got.shape == want.shape
        # float16 is float32 rounded once: two values a hair apart may round to neighbouring halves.
        np.testing.assert_allclose(
            got.astype(np.float32), want.astype(np.float32), rtol=ULP[dtype], atol=1e-5, err_msg=str(seed)
        )


def test_bfloat16_inference_leaves_the_operators_in_float32() -> None:
    """Inputs that the network does not round are not rounded for the operator; positions keep their float32."""
    feed = merging_inputs((1, 14, 14, 32))
    assert_merged(run(merging_model(), feed, hint="bf16"), feed)
    boxes = random_boxes(3)
    np.testing.assert_array_equal(run(nms_model(), boxes, hint="bf16"), on_onnxruntime(nms_model())(boxes))


def test_float16_inference_runs_the_kernels() -> None:
    if "FP16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU does not compute in float16")
    merged, attended = rounded(merging_inputs((1, 8, 8, 24)), "float16"), attention_inputs(1, HEADS, 5, 7, 32)
    assert_merged(run(merging_model(), merged, hint="f16"), merged, "float16")
    got = run(ATTENTION, attended, hint="f16")
    np.testing.assert_allclose(got, attention_expected(attended, HEADS, SCALE), rtol=1e-2, atol=1e-2)


def test_output_shapes_are_inferred() -> None:
    def inferred(model: onnx.ModelProto, **shapes: list[int]) -> str:
        network = read(model)
        network.reshape({name: ov.PartialShape(shape) for name, shape in shapes.items()})
        return str(network.outputs[0].get_partial_shape())

    assert inferred(merging_model(), x=[2, 9, 11, 12]) == "[2,4,5,48]"
    assert inferred(merging_model(), x=[-1, -1, 14, -1], offset_weight=[8, 96]) == "[?,?,7,96]"
    assert inferred(ATTENTION, qkv=[-1, 35, 144]) == "[?,35,48]"
    assert inferred(nms_model(max_output=7)) == "[7]"
    assert inferred(roi_align_model(14), level0=[1, 3, -1, -1]) == "[?,3,14,14]"
    bounded = read(merging_model())
    bounded.reshape({"x": ov.PartialShape("[1,5..9,7..,3]")})
    assert str(bounded.outputs[0].get_partial_shape()) == "[1,2..4,3..,12]"


BAD_SHAPES = [
    ("x", (1, 1, 6, 3), r"x has shape \[1, 1, 6, 3\], expected .* height and width of at least 2"),
    ("offset_weight", (8, 13), r"offset_weight has shape \[8, 13\], expected \[8, 12\]"),
    ("offset_bias", (4,), r"offset_bias has shape \[4\], expected \[8\]"),
    ("qkv", (1, 12, 48), r"qkv has shape \[1, 12, 48\], expected .* channels a multiple of num_heads = 3"),
    ("qkv", (1, 12, 9 * 513), r"qkv has shape .* expected at most 512 channels a head .* --no-library"),
    ("table", (2, 5, 7), r"table has shape \[2, 5, 7\], expected \[3, .* height \* width = 12 tokens"),
    ("boxes", (5, 3), r"boxes has shape \[5, 3\], expected \[boxes, 4\]"),
    ("scores", (3,), r"scores has shape \[3\], expected \[boxes\], as many"),
    ("level0", (2, 3, 4, 4), r"level0 has shape \[2, .*expected \[1, channels"),
    ("level2", (1, 99, 4, 4), r"level2 has shape .*with the channels of level0"),
    ("level3", (1, 3, 0, 4), r"level3 has shape .*no empty map"),
]


@pytest.mark.parametrize(("name", "shape", "message"), BAD_SHAPES, ids=str)
def test_bad_shape_is_refused_in_words(name: str, shape: tuple[int, ...], message: str) -> None:
    """Once sizes are known, before or at the inference; the sentence is the last line of what OpenVINO says."""
    original, feed = next((model, dict(feed)) for _, model, feed in OPERATORS if name in feed)
    model = onnx.ModelProto()
    model.CopyFrom(original)
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()  # ranks alone: nothing else refuses first
    network = compiled(read(model))
    first(network, feed)
    feed[name] = np.zeros(shape, feed[name].dtype)
    for attempt in (lambda: first(network, feed), lambda: run(model, feed, static=True)):
        with pytest.raises(RuntimeError, match=rf"lit_deploy::\w+: {message}") as refusal:
            attempt()
        assert [line for line in str(refusal.value).splitlines() if line.strip()][-1].startswith("lit_deploy::")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nms_model(iou_threshold=1.5), r"lit_deploy::Nms: iou_threshold is 1\.5, expected 0 to 1"),
        (nms_model(max_output=0), r"lit_deploy::Nms: max_output is 0, expected 1 to 4294967296"),
        (roi_align_model(0), r"lit_deploy::MultiLevelRoiAlign: output_size is 0, expected 1 to 16777216"),
        (roi_align_model(plugin_version="2"), r'asks for plugin_version "2", this library implements version "1"'),
        (merging_model(version="2"), r'asks for plugin_version "2", this library implements version "1"'),
        (attention_model(0, SCALE), r"num_heads is 0, expected at least 1"),
    ],
    ids=["iou", "max_output", "output_size", "version of RoIAlign", "version of merging", "heads"],
)
def test_wrong_attributes_are_refused(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        read(model)


@each_operator
def test_the_kernel_takes_precedence_over_the_function(op_type: str, model: onnx.ModelProto, feed: Feed) -> None:
    """In the file the node has a function beside it; what OpenVINO holds and executes is the node."""
    assert [function.name for function in model.functions] == [op_type]
    network = read(model)
    assert [node.get_type_name() for node in network.get_ops()].count(op_type) == 1
    executed = compiled(network).get_runtime_model().get_ops()
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in executed]
    assert kinds.count("Reference") == 1, kinds  # how the CPU plugin calls an operator of an extension


@each_operator
def test_round_trip_through_an_ir(op_type: str, model: onnx.ModelProto, feed: Feed, tmp_path: Path) -> None:
    ov.save_model(read(model), tmp_path / "model.xml", compress_to_fp16=False)
    assert f'type="{op_type}" version="lit_deploy"' in (tmp_path / "model.xml").read_text()
    again = core().read_model(tmp_path / "model.xml")
    np.testing.assert_array_equal(first(compiled(again), feed), run(model, feed))
    with pytest.raises(RuntimeError, match=op_type):
        ov.Core().read_model(tmp_path / "model.xml")


@each_operator
def test_threads_change_nothing(op_type: str, model: onnx.ModelProto, feed: Feed) -> None:
    """One thread, two, and several inferences at a time: the same bits."""
    want = run(model, feed, threads=1)
    assert want.size > 0
    network = compiled(read(model))
    requests = [network.create_infer_request() for _ in range(4)]

    def repeat(request: Any) -> bool:
        return all((next(iter(request.infer(feed).values())) == want).all() for _ in range(10))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(repeat, requests))


BUSY = """
import sys
from pathlib import Path
import numpy as np
import openvino
model, extension, threads = sys.argv[1:]
core = openvino.Core()
core.add_extension(extension)
settings = {"INFERENCE_NUM_THREADS": int(threads), "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
feed = {"qkv": np.ones((1, 2304, 288), np.float32), "table": np.zeros((3, 95, 95), np.float32)}
def spent():
    return {task.name: int((task / "schedstat").read_text().split()[0]) for task in Path("/proc/self/task").iterdir()}
request.infer(feed)
before = spent()
for _ in range(10):
    request.infer(feed)
grown = [time - before.get(task, 0) for task, time in spent().items()]
print(sum(time > 0.05 * sum(grown) for time in grown))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not tell a thread's time")
@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_is_obeyed(threads: int, tmp_path: Path) -> None:
    """In a process of its own: as many threads as OpenVINO was given spend the time of an operator."""
    onnx.save(ATTENTION, tmp_path / "attention.onnx")
    command = [sys.executable, "-c", BUSY, str(tmp_path / "attention.onnx"), EXTENSION, str(threads)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, str(threads)), result.stderr


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf: apt-get install binutils")
def test_exports_one_symbol_and_names_no_folder() -> None:
    def output(*command: str) -> str:
        return subprocess.run([*command, EXTENSION], capture_output=True, text=True, check=True).stdout

    assert [line.split()[-1] for line in output("nm", "-D", "--defined-only").splitlines()] == ["create_extensions"]
    dynamic = output("readelf", "-d")
    assert "libopenvino.so." in dynamic
    assert "PATH" not in dynamic


def test_another_release_of_openvino_is_named_and_nothing_crashes(tmp_path: Path) -> None:
    """The library asks for another libopenvino.so, as one built for another release does."""
    content = Path(EXTENSION).read_bytes()
    begin = content.index(b"libopenvino.so.")
    name = content[begin : content.index(b"\0", begin)]
    other = b"libopenvino.so." + b"9" * (len(name) - len(b"libopenvino.so."))
    (tmp_path / "old.so").write_bytes(content.replace(name + b"\0", other + b"\0"))
    program = "import sys, openvino; openvino.Core().add_extension(sys.argv[1])"
    command = [sys.executable, "-c", program, str(tmp_path / "old.so")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1  # by an exception, not by a signal
    assert f"{other.decode()}: cannot open shared object file" in result.stderr
