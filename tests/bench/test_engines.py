"""The benchmark with engines: phases on the GPU, trtexec's warnings, and who takes part. Engines are fake ones."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.benchmarks import QUICK
from support.exported import export_of
from support.fake_cuda import MS_PER_MEGABYTE, FakeDriver
from support.fake_tensorrt import MS_PER_IMAGE, PLUGIN, FakeTensorRT, write_engine
from support.reports import measurement, rendered

from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.artifacts.sidecar import sidecar_path
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions, TimingSettings
from lit_deploy.bench import contenders
from lit_deploy.bench import run as bench
from lit_deploy.bench import worker as bench_worker
from lit_deploy.bench.contenders import Contender, contenders_for, default_contenders
from lit_deploy.bench.result import BenchReport, GpuTimes, Percentiles
from lit_deploy.bench.run import bench_files, run_bench
from lit_deploy.checkpoints.load import Checkpoint
from lit_deploy.core.errors import ExportError, UsageError
from lit_deploy.exporters.engine_options import EngineOptions
from lit_deploy.exporters.onnx import OnnxOptions
from lit_deploy.machine import native
from lit_deploy.machine import tensorrt as trt
from lit_deploy.report.bench import bench_from_json, bench_markdown, bench_table
from lit_deploy.report.terminal import as_json

SERVE = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); from support import fake_tensorrt; "
    "fake_tensorrt.install(); "
)


@pytest.fixture
def checkpoint(checkpoint_file: Callable[[str], Path]) -> Path:
    return checkpoint_file("tiny")


@pytest.fixture
def engine(exported: Path, tmp_path: Path, fake_driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine, and workers that run it on the fake TensorRT."""
    program = SERVE + "from lit_deploy.bench.worker import main; main()"
    monkeypatch.setattr(bench_worker, "COMMAND", (sys.executable, "-c", program))
    write_engine(exported, tmp_path / "tiny.engine")
    return tmp_path / "tiny.engine"


def test_engine_takes_part(engine: Path, exported: Path) -> None:
    """It takes turns with the others, computes the same, and tells the phases of its runs."""
    stock = Contender("stock", exported, "onnxruntime-stock")
    result = run_bench([stock, *contenders_for([engine])], batches=(1, 4), **QUICK)
    assert [(m.label, m.kind, m.batch) for m in result.measurements] == [
        (label, kind, batch)
        for batch in (1, 4)
        for label, kind in (
            ("stock", "onnxruntime-stock"),
            ("tiny.engine, TensorRT", "engine"),
            ("tiny.engine, TensorRT + CUDA graph", "engine-graph"),
        )
    ]
    for m in result.measurements:
        assert m.max_relative_difference is not None
        assert m.max_relative_difference <= 1e-5
        if m.kind == "onnxruntime-stock":
            assert m.gpu is None
            continue
        assert m.gpu is not None
        compute, upload = m.batch * MS_PER_IMAGE, m.batch * 3 * 64 * 64 * 4 / 1e6 * MS_PER_MEGABYTE
        assert (m.gpu.compute.p50, m.gpu.compute.p99) == pytest.approx((compute, compute))
        assert m.gpu.compute_variation == pytest.approx(0, abs=1e-6)
        assert m.gpu.host_to_device == pytest.approx(upload)
        assert m.gpu.latency.p50 == pytest.approx(upload + compute + m.gpu.device_to_host)
        assert m.gpu.settings == TimingSettings(transfers=True, spin_wait=True, cuda_graph=m.kind == "engine-graph")
        assert 0 < m.gpu.enqueue <= m.p99
        assert m.gpu.seconds == pytest.approx(m.mean * m.samples / 1000)
    text = as_json(result)
    assert bench_from_json(text) == result
    for shown in (rendered(bench_table(result), 200), bench_markdown(result)):
        assert "transfers on, spin-wait on, CUDA graph off; transfers on, spin-wait on, CUDA graph on" in shown


def test_batches_outside_the_profile(engine: Path) -> None:
    with pytest.raises(UsageError, match=r"tiny.engine, TensorRT was exported for batch sizes 1 to 8, but \[1, 9\]"):
        run_bench(contenders_for([engine]), batches=(1, 9), **QUICK)


def test_refused_engine_is_listed(engine: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With preflight's sentence, and nothing of it is started."""
    write_engine(exported, engine, plugin=replace(PLUGIN, embedded=True))
    for contender in contenders_for([engine], device="cuda"):
        assert "--allow-engine-code" in str(contender.unavailable)
    allowed = contenders_for([engine], allow_engine_code=True)
    assert [(c.unavailable, c.allow_engine_code, c.device) for c in allowed] == [(None, True, "cuda")] * 2
    assert allowed[0].environment == trt.process_environment("tensorrt")
    result = run_bench(allowed[:1], batches=(1,), **{**QUICK, "rounds": 1})
    assert "embedded plugin" in result.measurements[0].description
    write_engine(exported, engine, compute_capability="8.0")
    with pytest.raises(UsageError, match=r"nothing can be measured here .* was built for Fake GPU"):
        bench_files([engine], batches=(1,))
    sidecar_path(engine).unlink()
    with pytest.raises(Exception, match="has no readable sidecar"):
        contenders_for([engine])


def test_environment_reaches_the_worker(engine: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX looks for its library by a path that must be there before the process starts."""
    program = "import os, json, sys; sys.stdin.readline(); print(json.dumps({'path': os.environ['LD_LIBRARY_PATH']}))"
    monkeypatch.setattr(bench_worker, "COMMAND", (sys.executable, "-c", program))
    with bench_worker.Worker("x", {"LD_LIBRARY_PATH": "/some/folder"}) as worker:
        assert worker.ask(30, do="open") == {"path": "/some/folder"}


def test_everything_on_one_checkpoint_on_cuda(
    checkpoint: Path, tmp_path: Path, fake_trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for five times, but converted once: what is converted does not depend on what is to be measured."""
    monkeypatch.setattr(native, "has_cuda_kernel", lambda library: False)
    monkeypatch.setattr(native, "find_library", lambda: Path("library.so"))
    half = export_of(checkpoint, precision="fp16")

    def converted(loaded: Checkpoint, options: OnnxOptions) -> OnnxArtifact:
        assert (loaded.path, options) == (checkpoint, OnnxOptions(precision="fp16"))
        return OnnxArtifact.read(half)

    monkeypatch.setattr(contenders, "onnx_from_checkpoint", converted)
    profiles: list[tuple[int, int, int] | None] = []

    @contextlib.contextmanager
    def build(artifact: OnnxArtifact, out: Path, engine: EngineOptions, progress: object) -> Iterator[None]:
        profiles.append(engine.profile)
        write_engine(half, out)
        yield

    monkeypatch.setattr(contenders, "written_engine", build)
    chosen = default_contenders(tmp_path, checkpoint, "cuda")
    assert [(c.label, c.kind, c.unavailable is None) for c in chosen] == [
        ("PyTorch eager", "torch", True),
        ("PyTorch eager fp16", "torch-fp16", True),
        ("PyTorch torch.compile fp16", "torch.compile-fp16", True),
        ("ONNX Runtime + lit-deploy kernel", "onnxruntime", False),
        ("ONNX Runtime", "onnxruntime-stock", True),
        ("TensorRT", "engine", True),
        ("TensorRT + CUDA graph", "engine-graph", True),
    ]
    assert {c.device for c in chosen} == {"cuda"}
    assert "holds no CUDA kernel" in str(chosen[3].unavailable)

    for batches in ((128,), (64, 1, 8), (2, 2)):
        default_contenders(tmp_path, checkpoint, "cuda", batches=batches)
    assert profiles == [(1, 8, 8), (128, 128, 128), (1, 8, 64), (2, 2, 2)], "it takes what is going to be measured"

    def fail(*arguments: object, **options: object) -> None:
        raise ExportError("no TensorRT here")

    monkeypatch.setattr(contenders, "written_engine", fail)
    monkeypatch.setattr(native, "has_cuda_kernel", lambda library: True)
    chosen = default_contenders(tmp_path, checkpoint, "cuda")
    assert [(c.label, c.unavailable) for c in chosen[3:]] == [
        ("ONNX Runtime + lit-deploy kernel", None),
        ("ONNX Runtime", None),
        ("TensorRT", "no TensorRT here"),
    ]


def test_every_kind_has_its_options() -> None:
    assert set(bench_worker._OPTIONS) == set(contenders.Kind.__args__)  # type: ignore[attr-defined]
    for options in bench_worker._OPTIONS.values():
        SessionOptions(**options)


def test_half_precision_on_pytorch(checkpoint: Path) -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    with open_session(checkpoint) as whole, open_session(checkpoint, SessionOptions(half=True)) as half:
        a, b = (session.run({"images": images})["logits"] for session in (whole, half))
        assert (half.manifest.precision, b.dtype) == ("fp16", np.float32)
        assert half.description.endswith("(eager, fp16)")
    difference = np.abs(a - b).max() / np.abs(a).max()
    assert 1e-5 < difference < 1e-2, "rounded, and still the same network"


def gpu_report(**changes: object) -> BenchReport:
    times = {
        "latency": Percentiles(1.2, 1.3, 1.3, 1.4, 1.2), "compute": Percentiles(1.0, 1.1, 1.1, 1.2, 1.0),
        "compute_variation": 0.02, "host_to_device": 0.15, "device_to_host": 0.05, "enqueue": 0.79, "seconds": 6.0,
        "settings": TimingSettings(True, False, False),
    }  # fmt: skip
    one = measurement("engine [a]", 1, 1.4, 1.0, kind="engine", gpu=GpuTimes(**{**times, **changes}))
    machine = bench.this_machine()
    return BenchReport("lit_s", (224, 224), 2, one.label, 0.3, 20, (one,), (), 0.0, machine)


def test_trtexec_warnings() -> None:
    for changes, words in (
        ({}, None),
        ({"enqueue": 0.81}, "launching takes 0.810 ms of the host, more than 80% of the GPU's 1.000 ms"),
        ({"compute_variation": 0.026}, "the GPU's time varies by 2.6%, more than 2.5%"),
        ({"seconds": 2.9}, "measured for 2.9 s and 40 runs, expected at least 3 s and 10 runs; use more --rounds"),
    ):
        result = gpu_report(**changes)
        for text in (rendered(bench_table(result), 400), bench_markdown(result)):
            assert "engine [a]" in text
            assert "transfers on, spin-wait off, CUDA graph off" in text
            assert "in + compute + out" in text
            for warning in ("launching takes", "varies by", "measured for"):
                assert (warning in text) == (words is not None and warning in words), (warning, changes)
            assert words is None or words in text
    rows = [line for line in bench_markdown(gpu_report()).splitlines() if line.startswith("| engine")]
    assert rows[1].split(" | ")[1:] == [
        "1",
        "1.00",
        "1.10",
        "1.10",
        "1.20",
        "2.0%",
        "0.150",
        "0.050",
        "1.20",
        "0.790 |",
    ]
    no_gpu = replace(gpu_report(), measurements=(measurement("cpu", 1, 1.0, 1.0),))
    assert "on the GPU" not in bench_markdown(no_gpu) + rendered(bench_table(no_gpu))
