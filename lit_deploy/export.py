"""Export workflows: convert, prove parity on the written bytes, and only then give the files their names."""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_deploy import trt
from lit_deploy.artifact import Manifest, atomic_path, check_target, manifest_of, metadata_of, read_onnx, set_manifest
from lit_deploy.calibration import calibration_images
from lit_deploy.checkpoints import Checkpoint, load_checkpoint
from lit_deploy.cuda import find_gpu
from lit_deploy.errors import LitDeployError, MissingDependency, ParityFailed, UsageError
from lit_deploy.exporters.onnx import OnnxOptions, input_spec, onnx_from_checkpoint, write_onnx
from lit_deploy.exporters.tensorrt import EngineOptions, engine_from_onnx, ready_to_build
from lit_deploy.gates import GateResult
from lit_deploy.quantize import QuantizeOptions, gated, quantize_model, with_gates
from lit_deploy.runtime.session import SessionOptions
from lit_deploy.sidecar import ENGINE_SUFFIXES, Sidecar, onnx_path, preflight, sidecar_path, this_host
from lit_deploy.specs import EIGHT_BIT, Progress
from lit_deploy.verify import VerifyReport, verify_artifact


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        path: the file; ``size``: in bytes.
        manifest: what it says about itself; ``sidecar``: of an engine, else None.
        report: how the ONNX file compares with PyTorch, or None when that was not checked.
        engine_report: the same for the engine itself; None for an ONNX file, and where no GPU could run the engine.
        unchecked: why a report is None; empty when none is missing.
        gates: how an 8-bit file compares with the unquantised one; None for the others.
    """

    path: Path
    manifest: Manifest
    size: int
    report: VerifyReport | None
    sidecar: Sidecar | None = None
    engine_report: VerifyReport | None = None
    unchecked: str = ""
    gates: GateResult | None = None


def export_checkpoint(
    source: str | Path,
    out: str | Path,
    options: OnnxOptions | None = None,
    *,
    quantize: QuantizeOptions | None = None,
    verify: bool = True,
    threads: int | None = None,
    progress: Progress = lambda step: None,
) -> ExportResult:
    """Write a checkpoint as an ``.onnx`` file.

    An 8-bit file is made of the fp32 file (fp8: of the fp16 file), and compared with the fp32 file on the calibration
    images in accuracy, and in speed on ONNX Runtime.

    Args:
        source: checkpoint file, official name (``lit_s``) or https URL.
        out: file to write; it appears whole, or not at all.
        options: what to write.
        quantize: images and limits, for ``int8`` and ``fp8``.
        verify: compare the written file with PyTorch before it gets its name.
        threads: threads of the verification.
        progress: called with the name of each step as it begins.

    Raises:
        ParityFailed: the file does not compute what PyTorch computes, or that cannot be told; nothing is written.
        GateFailed: the 8-bit file changes too many predictions, or is slower than fp32; nothing is written.
        UsageError, CheckpointError, ImageError, ExportError, MissingDependency: as their names say; nothing is written.
    """
    out, options = Path(out), options or OnnxOptions()
    if out.suffix.lower() != ".onnx":
        raise UsageError(f"the output is {out.name}, expected a name that ends in .onnx")
    job = _Job(source, out, options, quantize, verify, threads, progress)
    with atomic_path(out) as part:
        proto, manifest, report, gates = _converted(job, part, engine=False)
        write_onnx(proto, part)
        size = part.stat().st_size
    return ExportResult(out, manifest, size, report, unchecked="" if verify else "--no-verify", gates=gates)


def export_engine(
    source: str | Path,
    out: str | Path,
    options: OnnxOptions | None = None,
    engine: EngineOptions | None = None,
    *,
    quantize: QuantizeOptions | None = None,
    verify: bool = True,
    threads: int | None = None,
    progress: Progress = lambda step: None,
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
    report, gates, unchecked = None, None, "--no-verify"
    if given:
        proto = read_onnx(Path(source))
        manifest = manifest_of(metadata_of(proto), Path(source))
        unchecked = f"{Path(source).name} was taken as it is"
    else:
        if options.batch is not None and engine.profile is not None:
            raise UsageError(f"a batch of {options.batch} is asked for and a profile as well; give one of the two")
        # minutes before the builder would say the same
        ready_to_build(engine, portable=options.portable, precision=options.precision)
        job = _Job(source, out, options, quantize, verify, threads, progress)
        with tempfile.TemporaryDirectory(prefix="lit-deploy-") as scratch:
            proto, manifest, report, gates = _converted(job, Path(scratch) / onnx_path(out).name, engine=True)
    model: bytes = proto.SerializeToString()
    content, sidecar = engine_from_onnx(model, manifest, out.name, engine, progress)  # nothing is on disk meanwhile
    with _atomic_family(out) as (part, model_part, sidecar_part):
        part.write_bytes(content)
        model_part.write_bytes(model)
        sidecar_part.write_text(sidecar.to_json() + "\n", encoding="utf-8")
        engine_report = None
        if verify and not given and (reason := _cannot_run(part, out, sidecar)):
            unchecked = reason if report is not None else f"{unchecked}; {reason}"
        elif verify and not given:
            progress("verify the engine against PyTorch")
            session = SessionOptions(threads=threads, allow_engine_code=True)
            engine_report = _checked(part, source, out, session, quantize)
            sidecar = replace(sidecar, parity=engine_report.summary())
            sidecar_part.write_text(sidecar.to_json() + "\n", encoding="utf-8")
    return ExportResult(out, manifest, len(content), report, sidecar, engine_report, unchecked, gates)


@dataclass(frozen=True)
class _Job:
    """What both kinds of export are asked for; see ``export_checkpoint``."""

    source: str | Path
    out: Path
    options: OnnxOptions
    quantize: QuantizeOptions | None
    verify: bool
    threads: int | None
    progress: Progress

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
        if (self.verify or self.quantize) and importlib.util.find_spec("onnxruntime") is None:
            raise MissingDependency(
                "verification and calibration need ONNX Runtime, which is not installed; "
                "run: pip install 'lit-deploy[ort]', or export fp32, fp16 or bf16 with --no-verify"
            )


def _converted(job: _Job, part: Path, *, engine: bool) -> tuple[Any, Manifest, VerifyReport | None, GateResult | None]:
    """Convert a checkpoint, and, when asked, check what was written to ``part``; the manifest then says so."""
    job.progress("load checkpoint")
    checkpoint = load_checkpoint(job.source)
    if job.out.exists() and job.out.samefile(checkpoint.path):
        raise UsageError(f"the output {job.out} is the checkpoint itself; choose another name with --out")
    gates = None
    if job.quantize is None:
        proto, manifest = onnx_from_checkpoint(checkpoint, job.options, job.progress)
    else:
        proto, manifest, gates = _quantized(job, job.quantize, checkpoint, part, engine=engine)
    if not job.verify:
        return proto, manifest, None, gates
    write_onnx(proto, part)
    job.progress("verify against PyTorch")
    report = _checked(part, checkpoint.path, job.out, SessionOptions(threads=job.threads), job.quantize)
    manifest = replace(manifest, parity=report.summary())
    set_manifest(proto, manifest)
    return proto, manifest, report, gates


def _quantized(
    job: _Job, quantize: QuantizeOptions, checkpoint: Checkpoint, part: Path, *, engine: bool
) -> tuple[Any, Manifest, GateResult]:
    """Convert a checkpoint to 8 bits, and measure what was written to ``part`` against the fp32 file."""
    precision = job.options.precision
    assert precision == "int8" or precision == "fp8"
    job.progress("load the calibration images")
    images = calibration_images(quantize.calib, input_spec(checkpoint.spec, job.options), quantize.limit)
    proto, manifest = onnx_from_checkpoint(checkpoint, replace(job.options, precision="fp32"), job.progress)
    with tempfile.TemporaryDirectory(prefix="lit-deploy-") as scratch:
        reference = Path(scratch) / "fp32.onnx"
        write_onnx(proto, reference)
        if engine or precision == "fp8":  # what surrounds the products is for a GPU; a CPU is fastest in float32
            proto, manifest = onnx_from_checkpoint(checkpoint, replace(job.options, precision="fp16"), job.progress)
        proto, manifest = quantize_model(
            reference, proto, manifest, images, quantize, precision, job.threads, job.progress
        )
        write_onnx(proto, part)
        gates = gated(part, reference, images, quantize, job.threads, engine=engine, progress=job.progress)
    manifest = with_gates(manifest, gates)
    set_manifest(proto, manifest)
    return proto, manifest, gates


def _checked(
    part: Path, checkpoint: str | Path, out: Path, options: SessionOptions, quantize: QuantizeOptions | None
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


@contextlib.contextmanager
def _atomic_family(out: Path) -> Iterator[tuple[Path, Path, Path]]:
    """Temporary paths of an engine, its ONNX file and its sidecar; they get their names when all three are whole.

    Should the process die between two renames, an older engine is left with a newer sidecar. That is never mistaken
    for a pair: a sidecar holds the hash of its engine.
    """
    with contextlib.ExitStack() as stack:
        part = stack.enter_context(atomic_path(out))
        model_part = stack.enter_context(atomic_path(onnx_path(out), part=onnx_path(part)))
        sidecar_part = stack.enter_context(atomic_path(sidecar_path(out), part=sidecar_path(part)))
        yield part, model_part, sidecar_part
