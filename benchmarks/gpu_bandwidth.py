"""Time the CUDA kernel against a device-to-device copy, and the merging step against torchvision and PyTorch.

*Bandwidth.* The kernel has to read every input once and to write the output once. A copy that moves as many bytes
(half of them read, half written) is the yardstick; the fraction is the copy's time over the kernel's.

*Step.* Tokens ``[B, H, W, C]`` to projected tokens ``[B, H//2, W//2, Cout]``, before the GELU that all share:

* ``kernel``: our kernel and one matrix product.
* ``torchvision``: transpose to channels-first, convolution for the offsets, ``deform_conv2d``, transpose back.
* ``torchvision_channels_first``: the same without the two transposes, as in a network that is channels-first anyway.
* ``reference``: ``lit_deploy.ops.deformable_token_merging.reference`` and the same matrix product.

Contenders take turns round by round in alternating order, over several sets of buffers that together exceed the L2
cache, and the ratio is taken within each round. All launches of a turn are queued behind a kernel that only waits, so
that CUDA events see the GPU's time and not Python's. TensorFloat-32 is off for everybody.

    python benchmarks/gpu_bandwidth.py --launcher build/native/liblit_deploy_cuda.so [--quick] [--output FILE]

Goals that are not met are reported and are no failure. Exit code: 0 (also without a CUDA device: a line with SKIPPED),
1 if the contenders do not compute the same in float32.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a plain checkout need not be installed

import torch
from gpu_parity import CudaLauncher, Launch
from torch import Tensor
from torch.nn import functional

from lit_deploy.core.text import first_line
from lit_deploy.ops.deformable_token_merging.reference import reference, tap_major_from_conv

BATCH = 128
MERGES = ((56, 96, 192), (28, 192, 384), (14, 384, 768))
"""(H = W, C, Cout) of the three merges of LIT-S."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
COPY_GOAL, TORCHVISION_GOAL = 0.8, 5.0
TURN_SECONDS = 2e-3
MIN_ROUNDS = 5
MAX_LAUNCHES = 200
"""Launches of a turn; the driver's queue holds about a thousand, and a step is several."""
MAX_DIFFERENCE = 1e-4
"""Largest difference of two contenders in float32, of the largest output."""

Contender = Callable[[int], object]
"""Queues one run on the given set of buffers."""


def traffic(size: int, channels: int, batch: int, element_size: int) -> int:
    """Bytes that one merging moves at least: tokens, offset weight and bias read once, patches written once."""
    tokens = batch * size * size * channels
    patches = batch * (size // 2) ** 2 * 4 * channels
    return element_size * (tokens + 8 * 4 * channels + 8 + patches)


def buffer_sets(bytes_per_run: int, cache: int) -> int:
    """Sets of buffers to rotate through, so that four times the L2 cache lies between two uses of one."""
    return max(2, math.ceil(4 * cache / bytes_per_run))


def copy_rows(sets: int, count: int, device: str) -> Tensor:
    """Random bytes ``[sets, count]``; every row begins on a boundary of 256 bytes, where copies are fastest."""
    row = -(-count // 256) * 256
    return torch.randint(0, 255, (sets, row), device=device, dtype=torch.uint8)[:, :count]


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles to four significant digits."""
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    named = {"median": median, "lower_quartile": lower, "upper_quartile": upper}
    return {name: float(f"{value:.4g}") for name, value in named.items()}


def take_turns(
    contenders: dict[str, Contender], sets: int, rounds: int, timer: Callable[[Contender, int, int], float]
) -> dict[str, list[float]]:
    """Seconds per run of every contender in every round; the order turns round each time.

    Args:
        timer: ``timer(contender, runs, sets)`` gives the seconds that one of ``runs`` runs took.
    """
    runs = {name: _runs_of_a_turn(timer(contender, 3, sets)) for name, contender in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for index in range(rounds):
        for name in contenders if index % 2 == 0 else reversed(contenders):
            times[name].append(timer(contenders[name], runs[name], sets))
    return times


def ratios(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """Ratio of two contenders, round by round."""
    return [a / b for a, b in zip(slow, fast, strict=True)]


def cuda_timer(contender: Contender, runs: int, sets: int) -> float:
    """Seconds of GPU time per run, by events around ``runs`` runs that were queued before the first one began."""
    contender(0)  # wakes the clocks and fills the instruction cache after the other's turn
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    # Cycles of the longest wait that Python could need to queue everything: 50 microseconds a run at 2 GHz.
    torch.cuda._sleep(int(runs * 50e-6 * 2e9))
    begin.record()
    for index in range(runs):
        contender(index % sets)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / runs


@dataclass(frozen=True)
class Bench:
    """How to measure.

    Attributes:
        launch: the kernel.
        rounds: turns of every contender.
        cache: bytes of the L2 cache.
        batch: images per run.
        device, timer: where to run and what takes the time; see ``take_turns``.
    """

    launch: Launch
    rounds: int
    cache: int
    batch: int = BATCH
    device: str = "cuda"
    timer: Callable[[Contender, int, int], float] = cuda_timer

    def bandwidth(self, size: int, channels: int, dtype: torch.dtype) -> dict[str, Any]:
        """The kernel beside a copy of as many bytes, at one size and type."""
        moved = traffic(size, channels, self.batch, dtype.itemsize)
        sets = buffer_sets(moved, self.cache)
        weights = parameters(channels, 1, dtype, self.device)
        x = torch.randn(sets, self.batch, size, size, channels, device=self.device, dtype=dtype)
        y = torch.empty(sets, self.batch, size // 2, size // 2, 4 * channels, device=self.device, dtype=dtype)
        source, target = copy_rows(sets, moved // 2, self.device), copy_rows(sets, moved // 2, self.device)
        contenders: dict[str, Contender] = {
            "kernel": lambda i: self.launch(x[i], weights["offset_weight"], weights["offset_bias"], y[i]),
            "copy": lambda i: target[i].copy_(source[i]),
        }
        times = take_turns(contenders, sets, self.rounds, self.timer)
        return {
            **self._case(size, channels, dtype, times),
            "bytes": moved,
            "buffer_sets": sets,
            "terabytes_per_second": {n: quartiles([moved / t / 1e12 for t in values]) for n, values in times.items()},
            "fraction_of_copy": quartiles(ratios(times["copy"], times["kernel"])),
        }

    def step(self, size: int, channels: int, channels_out: int, dtype: torch.dtype) -> dict[str, Any]:
        """The whole step on every contender, at one size and type."""
        sets = buffer_sets(traffic(size, channels, self.batch, dtype.itemsize), self.cache)
        weights = parameters(channels, channels_out, dtype, self.device)
        x = torch.randn(sets, self.batch, size, size, channels, device=self.device, dtype=dtype)
        contenders = step_contenders(self.launch, x, weights)
        expected = as_tokens("reference", contenders["reference"](0)).double()
        differences = {
            name: float((as_tokens(name, contender(0)).double() - expected).abs().max() / expected.abs().max())
            for name, contender in contenders.items()
        }
        times = take_turns(contenders, sets, max(MIN_ROUNDS, self.rounds // 4), self.timer)
        return {
            **self._case(size, channels, dtype, times),
            "channels_out": channels_out,
            "buffer_sets": sets,
            "difference_to_reference": differences,
            "over_kernel": {n: quartiles(ratios(v, times["kernel"])) for n, v in times.items() if n != "kernel"},
        }

    def _case(self, size: int, channels: int, dtype: torch.dtype, times: dict[str, list[float]]) -> dict[str, Any]:
        return {
            "size": size,
            "channels": channels,
            "batch": self.batch,
            "dtype": str(dtype).removeprefix("torch."),
            "microseconds": {name: quartiles([1e6 * t for t in values]) for name, values in times.items()},
        }


def parameters(channels: int, channels_out: int, dtype: torch.dtype, device: str = "cuda") -> dict[str, Tensor]:
    """Random weights of one merge, in both layouts; offsets of about one pixel."""
    draw = torch.Generator().manual_seed(2105)
    fan_in = 4 * channels
    offset_conv = torch.randn(8, channels, 2, 2, generator=draw) / fan_in**0.5
    conv = torch.randn(channels_out, channels, 2, 2, generator=draw) / fan_in**0.5
    values = {
        "offset_conv": offset_conv,
        "offset_weight": tap_major_from_conv(offset_conv),
        "offset_bias": torch.randn(8, generator=draw) * 0.3,
        "conv": conv,
        "projection": tap_major_from_conv(conv),
        "bias": torch.randn(channels_out, generator=draw) * 0.1,
    }
    return {name: value.to(device, dtype).contiguous() for name, value in values.items()}


def step_contenders(launch: Launch, x: Tensor, weights: dict[str, Tensor]) -> dict[str, Contender]:
    """Every way to compute the step for sets of tokens ``x[sets, B, H, W, C]``; torchvision's where it can."""
    _, batch, height, width, channels = x.shape
    offset_weight, offset_bias = weights["offset_weight"], weights["offset_bias"]

    def kernel(index: int) -> Tensor:
        patches = torch.empty(batch, height // 2, width // 2, 4 * channels, dtype=x.dtype, device=x.device)
        launch(x[index], offset_weight, offset_bias, patches)
        return functional.linear(patches, weights["projection"], weights["bias"])

    def plain(index: int) -> Tensor:
        patches = reference(x[index], offset_weight, offset_bias)
        return functional.linear(patches, weights["projection"], weights["bias"])

    contenders: dict[str, Contender] = {"kernel": kernel, "reference": plain}
    if torchvision_problem() is not None or x.dtype == torch.bfloat16:
        return contenders
    from torchvision.ops import deform_conv2d

    def convolution(image: Tensor) -> Tensor:
        offset = functional.conv2d(image, weights["offset_conv"], offset_bias, stride=2)
        return deform_conv2d(image, offset, weights["conv"], weights["bias"], stride=2)

    def tokens_to_tokens(index: int) -> Tensor:
        image = x[index].permute(0, 3, 1, 2).contiguous()
        return convolution(image).permute(0, 2, 3, 1).contiguous()

    images = x.permute(0, 1, 4, 2, 3).contiguous()
    contenders["torchvision"] = tokens_to_tokens
    contenders["torchvision_channels_first"] = lambda index: convolution(images[index])
    return contenders


def as_tokens(name: str, output: Any) -> Tensor:
    """A contender's output as ``[B, H//2, W//2, Cout]``."""
    return output.permute(0, 2, 3, 1) if name == "torchvision_channels_first" else output


def torchvision_problem() -> str | None:
    """Why torchvision cannot be measured, or None."""
    try:
        import torchvision.ops  # noqa: F401
    except ImportError as error:
        return f"not measured, it does not import: {first_line(error)}"
    except RuntimeError as error:  # what it says when it was built for another PyTorch
        return f"not measured, it does not fit PyTorch {torch.__version__}: {first_line(error)}"
    return None


def goals(bandwidth: Sequence[dict[str, Any]], steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The goals of the float16 kernel beside what was measured, the least over the three merges."""
    fractions = [case["fraction_of_copy"]["median"] for case in bandwidth if case["dtype"] == "float16"]
    rows = [("fraction of copy bandwidth, float16", COPY_GOAL, fractions)]
    for name, layout in (("torchvision", "tokens to tokens"), ("torchvision_channels_first", "transposes not counted")):
        over = [s["over_kernel"].get(name) for s in steps if s["dtype"] == "float16"]
        title = f"merging step, torchvision's deform_conv2d over ours, float16, {layout}"
        rows.append((title, TORCHVISION_GOAL, [value["median"] for value in over if value is not None]))
    return [
        {"goal": title, "at_least": goal, "measured": min(values), "met": min(values) >= goal}
        if values
        else {"goal": title, "at_least": goal, "measured": None, "met": None}
        for title, goal, values in rows
    ]


def measure(bench: Bench, merges: Sequence[tuple[int, int, int]] = MERGES) -> dict[str, Any]:
    """Every size and type, printed line by line; the JSON file's values."""
    bandwidth, steps = [], []
    settings = torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=False)
    with torch.inference_mode(), settings:
        for dtype in DTYPES:
            for size, channels, channels_out in merges:
                case, step = bench.bandwidth(size, channels, dtype), bench.step(size, channels, channels_out, dtype)
                bandwidth.append(case)
                steps.append(step)
                over = ", ".join(f"{name} {value['median']:.2f}x" for name, value in step["over_kernel"].items())
                print(
                    f"{size:>3}x{size:<3} {channels:>4} {case['dtype']:<8} "
                    f"kernel {case['microseconds']['kernel']['median']:8.1f} us, "
                    f"{case['fraction_of_copy']['median']:.3f} of a copy; step: {over}",
                    flush=True,
                )
    return {
        "what": "GPU time by events; fraction_of_copy = copy time / kernel time for the same bytes (read + written); "
        "over_kernel = contender's time / ours for the whole step; medians of ratios taken round by round",
        "torchvision": torchvision_problem() or "measured in float16 and float32; it has no bfloat16 kernel",
        "rounds": bench.rounds,
        "goals": goals(bandwidth, steps),
        "bandwidth": bandwidth,
        "steps": steps,
        "contenders_apart": [
            f"{name} at {step['size']}"
            for step in steps
            if step["dtype"] == "float32"  # in float16 torchvision rounds positions to it, which is its own affair
            for name, difference in step["difference_to_reference"].items()
            if not difference <= MAX_DIFFERENCE
        ],
    }


def main() -> int:
    """Measure, print the goals, write the JSON file."""
    parser = argparse.ArgumentParser(description="Time the CUDA kernel against a copy, torchvision and PyTorch.")
    parser.add_argument("--launcher", type=Path, required=True, help="liblit_deploy_cuda.so")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"SKIPPED: PyTorch {torch.__version__} sees no CUDA device")
        return 0
    torch.set_float32_matmul_precision("highest")  # some containers of PyTorch come with TensorFloat-32 on
    device = torch.cuda.get_device_properties(0)
    rounds = MIN_ROUNDS if options.quick else 40
    report = {
        "device": device.name,
        "l2_cache_bytes": device.L2_cache_size,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        **measure(Bench(CudaLauncher(options.launcher), rounds, device.L2_cache_size)),
    }
    if options.output:
        options.output.write_text(json.dumps(report))
    for goal in report["goals"]:
        print(f"{goal['goal']}: {goal['measured']} (goal {goal['at_least']}, met: {goal['met']})")
    if apart := report["contenders_apart"]:
        print(f"these differ from the reference in float32 by more than {MAX_DIFFERENCE:g}: {', '.join(apart)}")
    return 1 if report["contenders_apart"] else 0


def _runs_of_a_turn(seconds: float) -> int:
    return max(3, min(MAX_LAUNCHES, int(TURN_SECONDS / seconds)))


if __name__ == "__main__":
    raise SystemExit(main())
