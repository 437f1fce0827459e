"""Triton's python model behind a detector or segmentation network: its outputs in, objects or classes by name out.

This file is copied into the model repository as ``model.py``, with the modules of lit-deploy that it imports beside it,
so that the server says what ``lit-deploy predict`` says. It needs Pillow and NumPy alone.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # our copy, whatever else the server's Python has installed

import numpy as np
import triton_python_backend_utils as triton  # type: ignore[import-not-found]

from lit_deploy.core.errors import LitDeployError
from lit_deploy.core.specs import MAX_TOP, ORIGINAL_SIZE, DenseSpec
from lit_deploy.images.picture import Picture

MANIFEST = Path(__file__).with_name("manifest.json")
PREFIX = "network_"
"""What the network's outputs have before their names in the ensemble."""

IMAGE = "the image"
"""Its name in messages."""


class TritonPythonModel:
    """One process that pastes masks, counts pixels and names classes."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read labels and thresholds of the manifest; names of tensors are of the configuration."""
        config, manifest = json.loads(args["model_config"]), json.loads(MANIFEST.read_text(encoding="utf-8"))
        self._inputs = [value["name"] for value in config["input"]]
        self._outputs = [value["name"] for value in config["output"]]
        self._task = manifest["task"]
        self._manifest = SimpleNamespace(
            labels=manifest["labels"], dense=DenseSpec(**manifest["dense"]), model=SimpleNamespace(**manifest["model"])
        )
        self._rules = import_module(f"lit_deploy.tasks.{self._task}.predictions")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request with tensors or an error of its own."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        given = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
        height, width = given.pop(ORIGINAL_SIZE).tolist()
        outputs = {name.removeprefix(PREFIX): value for name, value in given.items()}
        picture = Picture(np.empty((0, 0, 3), dtype=np.uint8), (height, width))
        try:
            (prediction,) = self._rules.predictions(outputs, self._manifest, [IMAGE], [picture], MAX_TOP)
            values = (
                _classes(prediction)
                if self._task == "semantic_segmentation"
                else _objects(prediction, self._rules.best_of(outputs, self._manifest, IMAGE, MAX_TOP))
            )
        except LitDeployError as error:
            return triton.InferenceResponse(error=triton.TritonError(str(error), triton.TritonError.INTERNAL))
        return triton.InferenceResponse([triton.Tensor(name, values[name]) for name in self._outputs])


def _classes(prediction: Any) -> dict[str, Any]:
    """The label of every pixel, and of the classes that are in the picture, largest first, number, name and pixels."""
    return {"labels": prediction.label_map, "pixels": _column(prediction.classes, "pixels", np.int64),
            **_names(prediction.classes)}  # fmt: skip


def _objects(prediction: Any, found: Any) -> dict[str, Any]:
    """Of every object, best first: box, score, label, number and name of its class, perhaps its mask."""
    objects = prediction.detections
    values = {"boxes": found.boxes, "scores": found.scores, "labels": found.labels, **_names(objects)}
    if found.masks is not None:
        values["areas"] = _column(objects, "area", np.int64)
        values["masks"] = _strings([entry.segmentation["counts"] for entry in objects])
    return values


def _names(entries: Any) -> dict[str, Any]:
    return {"category_ids": _column(entries, "category_id", np.int32), "names": _strings([e.label for e in entries])}


def _column(entries: Any, name: str, dtype: Any) -> Any:
    return np.array([getattr(entry, name) for entry in entries], dtype=dtype)


def _strings(values: list[str]) -> Any:
    return np.array([value.encode() for value in values], dtype=object)
