"""Files of detectors and segmentation networks that open in a millisecond and say what they were told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import set_manifest
from lit_deploy.core.specs import TaskName, TensorSpec
from lit_deploy.tasks.table import task_of
from support.fake_dense import MOST, dense_manifest

SIDE = 28
"""Rows and columns of a mask inside its box."""


def micro_dense_manifest(task: TaskName, most: int = MOST, **changes: Any) -> Manifest:
    """``fake_dense.dense_manifest``, of so many detections."""
    manifest = dense_manifest(task)
    assert manifest.dense is not None
    masks = SIDE if task == "instance_segmentation" else 0
    return replace(manifest, dense=replace(manifest.dense, max_detections=most, mask_size=masks), **changes)


def micro_dense(path: Path, manifest: Manifest, outputs: Mapping[str, NDArray[Any]] | None = None) -> Path:
    """Write a file whose ``outputs`` are always the same.

    A segmentation network, which has none, gives label i to the i-th of as many bands of columns as there are classes.
    """
    task = task_of(manifest)
    nodes, constants = _bands(manifest) if outputs is None else _told(outputs)
    graph = helper.make_graph(
        nodes,
        "micro",
        [_value(spec) for spec in task.input_specs(manifest)],
        [_value(spec) for spec in task.output_specs(manifest)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    set_manifest(model, manifest)
    onnx.save(model, str(path))
    return path


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape)


def _told(outputs: Mapping[str, NDArray[Any]]) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    nodes = [helper.make_node("Identity", [f"{name}.told"], [name]) for name in outputs]
    return nodes, {f"{name}.told": value for name, value in outputs.items()}


def _bands(manifest: Manifest) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    classes = len(manifest.labels)
    constants = {
        "first": np.array([0]), "second": np.array([1]), "zero": np.array(0), "one": np.array(1),
        "classes": np.array(classes), "front": np.array([1, 1]), "two": np.array([1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["original_size", "second"], ["columns"]),
        helper.make_node("Squeeze", ["columns"], ["width"]),
        helper.make_node("Range", ["zero", "width", "one"], ["places"]),
        helper.make_node("Mul", ["places", "classes"], ["scaled"]),
        helper.make_node("Div", ["scaled", "width"], ["bands"]),
    ]
    if manifest.output == "logits":
        constants["names"] = np.arange(classes).reshape(1, classes, 1, 1)
        nodes += [
            helper.make_node("Equal", ["names", "bands"], ["own"]),
            helper.make_node("Cast", ["own"], ["scores"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Concat", ["front", "original_size"], ["sizes"], axis=0),
            helper.make_node("Expand", ["scores", "sizes"], ["logits"]),
        ]
    else:
        nodes += [
            helper.make_node("Cast", ["bands"], ["small"], to=onnx.TensorProto.UINT8),
            helper.make_node("Concat", ["two", "original_size"], ["sizes"], axis=0),
            helper.make_node("Expand", ["small", "sizes"], ["labels"]),
        ]
    return nodes, constants


def found(count: int, most: int, size: tuple[int, int], *, masks: bool) -> dict[str, NDArray[Any]]:
    """Detections anywhere around a picture of that height and width, some odd ones among them, for ``outputs``."""
    random = np.random.default_rng(count)
    height, width = size
    boxes = random.uniform(-20, max(size) + 20, (count, 2, 2)).astype(np.float32)
    boxes.sort(axis=1)
    boxes[:, :, 0] = np.clip(boxes[:, :, 0], -5, width + 5)
    boxes[:, :, 1] = np.clip(boxes[:, :, 1], -5, height + 5)
    odd = [
        (0, 0, width, height),
        (5, 5, 5, 9),
        (9, 4, 3, 8),
        (-3e38, -10, 3e38, 10),
        (2.5, 3.5, 2.75, 3.75),
        (0, 0, 1, 1),
    ]
    whole = boxes.reshape(count, 4)
    whole[: len(odd)] = np.array(odd, dtype=np.float32)[:count]
    outputs: dict[str, NDArray[Any]] = {
        "boxes": np.zeros((1, most, 4), dtype=np.float32),
        "scores": np.zeros((1, most), dtype=np.float32),
        "labels": np.full((1, most), -1, dtype=np.int32),
        "num": np.array([count], dtype=np.int32),
    }
    outputs["boxes"][0, :count] = whole
    outputs["scores"][0, :count] = np.sort(random.uniform(0.06, 1, count))[::-1]
    outputs["labels"][0, :count] = random.integers(0, 3, count)
    if masks:
        outputs["masks"] = np.zeros((1, most, SIDE, SIDE), dtype=np.float32)
        cells = random.random((count, SIDE, SIDE))
        cells[1::3] = np.round(cells[1::3])  # as networks give them: mostly sure
        cells[2::3] = 0.5
        outputs["masks"][0, :count] = cells
    return outputs
