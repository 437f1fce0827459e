"""RelativePositionAttention: reference, PyTorch operator and ONNX function against each other and the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.attention import (
    TYPES,
    ULP,
    Array,
    assert_attention_equal,
    attention_expected,
    attention_inputs,
    attention_model,
)

from lit_deploy.core.specs import OP_VERSION
from lit_deploy.models.blocks import Attention
from lit_deploy.models.keys import relative_position_index
from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.relative_position_attention.library import relative_position_attention
from lit_deploy.ops.relative_position_attention.onnx_function import OPSET, onnx_function
from lit_deploy.ops.relative_position_attention.reference import reference
from lit_deploy.ops.relative_position_attention.schema import OP_TYPE, register_onnx_schema
from lit_deploy.ops.relative_position_attention.small_maps import (
    MAX_TOKENS,
    bias_of,
    decomposed,
    has_small_maps_only,
)

HEADS = 3
BIASED = pytest.mark.parametrize("biased", [True, False], ids=["table", "no table"])
BLOCKS = pytest.mark.parametrize("blocks", [True, False], ids=["blocks", "plain"])
BODIES = [(biased, blocks) for biased in (True, False) for blocks in (True, False)]


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


Target = tuple[str, bool, ort.InferenceSession]


@pytest.fixture(scope="module", params=[(dtype, *body) for dtype in sorted(TYPES) for body in BODIES], ids=str)
def typed(request: pytest.FixtureRequest) -> Target:
    """One session per element type and body; it runs every size, so batch and map are dynamic."""
    dtype, biased, blocks = request.param
    return dtype, biased, session(attention_model(HEADS, 0.3, biased=biased, blocks=blocks, dtype=dtype))


def by_definition(feed: dict[str, Array], heads: int, scale: float) -> Array:
    """The formula of the documentation, in float64, with the official index of the biases."""
    qkv, table = (feed[name].astype(np.float64) for name in ("qkv", "table"))
    batch, tokens, width = qkv.shape
    q, k, v = qkv.reshape(batch, tokens, 3, heads, width // 3 // heads).transpose(2, 0, 3, 1, 4)
    logits = scale * q @ k.swapaxes(-1, -2)
    if table.size:
        height, columns = ((size + 1) // 2 for size in table.shape[1:])
        logits = logits + table.reshape(heads, -1)[:, relative_position_index(height, columns)]
    weights = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
    weights /= weights.sum(-1, keepdims=True)
    return (weights @ v).swapaxes(1, 2).reshape(batch, tokens, width // 3)


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(0, 3),
    heads=st.integers(1, 4),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    dim=st.integers(1, 20),
    biased=st.booleans(),
    seed=st.integers(0, 2**31),
)
@example(batch=1, heads=12, size=(14, 14), dim=32, biased=True, seed=1)
@example(batch=2, heads=1, size=(1, 9), dim=8, biased=True, seed=1)
def test_reference_is_the_definition(
    batch: int, heads: int, size: tuple[int, int], dim: int, biased: bool, seed: int
) -> None:
    feed = attention_inputs(batch, heads, *size, dim, biased=biased, seed=seed, sharp=2.0)
    assert_attention_equal(attention_expected(feed, heads, 0.4), by_definition(feed, heads, 0.4).astype(np.float32))


@settings(deadline=None, max_examples=20)
@given(
    batch=st.integers(0, 3),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    dim=st.sampled_from((1, 5, 8, 32, 64)),
    sharp=st.floats(0, 20),
    seed=st.integers(0, 2**31),
)
@example(batch=0, size=(3, 4), dim=8, sharp=1.0, seed=1)
@example(batch=1, size=(1, 1), dim=8, sharp=1.0, seed=1)
@example(batch=1, size=(1, 40), dim=8, sharp=5.0, seed=1)
@example(batch=2, size=(40, 1), dim=8, sharp=5.0, seed=1)
@example(batch=1, size=(20, 33), dim=32, sharp=2.0, seed=1)
def test_function_equals_reference(
    typed: Target,
    batch: int,
    size: tuple[int, int],
    dim: int,
    sharp: float,
    seed: int,
) -> None:
    dtype, biased, target = typed
    feed = attention_inputs(batch, HEADS, *size, dim, biased=biased, seed=seed, sharp=sharp)
    want = attention_expected(feed, HEADS, 0.3, dtype)
    assert_attention_equal(target.run(None, feed)[0], want, dtype=dtype, sharp=sharp)


@BIASED
@BLOCKS
@pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
def test_openvino_runs_the_inlined_function(biased: bool, blocks: bool, static: bool) -> None:
    openvino: Any = pytest.importorskip("openvino", reason="pip install openvino")
    for batch, rows, columns in ((1, 14, 14), (2, 5, 9), (1, 1, 12)):
        feed = attention_inputs(batch, HEADS, rows, columns, 32, biased=biased, seed=rows)
        shapes = {name: array.shape for name, array in feed.items()} if static else {}
        model = onnx.inliner.inline_local_functions(attention_model(HEADS, 0.3, biased=biased, blocks=blocks, **shapes))
        assert all(node.domain == "" for node in model.graph.node)
        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        fed = {name: array for name, array in feed.items() if biased or name == "qkv"}  # unused inputs are dropped
        assert_attention_equal(compiled(fed)[0], attention_expected(feed, HEADS, 0.3))


@BIASED
@BLOCKS
def test_runs_where_no_compiled_code_does(biased: bool, blocks: bool) -> None:
    """The body needs no particular runtime: ONNX's own reference evaluator computes the same."""
    from onnx.reference import ReferenceEvaluator

    feed = attention_inputs(2, HEADS, 4, 5, 8, biased=biased)
    (got,) = ReferenceEvaluator(attention_model(HEADS, 0.3, biased=biased, blocks=blocks)).run(None, feed)
    assert_attention_equal(got, attention_expected(feed, HEADS, 0.3))


@BIASED
@pytest.mark.parametrize("block", [1, 700, 5000])
def test_any_number_of_blocks_computes_the_same(block: int, biased: bool) -> None:
    """Several blocks, the last of them filled up, down to one row each: another limit in the body alone."""
    function = onnx_function(biased, blocks=True)
    (limit,) = (node for node in function.node if node.output[0] == "most")
    limit.attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(np.array([block])))
    target = session(attention_model(HEADS, 0.3, functions=[function]))
    for batch, rows, columns in ((1, 7, 5), (2, 13, 3), (1, 1, 20), (1, 20, 1)):
        feed = attention_inputs(batch, HEADS, rows, columns, 8, biased=biased, seed=rows)
        assert_attention_equal(target.run(None, feed)[0], attention_expected(feed, HEADS, 0.3))


@BIASED
@BLOCKS
def test_body_is_standard_onnx(biased: bool, blocks: bool) -> None:
    function = onnx_function(biased, blocks)
    assert (function.domain, function.name) == (DOMAIN, OP_TYPE)
    assert [(entry.domain, entry.version) for entry in function.opset_import] == [("", OPSET)]
    assert sorted(function.attribute) == ["num_heads", "scale"]
    nodes = list(function.node)
    for node in nodes:  # grows by the bodies of loops
        nodes += [inner for attribute in node.attribute for inner in attribute.g.node]
        assert node.domain == ""
        schema = onnx.defs.get_schema(node.op_type, OPSET, "")
        assert not schema.deprecated
        assert schema.support_level == onnx.defs.OpSchema.SupportType.COMMON


@BIASED
@BLOCKS
@pytest.mark.parametrize("dtype", sorted(TYPES))
def test_checker_and_shape_inference(dtype: str, biased: bool, blocks: bool) -> None:
    register_onnx_schema()
    register_onnx_schema()  # a second call is harmless
    model = attention_model(HEADS, 0.3, biased=biased, blocks=blocks, dtype=dtype, qkv=("B", "N", 144))
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    (value,) = (value for value in inferred.graph.value_info if value.name == "y_t")
    assert value.type.tensor_type.elem_type == TYPES[dtype]
    batch, tokens, channels = value.type.tensor_type.shape.dim
    assert (batch.dim_param, tokens.dim_param, channels.dim_value) == ("B", "N", 48)
    onnx.defs.deregister_schema(OP_TYPE, OP_VERSION, DOMAIN)
    try:  # where the schema is unknown, through the body
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    finally:
        register_onnx_schema()


def test_schema_wants_both_attributes() -> None:
    register_onnx_schema()
    for missing in ("num_heads", "scale"):
        model = attention_model(HEADS, 0.3, functions=[])
        (node,) = (node for node in model.graph.node if node.op_type == OP_TYPE)
        kept = [attribute for attribute in node.attribute if attribute.name != missing]
        del node.attribute[:]
        node.attribute.extend(kept)
        with pytest.raises(onnx.checker.ValidationError, match=missing):
            onnx.checker.check_model(model)


@pytest.mark.parametrize(
    ("qkv", "table", "message"),
    [
        ((1, 12, 54), (2, 5, 7), r"table has shape \[2, 5, 7\], expected \[3, 2H-1, 2W-1\] with H\*W = 12"),
        ((1, 12, 27), (3, 5, 9), r"table has shape \[3, 5, 9\], expected"),
        ((1, 12, 27), (3, 6, 7), r"table has shape \[3, 6, 7\], expected"),
        ((1, 12, 28), (3, 5, 7), r"qkv has 28 columns, expected a multiple of 3 \* num_heads = 9"),
    ],
    ids=["heads", "tokens", "even", "width"],
)
def test_shapes_that_do_not_fit_are_refused(qkv: tuple[int, ...], table: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reference(torch.zeros(qkv), torch.zeros(table), 3, 1.0)


@BIASED
def test_gradients(biased: bool) -> None:
    """Of the reference, and of the opaque operator, which must be the same."""
    generator = torch.Generator().manual_seed(3)
    qkv = torch.randn(1, 6, 18, dtype=torch.float64, generator=generator, requires_grad=True)
    shape = (3, 3, 5) if biased else (0, 1, 1)
    table = torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=biased)
    inputs = (qkv, table) if biased else (qkv,)
    operator = torch.ops.lit_deploy.relative_position_attention

    def of_reference(*tensors: torch.Tensor) -> torch.Tensor:
        return reference(tensors[0], tensors[1] if biased else table, 3, 0.5)

    def of_operator(*tensors: torch.Tensor) -> torch.Tensor:
        return operator(tensors[0], tensors[1] if biased else table, 3, 0.5)

    assert torch.autograd.gradcheck(of_reference, inputs)
    assert torch.autograd.gradcheck(of_operator, inputs)
    # The whole of opcheck compiles, for minutes; these two are what an exporter relies on.
    torch.library.opcheck(
        operator, (*inputs, *(() if biased else (table,)), 3, 0.5), test_utils=("test_schema", "test_faketensor")
    )


class ResizingNetwork(torch.nn.Module):
    """Tokens of any map, and a table resized to it: what the dense networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = torch.nn.Linear(24, 72)
        self.register_buffer("table", torch.randn(3, 9, 9, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, height, width, _ = x.shape
        size = (2 * height - 1, 2 * width - 1)
        table = torch.nn.functional.interpolate(self.table[None], size, mode="bicubic", align_corners=False)[0]
        return relative_position_attention(self.qkv(x.flatten(1, 2)), table, 3, 0.35).unflatten(1, (height, width))


def test_exports_with_every_size_dynamic() -> None:
    """One opaque node, in a program that runs maps of other sizes than the example's."""
    network = ResizingNetwork().eval()
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("h", max=200), 2: torch.export.Dim("w", max=200)}
    program = torch.export.export(network, (torch.randn(2, 4, 5, 24),), dynamic_shapes=(dims,))
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count(torch.ops.lit_deploy.relative_position_attention.default) == 1
    for batch, height, width in ((1, 9, 3), (3, 2, 2), (2, 4, 5)):
        x = torch.randn(batch, height, width, 24)
        torch.testing.assert_close(program.module()(x), network(x))


def test_outside_an_export_the_operator_is_the_reference() -> None:
    """No opaque call: torch.compile sees through it, and autograd needs no formula of ours."""
    qkv, table = torch.randn(1, 6, 18, requires_grad=True), torch.randn(3, 3, 5)
    result = relative_position_attention(qkv, table, 3, 0.5)
    assert torch.equal(result, reference(qkv, table, 3, 0.5))
    assert result.grad_fn is not None
    assert "relative_position_attention" not in result.grad_fn.name()


def test_half_types_round_once() -> None:
    """Computed in float32: the result is the float32 result of the same inputs, rounded."""
    feed = attention_inputs(1, HEADS, 6, 7, 16, seed=4)
    for dtype in (torch.float16, torch.bfloat16):
        qkv, table = torch.from_numpy(feed["qkv"]).to(dtype), torch.from_numpy(feed["table"])
        got = reference(qkv, table, HEADS, 0.25)
        assert got.dtype == dtype
        torch.testing.assert_close(got, reference(qkv.float(), table, HEADS, 0.25).to(dtype), rtol=0, atol=0)


def test_attributes_of_the_node_reach_the_body() -> None:
    """Another number of heads and another scale give another result, each that of the reference."""
    feed = attention_inputs(1, 4, 5, 6, 8, biased=False)
    results = []
    for heads, scale in ((4, 0.35), (2, 0.35), (4, 1.7)):
        results.append(session(attention_model(heads, scale, biased=False)).run(None, feed)[0])
        assert_attention_equal(results[-1], attention_expected(feed, heads, scale))
    assert not np.allclose(results[0], results[1], atol=1e-2)
    assert not np.allclose(results[0], results[2], atol=1e-2)


def small_model(
    heads: int, scale: float, feed: dict[str, Array], dtype: str, **functions: list[onnx.FunctionProto]
) -> onnx.ModelProto:
    """As an exporter writes it: the table a constant, shapes known but for the batch."""
    tokens, width = feed["qkv"].shape[1:]
    model = attention_model(heads, scale, dtype=dtype, qkv=("B", tokens, width), **functions)
    model.graph.initializer.append(onnx.numpy_helper.from_array(feed["table"], "table"))
    del model.graph.input[1]
    model.graph.node[1].name = "layers.2.blocks.0.attn/RelativePositionAttention"
    return onnx.shape_inference.infer_shapes(model)


def half_bound(feed: dict[str, Array], heads: int, scale: float, dtype: str) -> float:
    """How far products of a half type may lie from the definition.

    Scaled q, products, bias and logits are rounded, which moves weights by a factor; so are weights and results.
    """
    unit = ULP[dtype] / 2
    sizes = np.abs(feed["qkv"]).reshape(*feed["qkv"].shape[:2], 3, heads, -1).transpose(2, 0, 3, 1, 4)
    largest = scale * (sizes[0] @ sizes[1].swapaxes(-1, -2)).max() + np.abs(feed["table"]).max(initial=0)
    return float((np.expm1(2 * 4 * unit * largest) + 3 * unit) * sizes[2].max()) + 1e-5


@BIASED
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("dtype", sorted(TYPES))
def test_small_maps_are_written_out(dtype: str, scale: float, biased: bool) -> None:
    """Products, bias and softmax under the attention's name; no shape is computed, nothing of the operator is left."""
    from onnx.reference import ReferenceEvaluator

    feed = attention_inputs(2, HEADS, 4, 5, 8, biased=biased)
    model = small_model(HEADS, scale, feed, dtype)
    before = model.SerializeToString()
    result = decomposed(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(result, full_check=True)
    assert {node.domain for node in result.graph.node} == {""}
    assert not result.functions
    assert decomposed(result) is result
    inner = [node for node in result.graph.node if node.name.startswith("layers.2.blocks.0.attn/")]
    assert len({node.name for node in inner}) == len(inner) == len(result.graph.node) - 2
    assert not {node.op_type for node in inner} & {"Shape", "Gather", "Range", "Concat", "CastLike"}
    assert [tensor.name for tensor in result.graph.initializer] == ["layers.2.blocks.0.attn/bias"] * biased
    want = attention_expected(feed, HEADS, scale, dtype)
    bound = 1e-5 if dtype == "float32" else half_bound(feed, HEADS, scale, dtype)
    for batch in (2, 0):
        qkv = feed["qkv"][:batch]
        (got,) = ReferenceEvaluator(result).run(None, {"qkv": qkv})
        np.testing.assert_allclose(got, want[:batch], rtol=0, atol=bound)
        if dtype != "bfloat16":  # ONNX Runtime multiplies none on a CPU
            np.testing.assert_allclose(session(result).run(None, {"qkv": qkv})[0], want[:batch], rtol=0, atol=bound)


@BIASED
@pytest.mark.parametrize("dtype", sorted(TYPES))
def test_narrow_body(dtype: str, biased: bool) -> None:
    """In float32 it is the plain one; in a half type products are rounded, and the softmax is that of float32."""
    from onnx.reference import ReferenceEvaluator

    feed = attention_inputs(2, HEADS, 4, 5, 8, biased=biased)
    model = attention_model(HEADS, 0.3, dtype=dtype, functions=[onnx_function(biased, narrow=True)])
    want = attention_expected(feed, HEADS, 0.3, dtype)
    bound = 1e-5 if dtype == "float32" else half_bound(feed, HEADS, 0.3, dtype)
    np.testing.assert_allclose(ReferenceEvaluator(model).run(None, feed)[0], want, rtol=0, atol=bound)
    if dtype != "bfloat16":  # ONNX Runtime multiplies none on a CPU
        np.testing.assert_allclose(session(model).run(None, feed)[0], want, rtol=0, atol=bound)


def test_which_maps_are_small() -> None:
    """Few tokens, and their number known; one other attention and all stays as it is."""
    feed = attention_inputs(1, HEADS, 4, 5, 8)
    model = small_model(HEADS, 0.3, feed, "float32")
    assert has_small_maps_only(model.graph)
    for tokens in ("N", MAX_TOKENS + 1):
        other = onnx.shape_inference.infer_shapes(attention_model(HEADS, 0.3, qkv=("B", tokens, 72)))
        assert not has_small_maps_only(other.graph)
        assert decomposed(other) is other


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (3, 5), (7, 7)], ids=str)
def test_bias_is_what_the_official_index_gathers(size: tuple[int, int]) -> None:
    """The stored table ``[(2H-1)*(2W-1), heads]`` gathered by the buffer of the official checkpoints, query first."""
    rows, columns = size
    stored = np.random.default_rng(1).standard_normal(((2 * rows - 1) * (2 * columns - 1), HEADS)).astype(np.float32)
    gathered = stored[relative_position_index(rows, columns)].transpose(2, 0, 1)
    table = stored.T.reshape(HEADS, 2 * rows - 1, 2 * columns - 1)
    assert np.array_equal(bias_of(table), gathered)
    attention = Attention(HEADS * 8, HEADS, size)
    attention.relative_position_bias_table.data = torch.from_numpy(stored)
    assert np.array_equal(attention.table().detach(), table)
    assert np.array_equal(attention.bias().detach(), gathered)


def test_without_a_table_any_number_of_tokens_attends() -> None:
    """A class token stands beside the map: 50 tokens lie on no map, and 51 = 3 * 17 of them are none either."""
    for tokens in (1, 2, 50, 51):
        feed = attention_inputs(2, HEADS, 1, tokens, 8, biased=False, seed=tokens)
        want = attention_expected(feed, HEADS, 0.3)
        assert_attention_equal(want, by_definition(feed, HEADS, 0.3).astype(np.float32))
        for blocks in (True, False):
            run = session(attention_model(HEADS, 0.3, biased=False, blocks=blocks))
            assert_attention_equal(run.run(None, feed)[0], want)


def test_worked_example_of_the_documentation() -> None:
    qkv = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 0.0, 5.0]]])
    table = torch.tensor([[[0.0, 0.0, float(np.log(3.0))]]])
    torch.testing.assert_close(reference(qkv, table, 1, 1.0), torch.tensor([[[3.0], [2.0]]]))
