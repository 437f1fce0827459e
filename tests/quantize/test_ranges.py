"""Ranges of activations against NumPy, ONNX Runtime's calibration, and data whose right answer is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lit_deploy.core.errors import ExportError, UsageError
from lit_deploy.core.specs import CalibrationMethod
from lit_deploy.quantize.ranges import BINS, SMALLEST, Ranges

METHODS: tuple[CalibrationMethod, ...] = ("minmax", "percentile", "entropy")
Floats = NDArray[np.float32]


def amax(batches: Sequence[Floats], method: CalibrationMethod, percentile: float = 99.99) -> float:
    ranges = Ranges(method, percentile)
    for batch in batches:
        ranges.add({"x": batch})
    return ranges.amax()["x"]


def gaussian(count: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=count).astype(np.float32)


def with_outliers(count: int = 200_000) -> Floats:
    """A Gaussian, and one in 20,000 about ten times as large as the rest."""
    outliers = np.random.default_rng(1).uniform(40, 60, size=count // 20_000).astype(np.float32)
    return np.concatenate([gaussian(count), -outliers])


def rounding_error(values: Floats, limit: float) -> float:
    """Mean squared error of symmetric int8 with this amax."""
    scale = limit / 127
    return float(np.mean((np.clip(np.round(values / scale), -127, 127) * scale - values) ** 2, dtype=np.float64))


def test_minmax_is_the_largest_magnitude_of_either_sign_and_any_batch() -> None:
    ranges = Ranges("minmax")
    ranges.add({"a": np.float32([[1, -7.25], [3, 0]]), "b": np.float32([-1, 2])})
    ranges.add({"a": np.float32([7]), "b": np.float32([4.5])})
    ranges.add({"b": np.float32([-3])})
    assert ranges.amax() == {"a": 7.25, "b": 4.5}


@pytest.mark.parametrize("percentile", [60.0, 99.0, 99.9, 99.99, 100.0])
@pytest.mark.parametrize("kind", ["gaussian", "laplace", "uniform", "relu", "tiny", "huge", "constant"])
def test_percentile_equals_numpys_to_a_bin(percentile: float, kind: str) -> None:
    rng = np.random.default_rng(2)
    values = {
        "gaussian": rng.normal(size=50_000), "laplace": rng.laplace(size=50_000), "uniform": rng.uniform(-3, 1, 50_000),
        "relu": np.maximum(rng.normal(size=50_000), 0), "tiny": rng.normal(size=50_000) * 3e-4,
        "huge": rng.normal(size=50_000) * 1e30, "constant": np.full(50_000, -2.5),
    }[kind].astype(np.float32)  # fmt: skip
    found = amax(np.split(values, 5), "percentile", percentile)
    expected = float(np.percentile(np.abs(values), percentile))
    largest = float(np.abs(values).max())
    assert abs(found - expected) <= 2 * largest / BINS * 1.01  # a bin, and what lies between two values
    assert percentile < 100 or found == largest


def test_percentile_clips_what_it_says() -> None:
    values = with_outliers()
    limit = amax([values], "percentile", 99.9)
    assert np.mean(np.abs(values) > limit) == pytest.approx(1e-3, rel=0.02)


def test_entropy_clips_outliers_but_not_the_rest() -> None:
    values = with_outliers()
    limit = amax(np.array_split(values, 7), "entropy")
    assert np.abs(gaussian(200_000)).max() * 0.8 < limit < 8
    # nearly everyone gains: the values that are not outliers are rounded to much finer steps
    assert rounding_error(gaussian(200_000), limit) < rounding_error(gaussian(200_000), amax([values], "minmax")) / 50


@pytest.mark.parametrize("scale", [1.0, 1.1, 1000.0])
def test_entropy_keeps_evenly_spread_values(scale: float) -> None:
    values = np.random.default_rng(3).uniform(-scale, scale, size=100_000).astype(np.float32)
    assert amax([values], "entropy") == pytest.approx(scale, rel=0.01)


def test_entropy_does_not_take_zeros_for_information() -> None:
    """Half of all values are 0, as behind ReLU; zero is exact at any limit, so the rest decides."""
    values = np.maximum(gaussian(400_000), 0)
    assert amax([values], "entropy") == pytest.approx(amax([gaussian(400_000)], "entropy"), rel=0.1)


@pytest.mark.parametrize("kind", ["laplace", "with_outliers"])
def test_entropy_is_as_good_as_onnxruntimes(kind: str) -> None:
    """Both search the same trade-off, on other bins; outliers aside, int8 loses at most a tenth more by our limit."""
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    rng = np.random.default_rng(4)
    values = with_outliers(100_000) if kind == "with_outliers" else rng.laplace(size=100_000).astype(np.float32)
    collector = calibrate.HistogramCollector("entropy", True, 2048, 128, 99.99, "same")
    collector.collect({"x": values})
    low, high = collector.compute_collection_result()["x"][:2]
    theirs, ours = max(-float(low), float(high)), amax([values], "entropy")
    core = values[np.abs(values) < 30]
    assert rounding_error(core, ours) <= 1.1 * rounding_error(core, theirs)
    assert theirs / 3 < ours < theirs * 1.5


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 4997), max_size=4),
    scales=st.tuples(*[st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 777.0])] * 3),
    order=st.randoms(use_true_random=False),
)
def test_neither_order_nor_size_of_batches_matters(method, cuts, scales, order) -> None:  # type: ignore[no-untyped-def]
    values = np.concatenate([gaussian(5000 // 3) * np.float32(scale) for scale in scales])
    batches = np.split(values, sorted(cuts))
    order.shuffle(batches)
    assert amax(batches, method) == amax([values], method)


@pytest.mark.parametrize("method", METHODS)
def test_a_first_batch_of_zeros_does_not_fix_the_bins(method: CalibrationMethod) -> None:
    later = gaussian(20_000) * np.float32(1e6)
    assert amax([np.zeros(20_000, np.float32), later], method) > 1e6


@pytest.mark.parametrize("method", METHODS)
def test_scales_of_dead_values_are_not_zero_in_float16(method: CalibrationMethod) -> None:
    for dead in (np.zeros((2, 3), np.float32), np.float32([1e-30, -1e-38]), np.zeros((0, 4), np.float32)):
        found = amax([dead], method)
        assert found == SMALLEST
        assert np.float16(found / 127) > 0
        assert np.float16(found / 448) > 0


@pytest.mark.parametrize("method", METHODS)
def test_the_largest_numbers_of_float32_and_float16_are_counted(method: CalibrationMethod) -> None:
    largest = float(np.finfo(np.float32).max)
    spread = np.linspace(-1, 1, 20_001, dtype=np.float32)
    assert amax([spread * np.float32(largest)], method) == pytest.approx(largest, rel=0.01)
    half = (spread * np.float32(65504)).astype(np.float16)
    ranges = Ranges(method)
    ranges.add({"x": half[::-1].reshape(3, -1).T})
    assert ranges.amax()["x"] == pytest.approx(65504, rel=0.01)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", METHODS)
def test_numbers_that_are_not_finite_are_refused_by_name(method: CalibrationMethod, wrong: float) -> None:
    values = np.ones((2, 5), np.float32)
    values[1, 3] = wrong
    with pytest.raises(ExportError, match=r"^1 of 10 numbers of the activation blocks\.1\.mlp are not finite .*verify"):
        Ranges(method).add({"fine": np.ones(3, np.float32), "blocks.1.mlp": values})


@pytest.mark.parametrize("percentile", [50.0, -1.0, 100.01, float("nan")])
def test_percentiles_that_clip_half_of_all_are_refused(percentile: float) -> None:
    with pytest.raises(UsageError, match=r"calibration percentile is .*, expected more than 50 and at most 100"):
        Ranges("percentile", percentile)


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(UsageError, match="calibration method is 'mse', expected minmax, percentile or entropy"):
        Ranges("mse")  # type: ignore[arg-type]
