"""What every back end serves: one protocol over PyTorch, ONNX Runtime, OpenVINO and TensorRT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.checkpoints.load import Checkpoint
from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import MAX_THREADS, PrecisionHint, PrecisionName, TensorSpec
from lit_deploy.tasks.protocol import Arrays

Device = Literal["cpu", "cuda"]
Backend = Literal["onnxruntime", "openvino"]
"""What runs an ``.onnx`` file."""
BackendName = Literal["onnxruntime", "openvino", "tensorrt", "torch"]
Source = str | Path | Checkpoint | OnnxArtifact
"""What can be opened: a path, an official name, a URL; or what is in memory already."""


@dataclass(frozen=True)
class SessionOptions:
    """How to run, as opposed to what.

    Attributes:
        device: ``cpu`` or ``cuda``; an engine runs on the GPU it was built for whatever is said here.
        threads: threads of one inference on the CPU; None leaves the back end's default (all cores).
        library: custom-op library: True requires it, False leaves it out, None uses it where it is found. What an
            engine calls was settled when it was built: True and False then only refuse the other kind.
        layers: also return the output of every layer named in ``manifest.layers``.
        values: ONNX Runtime only: further values of the graph, of float type, to return.
        compiled: PyTorch only: run through ``torch.compile``.
        like: PyTorch only: take the input, thresholds and output of this manifest, of a file that is compared with this
            session; of a classifier's, one that takes normalised pixels (see ``Task.reference``).
        half: PyTorch only: run in float16, as a peer in benchmarks.
        profiled: ONNX Runtime only: note how long every node takes, for ``ProfiledSession.node_times``. For a few runs:
            all notes are kept.
        backend: what runs an ``.onnx`` file.
        precision_hint: OpenVINO only: compute what is not quantised in bfloat16, where this CPU does, or in float32;
            None follows the file.
        allow_engine_code: engines only: let TensorRT run code that lies inside the file (an embedded plugin, or the
            runtime of a version-compatible engine).
        cuda_graph: engines only: replay a captured CUDA graph instead of launching kernel by kernel. Every batch size
            keeps a context and a graph of its own; the first run of a size is an ordinary one.
    """

    device: Device = "cpu"
    threads: int | None = None
    library: bool | None = None
    layers: bool = False
    values: tuple[str, ...] = ()
    profiled: bool = False
    compiled: bool = False
    half: bool = False
    like: Manifest | None = None
    backend: Backend = "onnxruntime"
    precision_hint: PrecisionHint | None = None
    allow_engine_code: bool = False
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("device", Device), ("backend", Backend), ("precision_hint", PrecisionHint)):
            value, allowed = getattr(self, name), get_args(kind)
            if value not in allowed and not (value is None and name == "precision_hint"):
                raise UsageError(f"{name} is '{value}', expected one of {', '.join(allowed)}")
        if self.threads is not None and not 1 <= self.threads <= MAX_THREADS:
            raise UsageError(f"threads is {self.threads}, expected at least 1 and at most {MAX_THREADS}")


class Session(Protocol):
    """A network. Nothing is loaded and no device touched before it is entered (``with``) or first used.

    ``close``, the end of the ``with`` and the last reference to it give memory and devices back.
    ``run`` may be called from several threads at once.
    """

    @property
    def description(self) -> str:
        """One line for tables: back end, version, and what of lit-deploy it uses."""

    @property
    def manifest(self) -> Manifest:
        """What the network is."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` takes."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` returns."""

    @property
    def precision(self) -> PrecisionName:
        """What it computes in, which decides what limits apply: the file's, unless the options ask for another."""

    @property
    def batch_range(self) -> tuple[int, int]:
        """Smallest and largest batch that ``run`` takes; the same twice where the batch is fixed."""

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """Run one batch; UsageError when names, types or shapes are not those of ``inputs``."""

    def close(self) -> None:
        """Give memory and devices back; the session cannot be used any more."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class Phases:
    """Where the time of one run on a GPU went, in milliseconds.

    Attributes:
        host_to_device, compute, device_to_host: between CUDA events around the copy of the inputs, the network and the
            copy of the outputs.
        enqueue: the host's clock around the launch of the network.
    """

    host_to_device: float
    compute: float
    device_to_host: float
    enqueue: float


@dataclass(frozen=True)
class TimingSettings:
    """What must be known to compare two GPU timings.

    Attributes:
        transfers: the copies of inputs and outputs are part of a run.
        spin_wait: the host waits for the GPU in a busy loop, not asleep.
        cuda_graph: the network is launched as one CUDA graph.
    """

    transfers: bool
    spin_wait: bool
    cuda_graph: bool


@runtime_checkable
class TimedSession(Session, Protocol):
    """A session that can also tell the phases of a run apart."""

    @property
    def timing_settings(self) -> TimingSettings:
        """How ``timed_run`` runs."""

    def timed_run(self, feeds: Mapping[str, NDArray[np.generic]]) -> tuple[Arrays, Phases]:
        """Run one batch as ``run`` does, and measure its phases."""


@runtime_checkable
class ProfiledSession(Session, Protocol):
    """A session that was opened with ``SessionOptions.profiled``."""

    def node_times(self) -> list[dict[str, float]]:
        """End profiling: milliseconds of all nodes of a type, by type, for every run so far.

        What a loop or a branch holds counts, and the loop or branch itself does not.
        """
