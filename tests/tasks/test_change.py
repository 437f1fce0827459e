"""What counts as a changed prediction of a detector and of a segmentation network, on outputs written down by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lit_deploy.tasks.detection import change as detection
from lit_deploy.tasks.detection.change import DetectionFindings
from lit_deploy.tasks.semantic_segmentation import change as segmentation
from lit_deploy.tasks.semantic_segmentation.change import LabelFindings

MANIFEST: Any = None  # neither task looks at it
BOX = (10.0, 10.0, 30.0, 30.0)


def found(*rows: tuple[tuple[float, ...], float, int], masks: Any = None) -> DetectionFindings:
    """One picture's findings from boxes, scores and labels; three more rows fill up the outputs."""
    boxes, scores, labels = np.zeros((1, len(rows) + 3, 4), np.float32), [], []
    for index, (box, score, label) in enumerate(rows):
        boxes[0, index] = box
        scores.append(score)
        labels.append(label)
    outputs = {
        "boxes": boxes, "scores": np.float32([[*scores, 0, 0, 0]]), "labels": np.int32([[*labels, -1, -1, -1]]),
        "num": np.int32([len(rows)]),
    }  # fmt: skip
    if masks is not None:
        outputs["masks"] = np.concatenate([np.float32(masks), np.zeros((3, 4, 4), np.float32)])[None]
    return detection.findings(outputs, MANIFEST, 1)


def shifted(by: float) -> tuple[float, ...]:
    return (BOX[0] + by, BOX[1], BOX[2] + by, BOX[3])


@pytest.mark.parametrize(
    ("other", "lost"),
    [
        ((BOX, 0.9, 2), 0),
        ((shifted(6), 0.9, 2), 0),  # 14 of 26 columns in common: 0.54
        ((shifted(7), 0.9, 2), 2),  # 13 of 27: 0.48
        ((BOX, 0.9, 1), 2),
        ((BOX, 0.46, 2), 0),
        ((BOX, 0.44, 2), 2),
        ((BOX, 0.2, 2), 1),  # itself below what is looked for
        ((BOX, float("nan"), 2), 2),
        (((float("nan"),) * 4, 0.9, 2), 2),
    ],
)
def test_a_counterpart_has_label_place_and_about_the_score(other: tuple[Any, Any, int], lost: int) -> None:
    change = found(other).change(found((BOX, 0.9, 2)))
    assert change.differing == lost
    assert change.total == (1 if other[1] == 0.2 else 2)
    assert change.share == lost / change.total
    assert change.broken == (1 if np.isnan([*other[0], other[1]]).any() else 0)
    assert found((BOX, 0.9, 2)).change(found(other)).differing == lost, "in either direction"


def test_every_detection_serves_once() -> None:
    twice, once = found((BOX, 0.9, 2), (shifted(1), 0.8, 2)), found((BOX, 0.9, 2))
    assert (twice.change(once).differing, twice.change(once).total) == (1, 3)
    near = found((shifted(3), 0.9, 2), (BOX, 0.8, 2))
    assert near.change(twice).differing == 0, "whatever their order"


def test_the_order_of_equal_scores_says_nothing() -> None:
    far = (60.0, 60.0, 80.0, 90.0)
    assert found((BOX, 0.7, 0), (far, 0.7, 1)).change(found((far, 0.7, 1), (BOX, 0.7, 0))).differing == 0


def test_masks_count_where_there_are_any() -> None:
    left, most, right = np.zeros((3, 1, 4, 4))
    left[:, :, :2], most[:, :, :3], right[:, :, 2:] = 1, 0.6, 1
    empty = np.full((1, 4, 4), 0.4)
    rows = (BOX, 0.9, 2)
    reference = found(rows, masks=left)
    assert found(rows, masks=left).change(reference).differing == 0
    assert found(rows, masks=most).change(reference).differing == 0, "8 of 12 pixels in common"
    assert found(rows, masks=right).change(reference).differing == 2
    assert found(rows, masks=empty).change(reference).differing == 2
    assert found(rows, masks=empty).change(found(rows, masks=empty)).differing == 0


def test_without_certain_detections_the_best_are_looked_for() -> None:
    """In all pictures alike: where one of them has a certain detection, the others' doubtful ones do not count."""
    doubtful = found(*[(shifted(40.0 * index), 0.25 - 0.001 * index, 0) for index in range(25)])
    nothing = found()
    change = nothing.change(doubtful)
    assert (change.differing, change.total) == (detection.BEST, detection.BEST)
    certain = found((BOX, 0.31, 0))
    change = nothing.joined([certain]).change(doubtful.joined([certain]))
    assert (change.differing, change.total) == (0, 2)


def test_nothing_found_is_noted() -> None:
    assert found().notes == ("nothing is found in any image, so that the agreement says little; give other images",)
    assert found((BOX, 0.1, 0)).notes == ()
    assert found().change(found()).share == 0


def test_findings_are_joined_and_chosen() -> None:
    parts = [found((BOX, 0.9, label)) for label in range(3)]
    every = parts[0].joined(parts[1:])
    assert len(every) == 3
    assert [picture.labels.tolist() for picture in every.at(np.array([2, 0])).pictures] == [[2], [0]]


# ------------------------------------------------------------------------------------------------------- segmentation


def labelled(labels: Any) -> LabelFindings:
    return segmentation.findings({"labels": np.asarray(labels, np.uint8)[None]}, MANIFEST, 1)


def test_every_pixel_counts_once() -> None:
    reference, other = np.zeros((6, 10)), np.zeros((6, 10))
    reference[:, 3], other[:2, 4:7] = 1, 1
    change = labelled(other).change(labelled(reference))
    assert (change.differing, change.total, change.counted) == (12, 60, "pixels")
    two = labelled(other).joined([labelled(np.ones((3, 4)))])
    change = two.change(labelled(reference).joined([labelled(np.ones((3, 4)))]))
    assert (change.differing, change.total, len(two)) == (12, 72, 2)


def test_logits_are_taken_by_their_best() -> None:
    logits = np.random.default_rng(1).standard_normal((1, 4, 5, 6)).astype(np.float32)
    found = segmentation.findings({"logits": logits}, MANIFEST, 1)
    assert found.change(labelled(logits[0].argmax(axis=0))).differing == 0
    logits[0, 2, 3, 3] = np.nan
    broken = segmentation.findings({"logits": logits}, MANIFEST, 1)
    change = broken.change(found)
    assert (change.differing, change.total, change.broken) == (30, 30, 1)


def test_of_large_pictures_an_even_part_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation, "MOST_PIXELS", 100)
    labels = np.zeros((21, 50), np.uint8)
    labels[:, 25:] = 7
    found = labelled(labels)
    (kept,) = found.pictures
    assert kept is not None
    assert 90 <= len(kept) <= 100
    assert np.mean(kept == 7) == pytest.approx(0.5, abs=0.1)
    assert found.change(labelled(np.zeros((21, 50)))).share == np.mean(kept == 7)


def test_maps_of_unlike_size_differ_everywhere() -> None:
    change = labelled(np.ones((3, 4))).change(labelled(np.ones((3, 5))))
    assert (change.differing, change.total) == (15, 15)


def test_one_label_everywhere_is_noted() -> None:
    assert "one label is given to all pixels" in labelled(np.ones((3, 4))).notes[0]
    assert labelled(np.arange(12).reshape(3, 4)).notes == ()
