"""What an exported file says about itself, and how files are written: whole or not at all.

An ``.onnx`` file carries its manifest as JSON in ``metadata_props`` under ``lit_deploy.manifest``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lit_deploy.errors import ArtifactError, UsageError
from lit_deploy.labels import default_labels
from lit_deploy.specs import (
    OP_VERSION,
    InputSpec,
    ModelSpec,
    OutputKind,
    PrecisionName,
    Quantization,
    default_input,
)

if TYPE_CHECKING:
    from lit_deploy.checkpoints import Checkpoint

MANIFEST_KEY = "lit_deploy.manifest"
FORMAT = 1
"""Version of the manifest's layout; a reader refuses a higher one."""


@dataclass(frozen=True)
class Manifest:
    """Everything a user of an exported file needs to know about it.

    Attributes:
        model: dimensions of the network.
        input: size, layout, type and normalisation of the input, and the resize rule.
        output: ``logits``, ``probabilities`` or ``top5``.
        labels: class names, in order of the logits.
        precision: type of weights and activations; of an 8-bit file, that of the quantised matrix products.
        batch: fixed batch size, or None when dynamic.
        portable: the operator is inlined; no model-local function, no custom operator.
        layers: names of the PyTorch modules whose outputs are values of the graph, in order.
        source: file name of the checkpoint; ``source_sha256``: its SHA-256.
        op_version: version of the operator.
        versions: versions of the packages that wrote the file.
        created: UTC time of writing, ISO 8601.
        parity: metrics of the check against PyTorch at export, or None when it was skipped.
        quantization: how an 8-bit file was made, None for the others.
    """

    model: ModelSpec
    input: InputSpec
    output: OutputKind
    labels: tuple[str, ...]
    precision: PrecisionName
    batch: int | None
    portable: bool
    layers: tuple[str, ...]
    source: str
    source_sha256: str
    op_version: int
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""
    parity: dict[str, Any] | None = None
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}, expected at least 1")

    def to_json(self) -> str:
        """One line of JSON, with the layout's version under ``format``."""
        return msgspec.json.encode({"format": FORMAT, **dataclasses.asdict(self)}).decode()

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read ``to_json``'s output; raises ArtifactError when it is damaged or from a newer lit-deploy."""
        try:
            version = msgspec.json.decode(text, type=Format).format
            if version != FORMAT:
                raise ArtifactError(
                    f"manifest format {version} is not the format {FORMAT} this lit-deploy reads; "
                    "upgrade lit-deploy or export again"
                )
            manifest = msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise ArtifactError(f"the manifest inside the file is damaged ({error}); export it again") from None
        check_manifest(manifest)
        return manifest


@dataclass(frozen=True)
class Format:
    """The part of a manifest that every version has."""

    format: int


def check_manifest(manifest: Manifest) -> None:
    """Raise ArtifactError when the file uses another version of the operator than this lit-deploy implements."""
    if manifest.op_version != OP_VERSION:
        raise ArtifactError(
            f"the file uses version {manifest.op_version} of the operator, this lit-deploy implements version "
            f"{OP_VERSION}; use the release that wrote the file, or export again"
        )


def manifest_from_checkpoint(checkpoint: Checkpoint, **fields: Any) -> Manifest:
    """Describe the network of a checkpoint; ``fields`` replace the defaults (float input, fp32, logits)."""
    spec = checkpoint.spec
    defaults: dict[str, Any] = {
        "model": spec,
        "input": default_input(spec),
        "output": "logits",
        "labels": checkpoint.classes or default_labels(spec.num_classes),
        "precision": "fp32",
        "batch": None,
        "portable": False,
        "layers": (),
        "source": checkpoint.path.name,
        "source_sha256": checkpoint.sha256,
        "op_version": OP_VERSION,
    }
    return Manifest(**{**defaults, **fields})


def check_file(path: Path) -> None:
    """Raise ArtifactError when there is no file at ``path``."""
    if not path.is_file():
        raise ArtifactError(f"{path} is not a file; expected an .onnx file written by `lit-deploy export`")


def read_onnx(path: Path) -> Any:
    """Parse an ``.onnx`` file into an ``onnx.ModelProto``; ArtifactError when it is missing or no ONNX file."""
    import onnx
    from google.protobuf.message import DecodeError

    check_file(path)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError):
        model = None
    if model is None or not model.graph.node:
        raise ArtifactError(f"{path} is not a whole ONNX file (truncated or another format); export it again")
    return model


def metadata_of(model: Any) -> dict[str, str]:
    """The metadata of an ``onnx.ModelProto``, as ONNX Runtime gives that of a session."""
    return {entry.key: entry.value for entry in model.metadata_props}


def manifest_of(metadata: Mapping[str, str], path: Path) -> Manifest:
    """Read the manifest in a model's metadata; ``path`` is for messages only."""
    if MANIFEST_KEY not in metadata:
        raise ArtifactError(f"{path} holds no lit-deploy manifest; expected a file written by `lit-deploy export`")
    return Manifest.from_json(metadata[MANIFEST_KEY])


def read_manifest(path: str | Path) -> Manifest:
    """Read what the exported file at ``path`` says about itself, without creating a session."""
    return manifest_of(metadata_of(read_onnx(Path(path))), Path(path))


def set_manifest(model: Any, manifest: Manifest) -> None:
    """Put the manifest into an ``onnx.ModelProto``, replacing one that is there."""
    kept = [entry for entry in model.metadata_props if entry.key != MANIFEST_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=MANIFEST_KEY, value=manifest.to_json())


def with_layer_outputs(model: Any, path: Path) -> None:
    """Make the layer values that an ``onnx.ModelProto``'s manifest names outputs; see ``with_outputs``."""
    with_outputs(model, manifest_of(metadata_of(model), path).layers, path)


def with_outputs(model: Any, names: Sequence[str], path: Path) -> None:
    """Make values inside an ``onnx.ModelProto`` outputs of its graph, as float32.

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
        known = {info.name: info for info in described(model).graph.value_info}
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


def described(model: Any) -> Any:
    """A copy of an ``onnx.ModelProto`` that tells type and shape of every value (``value_info``).

    Exported files leave out those of inlined operators and of Q/DQ nodes.
    """
    import onnx

    return onnx.shape_inference.infer_shapes(model)


_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def check_target(final: Path) -> None:
    """Raise UsageError, before minutes of work, when a file cannot be written there; leaves nothing behind."""
    if final.is_dir():
        raise UsageError(f"cannot write {final}: it is a directory, expected a file name")
    if not final.parent.is_dir():
        raise UsageError(f"cannot write {final}: the directory {final.parent} does not exist; create it first")
    part = _part_of(final)
    try:
        part.touch()
        part.unlink()
    except OSError as error:
        raise UsageError(f"cannot write {final}: {error.strerror or error}") from None


def _part_of(final: Path) -> Path:
    return final.with_name(f".{final.stem}.{os.getpid()}.part{final.suffix}")


@contextlib.contextmanager
def atomic_path(final: Path, part: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``final``; renamed on success, deleted on any exception.

    The temporary name keeps the suffix, unless ``part`` names another. A process killed in between leaves only that
    hidden file, never one under the final name.
    """
    check_target(final)
    part = part or _part_of(final)
    try:
        part.touch()
        yield part
        os.replace(part, final)
    except OSError as error:
        if error.errno in _DISK_ERRORS or error.filename in (str(part), part):
            raise UsageError(f"cannot write {final}: {error.strerror or error}") from None
        raise
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
