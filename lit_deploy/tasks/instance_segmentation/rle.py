"""COCO's run lengths of masks, as its API writes them into JSON; NumPy only.

A mask is read column by column. The lengths of its runs, zeros first, are written as differences from the run before
last of the same value (from the fourth on), in groups of five bits: the lowest first, 32 says that another follows, 16
in the last one is the sign, and 48 makes it a letter.

Source: the format that pycocotools writes (``rleEncode``, ``rleToString``); the code is ours, and tests compare both.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Runs = NDArray[np.int64]

_BITS, _SIGN, _MORE, _LETTER = 5, 16, 32, 48
_GROUPS = 8
"""Most groups of one number: 40 bits, more than any picture has pixels."""


class Rle(TypedDict):
    """A mask in COCO's JSON: ``size`` is ``[height, width]`` in pixels, ``counts`` the compressed run lengths."""

    size: list[int]
    counts: str


def encoded(bits: NDArray[np.bool_], height: int, width: int, top: int = 0, left: int = 0) -> Rle:
    """Write a mask of which a window is known.

    Args:
        bits: bool ``[h, w]``, the window; everything outside it is false. May be empty.
        height, width: of the whole mask, pixels.
        top, left: where the window lies in it.

    Returns:
        What ``pycocotools.mask.encode`` gives for the whole mask, which is never made.

    Raises:
        ValueError: the window does not lie inside the mask.
    """
    h, w = bits.shape
    if not (0 <= top <= top + h <= height and 0 <= left <= left + w <= width):
        raise ValueError(f"a window of {h} x {w} at {top}, {left} does not lie inside {height} x {width} pixels")
    return {"size": [height, width], "counts": _text(_run_lengths(bits, height, width, top, left))}


def decoded(rle: Rle) -> NDArray[np.bool_]:
    """Read a mask.

    Args:
        rle: as ``encoded`` or pycocotools wrote it.

    Returns:
        bool ``[height, width]``.

    Raises:
        ValueError: the run lengths are not those of such a mask.
    """
    height, width = rle["size"]
    bits, left = decoded_columns(rle)
    whole = np.zeros((height, width), dtype=bool)
    whole[:, left : left + bits.shape[1]] = bits
    return whole


def decoded_columns(rle: Rle) -> tuple[NDArray[np.bool_], int]:
    """Read the columns of a mask from its first to its last pixel, which may be few of a large picture.

    Args:
        rle: as ``encoded`` or pycocotools wrote it.

    Returns:
        bool ``[height, columns]``, and the number of columns left of them.

    Raises:
        ValueError: the run lengths are not those of such a mask.
    """
    height, width = rle["size"]
    runs = _runs(rle["counts"])
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"run lengths of {runs.sum()} pixels for a mask of {height} x {width}")
    if len(runs) < 2:
        return np.zeros((height, 0), dtype=bool), 0
    last = height * width - (int(runs[-1]) if len(runs) % 2 else 0)
    left, right = int(runs[0]) // height, -(-last // height)
    runs[0] -= left * height
    if len(runs) % 2:
        runs[-1] = right * height - last
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(right - left, height).T, left


def _run_lengths(bits: NDArray[np.bool_], height: int, width: int, top: int, left: int) -> Runs:
    """Lengths of the runs of the whole mask, zeros first (0 of them where it begins with a one)."""
    h, w = bits.shape
    # A row of zeros between two columns ends every run where its column ends, in the window as in the mask.
    columns = np.zeros((w, h + 1), dtype=np.int8)
    columns[:, :h] = bits.T
    steps = np.diff(columns.ravel(), prepend=np.int8(0))
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    starts, lengths = _position(starts, h, height, top, left), ends - starts
    ends = starts + lengths
    # Where the window is as high as the mask, a run at the end of a column goes on at the beginning of the next one.
    if not len(starts):
        return np.array([height * width], dtype=np.int64)
    apart = starts[1:] != ends[:-1]
    edges = np.empty((1 + int(apart.sum()), 2), dtype=np.int64)
    edges[:, 0] = starts[np.r_[True, apart]]
    edges[:, 1] = ends[np.r_[apart, True]]
    runs: Runs = np.diff(np.r_[0, edges.ravel(), height * width])
    return runs if runs[-1] else runs[:-1]


def _position(found: Runs, h: int, height: int, top: int, left: int) -> Runs:
    """From an index into the window's columns, which have a zero at their end, to one into the mask's."""
    column, row = np.divmod(found, h + 1)
    position: Runs = (left + column) * height + top + row
    return position


def _text(runs: Runs) -> str:
    rest = runs.copy()
    rest[3:] -= runs[1:-2]
    letters = np.empty((len(runs), _GROUPS), dtype=np.uint8)
    written = np.zeros((len(runs), _GROUPS), dtype=bool)
    going_on = np.ones(len(runs), dtype=bool)
    for group in range(_GROUPS):
        written[:, group] = going_on
        low = rest & (_MORE - 1)
        rest = rest >> _BITS
        going_on = going_on & (rest != np.where(low & _SIGN, -1, 0))
        letters[:, group] = low + _LETTER + _MORE * going_on
    return letters[written].tobytes().decode("ascii")


def _runs(text: str) -> Runs:
    groups = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - _LETTER
    if not len(groups) or groups.min() < 0 or groups.max() >= 2 * _MORE or groups[-1] & _MORE:
        raise ValueError("the run lengths are damaged: a letter that is none of COCO's, or an unfinished number")
    last = (groups & _MORE) == 0
    number = np.cumsum(last) - last
    first = np.flatnonzero(np.r_[True, last[:-1]])
    place = np.arange(len(groups)) - first[number]
    if place.max() >= _GROUPS:
        raise ValueError("the run lengths are damaged: a number of more than 40 bits")
    values = np.zeros(int(last.sum()), dtype=np.int64)
    np.add.at(values, number, (groups & (_MORE - 1)) << (_BITS * place))
    negative = (groups[last] & _SIGN) != 0
    values -= np.where(negative, np.int64(1) << (_BITS * (place[last] + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
