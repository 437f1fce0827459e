"""Measure detectors and segmentation networks on this machine: time and memory of one ordinary picture.

The contenders are those of ``lit-deploy bench``: PyTorch eager, ONNX Runtime with our library and without it, and
OpenVINO on the portable form; torch.compile, which takes minutes for every network, takes part with ``--compile``. All
weights are seeded. What is watched: nobody is slower than PyTorch eager, and nobody needs more memory.

    python benchmarks/dense.py [--networks retinanet_lit_s,...] [--rounds 7] [--threads 2] [--size HxW] [--compile]
        [--folder benchmarks/results]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_deploy.bench.contenders import default_contenders
from lit_deploy.bench.result import BenchReport
from lit_deploy.bench.run import run_bench
from lit_deploy.checkpoints.seeded import make_state, save_checkpoint
from lit_deploy.commands.values import height_width
from lit_deploy.core.errors import LitDeployError, UsageError
from lit_deploy.core.files import write_text
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.models.families import OFFICIAL_SPECS
from lit_deploy.report.bench import bench_markdown, bench_table
from lit_deploy.report.charts import model_title
from lit_deploy.report.terminal import as_json, show, steps

NETWORKS = (
    "retinanet_lit_s", "mask_rcnn_lit_s", "sem_fpn_lit_s", "retinanet_lit_ti", "mask_rcnn_lit_ti", "sem_fpn_lit_ti",
)  # fmt: skip


@dataclass(frozen=True)
class DenseResult:
    """What is written: a benchmark of every network, and one sentence for everything that misses the goal."""

    networks: tuple[BenchReport, ...]
    missed: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and write dense_cpu.json and .md; 2 if something is missing."""
    parser = argparse.ArgumentParser(description="Measure detectors and segmentation networks on this machine's CPU.")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names, separated by commas [default: all six]")
    parser.add_argument("--rounds", type=int, default=7, help="turns of every contender [default: 7]")
    parser.add_argument("--threads", type=int, default=2, help="threads of every contender [default: 2]")
    parser.add_argument("--size", help="height x width of the picture [default: an ordinary one of the data set]")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile, too")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "results", help="where results go")
    given = parser.parse_args(arguments)
    try:
        names = given.networks.split(",")
        if unknown := [name for name in names if name not in NETWORKS]:
            raise UsageError(f"--networks has {', '.join(unknown)}, expected some of {', '.join(NETWORKS)}")
        size = height_width("--size", given.size)
        given.folder.mkdir(parents=True, exist_ok=True)
        reports = []
        with steps() as progress:
            for name in names:
                reports.append(
                    measured(
                        name, rounds=given.rounds, threads=given.threads, size=size, compiled=given.compile,
                        progress=progress,
                    )
                )  # fmt: skip
        result = DenseResult(tuple(reports), tuple(text for report in reports for text in missed(report)))
        write_text(as_json(result), given.folder / "dense_cpu.json")
        write_text(markdown(result), given.folder / "dense_cpu.md")
    except LitDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for report in reports:
        show(bench_table(report))
    print(*result.missed, sep="\n")
    return 0


def measured(
    name: str,
    *,
    rounds: int,
    threads: int,
    size: tuple[int, int] | None = None,
    compiled: bool = False,
    progress: Progress = unseen,
) -> BenchReport:
    """Export a network with seeded weights, and let everything that runs it take turns.

    Args:
        name: official name of the network.
        rounds, threads, size, progress: see ``run_bench``.
        compiled: let torch.compile take part.
    """
    with tempfile.TemporaryDirectory(prefix="lit-deploy-bench-") as folder:
        progress(Step(f"draw seeded weights of {name}"))
        checkpoint = Path(folder) / f"{name}.pth"
        save_checkpoint(make_state(OFFICIAL_SPECS[name]), checkpoint, form="state_dict")
        contenders = default_contenders(Path(folder), checkpoint, progress=progress)
        chosen = [each for each in contenders if compiled or each.kind != "torch.compile"]
        return run_bench(chosen, rounds=rounds, threads=threads, size=size, progress=progress)


def missed(report: BenchReport) -> Iterator[str]:
    """Who is slower than PyTorch eager, or needs more memory, or was not measured."""
    title = model_title(report)
    baseline = next(m for m in report.measurements if m.label == report.baseline)
    for other in report.measurements:
        if other.speedup < 1:
            yield f"{title}: {other.label} is slower than {report.baseline} ({other.speedup:.2f} of its speed)"
        if other.peak_memory_mib > baseline.peak_memory_mib:
            yield (
                f"{title}: {other.label} needs {other.peak_memory_mib:.0f} MiB, "
                f"{report.baseline} {baseline.peak_memory_mib:.0f} MiB"
            )
    for exclusion in report.exclusions:
        yield f"{title}: {exclusion.label} was not measured ({exclusion.reason})"


def markdown(result: DenseResult) -> str:
    """All networks, one after the other, and what misses the goal."""
    lines = [bench_markdown(report) for report in result.networks]
    goal = "The goal, never slower than PyTorch eager and never more memory,"
    if result.missed:
        lines.append(f"{goal} is missed by:\n\n" + "".join(f"* {text}\n" for text in result.missed))
    else:
        lines.append(f"{goal} is met by everybody.\n")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
