"""What a benchmark gives: plain data, in which every number keeps its unit and its setting."""

from __future__ import annotations

from dataclasses import dataclass

from lit_deploy.backends.protocol import TimingSettings
from lit_deploy.bench.contenders import Kind
from lit_deploy.core.specs import PrecisionName
from lit_deploy.machine.facts import Machine

QUIET = 0.1
"""Share of the cores that other processes may take before a benchmark is called disturbed."""

LAUNCH_BOUND = 0.8
"""Share of the GPU's time that the launch may take on the host before it decides the speed."""
UNSTEADY = 0.025
"""Standard deviation of the GPU's time over its mean, from which on a GPU's clock or its other users are suspected."""
LEAST_SECONDS, LEAST_SAMPLES = 3.0, 10
"""Shortest measurement of a GPU that means something. All four numbers are those of NVIDIA's trtexec."""


@dataclass(frozen=True)
class Percentiles:
    """A distribution of times in milliseconds."""

    p50: float
    p90: float
    p95: float
    p99: float
    mean: float


@dataclass(frozen=True)
class GpuTimes:
    """Phases of a contender's runs on a GPU in milliseconds, under trtexec's names.

    Attributes:
        latency: copy of the inputs, network and copy of the outputs together, between CUDA events. What the host needs
            around them (copies to and from pinned memory, waking up) is in ``Measurement.p50`` only.
        compute: the network alone.
        compute_variation: standard deviation of ``compute`` over its mean.
        host_to_device, device_to_host: medians of the copies.
        enqueue: median time of the launch on the host.
        seconds: length of all timed runs together.
        settings: what was part of a run.
    """

    latency: Percentiles
    compute: Percentiles
    compute_variation: float
    host_to_device: float
    device_to_host: float
    enqueue: float
    seconds: float
    settings: TimingSettings

    @property
    def launch_bound(self) -> bool:
        """Whether the GPU waits for the host to launch work: the times then say little about the GPU."""
        return self.enqueue > LAUNCH_BOUND * self.compute.p50

    @property
    def unsteady(self) -> bool:
        """Whether the GPU's time varied too much from run to run."""
        return self.compute_variation > UNSTEADY


@dataclass(frozen=True)
class Measurement:
    """One contender at one batch size.

    Attributes:
        label, kind: of the contender; ``description``: its session's own words; ``precision``: of its weights.
        batch: images per run; ``samples``: timed runs.
        p50, p90, p95, p99, mean: latency of a whole batch in milliseconds.
        images_per_second: throughput at the median latency; the mean would add the machine's hiccups.
        peak_memory_mib: largest resident memory of its process up to the end of this batch size; sizes run in order.
        speedup: median over rounds of the baseline's time over this one's; ``speedup_quartiles``: lower, upper.
        max_relative_difference: largest output difference to the reference, of the reference's largest output; None
            where it is not compared.
        round_ms: median latency of every round, from which speed-ups can be computed again.
        gpu: what CUDA events saw of the same runs; None for contenders that do not tell.
    """

    label: str
    kind: Kind
    description: str
    precision: PrecisionName
    batch: int
    samples: int
    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    images_per_second: float
    peak_memory_mib: float
    speedup: float
    speedup_quartiles: tuple[float, float]
    max_relative_difference: float | None
    round_ms: tuple[float, ...]
    gpu: GpuTimes | None = None


@dataclass(frozen=True)
class Exclusion:
    """A contender that was not timed, at one batch size or (None) at all, and why."""

    label: str
    batch: int | None
    reason: str


@dataclass(frozen=True)
class Part:
    """One part of what is done with a picture, and its time in milliseconds."""

    name: str
    milliseconds: float


@dataclass(frozen=True)
class Breakdown:
    """Where the time of one picture goes.

    Attributes:
        label: of the contender, in a run of its own under ONNX Runtime's profiler.
        parts: network, NMS, RoIAlign, and what is left to the host.
    """

    label: str
    parts: tuple[Part, ...]

    @property
    def milliseconds(self) -> float:
        """All parts together."""
        return sum(part.milliseconds for part in self.parts)


@dataclass(frozen=True)
class BenchReport:
    """Outcome of one benchmark.

    Attributes:
        model: name of the network, the baseline's; ``image_size``: height and width of its input in pixels.
        threads: threads of every contender.
        baseline: label of the contender that speed-ups refer to: PyTorch eager, else the first one.
        turn_seconds, rounds: length of a turn and turns per contender and batch size.
        measurements: in order of batch size, then of the contenders.
        exclusions: contenders that were not timed.
        other_cores: cores that other processes kept busy, on average over the turns of the most disturbed batch size;
            None where not known.
        machine: where and when.
        breakdowns: of detectors and segmentation networks on ONNX Runtime; empty for classifiers.
        further_models: names of other networks that were measured beside it.
    """

    model: str
    image_size: tuple[int, int]
    threads: int
    baseline: str
    turn_seconds: float
    rounds: int
    measurements: tuple[Measurement, ...]
    exclusions: tuple[Exclusion, ...]
    other_cores: float | None
    machine: Machine
    breakdowns: tuple[Breakdown, ...] = ()
    further_models: tuple[str, ...] = ()

    def fastest(self, batch: int) -> str:
        """Label of the fastest contender at a batch size; what is a lower bound and computes something else aside."""
        compared = [m for m in self.measurements if m.batch == batch and m.max_relative_difference is not None]
        return max(compared, key=lambda m: m.images_per_second).label if compared else ""

    @property
    def quiet(self) -> bool:
        """Whether the machine had little else to do; the numbers mean nothing otherwise."""
        return self.other_cores is None or self.other_cores < QUIET * self.machine.cores
