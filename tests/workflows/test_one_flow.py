"""What is made is written once: what was proven gets the name, and only the manifest behind it is sealed anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.engines import PORTABLE, needs_rtx
from support.exported import export_of
from support.quantization import INT8, converted, faster, photos

from lit_deploy.artifacts.manifest import MANIFEST_KEY, Manifest
from lit_deploy.artifacts.onnx_file import OnnxArtifact, metadata_of, read_manifest
from lit_deploy.artifacts.sidecar import read_sidecar
from lit_deploy.backends import torch as torch_backend
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.checkpoints.load import Checkpoint, load_checkpoint
from lit_deploy.exporters.onnx import OnnxOptions
from lit_deploy.quantize.run import QuantizeOptions, quantize_file
from lit_deploy.workflows import export as export_module
from lit_deploy.workflows.export import export_checkpoint, export_engine
from lit_deploy.workflows.verify import verify_artifact

__all__ = ["converted", "faster", "photos"]  # fixtures

CheckpointFile = Callable[[str], Path]
KEEP = ("layers.1", "layers.2", "layers.3")


def some_of_it(calib: Path) -> QuantizeOptions:
    """What random weights, which tell images apart by little, come through all gates with."""
    return QuantizeOptions(calib, keep=KEEP, accuracy_budget=0.5)


@dataclass
class Seen:
    """What an export did, in order: every write and seal, and the bytes that gates and verification were given."""

    written: list[tuple[Path, OnnxArtifact]] = field(default_factory=list)
    sealed: list[tuple[Path, OnnxArtifact]] = field(default_factory=list)
    measured: list[bytes] = field(default_factory=list)
    verified: list[bytes] = field(default_factory=list)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Everything stays real, and is noted."""
    noted = Seen()

    def noting(name: str, calls: list[tuple[Path, OnnxArtifact]]) -> None:
        real = getattr(OnnxArtifact, name)

        def call(artifact: OnnxArtifact, path: Path) -> None:
            calls.append((path, artifact))
            real(artifact, path)

        monkeypatch.setattr(OnnxArtifact, name, call)

    def reading(name: str, contents: list[bytes]) -> None:
        real = getattr(export_module, name)

        def call(part: Path, *rest: Any, **more: Any) -> Any:
            contents.append(part.read_bytes())
            return real(part, *rest, **more)

        monkeypatch.setattr(export_module, name, call)

    noting("write", noted.written)
    noting("seal", noted.sealed)
    reading("gated", noted.measured)
    reading("verify_artifact", noted.verified)
    return noted


def tail_of(content: bytes, graph: bytes) -> Manifest:
    """What follows a graph in a file: nothing but one manifest, and it is told."""
    assert content.startswith(graph)
    tail = onnx.ModelProto.FromString(content[len(graph) :])
    ((key, value),) = metadata_of(tail).items()
    assert key == MANIFEST_KEY
    assert len(tail.metadata_props) == 1
    del tail.metadata_props[:]
    assert tail.SerializeToString() == b"", "nothing else stands there"
    return Manifest.from_json(value)


@pytest.mark.usefixtures("converted")
def test_an_8_bit_export_writes_its_model_once(
    checkpoint_file: CheckpointFile, photos: Path, tmp_path: Path, seen: Seen
) -> None:
    """Gates and verification read the very bytes that stay; what they found follows, in the manifest alone."""
    checkpoint, out = checkpoint_file("tiny"), tmp_path / "a.onnx"
    export_of(checkpoint)
    seen.written.clear()  # noted are those of the export alone
    seen.sealed.clear()
    result = export_checkpoint(checkpoint, out, INT8, quantize=some_of_it(photos))
    ((part, artifact),) = [(path, made) for path, made in seen.written if path.parent == tmp_path]
    assert [path for path, _ in seen.sealed] == [part], "sealed once, where it was written"
    graph = artifact.graph.SerializeToString()
    ((measured,), (verified,)), final = (seen.measured, seen.verified), out.read_bytes()
    for content in (measured, verified):
        assert tail_of(content, graph) == artifact.manifest, "as it was written"
    manifest = tail_of(final, graph)
    assert manifest == result.manifest == read_manifest(out)
    assert (artifact.manifest.parity, artifact.manifest.quantization.agreement) == (None, None)
    assert result.report is not None
    assert result.gates is not None
    assert manifest.parity == result.report.summary()
    assert manifest.quantization is not None
    assert manifest.quantization.agreement == result.gates.agreement
    assert result.size == len(final)
    assert os.listdir(tmp_path) == ["a.onnx"]


def test_a_file_that_is_quantised_is_written_once(
    checkpoint_file: CheckpointFile, photos: Path, tmp_path: Path, seen: Seen
) -> None:
    source = export_of(checkpoint_file("tiny"))
    seen.written.clear()
    seen.sealed.clear()
    result = quantize_file(source, tmp_path / "a.onnx", some_of_it(photos))
    ((part, artifact),) = seen.written
    assert [path for path, _ in seen.sealed] == [part]
    assert tail_of(result.path.read_bytes(), artifact.graph.SerializeToString()) == result.manifest


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.usefixtures("converted")
def test_the_checkpoint_is_read_once(
    precision: str, checkpoint_file: CheckpointFile, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was converted is what the file is verified against, even if the checkpoint on the disk changes meanwhile."""
    checkpoint, reads = checkpoint_file("tiny"), []
    export_of(checkpoint)

    def load(source: Any) -> Any:
        reads.append(source)
        return load_checkpoint(source)

    for module in (export_module, torch_backend):
        monkeypatch.setattr(module, "load_checkpoint", load)
    options, quantize = OnnxOptions(), None
    if precision == "int8":
        options, quantize = INT8, some_of_it(photos)
    result = export_checkpoint(checkpoint, tmp_path / "a.onnx", options, quantize=quantize)
    assert reads == [checkpoint]
    assert result.report is not None
    assert result.report.verdict == "pass"
    with open_session(checkpoint):
        assert len(reads) == 2, "a session on a file reads it, and that is seen here"


@needs_rtx
def test_an_engine_is_compared_with_the_checkpoint_that_was_read(
    checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a GPU were here: engine and ONNX file are held against the same weights, which are read once."""
    compared: list[tuple[str, Any]] = []

    def verify(artifact: Path, checkpoint: Any, **options: Any) -> Any:
        compared.append((artifact.suffix, checkpoint))
        return report

    checkpoint = checkpoint_file("tiny")
    report = verify_artifact(export_of(checkpoint), checkpoint)
    monkeypatch.setattr(export_module, "verify_artifact", verify)
    monkeypatch.setattr(export_module, "_cannot_run", lambda *_: "")
    result = export_engine(checkpoint, tmp_path / "a.engine", engine=PORTABLE)
    (_, first), (_, second) = compared
    assert [suffix for suffix, _ in compared] == [".onnx", ".engine"]
    assert isinstance(first, Checkpoint)
    assert first is second
    assert result.sidecar is not None
    assert result.sidecar.parity == report.summary()
    assert read_sidecar(result.path) == result.sidecar


# ------------------------------------------------------------------------------------------------------ the artifact


def test_written_described_and_sealed(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """A longer manifest and a shorter one: the graph's bytes stay, and exactly one manifest stands behind them."""
    artifact, path = OnnxArtifact.read(export_of(checkpoint_file("tiny"))), tmp_path / "a.onnx"
    graph = artifact.graph.SerializeToString()
    assert MANIFEST_KEY not in metadata_of(artifact.graph)
    artifact.write(path)
    assert path.read_bytes() == artifact.to_bytes() == export_of(checkpoint_file("tiny")).read_bytes()
    longer = artifact.described(labels=tuple("class " + letter * 99 for letter in "abcdefg"), parity={"cosine": 1.0})
    shorter = artifact.described(labels=tuple("abcdefg"), versions={})
    for changed in (longer, shorter, artifact):
        changed.seal(path)
        assert path.read_bytes() == changed.to_bytes(), "as if it were written like that"
        assert tail_of(path.read_bytes(), graph) == changed.manifest
        found = OnnxArtifact.read(path)
        assert (found.manifest, found.graph) == (changed.manifest, artifact.graph)
        model = onnx.load(str(path))
        onnx.checker.check_model(str(path), full_check=True)
        assert [entry.key for entry in model.metadata_props].count(MANIFEST_KEY) == 1
    assert artifact.graph.SerializeToString() == graph, "nothing of it changes in memory"
    assert len(longer.to_bytes()) > len(artifact.to_bytes()) > len(shorter.to_bytes())


def test_other_metadata_stays(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """Somebody else's entry, in front of the manifest or behind it, is neither lost nor doubled."""
    model = onnx.load(str(export_of(checkpoint_file("tiny"))))
    manifest = model.metadata_props.pop()
    assert manifest.key == MANIFEST_KEY
    model.metadata_props.add(key="before", value="1")
    model.metadata_props.append(manifest)
    model.metadata_props.add(key="after", value="2")
    onnx.save(model, str(tmp_path / "other.onnx"))
    artifact = OnnxArtifact.read(tmp_path / "other.onnx").described(created="now")
    artifact.write(tmp_path / "a.onnx")
    artifact.described(created="later").seal(tmp_path / "a.onnx")
    metadata = onnx.load(str(tmp_path / "a.onnx")).metadata_props
    assert [entry.key for entry in metadata] == ["before", "after", MANIFEST_KEY]
    assert read_manifest(tmp_path / "a.onnx").created == "later"


def test_a_sealed_file_runs(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """ONNX Runtime gives the manifest at the end, too."""
    artifact = OnnxArtifact.read(export_of(checkpoint_file("tiny")))
    artifact.write(tmp_path / "a.onnx")
    artifact.described(created="sealed").seal(tmp_path / "a.onnx")
    with open_session(tmp_path / "a.onnx", SessionOptions(threads=1, library=False)) as session:
        assert session.manifest == artifact.described(created="sealed").manifest
