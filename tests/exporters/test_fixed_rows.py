"""Mask R-CNN with a mask for every row: the same results, and no size that data decides."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from support.dense import DenseFile
from support.shared import later

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.core.errors import ExportError
from lit_deploy.exporters.fixed_rows import with_fixed_rows


def results(model: onnx.ModelProto, seed: int) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(seed).integers(0, 256, (1, 96, 130, 3), dtype=np.uint8)
    names = [output.name for output in session.get_outputs()]
    inputs = {"image": image, "original_size": np.array([192, 300], np.int64)}
    return dict(zip(names, session.run(names, inputs), strict=True))


@pytest.mark.parametrize("threshold", [pytest.param(0.05, marks=later), 0.19, 0.9], ids=["many", "some", "none"])
def test_the_results_are_the_same(threshold: float, dense_file: DenseFile) -> None:
    path = dense_file("instance_segmentation", score_threshold=threshold)
    dense = read_manifest(path).dense
    assert dense is not None
    model = onnx.load(path)
    fixed = with_fixed_rows(model, dense.max_detections)
    onnx.checker.check_model(fixed)
    assert not any(node.op_type == "Max" and "num" in node.input for node in fixed.graph.node)
    for seed in range(2):
        expected, received = results(model, seed), results(fixed, seed)
        for name, value in expected.items():
            np.testing.assert_allclose(received[name], value, rtol=0, atol=1e-6, err_msg=name)


def test_another_graph_is_refused(dense_file: DenseFile) -> None:
    with pytest.raises(ExportError, match="limits the number of its rows in 0 places, expected 1; export the check"):
        with_fixed_rows(onnx.load(dense_file("detection")), 100)
