"""The C runtime reads the documents that Python's readers and the schemas are held to, and files of older releases."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from support.documents import Document, documents
from support.engines import SIDECAR
from support.golden import DATA
from support.runtime_engines import Play, needs_fakes, write_engine
from support.runtime_library import Failure, needs_runtime
from support.runtime_models import micro, needs_onnxruntime, opened
from support.runtime_refusals import opens

from lit_deploy.artifacts.manifest import MANIFEST_KEY
from lit_deploy.artifacts.sidecar import sidecar_path

pytestmark = [needs_runtime, needs_onnxruntime, pytest.mark.usefixtures("backend")]

REFUSALS = {"LIT_BAD_MODEL", "LIT_WRONG_VERSION", "LIT_NOT_SUPPORTED"}
ANOTHER_GRAPH = "other inputs or outputs than its manifest promises"
"""What is said of a manifest only after all of it was read: the small file beneath it is of another size."""


@pytest.mark.parametrize("document", documents("manifest"))
def test_manifests(document: Document, tmp_path: Path) -> None:
    changed = json.dumps(document.applied(json.loads(SIDECAR.manifest.to_json())))

    def put(model: onnx.ModelProto) -> None:
        next(entry for entry in model.metadata_props if entry.key == MANIFEST_KEY).value = changed

    with pytest.raises(Failure) as caught:
        opens(micro(tmp_path / "micro.onnx", change=put))()
    assert caught.value.status in REFUSALS, caught.value
    assert (ANOTHER_GRAPH in str(caught.value)) == document.good, caught.value


@needs_fakes
@pytest.mark.parametrize("document", documents("sidecar"))
def test_sidecars(document: Document, tmp_path: Path, play: Play) -> None:
    path = sidecar_path(write_engine(tmp_path))
    path.write_text(json.dumps(document.applied(json.loads(path.read_text()))))
    status = play(path.with_suffix("").with_suffix(".engine")).status
    assert status in ({"LIT_OK"} if document.good else REFUSALS)


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny_int8.onnx"])
def test_files_of_0_1_0(name: str) -> None:
    with opened(DATA / "v0.1.0" / name) as model:
        assert (model.info.task, model.info.num_classes) == (b"classification", 7)
