"""Triton's python model in front of the network: encoded images in, what the network takes out.

This file is copied into the model repository as ``model.py``, with the modules of lit-deploy that it imports beside it,
so that the server computes the very rules of ``lit_deploy.images``. It needs Pillow and NumPy alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # our copy, whatever else the server's Python has installed

import triton_python_backend_utils as triton  # type: ignore[import-not-found]

from lit_deploy.core.errors import LitDeployError
from lit_deploy.core.specs import IMAGES, InputSpec

MANIFEST = Path(__file__).with_name("manifest.json")
PREFIX = "network_"
"""What some of the network's inputs have before their names in the ensemble."""


class TritonPythonModel:
    """One process that decodes and resizes."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the input rule of the manifest; names of tensors and the limits are of the configuration."""
        config = json.loads(args["model_config"])
        self._input = config["input"][0]["name"]
        self._outputs = [output["name"] for output in config["output"]]
        self._most = int(config["parameters"]["max_images"]["string_value"])
        max_pixels = int(config["parameters"]["max_pixels"]["string_value"])
        spec = json.loads(MANIFEST.read_text(encoding="utf-8"))["input"]
        rule = _resized if spec["rule"] == "keep_ratio" else _cropped
        self._prepared = rule(InputSpec(**{**spec, "mean": tuple(spec["mean"]), "std": tuple(spec["std"])}), max_pixels)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request with tensors or an error of its own: one bad image stops no other request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        encoded = triton.get_input_tensor_by_name(request, self._input).as_numpy().reshape(-1)
        if len(encoded) > self._most:
            return _refused(f"a request of {len(encoded)} images, where at most {self._most} are accepted")
        try:
            values = self._prepared([bytes(image) for image in encoded])
        except LitDeployError as error:
            return _refused(str(error))
        tensors = [triton.Tensor(name, values[name.removeprefix(PREFIX)]) for name in self._outputs]
        return triton.InferenceResponse(tensors)


def _refused(why: str) -> Any:
    return triton.InferenceResponse(error=triton.TritonError(why, triton.TritonError.INVALID_ARG))


def _cropped(spec: InputSpec, max_pixels: int) -> Any:
    """From images to a classifier's batch."""
    from lit_deploy.images.preprocessing import batch_from_images

    return lambda images: {IMAGES: batch_from_images(images, spec, max_pixels)}


def _resized(spec: InputSpec, max_pixels: int) -> Any:
    """From an image to what a detector or segmentation network takes: pixels, and the size that they had."""
    from lit_deploy.tasks.dense.tensors import feed, pictures

    manifest: Any = SimpleNamespace(input=spec)
    return lambda images: feed(pictures(images, manifest, max_pixels), manifest)
