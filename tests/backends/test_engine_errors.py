"""Engines that cannot run here, and runs that fail: one sentence each, and nothing left behind."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fake_cuda import FakeDriver
from support.fake_tensorrt import IMAGES, PLUGIN, FakeContext, FakeTensorRT, modules, write_engine

from lit_deploy.artifacts.sidecar import Sidecar, sidecar_path
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions, TimedSession
from lit_deploy.core.errors import ArtifactError, LitDeployError, MissingDependency, UsageError
from lit_deploy.core.files import sha256_of
from lit_deploy.machine import native
from lit_deploy.machine import tensorrt as trt

CheckpointFile = Callable[[str], Path]


def refusal(engine: Path, **options: Any) -> LitDeployError:
    with pytest.raises(LitDeployError) as caught, open_session(engine, SessionOptions(**options)):
        pass
    assert "\n" not in str(caught.value)
    return caught.value


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("call", ["cuMemAlloc", "cuMemcpyHtoDAsync", "cuStreamSynchronize", "cuEventRecord"])
def test_failure_is_one_sentence(engine: Path, fake_driver: FakeDriver, expected: np.ndarray, call: str) -> None:
    """The context that failed is thrown away; the next run starts with a new one."""
    with open_session(engine) as session:
        assert isinstance(session, TimedSession)
        session.timed_run({"images": IMAGES[:1]})
        fake_driver.broken = call
        with pytest.raises(
            ArtifactError, match=r"tiny\.engine failed on the GPU with batch 2 .*ILLEGAL_ADDRESS"
        ) as caught:
            session.timed_run({"images": IMAGES[:2]})
        assert "\n" not in str(caught.value)
        fake_driver.broken = ""
        assert close(session.run({"images": IMAGES[:2]})["logits"], expected[:2])
    assert fake_driver.depth == 0
    assert not [what for what in fake_driver.live.values() if isinstance(what, ctypes.Array)], "no memory is lost"


def test_out_of_memory(engine: Path, fake_driver: FakeDriver) -> None:
    fake_driver.memory = 3 * IMAGES[:2].nbytes
    with open_session(engine) as session:
        session.run({"images": IMAGES[:1]})
        with pytest.raises(ArtifactError, match=r"batch 8 \(.*CUDA_ERROR_OUT_OF_MEMORY\); if memory is short, use a"):
            session.run({"images": IMAGES})
        assert fake_driver.used() == 0, "what it had taken is there for the next one"
        assert session.run({"images": IMAGES[:1]})["logits"].shape == (1, 7)
    assert fake_driver.live == {}


def test_tensorrt_says_why(engine: Path, fake_trt: FakeTensorRT) -> None:
    with open_session(engine) as session:
        session.run({"images": IMAGES[:1]})
        fake_trt.contexts[0].pending = 1
        with pytest.raises(ArtifactError, match=r"failed on the GPU with batch 2 \(.*: the context is running\)"):
            session.run({"images": IMAGES[:2]})


def test_everyone_hears_of_their_own_failure(
    engine: Path, fake_trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads fail at once: TensorRT has one logger for both, and the sentences are not exchanged."""
    both = threading.Barrier(2, timeout=30)

    def refuse(self: FakeContext, name: str, shape: tuple[int, ...]) -> bool:
        self.engine.runtime.logger.log(1, f"nothing fits {shape[0]} images\nand more")
        both.wait()
        return False

    monkeypatch.setattr(FakeContext, "set_input_shape", refuse)

    def sentence(count: int) -> str:
        with pytest.raises(ArtifactError) as caught:
            session.run({"images": IMAGES[:count]})
        return str(caught.value)

    with open_session(engine) as session, ThreadPoolExecutor(2) as pool:
        for _ in range(3):  # what was said before is forgotten
            for count, words in zip((2, 5), pool.map(sentence, (2, 5)), strict=True):
                assert f"failed on the GPU with batch {count} (" in words
                assert f": nothing fits {count} images); if memory" in words


def test_closing_after_the_gpu_is_lost(engine: Path, fake_trt: FakeTensorRT) -> None:
    """Nothing can be given back any more; the session ends without a word, and holds on to nothing of TensorRT's."""
    with open_session(engine) as session:
        session.run({"images": IMAGES[:1]})
        fake_trt.driver.broken = "cuCtxPushCurrent"
    with pytest.raises(UsageError, match="not open"):
        _ = session.outputs
    kept = [weakref.ref(what) for what in (fake_trt.contexts.pop(), fake_trt.runtimes.pop())]
    gc.collect()
    assert [reference() for reference in kept] == [None, None]
    assert "context" not in fake_trt.driver.live.values(), "the device's context is let go of all the same"


def changed(engine: Path, change: Callable[[Sidecar], Sidecar], sidecar: Sidecar) -> None:
    sidecar_path(engine).write_text(change(sidecar).to_json())


def test_refused_by_tensorrt(exported: Path, tmp_path: Path, fake_driver: FakeDriver) -> None:
    """A file with the right hash that TensorRT cannot read, and one whose tensors are not the promised ones."""
    path = tmp_path / "a.engine"
    sidecar = write_engine(exported, path)
    path.write_bytes(b"nonsense")
    changed(path, lambda s: replace(s, engine_sha256=sha256_of(path), engine_size=8), sidecar)
    words = str(refusal(path))
    assert "refuses" in words
    assert "(Error Code 4: magic tag does not match); build it again here: lit-deploy export" in words
    assert fake_driver.live == {}
    for change, reason in (
        (lambda s: replace(s, profiles=((1, 1, 1), (1, 8, 8))), "has 1 profiles"),
        (lambda s: replace(s, outputs=(replace(s.outputs[0], name="answers"),)), "answers"),
        (lambda s: replace(s, inputs=(replace(s.inputs[0], dtype="uint8"),)), "its sidecar promises"),
        (lambda s: replace(s, outputs=(*s.outputs, *s.outputs)), "has None, its sidecar promises"),
    ):
        changed(path, change, write_engine(exported, path))
        assert reason in str(refusal(path)), reason
        assert fake_driver.live == {}


def test_plugin_library_is_registered(
    exported: Path, tmp_path: Path, fake_trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, path = tmp_path / "plugin.so", tmp_path / "a.engine"
    library.write_bytes(b"plugin")
    monkeypatch.setenv(native.PLUGIN_VARIABLE, str(library))
    write_engine(exported, path, plugin=replace(PLUGIN, sha256=sha256_of(library)))
    with open_session(path, SessionOptions(library=True)) as session:
        assert session.description.endswith("(plugin)")
        session.run({"images": IMAGES[:1]})
    assert [runtime.loaded for runtime in fake_trt.runtimes] == [[str(library)]]
    assert "calls the plugin, which cannot be changed" in str(refusal(path, library=False))
    write_engine(exported, path, plugin=replace(PLUGIN, embedded=True))
    assert "allow_engine_code=True" in str(refusal(path))
    assert len(fake_trt.runtimes) == 1
    with open_session(path, SessionOptions(allow_engine_code=True)) as session:
        assert session.description.endswith("(embedded plugin)")
    assert [(runtime.engine_host_code_allowed, runtime.loaded) for runtime in fake_trt.runtimes[1:]] == [(True, [])]
    write_engine(exported, path)
    assert "was built without the plugin" in str(refusal(path, library=True))
    assert "does not return its layers; build an engine that does: lit-deploy export --ckpt" in str(
        refusal(path, layers=True)
    )


def test_rtx_needs_its_library_by_name(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end the process; the folder to start the process with is named instead."""
    fake_driver = FakeDriver()
    fake_driver.gpu = ("Fake RTX", 8, 9)
    for name, module in modules(fake_driver, "tensorrt_rtx", "1.7.1.116").items():
        monkeypatch.setitem(sys.modules, name, module)
    version = trt.installed_version("tensorrt_rtx")
    path, build = tmp_path / "a.engine", {"backend": "tensorrt_rtx", "backend_version": version}
    write_engine(exported, path, plugin=replace(PLUGIN, embedded=True), **build)
    monkeypatch.setattr(trt, "rtx_library_is_found", lambda: False)
    monkeypatch.setattr(trt, "rtx_library_folder", lambda: Path("/some/folder"))
    error = refusal(path, allow_engine_code=True)
    assert isinstance(error, MissingDependency)
    assert "LD_LIBRARY_PATH=/some/folder" in str(error)
    assert fake_driver.live == {}
    write_engine(exported, path, **build)  # without a plugin nothing looks for that name
    with open_session(path) as session:
        assert session.description.startswith("TensorRT-RTX 1.7")
        session.run({"images": IMAGES[:1]})


def test_preflight_comes_before_tensorrt(
    exported: Path, tmp_path: Path, fake_trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every refusal reaches the caller of ``open_session`` as it is, and no runtime was made for it."""
    path, library = tmp_path / "a.engine", tmp_path / "plugin.so"
    monkeypatch.setenv(native.PLUGIN_VARIABLE, str(library))
    cases: list[tuple[dict[str, Any], type[LitDeployError], str]] = [
        ({"os": "Plan 9"}, ArtifactError, "was built for Plan 9"),
        ({"backend": "tensorrt_rtx", "backend_version": "0.1"}, LitDeployError, "TensorRT-RTX"),
        ({"backend_version": "10.8.0"}, ArtifactError, "was built by TensorRT 10.8.0"),
        ({"plugin": PLUGIN}, MissingDependency, str(library)),
        ({"plugin": replace(PLUGIN, embedded=True)}, ArtifactError, "--allow-engine-code"),
        ({"cuda_version": "14.1"}, ArtifactError, "was built with CUDA 14.1"),
        ({"gpu": "Other", "compute_capability": "8.0"}, ArtifactError, "was built for Other"),
    ]
    for changes, kind, words in cases:
        write_engine(exported, path, **changes)
        error = refusal(path)
        assert isinstance(error, kind), changes
        assert words in str(error), changes
    library.write_bytes(b"another")
    write_engine(exported, path, plugin=PLUGIN)
    assert "another plugin library" in str(refusal(path))
    write_engine(exported, path)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert "is not the file its sidecar describes" in str(refusal(path))
    sidecar_path(path).write_text("{")
    assert "is damaged" in str(refusal(path))
    sidecar_path(path).unlink()
    assert "has no readable sidecar" in str(refusal(path))
    path.unlink()
    assert "is not a file" in str(refusal(path))
    assert fake_trt.runtimes == []


def test_without_gpu_driver_or_bindings(engine: Path, fake_trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_driver = fake_trt.driver
    fake_driver.broken = "cuInit"
    assert "no CUDA device can be used here" in str(refusal(engine))
    fake_driver.broken = ""
    monkeypatch.setattr(FakeDriver, "cuDeviceGetCount", lambda self: (0,))
    assert "this machine shows 0 of them" in str(refusal(engine))

    def no_driver(self: FakeDriver, flags: int) -> None:
        raise RuntimeError("libcuda.so not found")

    monkeypatch.setattr(FakeDriver, "cuInit", no_driver)
    assert "no NVIDIA driver was found" in str(refusal(engine))
    for name in ("cuda", "cuda.bindings", "cuda.bindings.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    error = refusal(engine)
    assert isinstance(error, MissingDependency)
    assert "pip install cuda-bindings" in str(error)
    assert fake_trt.runtimes == []
