"""The GPU suite's measurements, run on the CPU: they must pass a right kernel and notice a wrong one."""

from __future__ import annotations

import importlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from lit_deploy.machine.facts import cpp_compiler
from lit_deploy.ops.deformable_token_merging.reference import reference

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

gpu_parity = importlib.import_module("gpu_parity")
gpu_bandwidth = importlib.import_module("gpu_bandwidth")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Hundreds of tiny operations: handing them to more threads costs more than they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- parity -----------------------------------------------------------------------------------------------------------


def faithful(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
    """What a right kernel does."""
    y.copy_(reference(x, weight, bias))


@pytest.mark.parametrize("small", [True, False])
def test_parity_passes_what_is_right(small: bool) -> None:
    results = gpu_parity.check_all(faithful, "cpu", "cpu", small)
    report = gpu_parity.summary(results)
    assert report["failures"] == []
    assert set(report["worst"]) == {"float32", "float16", "bfloat16"}
    assert any(0 in case["shape"] for case in results)
    if not small:
        assert sum(case["case"].startswith("official convolution") for case in results) == 11


def swaps_dy_and_dx(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
    swapped = [1, 0, 3, 2, 5, 4, 7, 6]
    faithful(x, weight[swapped], bias[swapped], y)


def ignores_the_bias(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
    faithful(x, weight, torch.zeros_like(bias), y)


def computes_offsets_from_coarse_tokens(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
    """As TensorFloat-32 or bfloat16 products would."""
    faithful(x, weight.bfloat16().to(x.dtype), bias.bfloat16().to(x.dtype), y)


def rounds_twice(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
    """A weighted sum in half precision, or anything else that loses bits before the last rounding."""
    exact = reference(x.double(), weight.double(), bias.double())
    y.copy_((exact * (1 + 0.75 * torch.finfo(x.dtype).eps)).to(x.dtype) if x.dtype != torch.float32 else exact)


def truncates(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
    exact = reference(x.double(), weight.double(), bias.double()).float()
    if x.dtype == torch.bfloat16:
        exact = (exact.view(torch.int32) & -65536).view(torch.float32)
    y.copy_(exact)


def leaves_the_last_channel(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
    y[..., :-1].copy_(reference(x, weight, bias)[..., :-1])


def leaves_the_last_image(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
    y[:-1].copy_(reference(x[:-1], weight, bias))


def writes_behind_the_end(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
    faithful(x, weight, bias, y)
    torch.as_strided(y, (1,), (1,), y.storage_offset() + y.numel()).zero_()


def repeats_the_border(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
    """Clamps instead of counting what is outside as 0."""
    padded = torch.nn.functional.pad(x.permute(0, 3, 1, 2).float(), (8, 8, 8, 8), mode="replicate")
    whole = reference(padded.permute(0, 2, 3, 1), weight.float(), bias.float())
    rows, cols = y.shape[1:3]
    y.copy_(whole[:, 4 : 4 + rows, 4 : 4 + cols])


def samples_for_nan(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
    """Takes an offset that is no number for 0."""
    faithful(x, weight, torch.nan_to_num(bias, nan=0.0), y)


def reads_aligned_addresses(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
    begin = x.storage_offset() - x.storage_offset() % 4
    faithful(torch.as_strided(x, x.shape, x.stride(), begin), weight, bias, y)


FAULTS = (
    swaps_dy_and_dx, ignores_the_bias, computes_offsets_from_coarse_tokens, rounds_twice, truncates,
    leaves_the_last_channel, leaves_the_last_image, writes_behind_the_end, repeats_the_border, samples_for_nan,
    reads_aligned_addresses,
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_parity_notices(fault: Callable[..., None]) -> None:
    """The sanitizer's few cases are enough to tell each of these from a right kernel."""

    def launch(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
        (fault if x.numel() else faithful)(x, weight, bias, y)

    report = gpu_parity.summary(gpu_parity.check_all(launch, "cpu", "cpu", small=True))
    assert report["failures"]
    assert any(not case["passed"] for case in report["worst"].values())


def test_parity_of_the_official_convolution_notices() -> None:
    name, arrays = next(iter(gpu_parity.golden_arrays().items()))
    assert gpu_parity.check_convolution(faithful, name, arrays, "cpu")["passed"]
    assert not gpu_parity.check_convolution(swaps_dy_and_dx, name, arrays, "cpu")["passed"]


def test_parity_beyond_a_32_bit_index_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_parity, "LARGE", (12, 6, 6, 8))
    monkeypatch.setattr(gpu_parity, "INDEX_LIMIT", 7 * 6 * 6 * 8 + 5)

    def wraps(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
        flat = x.flatten()
        index = torch.arange(flat.numel()) % gpu_parity.INDEX_LIMIT
        faithful(flat[index].view(x.shape), weight, bias, y)

    assert gpu_parity.check_large(faithful, "cpu")["passed"]
    assert not gpu_parity.check_large(wraps, "cpu")["passed"]


def test_nan_never_passes() -> None:
    want = torch.zeros(4, dtype=torch.float64)
    assert gpu_parity.compare(torch.zeros(4), want, 1.0, 5e-6)["passed"]
    for wrong in (float("nan"), float("inf"), 6e-6):
        assert not gpu_parity.compare(torch.tensor([0, 0, wrong, 0]), want, 1.0, 5e-6)["passed"]


@pytest.mark.skipif(cpp_compiler() is None, reason="no C++ compiler")
def test_the_launcher_hands_over_every_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "fake.cc"
    source.write_text(
        """#include <cstdint>
extern "C" int32_t lit_deploy_deformable_token_merging(int32_t element, int64_t batch, int64_t height, int64_t width,
    int64_t channels, const void* x, const void* weight, const void* bias, void* y, void* stream) {
  if (channels == 40000000000) return 7;
  const float* values = static_cast<const float*>(x);
  static_cast<float*>(y)[0] = values[0] + 10 * static_cast<const float*>(weight)[0] +
      100 * static_cast<const float*>(bias)[0] + 1000 * (element + batch + 10 * height + 100 * width + 1000 * channels);
  return stream == reinterpret_cast<void*>(0x1234567890) ? 0 : 1;
}
extern "C" const char* lit_deploy_cuda_error_string(int32_t error) { return error == 7 ? "too wide" : "wrong stream"; }
"""
    )
    library = tmp_path / "libfake.so"
    subprocess.run([str(cpp_compiler()), "-shared", "-fPIC", "-o", str(library), str(source)], check=True)

    class Stream:
        cuda_stream = 0x1234567890

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    launch = gpu_parity.CudaLauncher(library)
    y = torch.zeros(1)
    launch(torch.full((2, 3, 4, 5), 1.0), torch.full((1,), 2.0), torch.full((1,), 3.0), y)
    assert y.item() == 1 + 20 + 300 + 1000 * (0 + 2 + 30 + 400 + 5000)
    wide = torch.zeros(1).expand(1, 2, 2, 40000000000)
    with pytest.raises(RuntimeError, match="the launch returned 7: too wide"):
        launch(wide, y, y, y)


# --- bandwidth --------------------------------------------------------------------------------------------------------


def test_traffic_counts_every_input_and_the_output_once() -> None:
    # LIT-S, first merge, batch 128, float16: tokens and patches of 38 535 168 elements each
    assert gpu_bandwidth.traffic(56, 96, 128, 2) == 2 * (2 * 38_535_168 + 8 * 384 + 8)
    # 7 x 7: the last row and column are an input all the same (a kernel may need them for sampling)
    assert gpu_bandwidth.traffic(7, 3, 1, 4) == 4 * (49 * 3 + 9 * 12 + 8 * 12 + 8)


def test_buffers_exceed_the_cache() -> None:
    cache = 60 * 2**20
    for size, channels, _ in gpu_bandwidth.MERGES:
        for element in (2, 4):
            moved = gpu_bandwidth.traffic(size, channels, gpu_bandwidth.BATCH, element)
            sets = gpu_bandwidth.buffer_sets(moved, cache)
            assert sets >= 2
            assert sets * moved >= 4 * cache


def test_copies_begin_where_they_are_fastest() -> None:
    for size, channels, _ in gpu_bandwidth.MERGES:
        for element in (2, 4):
            count = gpu_bandwidth.traffic(size, channels, gpu_bandwidth.BATCH, element) // 2
            assert count % 256, "so the rows have to be filled up"
    rows = gpu_bandwidth.copy_rows(3, 1000, "cpu")
    assert rows.shape == (3, 1000)
    assert {rows[i].data_ptr() - rows.data_ptr() for i in range(3)} == {0, 1024, 2048}


def test_turns_alternate_and_ratios_are_taken_within_a_round() -> None:
    order: list[str] = []

    def timer(contender: Callable[[int], object], runs: int, sets: int) -> float:
        assert (runs, sets) in {(3, 4), (100, 4), (50, 4)}
        order.append(str(contender(0)))
        slow_spell = 10 if 4 < len(order) <= 6 else 1  # the second round
        return slow_spell * {"fast": 20e-6, "slow": 40e-6}[order[-1]]

    times = gpu_bandwidth.take_turns({"fast": lambda i: "fast", "slow": lambda i: "slow"}, 4, 3, timer)
    assert order == ["fast", "slow", "fast", "slow", "slow", "fast", "fast", "slow"]
    assert gpu_bandwidth.ratios(times["slow"], times["fast"]) == pytest.approx([2, 2, 2])


def cpu_timer(contender: Callable[[int], object], runs: int, sets: int) -> float:
    start = time.perf_counter()
    for index in range(runs):
        contender(index % sets)
    return (time.perf_counter() - start) / runs


def test_measurement_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole measurement with another kernel, device and clock; the numbers mean nothing here."""
    bench = gpu_bandwidth.Bench(faithful, rounds=5, cache=100_000, batch=2, device="cpu", timer=cpu_timer)
    report = json.loads(json.dumps(gpu_bandwidth.measure(bench, merges=((6, 4, 8), (7, 3, 5)))))
    assert report["contenders_apart"] == []
    assert [case["dtype"] for case in report["bandwidth"][::2]] == ["float16", "bfloat16", "float32"]
    first, step = report["bandwidth"][0], report["steps"][0]
    assert first["bytes"] == gpu_bandwidth.traffic(6, 4, 2, 2)
    assert step["difference_to_reference"]["kernel"] == 0
    assert "kernel" not in step["over_kernel"]
    assert [goal["at_least"] for goal in report["goals"]] == [0.8, 5.0, 5.0]
    assert "of a copy" in capsys.readouterr().out


def test_the_fraction_is_the_copys_time_over_the_kernels() -> None:
    """By a clock that tells the two apart and runs twice as slow from round to round, which no ratio may show."""
    launches: list[Tensor] = []
    turns = itertools.count(-2)  # the first two only find out how many runs a turn has

    def launch(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor) -> None:
        launches.append(y)

    def timer(contender: Callable[[int], object], runs: int, sets: int) -> float:
        launches.clear()
        contender(0)
        return 2 ** (next(turns) // 2) * (40e-6 if launches else 10e-6)

    bench = gpu_bandwidth.Bench(launch, rounds=5, cache=100, batch=2, device="cpu", timer=timer)
    case = bench.bandwidth(6, 4, torch.float16)
    assert case["fraction_of_copy"] == {"median": 0.25, "lower_quartile": 0.25, "upper_quartile": 0.25}
    assert {name: times["median"] for name, times in case["microseconds"].items()} == {"kernel": 160, "copy": 40}
    assert case["terabytes_per_second"]["copy"]["median"] == float(f"{case['bytes'] / 40e-6 / 1e12:.4g}")


def test_contenders_that_disagree_are_named() -> None:
    bench = gpu_bandwidth.Bench(swaps_dy_and_dx, rounds=5, cache=100, batch=2, device="cpu", timer=cpu_timer)
    assert gpu_bandwidth.measure(bench, merges=((6, 4, 8),))["contenders_apart"] == ["kernel at 6"]


def deform_conv2d(image: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """torchvision's operator for 2x2 kernels of stride 2, by another road than ours: ``grid_sample``."""
    assert stride == 2
    batch, _, height, width = image.shape
    rows, cols = offset.shape[2:]
    result = bias.view(1, -1, 1, 1).expand(batch, -1, rows, cols)
    for tap, (i, j) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        y = 2 * torch.arange(rows).view(1, rows, 1) + i + offset[:, 2 * tap]
        x = 2 * torch.arange(cols).view(1, 1, cols) + j + offset[:, 2 * tap + 1]
        grid = torch.stack((2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1), dim=-1)
        sampled = torch.nn.functional.grid_sample(image, grid, padding_mode="zeros", align_corners=True)
        result = result + torch.einsum("oc,bcrs->bors", weight[:, :, i, j], sampled)
    return result


@pytest.mark.parametrize("stand_in", [True, False])
def test_torchvision_computes_the_same_step(monkeypatch: pytest.MonkeyPatch, stand_in: bool) -> None:
    """With torchvision's own operator where it is; with a stand-in, the layouts around it all the same."""
    if stand_in:
        package, ops = ModuleType("torchvision"), ModuleType("torchvision.ops")
        package.ops, ops.deform_conv2d = ops, deform_conv2d
        monkeypatch.setitem(sys.modules, "torchvision", package)
        monkeypatch.setitem(sys.modules, "torchvision.ops", ops)
    elif (problem := gpu_bandwidth.torchvision_problem()) is not None:
        pytest.skip(f"torchvision: {problem}")
    weights = gpu_bandwidth.parameters(4, 6, torch.float32, "cpu")
    contenders = gpu_bandwidth.step_contenders(faithful, torch.randn(2, 3, 9, 8, 4), weights)
    assert set(contenders) == {"kernel", "reference", "torchvision", "torchvision_channels_first"}
    want = contenders["reference"](1)
    for name, contender in contenders.items():
        torch.testing.assert_close(gpu_bandwidth.as_tokens(name, contender(1)), want, atol=1e-5, rtol=1e-5)


def test_a_torchvision_for_another_pytorch_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms is not there')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.delitem(sys.modules, "torchvision.ops", raising=False)
    assert "does not fit PyTorch" in gpu_bandwidth.torchvision_problem()
    weights = gpu_bandwidth.parameters(4, 6, torch.float32, "cpu")
    assert set(gpu_bandwidth.step_contenders(faithful, torch.randn(1, 1, 4, 4, 4), weights)) == {"kernel", "reference"}


def test_goals_stand_beside_what_was_measured() -> None:
    bandwidth = [
        {"dtype": dtype, "fraction_of_copy": {"median": value}}
        for dtype, value in (("float16", 0.9), ("float16", 0.79), ("float32", 0.1))
    ]
    steps = [{"dtype": "float16", "over_kernel": {"torchvision": {"median": value}}} for value in (5.5, 7.0)]
    copy, tokens, channels_first = gpu_bandwidth.goals(bandwidth, steps)
    assert (copy["measured"], copy["met"]) == (0.79, False)
    assert (tokens["measured"], tokens["met"]) == (5.5, True)
    assert (channels_first["measured"], channels_first["met"]) == (None, None)
