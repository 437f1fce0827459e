"""The operator as an ONNX model-local function made of standard operators only.

A runtime without the lit-deploy library runs this body; one with it runs the kernel. Standard operators of
opset 20, any batch, height and width, float32 inside whatever T. Source: ``docs/deformable_token_merging.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_deploy.core.specs import OP_VERSION
from lit_deploy.ops.deformable_token_merging.schema import DOMAIN, OP_TYPE
from lit_deploy.ops.function import parsed

if TYPE_CHECKING:
    import onnx

OPSET = 20
"""Opset of the ai.onnx domain that the body needs (GridSample with mode ``linear``)."""

# Positions are kept in pixels up to the very end, where GridSample wants them as 2 * (p + 0.5) / size - 1.
# A position that is not finite, or further out than one pixel, is moved to -2: every neighbour of -2 is off
# the map and counts as 0, whatever the size of the map.
_BODY = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
{OP_TYPE} <plugin_namespace: string = "{DOMAIN}", plugin_version: string = "{OP_VERSION}">
    (x, offset_weight, offset_bias) => (y)
{{
    x32 = Cast <to: int = 1> (x)
    map = Transpose <perm: ints = [0, 3, 1, 2]> (x32)
    weight32 = Cast <to: int = 1> (offset_weight)
    bias32 = Cast <to: int = 1> (offset_bias)
    tap_shape = Constant <value_ints: ints = [8, 2, 2, -1]> ()
    taps_last = Reshape (weight32, tap_shape)
    kernel = Transpose <perm: ints = [0, 3, 1, 2]> (taps_last)
    offset = Conv <kernel_shape: ints = [2, 2], strides: ints = [2, 2]> (map, kernel, bias32)

    batch = Shape <start: int = 0, end: int = 1> (x)
    height = Shape <start: int = 1, end: int = 2> (x)
    width = Shape <start: int = 2, end: int = 3> (x)
    channels = Shape <start: int = 3, end: int = 4> (x)
    rows = Shape <start: int = 2, end: int = 3> (offset)
    cols = Shape <start: int = 3, end: int = 4> (offset)

    zero = Constant <value_int: int = 0> ()
    one = Constant <value_int: int = 1> ()
    two = Constant <value_int: int = 2> ()
    first = Constant <value_ints: ints = [0]> ()
    second = Constant <value_ints: ints = [1]> ()
    last = Constant <value_ints: ints = [8]> ()
    axis = Constant <value_ints: ints = [1]> ()
    step = Constant <value_ints: ints = [2]> ()
    dy = Slice (offset, first, last, axis, step)
    dx = Slice (offset, second, last, axis, step)

    rows_scalar = Squeeze (rows)
    cols_scalar = Squeeze (cols)
    row = Range (zero, rows_scalar, one)
    col = Range (zero, cols_scalar, one)
    row2 = Mul (row, two)
    col2 = Mul (col, two)
    row_shape = Constant <value_ints: ints = [1, 1, -1, 1]> ()
    col_shape = Constant <value_ints: ints = [1, 1, 1, -1]> ()
    tap_axis = Constant <value_ints: ints = [1, 4, 1, 1]> ()
    tap_i = Constant <value_ints: ints = [0, 0, 1, 1]> ()
    tap_j = Constant <value_ints: ints = [0, 1, 0, 1]> ()
    row4 = Reshape (row2, row_shape)
    col4 = Reshape (col2, col_shape)
    i4 = Reshape (tap_i, tap_axis)
    j4 = Reshape (tap_j, tap_axis)
    base_y = Add (row4, i4)
    base_x = Add (col4, j4)
    base_y32 = Cast <to: int = 1> (base_y)
    base_x32 = Cast <to: int = 1> (base_x)
    y_any = Add (dy, base_y32)
    x_any = Add (dx, base_x32)

    height32 = Cast <to: int = 1> (height)
    width32 = Cast <to: int = 1> (width)
    minus_one = Constant <value_float: float = -1.0> ()
    outside = Constant <value_float: float = -2.0> ()
    above = Greater (y_any, minus_one)
    below = Less (y_any, height32)
    left = Greater (x_any, minus_one)
    right = Less (x_any, width32)
    inside_y = And (above, below)
    inside_x = And (left, right)
    inside = And (inside_y, inside_x)
    py = Where (inside, y_any, outside)
    px = Where (inside, x_any, outside)

    half = Constant <value_float: float = 0.5> ()
    unit = Constant <value_float: float = 1.0> ()
    double = Constant <value_float: float = 2.0> ()
    py_centre = Add (py, half)
    px_centre = Add (px, half)
    py_double = Mul (py_centre, double)
    px_double = Mul (px_centre, double)
    py_scaled = Div (py_double, height32)
    px_scaled = Div (px_double, width32)
    gy = Sub (py_scaled, unit)
    gx = Sub (px_scaled, unit)
    minus = Constant <value_ints: ints = [-1]> ()
    gy5 = Unsqueeze (gy, minus)
    gx5 = Unsqueeze (gx, minus)
    grid5 = Concat <axis: int = -1> (gx5, gy5)

    four = Constant <value_ints: ints = [4]> ()
    pair = Constant <value_ints: ints = [2]> ()
    tall = Mul (rows, four)
    grid_shape = Concat <axis: int = 0> (batch, tall, cols, pair)
    grid = Reshape <allowzero: int = 1> (grid5, grid_shape)
    sampled = GridSample <mode: string = "linear", padding_mode: string = "zeros", align_corners: int = 0> (map, grid)
    split_shape = Concat <axis: int = 0> (batch, channels, four, rows, cols)
    split = Reshape <allowzero: int = 1> (sampled, split_shape)
    tokens = Transpose <perm: ints = [0, 3, 4, 2, 1]> (split)
    wide = Mul (channels, four)
    out_shape = Concat <axis: int = 0> (batch, rows, cols, wide)
    patches = Reshape <allowzero: int = 1> (tokens, out_shape)
    y = CastLike (patches, x)
}}
"""


def onnx_function() -> onnx.FunctionProto:
    """Build the function ``lit_deploy::DeformableTokenMerging``.

    Inputs ``x`` T [B, H, W, C], ``offset_weight`` T [8, 4*C], ``offset_bias`` T [8]; output ``y`` T
    [B, H//2, W//2, 4*C]; T is float32, float16 or bfloat16. The two string attributes are read by TensorRT.
    """
    return parsed(_BODY, "Deformable token merging, operator version 1 (docs/deformable_token_merging.md).")
