"""Export workflow: convert, prove parity on the written bytes, and only then give the file its name."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

from lit_deploy.artifact import Manifest, atomic_path, set_manifest
from lit_deploy.checkpoints import load_checkpoint
from lit_deploy.errors import MissingDependency, ParityFailed, UsageError
from lit_deploy.exporters.onnx import OnnxOptions, onnx_from_checkpoint, write_onnx
from lit_deploy.runtime.session import SessionOptions
from lit_deploy.specs import Progress
from lit_deploy.verify import VerifyReport, verify_artifact


@dataclass(frozen=True)
class ExportResult:
    """What was written: its path, its manifest, its size in bytes, and the parity report unless it was skipped."""

    path: Path
    manifest: Manifest
    size: int
    report: VerifyReport | None


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
    out = Path(out)
    if out.suffix.lower() != ".onnx":
        raise UsageError(f"the output is {out.name}, expected a name that ends in .onnx")
    if verify and importlib.util.find_spec("onnxruntime") is None:
        raise MissingDependency(
            "verification needs ONNX Runtime, which is not installed; "
            "run: pip install 'lit-deploy[ort]', or export with --no-verify"
        )
    with atomic_path(out) as part:
        progress("load checkpoint")
        checkpoint = load_checkpoint(source)
        if out.exists() and out.samefile(checkpoint.path):
            raise UsageError(f"the output {out} is the checkpoint itself; choose another name with --out")
        proto, manifest = onnx_from_checkpoint(checkpoint, options or OnnxOptions(), progress)
        write_onnx(proto, part)
        report = None
        if verify:
            progress("verify against PyTorch")
            report = verify_artifact(part, checkpoint.path, options=SessionOptions(threads=threads))
            report = replace(report, artifact=str(out))
            if report.verdict != "pass":
                raise ParityFailed(f"{out} was not written: {'; '.join(report.reasons)}", report)
            manifest = replace(manifest, parity=report.summary())
            set_manifest(proto, manifest)
            write_onnx(proto, part)
        size = part.stat().st_size
    return ExportResult(out, manifest, size, report)
