"""Measure what the C API costs: around ONNX Runtime's own call, and for the preparation of pictures beside Pillow.

Every call of ``lit_run`` is timed around and, in the same call, inside: a thin library (embedding_clock.cc) stands
between the C API and ONNX Runtime and times ``Run``. What is left is the C API's own share, of the very same run.

* ``native``: a prepared batch of the file's own type, ``lit_run``
* ``pixels``: 224 x 224 RGB pixels to a float file, which ``lit_run`` normalises
* ``picture``: a 500 x 375 picture, which ``lit_run_images`` resizes, crops and normalises

Pictures are prepared by ``lit_preprocess`` and by Pillow in turns, in one thread; both must give the same bits.

    python benchmarks/embedding.py [--calls 200] [--output benchmarks/results/embedding_cpu.json]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import PIL
from merging import quartiles
from PIL import Image

import lit_deploy
from lit_deploy.checkpoints.seeded import make_state, save_checkpoint, synthetic_image
from lit_deploy.core.specs import InputSpec
from lit_deploy.exporters.onnx import OnnxOptions
from lit_deploy.images.preprocessing import resize_and_crop
from lit_deploy.machine.facts import this_machine
from lit_deploy.machine.native import find_library, find_onnxruntime_library
from lit_deploy.models.families import OFFICIAL_SPECS, default_input
from lit_deploy.workflows.doctor import HEADER, HEADER_SUFFIXES, header_folders

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "native"
INPUTS = {"native": "float", "pixels": "float", "picture": "float", "native, uint8 file": "uint8"}
"""Cases, and the input of the file that they run."""
PICTURES = ((500, 375), (4000, 3000))
"""(width, height): a usual ImageNet size and a camera's."""


def main() -> int:
    """Run every case, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description="Measure what the C API costs, on this machine's CPU.")
    parser.add_argument("--calls", type=int, default=200, help="calls per case [default: 200]")
    parser.add_argument("--threads", default="1,2", help="threads of ONNX Runtime, separated by commas [default: 1,2]")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "embedding_cpu.json")
    arguments = parser.parse_args()
    if not (BUILD / "liblit_deploy_runtime.so").is_file() or find_library() is None:
        parser.error("the runtime and the operator library are not built; run: make native")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program, clock = compiled(folder)
        files = {kind: exported(folder, kind) for kind in ("float", "uint8")}
        calls = []
        for threads in map(int, arguments.threads.split(",")):
            for case, kind in INPUTS.items():
                words = [program, files[kind], case.split(",")[0], threads, arguments.calls, clock]
                calls.append({"case": case, "threads": threads, **measured(words)})
                print(line_of(calls[-1]), flush=True)
    pictures = [prepared(width, height) for width, height in PICTURES]
    for entry in pictures:
        print(f"{entry['picture']:>10}: lit_preprocess {entry['c_ms']:7.2f} ms, Pillow {entry['pillow_ms']:7.2f} ms, "
              f"{entry['pillow_over_c']['median']:.2f}x")  # fmt: skip
    report = {
        "what": "LIT-S, fp32, batch 1: time of one call of the C API beyond ONNX Runtime's Run() inside it",
        "machine": msgspec.to_builtins(this_machine()),
        "pillow": PIL.__version__,
        "operator_library": True,
        "calls": calls,
        "pictures": pictures,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {arguments.output}")
    return 0


def compiled(folder: Path) -> tuple[Path, Path]:
    """Build the program that calls and the library that times; their paths."""
    headers = [base / suffix for base in header_folders() for suffix in HEADER_SUFFIXES]
    include = next(path for path in headers if (path / HEADER).is_file())
    program, clock = folder / "calls", folder / "libclock.so"
    common = ["c++", "-std=c++17", "-O2", f"-I{ROOT / 'plugins' / 'runtime' / 'include'}", f"-I{include}"]
    source = Path(__file__).parent
    libraries = [f"-L{BUILD}", "-llit_deploy_runtime", f"-Wl,-rpath,{BUILD}", "-ldl"]
    subprocess.run([*common, source / "embedding_calls.cc", "-o", program, *libraries], check=True)
    subprocess.run([*common, "-shared", "-fPIC", source / "embedding_clock.cc", "-o", clock, "-ldl"], check=True)
    return program, clock


def exported(folder: Path, kind: Any) -> Path:
    """LIT-S with seeded weights as a file."""
    checkpoint, path = folder / "lit_s.pth", folder / f"{kind}.onnx"
    if not checkpoint.exists():
        save_checkpoint(make_state(OFFICIAL_SPECS["lit_s"]), checkpoint)
    lit_deploy.export_checkpoint(checkpoint, path, OnnxOptions(input=kind), verify=False)
    return path


def measured(words: list[Any]) -> dict[str, Any]:
    """Run the program; medians of the whole call, of Run() inside it, and of what is left."""
    environment = {**os.environ, "REAL_ONNXRUNTIME": str(find_onnxruntime_library())}
    done = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    pairs = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    return {
        "run_ms": statistics.median(inner for _, inner in pairs) / 1e6,
        "added_us": quartiles([(outer - inner) / 1e3 for outer, inner in pairs]),
        "added_percent": quartiles([100 * (outer - inner) / inner for outer, inner in pairs]),
    }


def line_of(entry: dict[str, Any]) -> str:
    """One case for the terminal."""
    added, percent = entry["added_us"], entry["added_percent"]
    return (
        f"{entry['case']:>18}, {entry['threads']} thread(s): Run() {entry['run_ms']:7.2f} ms, the C API adds "
        f"{added['median']:8.1f} us [{added['lower_quartile']:.1f}, {added['upper_quartile']:.1f}], "
        f"{percent['median']:.3f} %"
    )


class _Spec(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int32), ("height", ctypes.c_int32), ("width", ctypes.c_int32), ("resize", ctypes.c_int32),
        ("interpolation", ctypes.c_int32), ("mean", ctypes.c_float * 3), ("std", ctypes.c_float * 3),
    )  # fmt: skip


class _Image(ctypes.Structure):
    _fields_ = (
        ("pixels", ctypes.c_void_p), ("width", ctypes.c_int32), ("height", ctypes.c_int32),
        ("row_stride", ctypes.c_ssize_t),
    )  # fmt: skip


def prepared(width: int, height: int, rounds: int = 40) -> dict[str, Any]:
    """Time resize and crop of one picture by both, in turns; they must agree to the bit."""
    spec = default_input(OFFICIAL_SPECS["lit_s"])
    picture = np.ascontiguousarray(synthetic_image(5, "embedding", height, width))
    pillow = Image.fromarray(picture)
    library = ctypes.CDLL(str(BUILD / "liblit_deploy_runtime.so"))
    crop = np.empty((spec.height, spec.width, 3), np.uint8)
    c_spec = _Spec(1, spec.height, spec.width, spec.resize, 0)
    c_image = _Image(picture.ctypes.data, width, height, 0)

    def by_c() -> None:
        assert (
            library.lit_preprocess(ctypes.byref(c_spec), ctypes.byref(c_image), crop.ctypes.data_as(ctypes.c_void_p))
            == 0
        )

    by_c()
    if not np.array_equal(crop, resize_and_crop(pillow, spec)):
        sys.exit("the C API and Pillow prepare different pictures: nothing written")
    times: dict[str, list[float]] = {"c": [], "pillow": []}
    for _ in range(rounds):
        times["c"].append(seconds(by_c))
        times["pillow"].append(seconds(lambda: whole(pillow, spec)))
    return {
        "picture": f"{width} x {height}",
        "c_ms": 1e3 * statistics.median(times["c"]),
        "pillow_ms": 1e3 * statistics.median(times["pillow"]),
        "pillow_over_c": quartiles([slow / fast for slow, fast in zip(times["pillow"], times["c"], strict=True)]),
    }


def whole(picture: Image.Image, spec: InputSpec) -> None:
    """Resize and crop, and forget the result."""
    resize_and_crop(picture, spec)


def seconds(call: Callable[[], None]) -> float:
    """How long one call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
