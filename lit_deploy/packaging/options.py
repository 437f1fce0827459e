"""What is asked of a package for Triton."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import MAX_BATCH

RELEASE = "26.06"
"""Container release of Triton that packages of ONNX files name when nothing is said.

The exported files and the custom-op library were tried on ONNX Runtime 1.20.1 to 1.27.0, those of releases 24.12 to
26.07; 1.17.3, of 24.04, refuses them, for it reads no ONNX IR version 10. Which release has which: "ONNX Runtime
Versions" in docs/introduction/compatibility.md of github.com/triton-inference-server/server."""

FIRST_ENSEMBLES = "24.11"
"""First container release with Python 3.12 (the same page); those before have 3.10, which Pillow has left behind."""

MAX_COPIES = 1024
"""Of instances, workers and threads: more than any machine runs."""

MAX_DELAY_US = 60_000_000
"""A minute."""

_COMPONENT = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d+)?/)?{_COMPONENT}(?:/{_COMPONENT})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
"""As registries name images: host, path in small letters, tag, digest."""

_CONTAINER_RELEASE = re.compile(r"\d\d\.(?:0[1-9]|1[0-2])")


@dataclass(frozen=True)
class TritonOptions:
    """How Triton is to serve a file.

    Attributes:
        name: of the model; the file's stem when None.
        max_batch: largest batch that Triton puts together; when None, 8, or all that an engine takes.
        max_delay_us: microseconds that a request may wait for others to share a batch with.
        instances: copies that run at the same time: per GPU, or on the CPU.
        threads: of one inference on the CPU; None for all cores.
        workers: processes that decode and resize images, and as many that make answers of a dense network's outputs.
        device: where ONNX files run, the CPU when None; engines run on a GPU.
        backend: Triton's back end for ONNX files, onnxruntime when None; openvino takes portable ones, on the CPU.
        library: custom-op library: True requires it, False leaves it out, None ships it where it is found.
        ensemble: take encoded images (JPEG, PNG ...), preprocessed by the server; False for the bare network.
        release: of Triton's containers, as in ``26.06``; engines need the one with their TensorRT.
        image: container image that Kubernetes pulls; when None, Triton's own, or one named after the model.
        allow_engine_code: serve an engine that carries code which Triton would run.
        force: replace a model of that name.
    """

    name: str | None = None
    max_batch: int | None = None
    max_delay_us: int = 500
    instances: int = 1
    threads: int | None = None
    workers: int = 2
    device: Literal["cpu", "cuda"] | None = None
    backend: Literal["onnxruntime", "openvino"] | None = None
    library: bool | None = None
    ensemble: bool = True
    release: str | None = None
    image: str | None = None
    allow_engine_code: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        if self.max_batch is not None and not 1 <= self.max_batch <= MAX_BATCH:
            raise UsageError(f"max_batch is {self.max_batch}, expected 1 to {MAX_BATCH}")
        ranges = {
            "max_delay_us": (0, MAX_DELAY_US),
            **dict.fromkeys(("instances", "workers", "threads"), (1, MAX_COPIES)),
        }
        for field, (least, most) in ranges.items():
            value = getattr(self, field)
            if value is not None and not least <= value <= most:
                raise UsageError(f"{field} is {value}, expected {least} to {most}")
        if self.backend not in (None, "onnxruntime", "openvino"):
            raise UsageError(f"backend is '{self.backend}', expected onnxruntime or openvino")
        if self.device not in (None, "cpu", "cuda"):
            raise UsageError(f"device is '{self.device}', expected cpu or cuda")
        if self.release is not None and not _CONTAINER_RELEASE.fullmatch(self.release):
            raise UsageError(f"the release of Triton is '{self.release}', expected year and month, e.g. {RELEASE}")
        if self.ensemble and self.release is not None and self.release < FIRST_ENSEMBLES:
            raise UsageError(
                f"the containers of Triton {self.release} have Python 3.10, for which there is no such Pillow as here; "
                f"name {FIRST_ENSEMBLES} or later, or package with --raw (ensemble=False)"
            )
        if self.image is not None and not _IMAGE.fullmatch(self.image):
            raise UsageError(f"the image is '{self.image}', expected a name, e.g. registry.example.org/lit_s:1")
