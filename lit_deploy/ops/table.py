"""The table of operators: what the exporter has to know of each. Importing it loads neither torch nor onnx."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lit_deploy.ops.deformable_token_merging import onnx_function as merging
from lit_deploy.ops.deformable_token_merging import schema as merging_schema
from lit_deploy.ops.multi_level_roi_align import onnx_function as roi_align
from lit_deploy.ops.multi_level_roi_align import schema as roi_align_schema
from lit_deploy.ops.nms import onnx_function as nms
from lit_deploy.ops.nms import schema as nms_schema
from lit_deploy.ops.relative_position_attention import onnx_function as attention
from lit_deploy.ops.relative_position_attention import schema as attention_schema
from lit_deploy.ops.relative_position_attention.small_maps import has_small_maps_only

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Operator:
    """One operator of ours.

    Attributes:
        op_type: in ONNX files; ``name``: below ``torch.ops.lit_deploy``.
        attributes: names of the last arguments of the torch operator, which are attributes in ONNX.
        register: tells the ``onnx`` package its schema.
        function: the body of standard operators that a file carries beside the node, for a graph that has the node.
        plugin: whether TensorRT finds its plugin by the attributes ``plugin_namespace`` and ``plugin_version``.
    """

    op_type: str
    name: str
    attributes: tuple[str, ...]
    register: Callable[[], None]
    function: Callable[[onnx.GraphProto], onnx.FunctionProto]
    plugin: bool = False


def attention_function(graph: onnx.GraphProto, *, one_pass: bool = False) -> onnx.FunctionProto:
    """A network's attention is biased everywhere or nowhere: where it is not, every table is a constant of no elements.

    In blocks, unless all maps are small: the dense networks see thousands of tokens, the classifiers 196 and 49. Narrow
    only where it is plain, as GPUs run it: a Loop is no matter of speed, and not a classifier's.

    Args:
        graph: whose attention it is for.
        one_pass: plain and narrow whatever the maps, for those who have the memory.
    """
    tables = {node.input[1] for node in graph.node if node.op_type == attention_schema.OP_TYPE}
    empty = {item.name for item in graph.initializer if 0 in item.dims}
    small = one_pass or has_small_maps_only(graph)
    return attention.onnx_function(biased=not tables <= empty, blocks=not small, narrow=small)


OPERATORS: dict[str, Operator] = {
    operator.op_type: operator
    for operator in (
        Operator(
            merging_schema.OP_TYPE,
            "deformable_token_merging",
            (),
            merging_schema.register_onnx_schema,
            lambda _: merging.onnx_function(),
            plugin=True,
        ),
        Operator(
            attention_schema.OP_TYPE,
            "relative_position_attention",
            ("num_heads", "scale"),
            attention_schema.register_onnx_schema,
            attention_function,
        ),
        Operator(
            nms_schema.OP_TYPE,
            "nms",
            ("iou_threshold", "score_threshold", "max_output"),
            nms_schema.register_onnx_schema,
            lambda _: nms.onnx_function(),
        ),
        Operator(
            roi_align_schema.OP_TYPE,
            "multi_level_roi_align",
            ("output_size",),
            roi_align_schema.register_onnx_schema,
            lambda _: roi_align.onnx_function(),
            plugin=True,
        ),
    )
}
"""By op type."""
