"""Compare the CUDA kernel with the float64 reference and with the golden cases of the official convolution.

A result passes when it is what one rounding to its type leaves of a value that is right to a fixed share of the scale
of the tokens: a kernel that rounds twice, or truncates, does not pass, whatever the type. The share is

* ``EXACT`` where the offsets are multiples of 1/8 pixel, which float32 holds exactly, so that only the interpolation
  is left to go wrong;
* ``EXACT + 2**-21 * (side + 16 * spread)`` where the kernel computes offsets of standard deviation ``spread`` pixels
  on a map with sides up to ``side``: both coordinates of a position may be off by a unit in the last place (2**-23 of
  the side) and its offset, a sum whose order is the kernel's own, by four (2**-23 of four standard deviations each);
  a way of one pixel is worth at most twice the scale.

    python benchmarks/gpu_parity.py --launcher build/native/liblit_deploy_cuda.so [--small] [--output FILE]

Exit code: 0 all cases pass (or no CUDA device: a line with SKIPPED), 1 one does not.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a plain checkout need not be installed

import numpy as np
import torch
from torch import Tensor

from lit_deploy.ops.deformable_token_merging.reference import reference, tap_major_from_conv

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "data" / "dcn.npz"
EXACT = 5e-6
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ELEMENTS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""CudaElement of plugins/kernels/deformable_token_merging/cuda.h."""
GUARD = 64
"""Elements on either side of the output that a launch must leave alone."""
GUARD_VALUE = 7.0
SEED = 2105
INDEX_LIMIT = 2**31
LARGE = (7200, 56, 56, 96)
"""More elements in input and output than a signed 32-bit index counts."""

Launch = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""Called with x, offset_weight, offset_bias and the output to fill; like the operator's, dense and of one type."""


class CudaLauncher:
    """The kernel through liblit_deploy_cuda.so, on PyTorch's current stream; asynchronous like any launch."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._launch = self._library.lit_deploy_deformable_token_merging
        self._launch.restype = ctypes.c_int32
        self._launch.argtypes = [ctypes.c_int32, *[ctypes.c_int64] * 4, *[ctypes.c_void_p] * 5]
        self._error = self._library.lit_deploy_cuda_error_string
        self._error.restype = ctypes.c_char_p
        self._error.argtypes = [ctypes.c_int32]

    def __call__(self, x: Tensor, offset_weight: Tensor, offset_bias: Tensor, y: Tensor) -> None:
        """Launch; RuntimeError with CUDA's own words when that fails."""
        pointers = (tensor.data_ptr() for tensor in (x, offset_weight, offset_bias, y))
        code = self._launch(ELEMENTS[x.dtype], *x.shape, *pointers, torch.cuda.current_stream().cuda_stream)
        if code != 0:
            raise RuntimeError(f"the launch returned {code}: {self._error(code).decode()}")


@dataclass(frozen=True)
class Inputs:
    """Float32 inputs on the CPU, to be rounded to each type.

    Attributes:
        name: what is special about them.
        x, offset_weight, offset_bias: ``[B, H, W, C]``, ``[8, 4*C]``, ``[8]``.
        limit: largest error beyond one rounding, of the scale of the tokens.
        misaligned: whether every array begins one element behind a 16-byte boundary.
    """

    name: str
    x: Tensor
    offset_weight: Tensor
    offset_bias: Tensor
    limit: float
    misaligned: bool = False


def computed(name: str, shape: Sequence[int], spread: float = 1.0, bias: Sequence[float] | None = None) -> Inputs:
    """Random tokens ``[B, H, W, C]`` whose offsets the kernel has to compute; ``spread`` in pixels."""
    draw = torch.Generator().manual_seed(SEED)
    channels = shape[3]
    return Inputs(
        name,
        torch.randn(*shape, generator=draw),
        torch.randn(8, 4 * channels, generator=draw) * (spread / (4 * channels) ** 0.5),
        torch.tensor(bias) if bias is not None else 0.3 * torch.randn(8, generator=draw),
        EXACT + 2**-21 * (max(shape[1:3]) + 16 * spread),
    )


def explicit(name: str, image: Tensor, offset: Tensor, limit: float) -> Inputs:
    """Tokens that make the operator use the given offsets.

    Eight more channels hold the offsets in the first token of every patch, and the weight picks exactly those.

    Args:
        image: ``[B, H, W, C]``; offset: ``[B, H//2, W//2, 8]`` in pixels.
    """
    batch, height, width, channels = image.shape
    rows, cols = height // 2, width // 2
    x = torch.cat((image, torch.zeros(batch, height, width, 8)), dim=-1)
    x[:, : 2 * rows : 2, : 2 * cols : 2, channels:] = offset
    weight = torch.zeros(8, 4 * (channels + 8))
    weight[:, channels : channels + 8] = torch.eye(8)
    return Inputs(name, x, weight, torch.zeros(8), limit)


def exact(name: str, shape: Sequence[int]) -> Inputs:
    """Random tokens with offsets in eighths of a pixel, up to four pixels either way."""
    draw = torch.Generator().manual_seed(SEED)
    batch, height, width, channels = shape
    offset = torch.randint(-32, 33, (batch, height // 2, width // 2, 8), generator=draw) / 8
    return explicit(name, torch.randn(batch, height, width, channels - 8, generator=draw), offset, EXACT)


def golden_arrays() -> dict[str, dict[str, Tensor]]:
    """The official convolution's cases by name: ``input`` and ``output`` NCHW, ``offset``, ``weight``, ``bias``."""
    parts = ("input", "offset", "weight", "bias", "output")
    with np.load(GOLDEN) as file:
        return {str(name): {part: torch.from_numpy(file[f"{name}.{part}"]) for part in parts} for name in file["cases"]}


def golden(name: str, arrays: dict[str, Tensor]) -> Inputs:
    """A golden case as the operator's inputs."""
    height, width = arrays["input"].shape[2:]
    image, offset = (arrays[part].permute(0, 2, 3, 1).contiguous() for part in ("input", "offset"))
    return explicit(f"golden {name}", image, offset, EXACT + 2**-21 * max(height, width))


def all_inputs(small: bool) -> Iterator[Inputs]:
    """Every case, or (``small``) those few that take each path through the kernel once."""
    shapes = [(1, 7, 9, 12), (2, 6, 7, 40), (3, 5, 6, 3)]
    if not small:
        shapes += [(2, 56, 56, 96), (2, 28, 28, 192), (2, 14, 14, 384), (1, 7, 33, 64), (1, 2, 97, 5), (1, 97, 2, 5)]
        shapes += [(2, 2, 2, 1), (1, 9, 11, 8), (33, 3, 3, 17), (1, 64, 48, 100), (5, 8, 8, 1000), (300, 6, 6, 24)]
    for shape in shapes:
        inputs = computed("computed offsets", shape)
        yield inputs
        yield Inputs("misaligned", inputs.x, inputs.offset_weight, inputs.offset_bias, inputs.limit, misaligned=True)
    for shape in [(2, 12, 10, 16), (1, 7, 5, 13)] if small else [(2, 56, 56, 96), (2, 29, 28, 192), (3, 15, 13, 21)]:
        yield exact("exact offsets", shape)
        yield computed("offsets far outside", shape, spread=12)
        yield computed("no offsets", shape, spread=0, bias=[0.0] * 8)
    inf, nan = float("inf"), float("nan")
    yield computed("offsets that are no numbers", (2, 8, 9, 24), bias=[nan, 0, inf, 0, 0, -inf, 1e30, -1e30])
    yield computed("no images", (0, 4, 4, 8))
    if not small:
        for name, arrays in golden_arrays().items():
            yield golden(name, arrays)


def check(launch: Launch, inputs: Inputs, dtype: torch.dtype, device: str, reference_device: str) -> dict[str, Any]:
    """Launch once and compare with the float64 reference of the rounded inputs.

    Returns:
        ``error`` (largest difference), ``excess`` (beyond one rounding), both of the scale of the tokens; ``limit``;
        ``passed``, which also says that every element and nothing else was written.
    """
    x, weight, bias = (value.to(dtype) for value in (inputs.x, inputs.offset_weight, inputs.offset_bias))
    batch, height, width, channels = x.shape
    shape = (batch, height // 2, width // 2, 4 * channels)
    y, whole = _guarded(shape, dtype, inputs.misaligned)
    whole = whole.to(device)
    y = whole[y.storage_offset() :][: y.numel()].view(shape)
    launch(*(_placed(value, device, inputs.misaligned) for value in (x, weight, bias)), y)
    got = y.to(reference_device)
    want = reference(*(value.to(reference_device).double() for value in (x, weight, bias)))
    begin, end = y.storage_offset(), y.storage_offset() + y.numel()
    kept = whole.cpu()
    untouched = torch.cat((kept[:begin], kept[end:]))
    result = compare(got, want, float(x.double().abs().max()) if x.numel() else 1.0, inputs.limit)
    result["passed"] = result["passed"] and bool((untouched == GUARD_VALUE).all())
    names = {"case": inputs.name, "dtype": str(dtype).removeprefix("torch."), "shape": list(x.shape)}
    return {**names, **result}


def compare(got: Tensor, want: Tensor, scale: float, limit: float) -> dict[str, Any]:
    """Errors of ``got`` against the unrounded ``want`` (float64); NaN, where nothing was written, never passes."""
    half_unit = torch.finfo(got.dtype).eps / 2
    least = torch.finfo(got.dtype).smallest_normal * half_unit  # half the distance of subnormal numbers
    difference = (got.double() - want).abs()
    excess = (difference - half_unit * want.abs() - least).clamp(min=0)
    error, beyond = (float(value.max()) / scale if value.numel() else 0.0 for value in (difference, excess))
    return {"error": error, "excess": beyond, "limit": limit, "passed": beyond <= limit}


def check_convolution(launch: Launch, name: str, arrays: dict[str, Tensor], device: str) -> dict[str, Any]:
    """Kernel and projection together against the official convolution's own output; limit of the output's scale."""
    inputs = golden(name, arrays)
    x, weight, bias = (value.to(device) for value in (inputs.x, inputs.offset_weight, inputs.offset_bias))
    batch, height, width, channels = x.shape
    y = torch.full((batch, height // 2, width // 2, 4 * channels), float("nan"), device=device)
    launch(x, weight, bias, y)
    patches = y.cpu().double().unflatten(-1, (4, channels))[..., : channels - 8].flatten(-2)
    projection = tap_major_from_conv(arrays["weight"].double())
    got = torch.nn.functional.linear(patches, projection, arrays["bias"].double()).permute(0, 3, 1, 2)
    error = float((got - arrays["output"]).abs().max() / arrays["output"].abs().max())
    return {
        "case": f"official convolution {name}", "dtype": "float32", "shape": list(x.shape),
        "error": error, "excess": error, "limit": EXACT, "passed": error <= EXACT,
    }  # fmt: skip


def check_large(launch: Launch, device: str) -> dict[str, Any]:
    """More elements than a 32-bit index counts; the images at both ends and around the border are compared."""
    batch, height, width, channels = LARGE
    draw = torch.Generator(device).manual_seed(SEED)
    x = torch.randn(LARGE, generator=draw, device=device, dtype=torch.float16)
    inputs = computed("more than 2**31 elements", (1, height, width, channels))
    weight, bias = (value.to(device, torch.float16) for value in (inputs.offset_weight, inputs.offset_bias))
    y = torch.full((batch, height // 2, width // 2, 4 * channels), float("nan"), device=device, dtype=torch.float16)
    launch(x, weight, bias, y)
    border = INDEX_LIMIT // (height * width * channels)
    chosen = torch.tensor([0, 1, border // 2, border - 1, border, border + 1, batch - 2, batch - 1], device=device)
    want = reference(x[chosen].double(), weight.double(), bias.double())
    result = compare(y[chosen], want, float(x[chosen].abs().max()), inputs.limit)
    return {"case": inputs.name, "dtype": "float16", "shape": list(LARGE), **result}


def check_all(launch: Launch, device: str, reference_device: str, small: bool) -> list[dict[str, Any]]:
    """Every case in every type, the official convolution last."""
    results = [
        check(launch, inputs, dtype, device, reference_device) for inputs in all_inputs(small) for dtype in DTYPES
    ]
    if not small:
        results += [check_convolution(launch, name, arrays, device) for name, arrays in golden_arrays().items()]
    return results


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts, the failures, and the worst case of every type, before all cases."""
    worst = {
        dtype: max((r for r in results if r["dtype"] == dtype), key=lambda r: (not r["passed"], r["excess"]))
        for dtype in sorted({r["dtype"] for r in results})
    }
    failures = [f"{r['case']} {r['dtype']} {r['shape']}" for r in results if not r["passed"]]
    return {"checked": len(results), "failures": failures, "worst": worst, "cases": list(results)}


def main() -> int:
    """Check every case, write the JSON file, name what fails."""
    parser = argparse.ArgumentParser(description="Compare the CUDA kernel with the reference.")
    parser.add_argument("--launcher", type=Path, required=True, help="liblit_deploy_cuda.so")
    parser.add_argument("--small", action="store_true", help="few small cases, compared on the CPU (for the sanitizer)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"SKIPPED: PyTorch {torch.__version__} sees no CUDA device")
        return 0
    launch = CudaLauncher(options.launcher)
    results = check_all(launch, "cuda", "cpu" if options.small else "cuda", options.small)
    room = torch.cuda.mem_get_info()[0]
    large = not options.small and room > 16 * 2**30
    if large:
        results.append(check_large(launch, "cuda"))
    report = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "limits": f"one rounding to the type, plus {EXACT:g} of the largest token (exact offsets), or plus "
        f"{EXACT:g} + 2**-21 * (largest side + 16 * standard deviation of the offsets) of it",
        "large": "checked" if large else f"skipped: needs 16 GiB of free memory, {room / 2**30:.1f} are free",
        **summary(results),
    }
    if options.output:
        options.output.write_text(json.dumps(report))
    print(f"{report['checked']} cases, {len(report['failures'])} failed: {'; '.join(report['failures']) or 'none'}")
    return 1 if report["failures"] else 0


def _guarded(shape: Sequence[int], dtype: torch.dtype, misaligned: bool) -> tuple[Tensor, Tensor]:
    """An output full of NaN inside a larger buffer of ``GUARD_VALUE``."""
    count = int(np.prod(shape))
    whole = torch.full((count + 2 * GUARD,), GUARD_VALUE, dtype=dtype)
    begin = GUARD + (1 if misaligned else 0)
    y = whole[begin : begin + count]
    y.fill_(float("nan"))
    return y, whole


def _placed(value: Tensor, device: str, misaligned: bool) -> Tensor:
    """A copy on the device, one element behind an aligned address if asked for."""
    shift = 1 if misaligned else 0
    buffer = torch.empty(value.numel() + shift, dtype=value.dtype, device=device)
    placed = buffer[shift:].view(value.shape)
    placed.copy_(value)
    return placed


if __name__ == "__main__":
    raise SystemExit(main())
