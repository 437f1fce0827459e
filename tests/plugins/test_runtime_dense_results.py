"""Pictures, masks, label maps and refusals of the C API's dense tasks, with files that hold no network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_int32
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fake_dense import COLOURS, IDS, LABELS, MOST
from support.micro_dense import SIDE, found, micro_dense, micro_dense_manifest
from support.prepared import NAMES, golden_file
from support.runtime_dense import detected, encoded_label, encoded_mask, pasted_mask, prepared, segmented
from support.runtime_library import (
    Category,
    Detections,
    LabelMap,
    Mask,
    Output,
    Prepared,
    Rle,
    check,
    needs_runtime,
    picture_of,
    runtime,
)
from support.runtime_models import (
    Context,
    in_new_process,
    micro,
    needs_onnxruntime,
    opened,
)
from support.runtime_refusals import assert_refused

from lit_deploy.core.specs import InputSpec
from lit_deploy.images.decoding import load_image
from lit_deploy.images.keep_ratio import keep_ratio_size, resize_bilinear
from lit_deploy.images.synthetic import synthetic_image
from lit_deploy.machine.native import find_onnxruntime_library
from lit_deploy.tasks.instance_segmentation.pasting import pasted
from lit_deploy.tasks.instance_segmentation.rle import encoded

pytestmark = [needs_runtime, needs_onnxruntime, pytest.mark.usefixtures("backend")]

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "preprocess_dense.npz")
OFFICIAL = {
    "det": InputSpec("uint8", None, None, 800, rule="keep_ratio", longest=1333, pad_multiple=32),
    "seg": InputSpec("uint8", None, None, 512, rule="keep_ratio", longest=2048),
}
PHOTO = synthetic_image(3, "photo", 90, 121)
SIZE = PHOTO.shape[0], PHOTO.shape[1]


def detector(path: Path, **changes: Any) -> Path:
    return micro_dense(path, micro_dense_manifest("detection", **changes), found(MOST, MOST, SIZE, masks=False))


def segmenter(path: Path, **changes: Any) -> Path:
    return micro_dense(path, micro_dense_manifest("semantic_segmentation", **changes))


def instances(path: Path, count: int = MOST, size: tuple[int, int] = SIZE) -> Path:
    manifest = micro_dense_manifest("instance_segmentation", count)
    return micro_dense(path, manifest, found(count, count, size, masks=True))


# ---------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("task", OFFICIAL)
def test_pictures_are_those_of_the_official_pipeline(task: str, tmp_path: Path) -> None:
    with opened(detector(tmp_path / "a.onnx", input=OFFICIAL[task])) as model:
        for name in NAMES:
            pixels = np.asarray(load_image(golden_file(name, tmp_path), exif=True))
            digest = hashlib.sha256(prepared(model, pixels).tobytes()).hexdigest()
            assert digest == str(GOLDEN[f"{name}.{task}.resized_rgb_sha256"])


@pytest.mark.parametrize("task", OFFICIAL)
def test_the_official_pipeline_makes_large_pictures_small(task: str, tmp_path: Path) -> None:
    pixels = synthetic_image(2105, "preprocess:large", 1100, 1703, cell=32)
    with opened(detector(tmp_path / "a.onnx", input=OFFICIAL[task])) as model:
        digest = hashlib.sha256(prepared(model, pixels).tobytes()).hexdigest()
    assert digest == str(GOLDEN[f"large.{task}.resized_rgb_sha256"])


@pytest.mark.parametrize("fixed", [(None, None), (48, 80), (None, 33)], ids=str)
def test_pictures_are_those_of_python(fixed: tuple[int | None, int | None], tmp_path: Path) -> None:
    spec = InputSpec("uint8", *fixed, 70, rule="keep_ratio", longest=110, pad_multiple=32)
    random = np.random.default_rng(1)
    with opened(detector(tmp_path / "a.onnx", input=spec)) as model:
        sizes = [(1, 1), (1, 300), (300, 1), (2, 3), (70, 110), (110, 70), *random.integers(1, 300, (60, 2)).tolist()]
        for height, width in sizes:
            pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            expected = resize_bilinear(pixels, *keep_ratio_size(height, width, spec))
            np.testing.assert_array_equal(prepared(model, pixels), expected)
        upside_down = PHOTO[::-1]
        expected = resize_bilinear(upside_down, *keep_ratio_size(*SIZE, spec))
        np.testing.assert_array_equal(prepared(model, upside_down), expected)


def test_classifiers_are_prepared_as_ever(tmp_path: Path) -> None:
    with opened(micro(tmp_path / "micro.onnx")) as model:
        made = prepared(model, PHOTO)
        same = np.empty_like(made)
        check(runtime().lit_preprocess(byref(model.info.input), byref(picture_of(PHOTO)), same.ctypes.data))
        np.testing.assert_array_equal(made, same)


def test_pictures_that_are_refused(tmp_path: Path) -> None:
    cases: list[tuple[Path, int, int, str]] = [
        (detector(tmp_path / "det.onnx"), 0, 5, "0 x 5 pixels where 1 x 1 to 67108864 are accepted"),
        (detector(tmp_path / "det.onnx"), 8193, 8192, "scale it down"),
        (segmenter(tmp_path / "seg.onnx"), 4097, 4096, "to 16777216 are accepted"),
        (segmenter(tmp_path / "seg.onnx"), 1000, 100, "of 1000 x 100 pixels 200 x 20 are left .* at least 32"),
    ]
    for path, width, height, words in cases:
        with opened(path) as model:
            places = c_int32(7), c_int32(7)
            call = lambda m=model, w=width, h=height, p=places: check(  # noqa: E731
                runtime().lit_prepared_size(m.handle, w, h, byref(p[0]), byref(p[1]))
            )
            assert_refused("LIT_INVALID_ARGUMENT", words, call)
            assert (places[0].value, places[1].value) == (0, 0)
            # What programs of older headers do with any file.
            info = model.info
            assert_refused(
                "LIT_INVALID_ARGUMENT",
                "use lit_prepared_size",
                lambda i=info: check(runtime().lit_check_size(byref(i.input), 100, 100)),
            )


# ----------------------------------------------------------------------------------------------------------- results


def test_a_model_tells_its_task(tmp_path: Path) -> None:
    with opened(instances(tmp_path / "a.onnx")) as model:
        info, category = model.info, Category()
        assert (info.task, info.mask_size, info.max_detections) == (b"instance_segmentation", SIDE, MOST)
        assert (info.longest, info.input.resize, info.input.height, info.min_batch, info.max_batch) == (
            200,
            100,
            0,
            1,
            1,
        )
        assert info.score_threshold == np.float32(0.05)
        for index, (label, number, colour) in enumerate(zip(LABELS, IDS, COLOURS, strict=True)):
            check(runtime().lit_model_category(model.handle, index, byref(category)))
            assert (category.label.decode(), category.id, tuple(category.colour)) == (label, number, colour)
        for index in (-1, 3):
            call = lambda i=index: check(runtime().lit_model_category(model.handle, i, byref(category)))  # noqa: E731
            assert_refused("LIT_INVALID_ARGUMENT", "the model has 0 to 2", call)


def test_masks_are_those_of_python(tmp_path: Path) -> None:
    """Of boxes that hang over, are empty, wider than numbers or within one pixel, and of masks full of ties."""
    size = 97, 130
    said = found(400, 400, size, masks=True)
    manifest = micro_dense_manifest("instance_segmentation", 400)
    with opened(micro_dense(tmp_path / "a.onnx", manifest, said)) as model, model.context() as context:
        objects = detected(context, np.zeros((*size, 3), dtype=np.uint8))
        assert len(objects) == 400
        np.testing.assert_array_equal(objects.boxes, said["boxes"][0])
        for index, box in enumerate(objects.boxes):
            with np.errstate(invalid="ignore"):
                mask = pasted(said["masks"][0, index], box, size)
            bits, top, left, area = pasted_mask(context, index)
            np.testing.assert_array_equal(bits, mask.bits, err_msg=str(box))
            assert (top, left, area) == (mask.top, mask.left, mask.bits.sum())
            assert encoded_mask(context, index) == (encoded(mask.bits, *size, mask.top, mask.left), area)


def test_what_does_not_score_is_left_out(tmp_path: Path) -> None:
    said = found(MOST, MOST, SIZE, masks=False)
    said["scores"][0, 4:] = 0.05  # the threshold
    said["num"][:] = 6
    for count, left in ((6, 4), (0, 0)):
        said["num"][:] = count
        path = micro_dense(tmp_path / f"{count}.onnx", micro_dense_manifest("detection"), said)
        with opened(path) as model, model.context() as context:
            assert len(detected(context, PHOTO)) == left


@pytest.mark.parametrize("output", ["results", "logits"])
@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_label_maps(output: Any, kind: Any, tmp_path: Path) -> None:
    spec = replace(micro_dense_manifest("semantic_segmentation").input, kind=kind)
    with opened(segmenter(tmp_path / "a.onnx", output=output, input=spec)) as model, model.context() as context:
        for height, width in ((90, 121), (64, 64), (90, 121)):
            expected = np.broadcast_to(np.arange(width) * 3 // width, (height, width))
            np.testing.assert_array_equal(segmented(context, np.zeros((height, width, 3), np.uint8)), expected)
            for label in range(3):
                own = expected == label
                assert encoded_label(context, label) == (encoded(own, height, width), own.sum())


def test_a_picture_that_was_prepared_elsewhere(tmp_path: Path) -> None:
    with opened(detector(tmp_path / "a.onnx")) as model, model.context() as context:
        pixels, objects = prepared(model, PHOTO), Detections()
        picture = Prepared(pixels.ctypes.data, pixels.shape[1], pixels.shape[0], PHOTO.shape[1], PHOTO.shape[0])
        check(runtime().lit_detect_prepared(context.handle, byref(picture), byref(objects)))
        assert (objects.count, objects.width, objects.height) == (MOST, 121, 90)
        picture.width -= 1
        call = lambda: check(runtime().lit_detect_prepared(context.handle, byref(picture), byref(objects)))  # noqa: E731
        assert_refused("LIT_INVALID_ARGUMENT", "134 x 100 are expected for its original; use lit_prepare", call)
        assert objects.count == 0


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Contexts of one model, on pictures of several sizes."""
    with opened(segmenter(tmp_path / "a.onnx"), threads=1) as model:

        def work(number: int) -> None:
            with model.context() as context:
                for turn in range(20):
                    width = 60 + 7 * ((number + turn) % 5)
                    labels = segmented(context, np.zeros((50, width, 3), np.uint8))
                    np.testing.assert_array_equal(labels, np.broadcast_to(np.arange(width) * 3 // width, (50, width)))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("boxes", np.nan, "not finite"),
        ("scores", np.inf, "not finite"),
        ("masks", np.nan, "not finite"),
        ("labels", 3, "its labels are outside 0 to 2"),
        ("labels", -1, "its labels are outside 0 to 2"),
        ("num", MOST + 1, "it counts 11 objects"),
        ("num", -1, "it counts -1 objects"),
    ],
)
def test_answers_that_cannot_be_used(name: str, value: float, words: str, tmp_path: Path) -> None:
    said = found(MOST, MOST, SIZE, masks=True)
    said[name].ravel()[0] = value
    manifest = micro_dense_manifest("instance_segmentation")
    with opened(micro_dense(tmp_path / "a.onnx", manifest, said)) as model, model.context() as context:
        assert_refused("LIT_RUN_FAILED", words, lambda: detected(context, PHOTO))
        assert_refused("LIT_INVALID_ARGUMENT", "found 0 objects", lambda: pasted_mask(context, 0))


def test_the_wrong_task_and_null(tmp_path: Path) -> None:
    files = {
        "classification": micro(tmp_path / "classification.onnx"),
        "detection": detector(tmp_path / "detection.onnx"),
        "semantic_segmentation": segmenter(tmp_path / "semantic_segmentation.onnx"),
    }
    library = runtime()
    picture = picture_of(PHOTO)
    calls: dict[str, Callable[[Context], int]] = {
        "lit_run_images": lambda c: library.lit_run_images(c.handle, byref(picture), 1, byref(Output())),
        "lit_detect": lambda c: library.lit_detect(c.handle, byref(picture), byref(Detections())),
        "lit_segment": lambda c: library.lit_segment(c.handle, byref(picture), byref(LabelMap())),
    }
    for (task, path), right in zip(files.items(), calls, strict=True):
        with opened(path) as model, model.context() as context:
            for name, call in calls.items():
                if name == right:
                    check(call(context))
                else:
                    words = rf"this model is for {task}, which lit_.* does not run; use {right}\(\)"
                    assert_refused("LIT_INVALID_ARGUMENT", words, lambda c=context, f=call: check(f(c)))
            if task == "semantic_segmentation":
                assert_refused("LIT_INVALID_ARGUMENT", "label is 3; .* 0 to 2", lambda c=context: encoded_label(c, 3))
            else:
                words = f"for {task}, which gives no masks"
                assert_refused("LIT_INVALID_ARGUMENT", words, lambda c=context: pasted_mask(c, 0))
            for refused in (
                lambda c=context: library.lit_detect(c.handle, None, byref(Detections())),
                lambda c=context: library.lit_detect(c.handle, byref(picture), None),
                lambda: library.lit_detect(None, byref(picture), byref(Detections())),
                lambda c=context: library.lit_segment(c.handle, byref(picture), None),
                lambda: library.lit_paste_mask(None, 0, byref(Mask())),
                lambda c=context: library.lit_encode_mask(c.handle, 0, None),
                lambda: library.lit_encode_mask(None, 0, byref(Rle())),
                lambda m=model: library.lit_prepare(m.handle, byref(picture), None),
                lambda m=model: library.lit_model_category(m.handle, 0, None),
            ):
                assert_refused("LIT_INVALID_ARGUMENT", "received NULL", lambda f=refused: check(f()))


def test_masks_that_no_object_has(tmp_path: Path) -> None:
    with opened(instances(tmp_path / "a.onnx")) as model, model.context() as context:
        assert_refused("LIT_INVALID_ARGUMENT", "found 0 objects", lambda: pasted_mask(context, 0))
        detected(context, PHOTO)
        for index in (-1, MOST):
            words = f"index is {index}; the context's last .* found {MOST} objects"
            assert_refused("LIT_INVALID_ARGUMENT", words, lambda i=index: encoded_mask(context, i))


# ------------------------------------------------------------------------------------------------------------ memory

_MASKS = """
import re, sys
from pathlib import Path
import numpy as np
from support.runtime_dense import detected, encoded_mask, pasted_mask
from support.runtime_models import opened

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

picture = np.full((3000, 4000, 3), 90, np.uint8)
with opened(sys.argv[1], threads=1) as model, model.context() as context:
    detected(context, picture[:64, :64])
    before = peak()
    objects = detected(context, picture)
    areas = [encoded_mask(context, index)[1] for index in range(len(objects))]
    print(len(objects), sum(areas), peak() - before)
"""


def test_a_hundred_masks_of_a_large_picture(tmp_path: Path) -> None:
    """They would be 1.2 GB as bytes; MiB that the process grows by are counted."""
    said = found(100, 100, (3000, 4000), masks=True)
    said["boxes"][0] = (0, 0, 4000, 3000)
    manifest = micro_dense_manifest("instance_segmentation", 100)
    path = micro_dense(tmp_path / "a.onnx", manifest, said)
    library = str(find_onnxruntime_library())
    count, area, grown = map(int, in_new_process(_MASKS, path, LIT_DEPLOY_ONNXRUNTIME=library).split())
    assert count == 100
    assert area > 100 * 12_000_000 // 3
    assert grown < 200
