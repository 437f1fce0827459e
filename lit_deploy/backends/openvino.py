"""Sessions on OpenVINO: a peer that benchmarks compare with. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.base import BackEnd, check_feeds
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.backends.table import BACKENDS
from lit_deploy.core.errors import ArtifactError, MissingDependency, UsageError
from lit_deploy.tasks.protocol import Arrays


class OpenVinoSession(BackEnd):
    """A portable file on OpenVINO's CPU plugin in float32: a peer to measure against, not a supported runtime.

    Every batch size is compiled with static shapes, which is how OpenVINO is fastest.
    """

    def __init__(self, path: str | Path, options: SessionOptions) -> None:
        super().__init__(options)
        self._path = Path(path)
        self._requests: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            import openvino
        except ImportError:
            raise MissingDependency(BACKENDS["openvino"].absence) from None
        if self._options.device != "cpu":
            raise UsageError(f"device is {self._options.device}, but OpenVINO is measured on the CPU only")
        self._manifest = read_manifest(self._path)
        self._core = openvino.Core()
        self.description = f"OpenVINO {openvino.__version__.split('-')[0]} cpu (f32)"
        return self

    def _close(self) -> None:
        self._requests.clear()

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Arrays:
        check_feeds(feeds, self.inputs)
        (images,) = (feeds[spec.name] for spec in self.inputs)
        if len(images) not in self._requests:
            self._requests[len(images)] = self._compile(images.shape)
        results = self._requests[len(images)].infer({0: images}, share_inputs=True)
        return {spec.name: results[index] for index, spec in enumerate(self.outputs)}

    def _compile(self, shape: tuple[int, ...]) -> Any:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",  # where the CPU has bfloat16 the default is less exact
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self._options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self._options.threads
        try:
            model = self._core.read_model(str(self._path))
            model.reshape({0: list(shape)})
            return self._core.compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            reason = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
            raise ArtifactError(f"OpenVINO refuses {self._path.name} ({reason}); export it with --portable") from error
