"""RoIAlign's CUDA launcher without a GPU, and, where there is one, its numbers.

test_cuda_kernel.py compiles the kernel, and the emulation in plugins/tests runs its source.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lit_deploy.machine.facts import gpu_names
from lit_deploy.ops.multi_level_roi_align.reference import reference

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = Path(os.environ.get("LIT_DEPLOY_CUDA_LAUNCHER") or ROOT / "build" / "native" / "liblit_deploy_cuda.so")
ELEMENTS = {torch.float32: 0, torch.float16: 1}
SIZES = (200, 304, 100, 152, 50, 76, 25, 38)
"""Height and width of the four levels of an image of 800 x 1216 pixels."""

pytestmark = pytest.mark.skipif(not LAUNCHER.is_file(), reason=f"no {LAUNCHER.name}: make native (with nvcc)")


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LAUNCHER))
    library.lit_deploy_multi_level_roi_align.argtypes = [
        ctypes.c_int32,
        *[ctypes.c_int64] * 3,
        ctypes.POINTER(ctypes.c_int64),
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_void_p),
        *[ctypes.c_void_p] * 2,
    ]
    library.lit_deploy_multi_level_roi_align.restype = ctypes.c_int32
    library.lit_deploy_cuda_error_string.argtypes = [ctypes.c_int32]
    library.lit_deploy_cuda_error_string.restype = ctypes.c_char_p
    return library


def call(
    library: ctypes.CDLL, element: int, counts: tuple[int, int, int], sizes: tuple[int, ...], rois: int | None,
    levels: tuple[int | None, ...], y: int | None,
) -> int:  # fmt: skip
    """One call on the default stream; ``counts`` are regions, channels and output size."""
    pointers = (ctypes.c_void_p * 4)(*levels)
    error = library.lit_deploy_multi_level_roi_align(
        element, *counts, (ctypes.c_int64 * 8)(*sizes), rois, pointers, y, None
    )
    return int(error)


BAD_ARGUMENTS = {
    "bfloat16": (2, (1, 8, 7), SIZES, 64, (64,) * 4, 64),
    "negative element": (-1, (1, 8, 7), SIZES, 64, (64,) * 4, 64),
    "negative regions": (0, (-1, 8, 7), SIZES, 64, (64,) * 4, 64),
    "channels": (0, (1, 0, 7), SIZES, 64, (64,) * 4, 64),
    "output size": (0, (1, 8, 0), SIZES, 64, (64,) * 4, 64),
    "empty map": (0, (1, 8, 7), (*SIZES[:6], 0, 38), 64, (64,) * 4, 64),
    "overflow": (0, (1 << 40, 1 << 40, 7), SIZES, 64, (64,) * 4, 64),
    "null regions": (0, (1, 8, 7), SIZES, None, (64,) * 4, 64),
    "null level": (0, (1, 8, 7), SIZES, 64, (64, 64, None, 64), 64),
    "misaligned level": (1, (1, 8, 7), SIZES, 64, (64, 65, 64, 64), 64),
    "null y": (0, (1, 8, 7), SIZES, 64, (64,) * 4, None),
}


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys())
def test_bad_arguments_are_refused_without_touching_a_device(library: ctypes.CDLL, arguments: tuple) -> None:  # type: ignore[type-arg]
    assert library.lit_deploy_cuda_error_string(call(library, *arguments)) == b"invalid argument"


def test_no_regions_are_no_work(library: ctypes.CDLL) -> None:
    assert call(library, 1, (0, 256, 14), SIZES, None, (64,) * 4, None) == 0


# --------------------------------------------------------------------------------------------------------- on a GPU


@pytest.fixture
def gpu() -> Iterator[None]:
    if not gpu_names():
        pytest.skip("no NVIDIA GPU here")
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} is built without CUDA")
    yield
    torch.cuda.synchronize()  # an error of this test must not surface in another


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
@pytest.mark.parametrize(("channels", "output_size"), [(256, 7), (256, 14), (3, 1), (13, 9)])
def test_gpu_matches_the_reference(
    library: ctypes.CDLL, gpu: None, channels: int, output_size: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(channels + output_size)
    sides = [(SIZES[2 * level], SIZES[2 * level + 1]) for level in range(4)]
    levels = [torch.randn((1, channels, *side), generator=generator).to(dtype) for side in sides]
    corner = torch.rand((200, 2), generator=generator) * torch.tensor([1000.0, 700.0])
    size = torch.tensor([216.0, 100.0]) ** torch.rand((200, 2), generator=generator)
    rois = torch.cat([corner, corner + size], dim=1)
    rois[:3] = torch.tensor([[0, 0, 1216, 800], [5, 5, 5, 50], [9, 9, 3, 3]], dtype=torch.float32)
    expected = reference(rois, [level.float() for level in levels], output_size)
    on_device = [tensor.cuda() for tensor in (rois, *levels)]
    y = torch.full(expected.shape, float("nan"), dtype=dtype, device="cuda")
    pointers = [tensor.data_ptr() for tensor in on_device]
    counts = (len(rois), channels, output_size)
    assert call(library, ELEMENTS[dtype], counts, SIZES, pointers[0], tuple(pointers[1:]), y.data_ptr()) == 0
    limit = 4e-5 + (2**-11 if dtype == torch.float16 else 0.0) * expected.abs()
    assert ((y.cpu().float() - expected).abs() <= limit).all()
