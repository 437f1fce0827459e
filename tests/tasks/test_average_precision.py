"""COCO's average precision against pycocotools, and detections that two files have in common."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lit_deploy.core.errors import MissingDependency, UsageError
from lit_deploy.tasks.detection.scores import Kind, coco_scores, iou, partners, require_scores

CATEGORIES = (1, 7, 8, 90)
SIZE = (150, 200)


def shape(box: list[float], slant: float) -> Any:
    """Compressed run lengths of a box with one corner cut off."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    x, y, w, h = box
    inside = (columns >= x) & (columns <= x + w) & (rows >= y) & (rows <= y + h)
    bits = inside & ((columns - x) / max(w, 1e-6) + (rows - y) / max(h, 1e-6) > slant)
    written = coco_mask.encode(np.asfortranarray(bits.astype(np.uint8)))
    return {"size": list(SIZE), "counts": written["counts"].decode()}


def some_box(random: np.random.Generator) -> list[float]:
    side = random.choice([12.0, 40.0, 110.0])
    w, h = side * random.uniform(0.6, 1.2, 2)
    return [float(np.round(v, 2)) for v in (random.uniform(0, 195 - w), random.uniform(0, 145 - h), w, h)]


def data_set(seed: int, images: int = 14) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truth and results, with crowds, areas that are not those of the boxes, and pictures without either."""
    random = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        for _ in range(0 if image % 5 == 0 else int(random.integers(1, 7))):
            box, category = some_box(random), int(random.choice(CATEGORIES[:3]))
            crowd = int(random.random() < 0.2)
            mask = shape(box, random.uniform(0.1, 0.5))
            if crowd:  # as COCO writes crowds: run lengths that are not compressed
                bits = coco_mask.decode(mask).T.reshape(-1)
                edges = np.flatnonzero(np.diff(np.r_[0, bits, 1 - bits[-1]]))
                mask = {"size": list(SIZE), "counts": np.diff(np.r_[0, edges]).tolist()}
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": category, "bbox": box,
                "area": box[2] * box[3] * random.uniform(0.5, 1.0), "iscrowd": crowd, "segmentation": mask,
            })  # fmt: skip
            for _ in range(int(random.integers(0, 4))):
                moved = [float(v) for v in np.float32(np.array(box) + random.normal(0, 0.05 * box[2], 4))]
                moved[2:] = [max(side, 0.5) for side in moved[2:]]
                # scores that are the same more than once, and labels that are wrong now and then
                results.append({
                    "image_id": image, "category_id": category if random.random() < 0.9 else 90, "bbox": moved,
                    "score": float(np.float32(random.integers(1, 20) / 20)),
                    "segmentation": shape(moved, random.uniform(0.1, 0.5)),
                })  # fmt: skip
        for _ in range(0 if image == 3 else int(random.integers(0, 3))):
            box = some_box(random)
            results.append({
                "image_id": image, "category_id": int(random.choice(CATEGORIES)), "bbox": box,
                "score": float(random.random()), "segmentation": shape(box, 0.2),
            })  # fmt: skip
    truth = {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, images + 1)],
        "categories": [{"id": number, "name": f"c{number}"} for number in CATEGORIES],
        "annotations": annotations,
    }
    return truth, results


def reference(truth: dict[str, Any], results: list[dict[str, Any]], kind: Kind) -> COCOeval:
    """What pycocotools says; areas of masks are those of their pixels, as on COCO's server."""
    left_out = "bbox" if kind == "segm" else "segmentation"
    plain = [{key: value for key, value in entry.items() if key != left_out} for entry in results]
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = truth
        ground.createIndex()
        judge = COCOeval(ground, ground.loadRes(plain), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


def numbers(values: Iterator[float | None]) -> list[float]:
    return [-1.0 if value is None else value for value in values]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(6))
def test_the_twelve_numbers_are_those_of_pycocotools(seed: int, kind: Kind) -> None:
    truth, results = data_set(seed)
    assert any(entry["iscrowd"] for entry in truth["annotations"])
    expected = reference(truth, results, kind)
    found = coco_scores(truth, results, kind)
    stats = expected.stats.tolist()
    # pycocotools' order is that of the fields
    assert numbers(iter(dataclasses.astuple(found.overall))) == stats
    assert 0.05 < stats[0] < 0.95, "neither all nor nothing is right"
    precision = expected.eval["precision"]
    for index, number in enumerate(CATEGORIES):
        for value, part in zip(
            found.by_category[number],
            (precision[:, :, index, 0, 2], precision[0, :, index, 0, 2], precision[5, :, index, 0, 2]),
            strict=True,
        ):
            assert value == (None if (part == -1).all() else float(np.mean(part[part > -1])))
    assert found.by_category[90] == (None, None, None), "detected here and there, and never there"


def test_areas_of_masks_are_those_of_their_pixels() -> None:
    """The box of this one is of medium size, its mask is small: COCO's tools would look at the box, were it there."""
    box = [10.0, 10.0, 34.0, 34.0]
    mask = shape(box, 1.2)
    area = float(coco_mask.area(mask))
    assert area < 32**2 < 34**2
    truth = {
        "images": [{"id": 1, "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": area, "iscrowd": 0, "segmentation": mask}
        ],
    }
    miss = {"image_id": 1, "category_id": 1, "bbox": [100.0, 90.0, 34.0, 34.0], "score": 0.9}
    results = [
        {**miss, "segmentation": shape([100.0, 90.0, 34.0, 34.0], 1.2)},
        {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.5, "segmentation": mask},
    ]
    assert coco_scores(truth, results, "segm").overall.ap_small == pytest.approx(0.5), "the miss is a small one"


def test_nothing_found_and_nothing_there() -> None:
    truth, results = data_set(0)
    found = coco_scores(truth, [], "bbox")
    assert (found.overall.ap, found.overall.ar100) == (0.0, 0.0)
    assert coco_scores(truth, [], "segm").overall == found.overall
    nothing = coco_scores({**truth, "annotations": []}, results, "bbox")
    assert set(dataclasses.astuple(nothing.overall)) == {None}


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """``--json`` is on the same stream."""
    coco_scores(*data_set(1), "bbox")
    assert capfd.readouterr().out == ""


def test_truth_that_cannot_be_scored_against() -> None:
    truth, results = data_set(0)
    truth["images"][0]["id"] = -3
    with pytest.raises(UsageError, match="the annotations cannot be scored against") as caught:
        coco_scores(truth, results, "segm")
    assert "\n" not in str(caught.value)


def test_without_hotcoco(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_deploy.machine.packages.installed_version", lambda name: None)
    with pytest.raises(MissingDependency, match=r"needs hotcoco, .*; run: pip install 'lit-deploy\[evaluate\]'"):
        require_scores()
    assert "hotcoco" in sys.modules


# ---------------------------------------------------------------------------------------------- what two have in common


def boxes_and_labels(*rows: tuple[float, float, float, float, int]) -> tuple[Any, Any]:
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    return table[:, :4].astype(np.float32), table[:, 4].astype(np.int32)


def test_iou_is_that_of_pycocotools() -> None:
    random = np.random.default_rng(3)
    a, b = (np.sort(random.uniform(0, 60, (n, 2, 2)), axis=1).reshape(n, 4).astype(np.float32) for n in (40, 30))
    a[7] = b[5]
    wide = [np.concatenate([m[:, :2], m[:, 2:] - m[:, :2]], axis=1).astype(np.float64) for m in (a, b)]
    np.testing.assert_allclose(iou(a, b), coco_mask.iou(*wide, [0] * 30), atol=1e-6)
    flat = np.array([[5, 5, 5, 9]], dtype=np.float32)
    assert iou(flat, flat) == 1
    assert iou(flat, flat + 1) == 0


def test_partners() -> None:
    ours = boxes_and_labels((0, 0, 100, 100, 1), (0, 0, 100, 96, 1), (200, 0, 300, 50, 2), (0, 200, 10, 210, 3))
    for others, expected in (
        (ours, 4),
        (boxes_and_labels(), 0),
        (boxes_and_labels((0, 0, 100, 100, 1)), 1),  # both of ours are near it, one is its partner
        (boxes_and_labels((0, 0, 100, 100, 2)), 0),  # of another label
        (boxes_and_labels((0, 0, 100, 92, 1), (0, 0, 100, 91, 1)), 2),
        (boxes_and_labels((0, 0, 100, 92, 1), (0, 0, 100, 89, 1)), 1),  # the better one takes the only one in reach
        (boxes_and_labels((200, 0, 300, 55.5, 2)), 1),  # just above 0.9
        (boxes_and_labels((200, 0, 300, 55.6, 2)), 0),  # just below
        (boxes_and_labels((0, 200, 10, 210, 3), (200, 0, 300, 50, 2), (0, 0, 100, 96, 1), (0, 0, 100, 100, 1)), 4),
    ):
        assert partners(*ours, *others) == expected
        assert partners(*others, *ours) == expected, "whoever is asked first"


def test_the_nearest_are_paired_first() -> None:
    """One after the other, the first would take the only partner of the second."""
    ours = boxes_and_labels((0, 0, 100, 95, 0), (0, 0, 100, 100, 0))
    others = boxes_and_labels((0, 0, 100, 99, 0), (0, 0, 100, 88, 0))
    assert partners(*ours, *others) == 2
