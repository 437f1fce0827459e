"""Explicit quantisation: QuantizeLinear and DequantizeLinear around the products and convolutions of an exported graph.

Activations have one symmetric scale (zero point 0, as TensorRT demands), weights one per output channel. Norms, GELU,
softmax, offsets, the merging operator, attention, residual sums and box arithmetic stay in the type that the graph has.
Patch embedding and last layers do too (``Family.unquantised``): few operations, and the most sensitive ones (source:
NVIDIA's recipe for ViT, which fp8 follows in attention as well).

The convolutions of necks and heads differ from products in two ways. ONNX Runtime has integer kernels only for those
whose *result* is of 8 bits again, so all who read it read it rounded. And their activations are *unsigned*, with zero
point 128, which is the same numbers: where several read one signed value, ONNX Runtime 1.31 on x86 leaves it signed,
makes others unsigned, and finds no kernel for the mixture. What comes out of a ReLU is never negative: its zero point
is 0, all 256 integers count, and as clipping does the ReLU's work, runtimes drop it. Biases stay as they are; runtimes
round them to 32 bits. A convolution that runs on several levels has one stored weight, and ranges level by level.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.onnx_file import OnnxArtifact, with_value_info
from lit_deploy.core.errors import ExportError, UsageError
from lit_deploy.core.specs import EightBit, TaskName
from lit_deploy.models.families import FAMILIES
from lit_deploy.ops.relative_position_attention.small_maps import decomposed

if TYPE_CHECKING:
    import onnx

LARGEST = {"int8": 127.0, "fp8": 448.0}
"""Magnitude that the largest one gets; in int8 -128 serves only activations that are clipped."""


@dataclass(frozen=True)
class Product:
    """A matrix product, or a convolution, that can be quantised.

    Attributes:
        module: name of the PyTorch module it belongs to; ``<attention>.products`` for both inside an attention.
        node: name of its node.
        activations: its inputs that are computed.
        weight: its constant input ``[in, out]``, of a convolution ``[out, in, h, w]``; None for a product inside an
            attention.
        probabilities: the one of ``activations`` that is a softmax, and so lies in 0..1; None for the others.
        result: of a convolution, the value that is rounded for all who read it: its output, or that of the ReLU behind;
            None for products.
        axis: of the weight's output channels.
    """

    module: str
    node: str
    activations: tuple[str, ...]
    weight: str | None
    probabilities: str | None = None
    result: str | None = None
    axis: int = 1


def opened(artifact: OnnxArtifact, precision: EightBit) -> OnnxArtifact:
    """The form of a graph in which products are quantised: for fp8, with those inside attention in sight."""
    if precision != "fp8":
        return artifact
    return replace(artifact, graph=with_value_info(decomposed(artifact.graph)))


def products(artifact: OnnxArtifact, precision: EightBit, keep: Sequence[str] = ()) -> tuple[Product, ...]:
    """List the matrix products and convolutions that ``quantized`` changes, in the order they run.

    Args:
        artifact: an exported model whose graph holds no Q/DQ yet, ``opened`` for this precision; its family says which
            layers stay in any case.
        precision: products inside attention are quantised for fp8 only: on a CPU and in int8 they gain nothing.
        keep: shell-style patterns of module names (``layers.0.*``) that stay as they are; a module's name covers
            everything below it.

    Raises:
        UsageError: a pattern matches no such module, or a precision that the task cannot have.
    """
    check_precision(artifact.manifest.task, precision)
    graph, never = artifact.graph.graph, FAMILIES[artifact.manifest.model.family].unquantised
    constant = {value.name for value in graph.initializer}
    producer = {value: node for node in graph.node for value in node.output}
    readers = _readers(graph)
    found = []
    for node in graph.node:
        module = node.name.rpartition("/")[0]
        if node.op_type not in ("MatMul", "Conv") or module in never:
            continue
        if node.op_type == "Conv":
            # an inlined operator convolves, too: its weight is no module's own
            if node.input[1] == f"{module}.weight" and node.input[1] in constant:
                found.append(
                    Product(
                        module=module,
                        node=node.name,
                        activations=(node.input[0],),
                        weight=node.input[1],
                        result=_behind_relu(node.output[0], readers),
                        axis=0,
                    )
                )
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


def check_precision(task: TaskName, precision: EightBit) -> None:
    """Raise UsageError when a task has no use for a precision."""
    if precision == "fp8" and task != "classification":
        raise UsageError(
            f"fp8 is for engines, and there is none of a network for {task.replace('_', ' ')} yet; use --precision int8"
        )


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read a value, by its name."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for value in node.input:
            readers.setdefault(value, []).append(node)
    return readers


def _behind_relu(value: str, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> str:
    """The value, or what a ReLU makes of it where nobody else reads it."""
    by = readers.get(value, ())
    return by[0].output[0] if len(by) == 1 and by[0].op_type == "Relu" else value


def _covers(pattern: str, module: str) -> bool:
    return fnmatch.fnmatchcase(module, pattern) or fnmatch.fnmatchcase(module, f"{pattern}.*")


def observed(chosen: Sequence[Product]) -> tuple[str, ...]:
    """The values whose range must be known to quantise these products."""
    values = (value for product in chosen for value in (*product.activations, product.result))
    known = {product.probabilities for product in chosen}
    return tuple(dict.fromkeys(value for value in values if value is not None and value not in known))


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
        A model whose chosen products and convolutions read QuantizeLinear-DequantizeLinear pairs and weights stored in
        8 bits; whoever reads the result of such a convolution reads a pair as well. Where the batch is fixed, biases
        behind products are stored ``[1, ..., 1, out]`` (see ``_widen_biases``).

    Raises:
        ExportError: a weight is not finite.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    types = {info.name: info.type.tensor_type.elem_type for info in graph.value_info}
    unsigned = {value: 128 for product in chosen if product.result for value in (*product.activations, product.result)}
    if precision == "int8":
        unsigned |= {value: 0 for node in graph.node if node.op_type == "Relu" for value in node.output}
    nodes = _Nodes(precision, unsigned)
    weights = {value.name: value for value in graph.initializer}
    by_node = {product.node: product for product in chosen}
    results = {product.result for product in chosen}

    def rounded(value: str, largest: float) -> str:
        return nodes.activation(value, largest, onnx.helper.tensor_dtype_to_np_dtype(types[value]))

    for node in graph.node:
        product = by_node.get(node.name)
        for position, value in enumerate(node.input):
            if product is not None and value in product.activations:
                node.input[position] = rounded(value, 1.0 if value == product.probabilities else amax[value])
            elif value in results:
                node.input[position] = rounded(value, amax[value])
        if product is not None and product.weight in weights:  # levels share one: the first of them stores it
            nodes.weight(weights.pop(product.weight), product.axis)
        nodes.add(node)
    del graph.node[:]
    graph.node.extend(nodes.nodes)
    del graph.initializer[:]
    graph.initializer.extend([*weights.values(), *nodes.constants])
    if precision == "int8" and proto.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value"):
        _widen_biases(result, chosen)
    return result


def _widen_biases(model: onnx.ModelProto, chosen: Sequence[Product]) -> None:
    """Give biases behind quantised products the rank of what they are added to; if that is 2, subtract their negatives.

    Where all shapes are fixed, ONNX Runtime 1.31 would turn a product and a bias of one axis into a Gemm before it
    looks for Q/DQ, and compute that in float32, dequantising the weight on every run. Of products of rank 2 it does so
    whatever the bias's rank, but not when it is subtracted.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    ranks = {info.name: len(info.type.tensor_type.shape.dim) for info in model.graph.value_info}
    quantised = {product.node for product in chosen if product.weight is not None and product.result is None}
    outputs = {node.output[0] for node in model.graph.node if node.name in quantised}
    widened = set()
    for node in model.graph.node:
        product = next((value for value in node.input if value in outputs), None)
        for value in node.input:
            if node.op_type == "Add" and product is not None and value in tensors and len(tensors[value].dims) == 1:
                widened.add(value)
                if ranks[product] == 2:
                    node.op_type = "Sub"
                    node.input[:] = [product, value]
                    tensors[value].CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensors[value]), value))
                else:
                    tensors[value].dims[:] = [*[1] * (ranks[product] - 1), *tensors[value].dims]
    kept = [info for info in model.graph.value_info if info.name not in widened]  # they tell the old shape
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


class _Nodes:
    """The nodes and constants of the new graph, as they are made."""

    def __init__(self, precision: EightBit, unsigned: Mapping[str, int]) -> None:
        """``unsigned``: zero points of the values that become unsigned bytes."""
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._precision = precision
        self._unsigned = unsigned
        self._dequantized: dict[str, str] = {}

    def add(self, node: onnx.NodeProto) -> None:
        self.nodes.append(node)

    def activation(self, value: str, largest: float, element: np.dtype[Any]) -> str:
        """Quantise and dequantise a value, once for all that read it; return the name of the result."""
        if value not in self._dequantized:
            zero = self._unsigned.get(value)
            # 0..largest on 255 steps instead of 127
            scale = _scale(np.float64(largest) * (127 / 255 if zero == 0 else 1), self._precision, element)
            parameters = self._parameters(value, scale, zero)
            self._node("QuantizeLinear", [value, *parameters], f"{value}/quantized")
            self._node("DequantizeLinear", [f"{value}/quantized", *parameters], f"{value}/dequantized")
            self._dequantized[value] = f"{value}/dequantized"
        return self._dequantized[value]

    def weight(self, tensor: onnx.TensorProto, axis: int) -> None:
        """Store a weight in 8 bits with a scale per output channel (``axis``), and dequantise it under its old name."""
        from onnx import numpy_helper

        values = numpy_helper.to_array(tensor)
        if not np.isfinite(values).all():
            raise ExportError(f"the weight '{tensor.name}' holds values that are not finite, so it has no range")
        wide = values.astype(np.float32)
        others = tuple(other for other in range(wide.ndim) if other != axis)
        scale = _scale(np.abs(wide).max(axis=others), self._precision, values.dtype)
        per_channel = scale.reshape([-1 if other == axis else 1 for other in range(wide.ndim)])
        eight_bits = _rounded(np.divide(wide, per_channel, dtype=np.float32), self._precision)
        self.constants.append(numpy_helper.from_array(eight_bits, f"{tensor.name}/quantized"))
        inputs = [f"{tensor.name}/quantized", *self._parameters(tensor.name, scale)]
        self._node("DequantizeLinear", inputs, tensor.name, axis=axis)

    def _parameters(self, name: str, scale: NDArray[Any], unsigned: int | None = None) -> tuple[str, str]:
        """Constants for scale and zero point; the latter also says which 8 bits are meant."""
        from onnx import numpy_helper

        point = _rounded(np.zeros(np.shape(scale), np.float32), self._precision)
        if unsigned is not None:
            point = np.full(np.shape(scale), unsigned, np.uint8)
        self.constants.append(numpy_helper.from_array(scale, f"{name}/scale"))
        self.constants.append(numpy_helper.from_array(point, f"{name}/zero_point"))
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
