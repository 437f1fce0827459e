"""Sidecars that are damaged, and engines of TensorRT-RTX, in the C runtime; CUDA and TensorRT are played, see
``runtime_engines.py``."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.runtime_engine_worker import MAJOR, VERSION
from support.runtime_engines import PLUGIN, Play, assert_ran, images, needs_fakes, write_engine
from support.runtime_library import ROOT

from lit_deploy.artifacts.sidecar import read_sidecar, sidecar_path
from lit_deploy.core.errors import ArtifactError
from lit_deploy.machine.cuda import find_gpu
from lit_deploy.machine.tensorrt import installed_version

# -------------------------------------------------------------------------------------------------- damaged sidecars


def mutations(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to every value of a sidecar, but those that only people read."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if (*keys, key)[0] not in ("inspections", "parity", "manifest"):
            yield (*keys, key)
            yield from mutations(inner, (*keys, key))


def changed(document: Any, keys: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value; ``...`` removes it."""
    document = copy.deepcopy(document)
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    return document


@needs_fakes
def test_damaged_sidecars(tmp_path: Path, play: Play) -> None:
    """Every value removed, or of another type: refused here where Python refuses it, and never a crash."""
    path = write_engine(tmp_path, plugin=PLUGIN)
    whole = json.loads(sidecar_path(path).read_text())
    refused = 0
    for keys in mutations(whole):
        for value in (..., None, 3.5, "text", [], {}, -1, 2**63, 2**64, 10**40):
            sidecar_path(path).write_text(json.dumps(changed(whole, keys, value)))
            played = play(path)
            works = keys == ("plugin",) and value is None  # the library is missing, so that nothing else can
            assert (played.status == "LIT_OK") == works, (keys, value)
            assert "\n" not in played.sentence
            try:
                read_sidecar(path)
            except ArtifactError:
                refused += 1
                expected_status = {"LIT_BAD_MODEL", "LIT_WRONG_VERSION"}
                assert played.status in expected_status, (keys, value, played)
    assert refused > 300


@needs_fakes
@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[1]", "null", '"text"', "\xff", "{}", '{"format": 1}', "\0" * 100, "[" * 500_000),
        '{"manifest":' + "[" * 200_000 + "]" * 200_000 + "}",
    ],
    ids=lambda text: f"{text[:12]!r} {len(text)}",
)
def test_no_sidecar_at_all(text: str, tmp_path: Path, play: Play) -> None:
    path = write_engine(tmp_path)
    sidecar_path(path).write_bytes(text.encode("latin-1"))
    played = play(path)
    assert played.status == "LIT_BAD_MODEL"
    assert played.sentence.startswith(f"{sidecar_path(path)} is damaged (")


@needs_fakes
def test_missing_files_and_newer_layouts(tmp_path: Path, play: Play) -> None:
    path = write_engine(tmp_path)
    sidecar_path(path).write_text(sidecar_path(path).read_text().replace('"format": 2', '"format": 3', 1))
    played = play(path)
    assert (played.status, "has format 3, this library reads 1 to 2; use a newer" in played.sentence) == (
        "LIT_WRONG_VERSION",
        True,
    )
    sidecar_path(path).unlink()
    played = play(path)
    assert (played.status, "has no readable sidecar lit.engine.json; " in played.sentence) == ("LIT_FILE_ERROR", True)
    path.unlink()
    played = play(path)
    assert (played.status, "lit.engine is not a file; expected" in played.sentence) == ("LIT_FILE_ERROR", True)


# ---------------------------------------------------------------------------------------------------- TensorRT-RTX


RTX: dict[str, Any] = {
    "backend": "tensorrt_rtx", "backend_version": "1.7.1.116", "gpu": None, "compute_capability": None
}  # fmt: skip
ADA = ("NVIDIA GeForce RTX 4090", 8, 9, 13000, 1)


@needs_fakes
@pytest.mark.skipif(MAJOR != "11", reason="only TensorRT 11's headers lay classes out as TensorRT-RTX 1.7 does")
def test_rtx_with_headers_of_tensorrt_11(tmp_path: Path, play: Play) -> None:
    rtx: dict[str, Any] = {"version": (1, 7, 1, 116), "gpu": ADA}
    path = write_engine(tmp_path, build=RTX)
    played = play(path, [("run", images(2))], **rtx)
    assert_ran(played.steps[0], images(2))
    assert played.description == "TensorRT-RTX 1.7.1.116, NVIDIA GeForce RTX 4090 (built-in function)"
    assert play(path, **{**rtx, "version": VERSION}).status == "LIT_WRONG_VERSION"
    graphs = play(path, options={"cuda_graph": 1}, **rtx)
    assert graphs.status == "LIT_NOT_SUPPORTED"
    assert "TensorRT-RTX captures CUDA graphs itself" in graphs.sentence
    hopper = play(path, version=rtx["version"])
    assert hopper.status == "LIT_NO_DEVICE"
    assert "was built for RTX GPUs of compute capability 8.0, 8.6, 8.9, 12.0, 12.1, here is Fake GPU" in hopper.sentence
    assert hopper.sentence.endswith("--builder tensorrt --batch 1:4:8 --no-plugin")
    turned = write_engine(tmp_path, build={**RTX, "targets": ("8.6",)})
    assert play(turned, **rtx).sentence.endswith("--builder tensorrt_rtx --batch 1:4:8 --no-plugin --target 8.9")
    later = write_engine(tmp_path, build={**RTX, "backend_version": "1.8.0.1"})
    assert play(later, **rtx).status == "LIT_NOT_SUPPORTED"


@needs_fakes
@pytest.mark.skipif(MAJOR != "11", reason="only TensorRT 11's headers lay classes out as TensorRT-RTX 1.7 does")
def test_rtx_would_end_the_process(tmp_path: Path, play: Play) -> None:
    """Without a libtensorrt_rtx.so on the path, TensorRT-RTX aborts as soon as a plugin is used."""
    path = write_engine(tmp_path, build=RTX, plugin=PLUGIN)
    played = play(path, version=(1, 7, 1, 116), gpu=ADA)
    assert played.status == "LIT_LIBRARY_NOT_FOUND"
    assert "looks for libtensorrt_rtx.so and ends the process when it is not found; put a link" in played.sentence


@needs_fakes
@pytest.mark.skipif(MAJOR == "11", reason="TensorRT 11's headers lay classes out as TensorRT-RTX 1.7 does")
def test_rtx_with_other_headers(tmp_path: Path, play: Play) -> None:
    played = play(write_engine(tmp_path, build=RTX), version=(1, 7, 1, 116), gpu=ADA)
    assert played.status == "LIT_NOT_SUPPORTED"
    assert (
        "needs TensorRT-RTX 1.7.1.116; this liblit_deploy_runtime.so was compiled with the headers of"
        in played.sentence
    )


REAL = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from support.runtime_library import Failure, check, runtime
import ctypes, os
model = ctypes.c_void_p()
try:
    check(runtime().lit_model_open(os.fsencode(sys.argv[3]), None, ctypes.byref(model)))
    print("LIT_OK")
except Failure as failure:
    print(failure.status, failure)
"""


@needs_fakes
@pytest.mark.skipif(MAJOR != "11", reason="only TensorRT 11's headers lay classes out as TensorRT-RTX 1.7 does")
@pytest.mark.skipif(
    installed_version("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed: pip install 'lit-deploy[rtx]'"
)
def test_the_real_rtx_without_a_driver(tmp_path: Path) -> None:
    """The real library loads and tells its version; without a driver the refusal is one of ours."""
    if find_gpu() is not None:
        pytest.skip("there is a driver here")
    found = importlib.util.find_spec("tensorrt_rtx_libs")
    assert found is not None
    assert found.origin is not None
    path = write_engine(tmp_path, build={**RTX, "backend_version": installed_version("tensorrt_rtx")})
    done = subprocess.run(
        [sys.executable, "-c", REAL, str(ROOT / "tests"), str(ROOT), str(path)],
        env={**os.environ, "LIT_DEPLOY_TENSORRT": str(Path(found.origin).with_name("libtensorrt_rtx.so.1"))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"LIT_NO_DEVICE {path} cannot be opened on this machine (no NVIDIA driver was found")
