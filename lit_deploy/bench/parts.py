"""Where the time of one picture goes: what ONNX Runtime's profiler says of its nodes, and what is left to the host."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.bench.contenders import Contender, Kind
from lit_deploy.bench.result import Breakdown, Part
from lit_deploy.bench.worker import Worker, seeded_feed
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.core.specs import ORIGINAL_SIZE
from lit_deploy.ops.multi_level_roi_align.schema import OP_TYPE as ROI_ALIGN
from lit_deploy.ops.nms.schema import OP_TYPE as NMS
from lit_deploy.tasks.detection.results import detections_of
from lit_deploy.tasks.instance_segmentation.pasting import pasted

NETWORK = "network"
OPERATORS: dict[str, tuple[str, ...]] = {
    "NMS": (NMS, "NonMaxSuppression"),
    "RoIAlign": (ROI_ALIGN, "RoiAlign"),
}
"""Types of the nodes of every part, of our library and of the function that stands in for it; the function's few other
nodes, which no name tells from the rest, count as the network's. So does everything else."""

PROFILED_RUNS, PASTING_RUNS = 6, 5
_PROFILED: tuple[Kind, ...] = ("onnxruntime", "onnxruntime-stock")


def breakdowns(
    contenders: Sequence[Contender],
    manifest: Manifest,
    outputs: Mapping[str, NDArray[Any]],
    size: tuple[int, int],
    *,
    threads: int,
    timeout: float,
    progress: Progress = unseen,
) -> tuple[Breakdown, ...]:
    """Where the time of one picture goes on each contender that is ONNX Runtime on a CPU, in processes of their own.

    Args:
        contenders: others than those are left out.
        manifest: of any of them; ``outputs``: of any of them, for the same picture.
        size: height and width of the picture in pixels.
        threads, timeout, progress: as in ``run_bench``.
    """
    able = [each for each in contenders if each.kind in _PROFILED and each.device == "cpu"]
    if not able:
        return ()
    original = seeded_feed(manifest, 1, size)[ORIGINAL_SIZE].tolist()
    progress(Step("time what is left to the host"))
    host = host_parts(outputs, (original[0], original[1]))
    found = []
    for contender in able:
        progress(Step(f"profile {contender.label}"))
        with Worker(contender.label, contender.environment) as worker:
            worker.ask(timeout, **contender.opening(threads), profiled=True)
            answer = worker.ask(timeout, do="profile", size=size, runs=PROFILED_RUNS)
        # The first run allocates what the others use again.
        found.append(Breakdown(contender.label, (*graph_parts(answer["times"][1:]), *host)))
    return tuple(found)


def graph_parts(times: Sequence[Mapping[str, float]]) -> tuple[Part, ...]:
    """Parts of a graph.

    Args:
        times: milliseconds of all nodes of a type, for every run.

    Returns:
        The network and those of ``OPERATORS`` that it has, each with the median over the runs.
    """
    known = {name for names in OPERATORS.values() for name in names}
    parts = [Part(NETWORK, _median([[run[name] for name in run if name not in known] for run in times]))]
    for part, names in OPERATORS.items():
        if any(name in run for run in times for name in names):
            parts.append(Part(part, _median([[run.get(name, 0.0) for name in names] for run in times])))
    return tuple(parts)


def host_parts(outputs: Mapping[str, NDArray[Any]], original_size: tuple[int, int]) -> tuple[Part, ...]:
    """What a service does with the outputs of one picture: it pastes masks, where there are any, timed here and now.

    Args:
        outputs: of a detector or segmentation network.
        original_size: height and width of the picture in pixels.
    """
    if "masks" not in outputs:
        return ()
    found = detections_of(outputs)
    assert found.masks is not None
    times = []
    for _ in range(PASTING_RUNS):
        start = time.perf_counter()
        for mask, box in zip(found.masks, found.boxes, strict=True):
            pasted(mask, box, original_size)
        times.append([(time.perf_counter() - start) * 1000])
    return (Part(f"pasting of {len(found)} masks", _median(times)),)


def _median(runs: Sequence[Sequence[float]]) -> float:
    return float(np.median([sum(run) for run in runs]))
