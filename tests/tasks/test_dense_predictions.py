"""What detectors and segmentation networks say about a picture, from their outputs to tables and JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from support.dense_results import dense_manifest, disc, found, picture_of

from lit_deploy.core.errors import ArtifactError
from lit_deploy.report.predict import predictions_json
from lit_deploy.tasks.detection.predictions import Detection
from lit_deploy.tasks.detection.predictions import predictions as detections
from lit_deploy.tasks.detection.results import coco_records, detections_of
from lit_deploy.tasks.instance_segmentation.pasting import pasted
from lit_deploy.tasks.instance_segmentation.predictions import predictions as instances
from lit_deploy.tasks.instance_segmentation.rle import decoded
from lit_deploy.tasks.semantic_segmentation.predictions import predictions as segments

IMAGE = Image.new("RGB", (120, 90))
THREE = ((0, 0.875, (10, 20, 50, 80)), (79, 0.5, (0.25, 0.5, 120, 90)), (11, 0.125, (60, 5, 70, 15)))


def test_rows_that_do_not_count_are_cut_off() -> None:
    got = detections_of(found(*THREE))
    assert len(got) == 3
    assert got.masks is None
    assert got.labels.tolist() == [0, 79, 11]
    assert got.scores.tolist() == [0.875, 0.5, 0.125]
    assert got.boxes.max() < 777
    with_masks = detections_of(found(*THREE, masks=True))
    assert with_masks.masks is not None
    assert with_masks.masks.shape == (3, 28, 28)
    assert len(with_masks.above(0.5)) == 1, "strictly above, as everywhere"
    assert with_masks.above(0.2)[:1].masks.shape == (1, 28, 28)  # type: ignore[union-attr]
    assert len(detections_of(found())) == 0


def test_coco_records_of_boxes() -> None:
    records = coco_records(detections_of(found(*THREE)), 42, dense_manifest("detection").dense.category_ids, (90, 120))  # type: ignore[union-attr]
    assert records == [
        {"image_id": 42, "category_id": 1, "bbox": [10, 20, 40, 60], "score": 0.875},
        {"image_id": 42, "category_id": 90, "bbox": [0.25, 0.5, 119.75, 89.5], "score": 0.5},
        {"image_id": 42, "category_id": 13, "bbox": [60, 5, 10, 10], "score": 0.125},
    ]
    assert coco_records(detections_of(found()), 1, (1,), (90, 120)) == []
    json.dumps(records)  # NumPy's numbers would raise


def test_coco_records_of_masks() -> None:
    outputs = found(*THREE, (5, 0.1, (7, 7, 7, 7)), masks=True)
    records = coco_records(detections_of(outputs), 3, range(80), (90, 120))
    json.dumps(records)
    for record, box in zip(records, outputs["boxes"][0], strict=False):
        rle = record["segmentation"]
        assert rle["size"] == [90, 120]
        expected = pasted(disc(), box, (90, 120)).whole(90, 120)
        np.testing.assert_array_equal(coco.decode({**rle, "counts": rle["counts"].encode()}), expected)
    areas = [int(decoded(record["segmentation"]).sum()) for record in records]
    assert min(areas[:3]) > 50
    assert areas[3] == 0, "a box without area has a mask without pixels"


@pytest.mark.parametrize(("top", "threshold", "count"), [(100, 0.05, 3), (2, 0.05, 2), (100, 0.3, 2), (1, 0.9, 0)])
def test_detections(top: int, threshold: float, count: int) -> None:
    manifest = dense_manifest("detection", score_threshold=threshold)
    (prediction,) = detections(found(*THREE), manifest, ["a.jpg"], picture_of(IMAGE), top)
    assert (prediction.image, prediction.height, prediction.width) == ("a.jpg", 90, 120)
    expected = (
        Detection(1, "person", 0.875, (10, 20, 40, 60)),
        Detection(90, "toothbrush", 0.5, (0.25, 0.5, 119.75, 89.5)),
        Detection(13, "stop sign", 0.125, (60, 5, 10, 10)),
    )
    assert prediction.detections == expected[:count]
    rows = prediction.rows()
    assert all(len(row) == len(prediction.COLUMNS) for row in rows)
    if rows:
        assert rows[0] == ("87.5%", "person", "10.0", "20.0", "40.0", "60.0")


def test_json_of_detections_is_cocos() -> None:
    manifest = dense_manifest("detection")
    text = predictions_json(iter(detections(found(THREE[0]), manifest, ["a.jpg"], picture_of(IMAGE), 9)))
    assert json.loads(text) == [
        {
            "image": "a.jpg",
            "height": 90,
            "width": 120,
            "detections": [
                {"category_id": 1, "label": "person", "score": 0.875, "bbox": [10.0, 20.0, 40.0, 60.0]},
            ],
        }
    ]


def test_json_of_nothing() -> None:
    manifest = dense_manifest("detection")
    (prediction,) = detections(found(), manifest, ["a.jpg"], picture_of(IMAGE), 9)
    assert json.loads(predictions_json([prediction]))[0]["detections"] == []


def test_instances() -> None:
    manifest = dense_manifest("instance_segmentation")
    outputs = found(*THREE, masks=True)
    (prediction,) = instances(outputs, manifest, ["a.jpg"], picture_of(IMAGE), 100)
    records = coco_records(detections_of(outputs), 1, manifest.dense.category_ids, (90, 120))  # type: ignore[union-attr]
    assert len(prediction.detections) == 3
    for instance, record in zip(prediction.detections, records, strict=True):
        assert instance.segmentation == record["segmentation"]
        assert instance.area == decoded(instance.segmentation).sum()
        assert list(instance.bbox) == record["bbox"]
    assert prediction.rows()[0][-1] == str(prediction.detections[0].area)
    (got,) = json.loads(predictions_json([prediction]))
    assert [each["segmentation"] for each in got["detections"]] == [record["segmentation"] for record in records]
    (one,) = instances(outputs, manifest, ["a.jpg"], picture_of(IMAGE), 1)
    assert one.detections == prediction.detections[:1]


def labels() -> np.ndarray:
    """Sky above, 60 %, a floor, and one pixel of flag."""
    found = np.full((90, 120), 2, dtype=np.uint8)
    found[54:] = 3
    found[89, 119] = 149
    return found


@pytest.mark.parametrize("form", ["labels", "logits"])
def test_segments(form: str) -> None:
    manifest = dense_manifest("semantic_segmentation", 150)
    logits = np.eye(150, dtype=np.float32)[labels()].transpose(2, 0, 1)
    outputs = {"labels": labels()[None]} if form == "labels" else {"logits": logits[None]}
    (prediction,) = segments(outputs, manifest, ["a.jpg"], picture_of(IMAGE), 100)
    assert [(each.label, each.category_id, each.pixels) for each in prediction.classes] == [
        ("sky", 3, 6480), ("floor", 4, 4319), ("flag", 150, 1),
    ]  # fmt: skip
    assert prediction.classes[0].share == 0.6
    assert prediction.rows() == [
        ("60.00%", "sky", "6480", "3"), ("39.99%", "floor", "4319", "4"), ("0.01%", "flag", "1", "150"),
    ]  # fmt: skip
    assert len(prediction.COLUMNS) == 4
    np.testing.assert_array_equal(prediction.label_map, labels())
    (two,) = segments(outputs, manifest, ["a.jpg"], picture_of(IMAGE), 2)
    assert two.classes == prediction.classes[:2]


def test_json_of_segments_leaves_the_map_to_the_picture() -> None:
    manifest = dense_manifest("semantic_segmentation", 150)
    (prediction,) = segments({"labels": labels()[None]}, manifest, ["a.jpg"], picture_of(IMAGE), 1)
    assert json.loads(predictions_json([prediction])) == [
        {
            "image": "a.jpg",
            "height": 90,
            "width": 120,
            "classes": [{"category_id": 3, "label": "sky", "pixels": 6480, "share": 0.6}],
        }
    ]


def test_map_of_labels_as_a_picture(tmp_path) -> None:
    manifest = dense_manifest("semantic_segmentation", 150)
    (prediction,) = segments({"labels": labels()[None]}, manifest, ["a.jpg"], picture_of(IMAGE), 1)
    prediction.label_image(manifest).save(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels())
        colours = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(colours, np.array(manifest.dense.palette)[labels()])  # type: ignore[union-attr]


# --------------------------------------------------------------------------------------------- outputs that say nothing


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("scores", np.nan, "its boxes, scores or masks are not finite"),
        ("boxes", np.inf, "its boxes, scores or masks are not finite"),
        ("masks", np.nan, "its boxes, scores or masks are not finite"),
        ("labels", 80, "its labels are outside 0 to 79"),
        ("labels", -1, "its labels are outside 0 to 79"),
    ],
)
def test_detections_that_are_none(name: str, value: float, words: str) -> None:
    outputs = found(*THREE, masks=True)
    outputs[name][0, 1] = value
    for predictions in (instances, detections):
        with pytest.raises(ArtifactError, match=f"no answer for a.png: {words}"):
            predictions(outputs, dense_manifest("instance_segmentation"), ["a.png"], picture_of(IMAGE), 9)


def test_pixels_without_a_class() -> None:
    manifest = dense_manifest("semantic_segmentation")
    logits = np.zeros((1, len(manifest.labels), 4, 5), np.float32)
    logits[0, 3, 2, 1] = np.nan
    labels = np.full((1, 4, 5), len(manifest.labels), np.int32)
    for outputs, words in (
        ({"logits": logits}, "logits are not finite"),
        ({"labels": labels}, "labels are outside 0 to"),
    ):
        with pytest.raises(ArtifactError, match=f"no answer for a.png: its {words}"):
            segments(outputs, manifest, ["a.png"], picture_of(IMAGE), 9)
