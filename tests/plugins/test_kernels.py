"""Build plugins/ with AddressSanitizer and UndefinedBehaviorSanitizer and run its C++ tests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.native_build import GENERATOR, environment_without, needs_cmake, needs_compiler, run_tool

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
ISAS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx2", "-mfma", "-mf16c"],
}
OPERATORS = sorted(path.parent.name for path in PLUGINS.glob("kernels/*/portable.cc"))

pytestmark = [needs_cmake, needs_compiler]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command without the caller's ONNX Runtime headers; stdout and stderr together."""
    return run_tool(*command, environment=environment_without("ONNXRUNTIME_ROOT", "CPATH"))


def configure(build: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Configure with the tests, and with this interpreter for the golden data."""
    return run("cmake", *GENERATOR, "-S", PLUGINS, "-B", build, f"-DPython3_EXECUTABLE={sys.executable}", *options)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sanitizer build of the kernels and their tests without ONNX Runtime headers; folder and configure's output."""
    build = tmp_path_factory.mktemp("plugins")
    # Neither downloads nor the system's include folders: a machine that has the headers must behave the same here.
    hidden = ("-DLIT_DEPLOY_DOWNLOAD_HEADERS=OFF", "-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF")
    configured = configure(build, "-DLIT_DEPLOY_SANITIZE=ON", *hidden)
    assert configured.returncode == 0, configured.stdout
    built = run("cmake", "--build", build, "--parallel", "2")
    assert built.returncode == 0, built.stdout
    assert "warning:" not in built.stdout, built.stdout
    return build, configured.stdout


def test_configure_without_headers_succeeds_and_says_so(sanitized: tuple[Path, str]) -> None:
    build, output = sanitized
    assert "CMake Warning" in output
    assert re.search(r"custom-op library is NOT built", output)
    for remedy in ("-DONNXRUNTIME_ROOT=", "libonnxruntime-dev", "-DLIT_DEPLOY_DOWNLOAD_HEADERS=ON"):
        assert remedy in output
    assert not list(build.glob("liblit_deploy_onnxruntime*"))
    # Without the sanitizers, the same build folder goes back to the CUDA kernel.
    assert "LIT_DEPLOY_CUDA:STRING=AUTO" in (build / "CMakeCache.txt").read_text()


def test_without_nvcc_the_cuda_kernel_is_left_out_loudly_unless_it_was_asked_for(tmp_path: Path) -> None:
    options = ("-DCMAKE_CUDA_COMPILER=NOTFOUND", "-DLIT_DEPLOY_DOWNLOAD_HEADERS=OFF")
    configured = configure(tmp_path / "auto", *options)
    assert configured.returncode == 0, configured.stdout
    said = " ".join(configured.stdout.split())
    assert said.count("The CUDA kernel is NOT built: no working nvcc was found.") == 1, configured.stdout
    configured = configure(tmp_path / "on", *options, "-DLIT_DEPLOY_CUDA=ON")
    assert configured.returncode != 0
    assert "LIT_DEPLOY_CUDA=ON, but no working nvcc was found. Install" in " ".join(configured.stdout.split())


def test_wrong_root_is_an_error_and_not_papered_over(tmp_path: Path) -> None:
    configured = configure(tmp_path / "build", f"-DONNXRUNTIME_ROOT={tmp_path}")
    assert configured.returncode != 0
    assert f"ONNXRUNTIME_ROOT={tmp_path} holds no" in " ".join(configured.stdout.split())


def test_ctest(sanitized: tuple[Path, str]) -> None:
    result = run("ctest", "--test-dir", sanitized[0], "--output-on-failure", "--no-tests=error")
    assert result.returncode == 0, result.stdout
    names = re.findall(r"Test\s+#\d+: (\S+) \.+\s+Passed", result.stdout)
    wanted = {"merging", "attention", "nms", "roi_align", "cuda_emulation", "golden_data", "golden"}
    assert wanted <= set(names), result.stdout


def test_every_instruction_set_of_this_machine_ran(sanitized: tuple[Path, str]) -> None:
    result = run(sanitized[0] / "lit_deploy_kernel_tests", "merging")
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    expected = ["portable"]
    expected += ["avx2"] if re.search(r"\bavx2\b", flags) else []
    expected += ["avx512"] if re.search(r"\bavx512f\b", flags) else []
    for isa in expected:
        assert re.search(rf"^{isa}: [1-9]\d* checks passed$", result.stdout, re.MULTILINE), result.stdout
    assert re.search(r"^merging: [1-9]\d* passed, 0 failed$", result.stdout, re.MULTILINE), result.stdout


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm: apt-get install binutils")
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_no_code_for_one_instruction_set_can_replace_another(operator: str, isa: str, tmp_path: Path) -> None:
    """Each compilation defines its own entry points and no weak function that the linker could share."""
    source = PLUGINS / "kernels" / operator / f"{isa}.cc"
    options = ("-std=c++17", "-O1", "-w", "-fno-exceptions", "-I", PLUGINS / "kernels", *ISAS[isa])
    compiled = run("c++", *options, "-c", source, "-o", tmp_path / "isa.o")
    if compiled.returncode != 0 and re.search(r"(unrecognized|unsupported|unknown).*option", compiled.stdout):
        pytest.skip(f"this compiler does not target {isa}")
    assert compiled.returncode == 0, compiled.stdout
    symbols = run("nm", "-C", "--defined-only", tmp_path / "isa.o").stdout
    shared = [line for line in symbols.splitlines() if re.search(r" [TWVBDu] ", line)]
    assert shared, symbols
    assert all(f" T lit_deploy::{isa}::" in line for line in shared), symbols
