"""Explicit quantisation: QuantizeLinear and DequantizeLinear around the matrix products of an exported graph.

Activations have one symmetric scale (zero point 0, as TensorRT demands), weights one per output channel. Norms, GELU,
softmax, offsets, the merging operator and residual sums stay in the type that the graph has. Patch embedding and
classifier do too: few operations, and the most sensitive ones (source: NVIDIA's recipe for ViT, which fp8 follows in
attention as well).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.core.errors import ExportError, UsageError
from lit_deploy.core.specs import EightBit
from lit_deploy.models.families import FAMILIES

if TYPE_CHECKING:
    import onnx

LARGEST = {"int8": 127.0, "fp8": 448.0}
"""Magnitude that the largest one gets; in int8 -128 serves only activations that are clipped."""


@dataclass(frozen=True)
class Product:
    """A matrix product that can be quantised.

    Attributes:
        module: name of the PyTorch module it belongs to; ``<attention>.products`` for both inside an attention.
        node: name of its node.
        activations: its inputs that are computed.
        weight: its constant input ``[in, out]``, None for a product inside an attention.
        probabilities: the one of ``activations`` that is a softmax, and so lies in 0..1; None for the others.
    """

    module: str
    node: str
    activations: tuple[str, ...]
    weight: str | None
    probabilities: str | None = None


def products(artifact: OnnxArtifact, precision: EightBit, keep: Sequence[str] = ()) -> tuple[Product, ...]:
    """List the matrix products that ``quantized`` changes, in the order they run.

    Args:
        artifact: an exported model whose graph holds no Q/DQ yet; its family says which layers stay in any case.
        precision: products inside attention are quantised for fp8 only: on a CPU and in int8 they gain nothing.
        keep: shell-style patterns of module names (``layers.0.*``) that stay as they are; a module's name covers
            everything below it.

    Raises:
        UsageError: a pattern matches no such module.
    """
    graph, never = artifact.graph.graph, FAMILIES[artifact.manifest.model.family].unquantised
    constant = {value.name for value in graph.initializer}
    producer = {value: node for node in graph.node for value in node.output}
    found = []
    for node in graph.node:
        module = node.name.rpartition("/")[0]
        if node.op_type != "MatMul" or module in never:
            continue
        left, right = node.input
        if right in constant:
            found.append(Product(module, node.name, (left,), right))
        elif precision == "fp8":
            before = producer[left]
            while before.op_type == "Cast":  # a softmax in float32 inside a graph of float16
                before = producer[before.input[0]]
            softmax = left if before.op_type == "Softmax" else None
            found.append(
                Product(
                    module=f"{module}.products",
                    node=node.name,
                    activations=(left, right),
                    weight=None,
                    probabilities=softmax,
                )
            )
    for pattern in keep:
        if not any(_covers(pattern, product.module) for product in found):
            names = ", ".join(dict.fromkeys(product.module for product in found[:3]))
            raise UsageError(f"nothing that could be quantised is named '{pattern}'; names are {names}, ...")
    return tuple(product for product in found if not any(_covers(pattern, product.module) for pattern in keep))


def _covers(pattern: str, module: str) -> bool:
    return fnmatch.fnmatchcase(module, pattern) or fnmatch.fnmatchcase(module, f"{pattern}.*")


def observed(chosen: Sequence[Product]) -> tuple[str, ...]:
    """The values whose range must be known to quantise these products."""
    return tuple(dict.fromkeys(v for product in chosen for v in product.activations if v != product.probabilities))


def quantized(
    proto: onnx.ModelProto, precision: EightBit, amax: Mapping[str, float], chosen: Sequence[Product]
) -> onnx.ModelProto:
    """Quantise products of an exported model; the model that is handed in stays as it is.

    Args:
        proto: an exported model of float32, float16 or bfloat16; scales get its type.
        precision: ``int8`` or ``fp8`` (float8 E4M3, finite: FLOAT8E4M3FN).
        amax: for every value of ``observed(chosen)``, the largest magnitude to represent.
        chosen: what to quantise, of ``products``.

    Returns:
        A model whose chosen products read QuantizeLinear-DequantizeLinear pairs and weights stored in 8 bits. Where the
        batch is fixed, biases behind them are stored ``[1, ..., 1, out]`` (see ``_widen_biases``).

    Raises:
        ExportError: a weight is not finite.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    types = {info.name: info.type.tensor_type.elem_type for info in graph.value_info}
    nodes = _Nodes(precision)
    weights = {value.name: value for value in graph.initializer}
    by_node = {product.node: product for product in chosen}
    for node in graph.node:
        product = by_node.get(node.name)
        if product is not None:
            for position, value in enumerate(product.activations):
                largest = 1.0 if value == product.probabilities else amax[value]
                element = onnx.helper.tensor_dtype_to_np_dtype(types[value])
                node.input[position] = nodes.activation(value, largest, element)
            if product.weight is not None:
                nodes.weight(weights.pop(product.weight))
        nodes.add(node)
    del graph.node[:]
    graph.node.extend(nodes.nodes)
    del graph.initializer[:]
    graph.initializer.extend([*weights.values(), *nodes.constants])
    if precision == "int8" and proto.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value"):
        _widen_biases(result, chosen)
    return result


def _widen_biases(model: onnx.ModelProto, chosen: Sequence[Product]) -> None:
    """Give biases behind quantised products the rank of what they are added to.

    Where all shapes are fixed, ONNX Runtime 1.31 would turn a product and a bias of one axis into a Gemm before it
    looks for Q/DQ, and compute that in float32, dequantising the weight on every run.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    ranks = {info.name: len(info.type.tensor_type.shape.dim) for info in model.graph.value_info}
    quantised = {product.node for product in chosen if product.weight is not None}
    outputs = {node.output[0] for node in model.graph.node if node.name in quantised}
    widened = set()
    for node in model.graph.node:
        product = next((value for value in node.input if value in outputs), None)
        for value in node.input:
            if node.op_type == "Add" and product is not None and value in tensors and len(tensors[value].dims) == 1:
                tensors[value].dims[:] = [*[1] * (ranks[product] - 1), *tensors[value].dims]
                widened.add(value)
    kept = [info for info in model.graph.value_info if info.name not in widened]  # they tell the old shape
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


class _Nodes:
    """The nodes and constants of the new graph, as they are made."""

    def __init__(self, precision: EightBit) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._precision = precision
        self._dequantized: dict[str, str] = {}

    def add(self, node: onnx.NodeProto) -> None:
        self.nodes.append(node)

    def activation(self, value: str, largest: float, element: np.dtype[Any]) -> str:
        """Quantise and dequantise a value, once for all that read it; return the name of the result."""
        if value not in self._dequantized:
            scale = _scale(np.float64(largest), self._precision, element)
            parameters = self._parameters(value, scale)
            self._node("QuantizeLinear", [value, *parameters], f"{value}/quantized")
            self._node("DequantizeLinear", [f"{value}/quantized", *parameters], f"{value}/dequantized")
            self._dequantized[value] = f"{value}/dequantized"
        return self._dequantized[value]

    def weight(self, tensor: onnx.TensorProto) -> None:
        """Store a weight ``[in, out]`` in 8 bits with one scale per column, and dequantise it under its old name."""
        from onnx import numpy_helper

        values = numpy_helper.to_array(tensor)
        if not np.isfinite(values).all():
            raise ExportError(f"the weight '{tensor.name}' holds values that are not finite, so it has no range")
        wide = values.astype(np.float32)
        scale = _scale(np.abs(wide).max(axis=0), self._precision, values.dtype)
        eight_bits = _rounded(np.divide(wide, scale, dtype=np.float32), self._precision)
        self.constants.append(numpy_helper.from_array(eight_bits, f"{tensor.name}/quantized"))
        inputs = [f"{tensor.name}/quantized", *self._parameters(tensor.name, scale)]
        self._node("DequantizeLinear", inputs, tensor.name, axis=1)

    def _parameters(self, name: str, scale: NDArray[Any]) -> tuple[str, str]:
        """Constants for scale and zero point; the latter also says which 8 bits are meant."""
        from onnx import numpy_helper

        zero = _rounded(np.zeros(np.shape(scale), np.float32), self._precision)
        self.constants.append(numpy_helper.from_array(scale, f"{name}/scale"))
        self.constants.append(numpy_helper.from_array(zero, f"{name}/zero_point"))
        return f"{name}/scale", f"{name}/zero_point"

    def _node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], f"{output}/{kind}", **attributes))


def _scale(largest: np.float64 | NDArray[np.float32], precision: EightBit, element: np.dtype[Any]) -> NDArray[Any]:
    """Scales in the type of the graph; never zero or denormal, which would make infinities."""
    import ml_dtypes

    smallest = float(ml_dtypes.finfo(element).tiny)  # type: ignore[no-untyped-call]
    return np.maximum(largest / LARGEST[precision], smallest).astype(element)


def _rounded(values: NDArray[np.float32], precision: EightBit) -> NDArray[Any]:
    """To the nearest representable number, ties to even, clipped to the range."""
    from ml_dtypes import float8_e4m3fn

    clipped = np.clip(values, -LARGEST[precision], LARGEST[precision])
    return np.rint(clipped).astype(np.int8) if precision == "int8" else clipped.astype(float8_e4m3fn)
