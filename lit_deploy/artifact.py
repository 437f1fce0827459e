"""What an exported file says about itself, and how files are written: whole or not at all.

An ``.onnx`` file carries its manifest as JSON in ``metadata_props`` under ``lit_deploy.manifest``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_deploy.errors import ArtifactError, UsageError
from lit_deploy.labels import default_labels
from lit_deploy.specs import OP_VERSION, InputSpec, ModelSpec, OutputKind, PrecisionName, default_input

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
        precision: type of weights and activations.
        batch: fixed batch size, or None when dynamic.
        portable: the operator is inlined; no model-local function, no custom operator.
        layers: names of the PyTorch modules whose outputs are values of the graph, in order.
        source: file name of the checkpoint; ``source_sha256``: its SHA-256.
        op_version: version of the operator.
        versions: versions of the packages that wrote the file.
        created: UTC time of writing, ISO 8601.
        parity: metrics of the check against PyTorch at export, or None when it was skipped.
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

    def to_json(self) -> str:
        """One line of JSON, with the layout's version under ``format``."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read ``to_json``'s output; raises ArtifactError when it is damaged or from a newer lit-deploy."""
        try:
            raw = json.loads(text)
            version = raw.pop("format")
            if version != FORMAT:
                raise ArtifactError(
                    f"manifest format {version} is not the format {FORMAT} this lit-deploy reads; "
                    "upgrade lit-deploy or export again"
                )
            raw["model"] = ModelSpec(**{k: _tuples(v) for k, v in raw["model"].items()})
            raw["input"] = InputSpec(**{k: _tuples(v) for k, v in raw["input"].items()})
            return cls(**{**raw, "labels": tuple(raw["labels"]), "layers": tuple(raw["layers"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArtifactError(f"the manifest inside the file is damaged ({error}); export it again") from None


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


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def read_onnx(path: Path) -> Any:
    """Parse an ``.onnx`` file into an ``onnx.ModelProto``; ArtifactError when it is missing or no ONNX file."""
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise ArtifactError(f"{path} is not a file; expected an .onnx file written by `lit-deploy export`")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError):
        model = None
    if model is None or not model.graph.node:
        raise ArtifactError(f"{path} is not a whole ONNX file (truncated or another format); export it again")
    return model


def manifest_of(model: Any, path: Path) -> Manifest:
    """Take the manifest out of a parsed ``onnx.ModelProto``; ``path`` is for messages only."""
    for entry in model.metadata_props:
        if entry.key == MANIFEST_KEY:
            return Manifest.from_json(entry.value)
    raise ArtifactError(f"{path} holds no lit-deploy manifest; expected a file written by `lit-deploy export`")


def read_manifest(path: Path) -> Manifest:
    """Read what the exported file at ``path`` says about itself, without creating a session."""
    return manifest_of(read_onnx(path), path)


def set_manifest(model: Any, manifest: Manifest) -> None:
    """Put the manifest into an ``onnx.ModelProto``, replacing one that is there."""
    kept = [entry for entry in model.metadata_props if entry.key != MANIFEST_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=MANIFEST_KEY, value=manifest.to_json())


@contextlib.contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``final``; renamed on success, deleted on any exception.

    The temporary name keeps the suffix. A process killed in between leaves only that hidden file, never one
    under the final name.
    """
    if final.is_dir():
        raise UsageError(f"cannot write {final}: it is a directory, expected a file name")
    if not final.parent.is_dir():
        raise UsageError(f"cannot write {final}: the directory {final.parent} does not exist; create it first")
    part = final.with_name(f".{final.stem}.{os.getpid()}.part{final.suffix}")
    try:
        yield part
        os.replace(part, final)
    except OSError as error:
        raise UsageError(f"cannot write {final}: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
