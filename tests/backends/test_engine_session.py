"""Sessions on engines, on a TensorRT and a CUDA driver that need no GPU (``fake_tensorrt``, ``fake_cuda``)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from support.exported import export_of
from support.fake_cuda import MS_PER_MEGABYTE, FakeDriver
from support.fake_tensorrt import IMAGES, MS_PER_IMAGE, FakeContext, FakeEngine, FakeTensorRT, write_engine

from lit_deploy.artifacts.onnx_file import manifest_of, metadata_of, read_onnx, with_outputs
from lit_deploy.backends import tensorrt as engine_session
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions, TimedSession, TimingSettings
from lit_deploy.core.errors import ArtifactError, UsageError
from lit_deploy.machine import tensorrt as trt
from lit_deploy.workflows.verify import verify_artifact

CheckpointFile = Callable[[str], Path]


def with_layers(path: Path) -> bytes:
    """The file with the layers that its manifest names as outputs."""
    model = read_onnx(path)
    with_outputs(model, manifest_of(metadata_of(model), path).layers, path)
    return bytes(model.SerializeToString())


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- running


def test_runs_any_batch_of_its_profile(engine: Path, expected: np.ndarray, fake_driver: FakeDriver) -> None:
    """Up and down again: buffers grow, are used anew, and what was returned stays what it was."""
    with open_session(engine) as session:
        assert session.description == f"TensorRT {trt.load('tensorrt').__version__} (built-in function)"
        assert session.batch_range == (1, 8)
        assert [(s.name, s.dtype, s.shape) for s in session.inputs] == [("images", "float32", ("batch", 3, 64, 64))]
        assert [(s.name, s.dtype, s.shape) for s in session.outputs] == [("logits", "float32", ("batch", 7))]
        results = {count: session.run({"images": IMAGES[:count]})["logits"] for count in (1, 3, 8, 2, 8, 1)}
        used = fake_driver.used()
        session.run({"images": IMAGES})
        assert fake_driver.used() == used == 2 * (IMAGES.nbytes + expected.nbytes), "device and pinned memory"
        assert fake_driver.depth == 0, "the thread has its own context back"
        turned = session.run({"images": np.asfortranarray(IMAGES)})["logits"]
        assert session.run({"images": IMAGES[:0]})["logits"].shape == (0, 7)
    for count, logits in results.items():
        assert close(logits, expected[:count]), count
    assert close(turned, expected)
    assert fake_driver.live == {}, "everything is given back"
    with pytest.raises(UsageError, match="not open"):
        session.run({"images": IMAGES})


def test_bad_feeds(engine: Path) -> None:
    with open_session(engine) as session:
        with pytest.raises(UsageError, match=r"is float64 \[8, 3, 64, 64\], expected float32"):
            session.run({"images": IMAGES.astype(np.float64)})
        with pytest.raises(UsageError, match=r"got inputs \['image'\]"):
            session.run({"image": IMAGES})


def test_batch_outside_every_profile(exported: Path, tmp_path: Path, fake_driver: FakeDriver) -> None:
    path = tmp_path / "a.engine"
    write_engine(exported, path, ((2, 2, 3), (6, 8, 8)))
    with open_session(path) as session:
        assert session.batch_range == (2, 8)
        for count in (1, 5):
            with pytest.raises(UsageError) as caught:
                session.run({"images": IMAGES[:count]})
            assert f"got a batch of {count} images" in str(caught.value)
            assert "built for 2 to 3 and 6 to 8" in str(caught.value)
            command = str(caught.value).partition("or build it again: ")[2]
            assert command.startswith(f"lit-deploy export --ckpt {path}.onnx --format trt --out {path} ")
            assert command.endswith(f" --batch {min(count, 2)}:{count}:8 --no-plugin")
        assert session.run({"images": IMAGES[:2]})["logits"].shape == (2, 7)


def test_profile_tuned_nearest_is_taken(
    exported: Path, expected: np.ndarray, tmp_path: Path, fake_trt: FakeTensorRT
) -> None:
    path = tmp_path / "a.engine"
    write_engine(exported, path, ((1, 1, 8), (1, 6, 8)))
    with open_session(path) as session:
        for count in (1, 2, 8, 5, 1):
            assert close(session.run({"images": IMAGES[:count]})["logits"], expected[:count])
    (context,) = fake_trt.contexts
    assert context.profiles_used == [0, 1, 0], "set when it changes, and only then"


def test_fixed_batch(
    checkpoint_file: CheckpointFile, expected: np.ndarray, tmp_path: Path, fake_driver: FakeDriver
) -> None:
    path = tmp_path / "a.plan"
    write_engine(export_of(checkpoint_file("tiny"), batch=2), path, ())
    with open_session(path) as session:
        assert session.batch_range == (2, 2)
        assert close(session.run({"images": IMAGES[:2]})["logits"], expected[:2])
        with pytest.raises(UsageError, match=r"expected float32 \[2 x 3 x 64 x 64\]"):
            session.run({"images": IMAGES[:1]})


def test_raw_pixels_and_top5(checkpoint_file: CheckpointFile, tmp_path: Path, fake_driver: FakeDriver) -> None:
    source = export_of(checkpoint_file("tiny"), input="uint8", output="top5")
    write_engine(source, tmp_path / "a.engine")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    with open_session(source) as one, open_session(tmp_path / "a.engine") as other:
        wanted, found = one.run({"images": pixels}), other.run({"images": pixels})
    assert list(found) == ["scores", "classes"]
    assert found["classes"].dtype == np.int64
    assert np.array_equal(wanted["classes"], found["classes"])
    assert close(wanted["scores"], found["scores"])


def test_outputs_are_told_apart_by_name(
    checkpoint_file: CheckpointFile, tmp_path: Path, fake_driver: FakeDriver
) -> None:
    """An engine may list its outputs in another order than the ONNX file and the sidecar."""
    source = export_of(checkpoint_file("tiny"), input="uint8", output="top5")
    turned = onnx.load(str(source))
    outputs = list(turned.graph.output)
    turned.graph.ClearField("output")
    turned.graph.output.extend(reversed(outputs))
    write_engine(source, tmp_path / "a.engine", content=turned.SerializeToString())
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    with open_session(source) as one, open_session(tmp_path / "a.engine") as other:
        wanted, found = one.run({"images": pixels}), other.run({"images": pixels})
    assert list(found) == list(wanted) == ["scores", "classes"]
    assert np.array_equal(wanted["classes"], found["classes"])
    assert close(wanted["scores"], found["scores"])


def test_link(engine: Path, expected: np.ndarray, tmp_path: Path) -> None:
    """A service that opens ``current.engine`` finds the sidecar of the engine it leads to."""
    folder = tmp_path / "service"
    folder.mkdir()
    (folder / "current.engine").symlink_to(engine)
    with open_session(folder / "current.engine") as session:
        assert close(session.run({"images": IMAGES})["logits"], expected)
        with pytest.raises(UsageError) as caught:
            session.run({"images": IMAGES[[0] * 9]})
    assert f"--ckpt {engine}.onnx --format trt --out {engine} " in str(caught.value), "the link is not built over"


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_threads_at_once(engine: Path, expected: np.ndarray, fake_trt: FakeTensorRT, cuda_graph: bool) -> None:
    """Eight callers, never two in one context, and no more contexts than callers at once (for each graph)."""
    counts = [1, 2, 3, 8] * 12
    with open_session(engine, SessionOptions(cuda_graph=cuda_graph)) as session:
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda count: session.run({"images": IMAGES[:count]})["logits"], counts))
        assert len(fake_trt.contexts) <= (8 * 4 if cuda_graph else 8)
    for count, logits in zip(counts, results, strict=True):
        assert close(logits, expected[:count])
    assert fake_trt.driver.live == {}


def test_layers(exported: Path, tmp_path: Path, fake_driver: FakeDriver, expected: np.ndarray) -> None:
    path = tmp_path / "debug.engine"
    write_engine(exported, path, content=with_layers(exported), layers=True)
    with (
        open_session(exported, SessionOptions(layers=True, library=False)) as reference,
        open_session(path, SessionOptions(layers=True)) as session,
    ):
        wanted, found = (s.run({"images": IMAGES[:2]}) for s in (reference, session))
        assert list(found) == ["logits", *session.manifest.layers] == [spec.name for spec in session.outputs]
    for name, value in found.items():
        assert close(value, wanted[name]), name
    with open_session(path) as session:  # not asked for: they need memory on the device, and stay there
        assert list(session.run({"images": IMAGES[:2]})) == ["logits"]
        assert fake_driver.calls["cuMemAllocHost"] == len(found) + 1 + 2


def test_verify(exported: Path, tmp_path: Path, checkpoint_file: CheckpointFile, fake_driver: FakeDriver) -> None:
    """The workflow that knows no back end runs engines of any profile, and compares their layers."""
    path = tmp_path / "debug.engine"
    for profile in ((1, 4, 8), (4, 4, 8), (1, 1, 1), (3, 3, 3)):
        write_engine(exported, path, (profile,), content=with_layers(exported), layers=True)
        report = verify_artifact(path, checkpoint_file("tiny"), layers=True)
        assert (report.verdict, report.images, report.reasons) == ("pass", 8, ())
        assert report.tested.startswith("TensorRT ")
        assert report.layers


# ------------------------------------------------------------------------------------------------ graphs and times


def test_graph_is_captured_after_an_ordinary_run(engine: Path, expected: np.ndarray, fake_trt: FakeTensorRT) -> None:
    with open_session(engine, SessionOptions(cuda_graph=True)) as session:
        assert session.description.endswith("(built-in function, CUDA graph)")
        for count in (2, 2, 2, 5, 2, 5, 5, 2):
            assert close(session.run({"images": IMAGES[8 - count :]})["logits"], expected[8 - count :])
        assert [context.runs for context in fake_trt.contexts] == [["enqueued", "captured"]] * 2, (
            "one context for each size"
        )
        assert fake_trt.driver.calls["cuGraphLaunch"] == 3 + 1 + 2
    assert fake_trt.driver.live == {}


def test_graph_is_captured_again_when_buffers_move(
    engine: Path, expected: np.ndarray, fake_trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for one context, the sizes share it: a graph goes with its shape, and with the memory it points to."""
    monkeypatch.setattr(engine_session, "MOST_GRAPHS", 1)
    with open_session(engine, SessionOptions(cuda_graph=True)) as session:
        for count in (1, 1, 4, 4, 4, 1, 1):
            assert close(session.run({"images": IMAGES[:count]})["logits"], expected[:count])
        (context,) = fake_trt.contexts
        assert context.runs == ["enqueued", "captured"] * 3
        assert fake_trt.driver.calls["cuGraphExecDestroy"] == 2
    assert fake_trt.driver.live == {}


def test_capture_that_fails(engine: Path, fake_driver: FakeDriver) -> None:
    with open_session(engine, SessionOptions(cuda_graph=True)) as session:
        session.run({"images": IMAGES[:1]})
        fake_driver.broken = "cuGraphInstantiate"
        with pytest.raises(ArtifactError, match=r"failed on the GPU with batch 1 \(.*CUDA_ERROR_ILLEGAL_ADDRESS\)"):
            session.run({"images": IMAGES[:1]})
        fake_driver.broken = ""
        assert session.run({"images": IMAGES[:1]})["logits"].shape == (1, 7)
    assert fake_driver.live == {}


def test_tensorrt_that_captures_by_itself(engine: Path, expected: np.ndarray, fake_trt: FakeTensorRT) -> None:
    """TensorRT-RTX is told to, and left to it."""
    fake_trt.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE=1)  # type: ignore[attr-defined]
    with open_session(engine, SessionOptions(cuda_graph=True)) as session:
        for _ in range(3):
            assert close(session.run({"images": IMAGES[:2]})["logits"], expected[:2])
    with open_session(engine) as session:
        session.run({"images": IMAGES[:2]})
    assert [context.runs for context in fake_trt.contexts] == [["enqueued"] * 3, ["enqueued"]]
    assert fake_trt.contexts[0].config.cuda_graph_strategy == 1
    assert fake_trt.contexts[1].config is None


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_phases(engine: Path, expected: np.ndarray, fake_driver: FakeDriver, cuda_graph: bool) -> None:
    with open_session(engine, SessionOptions(cuda_graph=cuda_graph)) as session:
        assert isinstance(session, TimedSession)
        assert session.timing_settings == TimingSettings(transfers=True, spin_wait=True, cuda_graph=cuda_graph)
        fake_driver.flags = 4  # blocking synchronisation
        assert not session.timing_settings.spin_wait
        for count in (4, 4, 2):
            outputs, phases = session.timed_run({"images": IMAGES[:count]})
            assert close(outputs["logits"], expected[:count])
            assert phases.compute == pytest.approx(count * MS_PER_IMAGE)
            assert phases.host_to_device == pytest.approx(IMAGES[:count].nbytes / 1e6 * MS_PER_MEGABYTE)
            assert phases.device_to_host == pytest.approx(outputs["logits"].nbytes / 1e6 * MS_PER_MEGABYTE)
            assert 0 < phases.enqueue < 1000
        events = fake_driver.calls["cuEventRecord"]
        session.run({"images": IMAGES[:4]})
        assert fake_driver.calls["cuEventRecord"] == events, "an ordinary run measures nothing"


def test_running_an_engine_imports_no_torch(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.engine"
    tests = Path(__file__).parents[1]
    code = f"""
import json, sys
sys.path.insert(0, {str(tests)!r})
from support import fake_tensorrt
fake_tensorrt.install()
from pathlib import Path
fake_tensorrt.write_engine(Path({str(exported)!r}), Path({str(path)!r}))
import numpy as np
from lit_deploy import open_session
with open_session({str(path)!r}) as session:
    assert session.run({{"images": np.zeros((2, 3, 64, 64), np.float32)}})["logits"].shape == (2, 7)
print(json.dumps([name for name in ("torch", "onnxscript", "typer", "rich", "matplotlib") if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tests.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_the_fakes_offer_what_is_there() -> None:
    """Every function and constant of the fake driver, and every method of the fake TensorRT, under the real names."""
    driver = pytest.importorskip("cuda.bindings.driver")
    fake = FakeDriver()
    names = [name for name in dir(FakeDriver) if name.startswith("cu")]
    assert len(names) > 20
    assert [name for name in names if not callable(getattr(driver, name, None))] == []
    for group in ("CUdevice_attribute", "CUctx_flags", "CUstream_flags", "CUevent_flags", "CUstreamCaptureMode"):
        for name, value in vars(getattr(fake, group)).items():
            real = getattr(getattr(driver, group), name)
            assert real.value == getattr(value, "value", real.value), name
    assert [status.name for status in fake.CUresult if not hasattr(driver.CUresult, status.name)] == []
    real = pytest.importorskip("tensorrt_rtx_bindings")
    for made, name in ((FakeContext, "IExecutionContext"), (FakeEngine, "ICudaEngine")):
        methods = [method for method in vars(made) if not method.startswith("_")]
        assert [method for method in methods if not callable(getattr(getattr(real, name), method, None))] == []
    for value in ("engine_host_code_allowed", "get_plugin_registry", "deserialize_cuda_engine"):
        assert hasattr(real.Runtime, value)
    assert hasattr(real.CudaGraphStrategy, "WHOLE_GRAPH_CAPTURE")
    assert hasattr(real.IRuntimeConfig, "cuda_graph_strategy")
    for name in ("FLOAT", "HALF", "UINT8", "INT8", "INT32", "INT64", "BOOL"):
        assert trt.DTYPES[name] == np.dtype(real.nptype(getattr(real.DataType, name))).name
        assert trt.DTYPES[name] in engine_session.NUMPY_TYPES
    assert [name for name in trt.DTYPES if not hasattr(real.DataType, name)] == []
