"""Weights of 8 bits on CPUs whose int8 products would clip sums (x86 without VNNI)."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def own_weights(model: onnx.ModelProto) -> None:
    """Give every product a dequantised weight of its own, where several share one.

    To compute exactly on such a CPU, ONNX Runtime turns signed weights into unsigned ones, for every reader anew under
    one name, and so refuses the second one. The heads of detectors are shared by all levels of the pyramid.

    Args:
        model: changed in place.
    """
    import onnx

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    dequantised = {
        node.output[0]: node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in model.graph.node:
        for index, value in enumerate(node.input):
            if value in dequantised:
                readers[value].append((node, index))
    made: dict[str, list[onnx.NodeProto]] = {}
    for value, places in readers.items():
        source = dequantised[value]
        for copy, (node, index) in enumerate(places[1:], start=1):
            again = onnx.NodeProto()
            again.CopyFrom(source)
            again.name, again.output[0] = f"{source.name}/{copy}", f"{value}/{copy}"
            for place, name in enumerate(source.input):  # weight, scale and zero point
                constant = model.graph.initializer.add()
                constant.CopyFrom(constants[name])
                constant.name = again.input[place] = f"{name}/{copy}"
            node.input[index] = again.output[0]
            made.setdefault(value, []).append(again)
    if made:
        nodes = [each for node in model.graph.node for each in (node, *made.get(node.output[0], ()))]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
