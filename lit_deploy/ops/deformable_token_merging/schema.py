"""Names and signature of the operator; its version is ``specs.OP_VERSION``.

The normative text is ``docs/deformable_token_merging.md``.
"""

from __future__ import annotations

from typing import Any

from lit_deploy.core.specs import OP_VERSION
from lit_deploy.ops.domain import DOMAIN as DOMAIN  # where it used to be

OP_TYPE = "DeformableTokenMerging"
"""ONNX op type and TensorRT plugin name."""

TAPS: tuple[tuple[int, int], ...] = ((0, 0), (0, 1), (1, 0), (1, 1))
"""(row, column) of tap t inside its 2x2 patch, for t = 0..3."""


def register_onnx_schema() -> None:
    """Tell the ``onnx`` package of this process the operator's signature; calling it again does nothing."""
    import onnx

    if onnx.defs.has(OP_TYPE, OP_VERSION, DOMAIN):
        return
    schema = onnx.defs.OpSchema
    formal = schema.FormalParameter
    operator = schema(
        OP_TYPE,
        DOMAIN,
        OP_VERSION,
        "Deformable token merging: samples the four tokens of every 2x2 patch at learned offsets.",
        inputs=[
            formal("x", "T", "Tokens [B, H, W, C], channels last; H, W >= 2."),
            formal("offset_weight", "T", "Offset projection [8, 4*C], tap-major columns."),
            formal("offset_bias", "T", "Offset bias [8]: dy, dx of tap 0, 1, 2, 3, in pixels."),
        ],
        outputs=[formal("y", "T", "Sampled patches [B, H//2, W//2, 4*C], tap-major.")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "Floating point.")],
        attributes=[
            schema.Attribute("plugin_namespace", _string(DOMAIN), "TensorRT: namespace of the plugin."),
            schema.Attribute("plugin_version", _string(str(OP_VERSION)), "TensorRT: version of the plugin."),
        ],
    )
    operator.set_type_and_shape_inference_function(_infer)
    onnx.defs.register_schema(operator)


def _infer(context: Any) -> None:
    """Shape inference: ``[B, H, W, C]`` to ``[B, H//2, W//2, 4*C]``; what is unknown stays unknown."""
    import onnx

    tokens = context.get_input_type(0)
    patches = onnx.TypeProto()
    patches.tensor_type.elem_type = tokens.tensor_type.elem_type
    if tokens.tensor_type.HasField("shape") and len(tokens.tensor_type.shape.dim) == 4:
        batch, *sizes = tokens.tensor_type.shape.dim
        patches.tensor_type.shape.dim.add().CopyFrom(batch)
        for size, (multiply, divide) in zip(sizes, ((1, 2), (1, 2), (4, 1)), strict=True):
            known = size.HasField("dim_value")
            patches.tensor_type.shape.dim.add(**({"dim_value": size.dim_value * multiply // divide} if known else {}))
    context.set_output_type(0, patches)


def _string(value: str) -> Any:
    """A default value for a string attribute, as ``onnx.defs`` wants it."""
    import onnx

    return onnx.helper.make_attribute("default", value)
