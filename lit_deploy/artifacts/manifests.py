"""The manifest of an exported file of any kind."""

from __future__ import annotations

from pathlib import Path

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.artifacts.openvino_file import IR_SUFFIX, read_ir
from lit_deploy.artifacts.sidecar import ENGINE_SUFFIXES, read_sidecar


def manifest_of_file(path: str | Path) -> Manifest:
    """What an ``.onnx`` file, an IR or an engine says about itself; ArtifactError where it is damaged."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in ENGINE_SUFFIXES:
        return read_sidecar(path).manifest
    return read_ir(path)[0] if suffix == IR_SUFFIX else read_manifest(path)
