"""Whether an engine can run on this machine, asked before anything is deserialised.

An engine is bound to the release that built it, to a GPU, and to a plugin. Opening one elsewhere fails inside TensorRT,
often without a word; so all that its sidecar says it is bound to is compared here first.
"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lit_deploy.artifacts.sidecar import EngineBuild, Sidecar, onnx_path
from lit_deploy.core.errors import ArtifactError, MissingDependency
from lit_deploy.core.files import sha256_of
from lit_deploy.core.specs import PrecisionName
from lit_deploy.machine import native
from lit_deploy.machine.cuda import Gpu, require_gpu
from lit_deploy.machine.tensorrt import BACKENDS, RTX_TARGETS, BackendName, installed_version, numbers

FP8_LEAST = "8.9"
"""Least compute capability that multiplies float8 (Ada, Hopper, Blackwell). Source: NVIDIA's support matrices; for
targets below it TensorRT-RTX refuses to build."""


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
    if sidecar.sizes is not None:
        height, width = (":".join(map(str, side)) for side in (sidecar.sizes.height, sidecar.sizes.width))
        words += ["--size", f"{height}x{width}"] if sidecar.manifest.input.height is None else []
        words += ["--max-original", str(sidecar.sizes.original[2])]
    words += ["--nms-candidates", str(build.nms_candidates)] if build.nms_candidates is not None else []
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
    system, machine = here()
    return Host(
        version_of=installed_version,
        gpu=require_gpu,
        library=native.find_plugin(),
        searched=native.searched_plugin_paths(),
        os=system,
        arch=machine,
    )


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
