"""Types that ONNX Runtime does not compute with on a CPU, computed in float32 and rounded as the file says.

bfloat16: every value that the graph declares as bfloat16 is rounded to bfloat16, and the operation before it computes
in float32. That is, operation by operation, what hardware does that multiplies bfloat16 and accumulates in float32.
float8: ONNX Runtime quantises and dequantises float8 itself, if it is kept from fusing the two with what is between.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import with_value_info
from lit_deploy.core.errors import ArtifactError
from lit_deploy.core.text import first_line

if TYPE_CHECKING:
    import onnx

FP8_SETTING = ("session.disable_quant_qdq", "1")
"""Session configuration entry that float8 files need: the CPU's integer kernels, into which Q/DQ pairs are fused
otherwise, take no float8, and the fused graph is refused (INVALID_GRAPH)."""

_MOVING = frozenset(
    {"Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
     "Unsqueeze"}
)  # fmt: skip
"""Operators that only move values about: what they return is rounded when what they take is."""

NOTES = {"bf16": "bfloat16 emulated in float32", "fp8": "fp8 emulated"}
"""What a session's description says, by precision."""


def emulated_precisions(manifest: Manifest) -> tuple[str, ...]:
    """Which of ``NOTES`` a file holds."""
    return tuple(name for name in NOTES if name in (manifest.precision, manifest.base))


def bf16_in_float32(model: onnx.ModelProto, path: Path) -> None:
    """Rewrite a model of bfloat16 to one of float32 that rounds to bfloat16 wherever the original does.

    Names stay: a value that was bfloat16 is the rounded value, as float32. Weights are widened, which is exact. A
    call of the merging operator takes and returns float32, which its body and its kernel know how to do, and what it
    returns is rounded.

    Args:
        model: an exported model, with or without model-local functions; changed in place.
        path: for messages only.

    Raises:
        ArtifactError: the graph is damaged.
    """
    from onnx.shape_inference import InferenceError

    try:
        _rewrite(model)
    except (InferenceError, ValueError, TypeError) as error:
        raise ArtifactError(f"the graph of {path} is damaged ({first_line(error)}); export it again") from None


def _rewrite(model: onnx.ModelProto) -> None:
    """See ``bf16_in_float32``; the onnx package and NumPy raise what they raise."""
    from onnx import TensorProto, helper

    types = _element_types(model)
    graph = model.graph
    for tensor in graph.initializer:
        _widen(tensor)
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT  # what it returns is rounded below
            _widen(attribute.t)
        nodes.append(node)
        for index, value in enumerate(node.output):
            if not value:  # an optional output that is left out
                continue
            if value not in types:
                raise ValueError(f"nothing tells the type of '{value}'")
            if types[value] != TensorProto.BFLOAT16 or node.op_type in _MOVING:
                continue
            exact, rounded = f"{value}/exact", f"{value}/rounded"
            node.output[index] = exact
            nodes.append(helper.make_node("Cast", [exact], [rounded], f"{exact}/Cast", to=TensorProto.BFLOAT16))
            nodes.append(helper.make_node("Cast", [rounded], [value], f"{rounded}/Cast", to=TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            info.type.tensor_type.elem_type = TensorProto.FLOAT


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of all values of the graph by name; inferred where the file does not declare them."""

    def declared(graph: onnx.GraphProto) -> dict[str, int]:
        infos = (*graph.input, *graph.output, *graph.value_info)
        return {info.name: info.type.tensor_type.elem_type for info in infos}

    types = declared(model.graph)
    if all(value in types for node in model.graph.node for value in node.output):
        return types
    return declared(with_value_info(model).graph)


def _widen(tensor: onnx.TensorProto) -> None:
    """Make a tensor of bfloat16 one of float32, in place; others stay."""
    from onnx import TensorProto, numpy_helper

    if tensor.data_type == TensorProto.BFLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
