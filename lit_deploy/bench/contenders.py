"""What a benchmark measures: the contenders of one checkpoint, or of named files, on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.manifests import manifest_of_file
from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.artifacts.openvino_file import IR_SUFFIX
from lit_deploy.artifacts.preflight import preflight, this_host
from lit_deploy.artifacts.sidecar import ENGINE_SUFFIXES, read_sidecar
from lit_deploy.backends.protocol import Device
from lit_deploy.backends.table import BACKENDS
from lit_deploy.bench.inputs import BATCHES
from lit_deploy.checkpoints.load import Checkpoint, load_checkpoint
from lit_deploy.checkpoints.seeded import make_state, save_checkpoint
from lit_deploy.core.errors import LitDeployError, UsageError
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.core.specs import TaskName
from lit_deploy.exporters.engine_files import written_engine
from lit_deploy.exporters.engine_options import EngineOptions
from lit_deploy.exporters.onnx import onnx_from_checkpoint, portable
from lit_deploy.exporters.options import OnnxOptions
from lit_deploy.machine import native
from lit_deploy.machine.facts import computes_bf16, cpp_compiler, cpu_flags
from lit_deploy.machine.tensorrt import BACKENDS as TENSORRT
from lit_deploy.machine.tensorrt import process_environment
from lit_deploy.models.families import OFFICIAL_SPECS

Kind = Literal[
    "torch", "torch-fp16", "torch.compile", "torch.compile-fp16", "onnxruntime", "onnxruntime-stock", "openvino",
    "openvino-kernels", "openvino-bf16", "engine", "engine-graph",
]  # fmt: skip

_THRESHOLDS: tuple[TaskName, ...] = ("detection", "instance_segmentation")
"""Tasks whose results depend on thresholds that a file may have been exported with."""


@dataclass(frozen=True)
class Contender:
    """Something to measure.

    Attributes:
        label: its name in tables; unique within a benchmark.
        source: checkpoint or exported file.
        kind: what runs it: ``torch`` (eager) and ``torch.compile``, both in float32 or ``-fp16``; ``onnxruntime`` (with
            the custom-op library), ``onnxruntime-stock`` (without it); ``openvino`` (without our operators),
            ``openvino-kernels`` (with them) and ``openvino-bf16`` (in bfloat16, with them where the file has them);
            ``engine`` and ``engine-graph`` (TensorRT, launched kernel by kernel or as a CUDA graph).
        device: ``cpu`` or ``cuda``.
        unavailable: why it cannot run here; it is then listed with this reason and not started.
        compared: False for a deliberate lower bound that computes something else, whose outputs are not checked.
        allow_engine_code: see ``SessionOptions``.
        environment: variables of its process where they must differ from this one's; None for the same.
        like: exported detector whose thresholds and input PyTorch takes over, or file of features, which it then gives,
            too; None for its own.
    """

    label: str
    source: str | Path
    kind: Kind
    device: Device = "cpu"
    unavailable: str | None = None
    compared: bool = True
    allow_engine_code: bool = False
    environment: Mapping[str, str] | None = None
    like: str | Path | None = None

    def opening(self, threads: int) -> dict[str, Any]:
        """What its process is asked first: to open it."""
        return {
            "do": "open", "kind": self.kind, "source": str(self.source), "device": self.device, "threads": threads,
            "allow_engine_code": self.allow_engine_code, "like": None if self.like is None else str(self.like),
        }  # fmt: skip


def default_contenders(
    folder: Path,
    checkpoint: str | Path | None = None,
    device: Device = "cpu",
    progress: Progress = unseen,
    batches: Sequence[int] = BATCHES,
) -> tuple[Contender, ...]:
    """Export a checkpoint and list everything that could run it on this machine.

    Args:
        folder: existing directory for the exported files.
        checkpoint: checkpoint file, official name or URL; None for LIT-S with seeded weights.
        device: where to run. On ``cuda`` everything but the reference, PyTorch eager, computes in float16, OpenVINO
            does not take part, and an engine is built where TensorRT can be had.
        progress: called with the name of each step as it begins.
        batches: batch sizes that an engine is to take.
    """
    if checkpoint is None:
        progress(Step("draw seeded weights of LIT-S"))
        checkpoint = folder / "lit_s.pth"
        save_checkpoint(make_state(OFFICIAL_SPECS["lit_s"]), checkpoint, form="model")
    loaded = load_checkpoint(checkpoint)
    if device == "cuda":
        return _on_gpu(loaded, folder, progress, batches)
    exported, inlined = folder / f"{loaded.spec.name}.onnx", folder / f"{loaded.spec.name}_portable.onnx"
    progress(Step(f"export {exported.name}"))
    artifact = onnx_from_checkpoint(loaded, OnnxOptions())
    artifact.write(exported)
    progress(Step(f"export {inlined.name}"))
    portable(artifact).write(inlined)
    compiler = None if cpp_compiler() else "needs a C++ compiler: apt install g++"
    return (
        Contender("PyTorch eager", loaded.path, "torch", device),
        Contender(
            label="PyTorch torch.compile", source=loaded.path, kind="torch.compile", device=device, unavailable=compiler
        ),
        _with_library("ONNX Runtime + lit-deploy kernel", exported, device),
        Contender(
            label="ONNX Runtime", source=exported, kind="onnxruntime-stock", device=device, unavailable=_missing_ort()
        ),
        *_on_openvino("", exported, device, artifact.manifest),
        _on_openvino("", inlined, device, replace(artifact.manifest, portable=True))[0],
    )


def contenders_for(
    artifacts: Sequence[str | Path],
    checkpoint: str | Path | None = None,
    device: Device = "cpu",
    allow_engine_code: bool = False,
) -> tuple[Contender, ...]:
    """List the contenders for named files.

    Args:
        artifacts: exported files (each runs with our operators on ONNX Runtime and OpenVINO, and without them on ONNX
            Runtime; a portable one without them on both; an IR on OpenVINO; on OpenVINO in bfloat16, too, where the
            file and this CPU leave that to be chosen), engines (with and without a CUDA graph) or checkpoints (PyTorch
            eager).
        checkpoint: a checkpoint that PyTorch runs as the baseline; on ``cuda`` in float16, too.
        device: where to run; engines run on the GPU in any case.
        allow_engine_code: see ``SessionOptions``.

    Raises:
        UsageError: no file given. ArtifactError: a file is damaged or not from lit-deploy.
    """
    suffixes = {path: Path(path).suffix.lower() for path in artifacts}
    manifests = {
        path: manifest_of_file(path)
        for path, suffix in suffixes.items()
        if suffix in (".onnx", IR_SUFFIX, *ENGINE_SUFFIXES)
    }
    like = next(
        (path for path, m in manifests.items() if m.task in _THRESHOLDS or m.output == "features"),
        None,
    )
    contenders = [] if checkpoint is None else [replace(c, like=like) for c in _on_pytorch(checkpoint, device)]
    names = [Path(artifact).name for artifact in artifacts]
    for artifact, name in zip(artifacts, names, strict=True):
        shown = str(artifact) if names.count(name) > 1 else name
        if suffixes[artifact] in ENGINE_SUFFIXES:
            contenders += _on_tensorrt(f"{shown}, ", Path(artifact), allow_engine_code)
            continue
        if artifact not in manifests:
            contenders.append(Contender(f"{shown}, PyTorch eager", artifact, "torch", device, like=like))
            continue
        manifest = manifests[artifact]
        on_openvino = _on_openvino(f"{shown}, ", artifact, device, manifest)
        if suffixes[artifact] == IR_SUFFIX:
            contenders += on_openvino
            continue
        stock = Contender(
            label=f"{shown}, ONNX Runtime",
            source=artifact,
            kind="onnxruntime-stock",
            device=device,
            unavailable=_missing_ort(),
        )
        if not manifest.portable:
            contenders.append(_with_library(f"{shown}, ONNX Runtime + lit-deploy kernel", artifact, device))
        contenders += [stock, *on_openvino]
    if not contenders:
        raise UsageError(
            "got no file to benchmark; name .onnx files, engines or a checkpoint, or none at all for LIT-S"
        )
    return tuple(contenders)


def _on_gpu(loaded: Checkpoint, folder: Path, progress: Progress, batches: Sequence[int]) -> tuple[Contender, ...]:
    """Everything that runs a checkpoint on CUDA: the float32 reference first, then its float16 rivals."""
    exported, engine = folder / f"{loaded.spec.name}.onnx", folder / f"{loaded.spec.name}.engine"
    progress(Step(f"export {exported.name}"))
    artifact = onnx_from_checkpoint(loaded, OnnxOptions(precision="fp16"))
    artifact.write(exported)
    return (
        *_on_pytorch(loaded.path, "cuda"),
        Contender("PyTorch torch.compile fp16", loaded.path, "torch.compile-fp16", "cuda"),
        _with_library("ONNX Runtime + lit-deploy kernel", exported, "cuda"),
        Contender(
            label="ONNX Runtime", source=exported, kind="onnxruntime-stock", device="cuda", unavailable=_missing_ort()
        ),
        *_built(artifact, engine, progress, batches),
    )


def _on_pytorch(checkpoint: str | Path, device: Device) -> tuple[Contender, ...]:
    eager = Contender("PyTorch eager", checkpoint, "torch", device)
    if device == "cpu":
        return (eager,)
    return eager, Contender("PyTorch eager fp16", checkpoint, "torch-fp16", device)


def _built(artifact: OnnxArtifact, engine: Path, progress: Progress, batches: Sequence[int]) -> tuple[Contender, ...]:
    """The contenders on an engine that is built now; one unavailable contender where it cannot be."""
    ordered = sorted(batches)
    options = EngineOptions(profile=(ordered[0], ordered[len(ordered) // 2], ordered[-1]))
    progress(Step(f"build {engine.name}"))
    try:
        with written_engine(artifact, engine, options, progress):
            pass
    except LitDeployError as error:
        return (Contender(label="TensorRT", source=engine, kind="engine", device="cuda", unavailable=str(error)),)
    return _on_tensorrt("", engine, allow_code=False)


def _on_tensorrt(prefix: str, engine: Path, allow_code: bool) -> tuple[Contender, ...]:
    """An engine with and without a CUDA graph; unavailable, with preflight's sentence, where it cannot run.

    Raises:
        ArtifactError: the sidecar is missing or damaged.
    """
    sidecar = read_sidecar(engine)
    backend, reason, environment = sidecar.build.backend, None, None
    try:
        preflight(engine, sidecar, this_host(), allow_host_code=allow_code)
        if sidecar.plugin is not None:
            environment = process_environment(backend)
    except LitDeployError as error:
        reason = str(error)
    kinds: tuple[tuple[Kind, str], ...] = (("engine", ""), ("engine-graph", " + CUDA graph"))
    return tuple(
        Contender(
            label=f"{prefix}{TENSORRT[backend].title}{suffix}",
            source=engine,
            kind=kind,
            device="cuda",
            unavailable=reason,
            allow_engine_code=allow_code,
            environment=environment,
        )
        for kind, suffix in kinds
    )


def _missing_ort() -> str | None:
    return BACKENDS["onnxruntime"].missing()


def _with_library(label: str, source: str | Path, device: Device) -> Contender:
    reason = _missing_ort()
    library = native.find_library()
    if library is None:
        reason = f"the custom-op library is not built: {native.BUILD_COMMAND}"
    elif device == "cuda" and not native.has_cuda_kernel(library):
        reason = f"the custom-op library holds no CUDA kernel for this GPU and driver: {native.BUILD_COMMAND}"
    return Contender(label=label, source=source, kind="onnxruntime", device=device, unavailable=reason)


def _on_openvino(prefix: str, source: str | Path, device: Device, manifest: Manifest) -> tuple[Contender, ...]:
    """A file in its own precision, and in bfloat16 where it is of float32 around what may be quantised."""
    if device == "cuda" or manifest.precision == "fp8":
        return ()
    reason = BACKENDS["openvino"].missing()
    kind: Kind = "openvino"
    label = f"{prefix}OpenVINO"
    if not manifest.portable:
        kind, label = "openvino-kernels", f"{label} + lit-deploy kernels"
        if reason is None and native.find_extension() is None:
            reason = f"OpenVINO's extension is not built: {native.BUILD_COMMAND}"
    own = Contender(label=label, source=source, kind=kind, device=device, unavailable=reason)
    if manifest.base != "fp32" or not computes_bf16(cpu_flags()):
        return (own,)
    return own, replace(own, label=f"{label}, bf16", kind="openvino-bf16")
