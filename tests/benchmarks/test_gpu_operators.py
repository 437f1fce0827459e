"""The GPU suite's measurement of three operators, run on the CPU: right kernels pass, wrong ones do not."""

from __future__ import annotations

import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

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


def pool(level: Tensor, boxes: Tensor, size: int, scale: float, samples: int, aligned: bool) -> Tensor:
    """torchvision's roi_align over the whole grid of samples, by another road than ours: a matrix for each axis."""
    assert samples == 0
    assert aligned

    def axis(low: float, high: float, cells: int) -> Tensor:
        per_bin = (high - low) * scale / size
        count = math.ceil(per_bin)
        at = low * scale - 0.5 + (torch.arange(size * count) + 0.5) * per_bin / count
        inside = (at >= -1) & (at <= cells)
        at = at.clamp(0, cells - 1)
        weights = (1 - (at[:, None] - torch.arange(cells)).abs()).clamp(min=0) * inside[:, None]
        return weights.view(size, count, cells).mean(1)

    rows, columns = level.shape[2:]
    pooled = [
        axis(y1, y2, rows) @ level[int(image)] @ axis(x1, x2, columns).T for image, x1, y1, x2, y2 in boxes.tolist()
    ]
    return torch.stack(pooled) if pooled else level.new_zeros(0, level.shape[1], size, size)


def keep(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """torchvision's batched_nms."""
    kept = nms_reference(boxes, scores, classes, iou_threshold, -1.0, len(boxes))
    return kept[kept >= 0]


@pytest.mark.parametrize("stand_in", [True, False])
def test_torchvisions_operators_compute_the_same(monkeypatch: pytest.MonkeyPatch, stand_in: bool) -> None:
    """With torchvision's own where they are; with stand-ins, what is around them all the same."""
    if stand_in:
        package, ops = ModuleType("torchvision"), ModuleType("torchvision.ops")
        package.ops, ops.roi_align, ops.batched_nms = ops, pool, keep
        monkeypatch.setitem(sys.modules, "torchvision", package)
        monkeypatch.setitem(sys.modules, "torchvision.ops", ops)
    elif (problem := gpu_operators.torchvision_problem()) is not None:
        pytest.skip(f"torchvision: {problem}")
    pooling = gpu_operators.roi_align_case(RIGHT, 40, 7, torch.float32, "cpu", (5, 100, 152)).contenders
    torch.testing.assert_close(pooling["torchvision"](0), pooling["kernel"](0), atol=1e-4, rtol=0)
    suppression = gpu_operators.nms_case(RIGHT, 300, 3, 0.5, 20, "cpu").contenders
    kept = suppression["torchvision"](0)
    assert len(kept) == 20
    if stand_in:  # of equal scores, torchvision takes any
        assert torch.equal(kept, suppression["kernel"](0))


def test_ratios_are_the_contenders_times_over_the_kernels() -> None:
    case = gpu_operators.attention_case(RIGHT, 1, 3, 2, 1, torch.float32, "cpu")

    def timer(contender: object, runs: int, sets: int) -> float:
        return 2e-6 if contender is case.contenders["kernel"] else 6e-6

    report = gpu_operators.report_of(iter([case]), rounds=5, timer=timer)
    assert report["cases"][0]["over_kernel"]["sdpa"]["median"] == 3
    assert report["cases"][0]["microseconds"]["kernel"]["median"] == 2
