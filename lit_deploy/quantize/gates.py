"""Whether an 8-bit file is worth having: right often enough, and faster than the file that it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import Backend, SessionOptions, Source
from lit_deploy.backends.table import BACKENDS
from lit_deploy.bench.contenders import Contender, Kind
from lit_deploy.bench.run import run_bench
from lit_deploy.core.errors import UsageError
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.core.specs import TOLERANCES, PrecisionName
from lit_deploy.evaluate.result import SLACK
from lit_deploy.images.calibration import Batch, CalibrationImages
from lit_deploy.machine import native
from lit_deploy.quantize.confidence import agreement_interval, doubt
from lit_deploy.quantize.feeding import fed
from lit_deploy.tasks.protocol import Change, Findings
from lit_deploy.tasks.table import task_of

Feeds = Callable[[int], Iterable[Batch]]
"""Gives all images in batches of at most that many; see ``CalibrationImages.feeds``."""

Predictions = Findings
"""What a file said about images, in its task's own form."""

BATCH = 8
"""Images per run where the file takes that many."""

TURN_SECONDS = 0.2
ROUNDS = (3, 10)
"""Least and most turns of each file: two networks whose batch takes long need not be measured often to be told apart,
and a user waits for this."""
BENCH_SECONDS = 5.0
"""What all turns together may take where ``ROUNDS`` allows it; starting and warming up take a few seconds more."""


@dataclass(frozen=True)
class Speed:
    """How fast a file is, measured in turns with its reference on this machine's CPU.

    Attributes:
        speedup: median over turns of the reference's time over this file's; ``quartiles``: lower and upper.
        milliseconds, reference_milliseconds: median time of a batch.
        batch: images per run; ``threads``: of both.
        quiet: the machine had little else to do.
        backend: what ran both.
    """

    speedup: float
    quartiles: tuple[float, float]
    milliseconds: float
    reference_milliseconds: float
    batch: int
    threads: int
    quiet: bool
    backend: Backend = "onnxruntime"

    @property
    def slower(self) -> bool:
        """Slower than the reference in three of four turns; a median alone would let a busy machine decide."""
        return self.quartiles[1] < 1


@dataclass(frozen=True)
class GateResult:
    """Outcome of both gates.

    Attributes:
        precision: of the file; ``reference``: of the file that it was made from.
        images: how many both files saw; ``source``: where these came from.
        differing: images whose first class is another; ``agreement``: share 0..1 of the others.
        interval: Wilson's interval of 95 % for the agreement on further images of the same kind.
        cosine_min, cosine_mean: cosine similarity of an image's logits, the worst and on average; None for files that
            give only the five best classes.
        budget: share of the images that may differ.
        speed: None where it was not measured; ``unmeasured`` then says why.
        reasons: one sentence for every gate that was not met.
        doubt: one sentence where the images are too few to tell whether the budget is met; else empty.
        notes: sentences about what a reader might overlook.

    Where a task predicts more than one thing in an image, the result is a ``CountedGateResult``.
    """

    precision: PrecisionName
    reference: PrecisionName
    images: int
    source: str
    differing: int
    agreement: float
    interval: tuple[float, float]
    cosine_min: float | None
    cosine_mean: float | None
    budget: float
    speed: Speed | None
    unmeasured: str
    reasons: tuple[str, ...]
    doubt: str
    notes: tuple[str, ...]

    @property
    def speedup(self) -> float | None:
        """Over the file that it was made from, where that was measured."""
        return None if self.speed is None else self.speed.speedup

    @property
    def scannable(self) -> bool:
        """Whether a scan can say which modules do the damage."""
        return True

    @property
    def of(self) -> int:
        """How many predictions ``differing`` is a part of."""
        return self.images

    @property
    def heading(self) -> str:
        """What ``differing`` counts, for tables."""
        return "top-1 differs"


@dataclass(frozen=True)
class CountedGateResult(GateResult):
    """Outcome of both gates for a task that predicts several things in an image.

    Attributes:
        differing: predictions that are not the reference's; ``agreement``: share 0..1 of the others.
        budget: share of the predictions that may differ.
        total: predictions that were compared; ``counted``: what they are, e.g. ``detections``; ``title``: of the count.
    """

    total: int
    counted: str
    title: str

    @property
    def scannable(self) -> bool:
        return False

    @property
    def of(self) -> int:
        return self.total

    @property
    def heading(self) -> str:
        return self.title


def check_gates(
    candidate: str | Path,
    reference: str | Path,
    images: CalibrationImages,
    *,
    budget: float = 0.01,
    threads: int | None = None,
    backend: Backend = "onnxruntime",
    unmeasured: str = "",
    progress: Progress = unseen,
) -> GateResult:
    """Compare an 8-bit ``.onnx`` file with the file that it was made from, on this machine's CPU.

    It is for the caller to refuse a file whose ``reasons`` are not empty.

    Args:
        candidate: file of int8 or fp8. reference: the file of fp32 or fp16 that it was made from.
        images: in the layout of both files.
        budget: share 0..1 of the predictions that may change: images whose first class, detections, pixels; see the
            task's ``Findings.change``.
        threads: of every session; None for all cores.
        backend: what runs both files.
        unmeasured: why speed is not measured, as for a file that only an engine is made from; empty to measure it.
        progress: called with each step and the share that is done.

    Raises:
        UsageError: a budget that is no share.
        LitDeployError: a file that the back end cannot run.
    """
    check_budget(budget)
    manifest, wanted = read_manifest(candidate), read_manifest(reference)
    options = SessionOptions(threads=threads, backend=backend)

    def run(source: str | Path, name: str, begin: float) -> tuple[Findings, float]:
        def tick(done: int) -> None:
            share = min(done / max(images.count, 1), 1.0)
            progress(Step(f"{name}: {done} of {images.count} images", begin + share / 2))

        tick(0)
        return _timed(source, images.feeds, options, tick)

    (expected, milliseconds), (found, _) = (
        run(reference, wanted.precision, 0.0),
        run(candidate, manifest.precision, 0.5),
    )

    def measure() -> Speed:
        return measure_speed(candidate, reference, milliseconds, threads, progress, images.size, backend=backend)

    measured = None if unmeasured else measure()
    if measured is not None and measured.slower and not measured.quiet:  # once more, before that is held against it
        measured = measure()
    change = found.change(expected)
    result = _result(change)(
        precision=manifest.precision,
        reference=wanted.precision,
        images=len(expected),
        source=images.source,
        differing=change.differing,
        agreement=1 - change.share,
        interval=agreement_interval(change),
        cosine_min=None if change.cosines is None else float(change.cosines.min()),
        cosine_mean=None if change.cosines is None else float(change.cosines.mean()),
        budget=budget,
        speed=measured,
        unmeasured=unmeasured,
        reasons=(),
        doubt=doubt(change, len(expected), budget),
        notes=(*images.notes, *_notes(expected, measured)),
    )
    return replace(result, reasons=_reasons(result, change, telling=not expected.notes))


def _result(change: Change) -> Callable[..., GateResult]:
    """The kind of result that a task's way of counting needs."""
    if change.counted == "images":
        return GateResult
    return partial(CountedGateResult, total=change.total, counted=change.counted, title=change.title)


def check_budget(budget: float) -> None:
    """Raise UsageError when an accuracy budget is no share 0..1."""
    if not 0 <= budget <= 1:
        raise UsageError(f"the accuracy budget is {budget:.4%} of the images, expected 0 % to 100 %, e.g. 1 %")


def within(differing: int, total: int, budget: float) -> bool:
    """Whether so many changed predictions are within an accuracy budget (a share 0..1)."""
    return differing <= (budget + SLACK) * total


def too_few(differing: int, images: int, budget: float) -> str:
    """The end of a sentence about one changed prediction that is over the budget only as there are few images."""
    if differing != 1 or not 0 < budget * images < 1 - SLACK:
        return ""
    return f", which a single one of {images} images exceeds; calibrate with {math.ceil(1 / budget - SLACK)} or more"


def predictions(
    source: Source,
    feeds: Feeds,
    options: SessionOptions | None = None,
    tick: Callable[[int], None] = lambda done: None,
) -> Predictions:
    """Run a file on images.

    Args:
        source: whatever ``open_session`` takes.
        feeds: the images; at least one.
        options: of the session.
        tick: called after every batch with the number of images done.
    """
    return _timed(source, feeds, options, tick)[0]


def _timed(
    source: Source, feeds: Feeds, options: SessionOptions | None, tick: Callable[[int], None]
) -> tuple[Findings, float]:
    """The same, and the median of the milliseconds that runs take per image of their batch."""
    parts: list[Findings] = []
    times: list[float] = []
    with open_session(source, options) as session:
        manifest, task = session.manifest, task_of(session.manifest)
        low, high = session.batch_range
        done = 0
        for batch in feeds(max(low, min(BATCH, high))):
            feed, rows = fed(batch, session)
            begin = perf_counter()
            outputs = session.run(feed)
            times.append((perf_counter() - begin) * 1000 / rows)
            parts.append(task.findings(outputs, manifest, len(batch)))
            done += len(batch)
            tick(done)
    if not parts:
        raise UsageError("got no images to run, expected at least one")
    return parts[0].joined(parts[1:]), float(np.median(times))


def measure_speed(
    candidate: str | Path,
    reference: str | Path,
    milliseconds: float,
    threads: int | None,
    progress: Progress = unseen,
    size: tuple[int, int] | None = None,
    backend: Backend = "onnxruntime",
) -> Speed:
    """Let two files take turns on this machine's CPU, each in a process of its own.

    Args:
        candidate, reference: ``.onnx`` files; the candidate's fixed batch, or one image, is run.
        milliseconds: what the reference takes for one image, roughly; it decides how many turns there are.
        threads, progress, size: as in ``run_bench``.
        backend: what runs both.
    """
    files = {"8 bits": candidate, "reference": reference}
    manifests = {label: read_manifest(path) for label, path in files.items()}
    batch = manifests["8 bits"].batch or 1
    # outputs need not agree as closely as a benchmark demands: there is a gate of its own for that
    contenders = [
        Contender(label, files[label], _kind(manifests[label], backend), compared=False)
        for label in ("reference", "8 bits")
    ]
    run = milliseconds * batch / 1000
    least, most = ROUNDS
    # a turn is a run that is not timed, and those that are: at least one
    rounds = max(least, min(most, int(BENCH_SECONDS / (2 * (run + max(run, TURN_SECONDS))))))
    report = run_bench(
        contenders, (batch,), threads=threads, rounds=rounds, size=size, turn_seconds=TURN_SECONDS, progress=progress
    )
    times = {measurement.label: measurement for measurement in report.measurements}
    ours = times["8 bits"]
    return Speed(
        speedup=ours.speedup,
        quartiles=ours.speedup_quartiles,
        milliseconds=ours.p50,
        reference_milliseconds=times["reference"].p50,
        batch=batch,
        threads=report.threads,
        quiet=report.quiet,
        backend=backend,
    )


def _kind(manifest: Manifest, backend: Backend) -> Kind:
    """With our operators where a session would use them."""
    if backend == "openvino":
        return "openvino-kernels" if native.find_extension() and not manifest.portable else "openvino"
    return "onnxruntime" if native.find_library() and not manifest.portable else "onnxruntime-stock"


def _reasons(result: GateResult, change: Change, telling: bool) -> tuple[str, ...]:
    """What was not met; where top-1 is not ``telling``, as it never changes, the logits have to be close."""
    reasons = []
    count, name, least = result.images, result.reference, TOLERANCES[result.precision].cosine
    if not telling and result.cosine_min is not None and result.cosine_min < least:
        reasons.append(f"the cosine of its logits with those of {name} is {result.cosine_min:.4f}, below {least}")
    if change.broken:
        reasons.append(f"its output is not finite for {change.broken} of {count} images")
    if not within(change.differing, change.total, result.budget):
        sentence = change.sentence.format(reference=name, differing=change.differing, total=change.total)
        hint = too_few(change.differing, count, result.budget) if change.counted == "images" else ""
        reasons.append(f"{sentence} ({change.share:.2%}), the budget is {result.budget:.2%}{hint}")
    speed = result.speed
    if speed is not None and speed.slower:
        threads = "1 thread" if speed.threads == 1 else f"{speed.threads} threads"
        sentence = (
            f"it is {speed.speedup:.2f}x as fast as {name} on {BACKENDS[speed.backend].title} here (batch "
            f"{speed.batch}, {threads}: {speed.milliseconds:.1f} ms against {speed.reference_milliseconds:.1f} ms)"
        )
        if result.precision == "fp8":
            sentence += (
                "; ONNX Runtime's CPU has no products of 8-bit floats, an engine has: lit-deploy export --format trt"
            )
        reasons.append(sentence)
    return tuple(reasons)


def _notes(expected: Findings, speed: Speed | None) -> tuple[str, ...]:
    busy = "other processes kept the machine busy meanwhile, so that the speed says little"
    return (*expected.notes, *([busy] if speed is not None and not speed.quiet else []))
