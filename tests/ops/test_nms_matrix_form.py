"""Suppression as products of matrices: the operator's own result wherever it says that it is complete."""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from support.detection import Feed, nms_model, random_boxes

from lit_deploy.ops.nms.matrix_form import COMPLETE, MAX_UNCAPPED, MatrixForm, in_matrix_form
from lit_deploy.ops.nms.reference import reference

CASES = int(os.environ.get("LIT_DEPLOY_RANDOM_CASES", "1500"))
BOXES = 200


class Form:
    """The matrix form among so many boxes, on ONNX Runtime."""

    def __init__(self, boxes: int, form: MatrixForm = MatrixForm(), *, iou: float = 0.5, length: int = 100) -> None:
        model = nms_model(iou, 0.05, length)
        for value in model.graph.input:
            value.type.tensor_type.shape.dim[0].dim_value = boxes
        model.graph.value_info.extend(model.graph.input)
        self.boxes, self.iou, self.length = boxes, iou, length
        self.model = in_matrix_form(model, form)
        self._session = ort.InferenceSession(self.model.SerializeToString(), providers=["CPUExecutionProvider"])

    def __call__(self, feed: Feed) -> tuple[np.ndarray, bool]:
        """The indices, and whether they are complete; fewer boxes are filled up with some that score nothing."""
        missing = self.boxes - len(feed["scores"])
        filled = {name: np.pad(value, [(0, missing)] + [(0, 0)] * (value.ndim - 1)) for name, value in feed.items()}
        indices, complete = self._session.run(["indices", COMPLETE], filled)
        return indices, bool(complete[0])

    def expected(self, feed: Feed) -> np.ndarray:
        tensors = (torch.from_numpy(feed[name]) for name in ("boxes", "scores", "classes"))
        return reference(*tensors, self.iou, 0.05, self.length).numpy()


def some(seed: int) -> Feed:
    """A random set, of at most ``BOXES``."""
    return {name: value[:BOXES] for name, value in random_boxes(seed).items()}


@pytest.mark.parametrize(("iou", "length"), [(0.5, 100), (0.7, 7), (1 / 3, 300)])
def test_equals_the_operator(iou: float, length: int) -> None:
    """Crowded boxes, many at a threshold, many of one score, up to 80 classes: complete, and not one index differs."""
    form = Form(BOXES, iou=iou, length=length)
    for seed in range(CASES // 3):
        feed = some(seed)
        indices, complete = form(feed)
        assert complete, seed
        np.testing.assert_array_equal(indices, form.expected(feed), err_msg=str(seed))


def chain(links: int) -> Feed:
    """Boxes of which each overlaps the next one only: every second stays, and the last depends on the first."""
    left = np.arange(links, dtype=np.float32) * 3
    boxes = np.stack((left, np.zeros(links), left + 10, np.full(links, 10)), axis=1).astype(np.float32)
    return {
        "boxes": boxes, "scores": np.linspace(0.9, 0.5, links, dtype=np.float32), "classes": np.zeros(links, np.int64),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("links", "rounds", "complete"), [(23, 24, True), (60, 24, False), (60, 61, True), (6, 2, False)]
)
def test_a_chain_longer_than_the_rounds_is_told(links: int, rounds: int, complete: bool) -> None:
    form = Form(BOXES, MatrixForm(rounds=rounds))
    indices, told = form(chain(links))
    assert told == complete
    assert np.array_equal(indices, form.expected(chain(links))) == complete


def many(seed: int, above: int) -> Feed:
    """More boxes than are compared without a cap, of which ``above`` score above the threshold."""
    rng = np.random.default_rng(seed)
    corner = rng.random((MAX_UNCAPPED + 1, 2), np.float32) * 20
    scores = np.full(len(corner), 0.01, np.float32)
    scores[rng.permutation(len(corner))[:above]] = rng.integers(10, 90, above).astype(np.float32) / 100
    return {
        "boxes": np.concatenate((corner, corner + 5 + rng.random(corner.shape, np.float32) * 30), 1),
        "scores": scores, "classes": rng.integers(0, 3, len(corner)),
    }  # fmt: skip


def test_the_cap_is_never_silently_wrong() -> None:
    """Complete where no more than the cap are candidates, or so many stay that the others cannot matter."""
    told = []
    for length in (5, 40):
        form = Form(MAX_UNCAPPED + 1, MatrixForm(candidates=64), length=length)
        for seed in range(20):
            for above in (0, 1, 64, 65, 400):
                feed = many(seed, above)
                indices, complete = form(feed)
                told.append(complete)
                if complete:
                    np.testing.assert_array_equal(indices, form.expected(feed), err_msg=f"{length} {seed} {above}")
                assert complete or above > 64
    assert 0 < sum(told) < len(told)


def test_more_rows_than_boxes_are_filled_up() -> None:
    form = Form(3, length=5)
    feed = {
        "boxes": np.array([[0, 0, 4, 4], [0, 0, 4, 4], [9, 9, 12, 12]], np.float32),
        "scores": np.array([0.2, 0.9, 0.5], np.float32), "classes": np.zeros(3, np.int64),
    }  # fmt: skip
    indices, complete = form(feed)
    assert complete
    np.testing.assert_array_equal(indices, [1, 2, -1, -1, -1])


def test_nothing_of_ours_is_left() -> None:
    model = Form(4).model
    onnx.checker.check_model(model)
    assert not [node.op_type for node in model.graph.node if node.domain or node.op_type == "NonMaxSuppression"]
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
