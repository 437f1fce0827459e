"""Faults that exports of detectors and segmentation networks are known for, planted one by one: verification sees each.

That a box is kept whose overlap is exactly the threshold is a test of the operator, ``ops/test_nms.py``: no seeded
picture has such boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from support.dense import DenseFile, small
from support.exported import change_initializer, edited

from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.models.heads import retinanet, rpn
from lit_deploy.workflows.verify import verify_artifact

Change = Callable[[onnx.ModelProto], None]


def on_anchors(head: str, strides: tuple[int, ...], change: Callable[[NDArray, int], NDArray]) -> Change:
    """``change`` the base anchors ``[A, 4]`` of every level, given its stride."""

    def apply(model: onnx.ModelProto) -> None:
        for level, stride in enumerate(strides):
            change_initializer(model, f"{head}.anchors{level}", lambda value, stride=stride: change(value, stride))

    return apply


def scale_major(anchors: NDArray, stride: int) -> NDArray:
    """Scales outside, ratios inside."""
    return anchors.reshape(3, 3, 4).swapaxes(0, 1).reshape(9, 4)


def level_off_by_one(model: onnx.ModelProto) -> None:
    """Regions go to the level below, as with another formula."""
    (function,) = (each for each in model.functions if each.name == "MultiLevelRoiAlign")
    constants = [node.attribute[0].t for node in function.node if node.op_type == "Constant"]
    values = [(tensor, onnx.numpy_helper.to_array(tensor)) for tensor in constants]
    bounds = [(tensor, value) for tensor, value in values if value.dtype == np.float32 and value.tolist() in (2, 4, 8)]
    assert len(bounds) == 3
    for tensor, value in bounds:
        tensor.CopyFrom(onnx.numpy_helper.from_array((value / 2).astype(np.float32)))


def first_resize_left_out(model: onnx.ModelProto) -> None:
    """Straight to the original size, without the detour over the image's."""
    made_by = {node.output[0]: node for node in model.graph.node if node.op_type == "Resize"}
    pairs = [
        (node, made_by[node.input[0]])
        for node in made_by.values()
        if node.name.startswith("Resize") and node.input[0] in made_by
    ]
    assert len(pairs) == 1
    for node, before in pairs:
        node.input[0] = before.input[0]


def finest_output_normalised(model: onnx.ModelProto) -> None:
    """A LayerNorm on the output of stage 1, as segmentation networks have it."""
    conv = next(node for node in model.graph.node if node.name == "neck.lateral_convs.0.conv/Conv")
    width = small("mask_rcnn_lit").embed_dims[0]
    model.graph.initializer.append(numpy_helper.from_array(np.ones(width, np.float32), "planted/scale"))
    nodes = [
        helper.make_node("Transpose", [conv.input[0]], ["planted/last"], perm=[0, 2, 3, 1]),
        helper.make_node("LayerNormalization", ["planted/last", "planted/scale"], ["planted/normalised"], axis=-1),
        helper.make_node("Transpose", ["planted/normalised"], ["planted/first"], perm=[0, 3, 1, 2]),
    ]
    conv.input[0] = "planted/first"
    before = list(model.graph.node).index(conv)
    for offset, node in enumerate(nodes):
        model.graph.node.insert(before + offset, node)


def axes_swapped(model: onnx.ModelProto) -> None:
    """dx and dy of every tap of the first merging exchanged."""
    order = [1, 0, 3, 2, 5, 4, 7, 6]
    for part in ("weight", "bias"):
        change_initializer(model, f"backbone.layers.0.downsample.dconv.conv_offset.{part}", lambda value: value[order])


def sizes_swapped(model: onnx.ModelProto) -> None:
    """Width and height of the original picture exchanged."""
    order = numpy_helper.from_array(np.array([1, 0]), "planted/order")
    model.graph.initializer.append(order)
    for node in model.graph.node:
        node.input[:] = ["planted/swapped" if value == "original_size" else value for value in node.input]
    swap = helper.make_node("Gather", ["original_size", "planted/order"], ["planted/swapped"])
    model.graph.node.insert(0, swap)


def centred(anchors: NDArray, stride: int) -> NDArray:
    """In the middle of the cell."""
    return anchors + stride / 2


RETINA, RPN = ("bbox_head", retinanet.STRIDES), ("rpn_head", rpn.STRIDES)

FAULTS: dict[str, tuple[str, Change]] = {
    "anchors centred in their cells": ("detection", on_anchors(*RETINA, centred)),
    "proposals from centred anchors": (
        "instance_segmentation",
        on_anchors(*RPN, centred),
    ),
    "ratio and scale in the other order": ("detection", on_anchors(*RETINA, scale_major)),
    "level formula off by one": ("instance_segmentation", level_off_by_one),
    "norm0 in a detector": ("instance_segmentation", finest_output_normalised),
    "one resize instead of two": ("semantic_segmentation", first_resize_left_out),
    "dx and dy exchanged": ("detection", axes_swapped),
    "dx and dy exchanged before labels": ("semantic_segmentation", axes_swapped),
    "width and height exchanged": ("detection", sizes_swapped),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str, dense_file: DenseFile, dense_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    task, change = FAULTS[name]
    faulty = edited(dense_file(task), tmp_path / "faulty.onnx", change)
    report = verify_artifact(faulty, dense_checkpoint(task), options=SessionOptions(library=False))
    assert report.verdict == "fail", name
    assert report.reasons


@pytest.mark.parametrize("task", ["detection", "instance_segmentation", "semantic_segmentation"])
def test_without_a_fault(task: str, dense_file: DenseFile, dense_checkpoint: Callable[[str], Path]) -> None:
    """Every layer through neck and head is inside the limit, and so are the results."""
    report = verify_artifact(dense_file(task), dense_checkpoint(task), layers=True)
    assert (report.verdict, report.reasons, report.first_departure) == ("pass", (), None)
    names = {layer.name.partition("@")[0].partition(".")[0] for layer in report.layers}
    head = {"detection": "bbox_head", "instance_segmentation": "rpn_head", "semantic_segmentation": "decode_head"}
    assert names == {"backbone", "neck", head[task]}


def test_the_first_layer_that_departs(
    dense_file: DenseFile, dense_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """A fault in the neck is named there, and one in a head at the level that runs first."""
    for module in ("neck.lateral_convs.1", "bbox_head.cls_convs.2"):

        def change(model: onnx.ModelProto, module: str = module) -> None:
            change_initializer(model, f"{module}.conv.bias", lambda value: value + 1)

        faulty = edited(dense_file("detection"), tmp_path / "faulty.onnx", change)
        report = verify_artifact(faulty, dense_checkpoint("detection"), layers=True)
        assert (report.verdict, report.first_departure) == ("fail", module)
