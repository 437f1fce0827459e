"""Attention over small maps of one size: which these are, and the same in standard operators with all sizes worked in.

A body that serves any map computes shapes, and gathers biases, at run time. Of a small map of a known size all of that
is known beforehand, and the products stand in the graph itself, where a quantiser or a builder of engines finds them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.function import inlined_as, parsed
from lit_deploy.ops.relative_position_attention.onnx_function import OPSET
from lit_deploy.ops.relative_position_attention.schema import OP_TYPE

if TYPE_CHECKING:
    import onnx

MAX_TOKENS = 1024
"""Tokens of a small map, at most: a head has 4 MiB of logits, and as much of bias. Official classifiers have 196."""


def has_small_maps_only(graph: onnx.GraphProto) -> bool:
    """Whether every attention of a graph sees a known number of tokens, and few of them."""
    known = {info.name: info for info in graph.value_info}
    for node in filter(_is_attention, graph.node):
        qkv = known.get(node.input[0])
        dims = [] if qkv is None else list(qkv.type.tensor_type.shape.dim)
        if len(dims) != 3 or not 0 < dims[1].dim_value <= MAX_TOKENS:
            return False
    return True


def decomposed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write attention as products, a bias and a softmax where all maps are small; else return the model as it is.

    Computes what the plain function does: in the type of the graph, but the softmax in float32. Nodes and values carry
    the name of the attention, as in ``layers.2.blocks.0.attn/MatMul``; biases are constants ``[heads, N, N]``.

    Args:
        model: an exported model, whose ``value_info`` tells what goes into the operator; it stays as it is.
    """
    import onnx

    if not any(map(_is_attention, model.graph.node)) or not has_small_maps_only(model.graph):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    known = {info.name: info for info in graph.value_info}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if _is_attention(node):
            inner, bias = _written_out(node, known[node.input[0]], constants[node.input[1]])
            nodes += inner
            graph.initializer.extend(bias)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    read = {value for node in graph.node for value in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]  # all but the tables
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    functions = [function for function in result.functions if function.name != OP_TYPE]
    del result.functions[:]
    result.functions.extend(functions)
    return result


def bias_of(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """The bias ``[heads, N, N]`` of all queries and keys from a table ``[heads, 2H-1, 2W-1]``, ``N = H*W``.

    Of a query at (r, c), the keys in reverse order have the window of the table that begins at (r, c).
    """
    heads, rows, columns = table.shape[0], (table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2
    windows = np.lib.stride_tricks.sliding_window_view(table, (rows, columns), axis=(1, 2))
    bias: NDArray[np.float32] = windows[..., ::-1, ::-1].reshape(heads, rows * columns, rows * columns)
    return bias


def _is_attention(node: onnx.NodeProto) -> bool:
    return node.domain == DOMAIN and node.op_type == OP_TYPE


def _written_out(
    node: onnx.NodeProto, qkv: onnx.ValueInfoProto, table: onnx.TensorProto
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes that take the place of one, and its bias, if it has any."""
    import onnx

    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    heads, scale, element = attributes["num_heads"], attributes["scale"], qkv.type.tensor_type.elem_type
    _, tokens, width = (dim.dim_value for dim in qkv.type.tensor_type.shape.dim)
    half, biased = element != onnx.TensorProto.FLOAT, 0 not in table.dims
    lines = [
        "q_packed, k_packed, v_packed = Split <axis: int = 2, num_outputs: int = 3> (qkv)",
        f"by_head = Constant <value_ints: ints = [0, {tokens}, {heads}, {width // 3 // heads}]> ()",
        "q_split = Reshape (q_packed, by_head)",
        "k_split = Reshape (k_packed, by_head)",
        "v_split = Reshape (v_packed, by_head)",
        f"{'q' if scale == 1 else 'q_unscaled'} = Transpose <perm: ints = [0, 2, 1, 3]> (q_split)",
        *(() if scale == 1 else (f"scale = Constant <value_float: float = {scale!r}> ()",
                                 f"factor = Cast <to: int = {element}> (scale)", "q = Mul (q_unscaled, factor)")),
        "k = Transpose <perm: ints = [0, 2, 3, 1]> (k_split)",
        "v = Transpose <perm: ints = [0, 2, 1, 3]> (v_split)",
        f"{'products' if biased else 'logits'} = MatMul (q, k)",
        *(("logits = Add (products, bias)",) if biased else ()),
        *(("logits_float = Cast <to: int = 1> (logits)", "weights_float = Softmax <axis: int = -1> (logits_float)",
           f"weights = Cast <to: int = {element}> (weights_float)") if half else
          ("weights = Softmax <axis: int = -1> (logits)",)),
        "attended = MatMul (weights, v)",
        "tokens_first = Transpose <perm: ints = [0, 2, 1, 3]> (attended)",
        f"flat = Constant <value_ints: ints = [0, {tokens}, {width // 3}]> ()",
        "y = Reshape (tokens_first, flat)",
    ]  # fmt: skip
    text = "\n".join(lines)
    body = parsed(f'<domain: "", opset_import: ["" : {OPSET}]> body (qkv, bias) => (y) {{{text}}}', "")
    name = node.name.rpartition("/")[0] or node.output[0]
    outer = {"qkv": node.input[0], "y": node.output[0]}
    nodes = inlined_as(name, body, outer)
    if not biased:
        return nodes, []
    bias = bias_of(onnx.numpy_helper.to_array(table)).astype(onnx.helper.tensor_dtype_to_np_dtype(element))
    return nodes, [onnx.numpy_helper.from_array(bias, f"{name}/bias")]
