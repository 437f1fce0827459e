"""The layout of manifests and sidecars as JSON Schema, for whoever reads the files without us.

The types are those of the dataclasses; the limits are those that their readers hold values to. ``make contract`` writes
the two documents beside this file.
"""

from __future__ import annotations

from typing import Any

import msgspec

from lit_deploy.artifacts.manifest import FORMAT, OLDEST_FORMAT, Manifest
from lit_deploy.artifacts.sidecar import MAX_RANK, Sidecar
from lit_deploy.core.specs import MAX_BATCH, MAX_DETECTIONS, MAX_MEAN, MAX_SIDE, MAX_STD, MIN_STD, OP_VERSION
from lit_deploy.images.labels import LABEL_PATTERN

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_FORMAT = {"enum": list(range(OLDEST_FORMAT, FORMAT + 1))}

_SIDE = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_SIDE}, {"type": "null"}]}

_SIDES = {"items": {"type": "integer", "minimum": 1, "maximum": MAX_SIDE}}

_LIMITS: dict[tuple[str, str], dict[str, Any]] = {
    ("Manifest", "op_version"): {"const": OP_VERSION},
    ("Manifest", "labels"): {"items": {"type": "string", "pattern": LABEL_PATTERN}},
    ("Manifest", "batch"): {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_BATCH}, {"type": "null"}]},
    ("InputSpec", "height"): _SIDE,
    ("InputSpec", "width"): _SIDE,
    ("InputSpec", "longest"): _SIDE,
    ("InputSpec", "pad_multiple"): {"minimum": 1},
    ("InputSpec", "resize"): {"minimum": 1},
    ("InputSpec", "mean"): {"items": {"type": "number", "minimum": -MAX_MEAN, "maximum": MAX_MEAN}},
    ("InputSpec", "std"): {"items": {"type": "number", "minimum": MIN_STD, "maximum": MAX_STD}},
    ("Sidecar", "profiles"): {
        "items": {
            "type": "array",
            "minItems": 3,
            "maxItems": 3,
            "items": {"type": "integer", "minimum": 1, "maximum": MAX_BATCH},
        }
    },
    ("SizeProfile", "height"): _SIDES,
    ("SizeProfile", "width"): _SIDES,
    ("SizeProfile", "original"): _SIDES,
    ("Sidecar", "engine_size"): {"minimum": 0},
    ("TensorSpec", "shape"): {
        "minItems": 1,
        "maxItems": MAX_RANK,
        "items": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]},
    },
    ("ModelSpec", "num_classes"): {"minimum": 1},
    ("ModelSpec", "in_channels"): {"minimum": 1},
    ("DenseSpec", "score_threshold"): {"minimum": 0, "exclusiveMaximum": 1},
    ("DenseSpec", "iou_threshold"): {"exclusiveMinimum": 0, "maximum": 1},
    ("DenseSpec", "max_detections"): {"minimum": 1, "maximum": MAX_DETECTIONS},
    ("DenseSpec", "candidates"): {"minimum": 1, "maximum": MAX_DETECTIONS},
}
"""What the types alone do not say. That ``labels`` are as many as classes, and ``resize`` at most 16 times the longer
side, no schema can say."""


def manifest_schema() -> dict[str, Any]:
    """JSON Schema of an ONNX file's manifest."""
    return _document(Manifest, "The manifest of an .onnx file that lit-deploy wrote", {"required": ["task"]})


def sidecar_schema() -> dict[str, Any]:
    """JSON Schema of an engine's sidecar."""
    with_task = {"properties": {"manifest": {"required": ["task"]}}}
    return _document(Sidecar, "The sidecar of an engine that lit-deploy wrote", with_task)


def _document(kind: type, title: str, since_format_2: dict[str, Any]) -> dict[str, Any]:
    schema = msgspec.json.schema(kind)
    definitions: dict[str, Any] = schema["$defs"]
    for definition in definitions.values():
        # the prose is docs/format.md's; three numbers are a list of three, in words that every validator knows
        definition.pop("description", None)
        for value in definition["properties"].values():
            _plain(value)
    for (name, field), limits in _LIMITS.items():
        if name not in definitions:
            continue
        value = definitions[name]["properties"][field]
        if "anyOf" in limits or "const" in limits:
            value.clear()
        value.update(limits)
    root = definitions.pop(kind.__name__)
    return {
        "$schema": _DIALECT,
        "title": title,
        "type": "object",
        "properties": {"format": _FORMAT, **root["properties"]},
        "required": ["format", *root["required"]],
        "if": {"properties": {"format": {"const": 1}}},
        "else": since_format_2,
        "$defs": definitions,
    }


def _plain(schema: dict[str, Any]) -> None:
    """Turn tuples of equal items into arrays of fixed length, wherever they are; defaults are the reader's affair."""
    schema.pop("default", None)
    items = schema.pop("prefixItems", None)
    if items is not None:
        schema["items"] = items[0]
    for inner in (*schema.get("anyOf", ()), schema.get("items")):
        if isinstance(inner, dict):
            _plain(inner)
