"""Run lengths of masks, letter by letter as pycocotools writes them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco

from lit_deploy.tasks.instance_segmentation.rle import Rle, decoded, encoded


def official(bits: NDArray[np.bool_]) -> Rle:
    rle = coco.encode(np.asfortranarray(bits.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


sizes = st.integers(1, 40)


@settings(max_examples=500, deadline=None)
@given(
    size=st.tuples(sizes, sizes),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
    share=st.sampled_from([0.0, 0.03, 0.5, 0.97, 1.0]),
    seed=st.integers(0, 1 << 20),
)
def test_every_letter_is_pycocotools(
    size: tuple[int, int], corners: tuple[float, float, float, float], share: float, seed: int
) -> None:
    """Windows of any size and place, those as high as the mask and those of no pixel among them."""
    height, width = size
    top, bottom = sorted(round(corner * height) for corner in corners[:2])
    left, right = sorted(round(corner * width) for corner in corners[2:])
    bits = np.random.default_rng(seed).random((bottom - top, right - left)) < share
    whole = np.zeros(size, dtype=bool)
    whole[top:bottom, left:right] = bits
    rle = encoded(bits, height, width, top, left)
    assert rle == official(whole)
    np.testing.assert_array_equal(decoded(rle), whole)
    assert coco.area({"size": rle["size"], "counts": rle["counts"].encode()}) == whole.sum()


def test_long_runs_need_several_letters() -> None:
    whole = np.zeros((3000, 4000), dtype=bool)
    whole[17, 3] = True
    whole[:, 2000:] = True
    rle = encoded(whole, 3000, 4000)
    assert rle == official(whole)
    np.testing.assert_array_equal(decoded(rle), whole)


@pytest.mark.parametrize("place", [(0, 7), (4, 0), (-1, 0), (0, -1)])
def test_windows_outside(place: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="does not lie inside 6 x 9 pixels"):
        encoded(np.ones((3, 3), dtype=bool), 6, 9, *place)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ("", "damaged"),
        ("~", "damaged"),
        ("a", "damaged"),
        ("P", "unfinished"),
        ("a" * 9 + "1", "more than 40 bits"),
        ("5", "5 pixels"),
        ("O6", "pixels"),
    ],
)
def test_damaged_run_lengths(counts: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decoded({"size": [2, 2], "counts": counts})
