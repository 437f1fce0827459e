"""The protocol that every back end serves, and ``open_session``, which picks one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifact import Manifest
from lit_deploy.errors import UsageError
from lit_deploy.specs import TensorSpec

Arrays = dict[str, NDArray[np.generic]]
Device = Literal["cpu", "cuda"]
Backend = Literal["onnxruntime", "openvino"]
T = TypeVar("T")


@dataclass(frozen=True)
class SessionOptions:
    """How to run, as opposed to what.

    Attributes:
        device: ``cpu`` or ``cuda``.
        threads: threads of one inference; None leaves the back end's default (all cores).
        library: custom-op library: True requires it, False leaves it out, None uses it where it is found.
        layers: also return the output of every layer named in ``manifest.layers``.
        compiled: PyTorch only: run through ``torch.compile``.
        backend: what runs an ``.onnx`` file; ``openvino`` takes portable files, as a peer in benchmarks.
    """

    device: Device = "cpu"
    threads: int | None = None
    library: bool | None = None
    layers: bool = False
    compiled: bool = False
    backend: Backend = "onnxruntime"

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

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """Run one batch; UsageError when names, types or shapes are not those of ``inputs``."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


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

    def _close(self) -> None:
        """Let go of what ``__enter__`` loaded."""
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manifest = None
        self._close()


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
    """Open a checkpoint (PyTorch) or an exported ``.onnx`` file (ONNX Runtime) as a session.

    Args:
        source: a checkpoint file, an official model name, an https URL, or an ``.onnx`` file.
        options: device, threads, custom-op library, layers.

    Returns:
        A session that is loaded when entered: ``with open_session("lit_s.onnx") as session: ...``.

    Raises:
        UsageError: for a kind of file that this release does not run.
        ArtifactError, CheckpointError, MissingDependency: when entered.
    """
    options = options or SessionOptions()
    suffix = Path(source).suffix.lower()
    if suffix == ".onnx" and options.backend == "openvino":
        from lit_deploy.runtime.openvino import OpenVinoSession

        return OpenVinoSession(Path(source), options)
    if suffix == ".onnx":
        from lit_deploy.runtime.onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(Path(source), options)
    if suffix in (".engine", ".plan"):
        raise UsageError(f"{source} is a TensorRT engine; TensorRT is not in this release, use an .onnx file")
    from lit_deploy.runtime.torch import TorchSession

    return TorchSession(source, options)
