"""The suppression's CUDA launcher without a GPU, and, where there is one, its indices.

test_cuda_kernel.py compiles the kernels, and the emulation in plugins/tests runs their source.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest
import torch

from lit_deploy.machine.facts import gpu_names
from lit_deploy.ops.nms.reference import reference

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = Path(os.environ.get("LIT_DEPLOY_CUDA_LAUNCHER") or ROOT / "build" / "native" / "liblit_deploy_cuda.so")

pytestmark = pytest.mark.skipif(not LAUNCHER.is_file(), reason=f"no {LAUNCHER.name}: make native (with nvcc)")


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LAUNCHER))
    pointer, floating, size = ctypes.c_void_p, ctypes.c_float, ctypes.c_uint64
    numbers = [ctypes.c_int64, floating, floating, ctypes.c_int64]
    library.lit_deploy_nms.argtypes = [*numbers, *[pointer] * 5, size, pointer]
    library.lit_deploy_nms.restype = ctypes.c_int32
    library.lit_deploy_nms_workspace.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.POINTER(size)]
    library.lit_deploy_nms_workspace.restype = ctypes.c_int32
    library.lit_deploy_cuda_error_string.argtypes = [ctypes.c_int32]
    library.lit_deploy_cuda_error_string.restype = ctypes.c_char_p
    return library


BAD_ARGUMENTS = {
    "negative boxes": (-1, 9, (64, 64, 64, 64, 256), 1 << 30),
    "too many boxes": ((1 << 24) + 1, 9, (64, 64, 64, 64, 256), 1 << 40),
    "max_output": (9, (1 << 32) + 1, (64, 64, 64, 64, 256), 1 << 30),
    "null scores": (9, 9, (64, None, 64, 64, 256), 1 << 30),
    "misaligned classes": (9, 9, (64, 64, 68, 64, 256), 1 << 30),
    "null indices": (9, 9, (64, 64, 64, None, 256), 1 << 30),
    "null workspace": (9, 9, (64, 64, 64, 64, None), 1 << 30),
    "misaligned workspace": (9, 9, (64, 64, 64, 64, 128), 1 << 30),
    "small workspace": (9, 9, (64, 64, 64, 64, 256), 1024),
}


@pytest.mark.parametrize(("count", "length", "pointers", "size"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys())
def test_bad_arguments_are_refused_without_touching_a_device(
    library: ctypes.CDLL, count: int, length: int, pointers: tuple[int | None, ...], size: int
) -> None:
    error = library.lit_deploy_nms(count, 0.5, 0.05, length, *pointers, size, None)
    assert library.lit_deploy_cuda_error_string(error) == b"invalid argument"


def test_no_output_is_no_work(library: ctypes.CDLL) -> None:
    assert library.lit_deploy_nms(0, 0.5, 0.05, 0, *[None] * 5, 0, None) == 0
    size = ctypes.c_uint64(99)
    assert library.lit_deploy_nms_workspace(0, 100, ctypes.byref(size)) == 0
    assert size.value == 0


@pytest.mark.gpu
@pytest.mark.skipif(not gpu_names(), reason="no NVIDIA GPU here")
@pytest.mark.parametrize(
    ("count", "classes", "span", "iou", "length"),
    [(300, 80, 1200, 0.5, 100), (4819, 5, 1200, 0.7, 1000), (20000, 2, 300, 0.5, 3000), (80000, 80, 1200, 0.5, 100)],
)
def test_gpu_equals_the_reference(
    library: ctypes.CDLL, count: int, classes: int, span: int, iou: float, length: int
) -> None:
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} is built without CUDA")
    generator = torch.Generator().manual_seed(count)
    corner = torch.randint(0, span, (count, 2), generator=generator).float()
    boxes = torch.cat([corner, corner + torch.randint(0, 60, (count, 2), generator=generator)], dim=1)
    scores = torch.randint(0, 1000, (count,), generator=generator) / 1000  # many of them equal
    labels = torch.randint(0, classes, (count,), generator=generator)
    expected = reference(boxes, scores, labels, iou, 0.05, length)
    on_device = [tensor.cuda() for tensor in (boxes, scores, labels)]
    indices = torch.full((length,), 99, device="cuda")
    size = ctypes.c_uint64()
    assert library.lit_deploy_nms_workspace(count, length, ctypes.byref(size)) == 0
    workspace = torch.empty(size.value, dtype=torch.uint8, device="cuda")
    pointers = [tensor.data_ptr() for tensor in (*on_device, indices, workspace)]
    for _ in range(3):  # what a run leaves in the workspace is nothing to the next
        assert library.lit_deploy_nms(count, iou, 0.05, length, *pointers, size.value, None) == 0
        assert torch.equal(indices.cpu(), expected)
