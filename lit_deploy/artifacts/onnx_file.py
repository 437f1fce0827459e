"""An exported ``.onnx`` file: a graph, and its manifest as the last entry of the file.

Protobuf lets a message be written in parts, one after the other. So the graph is written once, and what is proven about
it afterwards is added by writing the end of the file anew: the bytes that were proven stay.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lit_deploy.artifacts.manifest import MANIFEST_KEY, Manifest
from lit_deploy.core.errors import ArtifactError
from lit_deploy.core.files import why_unreadable
from lit_deploy.core.specs import TensorSpec
from lit_deploy.ops.domain import DOMAIN

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class OnnxArtifact:
    """A graph and its manifest together, on their way into a file or out of one.

    Attributes:
        graph: the model without its manifest.
        manifest: what the file says, or will say, about itself.
    """

    graph: onnx.ModelProto
    manifest: Manifest

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read an exported file; ArtifactError when it is missing, damaged, or not from lit-deploy."""
        model = read_onnx(path)
        manifest = manifest_of(metadata_of(model), path)
        _drop_manifest(model)
        return cls(model, manifest)

    def described(self, **changes: Any) -> Self:
        """The same graph with other fields of its manifest."""
        return replace(self, manifest=replace(self.manifest, **changes))

    def to_bytes(self) -> bytes:
        """What ``write`` writes."""
        graph: bytes = self.graph.SerializeToString()
        return graph + _tail(self.manifest)

    def write(self, path: Path) -> None:
        """Write graph and manifest (not atomically: hand in a temporary path)."""
        path.write_bytes(self.to_bytes())

    def seal(self, path: Path) -> None:
        """Let a file that ``write`` wrote of this graph say what the manifest says now."""
        with path.open("r+b") as file:
            file.truncate(self.graph.ByteSize())
            file.seek(0, os.SEEK_END)
            file.write(_tail(self.manifest))


def check_file(path: Path) -> None:
    """Raise ArtifactError when there is no file at ``path``, or none that may be read."""
    if not path.is_file():
        raise ArtifactError(f"{path} is not a file; expected an .onnx file written by `lit-deploy export`")
    if reason := why_unreadable(path):
        raise ArtifactError(f"{path} cannot be read ({reason}); give read permission, or another file")


def read_onnx(path: Path) -> onnx.ModelProto:
    """Parse an ``.onnx`` file; ArtifactError when it is missing or no ONNX file."""
    import onnx
    from google.protobuf.message import DecodeError

    check_file(path)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError):
        model = None
    if model is None or not model.graph.node:
        raise ArtifactError(f"{path} is not a whole ONNX file (truncated or another format); export it again")
    return model


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """The metadata of a model, as ONNX Runtime gives that of a session."""
    return {entry.key: entry.value for entry in model.metadata_props}


def manifest_of(metadata: Mapping[str, str], path: Path) -> Manifest:
    """Read the manifest in a model's metadata; ``path`` is for messages only."""
    if MANIFEST_KEY not in metadata:
        raise ArtifactError(f"{path} holds no lit-deploy manifest; expected a file written by `lit-deploy export`")
    return Manifest.from_json(metadata[MANIFEST_KEY])


def read_manifest(path: str | Path) -> Manifest:
    """Read what the exported file at ``path`` says about itself, without creating a session."""
    return manifest_of(metadata_of(read_onnx(Path(path))), Path(path))


def graph_tensors(model: onnx.ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as a graph has them; a dimension without a size has its name, perhaps none."""
    import onnx

    def specs(values: Sequence[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
        found = []
        for value in values:
            kind = value.type.tensor_type
            dims = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim)
            try:
                dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
            except KeyError:
                dtype = f"type {kind.elem_type}"
            found.append(TensorSpec(value.name, dtype, dims))
        return tuple(found)

    return specs(model.graph.input), specs(model.graph.output)


def lost_functions(model: onnx.ModelProto) -> tuple[str, ...]:
    """Operators of ours that a model calls, and whose functions it does not carry any more."""
    called = dict.fromkeys(node.op_type for node in model.graph.node if node.domain == DOMAIN)
    carried = {function.name for function in model.functions if function.domain == DOMAIN}
    return tuple(name for name in called if name not in carried)


def changed_by_others(artifact: OnnxArtifact) -> str:
    """What another tool has taken from an exported file, as a sentence; empty where nothing is missing."""
    if lost := lost_functions(artifact.graph):
        return lost_sentence(lost)
    calls = any(node.domain == DOMAIN for node in artifact.graph.graph.node)
    if calls or artifact.manifest.portable:
        return ""
    return (
        "another tool has put the functions in the place of our operators, so the kernels of the lit-deploy library do "
        "not run; export the checkpoint again to have them"
    )


def lost_sentence(lost: Sequence[str]) -> str:
    """What it means that functions are lost."""
    return (
        f"the file has lost its fallback: another tool dropped the functions of {' and '.join(lost)}, so it runs only "
        "with the lit-deploy library; export the checkpoint again to have both"
    )


def set_manifest(model: onnx.ModelProto, manifest: Manifest) -> None:
    """Put the manifest into a model, replacing one that is there."""
    _drop_manifest(model)
    model.metadata_props.add(key=MANIFEST_KEY, value=manifest.to_json())


def with_outputs(model: onnx.ModelProto, names: Sequence[str], path: Path) -> None:
    """Make values inside a model outputs of its graph, as float32.

    Args:
        model: changed in place.
        names: of values of a float type.
        path: for messages only.

    Raises:
        ArtifactError: the graph lacks one of them.
    """
    import onnx

    known = {info.name: info for info in model.graph.value_info}
    if any(name not in known for name in names):
        known = {info.name: info for info in with_value_info(model).graph.value_info}
    missing = [name for name in names if name not in known]
    if missing:
        raise ArtifactError(f"the graph of {path} lacks the value '{missing[0]}'; export it again")
    half = {name for name in names if known[name].type.tensor_type.elem_type != onnx.TensorProto.FLOAT}
    for node in model.graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                if value in half:
                    values[index] = f"{value}/half"
    for name in names:
        if name in half:
            model.graph.node.append(
                onnx.helper.make_node("Cast", [f"{name}/half"], [name], f"{name}/half/Cast", to=onnx.TensorProto.FLOAT)
            )
            known[name].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        model.graph.output.append(known[name])


def with_value_info(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model that tells type and shape of every value (``value_info``).

    Exported files leave out those of inlined operators and of Q/DQ nodes.
    """
    import onnx

    return onnx.shape_inference.infer_shapes(model)


def _drop_manifest(model: onnx.ModelProto) -> None:
    kept = [entry for entry in model.metadata_props if entry.key != MANIFEST_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


def _tail(manifest: Manifest) -> bytes:
    """The part of a serialised model that holds nothing but the manifest."""
    import onnx

    part = onnx.ModelProto()
    set_manifest(part, manifest)
    tail: bytes = part.SerializeToString()
    return tail
