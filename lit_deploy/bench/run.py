"""Speed: how long one batch takes on every contender, measured fairly on this machine.

Every contender lives in a process of its own; they take short turns in rotating order and are stopped while others are
measured, so that no thread pool disturbs another and a slow spell of the machine meets all of them. Ratios are taken
pair by pair within a round. Before anything is timed, all contenders of one network must compute the same outputs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.backends.protocol import Device, Phases, TimingSettings
from lit_deploy.bench.contenders import Contender, contenders_for, default_contenders
from lit_deploy.bench.inputs import BATCHES, check_arguments, common_batches, common_size
from lit_deploy.bench.parts import breakdowns
from lit_deploy.bench.result import BenchReport, Exclusion, GpuTimes, Measurement, Percentiles
from lit_deploy.bench.worker import Worker
from lit_deploy.core.errors import LitDeployError, LitDeployWarning, UsageError
from lit_deploy.core.files import scratch_folder
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.core.specs import TOLERANCES, PrecisionName
from lit_deploy.machine.facts import this_machine
from lit_deploy.tasks.protocol import Arrays
from lit_deploy.tasks.table import task_of

PERCENTILES = (50, 90, 95, 99)


def bench_files(
    artifacts: Sequence[str | Path],
    checkpoint: str | Path | None = None,
    *,
    batches: Sequence[int] | None = None,
    rounds: int = 20,
    threads: int | None = None,
    size: tuple[int, int] | None = None,
    device: Device = "cpu",
    allow_engine_code: bool = False,
    progress: Progress = unseen,
) -> BenchReport:
    """Measure named files, or, when none is named, one checkpoint on everything this machine has.

    Args:
        artifacts: exported files, engines and checkpoints; see ``contenders_for``.
        checkpoint: what PyTorch runs as the baseline; without artifacts, what is exported and measured (LIT-S with
            seeded weights when left out too).
        batches, rounds, threads, size, progress: see ``run_bench``.
        device: where to run; engines run on the GPU in any case.
        allow_engine_code: see ``SessionOptions``.

    Raises:
        LitDeployError: as ``run_bench``, ``contenders_for`` and ``default_contenders`` do.
    """
    if artifacts:
        contenders = contenders_for(artifacts, checkpoint, device, allow_engine_code)
        return run_bench(contenders, batches, threads=threads, rounds=rounds, size=size, progress=progress)
    with scratch_folder() as folder:
        contenders = default_contenders(folder, checkpoint, device, progress, batches or BATCHES)
        return run_bench(contenders, batches, threads=threads, rounds=rounds, size=size, progress=progress)


def run_bench(
    contenders: Sequence[Contender],
    batches: Sequence[int] | None = None,
    *,
    threads: int | None = None,
    rounds: int = 20,
    size: tuple[int, int] | None = None,
    turn_seconds: float = 0.3,
    timeout: float = 900.0,
    progress: Progress = unseen,
) -> BenchReport:
    """Measure contenders that take turns.

    What is timed is ``Session.run`` from NumPy arrays to NumPy arrays: on ``cuda`` the transfers are part of it, and
    so every run is synchronous. Loading, compilation, warm-up and the first run of every turn are not timed. Engines
    are measured as trtexec does it, too (warm-up of at least 200 ms, then, with the default turns, more than 3 s).

    Args:
        contenders: what to measure; unavailable ones are listed with their reason.
        batches: batch sizes, measured one after another; None for 1 and 8 of a classifier, and 1 of other networks.
        threads: threads of every contender; None for all cores this process may use.
        rounds: turns of every contender at every batch size.
        size: height and width in pixels of the picture, for detectors and segmentation networks; None for that of the
            files, or, where they take any, that of an ordinary picture.
        turn_seconds: length of a turn; at least one run is timed.
        timeout: seconds to wait for any one answer (torch.compile takes minutes).
        progress: called before every turn with its description and the share that is done.

    Raises:
        UsageError: nothing to measure, or arguments that cannot be used.
        LitDeployError: a contender failed, died or hung; whatever happens, no process is left behind.
    """
    labels = [contender.label for contender in contenders]
    if len(set(labels)) != len(labels):
        raise UsageError(f"two contenders share a label, expected distinct ones: {', '.join(sorted(labels))}")
    check_arguments(batches, size, rounds, threads)
    running = [contender for contender in contenders if contender.unavailable is None]
    exclusions = [Exclusion(c.label, None, c.unavailable) for c in contenders if c.unavailable is not None]
    if not running:
        reasons = "; ".join(f"{exclusion.label}: {exclusion.reason}" for exclusion in exclusions)
        raise UsageError(f"nothing can be measured here ({reasons or 'no contender was given'})")
    baseline = next((c for c in running if c.kind == "torch"), running[0])
    running.sort(key=lambda contender: contender is not baseline)  # stable; the others are compared with its outputs
    used = threads or len(os.sched_getaffinity(0))
    machine = this_machine()
    total = len(running) * (1 + len(batches or BATCHES) * (1 + rounds))
    done = 0

    def tick(what: str) -> None:
        nonlocal done
        progress(Step(what, done / total))
        done += 1

    measurements: list[Measurement] = []
    other_cores: list[float] = []
    reference: Arrays = {}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        entries: list[_Entry] = []
        for contender in running:
            tick(f"load {contender.label}")
            worker = stack.enter_context(Worker(contender.label, contender.environment))
            entries.append(_entry(contender, worker, worker.ask(timeout, **contender.opening(used))))
        manifests = {entry.contender.label: entry.manifest for entry in entries}
        batches = common_batches(batches, manifests, {entry.contender.label: entry.batches for entry in entries})
        image_size = common_size(size, manifests)
        total = len(running) * (1 + len(batches) * (1 + rounds))
        agreeing: list[_Entry] = []
        for batch in batches:
            request = {"batch": batch, "size": image_size if entries[0].dense else None}
            agreeing, refused, reference = _prepare(entries, request, folder / "outputs.npz", timeout, tick)
            exclusions += refused
            done += len(refused) * rounds
            turns = _take_turns(agreeing, batch, rounds, turn_seconds, timeout, tick)
            measurements += _measurements(turns, batch)
            busy = [cores for turn in turns for cores in turn.other_cores]
            other_cores += [float(np.mean(busy))] if busy else []
    # Of classifiers nothing is left to tell apart. By now the memory of all contenders is free again.
    profiled = [entry.contender for entry in agreeing if entry.dense]
    first = entries[0].manifest
    order = {label: position for position, label in enumerate(labels)}
    measurements.sort(key=lambda m: (batches.index(m.batch), order[m.label]))
    return BenchReport(
        model=first.model.name,
        further_models=tuple(
            dict.fromkeys(m.model.name for m in manifests.values() if m.model.name != first.model.name)
        ),
        image_size=image_size,
        threads=used,
        baseline=baseline.label,
        turn_seconds=turn_seconds,
        rounds=rounds,
        measurements=tuple(measurements),
        exclusions=tuple(exclusions),
        other_cores=max(other_cores, default=None),
        machine=machine,
        breakdowns=breakdowns(profiled, first, reference, image_size, threads=used, timeout=timeout, progress=progress),
    )


@dataclass(frozen=True)
class _Entry:
    """A contender and its process; after ``_prepare``, with its difference to the reference."""

    contender: Contender
    worker: Worker
    manifest: Manifest
    description: str
    precision: PrecisionName
    batches: tuple[int, int]
    timing: TimingSettings | None
    difference: float | None = None

    @property
    def dense(self) -> bool:
        """Whether it takes one picture of any size, or of the file's: no classifier."""
        return self.manifest.task != "classification"


@dataclass(frozen=True)
class _Turns:
    """What one contender's turns at one batch size gave: every run's milliseconds, by round, and every run's phases."""

    entry: _Entry
    rounds: tuple[tuple[float, ...], ...]
    phases: tuple[Phases, ...]
    peak_memory_mib: float
    other_cores: tuple[float, ...]


def _entry(contender: Contender, worker: Worker, answer: dict[str, Any]) -> _Entry:
    """A contender whose process has opened its session; what it had to say about that is said here."""
    for note in answer.get("notes", ()):
        warnings.warn(note, LitDeployWarning, stacklevel=1)
    timing = TimingSettings(**answer["timing"]) if answer["timing"] else None
    low, high = answer["batches"]
    return _Entry(
        contender=contender,
        worker=worker,
        manifest=Manifest.from_json(answer["manifest"]),
        description=answer["description"],
        precision=answer["precision"],
        batches=(low, high),
        timing=timing,
    )


def _prepare(
    entries: list[_Entry], request: dict[str, Any], file: Path, timeout: float, tick: Callable[[str], None]
) -> tuple[list[_Entry], list[Exclusion], Arrays]:
    """Compile and warm up for one batch size; keep the entries whose outputs agree with the first one's of its network.

    Args:
        request: batch and size of the input; ``file``: through which outputs are handed over, one after another:
            a label map, or the logits of every pixel, are too much for a line of JSON.

    Returns:
        The entries to measure, those left out, and the first entry's outputs.
    """
    agreeing: list[_Entry] = []
    refused: list[Exclusion] = []
    references: dict[str, tuple[_Entry, Arrays]] = {}  # by the checkpoint that a network was made of
    batch = request["batch"]
    for entry in entries:
        tick(f"prepare {entry.contender.label}, batch {batch}")
        try:
            entry.worker.ask(timeout, do="prepare", outputs=str(file), **request)
        except LitDeployError as error:
            if not entry.contender.kind.startswith("torch.compile"):
                raise
            entry.worker.end()  # it may be compiling still
            refused.append(Exclusion(entry.contender.label, batch, f"torch.compile failed: {error}"))
            continue
        with np.load(file) as stored:
            outputs = dict(stored)
        file.unlink()
        first, reference = references.setdefault(entry.manifest.source_sha256, (entry, outputs))
        if not entry.contender.compared:
            agreeing.append(entry)
            continue
        limit = max(TOLERANCES[e.precision].relative for e in (entry, first))
        difference = task_of(entry.manifest).difference(reference, outputs)
        if difference <= limit:
            agreeing.append(replace(entry, difference=difference))
        else:
            reason = f"refused: its outputs differ by {difference:.1e} of the largest, more than {limit:.0e}"
            refused.append(Exclusion(entry.contender.label, batch, reason))
    return agreeing, refused, references[entries[0].manifest.source_sha256][1]


def _take_turns(
    entries: list[_Entry], batch: int, rounds: int, seconds: float, timeout: float, tick: Callable[[str], None]
) -> list[_Turns]:
    """Let every entry run for ``seconds`` in every round; a new one begins each time, in alternating direction."""
    answers: dict[str, list[dict[str, Any]]] = {entry.contender.label: [] for entry in entries}
    for index in range(rounds):
        start = index % len(entries)
        order = entries[start:] + entries[:start]
        # reversed every other time that all have been first: of two, each is first equally often
        for entry in order if index // len(entries) % 2 == 0 else reversed(order):
            label = entry.contender.label
            tick(f"{label}, batch {batch}, round {index + 1} of {rounds}")
            answers[label].append(entry.worker.ask(timeout, do="turn", seconds=seconds))
    return [
        _Turns(
            entry=entry,
            rounds=tuple(tuple(answer["ms"]) for answer in answers[entry.contender.label]),
            phases=tuple(Phases(**phases) for answer in answers[entry.contender.label] for phases in answer["phases"]),
            peak_memory_mib=answers[entry.contender.label][-1]["peak_mib"],
            other_cores=tuple(a["other_cores"] for a in answers[entry.contender.label] if a["other_cores"] is not None),
        )
        for entry in entries
    ]


def _measurements(turns: list[_Turns], batch: int) -> list[Measurement]:
    """Percentiles over all runs, and speed-ups over the first entry, round by round."""
    baseline = np.array([np.median(times) for times in turns[0].rounds])
    results = []
    for turn in turns:
        runs = np.concatenate(turn.rounds)
        medians = np.array([np.median(times) for times in turn.rounds])
        lower, speedup, upper = (float(value) for value in np.percentile(baseline / medians, (25, 50, 75)))
        all_runs = percentiles(runs)
        entry = turn.entry
        results.append(
            Measurement(
                label=entry.contender.label,
                kind=entry.contender.kind,
                description=entry.description,
                precision=entry.precision,
                batch=batch,
                samples=len(runs),
                p50=all_runs.p50,
                p90=all_runs.p90,
                p95=all_runs.p95,
                p99=all_runs.p99,
                mean=all_runs.mean,
                images_per_second=batch * 1000 / all_runs.p50,
                peak_memory_mib=turn.peak_memory_mib,
                speedup=speedup,
                speedup_quartiles=(lower, upper),
                max_relative_difference=entry.difference,
                round_ms=tuple(float(value) for value in medians),
                gpu=_gpu_times(turn),
            )
        )
    return results


def percentiles(times: NDArray[Any]) -> Percentiles:
    """Summarise times in milliseconds."""
    p50, p90, p95, p99 = (float(value) for value in np.percentile(times, PERCENTILES))
    return Percentiles(p50=p50, p90=p90, p95=p95, p99=p99, mean=float(times.mean()))


def _gpu_times(turn: _Turns) -> GpuTimes | None:
    if turn.entry.timing is None:
        return None
    upload, compute, download, enqueue = np.array([dataclasses.astuple(phases) for phases in turn.phases]).T
    return GpuTimes(
        latency=percentiles(upload + compute + download),
        compute=percentiles(compute),
        compute_variation=float(compute.std() / max(compute.mean(), np.finfo(np.float64).tiny)),
        host_to_device=float(np.median(upload)),
        device_to_host=float(np.median(download)),
        enqueue=float(np.median(enqueue)),
        seconds=sum(map(sum, turn.rounds)) / 1000,
        settings=turn.entry.timing,
    )
