"""Quantisation to 8 bits: observe activations on images, insert Q/DQ, measure the result before it is called done."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lit_deploy import __version__
from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import Backend, SessionOptions
from lit_deploy.core.errors import GateFailed, UsageError
from lit_deploy.core.files import atomic_path, check_target
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.core.specs import MAX_CALIBRATION_IMAGES, CalibrationMethod, EightBit, Quantization
from lit_deploy.exporters import qdq
from lit_deploy.exporters.onnx import check_model
from lit_deploy.images.calibration import CalibrationImages
from lit_deploy.quantize.feeding import fed, images_of
from lit_deploy.quantize.gates import GateResult, check_budget, check_gates, within
from lit_deploy.quantize.ranges import Ranges
from lit_deploy.quantize.sensitivity import Scan, check_scannable, scan
from lit_deploy.tasks.promises import require_results

BATCH = 4
"""Images per run while activations are observed, where the file takes as few: all values are held at once."""

_ADVICE = "; try another --calib-method, or find modules to --keep with lit-deploy quantize --scan"
_ADVICE_WITHOUT_SCAN = "; try another --calib-method, or --keep modules, such as 'neck.*'"


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantise, and what is good enough.

    Attributes:
        calib: folder of images, or an ``.npz``; see ``calibration_images``.
        method: how the range of an activation is chosen: its largest magnitude, a percentile of the magnitudes, or the
            threshold of least Kullback-Leibler divergence.
        percentile: for that method, above 50 and at most 100.
        limit: most images, evenly spaced over the folder.
        keep: patterns of module names that are not quantised.
        accuracy_budget: share of the predictions on the calibration images that may differ from those of the
            unquantised file: of the images by their first class, of the detections, of the pixels.
        force: hand the file out even if it is over the budget, slower than float32, or beyond the limits of parity.
    """

    calib: str | Path
    method: CalibrationMethod = "minmax"
    percentile: float = 99.99
    limit: int = 128
    keep: tuple[str, ...] = ()
    accuracy_budget: float = 0.01
    force: bool = False

    def __post_init__(self) -> None:
        Ranges(self.method, self.percentile)  # refuses what it cannot work with
        check_budget(self.accuracy_budget)
        if not 1 <= self.limit <= MAX_CALIBRATION_IMAGES:
            raise UsageError(f"limit is {self.limit} calibration images, expected 1 to {MAX_CALIBRATION_IMAGES}")


@dataclass(frozen=True)
class QuantizeResult:
    """What was written.

    Attributes:
        path: the file; ``size``: in bytes.
        manifest: what it says about itself.
        gates: how it compares with the file it was made from.
    """

    path: Path
    manifest: Manifest
    size: int
    gates: GateResult


def quantize_file(
    source: str | Path,
    out: str | Path,
    options: QuantizeOptions,
    precision: EightBit = "int8",
    *,
    threads: int | None = None,
    backend: Backend = "onnxruntime",
    progress: Progress = unseen,
) -> QuantizeResult:
    """Quantise an exported ``.onnx`` file. Needs no PyTorch.

    Args:
        source: file of fp32 or fp16, which is also the type of all that is not quantised.
        out: file to write; it appears whole, or not at all.
        options: images and limits; ``precision``: of the result.
        threads: of every run.
        backend: what the result is measured on.
        progress: called with the name of each step.

    Raises:
        GateFailed: too many predictions changed, or the result is slower than the source; nothing is written.
        UsageError, ImageError, ArtifactError, MissingDependency: as their names say; nothing is written.
    """
    source, out = Path(source), Path(out)
    if out.suffix.lower() != ".onnx":
        raise UsageError(f"the output is {out.name}, expected a name that ends in .onnx")
    check_target(out)
    reference = _source(source)
    if out.exists() and out.samefile(source):
        raise UsageError(f"the output {out} is the source itself; choose another name with --out")
    images = images_of(options.calib, reference.manifest, options.limit)
    quantized = quantize_model(reference, reference, images, options, precision, threads, progress)
    with atomic_path(out) as part:
        quantized.write(part)
        gates = gated(part, source, images, options, threads, backend=backend, engine=False, progress=progress)
        quantized = with_gates(quantized, gates)
        quantized.seal(part)
        size = part.stat().st_size
    return QuantizeResult(out, quantized.manifest, size, gates)


def scan_file(
    source: str | Path,
    options: QuantizeOptions,
    precision: EightBit = "int8",
    *,
    threads: int | None = None,
    progress: Progress = unseen,
) -> Scan:
    """Rank the modules of an exported ``.onnx`` file by the damage that 8 bits do; see ``sensitivity.scan``.

    Args:
        source: file of fp32 or fp16.
        options: images, ranges, what is kept in any case, and the budget to propose for.
        precision, threads, progress: as in ``quantize_file``.

    Raises:
        UsageError, ImageError, ArtifactError, MissingDependency: as their names say.
    """
    artifact = _source(Path(source))
    check_scannable(artifact, source)
    artifact = qdq.opened(artifact, precision)
    chosen = _chosen(artifact, precision, options)
    images = images_of(options.calib, artifact.manifest, options.limit)
    progress(Step("observe the activations"))
    amax = observe(artifact, qdq.observed(chosen), images, options, threads, progress)
    return scan(
        source, precision, amax, images, keep=options.keep, budget=options.accuracy_budget, threads=threads,
        progress=progress,
    )  # fmt: skip


def _source(path: Path) -> OnnxArtifact:
    """Read a file that can be quantised."""
    if path.suffix.lower() != ".onnx":
        raise UsageError(
            f"{path} is no .onnx file; quantise a checkpoint with lit-deploy export --precision int8 --calib instead"
        )
    artifact = OnnxArtifact.read(path)
    require_results(artifact.manifest, path)
    if artifact.manifest.precision not in ("fp32", "fp16"):
        raise UsageError(
            f"{path} is of {artifact.manifest.precision}; expected a file of fp32 or fp16, so export it again"
        )
    return artifact


def _chosen(artifact: OnnxArtifact, precision: EightBit, options: QuantizeOptions) -> tuple[qdq.Product, ...]:
    chosen = qdq.products(artifact, precision, options.keep)
    if not chosen:
        raise UsageError(f"everything is kept by {', '.join(options.keep)}, so nothing is left to quantise")
    return chosen


def quantize_model(
    reference: OnnxArtifact,
    artifact: OnnxArtifact,
    images: CalibrationImages,
    options: QuantizeOptions,
    precision: EightBit,
    threads: int | None = None,
    progress: Progress = unseen,
) -> OnnxArtifact:
    """Quantise a model with the ranges that another form of the same graph shows.

    Args:
        reference: what is run to see the ranges: the same network, in the same or a wider type.
        artifact: what is quantised.
        images, options, precision: as in ``quantize_file``.

    Returns:
        The checked model and what is known about it.
    """
    progress(Step("observe the activations"))
    reference, artifact = qdq.opened(reference, precision), qdq.opened(artifact, precision)
    chosen = _chosen(artifact, precision, options)
    amax = observe(reference, qdq.observed(chosen), images, options, threads, progress)
    progress(Step("insert Q/DQ"))
    graph = qdq.quantized(artifact.graph, precision, amax, chosen)
    check_model(graph)
    manifest = artifact.manifest
    return OnnxArtifact(graph, manifest).described(
        precision=precision,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions={**manifest.versions, "lit_deploy": __version__},
        parity=None,
        quantization=Quantization(
            method=options.method,
            percentile=options.percentile if options.method == "percentile" else None,
            images=images.count,
            source=images.source,
            images_sha256=images.sha256,
            base=manifest.precision,
            kept=options.keep,
            products=len(chosen),
        ),
    )


def observe(
    artifact: OnnxArtifact,
    values: Sequence[str],
    images: CalibrationImages,
    options: QuantizeOptions,
    threads: int | None = None,
    progress: Progress = unseen,
) -> dict[str, float]:
    """Run images through a model; choose, for each of these values of its graph, the largest magnitude to represent."""
    ranges = Ranges(options.method, options.percentile)
    done = 0
    with open_session(artifact, SessionOptions(threads=threads, values=tuple(values))) as session:
        low, high = session.batch_range
        for batch in images.feeds(max(low, min(BATCH, high))):
            feed, rows = fed(batch, session)
            outputs = session.run(feed)
            # what fills up a batch would count twice; images are the slowest axis of every value
            ranges.add({name: outputs[name][: len(outputs[name]) * len(batch) // rows] for name in values})
            done += len(batch)
            progress(Step("observe the activations", done / images.count))
    return ranges.amax()


def gated(
    candidate: Path,
    reference: Path,
    images: CalibrationImages,
    options: QuantizeOptions,
    threads: int | None,
    *,
    backend: Backend,
    engine: bool,
    progress: Progress,
) -> GateResult:
    """Measure an 8-bit file against the one it was made from; GateFailed, with the numbers, unless that is forced."""
    budget = options.accuracy_budget
    unmeasured = "it is for an engine, and ONNX Runtime's says nothing about that" if engine else ""
    gates = check_gates(
        candidate, reference, images, budget=budget, threads=threads, backend=backend, unmeasured=unmeasured,
        progress=progress,
    )  # fmt: skip
    if gates.reasons and not options.force:
        advice = _ADVICE if gates.scannable else _ADVICE_WITHOUT_SCAN
        if within(gates.differing, gates.of, budget):
            advice = ""
        told = "; ".join(filter(None, (*gates.reasons, gates.doubt, *gates.notes)))
        raise GateFailed(f"nothing was written: {told}{advice}; --force writes it all the same")
    return gates


def with_gates(artifact: OnnxArtifact, gates: GateResult) -> OnnxArtifact:
    """Note in an 8-bit file's manifest what the gates measured."""
    quantization = artifact.manifest.quantization
    assert quantization is not None
    return artifact.described(quantization=replace(quantization, agreement=gates.agreement, speedup=gates.speedup))
