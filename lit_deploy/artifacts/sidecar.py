"""The sidecar of an engine, ``<name>.engine.json``: what the engine is bound to. ``docs/format.md`` describes it.

``preflight`` compares it with this machine before anything is deserialised.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from lit_deploy.artifacts.manifest import FORMAT, Header, Manifest, check_format, check_json, check_manifest
from lit_deploy.core.errors import ArtifactError
from lit_deploy.core.specs import MAX_BATCH, MAX_SIDE, TensorSpec
from lit_deploy.machine.tensorrt import BackendName

ENGINE_SUFFIXES = (".engine", ".plan")

MAX_RANK = 8
"""Most dimensions of a tensor in TensorRT."""

Compatibility = Literal["none", "ampere+"]


@dataclass(frozen=True)
class EnginePlugin:
    """The plugin library that an engine calls.

    Attributes:
        name, version, namespace: under which TensorRT finds the creator.
        library: file name of the shared library; ``sha256``: its hash.
        embedded: the library lies inside the engine, and loading the engine runs code from it.
        others: names of further plugins of the library that the engine calls, of the same version and namespace.
    """

    name: str
    version: str
    namespace: str
    library: str
    sha256: str
    embedded: bool
    others: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of all plugins that the engine calls."""
        return (self.name, *self.others)


@dataclass(frozen=True)
class EngineBuild:
    """What the builder was told and where it ran.

    Attributes:
        backend, backend_version: who built it, with the full version.
        cuda_version: major CUDA version that the back end was made for, None where its package does not tell.
        gpu, compute_capability: the GPU it was built on, None where it was built without one.
        targets: compute capabilities that TensorRT-RTX was told to build for; empty for its own choice, all of them.
        os, arch: as Python's ``platform`` names them.
        hardware_compatible: ``ampere+`` runs on every GPU of compute capability 8.0 and above.
        version_compatible: runs on later releases of the same major version too, by a small runtime inside it.
        workspace_mib, optimization_level, timing_cache: as given; None for the builder's default.
        layers: the outputs of all layers are outputs of the engine (a debug build).
        nms_candidates: best candidates of a detector that are compared with each other; None for other networks, and
            where the sidecar is of before this was written down.
    """

    backend: BackendName
    backend_version: str
    cuda_version: str | None
    gpu: str | None
    compute_capability: str | None
    targets: tuple[str, ...]
    os: str
    arch: str
    hardware_compatible: Compatibility
    version_compatible: bool
    workspace_mib: int | None
    optimization_level: int | None
    timing_cache: bool
    layers: bool
    nms_candidates: int | None = None


@dataclass(frozen=True)
class Inspection:
    """What was really built, counted rather than assumed.

    Attributes:
        source: ``network`` (as the builder held it; the types of a strongly typed network are the engine's) or
            ``engine`` (deserialised and inspected, where a GPU is).
        products: of a network, matrix products by the data type they compute in (8 bits where both factors are
            dequantised from it), the patch embedding (always float32) left out; of an engine, outputs of layers by
            data type.
        plugin_layers: layers that call the plugin.
        layers: layers in all.
    """

    source: Literal["network", "engine"]
    products: dict[str, int]
    plugin_layers: int
    layers: int


Range = tuple[int, int, int]
"""The least, the best and the most of something."""


@dataclass(frozen=True)
class SizeProfile:
    """Sizes of pictures that the engine of a detector or segmentation network is for, each (min, opt, max) in pixels.

    Attributes:
        height, width: of the network's input, resized and not padded.
        original: of either side of the picture that it was resized from.
    """

    height: Range
    width: Range
    original: Range

    def __post_init__(self) -> None:
        for name in ("height", "width", "original"):
            low, best, high = getattr(self, name)
            if not 1 <= low <= best <= high <= MAX_SIDE:
                raise ValueError(f"the {name} is {low}:{best}:{high}, expected MIN:OPT:MAX, 1 to {MAX_SIDE} pixels")


@dataclass(frozen=True)
class Sidecar:
    """Everything that must be known about an engine before it is opened.

    Attributes:
        engine_sha256, engine_size: of the engine file.
        onnx, onnx_sha256: name and hash of the ONNX file it was made from, which lies beside it.
        build: back end, GPU and builder settings.
        profiles: (min, opt, max) batch of every optimisation profile, in order.
        inputs, outputs: names, types and shapes.
        plugin: None when no plugin is called.
        inspections: what was found in what was built.
        parity: metrics of the engine against PyTorch, or None where it could not be run after the build.
        manifest: the network itself, as in the ONNX file.
        sizes: of the pictures of a detector or segmentation network; None for a classifier.
    """

    engine_sha256: str
    engine_size: int
    onnx: str
    onnx_sha256: str
    build: EngineBuild
    profiles: tuple[tuple[int, int, int], ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    plugin: EnginePlugin | None
    inspections: tuple[Inspection, ...]
    parity: dict[str, Any] | None
    manifest: Manifest
    sizes: SizeProfile | None = None

    def __post_init__(self) -> None:
        if self.engine_size < 0:
            raise ValueError(f"the engine's size is {self.engine_size} bytes")
        if not self.profiles and self.manifest.batch is None:
            raise ValueError("neither profiles nor a fixed batch")
        for profile in self.profiles:
            if not 1 <= profile[0] <= profile[1] <= profile[2] <= MAX_BATCH:
                raise ValueError(f"a profile is {profile}, expected three batch sizes in ascending order")
        if (self.sizes is None) != (self.manifest.task == "classification"):
            raise ValueError(f"the task is {self.manifest.task}, expected 'sizes' for all but classification")
        for spec in (*self.inputs, *self.outputs):
            sizes = [size for size in spec.shape if isinstance(size, int)]
            if not 1 <= len(spec.shape) <= MAX_RANK or min(sizes, default=1) < 1:
                raise ValueError(f"the shape of '{spec.name}' is {list(spec.shape)}, which no tensor has")

    def to_json(self) -> str:
        """Indented JSON, with the layout's version under ``format``."""
        return msgspec.json.format(
            msgspec.json.encode({"format": FORMAT, **dataclasses.asdict(self)}), indent=2
        ).decode()


@dataclass(frozen=True)
class _Inside:
    """What is read of the manifest inside first."""

    task: str | None = None


@dataclass(frozen=True)
class _Header:
    """What is read of a sidecar first."""

    format: int
    manifest: _Inside


def sidecar_path(engine: Path) -> Path:
    """``lit_s.engine.json`` for ``lit_s.engine``."""
    return engine.with_name(f"{engine.name}.json")


def onnx_path(engine: Path) -> Path:
    """``lit_s.engine.onnx`` for ``lit_s.engine``: what it was made from."""
    return engine.with_name(f"{engine.name}.onnx")


def read_sidecar(engine: Path) -> Sidecar:
    """Read the sidecar of an engine file; ArtifactError when either is missing, damaged or from a newer release."""
    if not engine.is_file():
        raise ArtifactError(f"{engine} is not a file; expected an engine written by `lit-deploy export --format trt`")
    path = sidecar_path(engine)
    if not path.exists():  # a link to an engine, as `current.engine`, has its sidecar where the engine is
        path = sidecar_path(engine.resolve())
    try:
        text = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise ArtifactError(
            f"{engine} has no readable sidecar {path.name}; copy it from where the engine was built, or build it again "
            "with `lit-deploy export --format trt`"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); give read permission") from None
    try:
        check_json(text)
        header = msgspec.json.decode(text, type=_Header)
        check_format(str(path), Header(header.format, header.manifest.task), "build the engine again")
        sidecar = msgspec.json.decode(text, type=Sidecar)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); build the engine again") from None
    check_manifest(sidecar.manifest)
    return sidecar
