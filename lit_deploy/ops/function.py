"""Bodies of operators as ONNX functions, in the form that other people's tools take.

The text of a body is short where it says ``value_float``; but the tools that rewrite graphs look for ``value``, and
some of them read another attribute as a number of double precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def parsed(text: str, doc: str) -> onnx.FunctionProto:
    """Build a function from ONNX's textual syntax.

    Every node is named after the value it makes, and every constant is a tensor (``value``): numbers without a point
    int64, the others float32. Only constants that a node's attribute decides stay as they are: in a function, nothing
    else can read an attribute.

    Args:
        text: the function; ``doc``: what it says about itself.
    """
    import onnx

    function = onnx.parser.parse_function(text)
    function.doc_string = doc
    _tidy(function.node)
    return function


def tensor_of(attribute: onnx.AttributeProto) -> onnx.TensorProto | None:
    """The tensor that an attribute of a ``Constant`` stands for: int64 or float32, a scalar or a vector.

    None for texts, for a tensor of another form, and where the attribute of a function's node decides.
    """
    import onnx

    if attribute.ref_attr_name:
        return None
    if attribute.name == "value":
        return attribute.t
    kinds = {"float": onnx.TensorProto.FLOAT, "int": onnx.TensorProto.INT64}
    kind = kinds.get(attribute.name.removeprefix("value_").removesuffix("s"))
    if kind is None:
        return None
    value = onnx.helper.get_attribute_value(attribute)
    several = attribute.name.endswith("s")
    return onnx.helper.make_tensor("", kind, [len(value)] if several else [], value if several else [value])


def inlined_as(name: str, body: onnx.FunctionProto, outer: Mapping[str, str]) -> list[onnx.NodeProto]:
    """The nodes of a body for a graph: they and their values carry a name, as in ``name/MatMul`` and ``name/MatMul_1``.

    Args:
        outer: what values of the body that the graph has already are called there.
    """
    counts: dict[str, int] = {}
    for node in body.node:
        count = counts[node.op_type] = counts.get(node.op_type, -1) + 1
        node.name = f"{name}/{node.op_type}_{count}" if count else f"{name}/{node.op_type}"
        for values in (node.input, node.output):
            values[:] = [outer.get(value, f"{name}/{value}") for value in values]
    return list(body.node)


def _tidy(nodes: Iterable[onnx.NodeProto]) -> None:
    import onnx

    for node in nodes:
        node.name = node.output[0]
        for attribute in node.attribute:
            _tidy(attribute.g.node)
        if node.op_type == "Constant" and (tensor := tensor_of(node.attribute[0])) is not None:
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("value", tensor))
