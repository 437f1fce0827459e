"""`pip install .` compiles the library where a compiler and headers are, and installs the Python package where not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.golden import DATA

from lit_deploy.machine import native

ROOT = Path(__file__).resolve().parent.parent


def wheel(folder: Path, **variables: str) -> tuple[set[str], str]:
    """Build the wheel in a fresh build directory; return its file names and what was printed."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "-w", str(folder)),
            # Without the CUDA kernels, which take most of the time: `make native` has built them.
            *("-C", f"build-dir={folder / 'build'}", "-C", "cmake.define.LIT_DEPLOY_CUDA=OFF", str(ROOT)),
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
    assert {
        "lit_deploy/py.typed",
        "lit_deploy/images/ade20k_categories.txt",
        "lit_deploy/images/coco_categories.txt",
        "lit_deploy/images/imagenet_labels.txt",
        "lit_deploy/artifacts/manifest.schema.json",
        "lit_deploy/artifacts/sidecar.schema.json",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "plugins/", "demo/"))]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The wheel that a machine without a compiler makes, and what was printed."""
    folder = tmp_path_factory.mktemp("bare")
    _, printed = wheel(folder, CXX="/bin/false")
    (built,) = folder.glob("*.whl")
    return built, printed


def test_without_compiler(bare: tuple[Path, str]) -> None:
    built, printed = bare
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
    assert "lit_deploy/cli.py" in names
    assert not [name for name in names if name.endswith(".so")]
    assert "the native library was NOT built" in printed


def test_description_on_a_package_index(bare: tuple[Path, str]) -> None:
    """Files of the repository are not there: no link leads to one, and the words of the links stay."""
    with zipfile.ZipFile(bare[0]) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    assert "# lit-deploy" in text
    assert re.findall(r"\]\((?!https?:)[^)]*\)", text) == []
    assert "](https://arxiv.org/abs/2105.14217)" in text


def test_an_installation_without_the_extra_for_exports(bare: tuple[Path, str], tmp_path: Path) -> None:
    """A serving machine: the wheel and ONNX Runtime, in an environment that has never seen PyTorch."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=120)
    constraints = str(ROOT / "constraints.txt")
    python = environment / "bin" / "python"
    subprocess.run(
        [str(python), "-m", "pip", "install", "-q", "-c", constraints, f"{bare[0]}[ort]"], check=True, timeout=300
    )

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        program = str(environment / "bin" / "lit-deploy")
        return subprocess.run(
            [program, *map(str, command)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )

    file = DATA / "v0.1.0" / "tiny.onnx"
    absent = subprocess.run([str(python), "-c", "import torch"], capture_output=True, check=False, timeout=60)
    assert absent.returncode == 1, "this environment has no PyTorch"
    for command in (
        ("predict", file, DATA / "v0.1.0" / "picture.png"),
        ("inspect", file),
        ("bench", file, "--rounds", "2", "--threads", "1", "--batch", "1"),
        ("package", file, "--target", "triton", "--out", tmp_path / "repository"),
        ("models",),
        ("doctor",),
    ):
        done = run(*command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    for refused in (
        ("export", "--ckpt", DATA / "v0.1.0" / "tiny.pth"),
        ("verify", file, "--ckpt", DATA / "v0.1.0" / "tiny.pth"),
    ):
        done = run(*refused)
        assert (done.returncode, done.stdout) == (2, ""), (refused, done.stdout, done.stderr)
        assert "pip install 'lit-deploy[export]'" in done.stderr
        assert done.stderr.count("\n") == 1
