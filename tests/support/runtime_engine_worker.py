"""The process that tests of the C runtime run engines in: it sees the fake CUDA and the fake TensorRT.

Nobody else may see them, so they are loaded here and not in the process of the tests. Everything comes and goes as
plain values; ``play`` is one life of a model, from opening to closing.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support.runtime_dense import detected, pasted_mask, segmented
from support.runtime_library import LIBRARY, Failure, ModelInfo, Options, Output, Tensor, check, runtime

FAKES = LIBRARY.resolve().parent / "runtime_fakes"
FOUND = sorted(FAKES.glob("libnvinfer.so.[0-9]*"))
MAJOR = FOUND[0].suffix[1:] if FOUND else ""
"""Major version of TensorRT that the runtime library was compiled for."""

VERSION = (int(MAJOR or 0), 9, 0, 34)
GPU = ("Fake GPU", 9, 0, 13000, 1)

Answer = tuple[str, Any, Any]
"""``LIT_OK`` with scores and classes, or another status with its sentence and None."""


@dataclass
class Played:
    """What came of a life: the first failure of opening it, what every step gave, what is left, rules broken."""

    status: str = "LIT_OK"
    sentence: str = ""
    description: str = ""
    batches: tuple[int, int] = (0, 0)
    steps: list[Any] = field(default_factory=list)
    live: int = 0
    left: dict[str, int] = field(default_factory=dict)
    misuses: int = 0


def fakes() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """Fake CUDA and fake TensorRT."""
    cuda, tensorrt = ctypes.CDLL("libcuda.so.1"), ctypes.CDLL(str(FOUND[0]))
    for name in ("fake_calls", "fake_live", "fake_misuses"):
        getattr(cuda, name).restype = ctypes.c_int64
    cuda.fake_fail.argtypes = (ctypes.c_char_p, ctypes.c_int64, ctypes.c_int)
    return cuda, tensorrt


def options_of(values: dict[str, Any]) -> Options:
    options = Options()
    check(runtime().lit_options_init(ctypes.byref(options), ctypes.sizeof(options)))
    for name, value in values.items():
        setattr(options, name, value.encode() if isinstance(value, str) else value)
    return options


def run(context: ctypes.c_void_p, images: NDArray[Any]) -> Answer:
    """One ``lit_run``."""
    kind = 0 if images.dtype == np.uint8 else 1
    tensor = Tensor(kind, images.ctypes.data, len(images), 0, 0)
    output = Output()
    try:
        check(runtime().lit_run(context, ctypes.byref(tensor), ctypes.byref(output)))
    except Failure as failure:
        assert not output.scores, "outputs of a failed run"
        return failure.status, str(failure), None
    shape = (output.batch, output.count)
    scores = np.ctypeslib.as_array(output.scores, shape).copy()
    return "LIT_OK", scores, np.ctypeslib.as_array(output.classes, shape).copy() if output.classes else None


def picture(model: ctypes.c_void_p, context: ctypes.c_void_p, pixels: NDArray[Any]) -> Answer:
    """One ``lit_detect`` or ``lit_segment``: what was found, and the warning behind it."""
    info: ModelInfo = runtime().lit_model_get_info(model).contents
    held, found = SimpleNamespace(handle=context), {}
    try:
        if info.task == b"semantic_segmentation":
            found["labels"] = segmented(held, pixels)
        else:
            objects = detected(held, pixels)
            found |= {"boxes": objects.boxes, "scores": objects.scores, "labels": objects.labels}
            if info.mask_size:
                found["masks"] = [pasted_mask(held, index)[0] for index in range(len(objects))]
    except Failure as failure:
        return failure.status, str(failure), None
    return "LIT_OK", found, runtime().lit_context_warning(context).decode()


def prepared_size(model: ctypes.c_void_p, height: int, width: int) -> Answer:
    """One ``lit_prepared_size``."""
    places = ctypes.c_int32(), ctypes.c_int32()
    try:
        check(runtime().lit_prepared_size(model, width, height, *map(ctypes.byref, places)))
    except Failure as failure:
        return failure.status, str(failure), None
    return "LIT_OK", places[1].value, places[0].value


def play(
    path: Path,
    steps: Iterable[tuple[Any, ...]] = (),
    *,
    options: dict[str, Any] | None = None,
    variables: dict[str, str] | None = None,
    version: tuple[int, int, int, int] = VERSION,
    gpu: tuple[str, int, int, int, int] = GPU,
    fail: tuple[str, int, int] | None = None,
) -> Played:
    """Open a model, make a context, take steps, close both.

    Steps: ("run", images), ("picture", pixels), ("size", (height, width)) for ``lit_prepared_size``,
    ("fail", call, n, code) as ``fake_fail``, ("calls", call), ("live", kind), ("again",) for another context instead of
    the first, ("beside", images) to run in another one, ("close",) to close the model before the context.
    """
    cuda, tensorrt = fakes()
    tensorrt.fake_version(*version)
    cuda.fake_gpu(gpu[0].encode(), *gpu[1:])
    os.environ.pop("LIT_DEPLOY_PLUGIN", None)
    os.environ["LIT_DEPLOY_TENSORRT"] = str(FOUND[0])
    os.environ.update(variables or {})
    before, misuses = cuda.fake_live(None), cuda.fake_misuses()
    played, library = Played(), runtime()
    model, context = ctypes.c_void_p(), ctypes.c_void_p()
    if fail is not None:
        cuda.fake_fail(fail[0].encode(), fail[1], fail[2])
    try:
        check(library.lit_model_open(os.fsencode(path), ctypes.byref(options_of(options or {})), ctypes.byref(model)))
        info = library.lit_model_get_info(model).contents
        played.description, played.batches = info.backend.decode(), (info.min_batch, info.max_batch)
        check(library.lit_context_create(model, ctypes.byref(context)))
        for what, *arguments in steps:
            if what == "run":
                played.steps.append(run(context, arguments[0]))
            elif what == "picture":
                played.steps.append(picture(model, context, arguments[0]))
            elif what == "size":
                played.steps.append(prepared_size(model, *arguments[0]))
            elif what == "beside":
                other = ctypes.c_void_p()
                check(library.lit_context_create(model, ctypes.byref(other)))
                played.steps.append(run(other, arguments[0]))
                library.lit_context_destroy(other)
            elif what == "fail":
                cuda.fake_fail(arguments[0].encode(), *arguments[1:])
            elif what in ("calls", "live"):
                played.steps.append(getattr(cuda, f"fake_{what}")(arguments[0].encode()))
            elif what == "again":
                library.lit_context_destroy(context)
                check(library.lit_context_create(model, ctypes.byref(context)))
            else:
                library.lit_model_close(model)
                model = ctypes.c_void_p()
    except Failure as failure:
        played.status, played.sentence = failure.status, str(failure)
    if fail is not None:  # what failed by now; closing is no matter of status
        cuda.fake_fail(fail[0].encode(), 0, 0)
    library.lit_context_destroy(context)
    library.lit_model_close(model)
    played.live, played.misuses = cuda.fake_live(None) - before, cuda.fake_misuses() - misuses
    kinds = ("context", "stream", "device memory", "host memory", "graph", "runnable graph", "runtime", "engine")
    played.left = {kind: cuda.fake_live(kind.encode()) for kind in kinds if cuda.fake_live(kind.encode())}
    return played


def count(calls: Iterable[str], path: Path, steps: Iterable[tuple[Any, ...]], **how: Any) -> dict[str, int]:
    """How often each function is called in a life, up to the last step."""
    names = list(calls)
    cuda, _ = fakes()
    before = [cuda.fake_calls(name.encode()) for name in names]
    played = play(path, [*steps, *(("calls", name) for name in names)], **how)
    assert played.status == "LIT_OK", played.sentence
    counts = played.steps[-len(names) :]
    return {name: after - first for name, first, after in zip(names, before, counts, strict=True)}


def together(path: Path, images: NDArray[Any], threads: int, runs: int, **options: Any) -> tuple[list[str], int, int]:
    """Run one model from several threads, a context each; the problems, what is left alive, and rules broken."""
    cuda, _ = fakes()
    before, misuses, library = cuda.fake_live(None), cuda.fake_misuses(), runtime()
    model = ctypes.c_void_p()
    check(library.lit_model_open(os.fsencode(path), ctypes.byref(options_of(options)), ctypes.byref(model)))
    sums = images.reshape(len(images), -1).sum(axis=1, dtype=np.float64)
    problems: list[str] = []

    def work(seed: int) -> None:
        context = ctypes.c_void_p()
        try:
            check(library.lit_context_create(model, ctypes.byref(context)))
            rng = np.random.default_rng(seed)
            for _ in range(runs):
                chosen = rng.integers(0, len(images), rng.integers(1, 5))
                status, scores, _ = run(context, images[chosen])
                if status != "LIT_OK" or not np.array_equal(scores[:, 0], sums[chosen].astype(np.float32)):
                    problems.append(f"thread {seed}: {status} {scores}")
        except Failure as failure:
            problems.append(str(failure))
        finally:
            library.lit_context_destroy(context)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    library.lit_model_close(model)
    return problems, cuda.fake_live(None) - before, cuda.fake_misuses() - misuses
