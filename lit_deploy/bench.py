"""Speed: how long one batch takes on every contender, measured fairly on this machine.

Every contender lives in a process of its own; they take short turns in rotating order and are stopped while others are
measured, so that no thread pool disturbs another and a slow spell of the machine meets all of them. Ratios are taken
pair by pair within a round. Before anything is timed, every contender must compute the same outputs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifact import Manifest
from lit_deploy.bench_result import BenchReport, Exclusion, GpuTimes, Machine, Measurement, Percentiles
from lit_deploy.bench_worker import Worker
from lit_deploy.contenders import Contender, contenders_for, default_contenders
from lit_deploy.doctor import cpu_name, gpu_names, installed_version
from lit_deploy.errors import UsageError
from lit_deploy.predict import softmax
from lit_deploy.runtime.session import Device, Phases, TimingSettings
from lit_deploy.specs import MAX_BATCH, TOLERANCES, Progress
from lit_deploy.trt import BACKENDS

PERCENTILES = (50, 90, 95, 99)


def bench_files(
    artifacts: Sequence[str | Path],
    checkpoint: str | Path | None = None,
    *,
    batches: Sequence[int] = (1, 8),
    rounds: int = 20,
    threads: int | None = None,
    device: Device = "cpu",
    allow_engine_code: bool = False,
    progress: Progress = lambda step: None,
) -> BenchReport:
    """Measure named files, or, when none is named, one checkpoint on everything this machine has.

    Args:
        artifacts: exported files, engines and checkpoints; see ``contenders_for``.
        checkpoint: what PyTorch runs as the baseline; without artifacts, what is exported and measured (LIT-S with
            seeded weights when left out too).
        batches, rounds, threads, progress: see ``run_bench``.
        device: where to run; engines run on the GPU in any case.
        allow_engine_code: see ``SessionOptions``.

    Raises:
        LitDeployError: as ``run_bench``, ``contenders_for`` and ``default_contenders`` do.
    """
    if artifacts:
        contenders = contenders_for(artifacts, checkpoint, device, allow_engine_code)
        return run_bench(contenders, batches, threads=threads, rounds=rounds, progress=progress)
    with tempfile.TemporaryDirectory(prefix="lit-deploy-bench-") as folder:
        contenders = default_contenders(Path(folder), checkpoint, device, progress, batches)
        return run_bench(contenders, batches, threads=threads, rounds=rounds, progress=progress)


def run_bench(
    contenders: Sequence[Contender],
    batches: Sequence[int] = (1, 8),
    *,
    threads: int | None = None,
    rounds: int = 20,
    turn_seconds: float = 0.3,
    timeout: float = 900.0,
    progress: Progress = lambda step: None,
) -> BenchReport:
    """Measure contenders that take turns.

    What is timed is ``Session.run`` from NumPy arrays to NumPy arrays: on ``cuda`` the transfers are part of it, and
    so every run is synchronous. Loading, compilation, warm-up and the first run of every turn are not timed. Engines
    are measured as trtexec does it, too (warm-up of at least 200 ms, then, with the default turns, more than 3 s).

    Args:
        contenders: what to measure; unavailable ones are listed with their reason.
        batches: batch sizes, measured one after another.
        threads: threads of every contender; None for all cores this process may use.
        rounds: turns of every contender at every batch size.
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
    if not batches or not 1 <= min(batches) <= max(batches) <= MAX_BATCH or len(set(batches)) != len(batches):
        raise UsageError(
            f"batch sizes are {list(batches)}, expected distinct sizes from 1 to {MAX_BATCH}, e.g. --batch 1,8"
        )
    if rounds < 1 or (threads is not None and threads < 1):
        raise UsageError(f"got rounds {rounds} and threads {threads}, expected at least 1 of each")
    running = [contender for contender in contenders if contender.unavailable is None]
    exclusions = [Exclusion(c.label, None, c.unavailable) for c in contenders if c.unavailable is not None]
    if not running:
        reasons = "; ".join(f"{exclusion.label}: {exclusion.reason}" for exclusion in exclusions)
        raise UsageError(f"nothing can be measured here ({reasons or 'no contender was given'})")
    baseline = next((c for c in running if c.kind == "torch"), running[0])
    running.sort(key=lambda contender: contender is not baseline)  # stable; the others are compared with its outputs
    used = threads or len(os.sched_getaffinity(0))
    machine = this_machine()
    total = len(running) * (1 + len(batches) * (1 + rounds))
    done = 0

    def tick(what: str) -> None:
        nonlocal done
        progress(f"{100 * done // total:3} %  {what}")
        done += 1

    measurements: list[Measurement] = []
    other_cores: list[float] = []
    with contextlib.ExitStack() as stack:
        entries: list[_Entry] = []
        for contender in running:
            tick(f"load {contender.label}")
            worker = stack.enter_context(Worker(contender.label, contender.environment))
            answer = worker.ask(
                timeout, do="open", kind=contender.kind, source=str(contender.source), device=contender.device,
                threads=used, allow_engine_code=contender.allow_engine_code,
            )  # fmt: skip
            entries.append(_entry(contender, worker, answer))
        for entry in entries:
            _check_batches(entry, batches)
        for batch in batches:
            agreeing, refused = _prepare(entries, batch, timeout, tick)
            exclusions += refused
            done += len(refused) * rounds
            turns = _take_turns(agreeing, batch, rounds, turn_seconds, timeout, tick)
            measurements += _measurements(turns, batch)
            busy = [cores for turn in turns for cores in turn.other_cores]
            other_cores += [float(np.mean(busy))] if busy else []
    spec = entries[0].manifest.model
    order = {label: position for position, label in enumerate(labels)}
    measurements.sort(key=lambda m: (batches.index(m.batch), order[m.label]))
    return BenchReport(
        spec.name, spec.image_size, used, baseline.label, turn_seconds, rounds,
        tuple(measurements), tuple(exclusions), max(other_cores, default=None), machine,
    )  # fmt: skip


@dataclass(frozen=True)
class _Entry:
    """A contender and its process; after ``_prepare``, with its difference to the reference."""

    contender: Contender
    worker: Worker
    manifest: Manifest
    description: str
    batches: tuple[int, int]
    timing: TimingSettings | None
    difference: float | None = None


@dataclass(frozen=True)
class _Turns:
    """What one contender's turns at one batch size gave: every run's milliseconds, by round, and every run's phases."""

    entry: _Entry
    rounds: tuple[tuple[float, ...], ...]
    phases: tuple[Phases, ...]
    peak_memory_mib: float
    other_cores: tuple[float, ...]


def _entry(contender: Contender, worker: Worker, answer: dict[str, Any]) -> _Entry:
    """A contender whose process has opened its session."""
    timing = TimingSettings(**answer["timing"]) if answer["timing"] else None
    low, high = answer["batches"]
    return _Entry(contender, worker, Manifest.from_json(answer["manifest"]), answer["description"], (low, high), timing)


def _check_batches(entry: _Entry, batches: Sequence[int]) -> None:
    low, high = entry.batches
    if low <= min(batches) and max(batches) <= high:
        return
    takes = f"batch size {low} only" if low == high else f"batch sizes {low} to {high}"
    raise UsageError(
        f"{entry.contender.label} was exported for {takes}, but {list(batches)} were asked for; "
        f"use --batch {low}, or export it with {'a dynamic batch' if low == high else 'other batches'}"
    )


def _prepare(
    entries: list[_Entry], batch: int, timeout: float, tick: Callable[[str], None]
) -> tuple[list[_Entry], list[Exclusion]]:
    """Compile and warm up for one batch size; keep the entries whose outputs agree with the first one's."""
    agreeing: list[_Entry] = []
    refused: list[Exclusion] = []
    reference: dict[str, NDArray[Any]] = {}
    for entry in entries:
        tick(f"prepare {entry.contender.label}, batch {batch}")
        answer = entry.worker.ask(timeout, do="prepare", batch=batch)
        outputs = {name: np.asarray(value) for name, value in answer["outputs"].items()}
        if not entry.contender.compared:
            agreeing.append(entry)
            continue
        reference = reference or outputs
        limit = max(TOLERANCES[e.manifest.precision].relative for e in (entry, entries[0]))
        difference = max_relative_difference(reference, outputs)
        if difference <= limit:
            agreeing.append(replace(entry, difference=difference))
        else:
            reason = f"refused: its outputs differ by {difference:.1e} of the largest, more than {limit:.0e}"
            refused.append(Exclusion(entry.contender.label, batch, reason))
    return agreeing, refused


def max_relative_difference(reference: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> float:
    """Largest absolute difference over the reference's largest magnitude; infinite for NaN or unlike shapes.

    Outputs of different kinds (logits, probabilities, top5) are compared as probabilities.
    """
    if "logits" in reference and "logits" in outputs:
        expected, got = reference["logits"], outputs["logits"]
    elif "classes" in reference and "classes" in outputs:
        expected, got = reference["scores"], outputs["scores"]
    elif "classes" in outputs:
        expected, got = np.take_along_axis(_probabilities(reference), outputs["classes"], axis=1), outputs["scores"]
    elif "classes" in reference:
        expected, got = reference["scores"], np.take_along_axis(_probabilities(outputs), reference["classes"], axis=1)
    else:
        expected, got = _probabilities(reference), _probabilities(outputs)
    if expected.shape != got.shape or not (np.isfinite(expected).all() and np.isfinite(got).all()):
        return float("inf")
    return float(np.abs(expected - got).max() / max(np.abs(expected).max(), np.finfo(np.float64).tiny))


def _probabilities(outputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    if "probabilities" in outputs:
        return outputs["probabilities"]
    return softmax(outputs["logits"])


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
            entry,
            tuple(tuple(answer["ms"]) for answer in answers[entry.contender.label]),
            tuple(Phases(**phases) for answer in answers[entry.contender.label] for phases in answer["phases"]),
            answers[entry.contender.label][-1]["peak_mib"],
            tuple(a["other_cores"] for a in answers[entry.contender.label] if a["other_cores"] is not None),
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
                entry.contender.label, entry.contender.kind, entry.description, entry.manifest.precision,
                batch, len(runs),
                all_runs.p50, all_runs.p90, all_runs.p95, all_runs.p99, all_runs.mean,
                batch * 1000 / all_runs.p50, turn.peak_memory_mib,
                speedup, (lower, upper), entry.difference, tuple(float(value) for value in medians), _gpu_times(turn),
            )
        )  # fmt: skip
    return results


def percentiles(times: NDArray[Any]) -> Percentiles:
    """Summarise times in milliseconds."""
    p50, p90, p95, p99 = (float(value) for value in np.percentile(times, PERCENTILES))
    return Percentiles(p50, p90, p95, p99, float(times.mean()))


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


def this_machine() -> Machine:
    """Describe the machine and what is installed, now."""
    names = ("lit-deploy", "numpy", "onnx", "torch", "onnxruntime", "onnxruntime-gpu", "openvino")
    packages = {name: version for name in names if (version := installed_version(name))}
    for backend in BACKENDS.values():
        if version := next(filter(None, map(installed_version, backend.distributions)), None):
            packages[backend.title] = version
    return Machine(
        cpu=cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        gpus=gpu_names(),
        os=_os_name(),
        python=platform.python_version(),
        packages=packages,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        load_average=round(os.getloadavg()[0], 2),
    )


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"
