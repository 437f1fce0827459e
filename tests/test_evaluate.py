"""Accuracy on images: against predictions made one by one, through kills, bad images and bad arguments."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import onnx
import pytest
from exported import change_initializer, edited, export_of
from golden import TINY
from PIL import Image
from rich.console import Console
from test_predict import broken_images

import lit_deploy
from lit_deploy import cli, evaluate, evaluate_state, report
from lit_deploy.artifact import manifest_of, metadata_of, set_manifest
from lit_deploy.datasets import Skipped
from lit_deploy.errors import GateFailed, ImageError, LitDeployError, UsageError
from lit_deploy.evaluate import check_gates, evaluate_artifacts
from lit_deploy.evaluate_result import EvaluateReport, wilson_interval
from lit_deploy.export import export_checkpoint
from lit_deploy.exporters.onnx import OnnxOptions
from lit_deploy.predict import predict_images
from lit_deploy.runtime.session import SessionOptions
from lit_deploy.seeded import make_state, save_checkpoint, synthetic_image
from lit_deploy.specs import InputSpec

CheckpointFile = Callable[[str], Path]
Run = Callable[..., tuple[int, str, str]]
ROOT = Path(lit_deploy.__file__).parents[1]
COUNT = 23
RIGHT = 16

evaluated = functools.partial(evaluate_artifacts, options=SessionOptions(threads=1))
"""On one thread: thread pools of PyTorch and ONNX Runtime that wait for each other on a busy machine take minutes."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of states that nobody named; each test has its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lit-deploy" / "evaluate"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, checkpoint_file: CheckpointFile) -> Path:
    """Class folders in which 16 of 23 images lie where PyTorch would put them, the others one class further."""
    store = tmp_path_factory.mktemp("store")
    paths = []
    for index in range(COUNT):
        paths.append(store / f"{index:02}.png")
        pixels = synthetic_image(4, f"evaluate:{index}", 70 + index, 90 - index)
        Image.fromarray((pixels * (0.3 + 0.03 * index)).astype(np.uint8)).save(paths[-1])
    root = tmp_path_factory.mktemp("photos")
    for index, prediction in enumerate(predict_images(checkpoint_file("tiny"), paths, 1, SessionOptions(threads=1))):
        best = prediction.classes[0] if index < RIGHT else (prediction.classes[0] + 1) % TINY.num_classes
        folder = root / f"class {best}"
        folder.mkdir(exist_ok=True)
        paths[index].rename(folder / paths[index].name)
    return root


@pytest.fixture
def shifted(checkpoint_file: CheckpointFile, tmp_path: Path) -> Path:
    """A file that predicts other classes for some images."""

    def change(model: onnx.ModelProto) -> None:
        change_initializer(model, "head.bias", lambda value: value + np.linspace(0, 0.4, value.size))

    return edited(export_of(checkpoint_file("tiny")), tmp_path / "shifted.onnx", change)


def truth_of(root: Path) -> tuple[list[Path], list[int]]:
    paths = sorted(path for path in root.rglob("*.png"))
    return paths, [int(path.parent.name.split()[1]) for path in paths]


def numbers(result: EvaluateReport) -> EvaluateReport:
    """The report without what differs from run to run: times, and how much an earlier run had done."""
    scores = tuple(dataclasses.replace(score, images_per_second=0.0) for score in result.scores)
    return dataclasses.replace(result, scores=scores, seconds=0.0, resumed=0)


# ------------------------------------------------------------------------------------------------------------ numbers


def test_the_numbers_are_those_of_single_predictions(
    checkpoint_file: CheckpointFile, photos: Path, shifted: Path
) -> None:
    checkpoint = checkpoint_file("tiny")
    files = [
        export_of(checkpoint, batch=3, output="probabilities"),
        export_of(checkpoint, input="uint8", output="top5"),
        export_of(checkpoint, resize=64),
        shifted,
    ]
    result = evaluated(files, photos, checkpoint, batch=5)
    paths, truth = truth_of(photos)
    best = [
        [p.classes for p in predict_images(source, paths, options=SessionOptions(threads=1))]
        for source in (checkpoint, *files)
    ]
    assert (result.images, result.listed, result.skipped, result.classes) == (COUNT, COUNT, (), 7)
    assert [score.label for score in result.scores] == ["tiny.pth", *(file.name for file in files)]
    for score, rows in zip(result.scores, best, strict=True):
        assert score.top1.right == sum(row[0] == c for row, c in zip(rows, truth, strict=True)), score.label
        assert score.top5 is not None
        assert score.top5.right == sum(c in row for row, c in zip(rows, truth, strict=True)), score.label
        assert score.differing == sum(row[0] != other[0] for row, other in zip(rows, best[0], strict=True))
        assert score.top1.share == score.top1.right / COUNT
        assert (score.top1.low, score.top1.high) == wilson_interval(score.top1.right, COUNT)
        assert score.images_per_second > 0
        assert score.not_finite == 0
    assert result.scores[0].top1.right == RIGHT
    for row, ours in zip(result.agreement, best, strict=True):
        for share, theirs in zip(row, best, strict=True):
            assert share == sum(a[0] == b[0] for a, b in zip(ours, theirs, strict=True)) / COUNT
    assert [score.agreement for score in result.scores] == list(result.agreement[0])
    assert 0 < result.scores[-1].differing < COUNT, "the last file does differ, and not everywhere"
    assert len({row[0] for row in best[0]}) > 1, "more than one class is predicted"


def test_batches_change_nothing(checkpoint_file: CheckpointFile, photos: Path) -> None:
    files = [export_of(checkpoint_file("tiny")), export_of(checkpoint_file("tiny"), batch=3)]
    first, *others = [
        evaluated(files, photos, batch=batch, workers=workers) for batch, workers in ((1, 1), (4, 3), (64, 2))
    ]
    assert first.batch == 3, "no smaller than a fixed batch"
    assert first.reference == "tiny.onnx", "the first file, where no checkpoint is given"
    for other in others:
        assert numbers(dataclasses.replace(other, batch=3, workers=1)) == numbers(first)


def test_pytorch_gets_what_the_exported_file_gets(checkpoint_file: CheckpointFile, photos: Path) -> None:
    """A checkpoint does not know its mean and resize rule; predictions would differ for that reason alone."""
    checkpoint = checkpoint_file("tiny")
    file = export_of(checkpoint, resize=200, mean=(0.9, 0.1, 0.5), std=(0.1, 0.6, 0.2), input="uint8")
    result = evaluated([file], photos, checkpoint)
    assert result.scores[1].differing == 0
    assert result.notes == ()
    assert evaluated([file, checkpoint], photos).scores[1].differing == 0, "as a file among others, too"
    other = evaluated([export_of(checkpoint), file], photos)
    assert other.scores[1].differing > 0, "the rule does matter"
    alone = evaluated([checkpoint], photos)
    assert alone.notes == (
        "images for tiny.pth are prepared with the default mean, std and resize rule, as no file here was exported "
        "from it",
    )


def test_images_are_decoded_once(
    checkpoint_file: CheckpointFile, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, cut = [], []
    load, crop = evaluate.load_image, evaluate.resize_and_crop

    def counted_load(path: Path) -> Image.Image:
        decoded.append(path)
        return load(path)

    def counted_crop(image: Image.Image, spec: InputSpec) -> evaluate.Pixels:
        cut.append(spec.resize)
        return crop(image, spec)

    monkeypatch.setattr(evaluate, "load_image", counted_load)
    monkeypatch.setattr(evaluate, "resize_and_crop", counted_crop)
    checkpoint = checkpoint_file("tiny")
    files = [export_of(checkpoint), export_of(checkpoint, input="uint8", mean=(0.1, 0.2, 0.3)), checkpoint]
    evaluated(files, photos)
    assert len(decoded) == len(cut) == COUNT, "these differ in nothing but normalisation"
    evaluated([*files, export_of(checkpoint, resize=64)], photos)
    assert len(decoded) == 2 * COUNT
    assert len(cut) == 3 * COUNT


def test_limit(checkpoint_file: CheckpointFile, photos: Path) -> None:
    result = evaluated([export_of(checkpoint_file("tiny"))], photos, limit=5)
    assert (result.images, result.listed) == (5, 5)


def test_labels_file(checkpoint_file: CheckpointFile, photos: Path, tmp_path: Path) -> None:
    paths, truth = truth_of(photos)
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in paths:
        (flat / path.name).symlink_to(path)
    labels = tmp_path / "val.csv"
    labels.write_text("image,label\n" + "".join(f"{p.name},class_{c}\n" for p, c in zip(paths, truth, strict=True)))
    result = evaluated([export_of(checkpoint_file("tiny"))], flat, labels_file=labels)
    assert result.scores[0].top1.right == RIGHT


def test_wilson_interval() -> None:
    """Values from the literature: Newcombe 1998, table I (81 of 263, 15 of 148, 0 of 20, 1 of 29), Wilson without
    continuity correction."""
    for right, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        assert wilson_interval(right, total) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson_interval(20, 20) == pytest.approx((1 - 0.1611, 1), abs=5e-5)


# --------------------------------------------------------------------------------------------------- outputs and images


def test_outputs_that_are_not_finite_are_wrong(checkpoint_file: CheckpointFile, photos: Path, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        change_initializer(model, "head.bias", lambda value: np.full_like(value, np.nan))

    checkpoint = checkpoint_file("tiny")
    files = [
        edited(export_of(checkpoint, output=kind), tmp_path / f"{kind}.onnx", change) for kind in ("logits", "top5")
    ]
    result = evaluated(files, photos, checkpoint)
    for score in result.scores[1:]:
        assert (score.not_finite, score.top1.right, score.differing) == (COUNT, 0, COUNT)
        assert score.top5 is not None
        assert score.top5.right == 0
    assert result.agreement[1][:3] == (0, 1, 0), "with itself it agrees, with another broken one it does not"
    assert f"logits.onnx: the output is not finite for {COUNT} images" in report.evaluate_markdown(result)


def test_broken_images_are_named_and_left_out(checkpoint_file: CheckpointFile, photos: Path, tmp_path: Path) -> None:
    path = export_of(checkpoint_file("tiny"))
    root = tmp_path / "mixed"
    for folder in photos.iterdir():
        (root / folder.name).mkdir(parents=True)
        for image in folder.iterdir():
            (root / folder.name / image.name).symlink_to(image)
    broken = [image for image in broken_images(root / folder.name) if image.is_file()]
    (root / folder.name / "link.png").symlink_to(root / "nowhere.png")
    result = evaluated([path], root, batch=4)
    clean = evaluated([path], photos, batch=4)
    assert result.listed == COUNT + len(broken) + 1
    assert result.scores[0].top1 == clean.scores[0].top1
    assert {s.image for s in result.skipped} == {f"{folder.name}/{p.name}" for p in (*broken, Path("link.png"))}
    reasons = {Path(s.image).name: s.reason for s in result.skipped}
    assert reasons["empty.jpg"].startswith("is empty (0 bytes)")
    assert reasons["link.png"].startswith("does not exist")


def test_nothing_but_broken_images(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    root = tmp_path / "broken"
    (root / "class 0").mkdir(parents=True)
    count = sum(image.is_file() for image in broken_images(root / "class 0"))
    with pytest.raises(ImageError, match=f"none of the {count} images in .* can be read, e.g. class 0/"):
        evaluated([export_of(checkpoint_file("tiny"))], root)


def test_progress_tells_share_and_speed(checkpoint_file: CheckpointFile, photos: Path) -> None:
    told: list[str] = []
    evaluated([export_of(checkpoint_file("tiny"))], photos, batch=8, progress=told.append)
    assert told[:3] == ["open tiny.onnx", "list the images", "  0 %  0 of 23 images"]
    shares = [re.fullmatch(r" *(\d+) %  (\d+) of 23 images, [\d.]+ images/s", text) for text in told[3:]]
    assert [match and match.groups() for match in shares] == [("34", "8"), ("69", "16"), ("100", "23")]


# ------------------------------------------------------------------------------------------------------------- resuming

SLOW = """
import sys, time
from lit_deploy import cli, evaluate
load = evaluate.load_image
evaluate.load_image = lambda path: (time.sleep(0.1), load(path))[1]
cli.main()
"""


def killed_after(lines: int, state: Callable[[], Path | None], arguments: Sequence[object]) -> None:
    """Run the command in a slow process and kill it when its state file has that many lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "evaluate", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + 120
        while (path := state()) is None or path.read_bytes().count(b"\n") < lines:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_killed_twice_and_resumed(checkpoint_file: CheckpointFile, photos: Path, tmp_path: Path) -> None:
    """Exactly the numbers of a run that nobody disturbed, and no image twice."""
    files = [export_of(checkpoint_file("tiny")), export_of(checkpoint_file("tiny"), output="top5")]
    whole = evaluated(files, photos, batch=2)
    state = tmp_path / "state.jsonl"
    arguments = [*files, "--images", photos, "--batch", 2, "--state", state, "--workers", 1, "--threads", 1]
    for lines in (3, 6):
        killed_after(lines, lambda: state if state.exists() else None, arguments)
    done = state.read_bytes().count(b"\n") - 1
    result = evaluated(files, photos, batch=2, state=state)
    assert 5 <= done < 12
    assert result.resumed == 2 * done
    assert numbers(dataclasses.replace(result, workers=whole.workers)) == numbers(whole)
    again = evaluated(files, photos, batch=2, state=state)
    assert again.resumed == COUNT, "a state that was named stays"
    assert numbers(again) == numbers(result)


def test_the_same_command_goes_on_by_itself(
    checkpoint_file: CheckpointFile, photos: Path, cache: Path, run: Run
) -> None:
    arguments = [export_of(checkpoint_file("tiny")), "--images", photos, "--batch", 2]
    killed_after(4, lambda: next(cache.glob("*.jsonl"), None), arguments)
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    assert json.loads(out)["resumed"] >= 6
    assert list(cache.iterdir()) == [], "a complete evaluation leaves nothing behind"
    code, out, _ = run(*arguments, "--json")
    assert json.loads(out)["resumed"] == 0


def test_a_half_written_line_is_ignored(checkpoint_file: CheckpointFile, photos: Path, tmp_path: Path) -> None:
    """Cut off anywhere, even within its first line, a state gives the same numbers."""
    files, state = [export_of(checkpoint_file("tiny"))], tmp_path / "state.jsonl"
    whole = evaluated(files, photos, batch=8, state=state)
    content = state.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    assert len(ends) == 4
    for cut, resumed in (
        (0, 0), (10, 0), (ends[0] - 1, 0), (ends[0], 0), (ends[0] + 5, 0), (ends[1] - 1, 0), (ends[1], 8),
        (ends[2] + 1, 16), (ends[3] - 1, 16),
    ):  # fmt: skip
        state.write_bytes(content[:cut])
        result = evaluated(files, photos, batch=8, state=state)
        assert result.resumed == resumed, cut
        assert numbers(result) == numbers(whole)
        again = evaluated(files, photos, batch=8, state=state)
        assert (again.resumed, numbers(again)) == (COUNT, numbers(whole)), "and so does what was added to it"
    state.write_bytes(content[: ends[1]] + b"\0" * 50)
    assert evaluated(files, photos, batch=8, state=state).resumed == 8, "blocks that were never written"


def test_states_that_are_refused(checkpoint_file: CheckpointFile, photos: Path, tmp_path: Path) -> None:
    file, state = export_of(checkpoint_file("tiny")), tmp_path / "state.jsonl"
    evaluated([file], photos, batch=8, state=state)
    content = state.read_bytes()

    def refused(*words: str, files: Sequence[Path] = (file,), **changes: object) -> None:
        before = state.read_bytes()
        with pytest.raises(UsageError) as caught:
            evaluated(files, photos, **{"batch": 8, "state": state, **changes})
        assert "\n" not in str(caught.value)
        for word in (str(state), *words):
            assert word in str(caught.value)
        assert state.read_bytes() == before, "nothing that is not ours is touched"

    refused("other images", limit=7)
    refused("other files", files=[export_of(checkpoint_file("tiny"), output="top5")])
    refused("other files", files=[file, export_of(checkpoint_file("tiny"), output="top5")])
    refused("other settings (batch size", batch=4)
    with open(state, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused("in use by another evaluation")
    lines = content.splitlines(keepends=True)
    for damaged in (lines[0] + b"{}\n" + lines[2], lines[0] + lines[2], lines[0] + lines[1] + b"\0\n"):
        state.write_bytes(damaged)
        refused("is damaged; delete the file")
    state.write_bytes(content.replace(b"evaluate 1", b"evaluate 2"))
    refused("another version of lit-deploy")
    for foreign in (b"my notes", b"my notes\nall of them\n", b'{"a": 1}\n', content[5:]):
        state.write_bytes(foreign)
        refused("is no state file of lit-deploy evaluate")


def test_a_state_that_cannot_be_written(
    checkpoint_file: CheckpointFile, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [export_of(checkpoint_file("tiny"))]
    os.mkfifo(tmp_path / "pipe")
    for kind in (tmp_path, Path(os.devnull), tmp_path / "pipe"):
        with pytest.raises(UsageError, match=f"cannot write the state file {kind}: it is not a regular file"):
            evaluated(files, photos, state=kind)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    result = evaluated(files, photos)
    assert result.images == COUNT, "without a cache folder it runs all the same"
    (note,) = result.notes
    assert note.startswith("a kill would have lost everything, as cannot write the state file")


def test_a_disk_that_becomes_full(
    checkpoint_file: CheckpointFile, photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a state that was asked for is worth ending for; the other one ends with a note, and leaves nothing."""
    files = [export_of(checkpoint_file("tiny"))]
    whole = evaluated(files, photos, batch=4)
    write, sizes = evaluate_state._write, []

    def full(file: IO[bytes], path: Path, line: bytes) -> None:
        sizes.append(len(line))
        if len(sizes) == 3:  # half a line of the second batch
            file.write(line[: len(line) // 2])
            raise UsageError(f"cannot write the state file {path}: No space left on device")
        write(file, path, line)

    monkeypatch.setattr(evaluate_state, "_write", full)
    result = evaluated(files, photos, batch=4)
    (note,) = result.notes
    assert re.fullmatch("a kill would have lost the later batches, as .*: No space left on device", note)
    assert len(sizes) == 3, "nothing is written behind half a line"
    assert numbers(dataclasses.replace(result, notes=())) == numbers(whole)
    assert list(cache.iterdir()) == []
    sizes.clear()
    state = cache.parent / "mine.jsonl"
    with pytest.raises(UsageError, match=r"mine\.jsonl: No space left on device"):
        evaluated(files, photos, batch=4, state=state)
    assert evaluated(files, photos, batch=4, state=state).resumed == 4


def test_images_that_could_not_be_read_get_another_chance(
    checkpoint_file: CheckpointFile, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such batches only are done again, and again until they can be read."""
    files, state = [export_of(checkpoint_file("tiny"))], tmp_path / "state.jsonl"
    whole = evaluated(files, photos, batch=4)
    load, bad = evaluate.load_image, truth_of(photos)[0][5]

    def failing(path: Path) -> Image.Image:
        if path == bad:
            raise ImageError(f"{path} is damaged or incomplete (Input/output error): replace the file.")
        return load(path)

    for resumed in (0, COUNT - 4):
        with monkeypatch.context() as patch:
            patch.setattr(evaluate, "load_image", failing)
            result = evaluated(files, photos, batch=4, state=state)
        assert (result.images, result.resumed, len(result.skipped)) == (COUNT - 1, resumed, 1)
    for resumed in (COUNT - 4, COUNT):
        told: list[str] = []
        result = evaluated(files, photos, batch=4, state=state, progress=told.append)
        assert (result.resumed, numbers(result)) == (resumed, numbers(whole))
        assert told[2] == f"{100 * resumed // COUNT:3} %  {resumed} of {COUNT} images"
        assert told[-1].startswith("100 %")


# ------------------------------------------------------------------------------------------------------ what is refused


def test_files_that_do_not_fit_together(checkpoint_file: CheckpointFile, photos: Path, tmp_path: Path) -> None:
    file = export_of(checkpoint_file("tiny"))

    def swapped(model: onnx.ModelProto) -> None:
        manifest = manifest_of(metadata_of(model), file)
        names = manifest.labels
        set_manifest(model, dataclasses.replace(manifest, labels=("a", "b", *names[2:])))

    def swapped_again(model: onnx.ModelProto) -> None:
        manifest = manifest_of(metadata_of(model), file)
        set_manifest(model, dataclasses.replace(manifest, labels=("b", "a", *manifest.labels[2:])))

    ab, ba = edited(file, tmp_path / "ab.onnx", swapped), edited(file, tmp_path / "ba.onnx", swapped_again)
    other = tmp_path / "other.pth"
    save_checkpoint(make_state(TINY, seed=1), other)
    for files, message in (
        ([], "got nothing to evaluate"),
        ([file, file.parent / "." / file.name], "is named twice"),
        ([file, checkpoint_file("tiny_ti")], r"tiny.onnx has 7, tiny_ti.pth has 5\); evaluate them one by one"),
        ([ab, ba], "class 0 is 'b' for ba.onnx and 'a' for ab.onnx"),
    ):
        with pytest.raises(UsageError, match=message):
            evaluated(files, photos)
    result = evaluated([file], photos, other)
    assert result.notes[0] == "tiny.onnx was not made from other.pth but from tiny.pth"
    assert result.notes[1].startswith("images for other.pth are prepared with the default mean")


def test_files_that_share_a_name(checkpoint_file: CheckpointFile, photos: Path, tmp_path: Path) -> None:
    file = export_of(checkpoint_file("tiny"))
    (tmp_path / file.name).write_bytes(file.read_bytes())
    result = evaluated([file, tmp_path / file.name], photos)
    assert [score.label for score in result.scores] == [str(file), str(tmp_path / file.name)]


def test_given_labels_win_over_default_ones(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefg"))
    file = tmp_path / "named.onnx"
    export_checkpoint(checkpoint_file("tiny"), file, OnnxOptions(labels=names), verify=False)
    (tmp_path / "images" / "c").mkdir(parents=True)
    Image.fromarray(synthetic_image(1, "x", 64, 64)).save(tmp_path / "images" / "c" / "1.png")
    result = evaluated([file], tmp_path / "images", checkpoint_file("tiny"))
    assert result.mapping == "1 class folders by name"
    assert result.notes == (), "default names are nobody's choice"
    names.write_text("\n".join("tuvwxyg"))
    export_checkpoint(checkpoint_file("tiny"), tmp_path / "other.onnx", OnnxOptions(labels=names), verify=False)
    result = evaluated([file, tmp_path / "other.onnx"], tmp_path / "images")
    assert result.notes == (
        "6 of the 7 class names of other.onnx are not those of named.onnx, which were used for both",
    )


def test_gates(checkpoint_file: CheckpointFile, photos: Path, shifted: Path) -> None:
    checkpoint = checkpoint_file("tiny")
    result = evaluated([export_of(checkpoint), shifted], photos, checkpoint)
    one = evaluated([shifted], photos)
    reached = result.scores[2]
    check_gates(result)
    check_gates(result, reached.top1.share, reached.agreement)
    with pytest.raises(GateFailed, match=r"shifted.onnx agrees with tiny.pth on .* \(\d+ differ\), expected at least"):
        check_gates(result, min_agreement=reached.agreement + 0.01)
    with pytest.raises(GateFailed, match=r"tiny.onnx is right on 69.57% of the 23 images, expected at least 70.00%"):
        check_gates(result, min_top1=0.7)
    with pytest.raises(GateFailed, match=r"shifted.onnx is right on"):
        check_gates(one, min_top1=1.0)
    with pytest.raises(UsageError, match="an agreement needs two files"):
        check_gates(one, min_agreement=0.5)


def test_only_a_checkpoint_as_reference_is_held_to_no_gate(checkpoint_file: CheckpointFile, photos: Path) -> None:
    file, checkpoint = export_of(checkpoint_file("tiny")), checkpoint_file("tiny")
    told = evaluated([file], photos, checkpoint)
    bad, good = (dataclasses.replace(told.scores[0].top1, share=share) for share in (0.5, 0.9))
    scores = tuple(dataclasses.replace(s, top1=top1) for s, top1 in zip(told.scores, (bad, good), strict=True))
    check_gates(dataclasses.replace(told, scores=scores), min_top1=0.8)
    files = evaluated([file, checkpoint], photos)
    scores = tuple(dataclasses.replace(s, top1=top1) for s, top1 in zip(files.scores, (bad, good), strict=True))
    with pytest.raises(GateFailed, match=r"tiny.onnx is right on 50.00%"):
        check_gates(dataclasses.replace(files, scores=scores), min_top1=0.8)


def test_gates_do_not_fail_on_rounding(checkpoint_file: CheckpointFile, photos: Path) -> None:
    """994 of 1000 is 99.4 %, but 99.4 / 100 is a little more; one image less is not enough, even of ten million."""
    gate = 99.4 / 100
    result = evaluated([export_of(checkpoint_file("tiny"))], photos, checkpoint_file("tiny"), limit=1)
    assert gate > 497 / 500

    def reached(right: int, total: int) -> EvaluateReport:
        top1 = dataclasses.replace(result.scores[1].top1, share=right / total)
        score = dataclasses.replace(result.scores[1], top1=top1, agreement=right / total)
        return dataclasses.replace(result, scores=(result.scores[0], score))

    check_gates(reached(497, 500), min_top1=gate, min_agreement=gate)
    for gates in ({"min_top1": gate}, {"min_agreement": gate}):
        with pytest.raises(GateFailed):
            check_gates(reached(9_939_999, 10_000_000), **gates)


# -------------------------------------------------------------------------------------------------- the command, tables


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lit-deploy", "evaluate", *map(str, arguments)])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        return code, *capfd.readouterr()

    return call


def test_command(checkpoint_file: CheckpointFile, photos: Path, shifted: Path, run: Run) -> None:
    arguments = [export_of(checkpoint_file("tiny")), shifted, "--images", photos, "--ckpt", checkpoint_file("tiny")]
    arguments += ["--threads", 1]
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert re.search(r"tiny\.pth +│ 69\.57% │ +7 │ +0 │ 49\.13% to 84\.40% │", out), out
    assert "Share of images with the same prediction" in out
    assert "Classes: " in out
    code, out, _ = run(*arguments, "--json")
    told = json.loads(out)
    assert [score["label"] for score in told["scores"]] == ["tiny.pth", "tiny.onnx", "shifted.onnx"]
    assert told["scores"][0]["top1"]["right"] == RIGHT
    code, out, _ = run(*arguments, "--markdown")
    assert code == 0
    assert out.startswith("**23 images, 7 classes: ")
    assert re.search(r"^\| tiny\.onnx \| 69\.57% \| 7 \| 0 \|", out, flags=re.MULTILINE)

    code, out, err = run(*arguments, "--min-agreement", 99)
    assert code == 1
    assert "shifted.onnx" in out, "the table is shown all the same"
    assert re.fullmatch(r"error: shifted\.onnx agrees with tiny\.pth on .* expected at least 99\.00%\n", err)
    assert run(*arguments, "--min-agreement", 0, "--min-top1", 2)[0] == 0


def test_command_refuses(checkpoint_file: CheckpointFile, photos: Path, tmp_path: Path, run: Run) -> None:
    file = export_of(checkpoint_file("tiny"))
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([file, "--images", tmp_path / "empty"], "holds no image"),
        ([file, "--images", tmp_path / "none"], "does not exist"),
        ([file, "--images", photos, "--min-top1", 0.9], "--min-top1 is 0.9, expected percent, e.g. --min-top1 99"),
        ([file, "--images", photos, "--min-agreement", 99], "add --ckpt, or name a second file"),
        ([file, "--images", photos, "--json", "--markdown"], "choose one"),
        ([file, "--images", photos, "--labels-file", tmp_path / "none"], "none does not exist"),
        ([file, "--images", next(photos.iterdir())], "no class folders"),
        ([tmp_path / "no.onnx", "--images", photos], "no.onnx is not a file"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, ""), arguments
        assert re.fullmatch(r"error: [^\n]*\n", err), err
        assert message in err
    for arguments in ([file], ["--images", photos], [file, "--images", photos, "--batch", 0]):
        assert run(*arguments)[0] == 2


def test_tables_of_odd_names(checkpoint_file: CheckpointFile, photos: Path) -> None:
    """Square brackets are no markup, pipes no columns, and a long list of skipped images is cut."""
    result = evaluated([export_of(checkpoint_file("tiny"))], photos)
    odd = dataclasses.replace(
        result,
        scores=(dataclasses.replace(result.scores[0], label="a[red]|b.onnx", top5=None),),
        skipped=tuple(Skipped(f"[bold]{index}_x_.png", "is\nodd") for index in range(14)),
        notes=("a note",),
        source="*my*_images_\\`",
    )
    console = Console(width=140, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(report.evaluate_table(odd))
    text = console.export_text()
    assert "a[red]|b.onnx" in text
    assert "14 images or class folders do not count:" in text
    assert "[bold]9_x_.png: is" in text
    assert "[bold]10_x_.png" not in text
    assert "and 4 more; --json lists all" in text
    markdown = report.evaluate_markdown(odd)
    assert markdown.startswith("**23 images, 7 classes: \\*my\\*\\_images\\_\\\\\\`**\n")
    row = next(line for line in markdown.splitlines() if "b.onnx |" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 8
    assert "\n* a note\n" in markdown
    assert "\\[bold]9\\_x\\_.png: is odd" in markdown
    assert len(json.loads(report.as_json(odd))["skipped"]) == 14


def test_errors_are_lit_deploys(checkpoint_file: CheckpointFile, photos: Path) -> None:
    for changes in ({"batch": 0}, {"batch": 5000}, {"workers": 0}, {"limit": 0}):
        with pytest.raises(LitDeployError, match="expected 1 to 1024 and at least 1"):
            evaluated([export_of(checkpoint_file("tiny"))], photos, **changes)
