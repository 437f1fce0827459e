"""Names, numbers and colours of what detectors and segmentation networks tell apart.

COCO's 80 things and ADE20K's 150 classes lie in text files beside this module, in order of the labels: ``id name`` and
``red green blue name`` a line.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from lit_deploy.core.specs import TaskName

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Categories:
    """What stands for every label of a network, in their order.

    Attributes:
        labels: names.
        ids: the data set's numbers, from 1 on, perhaps with gaps.
        palette: RGB 0..255.
    """

    labels: tuple[str, ...]
    ids: tuple[int, ...]
    palette: tuple[Colour, ...]


def default_categories(task: TaskName, num_classes: int) -> Categories:
    """Name, number and colour the classes of a network for which nobody gave names.

    Args:
        task: what the network does.
        num_classes: without background.

    Returns:
        COCO's for a detector of 80 classes, ADE20K's for a segmentation network of 150; else ``class 0``, ``class 1``,
        ... with the numbers from 1 on.
    """
    if task in ("detection", "instance_segmentation") and num_classes == 80:
        return coco_categories()
    if task == "semantic_segmentation" and num_classes == 150:
        return ade20k_categories()
    return Categories(
        labels=tuple(f"class {index}" for index in range(num_classes)),
        ids=tuple(range(1, num_classes + 1)),
        palette=palette(num_classes),
    )


@cache
def coco_categories() -> Categories:
    """COCO's 80 things in order of their ids, 1 to 90 with ten gaps; the colours are ours.

    Source: https://cocodataset.org, categories of 2017.
    """
    entries = [line.split(" ", 1) for line in _lines("coco_categories.txt")]
    labels, ids = tuple(name for _, name in entries), tuple(int(number) for number, _ in entries)
    return Categories(labels, ids, palette(len(ids)))


@cache
def ade20k_categories() -> Categories:
    """The 150 classes of ADE20K's scene parsing benchmark, with the colours of the official evaluation.

    The blank at the end of the official ``bed `` is dropped: names of exported files are printed and compared.

    Source: names and palette of mmseg 0.13's ``ADE20KDataset``; two classes, road and ship, share a colour there.
    """
    entries = [line.split(" ", 3) for line in _lines("ade20k_categories.txt")]
    return Categories(
        labels=tuple(name for *_, name in entries),
        ids=tuple(range(1, len(entries) + 1)),
        palette=tuple((int(red), int(green), int(blue)) for red, green, blue, _ in entries),
    )


@cache
def palette(count: int) -> tuple[Colour, ...]:
    """Colours for any number of labels, none of them grey or dark; the first n are the same for every ``count``.

    Each is the one farthest from all before it, out of some two thousand; beyond those they begin again.
    """
    levels = np.arange(0, 256, 17.0)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    strong = (colours.max(axis=1) >= 150) & (np.ptp(colours, axis=1) >= 100)
    colours = colours[strong]
    seen = colours * np.sqrt((2.0, 4.0, 3.0))  # eyes tell greens apart best, and reds worst
    distance = np.full(len(colours), np.inf)
    chosen = [int(np.argmax(colours @ (1, -1, -1)))]
    while len(chosen) < min(count, len(colours)):
        distance = np.minimum(distance, ((seen - seen[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(np.argmax(distance)))
    found = [(int(red), int(green), int(blue)) for red, green, blue in colours[chosen]]
    return tuple(found[index % len(found)] for index in range(count))


def _lines(name: str) -> list[str]:
    return files("lit_deploy.images").joinpath(name).read_text(encoding="utf-8").splitlines()
