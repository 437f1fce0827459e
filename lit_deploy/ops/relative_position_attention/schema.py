"""Names and signature of the operator; its version is ``specs.OP_VERSION``.

The normative text is ``docs/relative_position_attention.md``.
"""

from __future__ import annotations

from typing import Any

from lit_deploy.core.specs import OP_VERSION
from lit_deploy.ops.domain import DOMAIN

OP_TYPE = "RelativePositionAttention"
"""ONNX op type."""


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
        "Multi-head self-attention over the tokens of a map, with a bias by relative position.",
        inputs=[
            formal("qkv", "T", "Packed projections [B, N, 3*C]: q, k and v, heads contiguous inside each."),
            formal("table", "tensor(float)", "Bias [num_heads, 2H-1, 2W-1] with N = H*W; no elements: no bias."),
        ],
        outputs=[formal("y", "T", "Attended values [B, N, C], heads concatenated.")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "Floating point.")],
        attributes=[
            schema.Attribute("num_heads", schema.AttrType.INT, "Attention heads; a divisor of C."),
            schema.Attribute("scale", schema.AttrType.FLOAT, "Factor of q . k."),
        ],
    )
    operator.set_type_and_shape_inference_function(_infer)
    onnx.defs.register_schema(operator)


def _infer(context: Any) -> None:
    """Shape inference: ``[B, N, 3*C]`` to ``[B, N, C]``; what is unknown stays unknown."""
    import onnx

    packed = context.get_input_type(0)
    attended = onnx.TypeProto()
    attended.tensor_type.elem_type = packed.tensor_type.elem_type
    if packed.tensor_type.HasField("shape") and len(packed.tensor_type.shape.dim) == 3:
        batch, tokens, width = packed.tensor_type.shape.dim
        attended.tensor_type.shape.dim.add().CopyFrom(batch)
        attended.tensor_type.shape.dim.add().CopyFrom(tokens)
        known = width.HasField("dim_value")
        attended.tensor_type.shape.dim.add(**({"dim_value": width.dim_value // 3} if known else {}))
    context.set_output_type(0, attended)
