"""Whether a file that was just exported runs faster on this machine by another back end, and as rightly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.backends.table import BACKENDS
from lit_deploy.machine import native
from lit_deploy.machine.facts import computes_bf16, cpu_flags
from lit_deploy.tasks.table import task_of
from lit_deploy.workflows.verify import verify_artifact

WORTH_SAYING = 1.15
"""Least speed-up over ONNX Runtime: the measurement is a short one."""

LEAST_MILLISECONDS = 2.0
"""Of a picture on ONNX Runtime. Where it takes less there is nothing to save."""

RUNS, SECONDS = 15, 1.0
"""Most timed runs of one choice, and most time that they take."""


@dataclass(frozen=True)
class Advice:
    """A faster choice, which was verified.

    Attributes:
        options: what to add to a command line.
        milliseconds: of one picture; ``usual``: of ONNX Runtime. Medians of a few runs, one after the other.
        cosine: of the output with PyTorch's.
    """

    options: str
    milliseconds: float
    usual: float
    cosine: float


def faster_choice(path: Path, manifest: Manifest, checkpoint: str | Path, threads: int | None) -> Advice | None:
    """Try a classifier's ``.onnx`` file on OpenVINO, in its own precision and, where this CPU can, in bfloat16.

    Args:
        path: the file, verified on ONNX Runtime; ``manifest``: of it.
        checkpoint: what it was exported from; ``threads``: of every run.

    Returns:
        The fastest choice that passes verification; None where none is faster, or OpenVINO or our extension is missing.
    """
    ready = BACKENDS["openvino"].missing() is None and (manifest.portable or native.find_extension() is not None)
    if manifest.task != "classification" or manifest.precision == "fp8" or not ready:
        return None
    usual = _milliseconds(path, SessionOptions(threads=threads))
    if usual < LEAST_MILLISECONDS:
        return None
    choices = {"--backend openvino": SessionOptions(threads=threads, backend="openvino")}
    if manifest.base == "fp32" and computes_bf16(cpu_flags()):
        choices["--backend openvino --precision-hint bf16"] = SessionOptions(
            threads=threads, backend="openvino", precision_hint="bf16"
        )
    times = {shown: _milliseconds(path, options) for shown, options in choices.items()}
    for shown, taken in sorted(times.items(), key=lambda item: item[1]):
        if usual < WORTH_SAYING * taken:
            break
        report = verify_artifact(path, checkpoint, options=choices[shown])
        if report.verdict == "pass":
            return Advice(shown, taken, usual, report.output.cosine)
    return None


def _milliseconds(path: Path, options: SessionOptions) -> float:
    """Median time of one picture in a few runs, or of the smallest batch that the file takes."""
    with open_session(path, options) as session:
        manifest, task = session.manifest, task_of(session.manifest)
        pictures = task.seeded(manifest)
        feed = task.feed([pictures[index % len(pictures)] for index in range(session.batch_range[0])], manifest)
        for _ in range(3):
            session.run(feed)
        times: list[float] = []
        while len(times) < RUNS and sum(times) < SECONDS:
            start = perf_counter()
            session.run(feed)
            times.append(perf_counter() - start)
    return 1000 * float(np.median(times))
