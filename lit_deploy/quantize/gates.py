"""Whether an 8-bit file is worth having: right often enough, and faster than the file that it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.base import filled
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions, Source
from lit_deploy.bench.contenders import Contender, Kind
from lit_deploy.bench.run import run_bench
from lit_deploy.core.errors import UsageError
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.core.specs import IMAGES, TOLERANCES, PrecisionName
from lit_deploy.evaluate.result import SLACK
from lit_deploy.images.calibration import CalibrationImages
from lit_deploy.machine import native
from lit_deploy.tasks.classification.ranking import Classes, Floats, best_classes, logits_of, same_prediction
from lit_deploy.tasks.comparison import cosines

Feeds = Callable[[int], Iterable[NDArray[Any]]]
"""Gives all images in batches of at most that many, in a session's layout; see ``CalibrationImages.feeds``."""

BATCH = 8
"""Images per run where the file takes that many."""

TURN_SECONDS = 0.2
ROUNDS = (3, 10)
"""Least and most turns of each file: two networks whose batch takes long need not be measured often to be told apart,
and a user waits for this."""
BENCH_SECONDS = 5.0
"""What all turns together may take where ``ROUNDS`` allows it; starting and warming up take a few seconds more."""


@dataclass(frozen=True)
class Predictions:
    """What a file said about images.

    Attributes:
        classes: ``[N, k]``, best first; -1 where outputs are not finite.
        logits: ``[N, classes]``; of probabilities their logarithm without each image's mean, as they do not keep it;
            None for a top5 file.
        milliseconds: median time of a run per image of its batch.
    """

    classes: Classes
    logits: Floats | None
    milliseconds: float

    def differing(self, reference: Predictions) -> int:
        """Images whose first class is not the reference's."""
        return int((~same_prediction(reference.classes, self.classes)).sum())

    @property
    def notes(self) -> tuple[str, ...]:
        """What makes an agreement with these predictions mean little."""
        if len(self.classes) == 1 or len(set(self.classes[:, 0].tolist())) > 1:
            return ()
        return ("one class is predicted for all images, so that the agreement says little; give other images",)


@dataclass(frozen=True)
class Speed:
    """How fast a file is, measured in turns with its reference on this machine's ONNX Runtime.

    Attributes:
        speedup: median over turns of the reference's time over this file's; ``quartiles``: lower and upper.
        milliseconds, reference_milliseconds: median time of a batch.
        batch: images per run; ``threads``: of both.
        quiet: the machine had little else to do.
    """

    speedup: float
    quartiles: tuple[float, float]
    milliseconds: float
    reference_milliseconds: float
    batch: int
    threads: int
    quiet: bool

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
        cosine_min, cosine_mean: cosine similarity of an image's logits, the worst and on average; None for files that
            give only the five best classes.
        budget: share of the images that may differ.
        speed: None where it was not measured; ``unmeasured`` then says why.
        reasons: one sentence for every gate that was not met.
        notes: sentences about what a reader might overlook.
    """

    precision: PrecisionName
    reference: PrecisionName
    images: int
    source: str
    differing: int
    agreement: float
    cosine_min: float | None
    cosine_mean: float | None
    budget: float
    speed: Speed | None
    unmeasured: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def speedup(self) -> float | None:
        """Over the file that it was made from, where that was measured."""
        return None if self.speed is None else self.speed.speedup


def check_gates(
    candidate: str | Path,
    reference: str | Path,
    images: CalibrationImages,
    *,
    budget: float = 0.01,
    threads: int | None = None,
    unmeasured: str = "",
    progress: Progress = unseen,
) -> GateResult:
    """Compare an 8-bit ``.onnx`` file with the file that it was made from, on ONNX Runtime's CPU.

    It is for the caller to refuse a file whose ``reasons`` are not empty.

    Args:
        candidate: file of int8 or fp8. reference: the file of fp32 or fp16 that it was made from.
        images: in the layout of both files.
        budget: share 0..1 of the images whose first class may change.
        threads: of every session; None for all cores.
        unmeasured: why speed is not measured, as for a file that only an engine is made from; empty to measure it.
        progress: called with each step and the share that is done.

    Raises:
        UsageError: a budget that is no share.
        LitDeployError: a file that ONNX Runtime cannot run.
    """
    check_budget(budget)
    manifest, wanted = read_manifest(candidate), read_manifest(reference)
    options = SessionOptions(threads=threads)

    def run(source: str | Path, name: str, begin: float) -> Predictions:
        def tick(done: int) -> None:
            share = min(done / max(images.count, 1), 1.0)
            progress(Step(f"{name}: {done} of {images.count} images", begin + share / 2))

        tick(0)
        return predictions(source, images.feeds, options, tick)

    expected, found = run(reference, wanted.precision, 0.0), run(candidate, manifest.precision, 0.5)
    measured = None if unmeasured else measure_speed(candidate, reference, expected.milliseconds, threads, progress)
    if measured is not None and measured.slower and not measured.quiet:  # once more, before that is held against it
        measured = measure_speed(candidate, reference, expected.milliseconds, threads, progress)
    differing, count = found.differing(expected), len(expected.classes)
    similarities = _cosines(expected, found)
    result = GateResult(
        precision=manifest.precision,
        reference=wanted.precision,
        images=count,
        source=images.source,
        differing=differing,
        agreement=1 - differing / count,
        cosine_min=None if similarities is None else float(similarities.min()),
        cosine_mean=None if similarities is None else float(similarities.mean()),
        budget=budget,
        speed=measured,
        unmeasured=unmeasured,
        reasons=(),
        notes=(*images.notes, *_notes(expected, measured)),
    )
    broken = int((found.classes[:, 0] < 0).sum())
    return replace(result, reasons=_reasons(result, broken, telling=not expected.notes))


def check_budget(budget: float) -> None:
    """Raise UsageError when an accuracy budget is no share 0..1."""
    if not 0 <= budget <= 1:
        raise UsageError(f"the accuracy budget is {budget:.4%} of the images, expected 0 % to 100 %, e.g. 1 %")


def within(differing: int, images: int, budget: float) -> bool:
    """Whether so many changed predictions are within an accuracy budget (a share 0..1)."""
    return differing <= (budget + SLACK) * images


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
    classes, logits, times = [], [], []
    with open_session(source, options) as session:
        manifest = session.manifest
        low, high = session.batch_range
        done = 0
        for feed in feeds(max(low, min(BATCH, high))):
            batch = np.stack(filled(feed, low))
            begin = perf_counter()
            outputs = session.run({IMAGES: batch})
            times.append((perf_counter() - begin) * 1000 / len(batch))
            classes.append(best_classes(outputs, manifest.output, manifest.model.num_classes)[: len(feed)])
            scores = logits_of(outputs, manifest.output)
            if scores is not None:
                logits.append(scores[: len(feed)])
            done += len(feed)
            tick(done)
    if not classes:
        raise UsageError("got no images to run, expected at least one")
    return Predictions(np.concatenate(classes), np.concatenate(logits) if logits else None, float(np.median(times)))


def measure_speed(
    candidate: str | Path,
    reference: str | Path,
    milliseconds: float,
    threads: int | None,
    progress: Progress = unseen,
) -> Speed:
    """Let two files take turns on ONNX Runtime's CPU, each in a process of its own.

    Args:
        candidate, reference: ``.onnx`` files; the candidate's fixed batch, or one image, is run.
        milliseconds: what the reference takes for one image, roughly; it decides how many turns there are.
        threads, progress: as in ``run_bench``.
    """
    files = {"8 bits": candidate, "reference": reference}
    manifests = {label: read_manifest(path) for label, path in files.items()}
    batch = manifests["8 bits"].batch or 1
    # outputs need not agree as closely as a benchmark demands: there is a gate of its own for that
    contenders = [
        Contender(label, files[label], _kind(manifests[label]), compared=False) for label in ("reference", "8 bits")
    ]
    run = milliseconds * batch / 1000
    least, most = ROUNDS
    # a turn is a run that is not timed, and those that are: at least one
    rounds = max(least, min(most, int(BENCH_SECONDS / (2 * (run + max(run, TURN_SECONDS))))))
    report = run_bench(
        contenders, (batch,), threads=threads, rounds=rounds, turn_seconds=TURN_SECONDS, progress=progress
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
    )


def _kind(manifest: Manifest) -> Kind:
    """With the custom-op library where a session would use it."""
    return "onnxruntime" if native.find_library() and not manifest.portable else "onnxruntime-stock"


def _cosines(expected: Predictions, found: Predictions) -> Floats | None:
    """Cosine similarity of the logits per image ``[N]``, None where a file does not give them."""
    if expected.logits is None or found.logits is None:
        return None
    return cosines(expected.logits, found.logits)


def _reasons(result: GateResult, broken: int, telling: bool) -> tuple[str, ...]:
    """What was not met; where top-1 is not ``telling``, as it never changes, the logits have to be close."""
    reasons = []
    count, name, least = result.images, result.reference, TOLERANCES[result.precision].cosine
    if not telling and result.cosine_min is not None and result.cosine_min < least:
        reasons.append(f"the cosine of its logits with those of {name} is {result.cosine_min:.4f}, below {least}")
    if broken:
        reasons.append(f"its output is not finite for {broken} of {count} images")
    if not within(result.differing, count, result.budget):
        reasons.append(
            f"top-1 differs from {name} on {result.differing} of {count} images ({result.differing / count:.2%}), "
            f"the budget is {result.budget:.2%}{too_few(result.differing, count, result.budget)}"
        )
    speed = result.speed
    if speed is not None and speed.slower:
        threads = "1 thread" if speed.threads == 1 else f"{speed.threads} threads"
        sentence = (
            f"it is {speed.speedup:.2f}x as fast as {name} on ONNX Runtime here (batch {speed.batch}, {threads}: "
            f"{speed.milliseconds:.1f} ms against {speed.reference_milliseconds:.1f} ms)"
        )
        if result.precision == "fp8":
            sentence += (
                "; ONNX Runtime's CPU has no products of 8-bit floats, an engine has: lit-deploy export --format trt"
            )
        reasons.append(sentence)
    return tuple(reasons)


def _notes(expected: Predictions, speed: Speed | None) -> tuple[str, ...]:
    busy = "other processes kept the machine busy meanwhile, so that the speed says little"
    return (*expected.notes, *([busy] if speed is not None and not speed.quiet else []))
