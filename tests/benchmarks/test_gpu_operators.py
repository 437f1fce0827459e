"""The GPU suite's measurement of three operators, run on the CPU: right kernels pass, wrong ones do not."""

from __future__ import annotations

import importlib
import itertools
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_deploy.ops.multi_level_roi_align.reference import reference as roi_align_reference
from lit_deploy.ops.nms.reference import reference as nms_reference
from lit_deploy.ops.relative_position_attention.reference import reference as attention_reference

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

gpu_operators = importlib.import_module("gpu_operators")


def attention(qkv: Tensor, table: Tensor, scale: float, y: Tensor) -> None:
    y.copy_(attention_reference(qkv.double(), table.double(), table.shape[0], scale))


def roi_align(rois: Tensor, levels: list[Tensor], y: Tensor) -> None:
    y.copy_(roi_align_reference(rois, [level.float() for level in levels], y.shape[2]))


def nms(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, indices: Tensor) -> None:
    threshold = gpu_operators.SCORE_THRESHOLD
    indices.copy_(nms_reference(boxes, scores, classes, iou_threshold, threshold, len(indices)))


RIGHT = gpu_operators.Kernels(attention, roi_align, nms)


def transposed_bias(qkv: Tensor, table: Tensor, scale: float, y: Tensor) -> None:
    attention(qkv, table.flip(1, 2), scale, y)


def coarse_logits(qkv: Tensor, table: Tensor, scale: float, y: Tensor) -> None:
    """As products of a half type, or TensorFloat-32, would leave them."""
    attention(qkv, table.bfloat16().float(), scale, y)


def shifted_regions(rois: Tensor, levels: list[Tensor], y: Tensor) -> None:
    roi_align(rois + 0.5, levels, y)


def one_class(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, indices: Tensor) -> None:
    nms(boxes, scores, torch.zeros_like(classes), iou_threshold, indices)


def test_right_kernels_pass(capsys: pytest.CaptureFixture[str]) -> None:
    report = gpu_operators.report_of(gpu_operators.all_cases(RIGHT, "cpu", small=True), rounds=0)
    assert report["failures"] == []
    assert len(report["cases"]) == 10
    assert "attention 2 x 9 x 8, 2 heads, bfloat16: right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "operator"),
    [
        (replace(RIGHT, attention=transposed_bias), "attention"),
        (replace(RIGHT, attention=coarse_logits), "attention"),
        (replace(RIGHT, roi_align=shifted_regions), "RoIAlign"),
        (replace(RIGHT, nms=one_class), "suppression"),
    ],
    ids=["transposed bias", "coarse logits", "shifted regions", "one class"],
)
def test_a_wrong_kernel_is_named(wrong: object, operator: str) -> None:
    report = gpu_operators.report_of(gpu_operators.all_cases(wrong, "cpu", small=True), rounds=0)
    assert report["failures"], operator
    assert all(name.startswith(operator) for name in report["failures"])
    assert any("float32" in name for name in report["failures"]) or operator == "suppression"


def test_pytorchs_attention_computes_the_same() -> None:
    case = gpu_operators.attention_case(RIGHT, 2, 5, 3, 4, torch.float32, "cpu")
    torch.testing.assert_close(case.contenders["sdpa"](0), case.contenders["kernel"](0), atol=2e-5, rtol=0)


def test_torchvisions_operators_compute_the_same() -> None:
    if (problem := gpu_operators.torchvision_problem()) is not None:
        pytest.skip(f"torchvision: {problem}")
    pooling = gpu_operators.roi_align_case(RIGHT, 40, 7, torch.float32, "cpu", (5, 40, 60)).contenders
    torch.testing.assert_close(pooling["torchvision"](0), pooling["kernel"](0), atol=1e-4, rtol=0)
    suppression = gpu_operators.nms_case(RIGHT, 500, 3, 0.5, 500, "cpu").contenders
    kept = suppression["kernel"](0)
    assert set(suppression["torchvision"](0).tolist()) >= set(kept[kept >= 0][:5].tolist())


def test_ratios_are_the_contenders_times_over_the_kernels() -> None:
    case = gpu_operators.attention_case(RIGHT, 1, 3, 2, 1, torch.float32, "cpu")
    turns = itertools.cycle([1.0])

    def timer(contender: object, runs: int, sets: int) -> float:
        return next(turns) * (2e-6 if contender is case.contenders["kernel"] else 6e-6)

    report = gpu_operators.report_of(iter([case]), rounds=5, timer=timer)
    assert report["cases"][0]["over_kernel"]["sdpa"]["median"] == 3
    assert report["cases"][0]["microseconds"]["kernel"]["median"] == 2
