"""The C API on OpenVINO: what it computes, where its libraries are looked for, what it refuses and in which words."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.exported import export_of
from support.quantized import quantized
from support.runtime_library import BACKENDS, LIBRARY, ROOT, Options, needs_runtime
from support.runtime_models import (
    CLASSES,
    SIDE,
    Arrays,
    Model,
    in_new_process,
    micro,
    opened,
    options,
)
from support.runtime_openvino import (
    EXTENSION,
    OPENVINO,
    extension,
    find_openvino,
    find_openvino_library,
    needs_extension,
    needs_openvino,
    opened_on_openvino,
    openvino,
    portable_micro,
)
from support.runtime_refusals import assert_refused, opens

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.images.preprocessing import normalize
from lit_deploy.machine.native import find_onnxruntime_library

__all__ = ["extension", "openvino", "quantized"]  # fixtures
pytestmark = [needs_runtime, needs_openvino, pytest.mark.usefixtures("openvino")]

Array = NDArray[Any]
CheckpointFile = Callable[[str], Path]
FLOATS = np.random.default_rng(3).standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
SCORES = FLOATS.reshape(2, -1)[:, :CLASSES]


def images_of(path: Path, batch: int, seed: int = 0) -> Array:
    spec, noise = read_manifest(path).input, np.random.default_rng(seed)
    if spec.kind == "uint8":
        return noise.integers(0, 256, (batch, spec.height, spec.width, 3), dtype=np.uint8)
    return noise.standard_normal((batch, 3, spec.height, spec.width)).astype(np.float32)


def assert_close(found: Arrays, expected: Arrays, limit: float = 1e-6) -> None:
    """Within ``limit`` of the scale; indices are equal."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape
        atol = 0 if value.dtype == np.int64 else limit * np.abs(value).max()
        np.testing.assert_allclose(found[name], value, rtol=0, atol=atol)


# -------------------------------------------------------------------------------------------------- what it computes


def assert_equals_python(path: Path, images: Array, threads: int = 0, **fields: Any) -> str:
    """The same numbers as Python's session on OpenVINO; what runs it."""
    with open_session(path, SessionOptions(backend="openvino", threads=threads or None)) as session:
        expected, description = session.run({"images": images}), session.description
    with opened_on_openvino(path, threads=threads, **fields) as model, model.context() as context:
        assert_close(context.run(images), expected)
        assert model.info.backend.decode() == description
    return description


FILES: dict[str, dict[str, Any]] = {
    "float": {},
    "five best of pixels": {"input": "uint8", "output": "top5"},
    "fixed batch": {"batch": 2},
    "fp16": {"precision": "fp16"},
    "bf16": {"precision": "bf16"},
}


@pytest.mark.parametrize("name", FILES)
def test_portable_files_equal_python(name: str, checkpoint_file: CheckpointFile) -> None:
    path = export_of(checkpoint_file("tiny"), portable=True, **FILES[name])
    description = assert_equals_python(path, images_of(path, 2), threads=1)
    assert re.fullmatch(r"OpenVINO [\d.]+ cpu \((f32|bf16), inlined\)", description)


@needs_extension
@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("name", ["float", "five best of pixels", "bf16"])
def test_ordinary_files_equal_python(name: str, checkpoint_file: CheckpointFile) -> None:
    path = export_of(checkpoint_file("tiny"), **FILES[name])
    description = assert_equals_python(path, images_of(path, 2))
    assert re.fullmatch(r"OpenVINO [\d.]+ cpu \((f32|bf16), lit-deploy kernels\)", description)


@pytest.mark.parametrize("threads", [1, 8])
def test_eight_bits_equal_python(threads: int, quantized: Callable[..., Path]) -> None:
    path = quantized("tiny", "int8", "fp32", portable=True)
    assert_equals_python(path, images_of(path, 3), threads)


@needs_extension
@pytest.mark.usefixtures("extension")
def test_eight_bits_with_our_kernels(quantized: Callable[..., Path]) -> None:
    path = quantized("tiny", "int8", "fp32")
    assert_equals_python(path, images_of(path, 3))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's trained network."""
    folder = tmp_path_factory.mktemp("digits")
    return export_of(Path(shutil.copy(ROOT / "examples" / "01_digits" / "digits.pth", folder)), portable=True)


@pytest.mark.parametrize("threads", [1, 8])
def test_the_digits_equal_onnxruntime(threads: int, digits: Path) -> None:
    """Trained weights, pixels into a file that takes floats."""
    path = digits
    spec = read_manifest(path).input
    pixels = np.random.default_rng(7).integers(0, 256, (3, spec.height, spec.width, 3), dtype=np.uint8)
    with open_session(path) as session:
        expected = session.run({"images": normalize(pixels, spec)})
    with opened_on_openvino(path, threads=threads) as model, model.context() as context:
        assert_close(context.run(pixels), expected, limit=1e-5)  # another library's products


def test_an_official_network_equals_python(checkpoint_file: CheckpointFile) -> None:
    path = export_of(checkpoint_file("lit_ti"), portable=True)
    assert_equals_python(path, images_of(path, 1))


def test_batches_come_and_go(checkpoint_file: CheckpointFile) -> None:
    """More sizes than stay compiled, in any order; each image's scores hang on itself alone."""
    path = export_of(checkpoint_file("tiny"), portable=True)
    images = images_of(path, 7)
    with opened_on_openvino(path) as model, model.context() as context, model.context() as other:
        assert (model.info.min_batch, model.info.max_batch) == (1, 1024)
        expected = context.run(images)["logits"]
        for batch in (1, 5, 2, 7, 3, 1, 2, 2, 5):
            for each in (context, other):
                assert_close(each.run(images[:batch]), {"logits": expected[:batch]}, limit=1e-5)


def test_threads_with_batches_of_their_own(checkpoint_file: CheckpointFile) -> None:
    """Eight contexts on one model, whose list of compiled networks holds three of their five sizes."""
    path = export_of(checkpoint_file("tiny"), portable=True, input="uint8", output="top5")
    images = images_of(path, 5)
    with opened_on_openvino(path, threads=1) as model:
        with model.context() as context:
            expected = context.run(images)

        def run(number: int) -> None:
            with model.context() as context:
                for turn in range(4):
                    batch = 1 + (number + turn // 2) % 5
                    assert_close(context.run(images[:batch]), {k: v[:batch] for k, v in expected.items()}, limit=1e-5)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(run, range(8)))


# ------------------------------------------------------------------------------------------------- lives and options


def test_a_context_outlives_its_model_and_a_file_may_go(tmp_path: Path) -> None:
    path = portable_micro(tmp_path / "micro.onnx")
    model = Model(path, options(backend=OPENVINO))
    path.unlink()
    with model.context() as context:
        model.close()
        for batch in (2, 1):  # one of them is compiled only now
            np.testing.assert_array_equal(context.run(FLOATS[:batch])["logits"], SCORES[:batch])


def test_outputs_are_valid_until_the_next_run_of_their_context(tmp_path: Path) -> None:
    path = portable_micro(tmp_path / "micro.onnx")
    with opened_on_openvino(path) as model, model.context() as context, model.context() as other:
        output = context.raw(context.tensor(FLOATS))
        for batch in (2, 1):
            other.run(FLOATS[:batch] + 1)
        np.testing.assert_array_equal(np.ctypeslib.as_array(output.scores, (2, CLASSES)), SCORES)


CYCLES = """
import re, sys
from pathlib import Path
import numpy as np
from support.runtime_openvino import opened_on_openvino
def memory():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
images = np.zeros((2, 3, 4, 4), np.float32)
for cycle in range(81):
    with opened_on_openvino(sys.argv[1], threads=1) as model, model.context() as context:
        context.run(images)
        context.run(images[:1])
    if cycle == 20: early = memory()
print(memory() - early)
"""


def test_cycles_leave_nothing_behind(tmp_path: Path) -> None:
    said = in_new_process(CYCLES, portable_micro(tmp_path / "micro.onnx"))
    assert int(said) < 60 * 64, "KiB after 60 lives, each of which compiles two networks"


def test_programs_of_older_headers(tmp_path: Path) -> None:
    """``backend`` did not exist: what lies there is none of ours, and the file runs where it always did."""
    settings = options(backend=OPENVINO, backend_library="/nowhere/library.so")
    settings.struct_size = Options.backend.offset
    assert_refused(
        "LIT_LIBRARY_NOT_FOUND", "ONNX Runtime", lambda: Model(portable_micro(tmp_path / "micro.onnx"), settings)
    )


@pytest.mark.parametrize("backend", [-1, len(BACKENDS), 2**31 - 1])
def test_no_such_back_end(backend: int, tmp_path: Path) -> None:
    path = portable_micro(tmp_path / "micro.onnx")
    assert_refused("LIT_INVALID_ARGUMENT", "none of LIT_BACKEND_AUTO", opens(path, backend=backend))


@pytest.mark.parametrize(
    ("name", "backend", "words"),
    [
        ("lit.engine", "openvino", "lit.engine is an engine, which OpenVINO does not run here; open it with TensorRT"),
        ("lit.plan", "onnxruntime", "which ONNX Runtime does not run"),
        ("lit.xml", "tensorrt", "lit.xml is an OpenVINO IR, which TensorRT does not run"),
        ("lit.xml", "onnxruntime", "which ONNX Runtime does not run here; open it with OpenVINO"),
        ("lit.onnx", "tensorrt", "is an ONNX file, .* open it with ONNX Runtime or OpenVINO"),
    ],
)
def test_a_back_end_that_does_not_run_the_file(name: str, backend: str, words: str) -> None:
    assert_refused("LIT_NOT_SUPPORTED", words, opens(f"/nowhere/{name}", backend=BACKENDS.index(backend)))


def test_onnxruntime_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_onnxruntime_library() is None:
        pytest.skip("no libonnxruntime.so in a wheel: pip install onnxruntime")
    monkeypatch.setenv("LIT_DEPLOY_ONNXRUNTIME", str(find_onnxruntime_library()))
    with opened(micro(tmp_path / "micro.onnx"), backend=1) as model, model.context() as context:
        np.testing.assert_array_equal(context.run(FLOATS)["logits"], SCORES)


# --------------------------------------------------------------------------------------------------------- libraries


def test_the_declarations_are_those_of_openvino() -> None:
    compiler, folder = shutil.which("c++"), find_openvino()
    if compiler is None or folder is None or not (folder / "include" / "openvino" / "c" / "openvino.h").is_file():
        pytest.skip("no C++ compiler, or a wheel of OpenVINO without headers")
    runtime = ROOT / "plugins" / "runtime"
    folders = [f"-I{path}" for path in (runtime, runtime / "include", folder / "include")]
    source = ROOT / "plugins" / "tests" / "runtime_openvino_abi.cc"
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", *folders, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_openvino_is_found_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = portable_micro(tmp_path / "micro.onnx")
    monkeypatch.setenv("LIT_DEPLOY_OPENVINO", "/nowhere/libopenvino_c.so")
    refused = "OpenVINO could not be loaded .searched /nowhere/libopenvino_c.so: .*LIT_DEPLOY_OPENVINO"
    assert_refused("LIT_LIBRARY_NOT_FOUND", refused, opens(path, backend=OPENVINO))
    with opened_on_openvino(path, backend_library=find_openvino_library()) as model:
        assert model.info.backend.startswith(b"OpenVINO ")
    other = opens(path, backend=OPENVINO, backend_library="/nowhere/else.so")
    assert_refused("LIT_LIBRARY_NOT_FOUND", "/nowhere/else.so", other)


NOTHING_FOUND = """
import sys
from support.runtime_library import Failure
from support.runtime_openvino import opened_on_openvino
try:
    with opened_on_openvino(sys.argv[1]): print("opened")
except Failure as failure:
    print(failure.status, failure)
"""


def test_no_openvino_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the library itself, then by the linker; a fresh process, because a loaded one would be found again."""
    monkeypatch.delenv("LIT_DEPLOY_OPENVINO")
    library, path = tmp_path / LIBRARY.name, portable_micro(tmp_path / "micro.onnx")
    shutil.copy(LIBRARY, library)
    said = in_new_process(NOTHING_FOUND, path, LIT_DEPLOY_RUNTIME=str(library))
    if said == "opened\n":
        pytest.skip("this system has an OpenVINO on the linker's path")
    assert said.startswith("LIT_LIBRARY_NOT_FOUND OpenVINO could not be loaded (searched ")
    for searched in (tmp_path / "libopenvino_c.so", " libopenvino_c.so:"):
        assert str(searched) in said


def test_other_libraries(tmp_path: Path) -> None:
    compiler, path = shutil.which("cc"), portable_micro(tmp_path / "micro.onnx")
    if compiler is None:
        pytest.skip("no C compiler: apt-get install gcc")
    other = tmp_path / "libother.so"
    (tmp_path / "other.c").write_text("int nothing;")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", other, tmp_path / "other.c"], check=True)
    words = f"{other} is too old, or no OpenVINO at all .it has no ov_"
    assert_refused("LIT_WRONG_VERSION", words, opens(path, backend=OPENVINO, backend_library=other))
    ordinary = micro(tmp_path / "ordinary.onnx")
    words = f"cannot load {other}, which has to be built against this OpenVINO"
    assert_refused("LIT_WRONG_VERSION", words, opens(ordinary, backend=OPENVINO, operator_library=other))


def test_ordinary_files_without_the_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO never sees them: its reader ends the process on some."""
    library, path = tmp_path / LIBRARY.name, micro(tmp_path / "ordinary.onnx")
    shutil.copy(LIBRARY, library)
    said = in_new_process(
        NOTHING_FOUND, path, LIT_DEPLOY_RUNTIME=str(library), LIT_DEPLOY_OPENVINO=str(find_openvino_library())
    )
    assert said.startswith(
        f"LIT_LIBRARY_NOT_FOUND {path} calls operators of lit-deploy, which OpenVINO knows by an ext"
    )
    assert f"(searched {tmp_path}/liblit_deploy_openvino.so); name" in said
    assert "export the file with --portable\n" in said
    words = "by an extension alone .it was left out.; name .* or export the file with --portable"
    assert_refused("LIT_LIBRARY_NOT_FOUND", words, opens(path, backend=OPENVINO, operator_library=""))
    monkeypatch.setenv("LIT_DEPLOY_OPENVINO_EXTENSION", "/nowhere/extension.so")
    assert_refused("LIT_LIBRARY_NOT_FOUND", "/nowhere/extension.so", opens(path, backend=OPENVINO))
    opens(portable_micro(tmp_path / "portable.onnx"), backend=OPENVINO)()  # nobody looks


@needs_extension
def test_the_extension_is_found_where_it_is_named(
    checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, library = export_of(checkpoint_file("tiny")), tmp_path / LIBRARY.name
    with opened_on_openvino(path, operator_library=EXTENSION) as model:
        assert model.info.backend.endswith(b"lit-deploy kernels)")
    monkeypatch.setenv("LIT_DEPLOY_OPENVINO_EXTENSION", "/nowhere/extension.so")
    with opened_on_openvino(path, operator_library=EXTENSION) as model:  # what is named comes first
        assert model.info.backend.endswith(b"lit-deploy kernels)")
    monkeypatch.delenv("LIT_DEPLOY_OPENVINO_EXTENSION")
    shutil.copy(LIBRARY, library)
    (tmp_path / "liblit_deploy_openvino.so").symlink_to(str(EXTENSION))
    found = {"LIT_DEPLOY_RUNTIME": str(library), "LIT_DEPLOY_OPENVINO": str(find_openvino_library())}
    assert in_new_process(NOTHING_FOUND, path, **found) == "opened\n"
