"""What a benchmark measures: the contenders of one checkpoint, or of named files, on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lit_deploy import native
from lit_deploy.artifact import read_manifest
from lit_deploy.doctor import cpp_compiler, installed_version
from lit_deploy.errors import UsageError
from lit_deploy.key_layout import OFFICIAL_SPECS
from lit_deploy.runtime.session import Device

Kind = Literal["torch", "torch.compile", "onnxruntime", "onnxruntime-stock", "openvino"]
INSTALL_ORT = "not installed: pip install 'lit-deploy[ort]'"


@dataclass(frozen=True)
class Contender:
    """Something to measure.

    Attributes:
        label: its name in tables; unique within a benchmark.
        source: checkpoint or exported file.
        kind: what runs it: ``torch`` (eager), ``torch.compile``, ``onnxruntime`` (with the custom-op library),
            ``onnxruntime-stock`` (without it), ``openvino`` (portable files).
        device: ``cpu`` or ``cuda``.
        unavailable: why it cannot run here; it is then listed with this reason and not started.
        compared: False for a deliberate lower bound that computes something else, whose outputs are not checked.
    """

    label: str
    source: str | Path
    kind: Kind
    device: Device = "cpu"
    unavailable: str | None = None
    compared: bool = True


def default_contenders(
    folder: Path,
    checkpoint: str | Path | None = None,
    device: Device = "cpu",
    progress: Callable[[str], None] = lambda step: None,
) -> tuple[Contender, ...]:
    """Export a checkpoint and list everything that could run it on this machine.

    Args:
        folder: existing directory for the exported files.
        checkpoint: checkpoint file, official name or URL; None for LIT-S with seeded weights.
        device: where to run; OpenVINO and the custom-op library serve ``cpu`` only.
        progress: called with the name of each step as it begins.
    """
    from lit_deploy.checkpoints import load_checkpoint
    from lit_deploy.exporters.onnx import OnnxOptions, onnx_from_checkpoint, write_onnx
    from lit_deploy.seeded import make_state, save_checkpoint

    if checkpoint is None:
        progress("draw seeded weights of LIT-S")
        checkpoint = folder / "lit_s.pth"
        save_checkpoint(make_state(OFFICIAL_SPECS["lit_s"]), checkpoint, form="model")
    loaded = load_checkpoint(checkpoint)
    exported, portable = folder / f"{loaded.spec.name}.onnx", folder / f"{loaded.spec.name}_portable.onnx"
    for path, options in ((exported, OnnxOptions()), (portable, OnnxOptions(portable=True))):
        progress(f"export {path.name}")
        write_onnx(onnx_from_checkpoint(loaded, options)[0], path)
    compiler = None if cpp_compiler() or device == "cuda" else "needs a C++ compiler: apt install g++"
    return (
        Contender("PyTorch eager", loaded.path, "torch", device),
        Contender("PyTorch torch.compile", loaded.path, "torch.compile", device, compiler),
        _with_library("ONNX Runtime + lit-deploy kernel", exported, device),
        Contender("ONNX Runtime", exported, "onnxruntime-stock", device, _missing_ort()),
        _on_openvino("OpenVINO", portable, device),
    )


def contenders_for(
    artifacts: Sequence[str | Path], checkpoint: str | Path | None = None, device: Device = "cpu"
) -> tuple[Contender, ...]:
    """List the contenders for named files.

    Args:
        artifacts: exported files (each runs with and without the custom-op library; a portable one on stock ONNX
            Runtime and OpenVINO) or checkpoints (PyTorch eager).
        checkpoint: a checkpoint that PyTorch runs as the baseline.
        device: where to run.

    Raises:
        UsageError: no file given. ArtifactError: a file is damaged or not from lit-deploy.
    """
    contenders = [] if checkpoint is None else [Contender("PyTorch eager", checkpoint, "torch", device)]
    names = [Path(artifact).name for artifact in artifacts]
    for artifact, name in zip(artifacts, names, strict=True):
        shown = str(artifact) if names.count(name) > 1 else name
        if Path(artifact).suffix.lower() != ".onnx":
            contenders.append(Contender(f"{shown}, PyTorch eager", artifact, "torch", device))
            continue
        stock = Contender(f"{shown}, ONNX Runtime", artifact, "onnxruntime-stock", device, _missing_ort())
        if read_manifest(Path(artifact)).portable:
            contenders += [stock, _on_openvino(f"{shown}, OpenVINO", artifact, device)]
        else:
            contenders += [_with_library(f"{shown}, ONNX Runtime + lit-deploy kernel", artifact, device), stock]
    if not contenders:
        raise UsageError("got no file to benchmark; name .onnx files or a checkpoint, or none at all for LIT-S")
    return tuple(contenders)


def _missing_ort() -> str | None:
    return None if installed_version("onnxruntime") or installed_version("onnxruntime-gpu") else INSTALL_ORT


def _with_library(label: str, source: str | Path, device: Device) -> Contender:
    reason = _missing_ort()
    if device != "cpu":
        reason = "the custom-op library holds a CPU kernel only"
    elif native.find_library() is None:
        reason = f"the custom-op library is not built: {native.BUILD_COMMAND}"
    return Contender(label, source, "onnxruntime", device, reason)


def _on_openvino(label: str, source: str | Path, device: Device) -> Contender:
    reason = None if installed_version("openvino") else "not installed: pip install openvino"
    return Contender(label, source, "openvino", device, reason if device == "cpu" else "measured on the CPU only")
