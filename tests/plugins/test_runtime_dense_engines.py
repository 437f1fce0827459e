"""Engines of detectors and segmentation networks in the C runtime; CUDA and TensorRT are played, see
``runtime_engines.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import runtime_engine_worker as worker
from support.fake_dense import MOST
from support.micro_dense import SIDE, micro_dense_manifest
from support.runtime_engines import Call, Play, needs_fakes, write_any_engine

from lit_deploy.artifacts.sidecar import SizeProfile, read_sidecar
from lit_deploy.core.errors import ArtifactError
from lit_deploy.core.specs import TaskName, TensorSpec
from lit_deploy.images.keep_ratio import keep_ratio_size, resize_bilinear
from lit_deploy.images.synthetic import synthetic_image
from lit_deploy.ops.nms.matrix_form import COMPLETE
from lit_deploy.tasks.instance_segmentation.pasting import pasted

pytestmark = needs_fakes

Pixels = NDArray[np.uint8]
SIZES = SizeProfile((32, 100, 200), (32, 150, 200), (20, 150, 300))
FLAG = TensorSpec(COMPLETE, "int32", (1,))
TASKS: tuple[TaskName, ...] = ("detection", "instance_segmentation", "semantic_segmentation")
SHAPES = ((90, 120), (61, 80), (61, 80), (90, 120), (130, 100), (40, 40))


def picture(height: int, width: int, seed: int = 0) -> Pixels:
    return synthetic_image(seed, f"{height} x {width}", height, width)


def engine(folder: Path, task: TaskName, *, host: bool = True, **sidecar: Any) -> Path:
    """What is built of a network: a detector tells whether its candidates sufficed."""
    semantic = task == "semantic_segmentation"
    how = {"sizes": SIZES, "further": () if semantic else (FLAG,), **sidecar}
    return write_any_engine(
        folder / "lit.engine", micro_dense_manifest(task), more="host original_size\n" if host else "", **how
    )


def expected(task: TaskName, pixels: Pixels) -> tuple[dict[str, Any], bool]:
    """What the fake GPU makes of a picture, and whether it is all."""
    manifest = micro_dense_manifest(task)
    height, width = pixels.shape[:2]
    resized = resize_bilinear(pixels, *keep_ratio_size(height, width, manifest.input))
    total = int(resized.sum(dtype=np.int64)) + height + 3 * width
    if task == "semantic_segmentation":
        labels = (total + 2 + np.arange(height * width)) % 3
        return {"labels": labels.reshape(height, width)}, True
    count = (total + 5) % 3
    values = (np.float64(total) * np.arange(1, MOST * SIDE * SIDE + 1)).astype(np.float32)
    found: dict[str, Any] = {
        "boxes": values[: 4 * MOST].reshape(MOST, 4)[:count],
        "scores": values[:MOST][:count],
        "labels": ((total + 4 + np.arange(MOST)) % 3)[:count],
    }
    last = 6
    if task == "instance_segmentation":
        masks = values.reshape(MOST, SIDE, SIDE)
        found["masks"] = [pasted(masks[i], found["boxes"][i], (height, width)).bits for i in range(count)]
        last = 7
    return found, (total + last) % 3 != 0


def assert_found(answer: Any, task: TaskName, pixels: Pixels) -> bool:
    """An answer is that of the fake GPU; whether it is all that could be found."""
    status, found, warning = answer
    assert status == "LIT_OK", answer
    wanted, complete = expected(task, pixels)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_equal(found[name], value, err_msg=name)
    assert bool(warning) == (not complete)
    return complete


@pytest.mark.parametrize(("task", "host"), [*((task, True) for task in TASKS), ("detection", False)])
def test_pictures_of_any_size_that_it_was_built_for(task: TaskName, host: bool, tmp_path: Path, play: Play) -> None:
    """With their original sizes on the host, where a label map's size hangs on them, or on the GPU."""
    pixels = [picture(*shape, seed) for seed, shape in enumerate(SHAPES)]
    played = play(engine(tmp_path, task, host=host), [("picture", each) for each in pixels])
    assert (played.status, played.batches) == ("LIT_OK", (1, 1)), played
    complete = [assert_found(answer, task, each) for answer, each in zip(played.steps, pixels, strict=True)]
    assert set(complete) == ({True} if task == "semantic_segmentation" else {True, False})


def test_what_a_caller_is_told_where_candidates_were_left_out(tmp_path: Path, play: Play) -> None:
    path = engine(tmp_path, "detection")
    pixels = next(each for each in (picture(61, 80, seed) for seed in range(99)) if not expected("detection", each)[1])
    fine = next(each for each in (picture(61, 80, seed) for seed in range(99)) if expected("detection", each)[1])
    said = [warning for _, _, warning in play(path, [("picture", pixels), ("picture", fine)]).steps]
    assert said[0].startswith(f"{path} compares the best candidates only, and of this picture more of them might have")
    assert "--nms-candidates" in said[0]
    assert said[1] == ""


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((80, 240), "the picture's height, resized, is 67 pixels, but {} was built for 90 to 120; build it again"),
        ((300, 301), "the picture has 301 x 300 pixels, but {} was built for sides of 20 to 300; make it smaller"),
    ],
)
def test_pictures_that_it_was_not_built_for(shape: tuple[int, int], words: str, tmp_path: Path, play: Play) -> None:
    path = engine(tmp_path, "detection", sizes=SizeProfile((90, 100, 120), (32, 150, 200), (20, 150, 300)))
    good = picture(90, 120)
    played = play(path, [("picture", picture(*shape)), ("size", shape), ("picture", good)])
    for status, sentence, _ in played.steps[:2]:
        assert status == "LIT_INVALID_ARGUMENT"
        assert words.format(path) in sentence
    assert_found(played.steps[2], "detection", good)
    assert ("--size 90:100:120x32:150:200 --max-original 300" in played.steps[0][1]) == ("height" in words)


def test_a_graph_for_pictures_of_one_size(tmp_path: Path, play: Play) -> None:
    """Replayed for the next picture of these sizes, and captured anew for another one."""
    pixels = [picture(90, 120, seed) for seed in range(4)] + [picture(61, 80, 9)] * 3 + [picture(90, 120, 1)]
    calls = [("calls", "cuGraphLaunch"), ("calls", "cuGraphInstantiate"), ("calls", "createExecutionContext")]
    steps = [*calls, *(("picture", each) for each in pixels), *calls]
    played = play(engine(tmp_path, "instance_segmentation"), steps, options={"cuda_graph": 1})
    for answer, each in zip(played.steps[3:-3], pixels, strict=True):
        assert_found(answer, "instance_segmentation", each)
    assert [after - before for before, after in zip(played.steps[:3], played.steps[-3:], strict=True)] == [5, 2, 0]


def test_every_call_may_fail(tmp_path: Path, play: Play, call: Call) -> None:
    """A status and a sentence, a context that runs again, nothing left over."""
    path = engine(tmp_path, "instance_segmentation")
    pixels = [picture(90, 120), picture(61, 80), picture(61, 80, 1)]
    steps = [("picture", each) for each in pixels]
    names = (
        "cuMemAlloc",
        "cuMemcpyHtoDAsync",
        "cuMemcpyDtoHAsync",
        "setInputShape",
        "getTensorShape",
        "setTensorAddress",
    )
    for name, times in call(worker.count, names, path, steps).items():
        assert times > 0
        for nth in range(1, times + 1):
            played = play(path, steps, fail=(name, nth, 2))
            failed = [answer for answer in played.steps if answer[0] != "LIT_OK"]
            assert [answer[0] for answer in failed] == ["LIT_OUT_OF_MEMORY"], (name, nth, played)
            for answer, each in zip(played.steps, pixels, strict=True):
                if answer[0] == "LIT_OK":
                    assert_found(answer, "instance_segmentation", each)


SIDECARS: dict[str, dict[str, Any]] = {
    "no sizes": {"sizes": None},
    "a flag of another type": {"further": (TensorSpec(COMPLETE, "float32", (1,)),)},
    "an output that is missing": {
        "lines": lambda text: text.replace("tensor scores out float32", "tensor others out float32")
    },
    "a picture on the host": {"lines": lambda text: text + "host image\n"},
    "another number of objects": {
        "lines": lambda text: text.replace(f"scores out float32 1 {MOST}", "scores out float32 1 9")
    },
}


@pytest.mark.parametrize("name", SIDECARS)
def test_refusals(name: str, tmp_path: Path, play: Play) -> None:
    path = engine(tmp_path, "detection")
    if name == "no sizes":
        sidecar = path.with_name(f"{path.name}.json")
        text = sidecar.read_text()
        assert '"sizes": {' in text
        sidecar.write_text(text.replace('"sizes": {', '"sizes_": {'))
        with pytest.raises(ArtifactError, match="sizes"):
            read_sidecar(path)
    else:
        path = engine(tmp_path, "detection", **SIDECARS[name])
    played = play(path)
    assert played.status == "LIT_BAD_MODEL", played
    assert ("promises" in played.sentence) == (name != "no sizes"), played
