"""Detectors and instance segmentation on annotated pictures: numbers, what is refused, gates, results, resuming."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support.evaluation import evaluated, numbers
from support.fake_dense import (
    IDS,
    LABELS,
    SIZES,
    Fakes,
    Saying,
    Size,
    dense_manifest,
    detection,
    detector,
    padded,
    things,
    write_annotations,
)

from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import TaskName
from lit_deploy.report.evaluate import evaluate_markdown
from lit_deploy.tasks.detection.scores import SAME_IOU, iou

pytestmark = pytest.mark.usefixtures("evaluate_cache")


def by_pycocotools(truth: Path, results: Path, kind: str, images: list[int] | None = None) -> list[float]:
    """The twelve numbers of a file of results; areas of masks are those of their pixels."""
    found = json.loads(results.read_text())
    for entry in found:
        if kind == "segm":
            del entry["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO(str(truth))
        judge = COCOeval(ground, ground.loadRes(found), kind)
        if images is not None:
            judge.params.imgIds = images
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [float(value) for value in judge.stats]


def twelve(found: Any) -> list[float]:
    return [-1.0 if value is None else value for value in dataclasses.astuple(found)]


# ------------------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_the_numbers_are_those_of_the_written_results(
    task: TaskName, fakes: Fakes, pictures: Path, truth: Path, tmp_path: Path
) -> None:
    masks = task == "instance_segmentation"
    file = fakes("a.onnx", dense_manifest(task), detector(1, masks=masks))
    checkpoint = fakes("lit.pth", dense_manifest(task), detector(2, masks=masks))
    result = evaluated([file], pictures, checkpoint, annotations=truth, results=tmp_path / "out.json")
    assert (result.images, result.listed, result.classes, result.batch) == (6, 6, 3, 1)
    reference, score = result.scores
    assert twelve(score.boxes) == by_pycocotools(truth, tmp_path / "out.json", "bbox")
    assert 0.1 < score.boxes.ap < 0.9
    assert score.boxes != reference.boxes
    if masks:
        assert twelve(score.masks) == by_pycocotools(truth, tmp_path / "out.json", "segm")
        assert 0.01 < score.masks.ap != score.boxes.ap
    written = json.loads((tmp_path / "out.json").read_text())
    assert len(written) == score.detections
    assert {"image_id", "category_id", "bbox", "score", *(["segmentation"] if masks else [])} == set(written[0])
    assert {entry["category_id"] for entry in written} <= set(IDS)
    assert [entry.objects for entry in score.classes] == [
        sum(t.label == label and not t.crowd for i in range(6) for t in things(i)) for label in range(3)
    ]
    assert [(entry.name, entry.category_id) for entry in score.classes] == list(zip(LABELS, IDS, strict=True))
    assert np.mean([entry.ap for entry in score.classes]) == pytest.approx(score.boxes.ap, abs=1e-12)


def test_agreement_counts_partners(fakes: Fakes, pictures: Path, truth: Path) -> None:
    """Against a count by hand of pairs of one label and a large overlap; there are no rivals in these pictures."""
    sayings = [detector(1, blur=0.3), detector(1, blur=0.8), detector(9)]
    files = [detection(fakes, f"{index}.onnx", saying) for index, saying in enumerate(sayings)]
    result = evaluated(files, pictures, annotations=truth)
    assert result.reference == "0.onnx"

    def rows(saying: Saying, size: Size) -> list[tuple[Any, int]]:
        said = saying(size)
        return [(said["boxes"][0, i], int(said["labels"][0, i])) for i in range(int(said["num"][0]))]

    for index, saying in enumerate(sayings):
        common = total = 0
        for size in SIZES:
            ours, theirs = rows(sayings[0], size), rows(saying, size)
            total += len(ours) + len(theirs)
            free = list(range(len(theirs)))
            for box, label in ours:
                near = [
                    j for j in free
                    if theirs[j][1] == label and iou(box[None], theirs[j][0][None])[0, 0] >= SAME_IOU
                ]  # fmt: skip
                if near:
                    common += 1
                    free.remove(max(near, key=lambda j: iou(box[None], theirs[j][0][None])[0, 0]))
        score = result.scores[index]
        assert (score.compared, score.differing) == (total, total - 2 * common)
        assert score.agreement == result.agreement[0][index] == result.agreement[index][0] == 2 * common / total
    assert result.agreement[0][0] == 1
    assert 0.5 < result.scores[1].agreement < 1
    assert result.scores[2].agreement < 0.5


def test_the_order_of_detections_does_not_matter_to_agreement(fakes: Fakes, pictures: Path, truth: Path) -> None:
    def swapped(size: Size) -> dict[str, Any]:
        said, count = detector(1)(size), int(detector(1)(size)["num"][0])
        order = [*range(count)[::-1], *range(count, 10)]
        return {**said, "boxes": said["boxes"][:, order], "labels": said["labels"][:, order]}

    result = evaluated([detection(fakes), detection(fakes, "b.onnx", swapped)], pictures, annotations=truth)
    assert result.scores[1].agreement == 1


def test_nothing_detected(fakes: Fakes, pictures: Path, truth: Path, tmp_path: Path) -> None:
    """No detection anywhere: AP 0, agreement of nothing with nothing, and an empty list."""
    files = [detection(fakes, name, lambda size: padded([], [], [])) for name in ("a.onnx", "b.onnx")]
    result = evaluated(files, pictures, annotations=truth)
    assert [score.boxes.ap for score in result.scores] == [0, 0]
    assert result.agreement == ((1, 1), (1, 1))
    evaluated(files[:1], pictures, annotations=truth, results=tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == []


def test_outputs_that_are_not_finite_count_as_nothing(fakes: Fakes, pictures: Path, truth: Path) -> None:
    def broken(size: Size) -> dict[str, Any]:
        said = detector(1)(size)
        if size == SIZES[0]:
            said["boxes"][0, 0, 2] = np.nan
        if size == SIZES[1]:
            said["labels"][0, 0] = 3
        return said

    result = evaluated([detection(fakes), detection(fakes, "b.onnx", broken)], pictures, annotations=truth)
    good, bad = result.scores
    lost = sum(int(detector(1)(size)["num"][0]) for size in SIZES[:2])
    assert lost > 1
    assert (good.not_finite, bad.not_finite, bad.detections) == (0, 2, good.detections - lost)
    assert bad.differing == lost
    assert "b.onnx: the output is not finite for 2 images, which count as wrong" in evaluate_markdown(result)


def test_each_picture_is_prepared_once_for_files_that_share_a_rule(
    fakes: Fakes, pictures: Path, truth: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lit_deploy.images import keep_ratio

    loaded: list[object] = []
    load = keep_ratio.load_image
    monkeypatch.setattr(keep_ratio, "load_image", lambda *a, **k: (loaded.append(a), load(*a, **k))[1])
    plain = dense_manifest("detection").input
    evaluated([detection(fakes), detection(fakes, "b.onnx")], pictures, annotations=truth)
    assert len(loaded) == 6
    files = [detection(fakes), detection(fakes, "b.onnx", input=dataclasses.replace(plain, resize=64))]
    evaluated(files, pictures, annotations=truth)
    assert len(loaded) == 18


# -------------------------------------------------------------------------------------------- pictures and annotations


def test_pictures_that_cannot_be_used_count_nowhere(fakes: Fakes, pictures: Path, truth: Path, tmp_path: Path) -> None:
    """One is missing, one damaged, one of another size: named, and the numbers are those of the others."""
    (pictures / "0.png").unlink()
    (pictures / "3.png").write_bytes(b"no picture")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.open(pictures / "4.png")
    turned.save(pictures / "4.png", exif=exif)
    (pictures / "more.png").write_bytes((pictures / "5.png").read_bytes())
    result = evaluated([detection(fakes)], pictures, annotations=truth, results=tmp_path / "out.json")
    assert (result.images, result.listed) == (3, 5)
    reasons = {entry.image: entry.reason for entry in result.skipped}
    assert reasons["0.png"] == "is in the annotations and not in the folder"
    assert reasons["3.png"].startswith("is not an image")
    assert reasons["4.png"] == "is 77 x 133 pixels, turned as EXIF says, where the annotations say 133 x 77"
    assert result.notes == (f"1 images of {pictures} are not in the annotations",)
    used = [10 * index + 5 for index in (1, 2, 5)]
    assert twelve(result.scores[0].boxes) == by_pycocotools(truth, tmp_path / "out.json", "bbox", used)
    assert {entry["image_id"] for entry in json.loads((tmp_path / "out.json").read_text())} <= set(used)


def test_limit(fakes: Fakes, pictures: Path, truth: Path) -> None:
    file = detection(fakes)
    result = evaluated([file], pictures, annotations=truth, limit=3)
    assert (result.images, result.listed, result.skipped) == (3, 3, ())
    assert len(set(fakes[file].ran)) == 3


def test_categories_by_name(fakes: Fakes, pictures: Path, truth: Path, tmp_path: Path) -> None:
    """Annotations that count from 0 in another order: the same numbers, and results in their numbering."""
    expected = evaluated([detection(fakes)], pictures, annotations=truth)
    told = json.loads(truth.read_text())
    other = {7: 0, 1: 1, 3: 2}
    for entry in told["categories"]:
        entry["id"] = other[entry["id"]]
    for entry in told["annotations"]:
        entry["category_id"] = other[entry["category_id"]]
    named = tmp_path / "named.json"
    named.write_text(json.dumps(told))
    result = evaluated([detection(fakes)], pictures, annotations=named, results=tmp_path / "out.json")
    assert result.mapping == "annotations named.json, categories by name"
    assert expected.mapping == "annotations truth.json, categories by id"
    assert twelve(result.scores[0].boxes) == pytest.approx(twelve(expected.scores[0].boxes), abs=1e-12)
    assert twelve(result.scores[0].boxes) == by_pycocotools(named, tmp_path / "out.json", "bbox")


def test_ids_of_annotations_do_not_matter(fakes: Fakes, pictures: Path, truth: Path) -> None:
    expected = evaluated([detection(fakes)], pictures, annotations=truth)
    told = json.loads(truth.read_text())
    write_annotations(truth, annotations=[{**entry, "id": 0} for entry in told["annotations"]])
    assert evaluated([detection(fakes)], pictures, annotations=truth).scores[0].boxes == expected.scores[0].boxes


def test_annotations_of_some_classes(fakes: Fakes, pictures: Path, tmp_path: Path) -> None:
    """What is detected of the others cannot be wrong, and is not written where it would have another's number."""
    told = write_annotations(tmp_path / "some.json")
    told["categories"] = [{"id": 1, "name": "square"}]  # 1 is the network's disc
    told["annotations"] = [{**e, "category_id": 1} for e in told["annotations"] if e["category_id"] == 3]
    (tmp_path / "some.json").write_text(json.dumps(told))
    result = evaluated([detection(fakes)], pictures, annotations=tmp_path / "some.json", results=tmp_path / "out.json")
    assert result.mapping.endswith("categories by name, 1 of the network's 3 classes")
    squares = sum(int((detector(1)(size)["labels"] == 1).sum()) for size in SIZES)
    assert len(json.loads((tmp_path / "out.json").read_text())) == squares
    assert twelve(result.scores[0].boxes) == by_pycocotools(tmp_path / "some.json", tmp_path / "out.json", "bbox")


def test_files_with_other_thresholds_say_so(fakes: Fakes, pictures: Path, truth: Path) -> None:
    spec = dense_manifest("detection").dense
    assert spec is not None
    other = detection(fakes, "b.onnx", dense=dataclasses.replace(spec, score_threshold=0.3))
    result = evaluated([detection(fakes), other], pictures, annotations=truth)
    assert result.notes == ("b.onnx and a.onnx differ for a reason of their own: score thresholds 0.3 and 0.05",)
    numbered = detection(fakes, "c.onnx", dense=dataclasses.replace(spec, category_ids=(1, 2, 3)))
    with pytest.raises(UsageError, match=r"c.onnx numbers its classes otherwise than a.onnx"):
        evaluated([detection(fakes), numbered], pictures, annotations=truth)


def test_pytorch_is_opened_like_the_first_exported_file(fakes: Fakes, pictures: Path, truth: Path) -> None:
    """Its normalisation and thresholds are inside the network: with others it would differ for that reason alone."""
    plain = dense_manifest("detection")
    assert plain.dense is not None
    spec = dataclasses.replace(plain.dense, score_threshold=0.3)
    exported = dataclasses.replace(plain, input=dataclasses.replace(plain.input, resize=64), dense=spec)
    checkpoint = detection(fakes, "lit.pth")
    files = [detection(fakes), fakes("b.onnx", exported, detector(1))]
    result = evaluated(files, pictures, checkpoint, annotations=truth)
    assert fakes[checkpoint].like == plain, "that of a.onnx, though the checkpoint comes first in the report"
    assert [score.label for score in result.scores] == ["lit.pth", "a.onnx", "b.onnx"]
    assert result.notes == ("b.onnx and lit.pth differ for a reason of their own: score thresholds 0.3 and 0.05",)
    evaluated(files[1:], pictures, checkpoint, annotations=truth)
    assert fakes[checkpoint].like == exported
    alone = evaluated([detection(fakes, "lit.pth")], pictures, annotations=truth)
    (note,) = alone.notes
    assert note.startswith("images for lit.pth are prepared with the default mean, std and resize rule")


# ------------------------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_interrupted_and_resumed(task: TaskName, fakes: Fakes, pictures: Path, truth: Path, tmp_path: Path) -> None:
    """The numbers and the results of a run that nobody disturbed, and no picture twice."""
    masks = task == "instance_segmentation"
    saying = detector(1, masks=masks)
    files = [fakes(name, dense_manifest(task), saying) for name in ("a.onnx", "lit.pth")]
    whole = evaluated(files[:1], pictures, files[1], annotations=truth, results=tmp_path / "whole.json", workers=1)
    session = fakes[files[0]]

    def failing(size: Size) -> dict[str, Any]:
        if size == SIZES[3]:
            raise KeyboardInterrupt
        return saying(size)

    state = tmp_path / "state.jsonl"
    session.saying = failing
    with pytest.raises(KeyboardInterrupt):
        evaluated(files[:1], pictures, files[1], annotations=truth, state=state, workers=1)
    session.saying, session.ran = saying, []
    result = evaluated(
        files[:1], pictures, files[1], annotations=truth, results=tmp_path / "again.json", state=state, workers=1
    )
    assert result.resumed == 3
    assert session.ran == [SIZES[3], *SIZES[3:]], "the first one twice, as it warms up"
    assert numbers(result) == numbers(whole)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    write_annotations(truth, annotations=[])
    with pytest.raises(UsageError, match="other images"):
        evaluated(files[:1], pictures, files[1], annotations=truth, state=state)
