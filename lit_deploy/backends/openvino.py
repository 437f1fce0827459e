"""Sessions on OpenVINO: a peer that benchmarks compare with. Imports no torch."""

from __future__ import annotations

import threading
from collections import OrderedDict
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

MAX_COMPILED = 3
"""Input sizes whose compiled networks are kept: each holds the memory of one inference, 1.6 GiB for a large picture."""

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class OpenVinoSession(BackEnd):
    """A portable file on OpenVINO's CPU plugin in float32: a peer to measure against, not a supported runtime.

    Every input size is compiled with static shapes, which is how OpenVINO is fastest; the last few stay compiled.
    """

    def __init__(self, path: str | Path, options: SessionOptions) -> None:
        super().__init__(options)
        self._path = Path(path)
        self._requests: OrderedDict[Shapes, Any] = OrderedDict()
        self._running = threading.Lock()  # a request runs one inference at a time

    def __enter__(self) -> Self:
        try:
            import openvino
        except ImportError:
            raise MissingDependency(BACKENDS["openvino"].absence) from None
        if self._options.device != "cpu":
            raise UsageError(f"device is {self._options.device}, but OpenVINO is measured on the CPU only")
        self._manifest = read_manifest(self._path)
        if not self._manifest.portable:  # its reader ends the process on some of these files
            raise ArtifactError(
                f"OpenVINO refuses {self._path.name} (it knows no operator of lit-deploy's); export it with --portable"
            )
        self._core = openvino.Core()
        self.description = f"OpenVINO {openvino.__version__.split('-')[0]} cpu (f32)"
        return self

    def _close(self) -> None:
        self._requests.clear()

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Arrays:
        check_feeds(feeds, self.inputs)
        # It would read the memory of a view, a turned picture say, in the order of an array without gaps.
        arrays = {name: np.ascontiguousarray(feeds[name]) for name in sorted(feeds)}
        shapes = tuple((name, array.shape) for name, array in arrays.items())
        with self._running:
            request = self._requests.pop(shapes, None)
            if request is None:
                while len(self._requests) >= MAX_COMPILED:  # before the next one takes as much
                    self._requests.popitem(last=False)
                request = self._compile(shapes)
            self._requests[shapes] = request
            try:
                results = request.infer(arrays, share_inputs=True)
            except RuntimeError as error:
                raise ArtifactError(f"OpenVINO failed while it ran {self._path}: {_reason(error)}") from None
        return {spec.name: results[spec.name] for spec in self.outputs}

    def _compile(self, shapes: Shapes) -> Any:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",  # where the CPU has bfloat16 the default is less exact
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self._options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self._options.threads
        try:
            model = self._core.read_model(str(self._path))
            model.reshape({name: list(shape) for name, shape in shapes})
            return self._core.compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise ArtifactError(
                f"OpenVINO refuses {self._path.name} ({_reason(error)}); export it with --portable"
            ) from error


def _reason(error: RuntimeError) -> str:
    """The last line of OpenVINO's message, which names the cause; those before it name its own source files."""
    return [line.strip() for line in str(error).splitlines() if line.strip()][-1]
