"""What a graph computes from constants alone, worked out beforehand.

Runtimes do this for themselves. Tools that rewrite graphs do not: a quantiser, say, wants the weight of a convolution
as an initializer, and not as what a reshape makes of one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.ops.function import tensor_of

if TYPE_CHECKING:
    import onnx

FOLDED = frozenset(
    ("Add", "Cast", "Concat", "Div", "Gather", "Identity", "Max", "Mul", "Range", "Reshape", "Slice", "Squeeze", "Sub",
     "Transpose", "Unsqueeze")
)  # fmt: skip
"""Operators that are worked out: they move values, or compute what NumPy and every runtime round alike."""

LARGEST = 1 << 20
"""Elements of a result, at most."""


def fold_constants(model: onnx.ModelProto) -> None:
    """Turn constants, and all that follows from constants and known sizes, into initializers; in place.

    Casts that change nothing go, too, and initializers that nobody reads any more. Names of the values that the graph
    declares (``value_info``) stay. Nodes of the main graph only; bodies of loops keep theirs.
    """
    import onnx

    _drop_idle_casts(model)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    sizes = _sizes(onnx.shape_inference.infer_shapes(model).graph)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    results = {output.name for output in graph.output}
    kept = []
    for node in graph.node:
        value = None if results.intersection(node.output) else _value(node, tensors, sizes, opsets)
        if value is None:
            kept.append(node)
        else:
            tensors[node.output[0]] = onnx.numpy_helper.from_array(value, node.output[0])
    read = {*_read(kept), *results}
    infos = [info for info in graph.value_info if info.name not in tensors]
    stored = [tensor for name, tensor in tensors.items() if name in read]
    for field, entries in ((graph.node, kept), (graph.value_info, infos), (graph.initializer, stored)):
        del field[:]
        field.extend(entries)


def _drop_idle_casts(model: onnx.ModelProto) -> None:
    """Drop the casts of a value to the type that it has already, which a body of any type is full of; in place."""
    import onnx

    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model).graph
    infos = (*inferred.input, *inferred.output, *inferred.value_info)
    types = {info.name: info.type.tensor_type.elem_type for info in infos}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    declared = {info.name for info in (*graph.input, *graph.output, *graph.value_info)}
    readers = Counter(_read(graph.node))
    renamed: dict[str, str] = {}
    makers: dict[str, onnx.NodeProto] = {}
    kept = []
    for node in graph.node:
        _rename_inputs(node, renamed)
        if _casts_to(node, types) == types.get(node.input[0] if node.input else "", 0) != 0:
            source, target = node.input[0], node.output[0]
            if target not in declared:
                renamed[target] = source
                continue
            if source in makers and source not in declared and readers[source] == 1:
                makers[source].output[:] = [target if value == source else value for value in makers[source].output]
                continue
        makers |= dict.fromkeys(node.output, node)
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _casts_to(node: onnx.NodeProto, types: dict[str, int]) -> int | None:
    """The element type that a cast casts to; 0 where that is not known, None for other nodes."""
    if node.op_type == "Cast":
        to: int = next(entry.i for entry in node.attribute if entry.name == "to")
        return to
    return types.get(node.input[1], 0) if node.op_type == "CastLike" else None


def _rename_inputs(node: onnx.NodeProto, names: dict[str, str]) -> None:
    node.input[:] = [names.get(value, value) for value in node.input]
    for attribute in node.attribute:
        for inner in attribute.g.node:
            _rename_inputs(inner, names)


def _value(
    node: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    sizes: dict[str, tuple[int | None, ...]],
    opsets: dict[str, int],
) -> NDArray[Any] | None:
    """What a node computes, where that is known beforehand; of more than one output, or large, None."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    if node.op_type == "Constant":
        tensor = tensor_of(node.attribute[0])
        return None if tensor is None else onnx.numpy_helper.to_array(tensor)
    if node.op_type in ("Shape", "Size"):
        part = {entry.name: entry.i for entry in node.attribute}
        size = sizes.get(node.input[0], (None,))[part.get("start") : part.get("end")]
        known = [side for side in size if side is not None]
        if len(known) < len(size):
            return None
        return np.array(known if node.op_type == "Shape" else math.prod(known), np.int64)
    if node.op_type not in FOLDED or node.domain or len(node.output) > 1:
        return None
    inputs = [name for name in node.input if name]
    if any(name not in constants or np.prod(constants[name].dims) > LARGEST for name in inputs):
        return None
    arrays = {name: onnx.numpy_helper.to_array(constants[name]) for name in inputs}
    value: NDArray[Any]
    (value,) = ReferenceEvaluator(node, opsets=opsets).run(None, arrays)  # type: ignore[assignment]
    return value if value.size <= LARGEST else None


def _sizes(graph: onnx.GraphProto) -> dict[str, tuple[int | None, ...]]:
    """The sizes of values by name, None for an axis whose size is not known."""
    infos = (*graph.input, *graph.value_info)
    known = {
        info.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else None for dim in info.type.tensor_type.shape.dim
        )
        for info in infos
        if info.type.tensor_type.HasField("shape")
    }
    return known | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def _read(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Names of the values that nodes read, those inside loops and branches included."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            yield from _read(attribute.g.node)
            yield from (output.name for output in attribute.g.output)
