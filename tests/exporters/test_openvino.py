"""OpenVINO IR: both files or none, a manifest inside, proven on OpenVINO before it gets its name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.command import Run
from support.exported import export_of, needs_extension

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.artifacts.openvino_file import read_ir, weights_path
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import ArtifactError, MissingDependency, UsageError
from lit_deploy.core.files import sha256_of
from lit_deploy.exporters.options import OnnxOptions
from lit_deploy.machine import native
from lit_deploy.workflows import export_ir as workflow
from lit_deploy.workflows.export import ParityFailed
from lit_deploy.workflows.export_ir import export_ir
from lit_deploy.workflows.verify import verify_artifact

pytest.importorskip("openvino", reason="the openvino extra is not installed")

CheckpointFile = Callable[[str], Path]
IMAGES = np.random.default_rng(11).standard_normal((2, 3, 64, 64)).astype(np.float32)
FORMS = (pytest.param(False, marks=needs_extension, id="kernels"), pytest.param(True, id="portable"))


@pytest.fixture(scope="module")
def ir(checkpoint_file: CheckpointFile, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    folder = tmp_path_factory.mktemp("ir")

    def write(name: str, portable: bool) -> Path:
        path = folder / f"{name}_{portable}.xml"
        if not path.exists():
            export_ir(checkpoint_file(name), path, OnnxOptions(portable=portable), threads=1)
        return path

    return write


@pytest.mark.parametrize("portable", FORMS)
@pytest.mark.parametrize("name", ["tiny", "tiny_ti"])
def test_equals_pytorch(
    name: str, portable: bool, ir: Callable[[str, bool], Path], checkpoint_file: CheckpointFile
) -> None:
    path = ir(name, portable)
    manifest, extension = read_ir(path)
    assert manifest.parity is not None
    assert manifest.parity["verdict"] == "pass"
    assert manifest.portable is portable
    if portable:
        assert extension is None
    else:
        library = native.find_extension()
        assert library is not None
        assert extension is not None
        assert (extension.library, extension.sha256) == (library.name, sha256_of(library))
    assert manifest.layers == read_manifest(export_of(checkpoint_file(name))).layers
    report = verify_artifact(path, checkpoint_file(name), layers=True, options=SessionOptions(threads=1))
    assert report.verdict == "pass", report.reasons


@pytest.mark.parametrize("portable", FORMS)
def test_of_a_file_that_is_exported_already(portable: bool, checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    source = export_of(checkpoint_file("tiny"), portable=portable)
    result = export_ir(source, tmp_path / "tiny.xml")
    assert result.report is None
    assert result.unchecked == f"{source.name} was taken as it is"
    with open_session(source, SessionOptions(backend="openvino")) as session:
        expected = session.run({"images": IMAGES})["logits"]
    with open_session(tmp_path / "tiny.xml") as session:
        assert session.manifest.source_sha256 == read_manifest(source).source_sha256
        np.testing.assert_array_equal(session.run({"images": IMAGES})["logits"], expected)
    with pytest.raises(UsageError, match="is exported already"):
        export_ir(source, tmp_path / "again.xml", OnnxOptions())


def test_nothing_is_written_that_is_not_proven(
    checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ParityFailed("departs", None)  # type: ignore[arg-type]

    monkeypatch.setattr(workflow, "checked", refuse)
    with pytest.raises(ParityFailed):
        export_ir(checkpoint_file("tiny"), tmp_path / "tiny.xml")
    assert list(tmp_path.iterdir()) == []


def test_without_the_extension(
    ir: Callable[[str, bool], Path],
    checkpoint_file: CheckpointFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network that calls our operators says what it lacks; a new one does without them."""
    ours = ir("tiny", False) if native.find_extension() is not None else None
    monkeypatch.setattr(native, "find_extension", lambda: None)
    if ours is not None:
        with pytest.raises(MissingDependency, match="extension of OpenVINO was not found"), open_session(ours):
            pass
    result = export_ir(checkpoint_file("tiny"), tmp_path / "tiny.xml", threads=1)
    assert result.manifest.portable
    assert result.extension is None
    assert read_ir(tmp_path / "tiny.xml")[0].portable


def test_damaged_and_foreign(ir: Callable[[str, bool], Path], tmp_path: Path) -> None:
    good = ir("tiny", True)
    path = tmp_path / "x.xml"
    with pytest.raises(ArtifactError, match=r"x\.xml is not a file"):
        read_ir(path)
    text = good.read_text()
    path.write_text(text)
    with pytest.raises(ArtifactError, match=r"x\.bin is not a file"):
        read_ir(path)
    shutil.copyfile(weights_path(good), weights_path(path))
    assert read_ir(path)[0].model == read_ir(good)[0].model
    for content, sentence in (
        (text[: len(text) // 2], "not a whole OpenVINO IR"),
        (text.replace("<lit_deploy>", "<other>").replace("</lit_deploy>", "</other>"), "holds no lit-deploy manifest"),
        (text.replace("&quot;labels&quot;", "&quot;lobels&quot;"), "damaged"),
    ):
        path.write_text(content)
        with pytest.raises(ArtifactError, match=sentence):
            read_ir(path)
    path.write_text(text)
    weights_path(path).write_bytes(weights_path(good).read_bytes()[:100])
    with pytest.raises(ArtifactError, match="OpenVINO refuses"), open_session(path):
        pass


def test_command_line(run: Run, checkpoint_file: CheckpointFile, photo: Path) -> None:
    checkpoint = checkpoint_file("tiny")
    done = run("export", "--ckpt", checkpoint, "--format", "openvino", "--threads", 1)
    assert done.code == 0, done.err
    assert "tiny.xml" in done.out
    assert Path("tiny.bin").exists()
    assert run("predict", "tiny.xml", photo, "--threads", 1).code == 0
    assert run("verify", "tiny.xml", "--ckpt", checkpoint, "--backend", "onnxruntime").code == 0
    told = run("inspect", "tiny.xml")
    assert "lit-deploy OpenVINO IR" in told.out
    for arguments, sentence in (
        (("--format", "openvino", "-o", "tiny.onnx"), "expected a name that ends in .xml"),
        (("--format", "openvino", "--builder", "tensorrt"), "is for engines"),
        (("--format", "openvino", "--backend", "openvino"), "--backend is for .onnx files"),
    ):
        refused = run("export", "--ckpt", checkpoint, *arguments)
        assert refused.code == 2
        assert sentence in refused.err
