"""Engines in the C runtime, with CUDA and TensorRT played by two libraries of ``plugins/tests/``: no GPU is needed."""

from __future__ import annotations

import ctypes
import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import runtime_engine_worker as worker
from support.engines import LIBRARY
from support.runtime_engine_worker import FOUND, Played
from support.runtime_engines import (
    PLUGIN,
    RELEASE,
    SMALL,
    Call,
    Play,
    assert_ran,
    expected,
    images,
    needs_fakes,
    write_engine,
)
from support.runtime_library import Failure, check, needs_runtime, runtime

from lit_deploy.artifacts.sidecar import onnx_path
from lit_deploy.core.specs import InputSpec
from lit_deploy.models.families import default_input

# Every function that may fail on the way to a result, and the failures' statuses.
GETTING = (
    "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute", "cuDriverGetVersion",
    "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent", "cuMemAlloc", "cuMemAllocHost", "cuStreamCreate",
)  # fmt: skip
RUNNING = ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuStreamSynchronize")
CAPTURING = ("cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphLaunch")
TENSORRT = (
    "createInferRuntime", "loadLibrary", "getCreator", "deserializeCudaEngine", "createExecutionContext",
    "setOptimizationProfileAsync", "setInputShape", "getTensorShape", "setTensorAddress", "enqueueV3",
)  # fmt: skip
FREEING = (
    "cuMemFree", "cuMemFreeHost", "cuStreamDestroy", "cuGraphDestroy", "cuGraphExecDestroy", "cuCtxPopCurrent",
    "cuDevicePrimaryCtxRelease",
)  # fmt: skip
OUT_OF_MEMORY, ILLEGAL_ADDRESS = 2, 700


# ------------------------------------------------------------------------------------------------------------ runs


@needs_fakes
@pytest.mark.parametrize("kind", ["float", "uint8"])
@pytest.mark.parametrize("output", ["logits", "probabilities", "top5"])
def test_runs(kind: str, output: str, tmp_path: Path, play: Play) -> None:
    path = write_engine(tmp_path, kind=kind, output=output)
    batches = [images(count, kind, count) for count in (1, 8, 3, 3)]
    played = play(path, [("run", batch) for batch in batches])
    assert played.status == "LIT_OK", played.sentence
    assert played.batches == (1, 8)
    assert played.description == f"TensorRT {RELEASE}, Fake GPU (built-in function)"
    sizes = 5 if output == "top5" else 7
    for answer, batch in zip(played.steps, batches, strict=True):
        assert_ran(answer, batch, sizes)
        if output == "top5":
            np.testing.assert_array_equal(answer[2], (7 * np.arange(5) + np.arange(len(batch))[:, None]) % 5)
        else:
            assert answer[2] is None


@needs_fakes
def test_pixels_are_normalised_for_an_engine_of_floats(tmp_path: Path, play: Play) -> None:
    path = write_engine(tmp_path, manifest={})
    batch = images(2, "uint8")
    (answer,) = play(path, [("run", batch)]).steps
    spec: InputSpec = default_input(SMALL)
    planes = (batch / np.float32(255) - np.float32(spec.mean)) / np.float32(spec.std)
    np.testing.assert_allclose(answer[1], expected(planes), rtol=1e-4)


@needs_fakes
def test_a_fixed_batch(tmp_path: Path, play: Play) -> None:
    path = write_engine(tmp_path, batch=4, profiles=())
    played = play(path, [("run", images(4)), ("run", images(3)), ("run", images(4, seed=1))])
    assert played.batches == (4, 4)
    assert_ran(played.steps[0], images(4))
    assert played.steps[1][0] == "LIT_INVALID_ARGUMENT"
    assert_ran(played.steps[2], images(4, seed=1))


@needs_fakes
def test_the_profile_tuned_nearest_is_used(tmp_path: Path, play: Play) -> None:
    path = write_engine(tmp_path, profiles=((1, 1, 4), (2, 4, 6), (9, 9, 12)))
    used = {1: 0, 2: 0, 3: 1, 4: 1, 6: 1, 9: 2, 12: 2}
    played = play(path, [("run", images(count)) for count in (*used, 7, 1)])
    assert played.batches == (1, 12)
    for answer, (count, profile) in zip(played.steps, used.items(), strict=False):
        assert_ran(answer, images(count), profile=profile)
    status, sentence, _ = played.steps[-2]
    assert status == "LIT_INVALID_ARGUMENT"
    assert f"the batch has 7 images, but {path} was built for 1 to 4 and 2 to 6 and 9 to 12; " in sentence
    assert "--batch 1:7:12" in sentence
    assert_ran(played.steps[-1], images(1))


@needs_fakes
def test_a_context_outlives_its_model_and_another_can_follow(tmp_path: Path, play: Play) -> None:
    path = write_engine(tmp_path)
    played = play(path, [("run", images(1)), ("again",), ("close",), ("run", images(2)), ("live", "engine")])
    assert_ran(played.steps[1], images(2))
    assert played.steps[2] == 1


@needs_fakes
def test_a_link_has_its_sidecar_where_the_engine_is(tmp_path: Path, play: Play) -> None:
    path = write_engine(tmp_path)
    onnx_path(path).touch()
    link = tmp_path / "links" / "current.engine"
    link.parent.mkdir()
    link.symlink_to(path)
    assert_ran(play(link, [("run", images(2))]).steps[0], images(2))
    refused = play(link, gpu=("Another", 9, 0, 13000, 1))
    assert f"--ckpt {path}.onnx --format trt --out {path} " in refused.sentence


# ---------------------------------------------------------------------------------------------------------- graphs


@needs_fakes
def test_a_graph_is_captured_by_the_second_run_of_a_batch_size(tmp_path: Path, play: Play) -> None:
    path = write_engine(tmp_path)
    order = (3, 3, 3, 5, 3, 5, 5)
    names = ("enqueueV3", "cuGraphLaunch", "cuGraphInstantiate", "createExecutionContext")
    counts = [("calls", name) for name in names]
    runs = [("run", images(count, seed=seed)) for seed, count in enumerate(order)]
    played = play(path, [*counts, *runs, *counts, ("live", "runnable graph")], options={"cuda_graph": 1})
    assert played.description.endswith("(built-in function, CUDA graph)")
    for seed, (answer, count) in enumerate(zip(played.steps[4:], order, strict=False)):
        assert_ran(answer, images(count, seed=seed))
    calls = [after - before for before, after in zip(played.steps[:4], played.steps[-5:-1], strict=True)]
    assert calls == [4, 5, 2, 1], "two ordinary runs and two captures; the first context was there before"
    assert played.steps[-1] == 2


@needs_fakes
def test_few_graphs_are_kept(tmp_path: Path, play: Play) -> None:
    """At most eight per context; the batch size that was not used for longest gives way."""
    path = write_engine(tmp_path, profiles=((1, 4, 16),))
    order = [count for count in range(1, 11) for _ in range(2)] + [10, 3, 2, 2]
    runs = [("run", images(count, seed=seed)) for seed, count in enumerate(order)]
    played = play(path, [*runs, ("live", "execution context"), ("live", "runnable graph")], options={"cuda_graph": 1})
    for seed, (answer, count) in enumerate(zip(played.steps, order, strict=False)):
        assert_ran(answer, images(count, seed=seed))
    assert played.steps[-2:] == [8, 8]


@needs_fakes
def test_without_graphs_nothing_is_captured(tmp_path: Path, play: Play) -> None:
    path = write_engine(tmp_path)
    steps = [("calls", "cuStreamBeginCapture"), *[("run", images(2))] * 3, ("calls", "cuStreamBeginCapture")]
    played = play(path, steps)
    assert played.steps[0] == played.steps[-1]


@needs_fakes
@pytest.mark.parametrize("graph", [0, 1])
def test_eight_threads(graph: int, tmp_path: Path, call: Call) -> None:
    path = write_engine(tmp_path)
    assert call(worker.together, path, images(6), 8, 25, cuda_graph=graph) == ([], 0, 0)


# -------------------------------------------------------------------------------------------------------- failures


def status_of(name: str, code: int, opened: bool) -> str:
    """What a failing call becomes; lit_model_open() has no LIT_RUN_FAILED."""
    if name == "getCreator":  # TensorRT tells by it what is there
        return "LIT_WRONG_VERSION"
    if code == OUT_OF_MEMORY or (name, code) == ("createExecutionContext", 0):
        return "LIT_OUT_OF_MEMORY"
    while_opening = {
        "createInferRuntime": "LIT_NOT_SUPPORTED",
        "loadLibrary": "LIT_LIBRARY_NOT_FOUND",
        "deserializeCudaEngine": "LIT_BAD_MODEL",
    }
    return "LIT_RUN_FAILED" if opened else while_opening.get(name, "LIT_NO_DEVICE")


@needs_fakes
@pytest.mark.parametrize("graph", [0, 1])
def test_every_call_may_fail(graph: int, tmp_path: Path, play: Play, call: Call) -> None:
    """Each call of CUDA and TensorRT in turn: a status and a sentence, a context that runs again, nothing left over."""
    library = tmp_path / "liblit_deploy_tensorrt.so"
    library.write_bytes(LIBRARY)
    path = write_engine(tmp_path, plugin=PLUGIN)
    how: dict[str, Any] = {"options": {"cuda_graph": graph, "operator_library": str(library)}}
    batches = [images(count, seed=seed) for seed, count in enumerate((2, 2, 2, 3, 3, 2, 3, 2))]
    steps = [("run", batch) for batch in batches]
    names = (*GETTING, *RUNNING, *(CAPTURING if graph else ()), *TENSORRT)
    counts = call(worker.count, names, path, steps, **how)
    assert min(counts.values()) >= 1, f"never called: {counts}"
    calls = [(name, nth) for name, times in counts.items() for nth in range(1, times + 1)]
    for (name, nth), code in itertools.product(calls, (OUT_OF_MEMORY, ILLEGAL_ADDRESS, 0)):
        cuda = name.startswith("cu")
        if cuda and code == 0:  # that is success
            continue
        done = play(path, steps, fail=(name, nth, code), **how)
        where = f"{name} {nth} of {counts[name]} with {code}: {done}"
        answers = list(zip(done.steps, batches, strict=False))
        failures = [answer[:2] for answer, _ in answers if answer[0] != "LIT_OK"]
        failures += [(done.status, done.sentence)] if done.status != "LIT_OK" else []
        ((status, sentence),) = failures  # so that a failed run is the only one, and the next ones work
        for answer, batch in answers:
            if answer[0] == "LIT_OK":
                assert_ran(answer, batch)
        assert status == status_of(name, code, opened=bool(done.description)), where
        assert sentence.startswith(str(path)), where
        assert "\n" not in sentence, where
        if cuda:
            word = "CUDA_ERROR_OUT_OF_MEMORY" if code == OUT_OF_MEMORY else "CUDA_ERROR_ILLEGAL_ADDRESS"
            assert f"the CUDA driver says {word} to {name}" in sentence, where
        elif name != "getCreator" and code != 0:
            assert ("out of memory" if code == OUT_OF_MEMORY else "told to fail") in sentence, where


@needs_fakes
def test_what_cannot_be_freed_is_left(tmp_path: Path, call: Call) -> None:
    """After a failure on the GPU every call may fail, those that free as well: nothing ends, and results stand."""
    path = write_engine(tmp_path)
    batch = images(2)
    for name in FREEING:
        steps = [("run", batch), ("run", batch), ("fail", name, 1, ILLEGAL_ADDRESS), ("run", images(3)), ("again",)]
        done: Played = call(worker.play, path, [*steps, ("run", batch)], options={"cuda_graph": 1})
        assert done.status == "LIT_OK", (name, done)
        assert_ran(done.steps[-1], batch)
    for name in ("cuCtxPushCurrent", "cuStreamSynchronize"):
        done = call(worker.play, path, [("run", batch), ("fail", name, 1, ILLEGAL_ADDRESS)])
        assert done.status == "LIT_OK", (name, done)
        call(worker.play, path, [("fail", name, 0, 0)])


@needs_fakes
def test_a_run_that_failed_says_what_to_do(tmp_path: Path, play: Play) -> None:
    path = write_engine(tmp_path)
    steps = [("run", images(2)), ("fail", "enqueueV3", 1, 1), ("run", images(2)), ("run", images(2))]
    played = play(path, steps)
    status, sentence, _ = played.steps[1]
    assert status == "LIT_RUN_FAILED"
    assert sentence.startswith(
        f"{path} failed on the GPU with batch 2 (TensorRT could not enqueue the network: Error Code 2"
    )
    assert "told to fail); if memory is short, use smaller batches" in sentence
    assert_ran(played.steps[2], images(2))


@needs_fakes
def test_what_tensorrt_said_before_is_forgotten(tmp_path: Path, play: Play) -> None:
    """Another context's failure on this thread says nothing about this one's."""
    path = write_engine(tmp_path)
    first, second = ("fail", "enqueueV3", 1, 1), ("fail", "enqueueV3", 1, 0)
    played = play(path, [("run", images(2)), first, ("beside", images(2)), second, ("run", images(2))])
    assert "told to fail" in played.steps[1][1]
    status, sentence, _ = played.steps[2]
    assert status == "LIT_RUN_FAILED"
    assert "told to fail" not in sentence


# --------------------------------------------------------------------------------------------------------- plugins


@needs_fakes
def test_the_plugin_is_loaded_once_per_model(tmp_path: Path, play: Play) -> None:
    library = tmp_path / "liblit_deploy_tensorrt.so"
    library.write_bytes(LIBRARY)
    path = write_engine(tmp_path, plugin=PLUGIN)
    for how in ({"options": {"operator_library": str(library)}}, {"variables": {"LIT_DEPLOY_PLUGIN": str(library)}}):
        steps = [("run", images(2)), ("again",), ("calls", "loadLibrary")]
        first, second = play(path, steps, **how), play(path, steps, **how)
        assert_ran(first.steps[0], images(2))
        assert first.description.endswith("(plugin)")
        assert second.steps[1] == first.steps[1] + 1


@needs_fakes
def test_a_sidecar_does_not_choose_the_library(tmp_path: Path, play: Play) -> None:
    path = write_engine(tmp_path, plugin=replace(PLUGIN, library="../../tmp/evil.so"))
    assert "evil" not in play(path).sentence


@needs_fakes
def test_a_library_without_the_creator(tmp_path: Path, play: Play) -> None:
    library = tmp_path / "liblit_deploy_tensorrt.so"
    library.write_bytes(LIBRARY)
    for plugin, lacking in (
        (replace(PLUGIN, version="2"), "DeformableTokenMerging version 2"),
        (replace(PLUGIN, others=("MultiLevelRoiAlign",)), "MultiLevelRoiAlign version 1"),
    ):
        path = write_engine(tmp_path, plugin=plugin)
        played = play(path, options={"operator_library": str(library)})
        assert played.status == "LIT_WRONG_VERSION"
        assert f"needs the plugin lit_deploy::{lacking}, which {library} does" in played.sentence


@needs_fakes
def test_an_embedded_plugin(tmp_path: Path, play: Play) -> None:
    path = write_engine(tmp_path, plugin=replace(PLUGIN, embedded=True), more="code\n")
    played = play(path, [("run", images(1))], options={"allow_engine_code": 1})
    assert_ran(played.steps[0], images(1))
    assert played.description.endswith("(embedded plugin)")


# ------------------------------------------------------------------------------------------------- not built at all


@needs_runtime
@pytest.mark.skipif(bool(FOUND), reason="the TensorRT back end is built")
def test_without_the_back_end(tmp_path: Path) -> None:
    path = write_engine(tmp_path)
    model = ctypes.c_void_p()
    with pytest.raises(Failure, match="needs the TensorRT back end, which this liblit_deploy_runtime") as caught:
        check(runtime().lit_model_open(os.fsencode(path), None, ctypes.byref(model)))
    assert caught.value.status == "LIT_NOT_SUPPORTED"
