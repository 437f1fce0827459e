"""The CUDA kernels: compiled for every architecture, and the merging's launcher without a GPU, and its numbers on one.

The kernels' logic is tested without a GPU by the emulation in plugins/tests (ctest, tests/plugins/test_kernels.py);
test_cuda_roi_align.py has RoIAlign's launcher.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lit_deploy.machine.facts import gpu_names
from lit_deploy.ops.deformable_token_merging.reference import reference

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "plugins" / "kernels"
LAUNCHER = Path(os.environ.get("LIT_DEPLOY_CUDA_LAUNCHER") or ROOT / "build" / "native" / "liblit_deploy_cuda.so")
ELEMENTS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
ARCHITECTURES = (80, 86, 89, 90, 100, 120)  # machine code
PTX = (80, 120)  # for what lies between, and for what comes later

SOURCES = sorted(KERNELS.glob("*/cuda_*.cu"))
EVERYTHING = os.environ.get("LIT_DEPLOY_TESTS") == "all"  # benchmarks/gpu.py runs this file without tests/support
ENTRIES = {"deformable_token_merging": 2, "multi_level_roi_align": 1, "nms": 3, "relative_position_attention": 3}
"""Kernels that a source has: of the merging with and without vectors, of attention for three widths of heads, but two
on tensor cores. CUB's, in nms/sort.cu, are its own business."""

Launch = Callable[..., int]

needs_launcher = pytest.mark.skipif(not LAUNCHER.is_file(), reason=f"no {LAUNCHER.name}: make native (with nvcc)")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc: install the CUDA toolkit")


def device_code(path: Path) -> set[tuple[str, int]]:
    """What a compiled file holds for which architecture, e.g. ``("elf", 90)``, from its fat binaries' headers."""
    data, found = path.read_bytes(), set()
    for match in re.finditer(rb"\x50\xed\x55\xba\x01\x00", data):
        header, size = struct.unpack_from("<HQ", data, match.start() + 6)
        position = match.start() + header
        end = position + size
        while position < end:
            kind, entry_header, entry_size = struct.unpack_from("<H2xIQ", data, position)
            (architecture,) = struct.unpack_from("<I", data, position + 28)
            found.add(({1: "ptx", 2: "elf"}.get(kind, str(kind)), architecture))
            position += entry_header + entry_size
    return found


# -------------------------------------------------------------------------------------------------- without a GPU


@needs_nvcc
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: f"{path.parent.name}-{path.stem.removeprefix('cuda_')}")
def test_compiles_for_every_architecture_without_warnings_or_spills(source: Path, tmp_path: Path) -> None:
    version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release (\d+)\.(\d+)", version)
    assert release is not None, version
    if tuple(map(int, release.groups())) < (12, 8):
        pytest.skip(f"CUDA {release[1]}.{release[2]} does not know compute capability 12.0; 12.8 or newer does")
    # In a usual run for one generation: the build itself compiles them for all.
    architectures = ARCHITECTURES if EVERYTHING else (90,)
    command = ["nvcc", "-std=c++17", "-O3", "-Xcompiler", "-Wall,-Wextra", "--Werror", "all-warnings", "-Xptxas", "-v"]
    command += [f"-gencode=arch=compute_{number},code=sm_{number}" for number in architectures]
    command += [f"-gencode=arch=compute_{number},code=compute_{number}" for number in PTX]
    target = tmp_path / "kernel.o"
    command += ["-I", str(KERNELS), "-c", str(source), "-o", str(target)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert device_code(target) == {*(("elf", number) for number in architectures), *(("ptx", number) for number in PTX)}
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", result.stdout + result.stderr)
    entries = 2 if "tensor" in source.stem else ENTRIES[source.parent.name]
    assert len(spills) == entries * len(architectures), result.stderr
    assert set(spills) == {("0", "0")}, result.stderr


@needs_launcher
def test_library_holds_code_for_what_it_was_configured_for() -> None:
    if not (LAUNCHER.parent / "CMakeCache.txt").is_file():
        pytest.skip(f"{LAUNCHER} is not in the folder where it was built")
    cache = (LAUNCHER.parent / "CMakeCache.txt").read_text()
    configured = re.search(r"^CMAKE_CUDA_ARCHITECTURES:\w+=(.+)$", cache, re.MULTILINE)
    assert configured is not None, "build/native was configured without CUDA"
    expected = set()
    for item in configured[1].split(";"):
        number, _, only = item.partition("-")
        expected |= {(kind, int(number)) for kind, other in (("elf", "virtual"), ("ptx", "real")) if only != other}
    assert device_code(LAUNCHER) == expected


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LAUNCHER))
    library.lit_deploy_deformable_token_merging.argtypes = [
        ctypes.c_int32,
        *[ctypes.c_int64] * 4,
        *[ctypes.c_void_p] * 5,
    ]
    library.lit_deploy_deformable_token_merging.restype = ctypes.c_int32
    library.lit_deploy_cuda_error_string.argtypes = [ctypes.c_int32]
    library.lit_deploy_cuda_error_string.restype = ctypes.c_char_p
    return library


BAD_ARGUMENTS = {
    "element": (3, 1, 2, 2, 8, 64, 64, 64, 64),
    "negative element": (-1, 1, 2, 2, 8, 64, 64, 64, 64),
    "negative batch": (0, -1, 2, 2, 8, 64, 64, 64, 64),
    "height": (0, 1, 1, 2, 8, 64, 64, 64, 64),
    "width": (0, 1, 2, 1, 8, 64, 64, 64, 64),
    "channels": (0, 1, 2, 2, 0, 64, 64, 64, 64),
    "overflow": (0, 1 << 30, 1 << 20, 1 << 20, 8, 64, 64, 64, 64),
    "null x": (0, 1, 2, 2, 8, None, 64, 64, 64),
    "null y": (0, 1, 2, 2, 8, 64, 64, 64, None),
    "misaligned": (1, 1, 2, 2, 8, 64, 65, 64, 64),
}


@needs_launcher
@pytest.mark.parametrize("arguments", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys())
def test_bad_arguments_are_refused_without_touching_a_device(
    library: ctypes.CDLL, arguments: tuple[int | None, ...]
) -> None:
    error = library.lit_deploy_deformable_token_merging(*arguments, None)
    assert library.lit_deploy_cuda_error_string(error) == b"invalid argument"


@needs_launcher
def test_an_empty_batch_is_no_work(library: ctypes.CDLL) -> None:
    assert library.lit_deploy_deformable_token_merging(1, 0, 2, 2, 8, None, None, None, None, None) == 0


@needs_launcher
@pytest.mark.skipif(bool(gpu_names()), reason="there is a GPU here: the call would launch on made-up pointers")
def test_without_a_device_the_launcher_loads_and_reports_an_error() -> None:
    # In a process of its own: whatever it did wrong, this one would go on.
    program = f"""
import ctypes
library = ctypes.CDLL({str(LAUNCHER)!r})
library.lit_deploy_cuda_error_string.restype = ctypes.c_char_p
pointer = ctypes.c_void_p(64)
sizes = [ctypes.c_int64(n) for n in (1, 2, 2, 8)]
error = library.lit_deploy_deformable_token_merging(0, *sizes, pointer, pointer, pointer, pointer, None)
print(error, library.lit_deploy_cuda_error_string(error).decode())
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(("35 ", "100 ")), result.stdout  # no driver, or a driver and no device
    assert "CUDA" in result.stdout


# --------------------------------------------------------------------------------------------------------- on a GPU


@pytest.fixture
def launch(library: ctypes.CDLL) -> Iterator[Launch]:
    """The launcher on torch tensors: ``launch(x, weight, bias, y, stream) -> error``."""
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} is built without CUDA")

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, y: torch.Tensor, stream: int = 0) -> int:
        pointers = [tensor.data_ptr() for tensor in (x, weight, bias, y)]
        error = library.lit_deploy_deformable_token_merging(ELEMENTS[x.dtype], *x.shape, *pointers, stream)
        return int(error)

    yield run
    torch.cuda.synchronize()  # an error of this test must not surface in another


def on_gpu(test: Callable[..., None]) -> Callable[..., None]:
    for mark in (pytest.mark.gpu, needs_launcher, pytest.mark.skipif(not gpu_names(), reason="no NVIDIA GPU here")):
        test = mark(test)
    return test


def inputs(shape: tuple[int, ...], dtype: torch.dtype, shift: int = 0, scale: float = 1.0) -> list[torch.Tensor]:
    """x, offset_weight, offset_bias and a y full of NaN; ``shift`` elements behind an aligned address."""
    batch, height, width, channels = shape
    generator = torch.Generator().manual_seed(hash((shape, shift)) % 2**31)
    sizes = [shape, (8, 4 * channels), (8,), (batch, height // 2, width // 2, 4 * channels)]
    deviations = [1.0, scale / (4 * channels) ** 0.5, 0.3, float("nan")]
    result = []
    for size, deviation in zip(sizes, deviations, strict=True):
        values = (torch.randn(size, generator=generator) * deviation).to(dtype)
        storage = torch.empty(values.numel() + shift, dtype=dtype, device="cuda")
        result.append(storage[shift:].view(size).copy_(values))
    return result


def assert_close(y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> None:
    expected = reference(x.double(), weight.double(), bias.double())
    rounding = {torch.float32: 2**-24, torch.float16: 2**-11, torch.bfloat16: 2**-8}[y.dtype]
    # Beside the one rounding of the result, what offsets summed in float32 (tensor cores truncate) cost.
    limit = rounding * expected.abs() + (1e-5 if y.dtype == torch.float32 else 5e-5) * expected.abs().max().clamp(min=1)
    error = (y.double() - expected).abs()
    assert torch.isfinite(y).all()
    assert (error <= limit).all(), f"largest error {error.max():g}"


SHAPES = [
    *[(1, 2, 2, 1), (2, 5, 7, 3), (1, 9, 2, 12), (3, 6, 8, 8), (2, 7, 7, 24), (1, 13, 11, 104)],
    *[(4, 56, 56, 96), (4, 28, 28, 192), (3, 14, 14, 384), (1, 4, 5, 301), (1, 3, 4, 2056)],
]


@on_gpu
@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gpu_matches_the_reference(launch: Launch, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for shift in (0, 1):  # 16-byte accesses where the channels allow them, and element by element
        for scale in (1.0, 12.0):
            x, weight, bias, y = inputs(shape, dtype, shift, scale)
            assert launch(x, weight, bias, y) == 0
            assert_close(y, x, weight, bias)


@on_gpu
@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
def test_gpu_runs_on_the_stream_that_it_is_given(launch: Launch, dtype: torch.dtype) -> None:
    x, weight, bias, y = inputs((4, 28, 28, 192), dtype)
    later = torch.empty_like(x)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # some 30 ms; a kernel on another stream would not wait for the copy
        later.copy_(x)
        assert launch(later, weight, bias, y, stream.cuda_stream) == 0
    stream.synchronize()
    assert_close(y, x, weight, bias)


@on_gpu
@pytest.mark.parametrize("dtype", ELEMENTS, ids=str)
@pytest.mark.parametrize("channels", [11, 16])
def test_gpu_non_finite_positions_give_zero(launch: Launch, dtype: torch.dtype, channels: int) -> None:
    x, weight, bias, y = inputs((1, 6, 7, channels), dtype)
    for value in (float("nan"), float("inf"), float("-inf"), 60000.0):
        wild = bias.clone()
        wild[2] = value  # dy of tap 1
        assert launch(x, weight, wild, y) == 0
        assert (y[..., channels : 2 * channels] == 0).all()
        assert torch.isfinite(y).all()


@on_gpu
def test_gpu_results_are_the_same_bits_every_time(launch: Launch) -> None:
    x, weight, bias, y = inputs((8, 56, 56, 96), torch.float16)
    assert launch(x, weight, bias, y) == 0
    first = y.clone()
    for _ in range(20):
        assert launch(x, weight, bias, y.fill_(float("nan"))) == 0
        assert torch.equal(y, first)


@on_gpu
def test_gpu_more_than_two_to_the_31_elements(launch: Launch) -> None:
    shape = (1, 4096, 4098, 136)  # 2.28e9 elements of one image: every index needs 64 bits
    if torch.cuda.mem_get_info()[0] < 12e9:
        pytest.skip("less than 12 GB of free GPU memory")
    x = torch.randn(shape, dtype=torch.float16, device="cuda", generator=torch.Generator("cuda").manual_seed(31))
    _, weight, bias, _ = inputs((1, 2, 2, 136), torch.float16)
    y = torch.empty((1, 2048, 2049, 4 * 136), dtype=torch.float16, device="cuda")
    assert launch(x, weight, bias, y) == 0
    # The last rows alone, as a map of their own: away from its upper border its samples are the same.
    part = reference(x[:, -64:].float(), weight.float(), bias.float())[:, 16:]
    # float32 holds positions around 4096 to 2^-12 pixels, and neighbours may be some 8 apart: 2e-3 is to be expected.
    assert torch.allclose(y[:, -16:].float(), part, rtol=2e-3, atol=4e-3)
