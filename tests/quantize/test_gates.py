"""The two gates of an 8-bit file: planted damage, planted slowness, and what their sentences say."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from rich.console import Console
from support.benchmarks import QUICK
from support.exported import change_initializer, edited, export_of, needs_library, relabelled
from support.gates import COUNT, CheckpointFile, as_eight_bits, images, logits_one_by_one, ranges, selected
from support.golden import TINY

from lit_deploy.artifacts.onnx_file import OnnxArtifact, read_manifest
from lit_deploy.bench.contenders import Contender
from lit_deploy.bench.result import BenchReport
from lit_deploy.core.errors import UsageError
from lit_deploy.exporters.qdq import products
from lit_deploy.images.calibration import CalibrationImages
from lit_deploy.quantize import gates
from lit_deploy.quantize.gates import GateResult, too_few, within
from lit_deploy.report.quantize import gates_table
from lit_deploy.tasks.intervals import wilson_interval

__all__ = ["images"]  # a fixture

check_gates = functools.partial(gates.check_gates, threads=1, unmeasured="not asked for")


@pytest.fixture(scope="session")
def pair(
    checkpoint_file: CheckpointFile, images: CalibrationImages, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The tiny network in int8 and in fp32."""
    reference = export_of(checkpoint_file("tiny"))
    target = tmp_path_factory.mktemp("gates") / "tiny_int8.onnx"
    return as_eight_bits(reference, target, ranges(reference, images, "int8")), reference


def shown(result: GateResult) -> str:
    console = Console(width=140, record=True)
    with console.capture() as capture:
        console.print(gates_table(result))
    return capture.get()


# ----------------------------------------------------------------------------------------------------------- agreement


def test_the_numbers_are_those_of_single_runs(pair: tuple[Path, Path], images: CalibrationImages) -> None:
    told: list[str] = []
    result = check_gates(*pair, images, budget=0.2, progress=lambda step: told.append(str(step)))
    found, expected = (logits_one_by_one(path, images).astype(np.float64) for path in pair)
    assert len(set(expected.argmax(axis=1))) > 1, "an agreement on one class would say nothing"
    differing = int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(found, expected, strict=True)]
    assert (result.images, result.source, result.differing) == (COUNT, "a folder", differing)
    assert result.agreement == pytest.approx(1 - differing / COUNT)
    assert (result.cosine_min, result.cosine_mean) == pytest.approx((min(cosines), np.mean(cosines)), abs=1e-6)
    assert 0.9 < min(cosines) < 0.99999, "int8 is neither wrong nor the same"
    assert (result.precision, result.reference, result.reasons, result.notes) == ("int8", "fp32", (), ())
    assert (result.speed, result.speedup, result.unmeasured) == (None, None, "not asked for")
    assert result.interval == wilson_interval(COUNT - differing, COUNT)
    assert f"{result.interval[0]:.2%} to {result.interval[1]:.2%}" in shown(result)
    assert result.doubt.startswith(f"{COUNT} images are too few to tell on which side of the budget of 20.00%") == (
        result.interval[0] < 0.8 <= result.interval[1]
    )
    shares = [int(text[:3]) for text in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 100)
    assert told[-1] == f"100 %  int8: {COUNT} of {COUNT} images"
    assert "PASS" in shown(result)
    assert "speed was not measured: not asked for" in shown(result)


def test_the_back_end_that_is_asked_for(
    pair: tuple[Path, Path], images: CalibrationImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It predicts and is timed; both on OpenVINO here, where int8 rounds otherwise than on ONNX Runtime."""
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    asked: list[Contender] = []

    def timed(contenders: list[Contender], batches: tuple[int, ...], **options: Any) -> BenchReport:
        asked.extend(contenders)
        return run_bench(contenders, batches, **{**options, **QUICK, "rounds": 1})

    run_bench = gates.run_bench
    monkeypatch.setattr(gates, "run_bench", timed)
    result = gates.check_gates(*pair, images, budget=0.2, threads=1, backend="openvino")
    assert {contender.kind for contender in asked} <= {"openvino", "openvino-kernels"}
    assert result.speed is not None
    assert result.speed.backend == "openvino"
    assert "OpenVINO, batch 1" in shown(result)
    plain = check_gates(*pair, images, budget=0.2)
    assert plain.cosine_min is not None
    assert result.cosine_min is not None
    assert 1e-9 < abs(result.cosine_min - plain.cosine_min) < 0.01


def test_one_wrong_scale_fails(pair: tuple[Path, Path], images: CalibrationImages, tmp_path: Path) -> None:
    candidate, reference = pair
    (product,) = (p for p in products(OnnxArtifact.read(reference), "int8") if p.module == "layers.0.downsample.dconv")

    def change(model: onnx.ModelProto) -> None:
        change_initializer(model, f"{product.activations[0]}/scale", lambda scale: scale / 100)

    wrong = edited(candidate, tmp_path / "wrong.onnx", change)
    result = check_gates(wrong, reference, images, budget=0.03)
    assert result.differing > 0.2 * COUNT
    share = f"{result.differing / COUNT:.2%}"
    assert result.reasons == (
        f"top-1 differs from fp32 on {result.differing} of {COUNT} images ({share}), the budget is 3.00%",
    )
    assert result.cosine_min < check_gates(*pair, images).cosine_min - 0.05
    text = shown(result)
    assert "FAIL" in text
    assert f"{result.differing} of {COUNT} ({share})" in text
    assert check_gates(wrong, reference, images, budget=1.0).reasons == ()


@pytest.mark.parametrize(
    "options", [{"output": "probabilities", "batch": 3}, {"output": "top5", "input": "uint8"}], ids=str
)
def test_every_kind_of_file(
    options: dict[str, Any],
    pair: tuple[Path, Path],
    checkpoint_file: CheckpointFile,
    images: CalibrationImages,
    tmp_path: Path,
) -> None:
    """The last batch is not full, and outputs other than logits tell the same."""
    reference = export_of(checkpoint_file("tiny"), **options)
    fed = replace(images, spec=read_manifest(reference).input)
    candidate = as_eight_bits(reference, tmp_path / "tiny.onnx", ranges(reference, fed, "int8"))
    plain, result = check_gates(*pair, images), check_gates(candidate, reference, fed)
    assert (result.images, result.differing) == (COUNT, plain.differing)
    if options["output"] == "top5":
        assert (result.cosine_min, result.cosine_mean) == (None, None)
        assert "cosine" not in shown(result)
    else:  # of logits without their mean, which probabilities do not keep
        found, expected = (logits_one_by_one(path, images).astype(np.float64) for path in pair)
        found, expected = (value - value.mean(axis=1, keepdims=True) for value in (found, expected))
        cosines = np.sum(found * expected, axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        assert (result.cosine_min, result.cosine_mean) == pytest.approx((cosines.min(), cosines.mean()), abs=1e-4)


def test_outputs_that_are_not_finite_never_agree(
    pair: tuple[Path, Path], images: CalibrationImages, tmp_path: Path
) -> None:
    def change(model: onnx.ModelProto) -> None:
        change_initializer(model, "head.bias", lambda value: np.full_like(value, np.nan))

    broken = [edited(path, tmp_path / f"{index}.onnx", change) for index, path in enumerate(pair)]
    result = check_gates(broken[0], pair[1], images)
    assert (result.differing, result.agreement, result.cosine_min, result.cosine_mean) == (COUNT, 0.0, -1.0, -1.0)
    assert result.reasons[0] == f"its output is not finite for {COUNT} of {COUNT} images"
    assert check_gates(*broken, images).differing == COUNT, "not even with another one that is not finite"


def test_budget_counts_whole_images() -> None:
    assert within(1, 100, 0.01)
    assert not within(2, 100, 0.01)
    assert within(0, 16, 0.0)
    assert not within(1, 16, 0.01)
    assert all(within(k, n, k / n) for n in range(1, 300, 7) for k in range(n + 1)), "whatever k / n is rounded to"
    assert too_few(1, 100, 0.01) == too_few(1, 16, 0.0) == too_few(2, 16, 0.01) == ""
    assert "a single one of 99 images exceeds; calibrate with 100 or more" in too_few(1, 99, 0.01)
    assert "calibrate with 143 or more" in too_few(1, 16, 0.007)


def test_a_sample_that_is_too_small_is_said(pair: tuple[Path, Path], images: CalibrationImages) -> None:
    budget = 2 * check_gates(*pair, images, budget=0.2).differing / COUNT
    result = check_gates(*pair, images, budget=max(budget, 0.01))
    assert result.reasons == ()
    assert result.doubt.startswith(f"{COUNT} images are too few to tell")
    assert "images are too few to tell" in shown(result)


def test_agreement_on_one_class_is_noted(pair: tuple[Path, Path], images: CalibrationImages, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        change_initializer(model, "head.bias", lambda value: value + 1000 * np.eye(TINY.num_classes)[3])

    biased = [edited(path, tmp_path / f"{index}.onnx", change) for index, path in enumerate(pair)]
    result = check_gates(*biased, images)
    assert (result.differing, result.reasons) == (0, ())
    (note,) = result.notes
    assert note.startswith("one class is predicted for all images")
    assert "one class is predicted for all images" in shown(result)


def test_logits_count_where_top1_never_changes(
    pair: tuple[Path, Path], images: CalibrationImages, tmp_path: Path
) -> None:
    """One class wins everywhere, but everything else is wrong."""

    def biased(model: onnx.ModelProto) -> None:
        change_initializer(model, "head.bias", lambda value: value + 20 * np.eye(TINY.num_classes)[3])

    def damaged(model: onnx.ModelProto) -> None:
        biased(model)
        change_initializer(model, "head.weight", lambda value: -3 * value)

    files = [
        edited(path, tmp_path / f"{index}.onnx", change)
        for index, (path, change) in enumerate(zip(pair, (damaged, biased), strict=True))
    ]
    result = check_gates(*files, images)
    assert result.differing == 0
    (reason,) = result.reasons
    assert reason.startswith("the cosine of its logits with those of fp32 is ")
    assert reason.endswith(", below 0.99")


def test_arguments_that_cannot_be_used(pair: tuple[Path, Path], images: CalibrationImages) -> None:
    for budget in (-0.01, 1.01, float("nan")):
        with pytest.raises(UsageError, match=r"the accuracy budget is .* expected 0 % to 100 %"):
            check_gates(*pair, images, budget=budget)
    with pytest.raises(UsageError, match="got no images"):
        check_gates(*pair, selected(images, []))


# --------------------------------------------------------------------------------------------------------------- speed


def bench_of(speedup: float, quiet: bool = True) -> tuple[Callable[..., SimpleNamespace], list[SimpleNamespace]]:
    """A ``run_bench`` that measures nothing, and what it was asked."""
    asked: list[SimpleNamespace] = []

    def run_bench(contenders: Any, batches: Any, **options: Any) -> SimpleNamespace:
        asked.append(SimpleNamespace(contenders=contenders, batches=batches, **options))
        baseline, other = (contender.label for contender in contenders)
        measurements = (
            SimpleNamespace(label=other, speedup=speedup, speedup_quartiles=(speedup - 0.1, speedup + 0.1), p50=12.06),
            SimpleNamespace(label=baseline, speedup=1.0, speedup_quartiles=(1.0, 1.0), p50=12.06 * speedup),
        )
        return SimpleNamespace(measurements=measurements, threads=options["threads"] or 2, quiet=quiet)

    return run_bench, asked


def test_a_faster_file_passes(
    pair: tuple[Path, Path], images: CalibrationImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in, asked = bench_of(1.7)
    monkeypatch.setattr(gates, "run_bench", stand_in)
    result = check_gates(*pair, images, budget=0.2, unmeasured="", threads=None)
    assert (result.reasons, result.unmeasured, result.speedup) == ((), "", 1.7)
    assert result.speed == gates.Speed(1.7, (pytest.approx(1.6), pytest.approx(1.8)), 12.06, 12.06 * 1.7, 1, 2, True)
    (request,) = asked
    assert (request.batches, request.threads) == ((1,), None)
    assert [contender.source for contender in request.contenders] == [pair[1], pair[0]], "the reference comes first"
    assert not any(contender.compared for contender in request.contenders)
    assert "1.70x (1.60 to 1.80)" in shown(result)


def test_a_slower_file_fails(
    pair: tuple[Path, Path], images: CalibrationImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "run_bench", bench_of(0.83, quiet=False)[0])
    result = check_gates(*pair, images, budget=0.2, unmeasured="", threads=2)
    sentence = "it is 0.83x as fast as fp32 on ONNX Runtime here (batch 1, 2 threads: 12.1 ms against 10.0 ms)"
    assert result.reasons == (sentence,)
    assert result.notes == ("other processes kept the machine busy meanwhile, so that the speed says little",)
    assert sentence in shown(result)
    monkeypatch.setattr(gates, "run_bench", bench_of(1.0)[0])
    assert check_gates(*pair, images, budget=0.2, unmeasured="").reasons == ()


def test_fp8_is_for_engines(
    pair: tuple[Path, Path], images: CalibrationImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "run_bench", bench_of(0.4)[0])
    reference = pair[1]
    candidate = as_eight_bits(reference, tmp_path / "fp8.onnx", ranges(reference, images, "fp8"), "fp8")
    result = check_gates(candidate, reference, images, budget=1.0, unmeasured="")
    (sentence,) = result.reasons
    assert sentence.startswith("it is 0.40x as fast as fp32 on ONNX Runtime here (batch 1, 1 thread:")
    assert sentence.endswith("CPU has no products of 8-bit floats, an engine has: lit-deploy export --format trt")
    assert 0.5 < result.cosine_min < 0.99999


def test_what_is_slow_is_measured_less_often(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in, asked = bench_of(1.5)
    monkeypatch.setattr(gates, "run_bench", stand_in)
    for milliseconds in (0.1, 1000.0, 100_000.0):
        gates.measure_speed(*pair, milliseconds, 1)
    assert [request.rounds for request in asked] == [10, 3, 3]
    seconds = 2 * asked[0].rounds * asked[0].turn_seconds
    assert seconds <= gates.BENCH_SECONDS


@pytest.mark.parametrize("library", [None, pytest.param(True, marks=needs_library)])
def test_the_kernel_takes_part_where_it_can(
    library: bool | None, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in, asked = bench_of(1.5)
    monkeypatch.setattr(gates, "run_bench", stand_in)
    if library is None:
        monkeypatch.setattr(gates.native, "find_library", lambda: None)
    portable = relabelled(pair[1], tmp_path / "portable.onnx", portable=True)
    gates.measure_speed(pair[0], portable, 1.0, 1)
    assert [contender.kind for contender in asked[0].contenders] == [
        "onnxruntime-stock",
        "onnxruntime" if library else "onnxruntime-stock",
    ]


@pytest.mark.parametrize(
    ("quartiles", "slower"), [((0.7, 0.8), True), ((0.8, 0.99), True), ((0.8, 1.01), False), ((1.1, 1.2), False)]
)
def test_slower_means_in_three_of_four_turns(quartiles: tuple[float, float], slower: bool) -> None:
    assert gates.Speed(0.9, quartiles, 10.0, 9.0, 1, 2, True).slower == slower


@pytest.mark.parametrize(("quiet", "speedup", "times"), [(True, 0.5, 1), (False, 0.5, 2), (False, 1.5, 1)])
def test_a_busy_machine_measures_again_before_it_refuses(
    quiet: bool, speedup: float, times: int, pair: tuple[Path, Path], images: CalibrationImages,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    stand_in, asked = bench_of(speedup, quiet)
    monkeypatch.setattr(gates, "run_bench", stand_in)
    check_gates(*pair, images, budget=0.2, unmeasured="")
    assert len(asked) == times


def test_a_fixed_batch_is_measured(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in, asked = bench_of(1.5)
    monkeypatch.setattr(gates, "run_bench", stand_in)
    gates.measure_speed(relabelled(pair[0], tmp_path / "fixed.onnx", batch=4), pair[1], 1.0, 1)
    assert asked[0].batches == (4,)


def test_a_real_measurement(
    pair: tuple[Path, Path], images: CalibrationImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "ROUNDS", (2, 2))
    monkeypatch.setattr(gates, "TURN_SECONDS", 0.01)
    told: list[str] = []
    speed = check_gates(*pair, images, unmeasured="", progress=lambda step: told.append(str(step))).speed
    assert speed is not None
    assert speed.quartiles[0] <= speed.speedup <= speed.quartiles[1]
    assert (speed.batch, speed.threads) == (1, 1)
    assert min(speed.milliseconds, speed.reference_milliseconds) > 0, "both were run"
    assert any("8 bits, batch 1, round 2 of 2" in text for text in told)
