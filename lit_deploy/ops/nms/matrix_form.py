"""The operator as products of matrices, for builders of engines that know no NonMaxSuppression.

Greedy suppression is the fixed point of "a box stays if no better box that stays overlaps it". Every round of that
sentence settles at least one more link of a chain of overlapping boxes, and is the product of a vector and the matrix
of overlaps: no size and no number of steps depends on the data. Whether more candidates or rounds could have changed
the result is told beside it.

Source: ``docs/nms.md``, "In matrix form".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.function import inlined_as
from lit_deploy.ops.nms.schema import OP_TYPE, PADDING

if TYPE_CHECKING:
    import onnx

OPSET = 20
COMPLETE = "complete"
"""Name of the further output, int32 ``[1]``: 1 where the result is that of the operator for certain, else 0."""
DEFAULT_CANDIDATES = 2048
MAX_CANDIDATES = 3840
"""More than TensorRT-RTX's TopK chooses from many."""
MAX_UNCAPPED = 5000
"""Boxes, at most, that are all compared with each other: as many as a region proposal network has."""
NMS_PREFIX = "suppression."
"""How the names of the nodes begin."""
ROUNDS = 24
"""Of 120 clustered sets of 1,000 boxes the worst needed 9."""


@dataclass(frozen=True)
class MatrixForm:
    """How far the matrix form goes.

    Attributes:
        candidates: best boxes that are compared with each other, where there are more than 5,000; 1 to 3,840.
        rounds: links of a chain of overlapping boxes that are settled for certain, at least 1.
    """

    candidates: int = DEFAULT_CANDIDATES
    rounds: int = ROUNDS


def in_matrix_form(model: onnx.ModelProto, form: MatrixForm) -> onnx.ModelProto:
    """Replace every suppression by its matrix form, and tell in a further output whether all of them are complete.

    Args:
        model: an exported model, whose ``value_info`` tells how many boxes go into the operator; it stays as it is.

    Returns:
        The same network with the output ``complete``; the very model where it suppresses nothing.
    """
    import onnx

    if not any(map(_is_nms, model.graph.node)):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    known = {info.name: info for info in graph.value_info}
    nodes: list[onnx.NodeProto] = []
    told: list[str] = []
    for node in graph.node:
        if _is_nms(node):
            (boxes,) = known[node.input[1]].type.tensor_type.shape.dim
            inner, complete = _written_out(node, boxes.dim_value, form)
            nodes += inner
            told.append(complete)
        else:
            nodes.append(node)
    if len(told) > 1:
        nodes.append(onnx.helper.make_node("Min", told, [COMPLETE], COMPLETE))
    else:
        nodes.append(onnx.helper.make_node("Identity", told, [COMPLETE], COMPLETE))
    del graph.node[:]
    graph.node.extend(nodes)
    graph.output.append(onnx.helper.make_tensor_value_info(COMPLETE, onnx.TensorProto.INT32, [1]))
    functions = [function for function in result.functions if function.name != OP_TYPE]
    del result.functions[:]
    result.functions.extend(functions)
    return result


def _is_nms(node: onnx.NodeProto) -> bool:
    return node.domain == DOMAIN and node.op_type == OP_TYPE


def _written_out(node: onnx.NodeProto, boxes: int, form: MatrixForm) -> tuple[list[onnx.NodeProto], str]:
    """The nodes that take the place of one among so many boxes, and the value that tells whether they are complete."""
    import onnx

    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    body = onnx.parser.parse_function(_body(boxes, form, **attributes))
    name = NMS_PREFIX + node.output[0]
    outer = dict(zip(body.input, node.input, strict=True)) | {"indices": node.output[0]}
    return inlined_as(name, body, outer), f"{name}/{COMPLETE}"


def _body(boxes: int, form: MatrixForm, iou_threshold: float, score_threshold: float, max_output: int) -> str:
    size = boxes if boxes <= MAX_UNCAPPED else min(form.candidates, MAX_CANDIDATES)
    length = min(max_output, size)

    def number(value: float) -> str:
        return f"Constant <value: tensor = float[1] {{{value!r}}}> ()"

    def integers(*values: int) -> str:
        return f"Constant <value: tensor = int64[{len(values)}] {{{', '.join(map(str, values))}}}> ()"

    lines = [
        f"least = {number(score_threshold)}",
        f"limit = {number(iou_threshold)}",
        f"zero = {number(0.0)}",
        f"half = {number(0.5)}",
        f"one = {number(1.0)}",
        f"nothing = {integers(PADDING)}",
        f"column = {integers(-1, 1)}",
        f"row = {integers(1, -1)}",
        f"corners_axis = {integers(1)}",
        f"boxes_axis = {integers(0)}",
        # offsets of the classes, from all candidates, as the operator has them
        "candidate = Greater (scores, least)",
        "farthest = ReduceMax <keepdims: int = 0> (boxes, corners_axis)",
        "reached = Where (candidate, farthest, zero)",
        "largest = ReduceMax <keepdims: int = 1> (reached, boxes_axis)",
        "extent = Add (largest, one)",
        # the boxes that are compared
        *(
            (f"place = Constant <value: tensor = int64[{boxes}] {{{', '.join(map(str, range(boxes)))}}}> ()",
             "score = Identity (scores)", "box = Identity (boxes)", "of_class = Identity (classes)")
            if size == boxes else
            (f"size = {integers(size)}", "able_scores = Where (candidate, scores, least)",
             "score, place = TopK <axis: int = 0> (able_scores, size)",
             "box = Gather (boxes, place)", "of_class = Gather (classes, place)")
        ),
        "valid = Greater (score, least)",
        "class32 = Cast <to: int = 1> (of_class)",
        "offset = Mul (class32, extent)",
        "offset_column = Reshape (offset, column)",
        "shifted = Add (box, offset_column)",
        "x_a, y_a, x_b, y_b = Split <axis: int = 1, num_outputs: int = 4> (shifted)",
        "left = Min (x_a, x_b)", "right = Max (x_a, x_b)", "top = Min (y_a, y_b)", "bottom = Max (y_a, y_b)",
        "width = Sub (right, left)", "height = Sub (bottom, top)", "area = Mul (width, height)",
        *(f"{name}_row = Reshape ({name}, row)" for name in ("left", "right", "top", "bottom", "area")),
        # overlaps of all with all
        "inner_right = Min (right, right_row)", "inner_left = Max (left, left_row)",
        "inner_bottom = Min (bottom, bottom_row)", "inner_top = Max (top, top_row)",
        "inner_width = Sub (inner_right, inner_left)", "inner_height = Sub (inner_bottom, inner_top)",
        "inner = Mul (inner_width, inner_height)",
        "both = Add (area, area_row)", "union = Sub (both, inner)", "iou = Div (inner, union)",
        "least_side = Min (inner_width, inner_height)", "least_area = Min (area, area_row)",
        "least_part = Min (least_side, least_area, union)", "able = Greater (least_part, zero)",
        "above = Greater (iou, limit)", "overlaps = And (able, above)",
        # who may suppress whom: the better one, and of two as good the first
        "score_column = Reshape (score, column)", "score_row = Reshape (score, row)",
        "place_column = Reshape (place, column)", "place_row = Reshape (place, row)",
        "higher = Greater (score_column, score_row)", "as_high = Equal (score_column, score_row)",
        "before = Less (place_column, place_row)", "first = And (as_high, before)", "better = Or (higher, first)",
        "suppresses = And (overlaps, better)", "matrix = Cast <to: int = 1> (suppresses)",
        "valid_row = Reshape (valid, row)", "stays0 = Cast <to: int = 1> (valid_row)",
    ]  # fmt: skip
    for index in range(form.rounds):
        lines += [
            f"hits{index} = MatMul (stays{index}, matrix)",
            f"free{index} = Less (hits{index}, half)",
            f"left_over{index} = And (free{index}, valid_row)",
            f"stays{index + 1} = Cast <to: int = 1> (left_over{index})",
        ]
    last = form.rounds
    lines += [
        f"flat = {integers(-1)}",
        f"stays = Reshape (left_over{last - 1}, flat)",
        "ranked = Where (stays, score, least)",
        f"length = {integers(length)}",
        "found_score, found = TopK <axis: int = 0> (ranked, length)",
        "counts = Greater (found_score, least)",
        "found_place = Gather (place, found)",
        f"{'indices' if length == max_output else 'found_indices'} = Where (counts, found_place, nothing)",
    ]
    if length < max_output:
        lines += [
            f"rest = ConstantOfShape <value: tensor = int64[1] {{{PADDING}}}> (rest_length)",
            "indices = Concat <axis: int = 0> (found_indices, rest)",
        ]
        lines.insert(-2, f"rest_length = {integers(max_output - length)}")
    # complete: the rounds have come to rest, and no box beyond the cap could have been among the results
    lines += [
        f"change = Sub (stays{last}, stays{last - 1})",
        "changes = Abs (change)",
        "most_change = ReduceMax <keepdims: int = 0> (changes)",
        "settled = Less (most_change, half)",
    ]
    if size == boxes:
        lines += ["whole = Identity (settled)"]
    else:
        lines += [
            "candidate32 = Cast <to: int = 1> (candidate)",
            "how_many = ReduceSum <keepdims: int = 0> (candidate32)",
            f"most = {number(size + 0.5)}",
            "few = Less (how_many, most)",
            "counts32 = Cast <to: int = 1> (counts)",
            "found_many = ReduceSum <keepdims: int = 0> (counts32)",
            f"full = {number(max_output - 0.5)}",
            "enough = Greater (found_many, full)",
            "bounded = Or (few, enough)",
            "whole = And (settled, bounded)",
        ]
    lines += ["whole32 = Cast <to: int = 6> (whole)", f"{COMPLETE} = Reshape (whole32, flat)"]
    text = "\n".join(lines)
    outputs = f"indices, {COMPLETE}"
    return f'<domain: "", opset_import: ["" : {OPSET}]> body (boxes, scores, classes) => ({outputs}) {{{text}}}'
