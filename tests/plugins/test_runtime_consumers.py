"""Programs in C99 and C++17 that know only the installed package, against ``open_session``."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.exported import export_of, needs_library
from support.native_build import GENERATOR, environment_without, needs_cmake, run_tool
from support.runtime_library import LIBRARY, ROOT, needs_runtime
from support.runtime_models import Arrays, needs_onnxruntime

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.images.preprocessing import normalize
from lit_deploy.machine.native import find_onnxruntime_library

TESTS = ROOT / "plugins" / "tests"
BUILD = LIBRARY.resolve().parent
THREADS = 8
CheckpointFile = Callable[[str], Path]

pytestmark = [
    needs_runtime,
    needs_onnxruntime,
    pytest.mark.skipif(not (BUILD / "cmake_install.cmake").is_file(), reason=f"{BUILD} is no build folder to install"),
    needs_cmake,
    pytest.mark.skipif(
        shutil.which("cc") is None or shutil.which("c++") is None, reason="no compiler: apt-get install g++"
    ),
]


def run(*command: str | Path, **environment: str) -> str:
    """Run a command that must succeed; its output."""
    kept = environment_without("CPATH", "LIT_DEPLOY_LIBRARY", "LD_LIBRARY_PATH")
    done = run_tool(*command, environment={**kept, **environment}, timeout=120)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, installed and then moved: nothing in it may remember where it was."""
    folder = tmp_path_factory.mktemp("installed")
    run("cmake", "--install", BUILD, "--prefix", folder / "first")
    return (folder / "first").rename(folder / "moved")


@pytest.fixture(scope="module")
def consumers(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Programs by language."""
    folder = tmp_path_factory.mktemp("consumers")
    programs = {}
    for language in ("c", "cpp"):
        build = folder / language
        source = TESTS / f"consumer_{language}"
        run("cmake", *GENERATOR, "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}")
        run("cmake", "--build", build)
        programs[language] = build / "consumer"
    return programs


def test_the_headers_are_clean(prefix: Path, tmp_path: Path) -> None:
    """As C99 and as C++17, alone and included twice."""
    strict = ("-pedantic-errors", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-fsyntax-only")
    for compiler, standard, ending, names in (
        ("cc", "c99", "c", ("lit_runtime.h",)),
        ("c++", "c++17", "cc", ("lit_runtime.h",)),
        ("c++", "c++17", "cc", ("lit_runtime.hpp", "lit_runtime.h")),
    ):
        source = tmp_path / f"include.{ending}"
        source.write_text("".join(f"#include <{name}>\n" for name in (*names, *names)))
        run(compiler, f"-std={standard}", *strict, "-I", prefix / "include", source)
        assert run(compiler, f"-std={standard}", "-E", "-I", prefix / "include", source).count("lit_model_open(") > 0


def test_the_package_remembers_no_folder(prefix: Path) -> None:
    texts = [path for path in prefix.rglob("*") if path.suffix in (".cmake", ".pc", ".h", ".hpp")]
    assert {path.name for path in texts} >= {
        "lit_deploy.pc",
        "lit_deployConfig.cmake",
        "lit_runtime.h",
        "lit_runtime.hpp",
    }
    for path in texts:
        for folder in (str(prefix.parent), str(ROOT), str(BUILD)):
            assert folder not in path.read_text(), f"{path} names {folder}"


@dataclass(frozen=True)
class Job:
    """A file and a batch for it: ``given`` to the program, ``fed`` to Python's session."""

    path: Path
    given: NDArray[Any]
    fed: NDArray[Any]


def job(path: Path, kind: str, batch: int = 2) -> Job:
    """Images of noise; ``pixels`` are uint8 whatever the file takes."""
    manifest = read_manifest(path)
    spec = manifest.input
    noise = np.random.default_rng(5)
    if kind == "float":
        given = noise.standard_normal((batch, 3, spec.height, spec.width)).astype(np.float32)
        return Job(path, given, given)
    pixels = noise.integers(0, 256, (batch, spec.height, spec.width, 3), dtype=np.uint8)
    return Job(path, pixels, pixels if spec.kind == "uint8" else normalize(pixels, spec))


def played(program: Path, job: Job, folder: Path, *library: str) -> tuple[str, list[Arrays]]:
    """Run a consumer; the back end it used and the outputs of all its runs."""
    batch, stride = job.given.shape[0], 0
    data = job.given
    if job.given.dtype == np.uint8:  # rows with gaps between them
        row = job.given.shape[2] * 3
        stride = row + 7
        data = np.full((batch, job.given.shape[1], stride), 99, np.uint8)
        data[:, :, :row] = job.given.reshape(batch, -1, row)
    (folder / "input").write_bytes(data.tobytes())
    kind = "uint8" if stride else "float"
    arguments = (job.path, kind, folder / "input", batch, stride, THREADS, folder / "output", *library)
    said = run(program, *map(str, arguments), LIT_DEPLOY_ONNXRUNTIME=str(find_onnxruntime_library()))
    manifest = read_manifest(job.path)
    count = 5 if manifest.output == "top5" else len(manifest.labels)
    fields: list[Any] = [("scores" if manifest.output == "top5" else manifest.output, "<f4", (batch, count))]
    if manifest.output == "top5":
        fields.append(("classes", "<i8", (batch, count)))
    results = np.fromfile(folder / "output", np.dtype(fields))
    return said, [{name: result[name] for name, *_ in fields} for result in results]


def assert_equals_python(program: Path, job: Job, folder: Path, library: bool) -> None:
    said, results = played(program, job, folder, *(() if library else ("",)))
    with open_session(job.path, SessionOptions(library=None if library else False)) as session:
        expected, description = session.run({"images": job.fed}), session.description
    assert said.strip() == description
    assert len(results) == 1 + THREADS
    for result in results:
        assert result.keys() == expected.keys()
        for name, value in expected.items():
            limit = 0 if value.dtype == np.int64 else 1e-6 * np.abs(value).max()
            np.testing.assert_allclose(result[name], value, rtol=0, atol=limit)


# Each network in both languages, with and without the operator library.
@pytest.mark.parametrize(
    ("network", "language", "library"),
    [
        pytest.param("lit_ti", "c", True, marks=needs_library),
        ("lit_ti", "cpp", False),
        ("lit_s", "c", False),
        pytest.param("lit_s", "cpp", True, marks=needs_library),
    ],
)
def test_official_networks(
    network: str,
    language: str,
    library: bool,
    consumers: dict[str, Path],
    checkpoint_file: CheckpointFile,
    tmp_path: Path,
) -> None:
    path = export_of(checkpoint_file(network))
    assert_equals_python(consumers[language], job(path, "float", 1), tmp_path, library)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's trained checkpoint, where files may be written beside it."""
    return Path(shutil.copy(ROOT / "examples" / "01_digits" / "digits.pth", tmp_path_factory.mktemp("digits")))


@pytest.mark.parametrize("language", ["c", "cpp"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("float", {}),
        ("pixels", {}),
        ("pixels", {"input": "uint8", "precision": "fp16"}),
        ("pixels", {"input": "uint8", "output": "top5", "batch": 2}),
    ],
)
def test_digits(
    kind: str, options: dict[str, Any], language: str, consumers: dict[str, Path], digits: Path, tmp_path: Path
) -> None:
    found = (BUILD / "liblit_deploy_onnxruntime.so").is_file()
    for library in (False, True) if found else (False,):
        assert_equals_python(consumers[language], job(export_of(digits, **options), kind), tmp_path, library)


def test_pkg_config(prefix: Path, digits: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("no pkg-config: apt-get install pkg-config")
    folder = next(prefix.rglob("lit_deploy.pc")).parent
    flags = run("pkg-config", "--cflags", "--libs", "lit_deploy", PKG_CONFIG_PATH=str(folder)).split()
    version = run("pkg-config", "--modversion", "lit_deploy", PKG_CONFIG_PATH=str(folder)).strip()
    program = tmp_path / "consumer"
    run(
        "cc",
        "-std=c99",
        TESTS / "consumer_c" / "main.c",
        "-o",
        program,
        *flags,
        f"-Wl,-rpath,{folder.parent}",
        "-pthread",
    )
    assert_equals_python(program, job(export_of(digits), "float"), tmp_path, False)
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()


def test_programs_of_the_first_header_run(prefix: Path, digits: Path, tmp_path: Path) -> None:
    """Compiled against ``lit_runtime.h`` as it was before there were tasks, run with the library of today."""
    old, library = ROOT / "tests" / "data" / "abi_1", next(prefix.rglob("liblit_deploy_runtime.so")).parent
    program = tmp_path / "consumer"
    words = ("-std=c99", "-I", old, TESTS / "consumer_c" / "main.c", "-o", program, "-L", library)
    run("cc", *words, "-llit_deploy_runtime", f"-Wl,-rpath,{library}", "-pthread")
    assert "lit_detect(" not in (old / "lit_runtime.h").read_text()
    for kind, options in (("float", {}), ("pixels", {"input": "uint8", "output": "top5"})):
        assert_equals_python(program, job(export_of(digits, **options), kind), tmp_path, False)


def test_errors_arrive(consumers: dict[str, Path], tmp_path: Path) -> None:
    """In both languages a mistake is a sentence and a chosen exit code, never a crash."""
    for language, program in consumers.items():
        command = [program, tmp_path / "missing.onnx", "float", tmp_path, "1", "0", "1", tmp_path / "output"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        words = "LIT_FILE_ERROR: " if language == "cpp" else ""
        assert done.stderr.startswith(f"{words}{tmp_path}/missing.onnx cannot be opened")
