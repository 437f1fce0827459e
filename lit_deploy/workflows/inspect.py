"""Tell what a file is: a LIT checkpoint, or an exported file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_deploy.artifacts.onnx_file import OnnxArtifact, changed_by_others
from lit_deploy.artifacts.openvino_file import IR_SUFFIX, read_ir, weights_path
from lit_deploy.artifacts.sidecar import ENGINE_SUFFIXES, read_sidecar
from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.core.files import sha256_of
from lit_deploy.models.layout import mac_count, parameter_count
from lit_deploy.tasks.promises import check_graph


def inspect_file(source: str | Path) -> dict[str, Any]:
    """Describe a checkpoint, an exported ``.onnx`` file, an IR or an engine (by its sidecar).

    Returns plain values: strings, numbers, lists and dicts.

    Raises:
        CheckpointError, ArtifactError: a file that is none of them, said in words.
    """
    suffix = Path(source).suffix.lower()
    if suffix == ".onnx":
        return _onnx(Path(source))
    if suffix in ENGINE_SUFFIXES:
        return _engine(Path(source))
    if suffix == IR_SUFFIX:
        return _ir(Path(source))
    return _checkpoint(source)


def _engine(path: Path) -> dict[str, Any]:
    sidecar = read_sidecar(path)
    engine, network = asdict(sidecar), asdict(sidecar.manifest)
    del engine["manifest"]
    parity = {"engine_parity": engine.pop("parity"), "onnx_parity": network.pop("parity")}
    description = {**engine, **network, **parity}
    return {
        "kind": "lit-deploy engine",
        "file": str(path),
        **description,
        "labels": _shortened(sidecar.manifest.labels),
    }


def _ir(path: Path) -> dict[str, Any]:
    manifest, extension = read_ir(path)
    description = asdict(manifest)
    labels = description.pop("labels")
    return {
        "kind": "lit-deploy OpenVINO IR",
        "file": str(path),
        "size": path.stat().st_size + weights_path(path).stat().st_size,
        "extension": None if extension is None else asdict(extension),
        "labels": _shortened(labels),
        **description,
    }


def _shortened(labels: Sequence[str]) -> list[str]:
    return [*labels[:3], f"... {len(labels)} in all"] if len(labels) > 4 else list(labels)


def _checkpoint(source: str | Path) -> dict[str, Any]:
    checkpoint = load_checkpoint(source)
    return {
        "kind": "LIT checkpoint",
        "file": str(checkpoint.path),
        "sha256": checkpoint.sha256,
        "container": checkpoint.container,
        "other_networks": list(checkpoint.others),
        "model": asdict(checkpoint.spec),
        "parameters": parameter_count(checkpoint.spec),
        "macs": mac_count(checkpoint.spec),
        "tensors": len(checkpoint.state),
        "metadata": dict(checkpoint.metadata),
    }


def _onnx(path: Path) -> dict[str, Any]:
    artifact = OnnxArtifact.read(path)
    check_graph(artifact, path)
    model, description = artifact.graph, asdict(artifact.manifest)
    labels = description.pop("labels")
    return {
        "kind": "lit-deploy ONNX file",
        "file": str(path),
        "note": changed_by_others(artifact),
        "sha256": sha256_of(path),
        "size": path.stat().st_size,
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "functions": [function.name for function in model.functions],
        "nodes": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "labels": _shortened(labels),
        **description,
    }
