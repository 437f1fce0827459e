"""Masks pasted into pictures: as PyTorch's sampling does it, and as the official code has done."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lit_deploy.tasks.instance_segmentation import pasting
from lit_deploy.tasks.instance_segmentation.pasting import pasted

Floats = NDArray[np.float32]
GOLDEN = Path(__file__).parents[1] / "data" / "masks.npz"


def sampled(mask: Floats, box: Floats, size: tuple[int, int]) -> NDArray[np.float32]:
    """The official rule in PyTorch: a value for every pixel of the picture, 0 outside the window."""
    height, width = size
    places, window = [], []
    for first, last, side in ((box[1], box[3], height), (box[0], box[2], width)):
        start, stop = max(math.floor(first) - 1, 0), min(math.ceil(last) + 1, side)
        pixels = torch.arange(start, stop, dtype=torch.float32) + 0.5
        place = (pixels - float(first)) / float(last - first) * 2 - 1
        places.append(torch.where(place.isinf(), 0, place))
        window.append(slice(start, stop))
    rows, columns = places
    grid = torch.stack(torch.broadcast_tensors(columns[None, :], rows[:, None]), dim=-1)
    values = torch.nn.functional.grid_sample(torch.from_numpy(mask)[None, None], grid[None], align_corners=False)
    whole = np.zeros(size, dtype=np.float32)
    whole[tuple(window)] = values[0, 0].numpy()
    return whole


def box_in(random: np.random.Generator, size: tuple[int, int]) -> Floats:
    x, y = np.sort(random.random(2) * size[1]), np.sort(random.random(2) * size[0])
    return np.array([x[0], y[0], x[1], y[1]], dtype=np.float32)


@pytest.mark.parametrize("seed", range(60))
def test_pixels_are_those_of_the_official_rule(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = (int(random.integers(1, 300)), int(random.integers(1, 300)))
    for whole_numbers in (False, True):
        mask, box = random.random((28, 28), dtype=np.float32), box_in(random, size)
        box = np.round(box) if whole_numbers else box
        if box[2] <= box[0] or box[3] <= box[1]:
            continue
        expected = sampled(mask, box, size)
        bits = pasted(mask, box, size).whole(*size)
        sure = np.abs(expected - 0.5) > 1e-6
        np.testing.assert_array_equal(bits[sure], (expected >= 0.5)[sure])
        assert (bits != (expected >= 0.5)).sum() <= 1


@pytest.mark.parametrize("side", [1, 2, 14, 28, 56])
def test_masks_of_other_sizes(side: int) -> None:
    random = np.random.default_rng(side)
    mask, box, size = random.random((side, side), dtype=np.float32), np.float32([3.3, -2.5, 47.1, 30.25]), (40, 50)
    expected = sampled(mask, box, size)
    np.testing.assert_array_equal(pasted(mask, box, size).whole(*size), expected >= 0.5)


@pytest.mark.parametrize("name", ["mask_rcnn_lit_s", "mask_rcnn_lit_ti"])
@pytest.mark.parametrize("case", ["net", "photo"])
def test_masks_of_the_official_networks(name: str, case: str) -> None:
    with np.load(GOLDEN) as file:
        golden = {part: file[f"{name}.{case}.{part}"] for part in ("logits", "boxes", "size", "pixels", "bits")}
    size = tuple(int(side) for side in golden["size"])
    for logits, box, pixels, bits in zip(
        golden["logits"], golden["boxes"], golden["pixels"], golden["bits"], strict=True
    ):
        mask = pasted((1 / (1 + np.exp(-logits))).astype(np.float32), box, size)
        assert mask.bits.sum() == pixels > 0
        if bits.any():  # not all are stored
            whole = np.unpackbits(bits)[: size[0] * size[1]].reshape(size)
            np.testing.assert_array_equal(mask.whole(*size), whole)


def test_the_edge_of_a_mask_counts_as_half() -> None:
    """Zeros around the mask: at the edge of its box a mask of ones is interpolated towards them."""
    ones = np.ones((28, 28), dtype=np.float32)
    mask = pasted(ones, np.float32([10, 20, 38, 48]), (60, 60)).whole(60, 60)
    assert mask[20:48, 10:38].all()
    assert mask.sum() == 28 * 28
    shifted = pasted(ones * 0.999, np.float32([10.5, 20, 38.5, 48]), (60, 60)).whole(60, 60)
    assert shifted.sum() == 28 * 27  # half a cell outside: 0.4995 of both edge columns


EMPTY = [
    (5, 5, 5, 9), (5, 5, 9, 5), (0, 0, 0, 0), (9, 5, 5, 9), (5, 9, 9, 5), (math.nan, 0, 5, 5), (0, 0, math.inf, 5),
    (5, 5, 9, -math.inf),
]  # fmt: skip


@pytest.mark.parametrize("box", EMPTY, ids=str)
def test_boxes_without_area(box: tuple[float, float, float, float]) -> None:
    mask = pasted(np.ones((28, 28), np.float32), np.float32(box), (20, 30))
    assert mask.bits.size == 0
    assert not mask.whole(20, 30).any()


@pytest.mark.parametrize(
    "box", [(-90, -90, -50, -50), (100, 5, 140, 9), (5, 1e9, 9, 2e9), (-1e30, 0, -1e29, 9)], ids=str
)
def test_boxes_outside_the_picture(box: tuple[float, float, float, float]) -> None:
    assert not pasted(np.ones((28, 28), np.float32), np.float32(box), (20, 30)).whole(20, 30).any()


def test_tiny_and_huge_boxes() -> None:
    ones = np.ones((28, 28), np.float32)
    assert pasted(ones, np.float32([5.4, 5.4, 5.6, 5.6]), (20, 30)).whole(20, 30).sum() == 1
    assert not pasted(ones, np.float32([5.6, 5.6, 5.9, 5.9]), (20, 30)).bits.any()  # between the centres of pixels
    assert pasted(ones, np.float32([-1e6, -1e6, 1e6, 1e6]), (20, 30)).bits.all()
    assert pasted(ones, np.float32([1e-40, 1e-40, 2e-40, 2e-40]), (20, 30)).whole(20, 30).dtype == bool


def test_values_that_are_not_finite() -> None:
    mask = np.full((28, 28), np.nan, dtype=np.float32)
    assert not pasted(mask, np.float32([2, 2, 9, 9]), (20, 30)).bits.any()


def test_bands_join(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.random.default_rng(3).random((28, 28), dtype=np.float32)
    box = np.float32([3.25, 4.5, 170.75, 150.5])
    whole = pasted(mask, box, (160, 180)).bits
    monkeypatch.setattr(pasting, "_BAND", 1)
    np.testing.assert_array_equal(pasted(mask, box, (160, 180)).bits, whole)


def test_memory_is_that_of_the_bits() -> None:
    """A mask as large as a photo: no array of floating-point numbers of its size, which would be 48 MB."""
    mask = np.random.default_rng(4).random((28, 28), dtype=np.float32)
    tracemalloc.start()
    try:
        assert pasted(mask, np.float32([0, 0, 4000, 3000]), (3000, 4000)).bits.nbytes == 12_000_000
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
