"""The manifest: what an exported file says about itself. ``docs/format.md`` describes every field."""

from __future__ import annotations

import dataclasses
from collections.abc import Sized
from dataclasses import dataclass, field
from typing import Any, get_args

import msgspec

from lit_deploy.core.errors import ArtifactError
from lit_deploy.core.specs import (
    MAX_BATCH,
    MAX_JSON_BYTES,
    MAX_NESTING,
    OP_VERSION,
    DenseSpec,
    InputSpec,
    ModelSpec,
    OutputKind,
    PrecisionName,
    Quantization,
    TaskName,
)
from lit_deploy.images.labels import label_fault

MANIFEST_KEY = "lit_deploy.manifest"
"""Key of an ONNX file's ``metadata_props`` under which its manifest stands, as JSON."""

OLDEST_FORMAT, FORMAT = 1, 2
"""Versions of the layout of manifests and sidecars that are read; the later one is written. 2 added ``task``."""


@dataclass(frozen=True)
class Manifest:
    """Everything a user of an exported file needs to know about it.

    Attributes:
        model: dimensions of the network.
        input: size, layout, type and normalisation of the input, and the resize rule.
        output: which of its task's outputs the file gives.
        labels: class names, in order of the logits.
        precision: type of weights and activations; of an 8-bit file, that of the quantised matrix products.
        batch: fixed batch size, or None when dynamic.
        portable: the operator is inlined; no model-local function, no custom operator.
        layers: names of the PyTorch modules whose outputs are values of the graph, in order.
        source: file name of the checkpoint, with ``#KEY`` of a network in it that is not the usual one;
            ``source_sha256``: its SHA-256.
        op_version: version of the operator.
        versions: versions of the packages that wrote the file.
        created: UTC time of writing, ISO 8601.
        parity: metrics of the check against PyTorch at export, or None when it was skipped.
        quantization: how an 8-bit file was made, None for the others.
        task: what the network does with an image.
        dense: how a detector or segmentation network arrives at its results, None for a classifier.
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
    task: TaskName = "classification"
    dense: DenseSpec | None = None

    def __post_init__(self) -> None:
        if self.batch is not None and not 1 <= self.batch <= MAX_BATCH:
            raise ValueError(f"batch is {self.batch}, expected 1 to {MAX_BATCH}")
        if self.task == "classification" and self.output == "results":
            raise ValueError("the output is results, expected logits, probabilities, top5 or features of a classifier")
        if self.task != "classification" and self.output == "features":
            raise ValueError(f"the output is features, which classifiers have, but the task is {self.task}")
        if self.output == "features" and self.model.features < 1:
            raise ValueError(f"the features have {self.model.features} numbers, expected at least 1")
        if (self.dense is None) != (self.task == "classification"):
            raise ValueError(
                f"the task is {self.task}, expected 'dense' for all but classification, and for these only"
            )

    @property
    def base(self) -> PrecisionName:
        """Type of everything that is not quantised."""
        return self.precision if self.quantization is None else self.quantization.base

    def to_json(self) -> str:
        """One line of JSON, with the layout's version under ``format``."""
        return msgspec.json.encode({"format": FORMAT, "task": self.task, **dataclasses.asdict(self)}).decode()

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read ``to_json``'s output; raises ArtifactError when it is damaged or from a newer lit-deploy."""
        try:
            check_json(text)
            check_format("the manifest", msgspec.json.decode(text, type=Header), "export again")
            manifest = msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise ArtifactError(f"the manifest inside the file is damaged ({error}); export it again") from None
        check_manifest(manifest)
        return manifest


@dataclass(frozen=True)
class Header:
    """What is read of a manifest, or of a sidecar and the manifest inside it, before anything else."""

    format: int
    task: str | None = None


def check_json(text: str | bytes) -> None:
    """Raise msgspec.ValidationError when JSON is larger or nested deeper than Python and C++ read it."""
    size = len(text.encode() if isinstance(text, str) else text)
    if size > MAX_JSON_BYTES:
        raise msgspec.ValidationError(f"it has {size} bytes, expected at most {MAX_JSON_BYTES}")
    deep = msgspec.ValidationError(f"it is nested more than {MAX_NESTING} deep")
    try:
        values = [msgspec.json.decode(text)]
    except RecursionError:
        raise deep from None
    for _ in range(MAX_NESTING):  # from what lies at one depth to what lies in it
        values = [
            inner
            for value in values
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    if any(isinstance(value, dict | list) for value in values):
        raise deep


def check_format(what: str, header: Header, remedy: str) -> None:
    """Raise ArtifactError unless this lit-deploy reads a manifest or sidecar of that layout and task.

    Args:
        what: the document, as the first words of a sentence; ``remedy``: the last ones.
        header: of the document.
    """
    task = header.task
    if not OLDEST_FORMAT <= header.format <= FORMAT:
        raise ArtifactError(
            f"{what} has format {header.format}, this lit-deploy reads {OLDEST_FORMAT} to {FORMAT}; "
            f"upgrade lit-deploy, or {remedy}"
        )
    if header.format >= 2 and task is None:
        raise ArtifactError(f"{what} is damaged (format {header.format} without a task); {remedy}")
    if task is not None and task not in get_args(TaskName):
        raise ArtifactError(
            f"{what} is for the task '{task}', this lit-deploy knows {', '.join(get_args(TaskName))}; "
            f"upgrade lit-deploy, or {remedy}"
        )


def check_manifest(manifest: Manifest) -> None:
    """Raise ArtifactError when a file needs another version of the operator, or contradicts itself."""
    if manifest.op_version != OP_VERSION:
        raise ArtifactError(
            f"the file uses version {manifest.op_version} of the operator, this lit-deploy implements version "
            f"{OP_VERSION}; use the release that wrote the file, or export again"
        )
    classes, dense = manifest.model.num_classes, manifest.dense
    listed: dict[str, Sized] = {"labels": manifest.labels}
    if dense is not None:
        listed |= {"category ids": dense.category_ids, "colours": dense.palette}
    for name, entries in listed.items():
        if len(entries) != classes:
            raise ArtifactError(f"the manifest has {len(entries)} {name} for {classes} classes; export the file again")
    fault = label_fault(manifest.labels)
    if fault:
        raise ArtifactError(f"in the manifest {fault}; export the file again with other --labels")
