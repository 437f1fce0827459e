"""Check and time the CUDA kernels of attention, RoIAlign and suppression against PyTorch and torchvision.

Every case is first compared with the operator's reference: attention in float64, RoIAlign in float32, the suppression
index by index. Then contenders take turns round by round (``gpu_bandwidth.take_turns``), over one set of buffers:

* attention of LIT-S, from ``qkv`` as the linear layer leaves it to concatenated heads: ours, and PyTorch's
  ``scaled_dot_product_attention`` with the same bias, materialised beforehand (``sdpa``);
* RoIAlign of the box head and the mask head: ours, and torchvision's ``roi_align`` level by level, with the regions of
  each level known beforehand (``torchvision``);
* the suppression of proposals and of a box head, by the host's clock around whole calls, as torchvision's ends on the
  host: ours, and torchvision's ``batched_nms`` behind the threshold.

    python benchmarks/gpu_operators.py --launcher build/native/liblit_deploy_cuda.so [--small | --quick] [--output FILE]

Exit code: 0 (also without a CUDA device: a line with SKIPPED), 1 if a kernel computes something else.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a plain checkout need not be installed

import torch
from gpu_bandwidth import MIN_ROUNDS, Contender, cuda_timer, quartiles, ratios, take_turns, torchvision_problem
from gpu_parity import ELEMENTS
from torch import Tensor
from torch.nn import functional

from lit_deploy.ops.multi_level_roi_align.reference import reference as roi_align_reference
from lit_deploy.ops.nms.reference import reference as nms_reference
from lit_deploy.ops.relative_position_attention.reference import reference as attention_reference

SEED = 2105
ATTENTION = ((64, 14, 14, 12), (64, 7, 7, 24), (1, 50, 76, 12), (1, 25, 38, 24))
"""Batch, map and heads of LIT-S, stages 3 and 4, at 224 x 224 and at 800 x 1216."""
ROI_ALIGN = ((1000, 7), (100, 14))
"""Regions and output size of the box head and the mask head, over maps of 256 channels of 800 x 1216 pixels."""
NMS = ((4819, 5, 0.7, 1000), (80_000, 80, 0.5, 100))
"""Boxes, classes, IoU threshold and length of the output: the proposals' and a box head's."""
SCORE_THRESHOLD = 0.05
ROUNDING = {torch.float32: 2**-24, torch.float16: 2**-11, torch.bfloat16: 2**-8}
ABSOLUTE = 4e-5
"""What sums in float32 may be off beside the rounding of the result, for values of the order of 1."""
ROUNDS = 20

Timer = Callable[[Contender, int, int], float]


@dataclass(frozen=True)
class Kernels:
    """What is measured; each fills its last tensor.

    Attributes:
        attention: called with qkv ``[B, N, 3*C]``, table ``[heads, 2H-1, 2W-1]``, scale and y ``[B, N, C]``.
        roi_align: called with rois ``[K, 4]``, four maps ``[1, C, H, W]`` and y ``[K, C, size, size]``.
        nms: called with boxes, scores, classes, the IoU threshold and indices.
    """

    attention: Callable[[Tensor, Tensor, float, Tensor], None]
    roi_align: Callable[[Tensor, list[Tensor], Tensor], None]
    nms: Callable[[Tensor, Tensor, Tensor, float, Tensor], None]


def launched(path: Path) -> Kernels:
    """The kernels through liblit_deploy_cuda.so, on PyTorch's current stream; asynchronous like any launch."""
    library = ctypes.CDLL(str(path))
    error_string = library.lit_deploy_cuda_error_string
    error_string.restype, error_string.argtypes = ctypes.c_char_p, [ctypes.c_int32]
    size, floating, pointer = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
    of_attention = library.lit_deploy_relative_position_attention
    of_attention.argtypes = [ctypes.c_int32, *[size] * 6, floating, *[pointer] * 4]
    of_roi_align = library.lit_deploy_multi_level_roi_align
    of_roi_align.argtypes = [ctypes.c_int32, *[size] * 3, *[pointer] * 5]
    of_nms, of_workspace = library.lit_deploy_nms, library.lit_deploy_nms_workspace
    of_nms.argtypes = [size, floating, floating, size, *[pointer] * 5, ctypes.c_uint64, pointer]
    of_workspace.argtypes = [size, size, pointer]

    def well(code: int) -> None:
        if code != 0:
            raise RuntimeError(f"the launch returned {code}: {error_string(code).decode()}")

    def stream() -> int:
        return int(torch.cuda.current_stream().cuda_stream)

    def attention(qkv: Tensor, table: Tensor, scale: float, y: Tensor) -> None:
        batch, tokens, width = qkv.shape
        heads, rows, columns = table.shape[0], (table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2
        shape = (batch, tokens, heads, width // 3 // heads, rows, columns)
        pointers = (qkv.data_ptr(), table.data_ptr(), y.data_ptr())
        well(of_attention(ELEMENTS[qkv.dtype], *shape, scale, *pointers, stream()))

    def roi_align(rois: Tensor, levels: list[Tensor], y: Tensor) -> None:
        sizes = (ctypes.c_int64 * 8)(*[side for level in levels for side in level.shape[2:]])
        pointers = (ctypes.c_void_p * 4)(*[level.data_ptr() for level in levels])
        counts = (len(rois), y.shape[1], y.shape[2])
        well(of_roi_align(ELEMENTS[y.dtype], *counts, sizes, rois.data_ptr(), pointers, y.data_ptr(), stream()))

    def nms(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, indices: Tensor) -> None:
        needed = ctypes.c_uint64()
        well(of_workspace(len(boxes), len(indices), ctypes.byref(needed)))
        workspace = torch.empty(needed.value, dtype=torch.uint8, device=boxes.device)
        pointers = [tensor.data_ptr() for tensor in (boxes, scores, classes, indices, workspace)]
        limits = (iou_threshold, SCORE_THRESHOLD, len(indices))
        well(of_nms(len(boxes), *limits, *pointers, needed.value, stream()))

    return Kernels(attention, roi_align, nms)


@dataclass(frozen=True)
class Case:
    """One operator at one size and type.

    Attributes:
        name: what it is.
        contenders: ``kernel`` first; each returns its result.
        right: whether that of the kernel is what it must be.
        queued: whether launches alone take the time, and no call ends on the host.
    """

    name: str
    contenders: dict[str, Contender]
    right: Callable[[Any], bool]
    queued: bool = True


def attention_case(
    kernels: Kernels, batch: int, rows: int, columns: int, heads: int, dtype: torch.dtype, device: str
) -> Case:
    """Attention with heads of 32 channels over maps of ``rows`` x ``columns``."""
    draw = torch.Generator().manual_seed(SEED)
    dim, tokens = 32, rows * columns
    scale = dim**-0.5
    qkv = torch.randn(batch, tokens, 3 * heads * dim, generator=draw).to(device, dtype)
    table = torch.randn(heads, 2 * rows - 1, 2 * columns - 1, generator=draw).to(device)
    y = torch.full((batch, tokens, heads * dim), float("nan"), dtype=dtype, device=device)
    row, column = (torch.arange(tokens, device=device).div(columns, rounding_mode="floor"),
                   torch.arange(tokens, device=device) % columns)  # fmt: skip
    bias = table[:, row[:, None] - row + rows - 1, column[:, None] - column + columns - 1].to(dtype)[None]

    def kernel(index: int) -> Tensor:
        kernels.attention(qkv, table, scale, y)
        return y

    def sdpa(index: int) -> Tensor:
        q, k, v = qkv.view(batch, tokens, 3, heads, dim).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
        return attended.transpose(1, 2).reshape(batch, tokens, heads * dim)

    def right(got: Tensor) -> bool:
        images = min(batch, 2)  # the reference keeps all logits
        wide = qkv[:images].double()
        expected = attention_reference(wide, table.double(), heads, scale)
        wide[..., 2 * heads * dim :].abs_()
        # A weight of a half type may be rounded, too: at most this share of what it brings in.
        share = 0.0 if dtype == torch.float32 else ROUNDING[dtype]
        limit = ROUNDING[dtype] * expected.abs() + share * attention_reference(wide, table.double(), heads, scale)
        close = (got[:images].double() - expected).abs() <= limit + ABSOLUTE
        return bool(close.all()) and bool(got.isfinite().all())

    name = f"attention {batch} x {rows} x {columns}, {heads} heads, {_name_of(dtype)}"
    return Case(name, {"kernel": kernel, "sdpa": sdpa}, right)


def roi_align_case(
    kernels: Kernels, rois: int, size: int, dtype: torch.dtype, device: str, map_size: tuple[int, int, int]
) -> Case:
    """RoIAlign over a pyramid whose finest map has ``map_size``: channels, height and width."""
    draw = torch.Generator().manual_seed(SEED)
    channels, height, width = map_size
    levels = [
        torch.randn(1, channels, max(1, height >> level), max(1, width >> level), generator=draw).to(device, dtype)
        for level in range(4)
    ]
    corner = torch.rand(rois, 2, generator=draw) * torch.tensor([3.5 * width, 3.5 * height])
    regions = torch.cat((corner, corner + (2.0 * width) ** torch.rand(rois, 2, generator=draw)), 1).to(device)
    y = torch.full((rois, channels, size, size), float("nan"), dtype=dtype, device=device)

    def kernel(index: int) -> Tensor:
        kernels.roi_align(regions, levels, y)
        return y

    def right(got: Tensor) -> bool:
        expected = roi_align_reference(regions, [level.float() for level in levels], size)
        limit = ABSOLUTE + (ROUNDING[dtype] * expected.abs() if dtype != torch.float32 else 0.0)
        return bool(((got.float() - expected).abs() <= limit).all())

    contenders: dict[str, Contender] = {"kernel": kernel}
    if torchvision_problem() is None:
        from torchvision.ops import roi_align

        area = (regions[:, 2] - regions[:, 0]) * (regions[:, 3] - regions[:, 1])
        of_level = torch.log2(area.sqrt() / 56 + 1e-6).floor().clamp(0, 3)
        chosen = [torch.nonzero(of_level == level).squeeze(1) for level in range(4)]
        boxes = [torch.cat((torch.zeros_like(regions[rows, :1]), regions[rows]), 1).to(dtype) for rows in chosen]
        pooled = torch.empty_like(y)

        def torchvision(index: int) -> Tensor:
            for level, rows in enumerate(chosen):
                scale = 1 / (4 << level)
                pooled.index_copy_(0, rows, roi_align(levels[level], boxes[level], size, scale, 0, aligned=True))
            return pooled

        contenders["torchvision"] = torchvision
    return Case(f"RoIAlign {rois} x {size} x {size}, {_name_of(dtype)}", contenders, right)


def nms_case(kernels: Kernels, count: int, classes: int, iou_threshold: float, length: int, device: str) -> Case:
    """The suppression of crowded boxes, many of whose scores are equal."""
    draw = torch.Generator().manual_seed(SEED)
    corner = torch.rand(count, 2, generator=draw) * torch.tensor([1216.0, 800.0])
    boxes = torch.cat((corner, corner + 200 * torch.rand(count, 2, generator=draw)), 1).to(device)
    scores = (torch.randint(0, 1000, (count,), generator=draw) / 1000).to(device)
    labels = torch.randint(0, classes, (count,), generator=draw).to(device)
    indices = torch.full((length,), 99, device=device)

    def kernel(index: int) -> Tensor:
        kernels.nms(boxes, scores, labels, iou_threshold, indices)
        return indices

    def right(got: Tensor) -> bool:
        inputs = (tensor.cpu() for tensor in (boxes, scores, labels))
        return torch.equal(got.cpu(), nms_reference(*inputs, iou_threshold, SCORE_THRESHOLD, length))

    contenders: dict[str, Contender] = {"kernel": kernel}
    if torchvision_problem() is None:
        from torchvision.ops import batched_nms

        def torchvision(index: int) -> Tensor:
            above = torch.nonzero(scores > SCORE_THRESHOLD).squeeze(1)
            return above[batched_nms(boxes[above], scores[above], labels[above], iou_threshold)[:length]]

        contenders["torchvision"] = torchvision
    return Case(f"suppression of {count}, {length} to keep", contenders, right, queued=False)


def all_cases(kernels: Kernels, device: str, small: bool) -> Iterator[Case]:
    """Every case, one at a time; or (``small``) those few that take each path through the kernels once."""
    for batch, rows, columns, heads in ((2, 9, 8, 2), (1, 5, 3, 1)) if small else ATTENTION:
        for dtype in ELEMENTS:
            yield attention_case(kernels, batch, rows, columns, heads, dtype, device)
    for rois, size in ((9, 3),) if small else ROI_ALIGN:
        for dtype in (torch.float32, torch.float16):
            yield roi_align_case(kernels, rois, size, dtype, device, (11, 24, 31) if small else (256, 200, 304))
    for count, classes, iou_threshold, length in ((5000, 3, 0.5, 2000), (70, 2, 0.3, 9)) if small else NMS:
        yield nms_case(kernels, count, classes, iou_threshold, length, device)


def host_timer(contender: Contender, runs: int, sets: int) -> float:
    """Seconds per run by the host's clock, from a GPU that has nothing to do to one that has nothing left to do."""
    contender(0)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    for index in range(runs):
        contender(index % sets)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / runs


def check(case: Case) -> bool:
    """Run the kernel once and look at what it computed."""
    return case.right(case.contenders["kernel"](0))


def measure(case: Case, rounds: int, timer: Timer = cuda_timer) -> dict[str, Any]:
    """Times of all contenders and their ratios to the kernel, round by round."""
    times = take_turns(case.contenders, 1, rounds, timer if case.queued else host_timer)
    return {
        "microseconds": {name: quartiles([1e6 * t for t in values]) for name, values in times.items()},
        "over_kernel": {n: quartiles(ratios(v, times["kernel"])) for n, v in times.items() if n != "kernel"},
    }


def report_of(cases: Iterator[Case], rounds: int, timer: Timer = cuda_timer) -> dict[str, Any]:
    """The JSON file's values; without rounds, nothing is timed. Printed line by line."""
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for case in cases:
            row: dict[str, Any] = {"case": case.name, "passed": check(case)}
            if rounds:
                row |= measure(case, rounds, timer)
            over = ", ".join(f"{name} {value['median']:.2f}x" for name, value in row.get("over_kernel", {}).items())
            print(f"{case.name}: {'right' if row['passed'] else 'WRONG'}{', ' + over if over else ''}", flush=True)
            rows.append(row)
    return {
        "what": "over_kernel = contender's time / ours, medians of ratios taken round by round; GPU time by events, "
        "for the suppression the host's clock around whole calls",
        "torchvision": torchvision_problem() or "measured",
        "rounds": rounds,
        "failures": [row["case"] for row in rows if not row["passed"]],
        "cases": rows,
    }


def main() -> int:
    """Check and measure every case, write the JSON file, name what fails."""
    parser = argparse.ArgumentParser(description="Check and time the CUDA kernels of attention, RoIAlign, suppression.")
    parser.add_argument("--launcher", type=Path, required=True, help="liblit_deploy_cuda.so")
    parser.add_argument("--small", action="store_true", help="few small cases, not timed (for the sanitizer)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"SKIPPED: PyTorch {torch.__version__} sees no CUDA device")
        return 0
    torch.set_float32_matmul_precision("highest")  # some containers of PyTorch come with TensorFloat-32 on
    rounds = 0 if options.small else MIN_ROUNDS if options.quick else ROUNDS
    report = report_of(all_cases(launched(options.launcher), "cuda", options.small), rounds)
    if options.output:
        options.output.write_text(json.dumps(report))
    print(f"{len(report['cases'])} cases, {len(report['failures'])} failed: {'; '.join(report['failures']) or 'none'}")
    return 1 if report["failures"] else 0


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    raise SystemExit(main())
