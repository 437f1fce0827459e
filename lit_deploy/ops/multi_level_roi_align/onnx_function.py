"""The operator as an ONNX model-local function made of standard operators only.

A runtime without the lit-deploy library runs this body; one with it runs the kernel. Standard operators of
opset 20, any number of regions and any map sizes, float32 inside whatever T. Source: ``docs/multi_level_roi_align.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_deploy.core.specs import OP_VERSION
from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.function import parsed
from lit_deploy.ops.multi_level_roi_align.schema import FINEST_SCALE, LEVEL_BOUNDS, OP_TYPE, SCALE_EPSILON, STRIDES

if TYPE_CHECKING:
    import onnx

OPSET = 20
"""Opset of the ai.onnx domain that the body needs: RoiAlign of opset 16, as ONNX Runtime has no kernel of opset 22."""

# Regions without an area would be divided by a count of 0 in some runtimes. In their place stands a region so far off
# the map that each of its samples is 0.
_NOWHERE = (-1024.0, -1024.0, -1023.0, -1023.0)

_HEAD = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
{OP_TYPE} <output_size,
           plugin_namespace: string = "{DOMAIN}", plugin_version: string = "{OP_VERSION}">
    (rois, level0, level1, level2, level3) => (y)
{{
    x_axis = Constant <value_ints: ints = [0]> ()
    y_axis = Constant <value_ints: ints = [1]> ()
    right = Constant <value_ints: ints = [2]> ()
    bottom = Constant <value_ints: ints = [3]> ()
    x1 = Gather <axis: int = 1> (rois, x_axis)
    y1 = Gather <axis: int = 1> (rois, y_axis)
    x2 = Gather <axis: int = 1> (rois, right)
    y2 = Gather <axis: int = 1> (rois, bottom)
    width = Sub (x2, x1)
    height = Sub (y2, y1)
    zero = Constant <value_float: float = 0.0> ()
    wide = Greater (width, zero)
    high = Greater (height, zero)
    some = And (wide, high)
    nowhere = Constant <value_floats: floats = [{", ".join(map(str, _NOWHERE))}]> ()
    regions = Where (some, rois, nowhere)

    area_any = Mul (width, height)
    area = Max (area_any, zero)
    side = Sqrt (area)
    finest = Constant <value_float: float = {FINEST_SCALE}> ()
    epsilon = Constant <value_float: float = {SCALE_EPSILON:.7f}> ()
    relative = Div (side, finest)
    scale_column = Add (relative, epsilon)
    column_axis = Constant <value_ints: ints = [1]> ()
    scale = Squeeze (scale_column, column_axis)
    above0 = Constant <value_float: float = {LEVEL_BOUNDS[0]}> ()
    above1 = Constant <value_float: float = {LEVEL_BOUNDS[1]}> ()
    above2 = Constant <value_float: float = {LEVEL_BOUNDS[2]}> ()
    from1 = GreaterOrEqual (scale, above0)
    from2 = GreaterOrEqual (scale, above1)
    on3 = GreaterOrEqual (scale, above2)
    below2 = Not (from2)
    below3 = Not (on3)
    on0 = Not (from1)
    on1 = And (from1, below2)
    on2 = And (from2, below3)
"""

_LEVEL = """
    row{index} = NonZero (on{index})
    which{index} = Squeeze (row{index}, x_axis)
    regions{index} = Gather <axis: int = 0> (regions, which{index})
    count{index} = Shape (which{index})
    image{index} = ConstantOfShape <value: tensor = int64[1] {{0}}> (count{index})
    map{index} = Cast <to: int = 1> (level{index})
    pooled{index} = RoiAlign <mode: string = "avg", coordinate_transformation_mode: string = "half_pixel",
                              sampling_ratio: int = 0, spatial_scale: float = {scale},
                              output_height: int = @output_size, output_width: int = @output_size>
                             (map{index}, regions{index}, image{index})
"""

# The pooled regions stand level by level; `place` says where each of them went.
_TAIL = """
    pooled = Concat <axis: int = 0> (pooled0, pooled1, pooled2, pooled3)
    order = Concat <axis: int = 0> (which0, which1, which2, which3)
    first = Constant <value_int: int = 0> ()
    step = Constant <value_int: int = 1> ()
    total = Shape (order)
    total_scalar = Squeeze (total)
    positions = Range (first, total_scalar, step)
    place = ScatterElements <axis: int = 0> (positions, order, positions)
    sorted = Gather <axis: int = 0> (pooled, place)
    y = CastLike (sorted, level0)
}
"""


def onnx_function() -> onnx.FunctionProto:
    """Build the function ``lit_deploy::MultiLevelRoiAlign``.

    Inputs ``rois`` float32 [K, 4] and ``level0`` to ``level3`` T [1, C, H, W]; attribute ``output_size``; output ``y``
    T [K, C, output_size, output_size]; T is float32 or float16. The two string attributes are read by TensorRT.
    """
    levels = (_LEVEL.format(index=index, scale=1 / stride) for index, stride in enumerate(STRIDES))
    return parsed(
        _HEAD + "".join(levels) + _TAIL,
        "RoIAlign over a feature pyramid, operator version 1 (docs/multi_level_roi_align.md).",
    )
