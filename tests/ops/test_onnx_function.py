"""The operator as an ONNX function, run by ONNX Runtime, against the reference and the official convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from support.exported import KERNELS
from support.golden import DCN_LIMIT, dcn_cases
from support.offsets import with_explicit_offsets

from lit_deploy.core.specs import OP_VERSION
from lit_deploy.machine.native import find_library
from lit_deploy.ops.deformable_token_merging.onnx_function import OPSET, onnx_function
from lit_deploy.ops.deformable_token_merging.reference import reference, tap_major_from_conv
from lit_deploy.ops.deformable_token_merging.schema import DOMAIN, OP_TYPE, register_onnx_schema

Array = NDArray[Any]
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
ULP = {"float32": 0.0, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Two float32 values a hair apart may round to neighbouring values of the narrower type."""


def one_node_model(dtype: str) -> onnx.ModelProto:
    """The operator alone, every size dynamic; float32 in and out, ``dtype`` inside."""
    shapes = {"x": ("B", "H", "W", "C"), "offset_weight": (8, "4C"), "offset_bias": (8,)}
    nodes = [helper.make_node("Cast", [name], [f"{name}_t"], to=TYPES[dtype]) for name in shapes]
    nodes.append(helper.make_node(OP_TYPE, [f"{name}_t" for name in shapes], ["y_t"], name="op", domain=DOMAIN))
    nodes.append(helper.make_node("Cast", ["y_t"], ["y"], to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        "one_node",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("B", "rows", "cols", "4C"))],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    return helper.make_model(graph, opset_imports=opsets, functions=[onnx_function()], ir_version=10)


def session(dtype: str = "float32", library: bool = False) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if library:
        options.register_custom_ops_library(str(find_library()))
    serialized = one_node_model(dtype).SerializeToString()
    return ort.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module", params=sorted(TYPES))
def typed(request: pytest.FixtureRequest) -> tuple[str, ort.InferenceSession]:
    """One session per element type; it runs every size, so batch, height and width are dynamic."""
    return request.param, session(request.param)


def run(target: ort.InferenceSession, *arrays: Array) -> Array:
    names = ("x", "offset_weight", "offset_bias")
    return target.run(["y"], dict(zip(names, (a.astype(np.float32) for a in arrays), strict=True)))[0]


def expected(dtype: str, *arrays: Array) -> Array:
    tensors = (torch.from_numpy(a.astype(np.float32)).to(getattr(torch, dtype)) for a in arrays)
    return reference(*tensors).float().numpy()


def assert_matches(dtype: str, got: Array, want: Array, tokens: Array) -> None:
    """At most 5e-6 of the scale of the tokens, plus one rounding of the narrower type."""
    assert got.shape == want.shape
    assert np.isfinite(got).all()
    scale = float(np.abs(tokens).max()) if tokens.size else 1.0
    np.testing.assert_allclose(got, want, rtol=ULP[dtype], atol=5e-6 * scale)


sizes = st.tuples(st.integers(0, 3), st.integers(2, 11), st.integers(2, 11), st.integers(1, 6))
bias = st.one_of(
    st.floats(-4, 4, width=32),
    st.sampled_from((np.nan, np.inf, -np.inf, 1e30, -1e30, 3e9, -3e9, 2.0**31, -1.0, -2.0, 0.0, 0.5)),
)


@settings(deadline=None, max_examples=60)
@given(shape=sizes, biases=st.lists(bias, min_size=8, max_size=8), spread=st.floats(0, 3), seed=st.integers(0, 2**31))
@example(shape=(2, 2, 2, 3), biases=[0.0] * 8, spread=0.5, seed=1)
@example(shape=(0, 4, 4, 2), biases=[0.0] * 8, spread=0.5, seed=1)
@example(shape=(1, 7, 3, 5), biases=[np.nan, 0, np.inf, 0, 0, -np.inf, 1e30, -1e30], spread=0.5, seed=1)
def test_equals_reference(
    typed: tuple[str, ort.InferenceSession],
    shape: tuple[int, int, int, int],
    biases: list[float],
    spread: float,
    seed: int,
) -> None:
    """Any batch (0 too), odd sizes, any offset: what the reference computes, and never a non-finite value."""
    dtype, target = typed
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    weight = spread * rng.standard_normal((8, 4 * shape[3])) / np.sqrt(4 * shape[3])
    arrays = (x, weight, np.array(biases))
    with np.errstate(over="ignore"):
        assert_matches(dtype, run(target, *arrays), expected(dtype, *arrays), x)


def test_map_sizes_of_the_networks(typed: tuple[str, ort.InferenceSession]) -> None:
    """The three merges of LIT-S and of an odd image, large offsets among them, one after the other."""
    dtype, target = typed
    for height, width, channels in ((56, 56, 96), (28, 28, 192), (14, 14, 384), (7, 33, 64), (2, 97, 5), (97, 2, 5)):
        rng = np.random.default_rng(height)
        x = rng.standard_normal((2, height, width, channels))
        weight = 3 * rng.standard_normal((8, 4 * channels)) / np.sqrt(4 * channels)
        arrays = (x, weight, rng.standard_normal(8))
        got, want = run(target, *arrays), expected(dtype, *arrays)
        # sums of 4C products differ in their order: some 1e-6 pixel, times the difference of two neighbours
        np.testing.assert_allclose(got, want, rtol=ULP[dtype], atol=5e-5)
        assert np.abs(got).mean() > 0.1


def test_each_tap_reads_its_own_token() -> None:
    """Without offsets the output is the patch, tap-major: a permutation of taps or axes would show exactly."""
    x = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    y = run(session(), x, np.zeros((8, 12)), np.zeros(8))
    for tap, (i, j) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        np.testing.assert_allclose(y[..., 3 * tap : 3 * tap + 3], x[:, i::2, j::2], rtol=0, atol=1e-4)


def test_offsets_are_dy_before_dx() -> None:
    """dy of +1 on tap 0 reads the token below, dx of +1 on tap 3 the one to the right; off the map reads 0."""
    x = np.arange(1 * 4 * 4 * 1, dtype=np.float32).reshape(1, 4, 4, 1) + 1
    y = run(session(), x, np.zeros((8, 4)), np.array([1, 0, 0, 0, 0, 0, 0, 1]))
    np.testing.assert_allclose(y[0, :, :, 0], x[0, 1::2, 0::2, 0], atol=1e-5)
    np.testing.assert_allclose(y[0, :, 0, 3], x[0, 1::2, 2, 0], atol=1e-5)
    np.testing.assert_allclose(y[0, :, 1, 3], 0, atol=1e-5)


@pytest.mark.parametrize("library", KERNELS)
@pytest.mark.parametrize("name", sorted(dcn_cases()))
def test_dcn_golden(name: str, library: bool) -> None:
    """The official deformable convolution, inside ONNX Runtime: operator, then projection."""
    case = dcn_cases()[name]
    tokens, offset_weight = with_explicit_offsets(case["input"], case["offset"])
    sampled = run(session(library=library), tokens.numpy(), offset_weight.numpy(), np.zeros(8))
    channels = case["input"].shape[1]
    patches = sampled.reshape(*sampled.shape[:3], 4, channels + 8)[..., :channels].reshape(*sampled.shape[:3], -1)
    projection = tap_major_from_conv(torch.from_numpy(case["weight"])).numpy()
    got = (patches @ projection.T + case["bias"]).transpose(0, 3, 1, 2)
    assert got.shape == case["output"].shape
    assert np.abs(got - case["output"]).max() <= DCN_LIMIT * np.abs(case["output"]).max()


def test_body_is_standard_onnx() -> None:
    function = onnx_function()
    assert (function.domain, function.name) == (DOMAIN, OP_TYPE)
    assert [(entry.domain, entry.version) for entry in function.opset_import] == [("", OPSET)]
    for node in function.node:
        assert node.domain == ""
        schema = onnx.defs.get_schema(node.op_type, OPSET, "")
        assert not schema.deprecated
        assert schema.support_level == onnx.defs.OpSchema.SupportType.COMMON
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in function.attribute_proto}
    assert attributes == {"plugin_namespace": b"lit_deploy", "plugin_version": b"1"}


@pytest.mark.parametrize("dtype", sorted(TYPES))
def test_checker_and_shape_inference(dtype: str) -> None:
    """The checker passes; where the schema is unknown, inference through the body finds type, rank and batch."""
    register_onnx_schema()
    register_onnx_schema()  # a second call is harmless
    model = one_node_model(dtype)
    onnx.checker.check_model(model, full_check=True)
    onnx.defs.deregister_schema(OP_TYPE, OP_VERSION, DOMAIN)
    try:
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    finally:
        register_onnx_schema()
    (value,) = (value for value in inferred.graph.value_info if value.name == "y_t")
    assert value.type.tensor_type.elem_type == TYPES[dtype]
    assert len(value.type.tensor_type.shape.dim) == 4


def test_runs_where_no_compiled_code_does() -> None:
    """The body needs no particular runtime: ONNX's own reference evaluator computes the same."""
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(5)
    arrays = (rng.standard_normal((2, 5, 6, 3)), 0.3 * rng.standard_normal((8, 12)), rng.standard_normal(8))
    evaluator = ReferenceEvaluator(one_node_model("float32"))
    names = ("x", "offset_weight", "offset_bias")
    (got,) = evaluator.run(None, dict(zip(names, (a.astype(np.float32) for a in arrays), strict=True)))
    np.testing.assert_allclose(got, expected("float32", *arrays), rtol=0, atol=2e-5)


@pytest.mark.parametrize("library", KERNELS)
@pytest.mark.parametrize("bias", [0.0, 1e9], ids=["on the map", "off the map"])
def test_infinite_tokens_spread_no_further(library: bool, bias: float) -> None:
    """An infinite token spoils its own patch at most: no other sample, wherever the others lie."""
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    x[0, 0, 0, 0] = np.inf
    arrays = (x, np.zeros((8, 4), np.float32), np.full(8, bias, np.float32))
    others = np.ones((1, 2, 2, 4), bool)
    others[0, 0, 0] = False
    want = np.zeros((1, 2, 2, 4)) if bias else reference(torch.from_numpy(np.where(np.isinf(x), 0, x)), *tail(arrays))
    for got in (run(session(library=library), *arrays), reference(*map(torch.from_numpy, arrays)).numpy()):
        np.testing.assert_allclose(got[others], np.asarray(want)[others], atol=1e-5)


def tail(arrays: tuple[Array, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in arrays[1:])
