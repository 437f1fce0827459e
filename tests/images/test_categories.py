"""Names, numbers and colours of classes."""

from __future__ import annotations

import numpy as np
import pytest

from lit_deploy.images.categories import default_categories, palette


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_coco(task: str) -> None:
    coco = default_categories(task, 80)  # type: ignore[arg-type]
    assert len(coco.labels) == len(set(coco.labels)) == len(coco.ids) == len(coco.palette) == 80
    assert (coco.labels[0], coco.labels[11], coco.labels[79]) == ("person", "stop sign", "toothbrush")
    assert list(coco.ids) == sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
    assert coco.ids[coco.labels.index("stop sign")] == 13
    assert coco.ids[coco.labels.index("hair drier")] == 89


def test_ade20k() -> None:
    ade = default_categories("semantic_segmentation", 150)
    assert len(ade.labels) == len(set(ade.labels)) == 150
    assert ade.ids == tuple(range(1, 151))
    assert (ade.labels[0], ade.labels[7], ade.labels[149]) == ("wall", "bed", "flag")
    assert ade.palette[0] == (120, 120, 120)
    assert ade.palette[7] == (204, 5, 255)
    assert ade.palette[149] == (92, 0, 255)
    assert all(name == name.strip() for name in ade.labels)


@pytest.mark.parametrize(
    ("task", "count"),
    [("detection", 150), ("detection", 1), ("semantic_segmentation", 80), ("instance_segmentation", 81)],
)
def test_classes_without_names(task: str, count: int) -> None:
    found = default_categories(task, count)  # type: ignore[arg-type]
    assert found.labels == tuple(f"class {index}" for index in range(count))
    assert found.ids == tuple(range(1, count + 1))
    assert found.palette == palette(count)


@pytest.mark.parametrize(("count", "least"), [(2, 200), (20, 80), (80, 40), (150, 30), (1000, 10)])
def test_colours_are_apart(count: int, least: float) -> None:
    colours = np.array(palette(count), dtype=float)
    distances = np.sqrt(((colours[:, None] - colours) ** 2).sum(-1)) + np.diag([np.inf] * count)
    assert distances.min() > least
    assert np.array_equal(colours[: count // 2], palette(count // 2))


def test_more_labels_than_colours() -> None:
    many = palette(5_000)
    assert len(many) == 5_000
    assert len(set(many)) > 2_000
    assert all(0 <= channel <= 255 for colour in many for channel in colour)
