"""Attention's CUDA launcher without a GPU, and, where there is one, its numbers.

test_cuda_kernel.py compiles the kernel, and the emulation in plugins/tests runs its source.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest
import torch

from lit_deploy.machine.facts import gpu_names
from lit_deploy.ops.relative_position_attention.reference import reference

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = Path(os.environ.get("LIT_DEPLOY_CUDA_LAUNCHER") or ROOT / "build" / "native" / "liblit_deploy_cuda.so")
ELEMENTS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}

pytestmark = pytest.mark.skipif(not LAUNCHER.is_file(), reason=f"no {LAUNCHER.name}: make native (with nvcc)")


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LAUNCHER))
    library.lit_deploy_relative_position_attention.argtypes = [
        ctypes.c_int32,
        *[ctypes.c_int64] * 6,
        ctypes.c_float,
        *[ctypes.c_void_p] * 4,
    ]
    library.lit_deploy_relative_position_attention.restype = ctypes.c_int32
    library.lit_deploy_cuda_error_string.argtypes = [ctypes.c_int32]
    library.lit_deploy_cuda_error_string.restype = ctypes.c_char_p
    return library


BAD_ARGUMENTS = {
    "element": (3, (1, 6, 2, 8, 2, 3), (64, 64, 64)),
    "negative batch": (0, (-1, 6, 2, 8, 2, 3), (64, 64, 64)),
    "heads": (0, (1, 6, 0, 8, 2, 3), (64, 64, 64)),
    "wide head": (0, (1, 6, 2, 129, 2, 3), (64, 64, 64)),
    "another map": (0, (1, 6, 2, 8, 2, 2), (64, 64, 64)),
    "overflow": (0, (1 << 40, 1 << 30, 2, 8, 0, 0), (64, 64, 64)),
    "null qkv": (0, (1, 6, 2, 8, 2, 3), (None, 64, 64)),
    "null table": (0, (1, 6, 2, 8, 2, 3), (64, None, 64)),
    "misaligned y": (1, (1, 6, 2, 8, 2, 3), (64, 64, 65)),
}


@pytest.mark.parametrize(("element", "shape", "pointers"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys())
def test_bad_arguments_are_refused_without_touching_a_device(
    library: ctypes.CDLL, element: int, shape: tuple[int, ...], pointers: tuple[int | None, ...]
) -> None:
    error = library.lit_deploy_relative_position_attention(element, *shape, 1.0, *pointers, None)
    assert library.lit_deploy_cuda_error_string(error) == b"invalid argument"


def test_nothing_is_no_work(library: ctypes.CDLL) -> None:
    for shape in ((0, 6, 2, 8, 2, 3), (1, 0, 2, 8, 0, 0)):
        assert library.lit_deploy_relative_position_attention(0, *shape, 1.0, None, None, None, None) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not gpu_names(), reason="no NVIDIA GPU here")
@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
@pytest.mark.parametrize(
    ("batch", "rows", "columns", "heads", "head_dim", "biased"),
    [(2, 14, 14, 3, 32, True), (1, 50, 76, 2, 32, True), (1, 13, 11, 2, 64, False), (1, 9, 5, 1, 100, True)],
)
def test_gpu_matches_the_reference(
    library: ctypes.CDLL,
    dtype: torch.dtype,
    batch: int,
    rows: int,
    columns: int,
    heads: int,
    head_dim: int,
    biased: bool,
) -> None:
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} is built without CUDA")
    generator = torch.Generator().manual_seed(rows)
    tokens, scale = rows * columns, head_dim**-0.5
    qkv = torch.randn((batch, tokens, 3 * heads * head_dim), generator=generator).to(dtype)
    table = torch.randn((heads, 2 * rows - 1, 2 * columns - 1) if biased else (0, 0, 0), generator=generator)
    wide = qkv.double()
    expected = reference(wide, table.double(), heads, scale)
    wide[..., 2 * heads * head_dim :].abs_()
    sizes = reference(wide, table.double(), heads, scale)  # what a relative error of each weight can amount to
    on_device, biases = qkv.cuda(), table.cuda()
    y = torch.full(expected.shape, float("nan"), dtype=dtype, device="cuda")
    shape = (batch, tokens, heads, head_dim, *((rows, columns) if biased else (0, 0)))
    pointers = (on_device.data_ptr(), biases.data_ptr() if biased else None, y.data_ptr())
    assert library.lit_deploy_relative_position_attention(ELEMENTS[dtype], *shape, scale, *pointers, None) == 0
    rounding = {torch.float32: 2**-24, torch.float16: 2**-11, torch.bfloat16: 2**-8}[dtype]
    # On tensor cores, weights are of the type, too.
    weights = rounding if dtype != torch.float32 and head_dim in (32, 64) else 0.0
    assert ((y.cpu().double() - expected).abs() <= rounding * expected.abs() + weights * sizes + 2e-5).all()
