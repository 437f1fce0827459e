"""From an exported file to what Triton has to be told of it, or why Triton cannot run it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import OnnxArtifact, graph_tensors
from lit_deploy.artifacts.preflight import target_of
from lit_deploy.artifacts.sidecar import Sidecar, SizeProfile, read_sidecar
from lit_deploy.core.errors import ArtifactError, MissingDependency, UsageError
from lit_deploy.core.files import sha256_of
from lit_deploy.core.specs import TensorSpec
from lit_deploy.images.keep_ratio import keep_ratio_size
from lit_deploy.machine import native
from lit_deploy.machine.tensorrt import BACKENDS
from lit_deploy.packaging.options import RELEASE, TritonOptions
from lit_deploy.packaging.serving import REGISTRY_IMAGE, SUPPORT_MATRIX
from lit_deploy.packaging.triton_configs import Network, Sample
from lit_deploy.tasks.promises import check_graph
from lit_deploy.tasks.table import task_of

_DEFAULT_MAX_BATCH = 8


@dataclass(frozen=True)
class Source:
    """A file that is to be served, and all that depends on its kind."""

    path: Path
    manifest: Manifest
    network: Network
    library: Path | None
    arguments: tuple[str, ...]
    release: str
    notes: tuple[str, ...]


def onnx_source(path: Path, options: TritonOptions) -> Source:
    """Read an ``.onnx`` file and choose how Triton's onnxruntime back end serves it; see ``package_triton``."""
    artifact = OnnxArtifact.read(path)
    manifest = artifact.manifest
    if options.backend == "openvino":
        return _openvino_source(path, artifact, options)
    if manifest.precision == "fp8":
        raise ArtifactError(f"{path} is of fp8, which ONNX Runtime does not run on Triton; build an engine of it")
    device = options.device or "cpu"
    if device == "cpu" and manifest.base == "bf16":
        raise ArtifactError(
            f"{path} is of bf16, which ONNX Runtime does not compute on CPUs (lit-deploy emulates it, Triton cannot); "
            "export it with --precision fp32, or package it with --device cuda"
        )
    inputs, outputs = _graph_tensors(artifact, path)
    if manifest.batch is None:
        max_batch = options.max_batch or _DEFAULT_MAX_BATCH
    elif options.max_batch is None:
        max_batch = 0
    elif manifest.dense is not None:
        raise UsageError(f"{path} takes one picture a run, so Triton cannot batch requests; leave --max-batch out")
    else:
        raise UsageError(
            f"{path} has a fixed batch of {manifest.batch}, so Triton cannot batch requests; leave --max-batch out, or "
            "export it with --batch dynamic"
        )
    library, notes = _op_library(path, manifest, device, options)
    if manifest.precision == "int8" and device == "cpu":
        notes.append(
            "int8: serve it on CPUs with VNNI (lscpu). On others ONNX Runtime clips sums unless its session is told "
            "session.x64quantprecision, and Triton has no way to tell it."
        )
    if device == "cpu" and options.threads is None:
        notes.append(
            "ONNX Runtime takes all cores of the machine for every instance; in a container with fewer, package with "
            "--threads."
        )
    network = Network(
        backend="onnxruntime",
        inputs=inputs,
        outputs=outputs,
        max_batch=max_batch,
        max_delay_us=options.max_delay_us,
        instances=options.instances,
        device=device,
        threads=options.threads if device == "cpu" else None,
        library=library.name if library is not None else None,
        sample=_sample(manifest),
    )
    return Source(
        path=path,
        manifest=manifest,
        network=network,
        library=library,
        arguments=(),
        release=options.release or RELEASE,
        notes=tuple(notes),
    )


def _openvino_source(path: Path, artifact: OnnxArtifact, options: TritonOptions) -> Source:
    """A portable file for Triton's OpenVINO back end.

    Every request is a run of its own: batches that this back end is to put together, it fills up to the largest.
    """
    manifest = artifact.manifest
    if not manifest.portable:
        raise ArtifactError(
            f"{path} has operators of our own, and their extension fits the OpenVINO that it was built against, not "
            "the one in Triton's containers; export it with --portable"
        )
    if options.library:
        raise UsageError(f"{path} is a portable file, which OpenVINO runs without a library; leave --library out")
    if options.device == "cuda":
        raise UsageError("Triton's OpenVINO back end runs on the CPU; leave --device out, or --backend openvino")
    if manifest.precision == "fp8":
        raise ArtifactError(f"{path} is of fp8, which OpenVINO does not run; build an engine of it")
    if options.max_batch is not None:
        raise UsageError(
            "Triton's OpenVINO back end fills every batch up to the largest, so each request is run as it comes; leave "
            "--max-batch out"
        )
    inputs, outputs = _graph_tensors(artifact, path)
    notes = [
        "OpenVINO takes all cores of the machine; in a container with fewer, package with --threads."
    ] if options.threads is None else []  # fmt: skip
    if manifest.base != "bf16":
        notes.append(
            "On CPUs with AMX or AVX512_BF16 (lscpu) OpenVINO computes in bfloat16 unless it is told otherwise, and "
            "Triton's back end has no parameter that does: results are less exact there than `lit-deploy verify` saw."
        )
    network = Network(
        backend="openvino",
        inputs=inputs,
        outputs=outputs,
        max_batch=0,
        max_delay_us=options.max_delay_us,
        instances=options.instances,
        device="cpu",
        threads=options.threads,
        library=None,
        sample=_sample(manifest),
        bf16=manifest.base == "bf16",
    )
    return Source(
        path=path,
        manifest=manifest,
        network=network,
        library=None,
        arguments=(),
        release=options.release or RELEASE,
        notes=tuple(notes),
    )


def _graph_tensors(artifact: OnnxArtifact, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the graph has them; ArtifactError where its manifest promises others.

    Triton names them all, with every size but the batch.
    """
    check_graph(artifact, path)
    task, manifest = task_of(artifact.manifest), artifact.manifest
    inputs, outputs = graph_tensors(artifact.graph)
    promised = {spec.name: spec for spec in (*task.input_specs(manifest), *task.output_specs(manifest))}
    found = (*inputs, *outputs)
    if len(found) != len(promised) or any(_open(spec, promised[spec.name]) for spec in found):
        raise ArtifactError(f"the graph of {path} is not what its manifest promises; export it again")
    return inputs, outputs


def _open(spec: TensorSpec, promised: TensorSpec) -> bool:
    """Whether a size behind the batch is left open that is promised."""
    pairs = zip(spec.shape[1:], promised.shape[1:], strict=True)
    return any(isinstance(size, str) and isinstance(wanted, int) for size, wanted in pairs)


def _sample(manifest: Manifest) -> Sample | None:
    """A photo of 640 x 480 pixels, for networks of any input size."""
    if manifest.dense is None:
        return None
    return Sample(keep_ratio_size(480, 640, manifest.input), (480, 640))


def _op_library(
    path: Path, manifest: Manifest, device: Literal["cpu", "cuda"], options: TritonOptions
) -> tuple[Path | None, list[str]]:
    """The custom-op library to ship, and what to know of it."""
    if manifest.portable:
        if options.library:
            raise UsageError(f"{path} is a portable file, which holds no custom operator; export it without --portable")
        return None, []
    if options.library is False:
        return None, []
    found = native.choose_library(options.library, device)
    if found is None:
        return None, ["No custom-op library: the built-in function in the file runs, with the same numbers."]
    return found, [_glibc_note(found)]


def _glibc_note(library: Path) -> str:
    versions = {tuple(map(int, v.split(b"."))) for v in re.findall(rb"GLIBC_(\d+\.\d+)", library.read_bytes())}
    least = ".".join(map(str, max(versions, default=(2, 17))))
    return (
        f"{library.name} was built here and needs glibc {least} or later; Triton's containers have 2.39 (Ubuntu 24.04, "
        "from 24.11 on) or 2.35 (Ubuntu 22.04, before)."
    )


def engine_source(path: Path, options: TritonOptions) -> Source:
    """Read an engine's sidecar and choose how Triton's tensorrt back end serves it; see ``package_triton``."""
    sidecar = read_sidecar(path)
    build, manifest = sidecar.build, sidecar.manifest
    version = f"{BACKENDS[build.backend].title} {build.backend_version}"
    if build.backend != "tensorrt":
        raise ArtifactError(
            f"{path} was built by {version}, Triton runs engines of TensorRT; build it again with --builder tensorrt"
        )
    if build.layers:
        raise ArtifactError(f"{path} is a debug build, whose layers are outputs; build it again without --layers")
    if path.stat().st_size != sidecar.engine_size or sha256_of(path) != sidecar.engine_sha256:
        raise ArtifactError(f"{path} is not the file its sidecar describes (damaged or replaced); build it again")
    if options.device == "cpu":
        raise UsageError(f"{path} is an engine, which runs on a GPU; leave --device out, or package the .onnx file")
    if options.threads is not None:
        raise UsageError(f"{path} is an engine, which has no CPU threads; leave --threads out")
    if options.backend is not None:
        raise UsageError(f"{path} is an engine, which TensorRT runs; leave --backend out")
    carries = build.version_compatible or (sidecar.plugin is not None and sidecar.plugin.embedded)
    if carries and not options.allow_engine_code:
        raise ArtifactError(
            f"{path} carries code that Triton would run (embedded plugin, version-compatible); if you trust it, add "
            "--allow-engine-code (allow_engine_code=True)"
        )
    if options.release is None:
        raise UsageError(
            f"{path} was built by {version}; name the container release of Triton that has it with --triton, e.g. "
            f"--triton {RELEASE} (see {SUPPORT_MATRIX})"
        )
    library = _plugin_library(path, sidecar, options)
    settings = [f"plugins={library.name}"] if library is not None else []
    settings += ["version-compatible=true"] if carries else []
    release = f"{version} or a later one of its major version" if build.version_compatible else version
    notes = [
        f"The engine runs on {target_of(build)}, under {release}: `docker run --rm "
        f"{REGISTRY_IMAGE}:{options.release}-py3 dpkg -l 'libnvinfer*'` says which one a container has, and "
        f"{SUPPORT_MATRIX} which container has which."
    ]
    notes += [_glibc_note(library)] if library is not None else []
    if manifest.task == "semantic_segmentation":
        raise ArtifactError(
            f"{path} is an engine that makes label maps of any size, which has to be described to Triton in a way that "
            "was never tried; package the .onnx file, e.g. with --device cuda"
        )
    network = Network(
        backend="tensorrt",
        inputs=sidecar.inputs,
        outputs=sidecar.outputs,
        max_batch=_engine_batch(path, sidecar, options.max_batch),
        max_delay_us=options.max_delay_us,
        instances=options.instances,
        device="cuda",
        threads=None,
        library=None,
        sample=_sample(manifest) if sidecar.sizes is None else _best_sample(sidecar.sizes),
    )
    arguments = tuple(f"--backend-config=tensorrt,{setting}" for setting in settings)
    return Source(
        path=path,
        manifest=manifest,
        network=network,
        library=library,
        arguments=arguments,
        release=options.release,
        notes=tuple(notes),
    )


def _best_sample(sizes: SizeProfile) -> Sample:
    """A picture of the size that an engine is best at."""
    original = sizes.original[1]
    return Sample((sizes.height[1], sizes.width[1]), (original, original))


def _engine_batch(path: Path, sidecar: Sidecar, wanted: int | None) -> int:
    """``max_batch_size`` within the first profile, the one that Triton uses; 0 for an engine of a fixed batch."""
    fixed = sidecar.inputs[0].shape[0]
    if isinstance(fixed, int):
        if wanted is not None:
            raise UsageError(f"{path} has a fixed batch of {fixed}; leave --max-batch out, or build it with --batch")
        return 0
    least, _, most = sidecar.profiles[0]
    if least > 1:
        raise ArtifactError(
            f"{path} takes {least} to {most} images, Triton's batches begin with 1; build it again with "
            f"--batch 1:{most}:{most}"
        )
    if wanted is not None and wanted > most:
        raise UsageError(f"--max-batch is {wanted}, {path} takes at most {most}; build it again with a larger --batch")
    return wanted or most


def _plugin_library(path: Path, sidecar: Sidecar, options: TritonOptions) -> Path | None:
    plugin = sidecar.plugin
    if plugin is None or plugin.embedded:
        if options.library:
            raise UsageError(f"{path} needs no library; leave --library out")
        return None
    if options.library is False:
        raise UsageError(f"{path} calls the plugin of {plugin.library}; leave --no-library out")
    found = native.find_plugin()
    if found is None or sha256_of(found) != plugin.sha256:
        what = "was not found" if found is None else f"is another one than {found}"
        searched = ", ".join(map(str, native.searched_plugin_paths()))
        raise MissingDependency(
            f"{path} calls the plugin library it was built with (SHA-256 {plugin.sha256[:12]}), which {what} (searched "
            f"{searched}); set {native.PLUGIN_VARIABLE} to it"
        )
    return found
