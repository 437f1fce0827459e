"""The protocol that every back end serves, and ``open_session``, which picks one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifact import Manifest
from lit_deploy.errors import UsageError
from lit_deploy.sidecar import ENGINE_SUFFIXES
from lit_deploy.specs import MAX_BATCH, TensorSpec

Arrays = dict[str, NDArray[np.generic]]
Device = Literal["cpu", "cuda"]
Backend = Literal["onnxruntime", "openvino"]
T = TypeVar("T")


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
        half: PyTorch only: run in float16, as a peer in benchmarks.
        backend: what runs an ``.onnx`` file; ``openvino`` takes portable files, as a peer in benchmarks.
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
    compiled: bool = False
    half: bool = False
    backend: Backend = "onnxruntime"
    allow_engine_code: bool = False
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("device", Device), ("backend", Backend)):
            value, allowed = getattr(self, name), get_args(kind)
            if value not in allowed:
                raise UsageError(f"{name} is '{value}', expected one of {', '.join(allowed)}")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads is {self.threads}, expected at least 1")


class Session(Protocol):
    """A loaded network. A context manager: nothing is loaded and no device touched before it is entered.

    ``run`` may be called from several threads at once.
    """

    description: str
    """One line for tables: back end, version, and what of lit-deploy it uses."""

    @property
    def manifest(self) -> Manifest:
        """What the network is; like everything below, there once the session is entered."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` takes."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` returns."""

    @property
    def batch_range(self) -> tuple[int, int]:
        """Smallest and largest batch that ``run`` takes; the same twice where the batch is fixed."""

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """Run one batch; UsageError when names, types or shapes are not those of ``inputs``."""

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


def entered(value: T | None) -> T:
    """Return what ``__enter__`` sets; UsageError while the session is not entered."""
    if value is None:
        raise UsageError("the session is not open; use it as: with open_session(...) as session")
    return value


def input_specs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The inputs that a manifest promises."""
    spec, batch = manifest.input, manifest.batch or "batch"
    if spec.kind == "uint8":
        return (TensorSpec("images", "uint8", (batch, spec.height, spec.width, manifest.model.in_channels)),)
    return (TensorSpec("images", "float32", (batch, manifest.model.in_channels, spec.height, spec.width)),)


def output_specs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The outputs that a manifest promises, without layers."""
    batch, classes = manifest.batch or "batch", manifest.model.num_classes
    if manifest.output == "top5":
        best = min(5, classes)
        return (TensorSpec("scores", "float32", (batch, best)), TensorSpec("classes", "int64", (batch, best)))
    return (TensorSpec(manifest.output, "float32", (batch, classes)),)


def agrees(found: TensorSpec, wanted: TensorSpec) -> bool:
    """Whether name, type, rank and all sizes that both fix agree."""
    return (found.name, found.dtype, len(found.shape)) == (wanted.name, wanted.dtype, len(wanted.shape)) and all(
        a == b for a, b in zip(found.shape, wanted.shape, strict=True) if isinstance(a, int) and isinstance(b, int)
    )


class BackEnd:
    """What every back end shares: a manifest that is there while the session is open."""

    description = ""

    def __init__(self, options: SessionOptions) -> None:
        self._options = options
        self._manifest: Manifest | None = None

    @property
    def manifest(self) -> Manifest:
        return entered(self._manifest)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return input_specs(self.manifest)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return output_specs(self.manifest)

    @property
    def batch_range(self) -> tuple[int, int]:
        fixed = self.manifest.batch
        return (fixed, fixed) if fixed else (1, MAX_BATCH)

    def _close(self) -> None:
        """Let go of what ``__enter__`` loaded."""
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manifest = None
        self._close()


def filled(images: NDArray[Any], least: int) -> NDArray[Any]:
    """Fill up a batch ``[N, ...]`` that is smaller than a session takes with copies of its last image."""
    return np.concatenate([images, *[images[-1:]] * (least - len(images))])


def check_feeds(feeds: Mapping[str, NDArray[np.generic]], inputs: tuple[TensorSpec, ...]) -> None:
    """Raise UsageError in one sentence when ``feeds`` is not what ``inputs`` describe."""
    wanted = {spec.name for spec in inputs}
    if set(feeds) != wanted:
        raise UsageError(f"got inputs {sorted(feeds)}, expected {sorted(wanted)}")
    for spec in inputs:
        array = feeds[spec.name]
        if not isinstance(array, np.ndarray):
            raise UsageError(f"input '{spec.name}' is a {type(array).__name__}, expected a NumPy array")
        fits = len(array.shape) == len(spec.shape) and all(
            isinstance(want, str) or want == got for want, got in zip(spec.shape, array.shape, strict=True)
        )
        # dtype, not its name: a byte-swapped float32 would be read as other numbers
        if array.dtype != np.dtype(spec.dtype) or not fits:
            shape = " x ".join(map(str, spec.shape))
            raise UsageError(
                f"input '{spec.name}' is {array.dtype} {list(array.shape)}, expected {spec.dtype} [{shape}]"
            )


def open_session(source: str | Path, options: SessionOptions | None = None) -> Session:
    """Open a checkpoint (PyTorch), an ``.onnx`` file (ONNX Runtime) or an engine (TensorRT) as a session.

    Args:
        source: a checkpoint file, an official model name, an https URL, an ``.onnx`` file, or an ``.engine`` or
            ``.plan`` file with its sidecar beside it.
        options: device, threads, custom-op library, layers.

    Returns:
        A session that is loaded when entered: ``with open_session("lit_s.onnx") as session: ...``.

    Raises:
        UsageError, ArtifactError, CheckpointError, MissingDependency: when entered, as their names say.
    """
    options = options or SessionOptions()
    suffix = Path(source).suffix.lower()
    if suffix == ".onnx" and options.backend == "openvino":
        from lit_deploy.runtime.openvino import OpenVinoSession

        return OpenVinoSession(Path(source), options)
    if suffix == ".onnx":
        from lit_deploy.runtime.onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(Path(source), options)
    if suffix in ENGINE_SUFFIXES:
        from lit_deploy.runtime.tensorrt import TensorRTSession

        return TensorRTSession(Path(source), options)
    from lit_deploy.runtime.torch import TorchSession

    return TorchSession(source, options)
