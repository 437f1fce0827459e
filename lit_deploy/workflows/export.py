"""Export: convert, quantise, pass the gates, prove parity on the written bytes, seal; only then files get their names.

What is being made travels as one value, graph and manifest together. Its graph is written once; what is found out about
it goes into its manifest, which is sealed into the file at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.artifacts.openvino_file import IR_SUFFIX, Extension, weights_path
from lit_deploy.artifacts.preflight import preflight, this_host
from lit_deploy.artifacts.sidecar import ENGINE_SUFFIXES, Sidecar, onnx_path, sidecar_path
from lit_deploy.backends.protocol import Backend, SessionOptions
from lit_deploy.backends.table import BACKENDS
from lit_deploy.checkpoints.load import Checkpoint, checkpoint_from_state, load_checkpoint
from lit_deploy.checkpoints.manifest import manifest_from_checkpoint
from lit_deploy.core.errors import LitDeployError, MissingDependency, UsageError
from lit_deploy.core.files import atomic_path, check_target, scratch_folder
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.core.specs import EIGHT_BIT, PrecisionName
from lit_deploy.exporters.engine_files import write_sidecar, written_engine
from lit_deploy.exporters.engine_options import EngineOptions
from lit_deploy.exporters.onnx import onnx_from_checkpoint
from lit_deploy.exporters.options import OnnxOptions, described
from lit_deploy.exporters.qdq import check_precision
from lit_deploy.exporters.tensorrt import check_plugin, ready_to_build
from lit_deploy.machine import native
from lit_deploy.machine import tensorrt as trt
from lit_deploy.machine.cuda import find_gpu
from lit_deploy.machine.facts import computes_bf16, cpu_flags
from lit_deploy.machine.packages import require
from lit_deploy.quantize.feeding import images_of
from lit_deploy.quantize.gates import GateResult
from lit_deploy.quantize.run import QuantizeOptions, gated, quantize_model, with_gates
from lit_deploy.workflows.verify import ParityFailed, VerifyReport, verify_artifact

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        path: the file; ``size``: in bytes.
        manifest: what it says about itself; ``sidecar``: of an engine, else None.
        report: how the ONNX file, or the IR, compares with PyTorch, or None when that was not checked.
        engine_report: the same for the engine itself; None for other files, and where no GPU could run the engine.
        unchecked: why a report is None; empty when none is missing.
        gates: how an 8-bit file compares with the unquantised one; None for the others.
        extension: what an IR needs beside OpenVINO; None for other files, and for an IR of standard operators.
    """

    path: Path
    manifest: Manifest
    size: int
    report: VerifyReport | None
    sidecar: Sidecar | None = None
    engine_report: VerifyReport | None = None
    unchecked: str = ""
    gates: GateResult | None = None
    extension: Extension | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that was written, the one that is opened first."""
        if self.sidecar is not None:
            return self.path, onnx_path(self.path), sidecar_path(self.path)
        return (self.path, weights_path(self.path)) if self.path.suffix.lower() == IR_SUFFIX else (self.path,)


def export_model(
    model: nn.Module | Mapping[str, Tensor],
    out: str | Path,
    options: OnnxOptions | None = None,
    *,
    quantize: QuantizeOptions | None = None,
    verify: bool = True,
    threads: int | None = None,
    backend: Backend | None = None,
    progress: Progress = unseen,
) -> ExportResult:
    """Write a network that is in memory as an ``.onnx`` file: as ``export_checkpoint`` does, without a checkpoint file.

    The network stays as it is, in training mode, on a GPU or wrapped (``DataParallel``, ``torch.compile``). In the
    manifest stands the hash of its weights, so that ``verify`` takes any checkpoint that they are saved in later.

    Args:
        model: a LIT, such as ``build_model`` builds, or any other module whose state dict has the official keys; or
            such a state dict.
        out, options, quantize, verify, threads, backend, progress: see ``export_checkpoint``.

    Raises:
        CheckpointError: it is no LIT, or holds NaN or infinite values.
        ParityFailed, GateFailed, UsageError, ImageError, ExportError, MissingDependency: as with ``export_checkpoint``.
    """
    state = model if isinstance(model, Mapping) else getattr(model, "state_dict", dict)()
    if not isinstance(state, Mapping) or not state:
        raise UsageError(
            f"got a {type(model).__name__} without weights, expected a torch.nn.Module of a LIT, or its state_dict()"
        )
    return export_checkpoint(
        checkpoint_from_state(state), out, options, quantize=quantize, verify=verify, threads=threads, backend=backend,
        progress=progress,
    )  # fmt: skip


def export_checkpoint(
    source: str | Path | Checkpoint,
    out: str | Path,
    options: OnnxOptions | None = None,
    *,
    quantize: QuantizeOptions | None = None,
    verify: bool = True,
    threads: int | None = None,
    backend: Backend | None = None,
    progress: Progress = unseen,
) -> ExportResult:
    """Write a checkpoint as an ``.onnx`` file.

    An 8-bit file is made of the fp32 file (fp8: of the fp16 file), and compared with the fp32 file on the calibration
    images in accuracy and speed.

    Args:
        source: checkpoint file, official name (``lit_s``) or https URL; or a checkpoint that is loaded.
        out: file to write; it appears whole, or not at all.
        options: what to write.
        quantize: images and limits, for ``int8`` and ``fp8``.
        verify: compare the written file with PyTorch before it gets its name.
        threads: threads of the verification.
        backend: what runs the file while it is proven and measured; None for ONNX Runtime, but for bf16 OpenVINO where
            that computes bfloat16 with our operators here: ONNX Runtime's CPU can only emulate it.
        progress: called with the name of each step as it begins.

    Raises:
        ParityFailed: the file does not compute what PyTorch computes, or that cannot be told; nothing is written.
        GateFailed: the 8-bit file changes too many predictions, or is slower than fp32; nothing is written.
        UsageError, CheckpointError, ImageError, ExportError, MissingDependency: as their names say; nothing is written.
    """
    out, options = Path(out), options or OnnxOptions()
    if out.suffix.lower() != ".onnx":
        raise UsageError(f"the output is {out.name}, expected a name that ends in .onnx")
    job = Job(
        source=source, out=out, options=options, quantize=quantize, verify=verify, threads=threads, progress=progress,
        backend=backend or proving_backend(options.precision),
    )  # fmt: skip
    with atomic_path(out) as part:
        made = make(job, part)
        size = part.stat().st_size
    return ExportResult(
        path=out,
        manifest=made.artifact.manifest,
        size=size,
        report=made.report,
        unchecked="" if verify else "--no-verify",
        gates=made.gates,
    )


def export_engine(
    source: str | Path,
    out: str | Path,
    options: OnnxOptions | None = None,
    engine: EngineOptions | None = None,
    *,
    quantize: QuantizeOptions | None = None,
    verify: bool = True,
    threads: int | None = None,
    progress: Progress = unseen,
) -> ExportResult:
    """Build a TensorRT engine, its sidecar ``<out>.json``, and the ONNX file that it was made from, ``<out>.onnx``.

    The ONNX file is compared with PyTorch on ONNX Runtime, and the engine on the GPU, where one is here that it was
    built for. An 8-bit one has everything else in fp16; its speed on ONNX Runtime says nothing and is not measured.

    Args:
        source: checkpoint file, official name, https URL, or an ``.onnx`` file that ``export_checkpoint`` wrote; the
            latter needs no PyTorch, and is taken as it is.
        out: engine to write, ending in ``.engine`` or ``.plan``; the three files appear when all of them are whole.
        options: what the ONNX file is to be; not for an ``.onnx`` source, which is already what it is.
        engine: how to build.
        quantize, verify, threads, progress: see ``export_checkpoint``.

    Raises:
        BuildFailed: the builder refused or died. ParityFailed: PyTorch computes something else. Nothing is written.
        GateFailed: the 8-bit network changes too many predictions; nothing is written.
        UsageError, CheckpointError, ArtifactError, ExportError, MissingDependency: as their names say; the same.
    """
    out, engine = Path(out), engine or EngineOptions()
    if out.suffix.lower() not in ENGINE_SUFFIXES:
        raise UsageError(f"the output is {out.name}, expected a name that ends in .engine")
    given = Path(source).suffix.lower() == ".onnx"
    if given and options is not None:
        raise UsageError(f"{source} is exported already, so what is in its graph cannot be chosen any more")
    options = options or OnnxOptions()
    for target in (out, onnx_path(out), sidecar_path(out), *filter(None, [engine.timing_cache])):
        check_target(target)
    if given:
        made = Made(OnnxArtifact.read(Path(source)))
        check_plugin(made.artifact.manifest, engine)
        unchecked = f"{Path(source).name} was taken as it is"
    else:
        if options.batch is not None and engine.profile is not None:
            raise UsageError(f"a batch of {options.batch} is asked for and a profile as well; give one of the two")
        # minutes before the builder would say the same
        ready_to_build(engine, portable=options.portable, precision=options.precision)
        job = Job(
            source=source,
            out=out,
            options=options,
            quantize=quantize,
            verify=verify,
            threads=threads,
            progress=progress,
        )
        with scratch_folder() as scratch:
            made = make(job, scratch / onnx_path(out).name, for_engine=engine)
        unchecked = "--no-verify"
    with written_engine(made.artifact, out, engine, progress) as (part, sidecar):
        report = None
        if made.checkpoint is None or not verify:
            pass
        elif reason := _cannot_run(part, out, sidecar):
            unchecked = reason if made.report is not None else f"{unchecked}; {reason}"
        else:
            progress(Step("verify the engine against PyTorch"))
            session = SessionOptions(threads=threads, allow_engine_code=True)
            report = checked(part, made.checkpoint, out, session, quantize)
            sidecar = replace(sidecar, parity=report.summary())
            write_sidecar(part, sidecar)
        size = part.stat().st_size
    return ExportResult(
        path=out,
        manifest=made.artifact.manifest,
        size=size,
        report=made.report,
        sidecar=sidecar,
        engine_report=report,
        unchecked=unchecked,
        gates=made.gates,
    )


def proving_backend(precision: PrecisionName) -> Backend:
    """What an ``.onnx`` file is proven on where nobody chose; see ``export_checkpoint``."""
    real = precision == "bf16" and computes_bf16(cpu_flags()) and native.find_extension() is not None
    return "openvino" if real and not BACKENDS["openvino"].missing() else "onnxruntime"


@dataclass(frozen=True)
class Job:
    """What all kinds of export are asked for; see ``export_checkpoint``."""

    source: str | Path | Checkpoint
    out: Path
    options: OnnxOptions
    quantize: QuantizeOptions | None
    verify: bool
    threads: int | None
    progress: Progress
    backend: Backend = "onnxruntime"

    def __post_init__(self) -> None:
        precision = self.options.precision
        if precision in EIGHT_BIT and self.quantize is None:
            raise UsageError(
                f"{precision} needs images to choose its ranges with; add --calib with a folder or an .npz"
            )
        if precision not in EIGHT_BIT and self.quantize is not None:
            raise UsageError(
                f"the precision is {precision}, but calibration is for {' and '.join(EIGHT_BIT)}; drop --calib, or add "
                "--precision int8"
            )
        require("exporting a checkpoint", "torch", "onnxscript")
        wanted: tuple[Backend, ...] = (self.backend,) if self.verify else ()
        wanted += ("onnxruntime",) if self.quantize else ()
        for record in (BACKENDS[name] for name in wanted):
            if record.missing():
                raise MissingDependency(
                    f"verification and calibration need {record.title}, which is not installed; "
                    f"run: {record.install}, or export fp32, fp16 or bf16 with --no-verify"
                )


@dataclass(frozen=True)
class Made:
    """What came of a checkpoint, and what is known about it; see ``ExportResult``. An ``.onnx`` source has none."""

    artifact: OnnxArtifact
    checkpoint: Checkpoint | None = None
    report: VerifyReport | None = None
    gates: GateResult | None = None


def make(job: Job, part: Path, *, for_engine: EngineOptions | None = None) -> Made:
    """Convert a checkpoint and prove what is asked for; ``part`` is then the finished ONNX file."""
    job.progress(Step("load checkpoint"))
    checkpoint = job.source if isinstance(job.source, Checkpoint) else load_checkpoint(job.source)
    if job.out.exists() and checkpoint.path.exists() and job.out.samefile(checkpoint.path):
        raise UsageError(f"the output {job.out} is the checkpoint itself; choose another name with --out")
    if for_engine is not None:
        check_plugin(replace(manifest_from_checkpoint(checkpoint), portable=job.options.portable), for_engine)
    gates = None
    if job.quantize is None:
        artifact = onnx_from_checkpoint(checkpoint, job.options, job.progress)
        artifact.write(part)
    else:
        artifact, gates = _quantized(job, job.quantize, checkpoint, part, for_engine=for_engine is not None)
    report = None
    if job.verify:
        job.progress(Step("verify against PyTorch"))
        session = SessionOptions(threads=job.threads, backend=job.backend)
        report = checked(part, checkpoint, job.out, session, job.quantize)
        artifact = artifact.described(parity=report.summary())
    artifact.seal(part)
    return Made(artifact, checkpoint, report, gates)


def _quantized(
    job: Job, quantize: QuantizeOptions, checkpoint: Checkpoint, part: Path, *, for_engine: bool
) -> tuple[OnnxArtifact, GateResult]:
    """Convert a checkpoint to 8 bits, and measure what is written to ``part`` against the fp32 file."""
    precision = job.options.precision
    assert precision == "int8" or precision == "fp8"
    manifest = described(checkpoint, job.options)
    check_precision(manifest.task, precision)  # minutes before the conversion is through
    job.progress(Step("load the calibration images"))
    images = images_of(quantize.calib, manifest, quantize.limit)
    reference = onnx_from_checkpoint(checkpoint, replace(job.options, precision="fp32"), job.progress)
    base = reference
    if for_engine or precision == "fp8":  # what surrounds the products is for a GPU; a CPU is fastest in float32
        base = onnx_from_checkpoint(checkpoint, replace(job.options, precision="fp16"), job.progress)
    artifact = quantize_model(reference, base, images, quantize, precision, job.threads, job.progress)
    artifact.write(part)
    with scratch_folder() as scratch:  # speed is measured in other processes
        wide = scratch / "fp32.onnx"
        reference.write(wide)
        gates = gated(
            part, wide, images, quantize, job.threads, backend=job.backend, engine=for_engine, progress=job.progress
        )
    return with_gates(artifact, gates), gates


def checked(
    part: Path,
    checkpoint: Checkpoint,
    out: Path,
    options: SessionOptions,
    quantize: QuantizeOptions | None,
) -> VerifyReport:
    report = replace(verify_artifact(part, checkpoint, options=options), artifact=str(out))
    if report.verdict == "pass" or (quantize is not None and quantize.force):  # the summary shows what it failed by
        return report
    advice = "; --force writes it all the same" if quantize else ""
    raise ParityFailed(f"{out} was not written: {'; '.join(report.reasons)}{advice}", report)


def _cannot_run(engine: Path, final: Path, sidecar: Sidecar) -> str:
    """Why an engine that was just built cannot run here; empty when it can."""
    if find_gpu() is None:
        return "no GPU here, so the engine itself was not run"
    try:
        preflight(engine, sidecar, this_host(), allow_host_code=True)
    except LitDeployError as error:
        sentence = str(error).replace(str(engine), str(final)).partition("; build it again")[0]
        return f"the engine itself was not run: {sentence}"
    if sidecar.plugin is not None and sidecar.build.backend == "tensorrt_rtx" and not trt.rtx_library_is_found():
        return f"the engine itself was not run: start the process with LD_LIBRARY_PATH={trt.rtx_library_folder()}"
    return ""
