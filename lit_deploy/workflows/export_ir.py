"""Export to an OpenVINO IR, for services that have OpenVINO and no ONNX."""

from __future__ import annotations

from pathlib import Path

from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.artifacts.openvino_file import IR_SUFFIX, seal_ir, weights_path
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import UsageError
from lit_deploy.core.files import check_target, scratch_folder
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.exporters.openvino import written_ir
from lit_deploy.exporters.options import OnnxOptions
from lit_deploy.machine.packages import require
from lit_deploy.quantize.run import QuantizeOptions
from lit_deploy.workflows.export import ExportResult, Job, Made, checked, make


def export_ir(
    source: str | Path,
    out: str | Path,
    options: OnnxOptions | None = None,
    *,
    quantize: QuantizeOptions | None = None,
    verify: bool = True,
    threads: int | None = None,
    progress: Progress = unseen,
) -> ExportResult:
    """Write an OpenVINO IR, ``<out>`` and its weights ``.bin`` beside it, and prove it on OpenVINO.

    With our extension the network calls our operators, and needs the extension wherever it runs; where that was not
    built, or with ``options.portable``, it consists of standard operators.

    Args:
        source: checkpoint file, official name, https URL, or an ``.onnx`` file that ``export_checkpoint`` wrote; the
            latter needs no PyTorch, and is taken as it is.
        out: file to write, ending in ``.xml``; both files appear when they are whole, or not at all.
        options: what the network is to be; not for an ``.onnx`` source, which is already what it is.
        quantize, verify, threads, progress: see ``export_checkpoint``.

    Raises:
        ParityFailed, GateFailed, UsageError, CheckpointError, ArtifactError, ExportError, MissingDependency: as their
            names say; nothing is written.
    """
    out = Path(out)
    if out.suffix.lower() != IR_SUFFIX:
        raise UsageError(f"the output is {out.name}, expected a name that ends in {IR_SUFFIX}")
    given = Path(source).suffix.lower() == ".onnx"
    if given and options is not None:
        raise UsageError(f"{source} is exported already, so what is in its graph cannot be chosen any more")
    options = options or OnnxOptions()
    for target in (out, weights_path(out)):
        check_target(target)
    require("writing an OpenVINO IR", "openvino")
    if given:
        made = Made(OnnxArtifact.read(Path(source)))
    else:
        job = Job(
            source=source, out=out, options=options, quantize=quantize, verify=False, threads=threads,
            progress=progress, backend="openvino",
        )  # fmt: skip
        with scratch_folder() as scratch:
            made = make(job, scratch / "network.onnx")
    if made.artifact.manifest.precision == "fp8":
        raise UsageError("OpenVINO's CPU has no products of 8-bit floats; use --precision int8")
    progress(Step("convert to OpenVINO"))
    with written_ir(made.artifact, out) as (part, artifact, extension):
        report = None
        if made.checkpoint is not None and verify:
            progress(Step("verify against PyTorch"))
            session = SessionOptions(threads=threads, backend="openvino")
            report = checked(part, made.checkpoint, out, session, quantize)
            artifact = artifact.described(parity=report.summary())
            seal_ir(part, artifact.manifest, extension)
        size = part.stat().st_size + weights_path(part).stat().st_size
    return ExportResult(
        path=out,
        manifest=artifact.manifest,
        size=size,
        report=report,
        unchecked=f"{Path(source).name} was taken as it is" if given else "" if verify else "--no-verify",
        gates=made.gates,
        extension=extension,
    )
