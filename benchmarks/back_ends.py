"""Measure what our operators give to a LIT on this machine's CPU, on OpenVINO and on ONNX Runtime.

1. Back ends and precisions: LIT-S in fp32, bf16 and int8 on OpenVINO with our operators and without them, on ONNX
   Runtime and in PyTorch, all in turns.
2. The attention operator: every classifier's fp32 file on ONNX Runtime, against the same file with its attention in
   standard operators.
3. Accuracy of bfloat16 on OpenVINO, with our operators and without them.

    python benchmarks/back_ends.py [--threads 2] [--rounds 20] [--folder benchmarks/results]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from precision import photo_images, photographs
from precision_speed import export_8bit

from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.bench.contenders import Contender, Kind
from lit_deploy.bench.result import BenchReport
from lit_deploy.bench.run import run_bench
from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.checkpoints.seeded import make_state, save_checkpoint
from lit_deploy.core.errors import LitDeployError, MissingDependency
from lit_deploy.core.files import write_text
from lit_deploy.core.progress import Progress, Step
from lit_deploy.exporters.onnx import onnx_from_checkpoint, portable
from lit_deploy.exporters.options import OnnxOptions
from lit_deploy.machine import native
from lit_deploy.machine.facts import computes_bf16, cpu_flags
from lit_deploy.models.families import OFFICIAL_SPECS, default_input
from lit_deploy.ops.relative_position_attention.small_maps import decomposed
from lit_deploy.report.bench import bench_markdown
from lit_deploy.report.terminal import as_json, show, steps
from lit_deploy.workflows.verify import verify_artifact

TIMED = "lit_s"
CLASSIFIERS = ("lit_ti", "lit_s", "lit_m", "lit_b")
BATCHES = (1, 8)
ORT = "fp32, ONNX Runtime + lit-deploy kernels"
PAIRS = (
    ("fp32, OpenVINO + lit-deploy kernels", "fp32, OpenVINO"),
    ("bf16, OpenVINO + lit-deploy kernels", "bf16, OpenVINO"),
    ("int8, OpenVINO + lit-deploy kernels", "int8, OpenVINO"),
    ("fp32, OpenVINO + lit-deploy kernels", ORT),
    ("bf16, OpenVINO + lit-deploy kernels", ORT),
    ("int8, OpenVINO + lit-deploy kernels", ORT),
    ("int8 and bf16, OpenVINO + lit-deploy kernels", ORT),
    ("bf16, OpenVINO + lit-deploy kernels", "PyTorch eager"),
    ("int8 and bf16, OpenVINO + lit-deploy kernels", "PyTorch eager"),
)
"""What is compared: a contender, and what it is faster than."""


@dataclass(frozen=True)
class Ratio:
    """How much faster one contender is than another.

    Attributes:
        median, lower, upper: of the ratios of both contenders' times, round by round; quartiles.
    """

    faster: str
    slower: str
    batch: int
    median: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Bfloat16:
    """How close bfloat16 on OpenVINO comes to PyTorch: the worst image's cosine of the logits, on seeded images."""

    network: str
    kernels: bool
    cosine: float
    relative: float


@dataclass(frozen=True)
class OpenVinoReport:
    """Everything that was measured; ``speed`` says on which machine. ``attention`` is by network."""

    speed: BenchReport
    ratios: tuple[Ratio, ...]
    attention: dict[str, tuple[Ratio, ...]]
    bfloat16: tuple[Bfloat16, ...]


def main() -> int:
    """Run everything and write back_ends_cpu.json and .md; 2 if something is missing."""
    parser = argparse.ArgumentParser(description="Measure our operators on OpenVINO and ONNX Runtime.")
    parser.add_argument("--rounds", type=int, default=20, help="turns of every contender [default: 20]")
    parser.add_argument("--threads", type=int, default=2, help="threads of every session [default: 2]")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "results", help="where results go")
    arguments = parser.parse_args()
    try:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        for found, name in ((native.find_library(), "custom-op library"), (native.find_extension(), "extension")):
            if found is None:
                raise MissingDependency(f"the {name} is not built: {native.BUILD_COMMAND}")
        with tempfile.TemporaryDirectory(prefix="lit-deploy-bench-") as work, steps() as progress:
            report = measure(Path(work), arguments.threads, arguments.rounds, progress)
    except LitDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    write_text(as_json(report), arguments.folder / "back_ends_cpu.json")
    write_text(markdown(report), arguments.folder / "back_ends_cpu.md")
    show(markdown(report))
    return 0


def measure(work: Path, threads: int, rounds: int, progress: Progress) -> OpenVinoReport:
    """Measure all of it; files are made in ``work``."""
    attention: dict[str, tuple[Ratio, ...]] = {}
    accuracy: list[Bfloat16] = []
    for name in CLASSIFIERS:
        progress(Step(f"export {name}"))
        checkpoint = work / f"{name}.pth"
        save_checkpoint(make_state(OFFICIAL_SPECS[name]), checkpoint, form="model")
        artifact = onnx_from_checkpoint(load_checkpoint(checkpoint), OnnxOptions())
        files = {"fp32": artifact, "standard": OnnxArtifact(decomposed(artifact.graph), artifact.manifest)}
        paths = {key: work / f"{name}_{key}.onnx" for key in (*files, "portable")}
        for key, each in files.items():
            each.write(paths[key])
        portable(artifact).write(paths["portable"])
        ours, before = "attention operator", "attention in standard operators"
        chosen = [Contender(before, paths["standard"], "onnxruntime"), Contender(ours, paths["fp32"], "onnxruntime")]
        report = run_bench(chosen, BATCHES, threads=threads, rounds=rounds, progress=progress)
        attention[name] = tuple(ratios(report, [(ours, before)]))
        if computes_bf16(cpu_flags()):
            progress(Step(f"accuracy of {name} in bfloat16"))
            for kernels, path in ((True, paths["fp32"]), (False, paths["portable"])):
                options = SessionOptions(threads=threads, backend="openvino", precision_hint="bf16")
                found = verify_artifact(path, checkpoint, options=options).output
                accuracy.append(Bfloat16(name, kernels, found.cosine, found.relative))
        if name == TIMED:
            speed = timed(work, checkpoint, paths, threads, rounds, progress)
        for path in work.glob(f"{name}*"):
            path.unlink()
    return OpenVinoReport(speed, tuple(ratios(speed, PAIRS)), attention, tuple(accuracy))


def timed(
    work: Path, checkpoint: Path, paths: dict[str, Path], threads: int, rounds: int, progress: Progress
) -> BenchReport:
    """Every back end and precision, in turns."""
    calibration, _ = photo_images(list(photographs().values()), work, default_input(OFFICIAL_SPECS[TIMED]))
    int8 = {form: work / f"{TIMED}_int8_{form}.onnx" for form in ("ordinary", "portable")}
    for form, source in (("ordinary", paths["fp32"]), ("portable", paths["portable"])):
        export_8bit(source, source, int8[form], calibration, "int8", threads, progress)
    kernels: Kind = "openvino-kernels"
    chosen = [
        Contender("PyTorch eager", checkpoint, "torch"),
        Contender(ORT, paths["fp32"], "onnxruntime"),
        Contender("int8, ONNX Runtime + lit-deploy kernels", int8["ordinary"], "onnxruntime", compared=False),
        Contender("fp32, OpenVINO", paths["portable"], "openvino"),
        Contender("fp32, OpenVINO + lit-deploy kernels", paths["fp32"], kernels),
        Contender("int8, OpenVINO", int8["portable"], "openvino", compared=False),
        Contender("int8, OpenVINO + lit-deploy kernels", int8["ordinary"], kernels, compared=False),
    ]
    if computes_bf16(cpu_flags()):
        chosen += [
            Contender("bf16, OpenVINO", paths["portable"], "openvino-bf16"),
            Contender("bf16, OpenVINO + lit-deploy kernels", paths["fp32"], "openvino-bf16"),
            Contender(
                "int8 and bf16, OpenVINO + lit-deploy kernels", int8["ordinary"], "openvino-bf16", compared=False
            ),
        ]
    return run_bench(chosen, BATCHES, threads=threads, rounds=rounds, progress=progress)


def ratios(report: BenchReport, pairs: Iterable[tuple[str, str]]) -> Iterable[Ratio]:
    """Ratios of contenders that were measured, by batch size."""
    times = {(m.label, m.batch): np.array(m.round_ms) for m in report.measurements}
    for batch in dict.fromkeys(m.batch for m in report.measurements):
        for faster, slower in pairs:
            if (faster, batch) in times and (slower, batch) in times:
                lower, median, upper = np.percentile(times[slower, batch] / times[faster, batch], (25, 50, 75))
                yield Ratio(faster, slower, batch, float(median), float(lower), float(upper))


def markdown(report: OpenVinoReport) -> str:
    """All of it as tables."""
    lines = [
        "# OpenVINO, and the attention operator",
        "",
        "Written by `python benchmarks/back_ends.py`. int8 files are calibrated on photographs; their outputs are not "
        "compared here, as `benchmarks/precision.py` does that.",
        "",
        bench_markdown(report.speed),
        "",
        "## Ratios, round by round: median (quartiles)",
        "",
        "| | over | batch 1 | batch 8 |",
        "|-|-|-:|-:|",
        *_rows(report.ratios),
        "",
        "## fp32 files on ONNX Runtime: attention operator over standard operators",
        "",
        "| network | batch 1 | batch 8 |",
        "|-|-:|-:|",
        *(f"| {name} | {' | '.join(map(_shown, found))} |" for name, found in report.attention.items()),
        "",
        "## bfloat16 on OpenVINO against PyTorch in float32, seeded weights and images",
        "",
        "| network | operators | cosine, worst image | relative error |",
        "|-|-|-:|-:|",
        *(
            f"| {each.network} | {'ours' if each.kernels else 'standard'} | {each.cosine:.6f} | {each.relative:.1e} |"
            for each in report.bfloat16
        ),
    ]
    return "\n".join(lines) + "\n"


def _rows(found: Iterable[Ratio]) -> Iterable[str]:
    by_pair: dict[tuple[str, str], list[Ratio]] = {}
    for ratio in found:
        by_pair.setdefault((ratio.faster, ratio.slower), []).append(ratio)
    for (faster, slower), each in by_pair.items():
        yield f"| {faster} | {slower} | {' | '.join(map(_shown, each))} |"


def _shown(ratio: Ratio) -> str:
    return f"{ratio.median:.2f}x ({ratio.lower:.2f} to {ratio.upper:.2f})"


if __name__ == "__main__":
    raise SystemExit(main())
