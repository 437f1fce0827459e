"""`pip install .` compiles the library where a compiler and headers are, and installs the Python package where not."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lit_deploy.machine import native

ROOT = Path(__file__).resolve().parent.parent


def wheel(folder: Path, **variables: str) -> tuple[set[str], str]:
    """Build the wheel in a fresh build directory; return its file names and what was printed."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "-w", str(folder)),
            # One architecture, where there is an nvcc: test_cuda_kernel.py compiles for all of them.
            *("-C", f"build-dir={folder / 'build'}", "-C", "cmake.define.CMAKE_CUDA_ARCHITECTURES=80", str(ROOT)),
        ],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist()), done.stdout + done.stderr


def test_with_compiler(tmp_path: Path) -> None:
    if native.find_library() is None:
        pytest.skip(f"no ONNX Runtime headers here, so there is no library to package; {native.BUILD_COMMAND}")
    names, _ = wheel(tmp_path)
    assert f"lit_deploy/lib/{native.LIBRARY_NAME}" in names
    assert {"lit_deploy/py.typed", "lit_deploy/images/imagenet_labels.txt"} <= names
    assert not [name for name in names if name.startswith(("tests/", "plugins/", "demo/"))]


def test_without_compiler(tmp_path: Path) -> None:
    names, printed = wheel(tmp_path, CXX="/bin/false")
    assert "lit_deploy/cli.py" in names
    assert not [name for name in names if name.endswith(".so")]
    assert "the native library was NOT built" in printed
