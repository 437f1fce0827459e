"""Engines of the fake TensorRT with their sidecars, and the process that may see the fakes."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.sidecar import sidecar_path
from lit_deploy.core.specs import TensorSpec
from lit_deploy.models.families import default_input
from lit_deploy.tasks.table import task_of
from support import runtime_engine_worker as worker
from support.engines import BESIDE, SIDECAR, TENSORRT_BUILD
from support.golden import TINY
from support.runtime_engine_worker import FAKES, FOUND, GPU, VERSION, Played

needs_fakes = pytest.mark.skipif(
    not FOUND,
    reason="the C runtime was built without its TensorRT back end, or without its tests: "
    "TensorRT_ROOT=<headers> make native, with the CUDA toolkit",
)
RELEASE = ".".join(map(str, VERSION))
PLUGIN = BESIDE
SMALL = replace(TINY, image_size=(32, 32))

_SIZES = {"rows": 0, "columns": 0}
"""What the fake TensorRT is told of a size by this name: that it comes as a number."""

Call = Callable[..., Any]
Play = Callable[..., Played]


@pytest.fixture(scope="module")
def call() -> Iterator[Call]:
    """Calls a function in the process that sees the fakes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_LIBRARY_PATH", os.pathsep.join(filter(None, [str(FAKES), os.environ.get("LD_LIBRARY_PATH")])))
        patch.delenv("LIT_DEPLOY_PLUGIN", raising=False)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(int).result(60)  # started now, with these variables
            patch.undo()
            yield lambda function, *arguments, **options: pool.submit(function, *arguments, **options).result(120)


@pytest.fixture
def play(call: Call) -> Play:
    """``runtime_engine_worker.play``; holds every life to the rules and to leaving nothing behind."""

    def played(*arguments: Any, **options: Any) -> Played:
        done: Played = call(worker.play, *arguments, **options)
        assert (done.live, done.misuses) == (0, 0), done
        return done

    return played


def write_engine(
    folder: Path,
    *,
    kind: str = "float",
    output: str = "logits",
    batch: int | None = None,
    profiles: tuple[tuple[int, int, int], ...] = ((1, 4, 8),),
    plugin: Any = None,
    more: str = "",
    lines: Callable[[str], str] = str,
    build: dict[str, Any] | None = None,
    manifest: dict[str, Any] | None = None,
    **sidecar: Any,
) -> Path:
    """Write an engine of the fake TensorRT with a sidecar that fits; ``lines`` changes what it says of itself."""
    spec = default_input(SMALL, kind)  # type: ignore[arg-type]
    network = replace(
        SIDECAR.manifest,
        model=SMALL,
        input=spec,
        output=output,
        batch=batch,
        **(manifest or {}),  # type: ignore[arg-type]
    )
    more += "".join(f"profile {low} {high}\n" for low, _, high in profiles)
    return write_any_engine(
        folder / "lit.engine", network, () if batch else profiles, more, lines, build, plugin, **sidecar
    )


def write_any_engine(
    path: Path,
    network: Manifest,
    profiles: tuple[tuple[int, int, int], ...] = (),
    more: str = "",
    lines: Callable[[str], str] = str,
    build: dict[str, Any] | None = None,
    plugin: Any = None,
    further: tuple[TensorSpec, ...] = (),
    **sidecar: Any,
) -> Path:
    """The same of a network of any task; ``further`` outputs are beyond those that its manifest promises."""
    task = task_of(network)
    inputs, outputs = task.input_specs(network), (*task.output_specs(network), *further)
    text = "FAKE ENGINE\n"
    for mode, tensors in (("in", inputs), ("out", outputs)):
        for tensor in tensors:
            shape = " ".join(str(_SIZES.get(size, -1) if isinstance(size, str) else size) for size in tensor.shape)
            text += f"tensor {tensor.name} {mode} {tensor.dtype} {shape}\n"
    content = lines(text + more).encode()
    known: dict[str, Any] = {"backend_version": RELEASE, "gpu": GPU[0], "compute_capability": "9.0"}
    written: dict[str, Any] = {
        "engine_sha256": hashlib.sha256(content).hexdigest(),
        "engine_size": len(content),
        "build": replace(TENSORRT_BUILD, **{**known, **(build or {})}),
        "profiles": profiles,
        "inputs": inputs,
        "outputs": outputs,
        "plugin": plugin,
        "manifest": network,
    }
    path.write_bytes(content)
    sidecar_path(path).write_text(replace(SIDECAR, **{**written, **sidecar}).to_json())
    return path


def images(count: int, kind: str = "float", seed: int = 0) -> np.ndarray[Any, Any]:
    """Whole numbers, so that every order of adding them gives the same sum."""
    shape = (count, 3, 32, 32) if kind == "float" else (count, 32, 32, 3)
    pixels = np.random.default_rng(seed).integers(0, 200, shape)
    return pixels.astype(np.float32 if kind == "float" else np.uint8)


def expected(batch: np.ndarray[Any, Any], sizes: int = 7, profile: int = 0) -> np.ndarray[Any, Any]:
    """What the fake GPU makes of it."""
    sums = batch.reshape(len(batch), -1).sum(axis=1, dtype=np.float64)
    return (sums[:, None] * np.arange(1, sizes + 1) + 1000 * profile).astype(np.float32)


def assert_ran(answer: Any, batch: np.ndarray[Any, Any], sizes: int = 7, profile: int = 0) -> None:
    assert answer[0] == "LIT_OK", answer
    np.testing.assert_array_equal(answer[1], expected(batch, sizes, profile))
