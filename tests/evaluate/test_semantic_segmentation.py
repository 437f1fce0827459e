"""Semantic segmentation on pictures with label maps: numbers, what is refused, gates, resuming."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix
from support.command import Run
from support.evaluation import evaluated, numbers
from support.fake_dense import (
    COLOURS,
    IDS,
    LABELS,
    SIZES,
    Fakes,
    Saying,
    Size,
    dense_manifest,
    segmenter,
    true_map,
)

from lit_deploy.core.errors import ArtifactError, GateFailed, ImageError, UsageError
from lit_deploy.evaluate.result import check_gates
from lit_deploy.report.charts import confusion_plot
from lit_deploy.report.evaluate import evaluate_markdown

pytestmark = pytest.mark.usefixtures("evaluate_cache")
EVERYTHING = range(len(SIZES))


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    (tmp_path / "maps").mkdir()
    for index in EVERYTHING:
        Image.fromarray(true_map(index)).save(tmp_path / "maps" / f"{index}.png")
    return tmp_path / "maps"


def file_of(fakes: Fakes, name: str = "a.onnx", saying: Saying | None = None, **changes: Any) -> Path:
    return fakes(name, dense_manifest("semantic_segmentation", **changes), saying or segmenter(1, 0.2))


def confusion_by_hand(saying: Saying, indices: Any = EVERYTHING) -> Any:
    """Pixels by true and predicted class, of all pixels in one row, by scikit-learn."""
    true = np.concatenate([true_map(i).reshape(-1) for i in indices])
    said = np.concatenate([saying(SIZES[i])["labels"].reshape(-1) for i in indices])
    counted = (true != 0) & (true != 255)
    return confusion_matrix([IDS.index(v) for v in true[counted]], said[counted], labels=range(3))


def by_hand(saying: Saying, indices: Any = EVERYTHING) -> tuple[list[float], list[float], float]:
    """IoU and accuracy by class and pixel accuracy."""
    matrix = confusion_by_hand(saying, indices)
    right = np.diag(matrix)
    iou = right / (matrix.sum(axis=0) + matrix.sum(axis=1) - right)
    return iou.tolist(), (right / matrix.sum(axis=1)).tolist(), right.sum() / matrix.sum()


def test_numbers(fakes: Fakes, pictures: Path, maps: Path) -> None:
    sayings = [segmenter(1, 0.2), segmenter(2, 0.5), segmenter(1, 0.2)]
    names = ("lit.pth", "1.onnx", "2.onnx")
    files = [file_of(fakes, name, saying) for name, saying in zip(names, sayings, strict=True)]
    result = evaluated(files[1:], pictures, files[0], labels_dir=maps)
    assert (result.images, result.listed, result.classes, result.batch, result.skipped) == (6, 6, 3, 1, ())
    assert result.mapping == "label maps, class = looked up by value, 0 and 255 ignored"
    assert fakes[files[0]].manifest.output == "logits", "of which the largest counts"
    pixels = sum(height * width for height, width in SIZES)
    for score, saying in zip(result.scores, sayings, strict=True):
        iou, accuracy, whole = by_hand(saying)
        assert [entry.iou for entry in score.classes] == pytest.approx(iou, abs=1e-12)
        assert [entry.accuracy for entry in score.classes] == pytest.approx(accuracy, abs=1e-12)
        assert score.mean_iou == pytest.approx(np.mean(iou), abs=1e-12)
        assert score.mean_accuracy == pytest.approx(np.mean(accuracy), abs=1e-12)
        assert score.pixel_accuracy == pytest.approx(whole, abs=1e-12)
        same = sum(int((saying(size)["labels"] == sayings[0](size)["labels"]).sum()) for size in SIZES)
        assert (score.compared, score.differing, score.agreement) == (pixels, pixels - same, same / pixels)
        assert [entry.name for entry in score.classes] == list(LABELS)
    assert 0.1 < result.scores[1].mean_iou < result.scores[0].mean_iou < 0.95
    assert result.agreement[0][2] == result.agreement[2][0] == 1
    assert result.agreement[0][1] == result.agreement[1][0] < 1


def test_confusions(fakes: Fakes, pictures: Path, maps: Path, tmp_path: Path) -> None:
    result = evaluated([file_of(fakes)], pictures, labels_dir=maps)
    found = np.zeros((3, 3), dtype=int)
    for true, predicted, count in result.scores[0].confusion:
        found[true, predicted] = count
    assert found.tolist() == confusion_by_hand(segmenter(1, 0.2)).tolist()
    confusion_plot(result, tmp_path / "c.svg")
    assert (tmp_path / "c.svg").stat().st_size > 1000


def test_the_rule_of_ade20k(fakes: Fakes, pictures: Path, tmp_path: Path) -> None:
    """Class = value - 1, 0 does not count; and where a class has the value 0, it does."""
    spec = dense_manifest("semantic_segmentation").dense
    assert spec is not None
    for ids, mapping in (
        ((1, 2, 3), "label maps, class = value - 1, 0 and 255 ignored"),
        ((0, 1, 2), "label maps, class = value, 255 ignored"),
    ):
        maps = tmp_path / f"maps {ids[0]}"
        maps.mkdir()
        for index in EVERYTHING:
            values = np.full(SIZES[index], 255, dtype=np.uint8)
            values[:40] = np.select([true_map(index) == number for number in IDS], ids, 0)[:40]
            Image.fromarray(values).save(maps / f"{index}.png")
        file = file_of(fakes, dense=dataclasses.replace(spec, category_ids=ids))
        result = evaluated([file], pictures, labels_dir=maps)
        assert result.mapping == mapping
        counted = [int((true_map(i)[:40] == IDS[0]).sum()) for i in EVERYTHING]
        rest = [int(np.isin(true_map(i)[:40], (0, 255)).sum()) for i in EVERYTHING]
        assert result.scores[0].classes[0].pixels == sum(counted) + (sum(rest) if ids[0] == 0 else 0)


def test_outputs_that_are_no_class_are_wrong(fakes: Fakes, pictures: Path, maps: Path) -> None:
    def broken(size: Size) -> dict[str, Any]:
        labels = segmenter(1, 0.0)(size)["labels"].copy()
        if size == SIZES[0]:
            labels[:] = 3
        return {"labels": labels}

    result = evaluated([file_of(fakes, saying=broken)], pictures, labels_dir=maps)
    (score,) = result.scores
    lost = int(np.isin(true_map(0), IDS).sum())
    total = sum(int(np.isin(true_map(i), IDS).sum()) for i in EVERYTHING)
    assert score.not_finite == 1
    assert score.pixel_accuracy == (total - lost) / total
    assert sum(count for _, predicted, count in score.confusion if predicted == -1) == lost
    assert "a.onnx: the output is not finite for 1 images, which count as wrong" in evaluate_markdown(result)


def test_logits_that_are_not_finite_are_no_class(fakes: Fakes, pictures: Path, maps: Path) -> None:
    def broken(size: Size) -> dict[str, Any]:
        true = np.select([true_map(SIZES.index(size)) == number for number in IDS], range(3), 0)
        logits = (true[None, None] == np.arange(3)[None, :, None, None]).astype(np.float32)
        if size == SIZES[0]:
            logits[:, 1] = np.nan
        return {"logits": logits}

    result = evaluated([file_of(fakes, saying=broken)], pictures, labels_dir=maps)
    (score,) = result.scores
    lost = int(np.isin(true_map(0), IDS).sum())
    total = sum(int(np.isin(true_map(i), IDS).sum()) for i in EVERYTHING)
    assert (score.not_finite, score.pixel_accuracy) == (1, (total - lost) / total)


def test_maps_of_another_size_are_an_error_of_the_file(fakes: Fakes, pictures: Path, maps: Path) -> None:
    def narrow(size: Size) -> dict[str, Any]:
        return {"labels": segmenter(1, 0.0)(size)["labels"][:, :, 1:]}

    with pytest.raises(ArtifactError, match=r"a.onnx gave label maps \[1, 90, 119\] for a picture of \[90, 120\]"):
        evaluated([file_of(fakes, saying=narrow)], pictures, labels_dir=maps)


def test_pictures_that_cannot_be_used_count_nowhere(fakes: Fakes, pictures: Path, maps: Path) -> None:
    """Turned by EXIF, without a map, with a map of RGB, with a value that is no class."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(pictures / "0.png").save(pictures / "0.png", exif=exif)
    (maps / "1.png").unlink()
    Image.open(maps / "2.png").convert("RGB").save(maps / "2.png")
    values = true_map(3).copy()
    values[5, 5] = 9
    Image.fromarray(values).save(maps / "3.png")
    result = evaluated([file_of(fakes)], pictures, labels_dir=maps)
    reasons = {entry.image: entry.reason for entry in result.skipped}
    assert reasons == {
        "0.png": f"its label map {maps / '0.png'} is 120 x 90 pixels where the picture, turned as EXIF says, is 90 x "
        "120: give one of the same size.",
        "1.png": f"has no label map in {maps}",
        "2.png": f"its label map {maps / '2.png'} is RGB, expected one number a pixel: a grayscale or palette PNG.",
        "3.png": f"its label map {maps / '3.png'} has the value 9, expected 1 to 7, and 0 or 255 where pixels do not "
        "count.",
    }
    assert result.images == 2
    assert result.scores[0].mean_iou == pytest.approx(np.mean(by_hand(segmenter(1, 0.2), (4, 5))[0]), abs=1e-12)


def test_maps_turned_as_their_pictures(fakes: Fakes, pictures: Path, maps: Path) -> None:
    """A picture that EXIF turns has a map of the turned size."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.open(pictures / "0.png").transpose(Image.Transpose.ROTATE_90)
    assert stored.size == (90, 120)
    stored.save(pictures / "0.png", exif=exif)
    result = evaluated([file_of(fakes)], pictures, labels_dir=maps)
    assert result.skipped == ()
    assert result.images == 6


def test_none_can_be_used(fakes: Fakes, pictures: Path, maps: Path) -> None:
    for path in maps.iterdir():
        Image.new("L", (3, 3)).save(path)
    with pytest.raises(
        ImageError, match=r"none of the 6 images in .* can be read, e.g. .*png its label map .* is 3 x 3"
    ):
        evaluated([file_of(fakes)], pictures, labels_dir=maps)


def test_interrupted_and_resumed(fakes: Fakes, pictures: Path, maps: Path, tmp_path: Path) -> None:
    files = [file_of(fakes), file_of(fakes, "b.onnx", segmenter(2, 0.3))]
    whole = evaluated(files, pictures, labels_dir=maps, workers=1)
    session, state = fakes[files[1]], tmp_path / "state.jsonl"
    saying = session.saying

    def failing(size: Size) -> dict[str, Any]:
        if size == SIZES[4]:
            raise KeyboardInterrupt
        return saying(size)

    session.saying = failing
    with pytest.raises(KeyboardInterrupt):
        evaluated(files, pictures, labels_dir=maps, state=state, workers=1)
    session.saying, session.ran = saying, []
    result = evaluated(files, pictures, labels_dir=maps, state=state, workers=1)
    assert result.resumed == 4
    assert session.ran == [SIZES[4], *SIZES[4:]], "the first one twice, as it warms up"
    assert numbers(result) == numbers(whole)
    Image.fromarray(true_map(0)).save(maps / "0.png")
    with pytest.raises(UsageError, match="other images"):
        evaluated(files, pictures, labels_dir=maps, state=state)


def test_records_are_small(fakes: Fakes, pictures: Path, maps: Path, tmp_path: Path) -> None:
    """A line of the state holds cells of the matrix, whatever the size of the picture."""
    state = tmp_path / "state.jsonl"
    evaluated([file_of(fakes)], pictures, labels_dir=maps, state=state)
    assert max(map(len, state.read_bytes().splitlines()[1:])) < 400 < min(height * width for height, width in SIZES)


def test_gates_and_command(fakes: Fakes, pictures: Path, maps: Path, run: Run) -> None:
    file, checkpoint = file_of(fakes), file_of(fakes, "lit.pth", segmenter(2, 0.1))
    result = evaluated([file], pictures, checkpoint, labels_dir=maps)
    reached = result.scores[1].mean_iou
    check_gates(result, min_miou=reached)
    with pytest.raises(GateFailed, match=r"a.onnx reaches a mIoU of .* on the 6 images, expected at least"):
        check_gates(result, min_miou=reached + 1e-4)
    arguments = [file, "--images", pictures, "--labels-dir", maps, "--ckpt", checkpoint]
    code, out, err = run("evaluate", *arguments, "--markdown", "--per-class")
    assert (code, err) == (0, "")
    assert re.search(rf"^\| a\.onnx \| {reached:.2%} \| ", out, flags=re.MULTILINE), out
    first = result.scores[1].classes[0]
    assert f"| disc | {first.pixels} | {first.iou:.2%} | {first.accuracy:.2%} |" in out
    code, out, _ = run("evaluate", *arguments, "--json")
    assert json.loads(out)["scores"][1]["mean_iou"] == reached
    code, _, err = run("evaluate", *arguments, "--min-miou", 99)
    assert code == 1
    assert re.fullmatch(r"error: a\.onnx reaches a mIoU of .* expected at least 99\.00%\n", err)
    code, _, err = run("evaluate", *arguments, "--min-agreement", 99)
    assert code == 1
    assert re.search(r"agrees with lit.pth on .* of the \d+ pixels \(\d+ differ\)", err)


def test_command_refuses(fakes: Fakes, pictures: Path, maps: Path, tmp_path: Path, run: Run) -> None:
    file = file_of(fakes)
    (tmp_path / "others").mkdir()
    Image.fromarray(true_map(0)).save(tmp_path / "others" / "other.png")
    for arguments, message in (
        (
            ["--images", pictures],
            "a.onnx gives every pixel a class; name the folder of the true ones with --labels-dir",
        ),
        (["--images", pictures, "--labels-dir", pictures], "is given for pictures and for label maps"),
        (["--images", pictures, "--labels-dir", tmp_path / "none"], "none does not exist"),
        (["--images", pictures, "--labels-dir", tmp_path / "others"], "none of the 6 pictures"),
        (["--images", pictures, "--labels-dir", maps, "--min-ap", 5], "--min-ap is for detection and instance segment"),
        (["--images", pictures, "--labels-dir", maps, "--annotations", "a.json"], "--annotations is for detection and"),
        (["--images", pictures, "--labels-dir", maps, "--results", "a.json"], "--results is for detection and"),
    ):
        code, out, err = run("evaluate", file, *arguments)
        assert (code, out) == (2, ""), arguments
        assert re.fullmatch(r"error: [^\n]*\n", err), err
        assert message in err
    assert fakes[file].ran == []


def test_palette_maps_are_read_by_index(fakes: Fakes, pictures: Path, maps: Path) -> None:
    """ADE20K's maps are coloured by some tools; the index counts, not the colour."""
    plain = evaluated([file_of(fakes)], pictures, labels_dir=maps)
    for index in EVERYTHING:
        coloured = Image.fromarray(true_map(index))
        coloured.putpalette([value for colour in (COLOURS * 86)[:256] for value in colour])
        assert coloured.mode == "P"
        coloured.save(maps / f"{index}.png")
    assert evaluated([file_of(fakes)], pictures, labels_dir=maps).scores[0].classes == plain.scores[0].classes
