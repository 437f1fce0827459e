"""Sessions on PyTorch: the float32 reference that exported files are compared with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifact import Manifest, manifest_from_checkpoint
from lit_deploy.errors import MissingDependency
from lit_deploy.runtime.session import Arrays, SessionOptions, check_feeds, entered, input_specs, output_specs
from lit_deploy.specs import TensorSpec


class TorchSession:
    """A checkpoint on PyTorch, float32; see ``Session``.

    With ``options.layers``, ``run`` also returns, for every merging, the sampling offsets in pixels
    ``[B, 8, H//2, W//2]`` under ``<module>.dconv.conv_offset``.
    """

    def __init__(self, source: str | Path, options: SessionOptions) -> None:
        self._source = source
        self._options = options
        self._manifest: Manifest | None = None
        self._threads_before: int | None = None
        self._model: Any = None
        self._recording = threading.Lock()
        self._call: Callable[[Any], Any]
        self.description = "PyTorch"

    def __enter__(self) -> Self:
        import torch

        from lit_deploy.checkpoints import load_checkpoint
        from lit_deploy.models import blocks, registry

        if self._options.device == "cuda" and not torch.cuda.is_available():
            raise MissingDependency("device cuda was asked for, but PyTorch sees no CUDA device; use --device cpu")
        if self._options.threads is not None:
            self._threads_before = torch.get_num_threads()  # the setting is the process's, not the session's
            torch.set_num_threads(self._options.threads)
        checkpoint = load_checkpoint(self._source)
        model = registry.build(checkpoint.spec, checkpoint.state)
        self._manifest = manifest_from_checkpoint(checkpoint, layers=blocks.layer_names(model))
        self._model = model.to(self._options.device)
        self._call = torch.compile(self._model) if self._options.compiled else self._model
        mode = "compile" if self._options.compiled else "eager"
        self.description = f"PyTorch {torch.__version__} {self._options.device} ({mode})"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._model = self._manifest = None
        if self._threads_before is not None:
            import torch

            torch.set_num_threads(self._threads_before)

    @property
    def manifest(self) -> Manifest:
        return entered(self._manifest)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return input_specs(self.manifest)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return output_specs(self.manifest)

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Arrays:
        import torch

        from lit_deploy.models.blocks import record_layers

        check_feeds(feeds, self.inputs)
        images = torch.from_numpy(np.ascontiguousarray(feeds["images"])).to(self._options.device)
        with torch.inference_mode():
            if not self._options.layers:
                return {"logits": self._call(images).cpu().numpy()}
            # The hooks that record hang on the model, which all callers share.
            with self._recording, record_layers(self._model, self.manifest.layers) as layers:
                logits = self._model(images)
        return {"logits": logits.cpu().numpy(), **{name: value.cpu().numpy() for name, value in layers.items()}}
