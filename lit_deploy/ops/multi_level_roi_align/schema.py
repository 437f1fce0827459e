"""Names, constants and signature of the operator; its version is ``specs.OP_VERSION``.

The normative text is ``docs/multi_level_roi_align.md``.
"""

from __future__ import annotations

from typing import Any

from lit_deploy.core.specs import OP_VERSION
from lit_deploy.ops.domain import DOMAIN

OP_TYPE = "MultiLevelRoiAlign"
"""ONNX op type."""

STRIDES = (4, 8, 16, 32)
"""Pixels of the network's input per cell of each level."""

FINEST_SCALE, SCALE_EPSILON = 56.0, 1e-6
"""A RoI belongs to a level by ``sqrt(w * h) / FINEST_SCALE + SCALE_EPSILON`` ..."""

LEVEL_BOUNDS = (2.0, 4.0, 8.0)
"""... which at each of these moves it one level up: ``floor(log2(...))``, held between 0 and 3, as comparisons."""


def register_onnx_schema() -> None:
    """Tell the ``onnx`` package of this process the operator's signature; calling it again does nothing."""
    import onnx

    if onnx.defs.has(OP_TYPE, OP_VERSION, DOMAIN):
        return
    schema = onnx.defs.OpSchema
    formal = schema.FormalParameter
    levels = [
        formal(f"level{index}", "T", f"Map [1, C, H{index}, W{index}] of stride {stride}.")
        for index, stride in enumerate(STRIDES)
    ]
    operator = schema(
        OP_TYPE,
        DOMAIN,
        OP_VERSION,
        "RoIAlign on the level of a feature pyramid that each region's size asks for.",
        inputs=[formal("rois", "tensor(float)", "Regions [K, 4]: x1, y1, x2, y2 in pixels of the input."), *levels],
        outputs=[formal("y", "T", "Pooled regions [K, C, output_size, output_size].")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "Floating point.")],
        attributes=[
            schema.Attribute("output_size", schema.AttrType.INT, "Height and width of a pooled region."),
            schema.Attribute("plugin_namespace", _string(DOMAIN), "TensorRT: namespace of the plugin."),
            schema.Attribute("plugin_version", _string(str(OP_VERSION)), "TensorRT: version of the plugin."),
        ],
    )
    operator.set_type_and_shape_inference_function(_infer)
    onnx.defs.register_schema(operator)


def _infer(context: Any) -> None:
    """Shape inference: ``[K, C, output_size, output_size]``; what is unknown stays unknown."""
    import onnx

    rois, level = (context.get_input_type(index).tensor_type for index in (0, 1))
    pooled = onnx.TypeProto()
    pooled.tensor_type.elem_type = level.elem_type
    shape = pooled.tensor_type.shape
    for source, rank, axis in ((rois, 2, 0), (level, 4, 1)):
        dimension = shape.dim.add()
        if source.HasField("shape") and len(source.shape.dim) == rank:
            dimension.CopyFrom(source.shape.dim[axis])
    size = context.get_attribute("output_size")
    for _ in range(2):
        shape.dim.add(**({"dim_value": size.i} if size is not None else {}))
    context.set_output_type(0, pooled)


def _string(value: str) -> Any:
    """A default value for a string attribute, as ``onnx.defs`` wants it."""
    import onnx

    return onnx.helper.make_attribute("default", value)
