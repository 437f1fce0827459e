"""Triton's python model in front of the network: encoded images in, what the network takes out.

This file is copied into the model repository as ``model.py``, with the modules of lit-deploy that it imports beside it,
so that the server computes the very rule of ``lit_deploy.images.preprocessing``. It needs Pillow and NumPy alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # our copy, whatever else the server's Python has installed

import triton_python_backend_utils as triton  # type: ignore[import-not-found]

from lit_deploy.core.errors import LitDeployError
from lit_deploy.core.specs import InputSpec
from lit_deploy.images.preprocessing import batch_from_images

MANIFEST = Path(__file__).with_name("manifest.json")


class TritonPythonModel:
    """One process that decodes, resizes and crops."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the input rule of the manifest; names of tensors and the limit of pixels are of the configuration."""
        config = json.loads(args["model_config"])
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]
        self._max_pixels = int(config["parameters"]["max_pixels"]["string_value"])
        spec = json.loads(MANIFEST.read_text(encoding="utf-8"))["input"]
        self._spec = InputSpec(**{**spec, "mean": tuple(spec["mean"]), "std": tuple(spec["std"])})

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request with a tensor or an error of its own: one bad image stops no other request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        encoded = triton.get_input_tensor_by_name(request, self._input).as_numpy().reshape(-1)
        try:
            batch = batch_from_images([bytes(image) for image in encoded], self._spec, self._max_pixels)
        except LitDeployError as error:
            return triton.InferenceResponse(error=triton.TritonError(str(error), triton.TritonError.INVALID_ARG))
        return triton.InferenceResponse([triton.Tensor(self._output, batch)])
