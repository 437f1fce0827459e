"""Detectors and instance segmentation on the command line: gates, forms of the report, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from support.command import Run
from support.evaluation import evaluated
from support.fake_dense import Fakes, dense_manifest, detection, detector

from lit_deploy.core.errors import GateFailed, LitDeployError, UsageError
from lit_deploy.evaluate.result import check_gates

pytestmark = pytest.mark.usefixtures("evaluate_cache")


def test_gates(fakes: Fakes, pictures: Path, truth: Path) -> None:
    file = fakes("a.onnx", dense_manifest("instance_segmentation"), detector(1, masks=True))
    result = evaluated([file, detection(fakes, "b.onnx")][:1], pictures, annotations=truth)
    (score,) = result.scores
    check_gates(result, min_ap=score.boxes.ap, min_mask_ap=score.masks.ap)
    with pytest.raises(GateFailed, match=r"a.onnx reaches a box AP of \d+\.\d\d% on the 6 images, expected at least"):
        check_gates(result, min_ap=score.boxes.ap + 1e-4)
    with pytest.raises(GateFailed, match="reaches a mask AP of"):
        check_gates(result, min_mask_ap=score.masks.ap + 1e-4)
    with pytest.raises(UsageError, match=r"a.onnx has no min_top1, expected one of min_ap, min_mask_ap"):
        check_gates(result, min_top1=0.5)
    nothing = dataclasses.replace(score, boxes=dataclasses.replace(score.boxes, ap=None))
    with pytest.raises(GateFailed, match="has no box AP, as there is no object in the 6 images"):
        check_gates(dataclasses.replace(result, scores=(nothing,)), min_ap=0.01)


def test_command(fakes: Fakes, pictures: Path, truth: Path, tmp_path: Path, run: Run) -> None:
    file = fakes("a.onnx", dense_manifest("instance_segmentation"), detector(1, masks=True))
    checkpoint = fakes("lit.pth", dense_manifest("instance_segmentation"), detector(2, masks=True))
    arguments = [file, "--images", pictures, "--annotations", truth, "--ckpt", checkpoint]
    code, out, err = run("evaluate", *arguments, "--per-class", "--results", tmp_path / "out.json")
    assert (code, err) == (0, "")
    assert "categories by id" in out
    assert "By class: a.onnx" in out
    assert (tmp_path / "out.json").is_file()
    code, out, _ = run("evaluate", *arguments, "--json")
    told = json.loads(out)
    score = told["scores"][1]
    assert len(score["classes"]) == 3
    assert score["boxes"]["ap"] == evaluated([file], pictures, checkpoint, annotations=truth).scores[1].boxes.ap
    code, out, _ = run("evaluate", *arguments, "--markdown", "--per-class")
    row = rf"^\| a\.onnx \| boxes \| {score['boxes']['ap']:.2%} \| {score['boxes']['ap50']:.2%} \|"
    assert re.search(row, out, flags=re.MULTILINE), out
    assert re.search(rf"^\|  \| masks \| {score['masks']['ap']:.2%} \|", out, flags=re.MULTILINE), out
    disc = score["classes"][0]
    assert f"| disc | {disc['objects']} | {disc['ap']:.2%} |" in out
    code, out, err = run("evaluate", *arguments, "--min-ap", 99)
    assert code == 1
    assert out.startswith("6 images, 3 classes")
    assert re.fullmatch(r"error: a\.onnx reaches a box AP of .* expected at least 99\.00%\n", err)
    code, _, err = run("evaluate", *arguments, "--min-agreement", 99)
    assert code == 1
    assert re.search(r"agrees with lit.pth on .* of the \d+ detections of both \(\d+ have no partner\)", err)
    assert run("evaluate", *arguments, "--min-ap", 2, "--min-mask-ap", 0)[0] == 0


def test_command_refuses(fakes: Fakes, pictures: Path, truth: Path, tmp_path: Path, run: Run) -> None:
    file, other = detection(fakes), detection(fakes, "b.onnx")
    mapped = fakes("map.onnx", dense_manifest("semantic_segmentation"), detector(1))
    (tmp_path / "no.json").write_text("{")
    written = ["--images", pictures, "--annotations", truth]
    for arguments, message in (
        ([file, "--images", pictures], "a.onnx detects objects; name COCO's JSON of the true ones with --annotations"),
        ([file, "--images", pictures, "--annotations", tmp_path / "no.json"], "no.json are no JSON"),
        ([file, *written, "--labels-file", truth], "--labels-file is for classification, and a.onnx is made for detec"),
        ([file, *written, "--folders", "index"], "--folders is for classification"),
        ([file, *written, "--batch", 8], "--batch is for classification"),
        ([file, *written, "--min-top1", 50], "--min-top1 is for classification"),
        ([file, *written, "--min-miou", 50], "--min-miou is for semantic segmentation"),
        ([file, *written, "--min-mask-ap", 50], "--min-mask-ap is for instance segmentation"),
        ([file, *written, "--labels-dir", tmp_path], "--labels-dir is for semantic segmentation"),
        ([file, *written, "--min-ap", 0.5], "--min-ap is 0.5, expected percent, e.g. --min-ap 99"),
        (
            [file, other, *written, "--results", tmp_path / "o.json"],
            "--results holds the detections of one file, got 2",
        ),
        ([file, *written, "--results", tmp_path / "x" / "o.json"], "does not exist; create it first"),
        ([file, mapped, *written], "a.onnx is made for detection"),
    ):
        code, out, err = run("evaluate", *arguments)
        assert (code, out) == (2, ""), arguments
        assert re.fullmatch(r"error: [^\n]*\n", err), err
        assert message in err
    assert all(not session.ran for session in fakes.all()), "before anything runs"


def test_a_classifier_refuses_what_is_for_detectors(exported: Path, labelled_photos: Path, run: Run) -> None:
    for option in (["--annotations", "a.json"], ["--min-ap", 9], ["--results", "a.json"]):
        code, out, err = run("evaluate", exported, "--images", labelled_photos, *option)
        assert (code, out) == (2, "")
        assert re.fullmatch(rf"error: {option[0]} is for [a-z ]+, and tiny.onnx is made for classification\n", err), err


def test_errors_are_lit_deploys(fakes: Fakes, pictures: Path, truth: Path) -> None:
    """What hotcoco itself refuses is known before anything runs."""
    told = json.loads(truth.read_text())
    told["images"][0]["id"] = -5
    told["annotations"] = [entry for entry in told["annotations"] if entry["image_id"] != 5]
    truth.write_text(json.dumps(told))
    file = detection(fakes)
    with pytest.raises(LitDeployError, match="the annotations cannot be scored against"):
        evaluated([file], pictures, annotations=truth)
    assert fakes[file].ran == []
