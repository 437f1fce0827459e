"""The custom-op library inside ONNX Runtime, against the PyTorch reference."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lit_deploy.machine.native import BUILD_COMMAND, find_library

torch = pytest.importorskip("torch", reason="the reference needs torch: pip install torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402
from support.attention import attention_inputs, attention_model  # noqa: E402
from support.detection import nms_model, random_boxes, random_regions, roi_align_model  # noqa: E402

from lit_deploy.ops.deformable_token_merging.reference import reference  # noqa: E402
from lit_deploy.ops.deformable_token_merging.schema import DOMAIN, OP_TYPE  # noqa: E402
from lit_deploy.ops.domain import DEVICE_ENTRY  # noqa: E402
from lit_deploy.ops.multi_level_roi_align.schema import OP_TYPE as ROI_ALIGN  # noqa: E402
from lit_deploy.ops.nms.schema import OP_TYPE as NMS  # noqa: E402
from lit_deploy.ops.relative_position_attention.schema import OP_TYPE as ATTENTION  # noqa: E402

_FOUND = find_library()
pytestmark = pytest.mark.skipif(_FOUND is None, reason=f"the custom-op library is not built: {BUILD_COMMAND}")
LIBRARY = str(_FOUND)

Array = NDArray[Any]
Dims = tuple[int | str | None, ...]
ATTRIBUTES = {"plugin_namespace": "lit_deploy", "plugin_version": "1"}
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
DYNAMIC: Dims = ("batch", "height", "width", "channels")


def model(
    dtype: str = "float32",
    x: Dims = DYNAMIC,
    offset_weight: Dims = (8, None),
    offset_bias: Dims = (8,),
    attributes: dict[str, str] | None = None,
    functions: list[Any] | None = None,
) -> bytes:
    """One node; the output's shape is left to the library."""
    element = TYPES[dtype]
    inputs = {"x": x, "offset_weight": offset_weight, "offset_bias": offset_bias}
    attributes = ATTRIBUTES if attributes is None else attributes
    node = helper.make_node(OP_TYPE, list(inputs), ["y"], domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "merging",
        [helper.make_tensor_value_info(name, element, dims) for name, dims in inputs.items()],
        [helper.make_tensor_value_info("y", element, None)],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions or []).SerializeToString()


def session(serialized: bytes, threads: int = 2) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # refusals are what is tested: their log lines are noise
    options.register_custom_ops_library(LIBRARY)
    return ort.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])


def inputs(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0, offsets: float = 1.0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    channels = shape[3]
    arrays = {
        "x": rng.standard_normal(shape),
        "offset_weight": rng.standard_normal((8, 4 * channels)) * offsets / np.sqrt(4 * channels),
        "offset_bias": rng.standard_normal(8) * 0.3,
    }
    return {name: array.astype(dtype) for name, array in arrays.items()}


def expected(feed: dict[str, Array]) -> Array:
    return reference(*(torch.from_numpy(feed[name]) for name in ("x", "offset_weight", "offset_bias"))).numpy()


def assert_equals_reference(y: Array, feed: dict[str, Array], offsets: float = 1.0) -> None:
    """Compare with the reference; both round the offsets, by an amount that grows with ``offsets``."""
    want = expected(feed)
    assert y.dtype == want.dtype
    assert y.shape == want.shape
    # float16 is float32 rounded once: two values a hair apart may round to neighbouring halves.
    relative = 2.0**-10 if y.dtype == np.float16 else 0.0
    absolute = 2e-5 * max(1.0, offsets)
    np.testing.assert_allclose(y.astype(np.float64), want.astype(np.float64), rtol=relative, atol=absolute)


@pytest.fixture(scope="module", params=sorted(TYPES))
def dynamic(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """A session that takes any shape, for each element type."""
    return request.param, session(model(request.param))


@pytest.mark.parametrize(
    "shape",
    [(1, 56, 56, 96), (2, 14, 14, 384), (1, 2, 2, 1), (3, 5, 9, 7), (1, 3, 2, 33), (2, 2, 11, 4), (1, 7, 3, 17)],
    ids=str,
)
@pytest.mark.parametrize("offsets", [0.0, 1.0, 12.0], ids="offsets {}".format)
def test_equals_reference(dynamic: tuple[str, Any], shape: tuple[int, ...], offsets: float) -> None:
    dtype, run = dynamic
    feed = inputs(shape, dtype, offsets=offsets)
    assert_equals_reference(run.run(None, feed)[0], feed, offsets)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(2, 12), st.integers(2, 12), st.integers(1, 70)),
    seed=st.integers(0, 2**31),
    offsets=st.floats(0, 8),
)
def test_equals_reference_at_any_shape(
    dynamic: tuple[str, Any], shape: tuple[int, ...], seed: int, offsets: float
) -> None:
    dtype, run = dynamic
    feed = inputs(shape, dtype, seed, offsets)
    assert_equals_reference(run.run(None, feed)[0], feed, offsets)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30])
def test_wild_offsets_give_zero(dynamic: tuple[str, Any], value: float) -> None:
    dtype, run = dynamic
    feed = inputs((1, 6, 7, 5), dtype)
    with np.errstate(over="ignore"):
        feed["offset_bias"][3] = value  # dx of tap 1
    y = run.run(None, feed)[0].reshape(3, 3, 4, 5)
    assert (y[:, :, 1] == 0).all()
    assert (y[:, :, [0, 2, 3]] != 0).any()
    assert_equals_reference(y.reshape(1, 3, 3, 20), feed)


def test_empty_batch(dynamic: tuple[str, Any]) -> None:
    dtype, run = dynamic
    assert run.run(None, inputs((0, 4, 4, 3), dtype))[0].shape == (0, 2, 2, 12)


def test_output_shape_is_inferred() -> None:
    assert session(model(x=(2, 9, 11, 12), offset_weight=(8, 48))).get_outputs()[0].shape == [2, 4, 5, 48]
    named = session(model(x=("n", "h", 14, "c"), offset_weight=(8, 96))).get_outputs()[0].shape
    assert named == ["n", "floor(h/2)", 7, 96]
    half = session(model("float16", x=(1, 4, 4, 3))).get_outputs()[0]
    assert half.type == "tensor(float16)"


def test_unnamed_dimensions_get_names_of_their_own() -> None:
    """Two equal names would promise two equal sizes, and ONNX Runtime plans memory by that promise."""
    batch, height, width, _ = session(model(x=(None, None, None, 8))).get_outputs()[0].shape
    assert len({batch, height, width}) == 3


@pytest.mark.parametrize(
    ("attributes", "accepted"),
    [({}, True), (ATTRIBUTES, True), ({"plugin_version": "2"}, False), ({"plugin_version": "1" * 300}, False)],
    ids=["no attributes", "version 1", "version 2", "endless version"],
)
def test_plugin_version(attributes: dict[str, str], accepted: bool) -> None:
    serialized = model(attributes=attributes)
    if accepted:
        feed = inputs((1, 4, 4, 3))
        assert_equals_reference(session(serialized).run(None, feed)[0], feed)
    else:
        with pytest.raises(Exception, match=r'asks for plugin_version .* implements version "1"'):
            session(serialized)


BAD_SHAPES = [
    ("x", (4, 6, 3), r"x has shape \[4, 6, 3\], expected \[batch, height, width, channels\]"),
    ("x", (1, 1, 2, 4, 3), r"x has shape rank 5, expected \[batch, height, width, channels\]"),
    ("x", (1, 1, 6, 3), r"x has shape \[1, 1, 6, 3\], expected .* height and width of at least 2"),
    ("offset_weight", (8, 13), r"offset_weight has shape \[8, 13\], expected \[8, 12\]"),
    ("offset_weight", (7, 12), r"offset_weight has shape \[7, 12\], expected \[8, 12\]"),
    ("offset_weight", (96,), r"offset_weight has shape \[96\], expected \[8, 12\]"),
    ("offset_bias", (4,), r"offset_bias has shape \[4\], expected \[8\]"),
    ("offset_bias", (1, 8), r"offset_bias has shape \[1, 8\], expected \[8\]"),
]


@pytest.mark.parametrize(("name", "shape", "message"), BAD_SHAPES, ids=str)
def test_bad_shape_is_refused_in_words(name: str, shape: tuple[int, ...], message: str) -> None:
    """At run time, whatever the model declares; the declared ranks are left open, so nothing else refuses first."""
    feed = inputs((1, 4, 6, 3))
    feed[name] = np.zeros(shape, np.float32)
    declared: dict[str, Any] = {key: (None,) * array.ndim for key, array in feed.items()}
    with pytest.raises(Exception, match=message):
        session(model(**declared)).run(None, feed)


def test_mixed_types_are_refused() -> None:
    proto = onnx.load_from_string(model())
    proto.graph.input[1].type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(Exception, match=OP_TYPE):
        session(proto.SerializeToString())


def test_the_kernel_takes_precedence_over_the_function_in_the_file() -> None:
    """The file's model-local function of the same name is a fallback; this one is wrong on purpose."""
    body = [helper.make_node("Sub", ["x", "x"], ["y"])]
    opsets = [helper.make_opsetid("", 20)]
    names = ["x", "offset_weight", "offset_bias"]
    function = helper.make_function(DOMAIN, OP_TYPE, names, ["y"], body, opsets, list(ATTRIBUTES))
    feed = inputs((1, 6, 6, 4))
    assert_equals_reference(session(model(functions=[function])).run(None, feed)[0], feed)


@pytest.mark.parametrize("operator", [ATTENTION, NMS, ROI_ALIGN])
def test_sessions_for_cuda_get_no_operator_that_has_a_kernel_for_the_cpu_alone(operator: str, tmp_path: Path) -> None:
    """Told by their options; then the function in the file runs, on the GPU. Both kinds live side by side.

    Of an operator that has a kernel for CUDA they get that for the CPU as well: here, where there is no such provider.
    """
    has_kernel = operator != ROI_ALIGN and b"CUDAExecutionProvider" in Path(LIBRARY).read_bytes()
    if operator == ATTENTION:
        feed = attention_inputs(1, 3, 5, 4, 8)
        proto, of_function = attention_model(3, 0.3), "Softmax"
    elif operator == NMS:
        feed, proto, of_function = random_boxes(1), nms_model(), "NonMaxSuppression"
    else:
        feed, proto, of_function = random_regions(1), roi_align_model(), "RoiAlign"
    serialized = proto.SerializeToString()
    want = ort.InferenceSession(serialized, providers=["CPUExecutionProvider"]).run(None, feed)[0]
    for turn, device in enumerate(("", "cuda", "cpu", "cuda", "")):
        options = ort.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / f"turn_{turn}")
        if device:
            options.add_session_config_entry(DEVICE_ENTRY, device)
        options.register_custom_ops_library(LIBRARY)
        run = ort.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(run.run(None, feed)[0], want, rtol=0, atol=2e-5)
        events = json.loads(Path(run.end_profiling()).read_text())
        ran = {event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")}
        expected = device != "cuda" or has_kernel
        assert (of_function in ran, operator in ran) == (not expected, expected), device


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    feed = inputs((2, 15, 14, 37))
    results = [session(model(), threads).run(None, feed)[0] for threads in (1, 2, 5)]
    assert all((result == results[0]).all() for result in results)


def test_sessions_and_threads_do_not_disturb_each_other() -> None:
    sessions = [session(model("float32")), session(model("float16")), session(model("float32"))]
    shapes = [(2, 8, 8, 32), (1, 6, 10, 19), (3, 4, 4, 64)]
    feeds = [inputs(shape, dtype) for shape, dtype in zip(shapes, ("float32", "float16", "float32"), strict=True)]
    alone = [run.run(None, feed)[0] for run, feed in zip(sessions, feeds, strict=True)]

    def repeat(index: int) -> bool:
        return all((sessions[index].run(None, feeds[index])[0] == alone[index]).all() for _ in range(50))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(repeat, [0, 1, 2, 0, 1, 2]))


def test_many_sessions_in_a_row() -> None:
    """Registration is shared per process: opening and closing sessions must neither fail nor mix them up."""
    feed = inputs((1, 4, 4, 3))
    first = session(model()).run(None, feed)[0]
    for _ in range(30):
        assert (session(model()).run(None, feed)[0] == first).all()


# As much of libcuda.so.1 as the CUDA runtime asks for before it gives up; every other function is an error.
DRIVER = """
#include <string.h>
static int failed(void) { return 3; }
int cuInit(unsigned flags) { (void)flags; return 100; }  /* no device */
int cuDriverGetVersion(int* version) { *version = VERSION; return 0; }
int cuGetProcAddress_v2(const char* name, void** function, int version, unsigned long flags, int* status) {
  (void)version, (void)flags;
  *function = (void*)failed;
  if (strcmp(name, "cuInit") == 0) *function = (void*)cuInit;
  if (strcmp(name, "cuDriverGetVersion") == 0) *function = (void*)cuDriverGetVersion;
  if (strncmp(name, "cuGetProcAddress", 16) == 0) *function = (void*)cuGetProcAddress_v2;
  if (status) *status = 0;
  return 0;
}
int cuGetProcAddress(const char* name, void** function, int version, unsigned long flags) {
  return cuGetProcAddress_v2(name, function, version, flags, 0);
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc")
@pytest.mark.parametrize(
    ("source", "version", "offered"),
    [(DRIVER, 11010, False), (DRIVER, 99090, True), ("int nothing;", 0, True)],
    ids=["too old", "no device", "no driver"],
)
def test_the_cuda_kernel_is_offered_unless_the_driver_is_too_old(
    source: str, version: int, offered: bool, tmp_path: Path
) -> None:
    """In a process of its own, on a driver that is found before the machine's."""
    if b"CUDAExecutionProvider" not in Path(LIBRARY).read_bytes():
        pytest.skip("the custom-op library was built without nvcc")
    (tmp_path / "driver.c").write_text(source)
    command = ["cc", "-shared", "-fPIC", f"-DVERSION={version}", "-o", "libcuda.so.1", "driver.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    program = f"import ctypes; print(ctypes.CDLL({LIBRARY!r}).lit_deploy_has_cuda())"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, str(int(offered))), result.stderr


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm: apt-get install binutils")
def test_exports_one_symbol_and_links_no_onnxruntime() -> None:
    def symbols(which: str) -> list[str]:
        listing = subprocess.run(["nm", "-D", which, LIBRARY], capture_output=True, text=True, check=True).stdout
        return [line.split()[-1] for line in listing.splitlines()]

    assert symbols("--defined-only") == ["RegisterCustomOps", "lit_deploy_has_cuda"]
    assert not [name for name in symbols("--undefined-only") if "Ort" in name]
    assert b"libonnxruntime.so" not in Path(LIBRARY).read_bytes()
