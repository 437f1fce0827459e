"""Sessions on PyTorch: the float32 reference that exported files are compared with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.backends.base import BackEnd, check_feeds
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.checkpoints.load import Checkpoint, load_checkpoint
from lit_deploy.checkpoints.manifest import manifest_from_checkpoint
from lit_deploy.core.errors import MissingDependency
from lit_deploy.core.text import shown_key
from lit_deploy.models.build import build
from lit_deploy.tasks.protocol import Arrays
from lit_deploy.tasks.table import task_of


class TorchSession(BackEnd):
    """A checkpoint on PyTorch, float32 (or, with ``options.half``, float16); see ``Session``.

    With ``options.like`` it takes and returns what a file of that manifest does. With ``options.layers``, ``run`` also
    returns, for every merging, the sampling offsets in pixels ``[B, 8, H//2, W//2]`` under
    ``<module>.dconv.conv_offset``. On ``cuda``, TensorFloat-32 is turned off for the whole process.
    """

    def __init__(self, source: str | Path | Checkpoint, options: SessionOptions) -> None:
        super().__init__(options)
        self._source = source
        self._threads_before: int | None = None
        self._model: Any = None
        self._recording = threading.Lock()
        self._call: Callable[[Any], Any]

    def _enter(self) -> None:
        import torch

        from lit_deploy.models.recording import layer_names

        if self._options.device == "cuda" and not torch.cuda.is_available():
            raise MissingDependency("device cuda was asked for, but PyTorch sees no CUDA device; use --device cpu")
        source = self._source
        checkpoint = source if isinstance(source, Checkpoint) else load_checkpoint(source)
        model = build(checkpoint.spec, checkpoint.state)
        manifest = manifest_from_checkpoint(checkpoint, layers=layer_names(model))
        like = self._options.like
        if like is not None:
            manifest = replace(manifest, input=like.input, dense=like.dense, output=like.output)
        self._manifest = manifest
        if self._options.half:
            model.half()
            self._manifest = replace(self._manifest, precision="fp16")
        self._model = model.to(self._options.device)
        if self._options.threads is not None:
            self._threads_before = torch.get_num_threads()  # the setting is the process's, not the session's
            torch.set_num_threads(self._options.threads)
        if self._options.device == "cuda":
            _float32_only()
        self._graph = task_of(self.manifest).graph(self._model, self.manifest).to(self._options.device)
        self._call = torch.compile(self._graph) if self._options.compiled else self._graph
        mode = ("compile" if self._options.compiled else "eager") + (", fp16" if self._options.half else "")
        network = f", network '{shown_key(checkpoint.key)}'" if checkpoint.key else ""
        self._description = f"PyTorch {torch.__version__} {self._options.device} ({mode}{network})"

    def _close(self) -> None:
        import torch

        self._model = None
        if self._threads_before is not None:
            torch.set_num_threads(self._threads_before)
            self._threads_before = None

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Arrays:
        import torch

        from lit_deploy.models.recording import record_layers

        check_feeds(feeds, self.inputs)
        tensors = [torch.from_numpy(np.ascontiguousarray(feeds[spec.name])) for spec in self.inputs]
        tensors = [tensor.to(self._options.device) for tensor in tensors]
        if self._options.half:
            tensors = [tensor.half() if tensor.is_floating_point() else tensor for tensor in tensors]
        layers: dict[str, Any] = {}
        with torch.inference_mode():
            if self._options.layers:
                # The hooks that record hang on the model, which all callers share.
                with self._recording, record_layers(self._model, self.manifest.layers) as layers:
                    found = self._graph(*tensors)
            else:
                found = self._call(*tensors)
        outputs = dict(zip((spec.name for spec in self.outputs), found, strict=True))
        return {name: _array(value) for name, value in {**outputs, **layers}.items()}


def _array(value: Any) -> NDArray[Any]:
    """A tensor as an array; floating point as float32."""
    array: NDArray[Any] = (value.float() if value.is_floating_point() else value).cpu().numpy()
    return array


def _float32_only() -> None:
    """Have float32 mean float32 on CUDA, for the rest of this process: products of TensorFloat-32 have 10 bits.

    Not put back when a session ends: the setting is the process's, and another session may rely on it.
    """
    import torch

    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
