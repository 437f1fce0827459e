"""OpenVINO on classifiers: our operators as an extension, the functions without it, bfloat16 and int8 for real."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.exported import export_of, needs_bf16, needs_extension
from support.quantized import Quantized, quantized

from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.backends import openvino as backend
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import MissingDependency, UsageError
from lit_deploy.core.specs import TOLERANCES
from lit_deploy.machine import native
from lit_deploy.machine.facts import cpu_flags, int8_saturates
from lit_deploy.workflows.verify import verify_artifact

openvino = pytest.importorskip("openvino", reason="the openvino extra is not installed")
__all__ = ["quantized"]

CheckpointFile = Callable[[str], Path]
IMAGES = np.random.default_rng(11).standard_normal((3, 3, 64, 64)).astype(np.float32)
NETWORKS = ("tiny", "tiny_ti")


def on_openvino(source: Path | OnnxArtifact, **options: object) -> np.ndarray:
    with open_session(source, SessionOptions(backend="openvino", threads=1, **options)) as session:  # type: ignore[arg-type]
        return session.run({"images": IMAGES})["logits"]


@pytest.mark.parametrize(
    ("form", "library"),
    [
        pytest.param("ordinary", True, marks=needs_extension, id="kernels"),
        pytest.param("ordinary", False, id="functions"),
        pytest.param("portable", None, id="portable"),
        pytest.param("memory", False, id="in memory"),
    ],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_pytorch(name: str, form: str, library: bool | None, checkpoint_file: CheckpointFile) -> None:
    checkpoint = checkpoint_file(name)
    source: Path | OnnxArtifact = export_of(checkpoint, portable=form == "portable")
    if form == "memory":
        assert isinstance(source, Path)
        source = OnnxArtifact.read(source)
    report = verify_artifact(
        source, checkpoint, layers=True, options=SessionOptions(backend="openvino", library=library, threads=1)
    )
    assert report.verdict == "pass", report.reasons
    assert report.precision == "fp32"
    assert len(report.layers) >= 10
    kernels = {"portable": "inlined", "ordinary": "lit-deploy kernels" if library else "built-in functions"}
    assert f"cpu (f32, {kernels.get(form, 'built-in functions')})" in report.tested


@needs_extension
def test_our_operators_are_what_runs(checkpoint_file: CheckpointFile) -> None:
    """OpenVINO's own execution graph holds them, and none of what the functions consist of."""
    with open_session(export_of(checkpoint_file("tiny")), SessionOptions(backend="openvino", threads=1)) as session:
        session.run({"images": IMAGES})
        assert isinstance(session, backend.OpenVinoSession)
        graph = session.execution_graph()
        nodes = Counter(node.get_rt_info()["originalLayersNames"].astype(str) for node in graph.get_ops())
        assert sum("DeformableTokenMerging" in name for name in nodes) == session.manifest.model.mergings
        assert not any("GridSample" in name for name in nodes)


@needs_bf16
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("precision", "hint"), [pytest.param("fp32", "bf16", id="hint"), pytest.param("bf16", None, id="file")]
)
def test_bfloat16(name: str, precision: str, hint: str | None, checkpoint_file: CheckpointFile) -> None:
    """Computed, not emulated: outputs differ from float32's, and pass at the limits of bfloat16."""
    checkpoint = checkpoint_file(name)
    source = export_of(checkpoint, precision=precision)
    options = SessionOptions(backend="openvino", threads=1, precision_hint=hint)  # type: ignore[arg-type]
    report = verify_artifact(source, checkpoint, options=options)
    assert (report.verdict, report.precision) == ("pass", "bf16"), report.reasons
    assert report.tolerance == TOLERANCES["bf16"]
    assert report.output.relative > TOLERANCES["fp32"].relative
    assert "cpu (bf16, " in report.tested


def test_a_file_of_bfloat16_where_the_cpu_has_none(
    checkpoint_file: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "cpu_flags", lambda: frozenset({"avx2", "avx512f"}))
    checkpoint = checkpoint_file("tiny")
    report = verify_artifact(
        export_of(checkpoint, precision="bf16"), checkpoint, options=SessionOptions(backend="openvino", threads=1)
    )
    assert report.verdict == "pass"
    assert "cpu (f32, " in report.tested
    with pytest.raises(UsageError, match="does not compute in bfloat16"):
        on_openvino(export_of(checkpoint), precision_hint="bf16")


@pytest.mark.skipif(int8_saturates(cpu_flags()), reason="this CPU's int8 products clip sums: int8 is emulated on it")
def test_int8_runs_integer_products(quantized: Quantized) -> None:
    """As OpenVINO's own execution graph says: products whose type is of 8 bits, as many as the file quantises."""
    path = quantized("tiny", "int8", "fp32")
    with open_session(path, SessionOptions(backend="openvino", threads=1)) as session:
        logits = session.run({"images": IMAGES})["logits"]
        assert isinstance(session, backend.OpenVinoSession)
        quantization = session.manifest.quantization
        types = [
            node.get_rt_info()["runtimePrecision"].astype(str)
            for node in session.execution_graph().get_ops()
            if node.get_rt_info()["layerType"].astype(str) in ("FullyConnected", "MatMul")
        ]
    assert quantization is not None
    assert sum(kind in ("i8", "u8") for kind in types) == quantization.products, types
    with open_session(path, SessionOptions(threads=1)) as session:
        expected = session.run({"images": IMAGES})["logits"]
    assert np.abs(logits - expected).max() <= 0.05 * np.abs(expected).max()


def test_int8_is_exact_on_a_cpu_that_would_clip_sums(quantized: Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without VNNI: what ONNX Runtime computes with the setting that makes it exact. Clipped, it is off by 4 %."""
    monkeypatch.setattr(backend, "int8_saturates", lambda flags: True)
    path = quantized("tiny", "int8", "fp32")
    with open_session(path, SessionOptions(backend="openvino", threads=1)) as session:
        logits = session.run({"images": IMAGES})["logits"]
        assert "int8 emulated" in session.description
    with open_session(path, SessionOptions(threads=1)) as session:
        expected = session.run({"images": IMAGES})["logits"]
    assert np.abs(logits - expected).max() <= 0.02 * np.abs(expected).max()


def test_threads_of_the_caller(checkpoint_file: CheckpointFile) -> None:
    path = export_of(checkpoint_file("tiny"))
    expected = {count: on_openvino_of(path, IMAGES[:count]) for count in (1, 2, 3)}
    with (
        open_session(path, SessionOptions(backend="openvino", threads=1)) as session,
        ThreadPoolExecutor(4) as pool,
    ):
        counts = [1 + index % 3 for index in range(24)]
        found = list(pool.map(lambda count: session.run({"images": IMAGES[:count]})["logits"], counts))
    for count, logits in zip(counts, found, strict=True):
        np.testing.assert_array_equal(logits, expected[count])


def on_openvino_of(path: Path, images: np.ndarray) -> np.ndarray:
    with open_session(path, SessionOptions(backend="openvino", threads=1)) as session:
        return session.run({"images": images})["logits"]


def test_refusals(checkpoint_file: CheckpointFile, quantized: Quantized, tmp_path: Path) -> None:
    path, options = export_of(checkpoint_file("tiny")), {"backend": "openvino"}
    for source, more, sentence in (
        (path, {"device": "cuda"}, "runs on the CPU here"),
        (path, {"backend": "onnxruntime", "precision_hint": "bf16"}, "add --backend openvino"),
        (quantized("tiny", "fp8"), {}, "no products of 8-bit floats"),
        (export_of(checkpoint_file("tiny"), portable=True), {"library": True}, "holds no custom operator"),
    ):
        with (
            pytest.raises(UsageError, match=sentence),
            open_session(source, SessionOptions(**{**options, **more})),  # type: ignore[arg-type]
        ):
            pass


def test_an_extension_that_is_missing_or_no_library(
    checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export_of(checkpoint_file("tiny"))
    library = tmp_path / "extension.so"
    monkeypatch.setenv(native.EXTENSION_VARIABLE, str(library))
    with pytest.raises(MissingDependency, match=r"extension of OpenVINO was not found \(searched .*extension\.so\)"):
        on_openvino(path)
    library.write_bytes(b"no library")
    with pytest.raises(MissingDependency, match=r"cannot load .*extension\.so"):
        on_openvino(path)
    assert on_openvino(path, library=False).shape == (3, 7)
