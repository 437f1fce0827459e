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
from lit_deploy.checkpoints import load_checkpoint
from lit_deploy.cuda import find_gpu
from lit_deploy.errors import LitDeployError, MissingDependency, ParityFailed, UsageError
from lit_deploy.exporters.onnx import OnnxOptions, onnx_from_checkpoint, write_onnx
from lit_deploy.exporters.tensorrt import EngineOptions, engine_from_onnx, ready_to_build
from lit_deploy.runtime.session import SessionOptions
from lit_deploy.sidecar import ENGINE_SUFFIXES, Sidecar, onnx_path, preflight, sidecar_path, this_host
from lit_deploy.specs import Progress
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
    """

    path: Path
    manifest: Manifest
    size: int
    report: VerifyReport | None
    sidecar: Sidecar | None = None
    engine_report: VerifyReport | None = None
    unchecked: str = ""


def export_checkpoint(
    source: str | Path,
    out: str | Path,
    options: OnnxOptions | None = None,
    *,
    verify: bool = True,
    threads: int | None = None,
    progress: Progress = lambda step: None,
) -> ExportResult:
    """Write a checkpoint as an ``.onnx`` file.

    Args:
        source: checkpoint file, official name (``lit_s``) or https URL.
        out: file to write; it appears whole, or not at all.
        options: what to write.
        verify: compare the written file with PyTorch before it gets its name.
        threads: threads of the verification.
        progress: called with the name of each step as it begins.

    Raises:
        ParityFailed: the file does not compute what PyTorch computes, or that cannot be told; nothing is written.
        UsageError, CheckpointError, ExportError, MissingDependency: as their names say; nothing is written.
    """
    out, options = Path(out), options or OnnxOptions()
    if out.suffix.lower() != ".onnx":
        raise UsageError(f"the output is {out.name}, expected a name that ends in .onnx")
    if options.precision == "bf16":
        raise UsageError("no ONNX Runtime computes in bf16 on a CPU; bf16 is for engines: add --format trt")
    if verify:
        _require_onnxruntime()
    with atomic_path(out) as part:
        proto, manifest, report = _converted(source, out, part, options, verify, threads, progress)
        write_onnx(proto, part)
        size = part.stat().st_size
    return ExportResult(out, manifest, size, report, unchecked="" if verify else "--no-verify")


def export_engine(
    source: str | Path,
    out: str | Path,
    options: OnnxOptions | None = None,
    engine: EngineOptions | None = None,
    *,
    verify: bool = True,
    threads: int | None = None,
    progress: Progress = lambda step: None,
) -> ExportResult:
    """Build a TensorRT engine, its sidecar ``<out>.json``, and the ONNX file that it was made from, ``<out>.onnx``.

    The ONNX file is compared with PyTorch on ONNX Runtime (fp32 and fp16; it computes no bf16 on a CPU), and the engine
    on the GPU where one is here that it was built for.

    Args:
        source: checkpoint file, official name, https URL, or an ``.onnx`` file that ``export_checkpoint`` wrote; the
            latter needs no PyTorch, and is taken as it is.
        out: engine to write, ending in ``.engine`` or ``.plan``; the three files appear when all of them are whole.
        options: what the ONNX file is to be; not for an ``.onnx`` source, which is already what it is.
        engine: how to build.
        verify, threads, progress: see ``export_checkpoint``.

    Raises:
        BuildFailed: the builder refused or died. ParityFailed: PyTorch computes something else. Nothing is written.
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
    report, unchecked = None, "--no-verify"
    if given:
        proto = read_onnx(Path(source))
        manifest = manifest_of(metadata_of(proto), Path(source))
        unchecked = f"{Path(source).name} was taken as it is"
    else:
        if options.batch is not None and engine.profile is not None:
            raise UsageError(f"a batch of {options.batch} is asked for and a profile as well; give one of the two")
        ready_to_build(engine, portable=options.portable)  # minutes before the builder would say the same
        check = verify and options.precision != "bf16"
        if check:
            _require_onnxruntime()
        elif verify:
            unchecked = "ONNX Runtime computes no bf16 on a CPU"
        with tempfile.TemporaryDirectory(prefix="lit-deploy-") as scratch:
            part = Path(scratch) / onnx_path(out).name
            proto, manifest, report = _converted(source, out, part, options, check, threads, progress)
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
            engine_report = _checked(part, source, out, SessionOptions(threads=threads, allow_engine_code=True))
            sidecar = replace(sidecar, parity=engine_report.summary())
            sidecar_part.write_text(sidecar.to_json() + "\n", encoding="utf-8")
    return ExportResult(out, manifest, len(content), report, sidecar, engine_report, unchecked)


def _converted(
    source: str | Path,
    out: Path,
    part: Path,
    options: OnnxOptions,
    verify: bool,
    threads: int | None,
    progress: Progress,
) -> tuple[Any, Manifest, VerifyReport | None]:
    """Convert a checkpoint, and, when asked, check what was written to ``part``; the manifest then says so."""
    progress("load checkpoint")
    checkpoint = load_checkpoint(source)
    if out.exists() and out.samefile(checkpoint.path):
        raise UsageError(f"the output {out} is the checkpoint itself; choose another name with --out")
    proto, manifest = onnx_from_checkpoint(checkpoint, options, progress)
    if not verify:
        return proto, manifest, None
    write_onnx(proto, part)
    progress("verify against PyTorch")
    report = _checked(part, checkpoint.path, out, SessionOptions(threads=threads))
    manifest = replace(manifest, parity=report.summary())
    set_manifest(proto, manifest)
    return proto, manifest, report


def _checked(part: Path, checkpoint: str | Path, out: Path, options: SessionOptions) -> VerifyReport:
    report = replace(verify_artifact(part, checkpoint, options=options), artifact=str(out))
    if report.verdict != "pass":
        raise ParityFailed(f"{out} was not written: {'; '.join(report.reasons)}", report)
    return report


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


def _require_onnxruntime() -> None:
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingDependency(
            "verification needs ONNX Runtime, which is not installed; "
            "run: pip install 'lit-deploy[ort]', or export with --no-verify"
        )
