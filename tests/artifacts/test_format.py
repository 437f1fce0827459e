"""The layout of manifests and sidecars: one set of documents, two schemas, and Python's readers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.documents import Document, documents
from support.engines import ENGINE, SIDECAR
from support.golden import DATA

from lit_deploy.artifacts import contract
from lit_deploy.artifacts.manifest import FORMAT, OLDEST_FORMAT, Manifest
from lit_deploy.artifacts.onnx_file import metadata_of, read_onnx
from lit_deploy.artifacts.schema import manifest_schema, sidecar_schema
from lit_deploy.artifacts.sidecar import EngineBuild, Sidecar, read_sidecar, sidecar_path
from lit_deploy.core.errors import ArtifactError
from lit_deploy.core.specs import InputSpec, ModelSpec, Quantization

OLD = DATA / "v0.1.0"
PAGE = Path(contract.__file__).parents[2] / "docs" / "format.md"


def valid(document: dict[str, Any], schema: dict[str, Any]) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(document))


def test_the_schemas_are_schemas() -> None:
    for schema in (manifest_schema(), sidecar_schema()):
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("document", documents("manifest"))
def test_manifests(document: Document) -> None:
    changed = document.applied(json.loads(SIDECAR.manifest.to_json()))
    assert valid(changed, manifest_schema()) == (document.good or document.beyond_schema)
    if document.good:
        assert Manifest.from_json(json.dumps(changed)).task == changed.get("task", "classification")
    else:
        with pytest.raises(ArtifactError):
            Manifest.from_json(json.dumps(changed))


@pytest.mark.parametrize("document", documents("sidecar"))
def test_sidecars(document: Document, tmp_path: Path) -> None:
    changed = document.applied(json.loads(SIDECAR.to_json()))
    assert valid(changed, sidecar_schema()) == (document.good or document.beyond_schema)
    engine = tmp_path / "lit.engine"
    engine.write_bytes(ENGINE)
    sidecar_path(engine).write_text(json.dumps(changed))
    if document.good:
        assert read_sidecar(engine).manifest.task == "classification"
    else:
        with pytest.raises(ArtifactError):
            read_sidecar(engine)


def test_what_is_written_is_of_the_newest_format() -> None:
    assert json.loads(SIDECAR.to_json())["format"] == json.loads(SIDECAR.manifest.to_json())["format"] == FORMAT
    assert FORMAT > OLDEST_FORMAT == 1


def test_files_of_0_1_0_fit_the_schemas() -> None:
    for name in ("tiny.onnx", "tiny_int8.onnx"):
        manifest = json.loads(metadata_of(read_onnx(OLD / name))["lit_deploy.manifest"])
        assert (manifest["format"], "task" in manifest) == (1, False)
        assert valid(manifest, manifest_schema())
    assert valid(json.loads((OLD / "tiny.engine.json").read_text()), sidecar_schema())


@pytest.mark.parametrize("file", contract.files(), ids=lambda file: file[0].name)
def test_what_make_contract_writes_is_there(file: tuple[Path, str]) -> None:
    path, text = file
    assert path.read_text(encoding="utf-8") == text, "run: make contract"


@pytest.mark.parametrize("kind", [Manifest, ModelSpec, InputSpec, Quantization, Sidecar, EngineBuild])
def test_the_page_describes_every_field(kind: Any) -> None:
    text = PAGE.read_text(encoding="utf-8")
    missing = [field.name for field in dataclasses.fields(kind) if f"`{field.name}`" not in text]
    assert missing == []
