"""One-node models of RelativePositionAttention, their inputs and what is expected of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from lit_deploy.core.specs import OP_VERSION
from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.relative_position_attention.onnx_function import OPSET, onnx_function
from lit_deploy.ops.relative_position_attention.reference import reference
from lit_deploy.ops.relative_position_attention.schema import OP_TYPE

Array = NDArray[Any]
Shape = tuple[int | str | None, ...]

TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
ULP = {"float32": 0.0, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Two float32 values a hair apart may round to neighbouring values of the narrower type."""


def attention_model(
    heads: int,
    scale: float,
    *,
    biased: bool = True,
    blocks: bool = False,
    dtype: str = "float32",
    qkv: Shape = ("B", "N", "3C"),
    table: Shape = (None, None, None),
    functions: list[onnx.FunctionProto] | None = None,
) -> onnx.ModelProto:
    """The operator alone; float32 in and out, ``dtype`` inside; every size dynamic unless shapes are given."""
    nodes = [
        helper.make_node("Cast", ["qkv"], ["qkv_t"], to=TYPES[dtype]),
        helper.make_node(
            OP_TYPE, ["qkv_t", "table"], ["y_t"], name="op", domain=DOMAIN, num_heads=heads, scale=float(scale)
        ),
        helper.make_node("Cast", ["y_t"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "one_node",
        [
            helper.make_tensor_value_info("qkv", TensorProto.FLOAT, qkv),
            helper.make_tensor_value_info("table", TensorProto.FLOAT, table),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (None, None, None))],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    functions = [onnx_function(biased, blocks)] if functions is None else functions
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


def attention_inputs(
    batch: int, heads: int, rows: int, columns: int, dim: int, *, biased: bool = True, seed: int = 0, sharp: float = 1.0
) -> dict[str, Array]:
    """Random ``qkv`` and ``table``; ``sharp`` multiplies the queries and the bias."""
    rng = np.random.default_rng(seed)
    qkv = rng.standard_normal((batch, rows * columns, 3 * heads * dim))
    qkv[..., : heads * dim] *= sharp
    table = sharp * rng.standard_normal((heads, 2 * rows - 1, 2 * columns - 1) if biased else (0, 1, 1))
    return {"qkv": qkv.astype(np.float32), "table": table.astype(np.float32)}


def attention_expected(feed: dict[str, Array], heads: int, scale: float, dtype: str = "float32") -> Array:
    """The reference, computed in ``dtype``'s arithmetic, as float32."""
    qkv = torch.from_numpy(feed["qkv"]).to(getattr(torch, dtype))
    return reference(qkv, torch.from_numpy(feed["table"]), heads, scale).float().numpy()


def assert_attention_equal(got: Array, want: Array, *, dtype: str = "float32", sharp: float = 1.0) -> None:
    """At most 1e-5 of the values' scale, plus one rounding of the narrower type; logits of sharp inputs round, too."""
    assert got.shape == want.shape
    assert np.isfinite(got).all()
    scale = max(1.0, float(np.abs(want).max(initial=0)))
    np.testing.assert_allclose(got, want, rtol=ULP[dtype], atol=1e-5 * scale * max(1.0, sharp / 4))
