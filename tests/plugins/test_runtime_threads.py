"""Lives of models and contexts in the C API: which may end first, and many threads at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_void_p
from pathlib import Path

import numpy as np
import pytest
from support.exported import export_of
from support.runtime_library import Failure, check, needs_runtime, runtime
from support.runtime_models import CLASSES, SIDE, Model, micro, micro_manifest, needs_onnxruntime, opened, options

pytestmark = [needs_runtime, needs_onnxruntime, pytest.mark.usefixtures("backend")]

IMAGES = np.random.default_rng(3).standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
SCORES = IMAGES.reshape(2, -1)[:, :CLASSES]


def test_a_context_outlives_its_model(tmp_path: Path) -> None:
    model = Model(micro(tmp_path / "micro.onnx"))
    with model.context() as context, model.context() as other:
        model.close()
        for each in (context, other):
            np.testing.assert_array_equal(each.run(IMAGES)["logits"], SCORES)


def test_a_file_may_go_once_it_is_open(tmp_path: Path) -> None:
    path = micro(tmp_path / "micro.onnx")
    with opened(path) as model:
        path.unlink()
        with model.context() as context:
            np.testing.assert_array_equal(context.run(IMAGES)["logits"], SCORES)


def test_outputs_are_valid_until_the_next_run_of_their_context(tmp_path: Path) -> None:
    with opened(micro(tmp_path / "micro.onnx")) as model, model.context() as context, model.context() as other:
        output = context.raw(context.tensor(IMAGES))
        other.run(IMAGES + 1)
        with opened(micro(tmp_path / "second.onnx")):
            np.testing.assert_array_equal(np.ctypeslib.as_array(output.scores, (2, CLASSES)), SCORES)


def test_two_models_at_once(tmp_path: Path, checkpoint_file: Callable[[str], Path]) -> None:
    first = micro(tmp_path / "first.onnx", micro_manifest(output="top5"))
    second = export_of(checkpoint_file("tiny"))
    big = np.random.default_rng(4).standard_normal((2, 3, 64, 64)).astype(np.float32)
    with opened(second) as alone, alone.context() as context:
        expected = context.run(big)["logits"]
    with opened(first) as one, opened(second) as two, one.context() as of_one, two.context() as of_two:
        for _ in range(2):
            np.testing.assert_array_equal(of_one.run(IMAGES)["scores"], -np.sort(-SCORES)[:, :5])
            np.testing.assert_allclose(of_two.run(big)["logits"], expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_the_sentence_is_the_threads_own() -> None:
    barrier = threading.Barrier(8)

    def fail(number: int) -> tuple[str, str]:
        before = runtime().lit_last_error().decode()
        with pytest.raises(Failure):
            Model(f"/nowhere/{number}.onnx")
        barrier.wait()
        return before, runtime().lit_last_error().decode()

    with ThreadPoolExecutor(8) as pool:
        for number, (before, after) in enumerate(pool.map(fail, range(8))):
            assert before == ""
            assert f"/nowhere/{number}.onnx cannot be opened" in after


def test_a_success_leaves_the_sentence(tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        Model("/nowhere/before.onnx")
    with opened(micro(tmp_path / "micro.onnx")) as model, model.context() as context:
        context.run(IMAGES)
    assert runtime().lit_last_error().decode() == str(caught.value)


def test_contexts_run_while_others_open_and_close(tmp_path: Path) -> None:
    """Four threads run on a model they share; four open, run and close their own, and fail in between."""
    path = micro(tmp_path / "micro.onnx")
    settings = options(threads=1)
    stop = threading.Event()

    def run(number: int) -> int:
        images, rounds = IMAGES + number, 0
        with shared.context() as context:
            while not stop.is_set():
                np.testing.assert_array_equal(context.run(images)["logits"], SCORES + number)
                rounds += 1
        return rounds

    def open_and_close(number: int) -> None:
        for _ in range(20):
            model = Model(path, settings)
            with model.context() as context:
                model.close()
                np.testing.assert_array_equal(context.run(IMAGES + number)["logits"], SCORES + number)
            with pytest.raises(Failure, match=f"/nowhere/{number}"):
                Model(f"/nowhere/{number}.onnx")

    with opened(path, threads=1) as shared, ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(run, number) for number in range(4)]
        try:
            for done in [pool.submit(open_and_close, number) for number in range(4)]:
                done.result()
        finally:
            stop.set()
        assert all(done.result() > 0 for done in runs)


def test_contexts_are_made_and_freed_in_other_threads(tmp_path: Path) -> None:
    """Any thread may: what counts is that a context serves one at a time."""
    handle = c_void_p()
    path = os.fsencode(micro(tmp_path / "micro.onnx"))

    def elsewhere(call: Callable[[], object]) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(call).result()

    elsewhere(lambda: check(runtime().lit_model_open(path, None, byref(handle))))
    context = c_void_p()
    elsewhere(lambda: check(runtime().lit_context_create(handle, byref(context))))
    elsewhere(lambda: runtime().lit_model_close(handle))
    elsewhere(lambda: runtime().lit_context_destroy(context))
