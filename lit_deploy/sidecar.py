"""The sidecar of an engine, ``<name>.engine.json``, and the check that it passes before anything is deserialised.

An engine is bound to the release that built it, to a GPU, and to a plugin. Opening one elsewhere fails inside TensorRT,
often without a word; so all it is bound to is written beside it, and compared here first.
"""

from __future__ import annotations

import dataclasses
import platform
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from lit_deploy import native
from lit_deploy.artifact import FORMAT, Format, Manifest, check_manifest
from lit_deploy.checkpoints import sha256_of
from lit_deploy.cuda import Gpu, require_gpu
from lit_deploy.errors import ArtifactError, MissingDependency
from lit_deploy.specs import PrecisionName, TensorSpec
from lit_deploy.trt import BACKENDS, RTX_TARGETS, BackendName, installed_version, numbers

ENGINE_SUFFIXES = (".engine", ".plan")
Compatibility = Literal["none", "ampere+"]

FP8_LEAST = "8.9"
"""Least compute capability that multiplies float8 (Ada, Hopper, Blackwell). Source: NVIDIA's support matrices; for
targets below it TensorRT-RTX refuses to build."""


@dataclass(frozen=True)
class EnginePlugin:
    """The plugin that an engine calls.

    Attributes:
        name, version, namespace: under which TensorRT finds its creator.
        library: file name of the shared library; ``sha256``: its hash.
        embedded: the library lies inside the engine, and loading the engine runs code from it.
    """

    name: str
    version: str
    namespace: str
    library: str
    sha256: str
    embedded: bool


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

    def to_json(self) -> str:
        """Indented JSON, with the layout's version under ``format``."""
        return msgspec.json.format(
            msgspec.json.encode({"format": FORMAT, **dataclasses.asdict(self)}), indent=2
        ).decode()


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
    except OSError:
        raise ArtifactError(
            f"{engine} has no readable sidecar {path.name}; copy it from where the engine was built, or build it again "
            "with `lit-deploy export --format trt`"
        ) from None
    try:
        version = msgspec.json.decode(text, type=Format).format
        if version != FORMAT:
            raise ArtifactError(
                f"{path} has format {version}, this lit-deploy reads {FORMAT}; upgrade it, or build the engine again"
            )
        sidecar = msgspec.json.decode(text, type=Sidecar)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); build the engine again") from None
    check_manifest(sidecar.manifest)
    return sidecar


def here() -> tuple[str, str]:
    """Operating system and architecture of this machine, as Python's ``platform`` names them."""
    return platform.system(), platform.machine()


def rebuild_command(
    engine: Path, sidecar: Sidecar, gpu: Gpu | None = None, batch: tuple[int, int, int] | None = None
) -> str:
    """The command that makes an engine again, from the ONNX file beside it.

    Args:
        engine: the engine as it is named now.
        sidecar: how it was built.
        gpu: the GPU it is to run on, where that is not the one it was built for.
        batch: another profile.
    """
    if not onnx_path(engine).exists():  # a link to the engine
        engine = engine.resolve()
    build, plugin = sidecar.build, sidecar.plugin
    backend, targets = build.backend, build.targets
    if gpu is not None and backend == "tensorrt_rtx":
        if gpu.compute_capability in RTX_TARGETS:
            targets = (gpu.compute_capability,)
        else:
            backend, targets = "tensorrt", ()
    words = ["lit-deploy", "export", "--ckpt", str(onnx_path(engine)), "--format", "trt", "--out", str(engine)]
    words += ["--builder", backend]
    if sidecar.profiles:
        words += ["--batch", ":".join(map(str, batch or sidecar.profiles[0]))]
    words.append("--no-plugin" if plugin is None else "--embed-plugin" if plugin.embedded else "--plugin")
    words += ["--hardware-compatible"] if build.hardware_compatible == "ampere+" else []
    words += ["--version-compatible"] if build.version_compatible else []
    words += ["--target", ",".join(targets)] if targets else []
    words += ["--workspace", str(build.workspace_mib)] if build.workspace_mib is not None else []
    words += ["--optimization-level", str(build.optimization_level)] if build.optimization_level is not None else []
    words += ["--layers"] if build.layers else []
    return shlex.join(words)


@dataclass(frozen=True)
class Host:
    """What this machine offers to an engine.

    Attributes:
        version_of: installed version of a back end, or None; ``gpu``: describes the GPU or raises MissingDependency.
        library: the plugin library that is found here, or None; ``searched``: where it was looked for.
        os, arch: see ``here``.
    """

    version_of: Callable[[BackendName], str | None]
    gpu: Callable[[], Gpu]
    library: Path | None
    searched: tuple[Path, ...]
    os: str
    arch: str


def this_host() -> Host:
    """This machine, as it is."""
    return Host(installed_version, require_gpu, native.find_plugin(), native.searched_plugin_paths(), *here())


def preflight(engine: Path, sidecar: Sidecar, host: Host, *, allow_host_code: bool = False) -> Gpu:
    """Compare an engine with this machine, from what costs nothing to what costs most; return the GPU.

    Args:
        engine: the file; its size and hash must be those of the sidecar.
        sidecar: what it is bound to.
        host: what is here.
        allow_host_code: let TensorRT run code that lies inside the engine: an embedded plugin, or the runtime that
            makes it version-compatible.

    Raises:
        ArtifactError: it cannot run here; the sentence ends with the command that builds it again.
        MissingDependency: no GPU, no back end, or no plugin library.
    """
    build, again = sidecar.build, f"build it again here: {rebuild_command(engine, sidecar)}"
    title = BACKENDS[build.backend].title
    if (build.os, build.arch) != (host.os, host.arch):
        raise ArtifactError(f"{engine} was built for {build.os} {build.arch}, this is {host.os} {host.arch}; {again}")
    version = host.version_of(build.backend)
    if version is None:
        raise MissingDependency(
            f"{engine} needs {title} {build.backend_version}, which is not installed; "
            f"run: {BACKENDS[build.backend].install}"
        )
    if not _release_fits(build, version):
        raise ArtifactError(f"{engine} was built by {title} {build.backend_version}, here is {version}; {again}")
    _check_plugin(engine, sidecar, host, allow_host_code)
    size = engine.stat().st_size
    if size != sidecar.engine_size or sha256_of(engine) != sidecar.engine_sha256:
        raise ArtifactError(
            f"{engine} is not the file its sidecar describes (damaged or replaced; {size} bytes); {again}"
        )
    gpu = host.gpu()
    if build.cuda_version is not None and numbers(gpu.driver_cuda)[:1] < numbers(build.cuda_version)[:1]:
        raise ArtifactError(
            f"{engine} was built with CUDA {build.cuda_version}, the driver here knows {gpu.driver_cuda}; "
            "update the driver"
        )
    if not computes(sidecar.manifest.precision, gpu.compute_capability):  # so a new build would not mend it
        raise ArtifactError(
            f"{engine} is of {sidecar.manifest.precision}, which needs compute capability {FP8_LEAST} and above, here "
            f"is {gpu.name} (compute capability {gpu.compute_capability}); export the checkpoint again with "
            "--precision int8 or fp16"
        )
    if not _gpu_fits(build, gpu):
        raise ArtifactError(
            f"{engine} was built for {target_of(build)}, here is {gpu.name} "
            f"(compute capability {gpu.compute_capability}); "
            f"build it again here: {rebuild_command(engine, sidecar, gpu)}"
        )
    return gpu


def computes(precision: PrecisionName, capability: str) -> bool:
    """Whether GPUs of a compute capability, of those that lit-deploy supports at all, multiply in a precision."""
    return precision != "fp8" or numbers(capability) >= numbers(FP8_LEAST)


def _release_fits(build: EngineBuild, version: str) -> bool:
    """The same release, or, for a version-compatible engine, a later one of the same major version."""
    built, here = numbers(build.backend_version), numbers(version)
    if build.version_compatible:
        return built[:1] == here[:1] and built <= here
    return built == here


def _gpu_fits(build: EngineBuild, gpu: Gpu) -> bool:
    if build.hardware_compatible == "ampere+":
        return numbers(gpu.compute_capability) >= (8, 0)
    if build.backend == "tensorrt_rtx":
        return gpu.compute_capability in (build.targets or RTX_TARGETS)
    # TensorRT warns that engines are not to be moved between models, even where the compute capability is the same
    return (gpu.name, gpu.compute_capability) == (build.gpu, build.compute_capability)


def target_of(build: EngineBuild) -> str:
    """The GPUs that an engine runs on, in words."""
    if build.hardware_compatible == "ampere+":
        return "compute capability 8.0 and above"
    if build.backend == "tensorrt_rtx":
        return f"RTX GPUs of compute capability {', '.join(build.targets or RTX_TARGETS)}"
    return f"{build.gpu} (compute capability {build.compute_capability})"


def _check_plugin(engine: Path, sidecar: Sidecar, host: Host, allow_host_code: bool) -> None:
    plugin = sidecar.plugin
    inside = ["its plugin"] if plugin is not None and plugin.embedded else []
    inside += ["a runtime"] if sidecar.build.version_compatible else []
    if inside and not allow_host_code:
        raise ArtifactError(
            f"{engine} carries {' and '.join(inside)} inside, so opening it runs code from the file; if you trust it, "
            "add --allow-engine-code (allow_engine_code=True)"
        )
    if plugin is None or plugin.embedded:
        return
    if host.library is None:
        searched = ", ".join(map(str, host.searched))
        raise MissingDependency(
            f"{engine} needs the plugin library {plugin.library}, which was not found (searched {searched}); "
            f"copy it there or set {native.PLUGIN_VARIABLE}, or build it: {native.PLUGIN_BUILD_COMMAND}"
        )
    if sha256_of(host.library) != plugin.sha256:
        raise ArtifactError(
            f"{engine} was built with another plugin library than {host.library} "
            f"(SHA-256 {plugin.sha256[:12]} expected); "
            f"set {native.PLUGIN_VARIABLE} to the one it was built with, or build it again here: "
            f"{rebuild_command(engine, sidecar)}"
        )
