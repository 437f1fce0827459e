"""Convolutions in 8 bits, and products of rank two: what they compute, and that ONNX Runtime runs them on integers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.engines import MANIFEST
from support.quantized import integer_products, run_plainly

from lit_deploy.artifacts.onnx_file import OnnxArtifact, with_value_info
from lit_deploy.exporters import qdq
from lit_deploy.exporters.qdq import Product, observed, quantized

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: pip install 'lit-deploy[ort]'")

Array = NDArray[Any]
RNG = np.random.default_rng(4)


def products(model: onnx.ModelProto) -> tuple[Product, ...]:
    """``qdq.products`` of a model that is made by hand and takes the tiny network's manifest."""
    return qdq.products(OnnxArtifact(model, MANIFEST), "int8")


def two_levels() -> onnx.ModelProto:
    """``relu(conv(x))`` and the same of ``2 * x``, with one weight, then a convolution of the first without ReLU."""
    weights = {
        "a.weight": RNG.standard_normal((6, 4, 3, 3)), "a.bias": RNG.standard_normal(6),
        "b.weight": RNG.standard_normal((5, 6, 3, 3)), "b.bias": RNG.standard_normal(5),
        "double": np.array(2.0),
    }  # fmt: skip
    weights["a.weight"][2] = 0.0
    nodes = [
        helper.make_node("Identity", ["x"], ["h"], "h/Identity"),
        helper.make_node("Mul", ["h", "double"], ["h2"], "h2/Mul"),
        helper.make_node("Conv", ["h", "a.weight", "a.bias"], ["c"], "a/Conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "a/Relu"),
        helper.make_node("Conv", ["h2", "a.weight", "a.bias"], ["c2"], "a/Conv_1", pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"], "a/Relu_1"),
        helper.make_node("Conv", ["r", "b.weight", "b.bias"], ["d"], "b/Conv", pads=[1] * 4),
        helper.make_node("Concat", ["d", "r2"], ["y"], "y/Concat", axis=1),
    ]
    graph = helper.make_graph(
        nodes, "levels", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 5, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 11, 5, 7])],
        [numpy_helper.from_array(weight.astype(np.float32), name) for name, weight in weights.items()],
    )  # fmt: skip
    return with_value_info(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def convolved(x: Array, weight: Array, bias: Array) -> Array:
    """A 3 x 3 convolution ``[1, C, H, W]`` with zeros around, tap by tap."""
    height, width = x.shape[2:]
    around = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    taps = [(i, j) for i in range(3) for j in range(3)]
    total = sum(
        np.einsum("oc,bchw->bohw", weight[:, :, i, j], around[:, :, i : i + height, j : j + width]) for i, j in taps
    )
    return np.asarray(total + bias[:, None, None], np.float32)


def test_numbers_of_convolutions() -> None:
    """What NumPy computes: results are rounded, behind a ReLU to 256 steps from 0 on; every level has its ranges."""
    model = two_levels()
    x = RNG.standard_normal((1, 4, 5, 7)).astype(np.float32)
    chosen = products(model)
    assert [(product.module, product.result, product.axis) for product in chosen] == [
        ("a", "r", 0), ("a", "r2", 0), ("b", "d", 0)
    ]  # fmt: skip
    limits = {"h": 2.0, "h2": 3.0, "r": 5.0, "r2": 4.0, "d": 20.0}
    assert observed(chosen) == ("h", "r", "h2", "r2", "d")
    result = quantized(model, "int8", limits, chosen)
    onnx.checker.check_model(result, full_check=True)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    weights = {}
    for name in "ab":
        stored, scale = tensors[f"{name}.weight/quantized"], tensors[f"{name}.weight/scale"]
        assert (stored.dtype, scale.shape) == (np.int8, stored.shape[:1])
        weights[name] = stored * scale[:, None, None, None]

    def signed(value: Array, limit: float) -> Array:
        step = np.float32(limit / 127)
        return np.asarray(np.clip(np.rint(value / step), -128, 127) * step, np.float32)

    def rectified(value: Array, limit: float) -> Array:
        step = np.float32(limit / 255)
        return np.asarray(np.clip(np.rint(value / step), 0, 255) * step, np.float32)

    first = rectified(convolved(signed(x, 2.0), weights["a"], tensors["a.bias"]), 5.0)
    second = rectified(convolved(signed(2 * x, 3.0), weights["a"], tensors["a.bias"]), 4.0)
    last = signed(convolved(first, weights["b"], tensors["b.bias"]), 20.0)
    found = run_plainly(result, x)
    expected = np.concatenate([last, second], axis=1)
    # a value half way between two steps may go either way, with what follows from it
    assert np.mean(np.abs(found - expected) > 1e-4) < 0.02
    assert np.abs(run_plainly(model, x) - expected).max() > 0.1, "the clipping shows"
    points = {name: int(tensors[f"{name}/zero_point"]) for name in limits}
    assert points == {"h": 128, "h2": 128, "r": 0, "r2": 0, "d": 128}
    assert {tensors[f"{name}/zero_point"].dtype for name in limits} == {np.dtype(np.uint8)}
    assert Counter(node.op_type for node in result.graph.node)["DequantizeLinear"] == 5 + 2, "one weight, one for both"


def test_convolutions_run_on_integers(tmp_path: Path) -> None:
    model = two_levels()
    chosen = products(model)
    path = tmp_path / "levels.onnx"
    onnx.save(quantized(model, "int8", dict.fromkeys(observed(chosen), 4.0), chosen), str(path))
    kinds = integer_products(path, tmp_path)
    assert kinds["QLinearConv"] == 3
    assert kinds["Conv"] + kinds["FusedConv"] + kinds["Relu"] == 0


def test_products_of_rank_two_run_on_integers(tmp_path: Path) -> None:
    """As behind regions, where a bias that is added would make a float Gemm of them."""
    weight, bias = RNG.standard_normal((16, 8)).astype(np.float32), RNG.standard_normal(8).astype(np.float32)
    nodes = [
        helper.make_node("Identity", ["x"], ["h"], "h/Identity"),
        helper.make_node("MatMul", ["h", "w.weight"], ["p"], "w/MatMul"),
        helper.make_node("Add", ["p", "w.bias"], ["y"], "w/Add"),
    ]
    graph = helper.make_graph(
        nodes, "rank two", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 8])],
        [numpy_helper.from_array(weight, "w.weight"), numpy_helper.from_array(bias, "w.bias")],
    )  # fmt: skip
    model = with_value_info(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    x = RNG.standard_normal((5, 16)).astype(np.float32)
    limit = float(np.abs(x).max())
    result = quantized(model, "int8", {"h": limit}, products(model))
    onnx.checker.check_model(result, full_check=True)
    path = tmp_path / "two.onnx"
    onnx.save(result, str(path))
    assert integer_products(path, tmp_path)["MatMulIntegerToFloat"] == 1
    np.testing.assert_allclose(run_plainly(result, x), x @ weight + bias, atol=0.3)
