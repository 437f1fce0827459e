"""Measure what every precision costs in accuracy and gains in speed on this machine's CPU.

1. Accuracy: files of fp32, fp16, bf16, int8 and fp8 against PyTorch in float32, on photographs for the official
   networks (seeded weights) and on held-out digits for the trained network of the digits example.
2. Speed: fp32 and int8 files of LIT-S on ONNX Runtime, OpenVINO and PyTorch, all in turns.
3. Profiles: where the time goes, and which matrix products really are computed on integers.

    python benchmarks/precision.py [--threads 2] [--rounds 20] [--folder benchmarks/results]
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from precision_speed import Profile, export_8bit, export_timed, measure_profiles, measure_speed, profiles_markdown

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.bench.result import BenchReport
from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.checkpoints.seeded import make_state, save_checkpoint
from lit_deploy.core.errors import LitDeployError, MissingDependency
from lit_deploy.core.files import write_text
from lit_deploy.core.progress import Progress, Step
from lit_deploy.core.specs import TOLERANCES, CalibrationMethod, InputSpec, ModelSpec, PrecisionName
from lit_deploy.evaluate.result import EvaluateReport
from lit_deploy.evaluate.run import evaluate_artifacts
from lit_deploy.exporters.onnx import OnnxOptions, onnx_from_checkpoint
from lit_deploy.images.calibration import CalibrationImages, calibration_images
from lit_deploy.machine import native
from lit_deploy.models.families import OFFICIAL_SPECS, default_input
from lit_deploy.quantize.gates import Predictions, predictions
from lit_deploy.report.bench import bench_markdown
from lit_deploy.report.charts import model_title
from lit_deploy.report.evaluate import evaluate_markdown
from lit_deploy.report.terminal import as_json, show, steps

CALIBRATION, TEST = 64, 32
"""Crops of photographs that ranges are chosen on, and others that networks are compared on."""
DIGITS = Path(__file__).resolve().parent.parent / "examples" / "01_digits"
DIGITS_CALIBRATION = 128
LEAST_AREA = 0.15
"""Of a photograph, in a crop."""
METHODS: tuple[CalibrationMethod, ...] = ("percentile", "entropy")
"""Beside minmax, which every other number here was measured with."""


@dataclass(frozen=True)
class Closeness:
    """How close a file comes to PyTorch in float32.

    Attributes:
        network, precision: of the file; ``method``: that its ranges were chosen by, None where it has none.
        images: number of test images.
        relative: largest error of a logit over the largest magnitude of PyTorch's logits.
        cosine_min, cosine_mean: cosine similarity of an image's logits, the worst and on average.
        differing: images whose first class is not PyTorch's.
    """

    network: str
    precision: PrecisionName
    method: CalibrationMethod | None
    images: int
    relative: float
    cosine_min: float
    cosine_mean: float
    differing: int


@dataclass(frozen=True)
class Margin:
    """The worst that was seen of a precision, over all networks and methods, beside the limits of ``TOLERANCES``."""

    precision: PrecisionName
    relative: float
    relative_limit: float
    cosine: float
    cosine_limit: float


@dataclass(frozen=True)
class PrecisionReport:
    """Everything that was measured.

    Attributes:
        photographs: names of the photographs; ``calibration``, ``test``: crops of them.
        closeness: per network and precision, ranges by minmax; ``methods``: int8 of the timed network with the others.
        margins: per precision.
        digits: top-1 accuracy on the held-out digits.
        speed: of the timed network, which also says on which machine; ``quiet``: it had little else to do.
        profiles: of the timed network.
    """

    photographs: tuple[str, ...]
    calibration: int
    test: int
    closeness: tuple[Closeness, ...]
    methods: tuple[Closeness, ...]
    margins: tuple[Margin, ...]
    digits: EvaluateReport
    speed: BenchReport
    quiet: bool
    profiles: tuple[Profile, ...]


def main() -> int:
    """Run everything and write precision_cpu.json and .md; 2 if something is missing."""
    parser = argparse.ArgumentParser(description="Measure accuracy and speed of every precision on this machine's CPU.")
    parser.add_argument("--rounds", type=int, default=20, help="turns of every contender [default: 20]")
    parser.add_argument("--threads", type=int, default=2, help="threads of every session [default: 2]")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "results", help="where results go")
    arguments = parser.parse_args()
    try:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="lit-deploy-bench-") as work, steps() as progress:
            result = measure(Path(work), OFFICIAL_SPECS, "lit_s", arguments.threads, arguments.rounds, progress)
        write_text(as_json(result), arguments.folder / "precision_cpu.json")
        write_text(precision_markdown(result), arguments.folder / "precision_cpu.md")
    except LitDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    show(precision_markdown(result))
    return 0


def measure(
    work: Path,
    specs: Mapping[str, ModelSpec],
    timed: str,
    threads: int,
    rounds: int,
    progress: Progress = lambda step: None,
    batches: Sequence[int] = (1, 8),
) -> PrecisionReport:
    """Measure networks with seeded weights, and the digits example.

    Args:
        work: existing folder for files.
        specs: networks by name; ``timed``: the one of them that is timed and profiled.
        threads, rounds, progress, batches: see ``run_bench``.

    Raises:
        MissingDependency: a package, or the custom-op library that the baseline runs on.
    """
    if native.find_library() is None:
        raise MissingDependency(f"the custom-op library is not built: {native.BUILD_COMMAND}")
    photos = photographs()
    digits, rows = measure_digits(work / "digits", threads, progress)
    methods: list[Closeness] = []
    for name, spec in specs.items():
        folder = work / name
        folder.mkdir()
        checkpoint = folder / f"{name}.pth"
        save_checkpoint(make_state(spec), checkpoint, form="model")
        calibration, test = photo_images(list(photos.values()), folder, default_input(spec))
        files = export_all(checkpoint, folder, calibration, threads, progress)
        reference = predictions(checkpoint, test.feeds, SessionOptions(threads=threads))
        rows += [closeness(name, files[precision], test, reference, threads, progress) for precision in files]
        if name != timed:
            shutil.rmtree(folder)  # 1.3 GB for the largest one
            continue
        for method in METHODS:
            file = folder / f"int8_{method}.onnx"
            export_8bit(files["fp32"], files["fp32"], file, calibration, "int8", threads, progress, method)
            methods.append(closeness(name, file, test, reference, threads, progress))
        timed_files = export_timed(checkpoint, files, calibration, threads, progress)
    speed = measure_speed(work / timed / f"{timed}.pth", timed_files, threads, rounds, batches, progress)
    profiles = measure_profiles(timed_files, work, progress)
    return PrecisionReport(
        tuple(photos), CALIBRATION, TEST, tuple(rows), tuple(methods), margins([*rows, *methods]), digits, speed,
        speed.quiet, profiles,
    )  # fmt: skip


# --- images -----------------------------------------------------------------------------------------------------------


def photographs() -> dict[str, Image.Image]:
    """Photographs that installed packages bring for their own examples, by file name."""
    try:
        from matplotlib.cbook import get_sample_data
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise MissingDependency(
            f"{error.name} is not installed, which brings photographs; run: pip install 'lit-deploy[plot,test]'"
        ) from None
    samples = load_sample_images()
    pairs = zip(samples.filenames, samples.images, strict=True)
    found = {Path(name).name: Image.fromarray(pixels) for name, pixels in pairs}
    hopper = Path(get_sample_data("grace_hopper.jpg", asfileobj=False))
    return {**found, hopper.name: Image.open(hopper).convert("RGB")}


Crop = tuple[int, int, int, int, int]
"""Number of the photograph; left, top, right and bottom pixel."""


def draw_crops(
    sizes: Sequence[tuple[int, int]], count: int, seed: int, taken: Collection[Crop] = ()
) -> tuple[Crop, ...]:
    """Draw distinct random crops: 15 % to 100 % of the area, sides in 3:4 to 4:3, as training crops are drawn.

    Args:
        sizes: width and height of every photograph; each gives as many crops as any other.
        count: how many; ``seed``: of the generator.
        taken: crops that must not be drawn again.
    """
    generator = np.random.default_rng(seed)
    drawn: list[Crop] = []
    while len(drawn) < count:
        photo = len(drawn) % len(sizes)
        width, height = sizes[photo]
        area = generator.uniform(LEAST_AREA, 1) * width * height
        aspect = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if w > width or h > height:
            continue
        left, top = (int(generator.integers(0, room + 1)) for room in (width - w, height - h))
        crop = (photo, left, top, left + w, top + h)
        if crop not in taken and crop not in drawn:
            drawn.append(crop)
    return tuple(drawn)


def photo_images(
    photos: Sequence[Image.Image], folder: Path, spec: InputSpec
) -> tuple[CalibrationImages, CalibrationImages]:
    """Images for calibration and for the test: different crops of the same photographs; every other one is mirrored."""
    sizes = [photo.size for photo in photos]
    calibration = draw_crops(sizes, CALIBRATION, seed=0)
    test = draw_crops(sizes, TEST, seed=1, taken=calibration)
    images = []
    for name, crops in (("calibration", calibration), ("test", test)):
        pixels = []
        for index, (photo, left, top, right, bottom) in enumerate(crops):
            box = (left, top, right, bottom)
            resized = photos[photo].resize((spec.width, spec.height), Image.Resampling.BICUBIC, box)
            pixels.append(np.asarray(resized)[:, :: -1 if index % 2 else 1])
        np.savez(folder / f"{name}.npz", images=np.stack(pixels))
        images.append(calibration_images(folder / f"{name}.npz", spec))
    return images[0], images[1]


# --- files ------------------------------------------------------------------------------------------------------------


def export_all(
    checkpoint: Path, folder: Path, images: CalibrationImages, threads: int, progress: Progress
) -> dict[PrecisionName, Path]:
    """Write a checkpoint in every precision as ``lit-deploy export`` does, with ranges by minmax."""
    loaded = load_checkpoint(checkpoint)
    files: dict[PrecisionName, Path] = {name: folder / f"{name}.onnx" for name in get_args(PrecisionName)}
    for precision in ("fp32", "fp16", "bf16"):
        progress(Step(f"{checkpoint.stem}: export {precision}"))
        onnx_from_checkpoint(loaded, OnnxOptions(precision=precision)).write(files[precision])
    export_8bit(files["fp32"], files["fp32"], files["int8"], images, "int8", threads, progress)
    export_8bit(files["fp32"], files["fp16"], files["fp8"], images, "fp8", threads, progress)
    return files


# --- accuracy ---------------------------------------------------------------------------------------------------------


def closeness(
    network: str, file: Path, images: CalibrationImages, reference: Predictions, threads: int, progress: Progress
) -> Closeness:
    """Compare a file with PyTorch's predictions for the same images."""
    progress(Step(f"{network}: run {file.name}"))
    manifest = read_manifest(file)
    found = predictions(file, images.feeds, SessionOptions(threads=threads))
    assert reference.logits is not None
    assert found.logits is not None
    relative, cosines = compare(reference.logits, found.logits)
    return Closeness(
        network, manifest.precision, manifest.quantization.method if manifest.quantization else None, images.count,
        relative, float(cosines.min()), float(cosines.mean()), found.differing(reference),
    )  # fmt: skip


def compare(expected: NDArray[Any], found: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    """Largest error over the largest magnitude expected, and the cosine similarity of every row, of logits [N, k]."""
    cosines = (expected * found).sum(axis=1) / (np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1))
    return float(np.abs(found - expected).max() / np.abs(expected).max()), cosines


def margins(rows: Sequence[Closeness]) -> tuple[Margin, ...]:
    """The worst of every precision beside its limits."""
    found = []
    for precision in get_args(PrecisionName):
        of_it = [row for row in rows if row.precision == precision]
        limit = TOLERANCES[precision]
        worst = max(row.relative for row in of_it), min(row.cosine_min for row in of_it)
        found.append(Margin(precision, worst[0], limit.relative, worst[1], limit.cosine))
    return tuple(found)


def measure_digits(folder: Path, threads: int, progress: Progress) -> tuple[EvaluateReport, list[Closeness]]:
    """Top-1 accuracy and closeness of the digits example in every precision, calibrated on its training digits."""
    sys.path.insert(0, str(DIGITS))
    data = importlib.import_module("digits_data")
    training, held_out = data.split()
    data.write(folder / "training", training)
    data.write(folder / "held_out", held_out)
    checkpoint = DIGITS / "digits.pth"
    spec = default_input(load_checkpoint(checkpoint).spec)
    calibration = calibration_images(folder / "training", spec, DIGITS_CALIBRATION)
    test = calibration_images(folder / "held_out", spec, limit=1000)
    files = export_all(checkpoint, folder, calibration, threads, progress)
    options = SessionOptions(threads=threads)
    reference = predictions(checkpoint, test.feeds, options)
    rows = [closeness("digits", file, test, reference, threads, progress) for file in files.values()]
    found = evaluate_artifacts(
        list(files.values()), folder / "held_out", checkpoint, workers=1, state=folder / "state", options=options,
        progress=progress,
    )  # fmt: skip
    # the folders are gone when somebody reads this
    scores = tuple(replace(score, path=score.label) for score in found.scores)
    return replace(found, source="held-out digits of examples/01_digits", scores=scores), rows


# --- Markdown ---------------------------------------------------------------------------------------------------------


def precision_markdown(result: PrecisionReport) -> str:
    """The report as Markdown."""
    photos = ", ".join(result.photographs)
    timed = result.methods[0].network
    lines = [
        "# Precision on a CPU",
        "",
        "Written by `python benchmarks/precision.py`. bf16 and fp8 are emulated on a CPU, exactly but slowly, so that "
        "their accuracy is measured and their speed is not; fp16 is not timed either, as ONNX Runtime computes most "
        "of it in float32.",
        "",
        "## Accuracy against PyTorch in float32",
        "",
        f"Official networks have seeded weights and see {result.test} crops of photographs ({photos}). Ranges of 8 "
        f"bits come from {result.calibration} other crops: no crop is in both, but they overlap, being of the same "
        f"photographs. The digits network is trained and sees the held-out digits; its ranges come from "
        f"{DIGITS_CALIBRATION} training digits. Ranges by minmax; int8 in float32 files, fp8 in float16 files, as "
        "`lit-deploy export` writes them.",
        "",
        *_closeness_table(result.closeness, "precision"),
        "",
        "Relative error: the largest error of a logit over the largest logit. Cosine: of an image's logits.",
        "",
        "## Limits of `lit-deploy verify`",
        "",
        "The worst of all networks, images and ways to choose ranges, and how often it fits into the fixed limits.",
        "",
        "| precision | relative error | limit | fits | 1 - cosine | limit | fits |",
        "|-|-:|-:|-:|-:|-:|-:|",
        *(
            f"| {m.precision} | {m.relative:.1e} | {m.relative_limit:.0e} | {m.relative_limit / m.relative:.2g} | "
            f"{1 - m.cosine:.1e} | {1 - m.cosine_limit:.0e} | {(1 - m.cosine_limit) / (1 - m.cosine):.2g} |"
            for m in result.margins
        ),
        "",
        f"## Ways to choose ranges, int8, {model_title(result.speed)}",
        "",
        *_closeness_table(
            [r for r in (*result.closeness, *result.methods) if (r.network, r.precision) == (timed, "int8")], "method"
        ),
        "",
        "## Digits",
        "",
        evaluate_markdown(result.digits),
        "## Speed",
        "",
        bench_markdown(result.speed),
        "## Where the time goes",
        "",
        profiles_markdown(result.profiles),
    ]
    return "\n".join(lines)


def _closeness_table(rows: Sequence[Closeness], what: Literal["precision", "method"]) -> list[str]:
    return [
        f"| network | {what} | images | relative error | least cosine | mean cosine | top-1 differs |",
        "|-|-|-:|-:|-:|-:|-:|",
        *(
            f"| {row.network} | {getattr(row, what)} | {row.images} | {row.relative:.1e} | {row.cosine_min:.6f} | "
            f"{row.cosine_mean:.6f} | {row.differing} |"
            for row in rows
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
