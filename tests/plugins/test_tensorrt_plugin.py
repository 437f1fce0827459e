"""The TensorRT plugin library: how its headers are found, what it exports, and the harness that plays TensorRT.

No TensorRT is needed for any of it; its headers are, for what compiles (TensorRT_ROOT, or a library in build/native).
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support.native_build import GENERATOR, SEARCH, environment_without, needs_cmake, needs_compiler, run_tool

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"
NATIVE = ROOT / "build" / "native"
LIBRARY = "liblit_deploy_tensorrt.so"
HARNESS = "lit_deploy_tensorrt_harness"


def run(*command: str | Path, timeout: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command without the caller's header folders; stdout and stderr together."""
    kept = environment_without("TensorRT_ROOT", "TENSORRT_ROOT", "ONNXRUNTIME_ROOT", "CPATH", "CMAKE_PREFIX_PATH")
    return run_tool(*command, environment={**kept, **variables}, timeout=timeout)


# --- how the headers are found: the configure step alone -----------------------------------------------------------


def configure(build: Path, *options: str, **variables: str) -> tuple[int, str]:
    """Configure without CUDA, downloads or the system's folders: every machine behaves the same here."""
    done = run(
        *("cmake", *GENERATOR, "-S", PLUGINS, "-B", build),
        *("-DLIT_DEPLOY_CUDA=OFF", "-DLIT_DEPLOY_OPENVINO=OFF", "-DLIT_DEPLOY_TESTS=OFF"),
        *("-DLIT_DEPLOY_DOWNLOAD_HEADERS=OFF", "-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF", *options),
        **{"XDG_CACHE_HOME": str(build / "cache"), **variables},
    )
    return done.returncode, " ".join(done.stdout.split())


def write_headers(folder: Path, version: str, interface: str = "IPluginV3OneBuild") -> Path:
    """The two lines of TensorRT's headers that the finder reads, written as TensorRT 11 writes them."""
    folder.mkdir(parents=True)
    macros = [
        f"#define TRT_{part}_ENTERPRISE {number}\n#define NV_TENSORRT_{part} TRT_{part}_ENTERPRISE //!< TensorRT.\n"
        for part, number in zip(("MAJOR", "MINOR", "PATCH"), version.split("."), strict=True)
    ]
    (folder / "NvInferVersion.h").write_text("".join(macros))
    (folder / "NvInferRuntime.h").write_text(f"class {interface} : public IPluginCapability\n")
    return folder


@needs_cmake
@needs_compiler
def test_configure_without_headers_succeeds_and_says_so(tmp_path: Path) -> None:
    code, output = configure(tmp_path / "build")
    assert code == 0, output
    assert "CMake Warning" in output
    assert "The TensorRT plugin is NOT built: no TensorRT headers" in output
    for remedy in ("-DTensorRT_ROOT=", "libnvinfer-headers-dev", "-DLIT_DEPLOY_FETCH_TENSORRT_HEADERS=ON"):
        assert remedy in output


@needs_cmake
@needs_compiler
def test_wrong_and_old_roots_are_errors(tmp_path: Path) -> None:
    code, output = configure(tmp_path / "build", TensorRT_ROOT=str(tmp_path))
    assert code != 0
    assert f"TensorRT_ROOT={tmp_path} holds no NvInferRuntime.h" in output
    old = write_headers(tmp_path / "old" / "include", "8.6.1", interface="IPluginV2DynamicExt").parent
    code, output = configure(tmp_path / "build", f"-DTensorRT_ROOT={old}")
    assert code != 0
    assert f"TensorRT_ROOT={old} holds TensorRT 8.6.1; expected 10.0 or newer" in output


@needs_cmake
@needs_compiler
def test_headers_without_cuda_are_not_enough(tmp_path: Path) -> None:
    root = write_headers(tmp_path / "root" / "include", "11.1.0").parent
    code, output = configure(tmp_path / "build", TensorRT_ROOT=str(root))
    assert code == 0, output
    assert "found 11.1.0 in" in output
    assert "The TensorRT plugin is NOT built: it needs the CUDA kernel" in output


@needs_cmake
@needs_compiler
def test_headers_of_a_cmake_package_are_found(tmp_path: Path) -> None:
    headers = write_headers(tmp_path / "root" / "include", "11.2.1")
    package = tmp_path / "root" / "lib" / "cmake" / "TensorRT-Enterprise"
    package.mkdir(parents=True)
    (package / "TensorRT-EnterpriseConfig.cmake").write_text(
        "add_library(TensorRT::Headers INTERFACE IMPORTED)\n"
        f'target_include_directories(TensorRT::Headers INTERFACE "{headers}")\n'
    )
    code, output = configure(tmp_path / "build", f"-DTensorRT-Enterprise_DIR={package}")
    assert code == 0, output
    assert f"found 11.2.1 in {headers}" in output


@needs_cmake
@needs_compiler
@pytest.mark.skipif(shutil.which("git") is None, reason="no git: apt-get install git")
def test_fetching_takes_the_pinned_commit_or_nothing(tmp_path: Path) -> None:
    """A repository that holds other headers under the right name is not trusted."""
    repository = tmp_path / "impostor"
    write_headers(repository / "include", "10.9.0")
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    for arguments in (("init", "-q"), ("add", "."), ("commit", "-qm", "headers"), ("tag", "v10.9.0")):
        assert run("git", "-C", repository, *identity, *arguments).returncode == 0
    code, output = configure(
        tmp_path / "build",
        "-DLIT_DEPLOY_FETCH_TENSORRT_HEADERS=ON",
        f"-DLIT_DEPLOY_TENSORRT_REPOSITORY=file://{repository}",
    )
    assert code == 0, output
    assert "git could not fetch them" in output
    assert "The TensorRT plugin is NOT built" in output
    assert not list((tmp_path / "build" / "cache").rglob("NvInferRuntime.h"))


# --- the library ----------------------------------------------------------------------------------------------------


def is_current(folder: Path) -> bool:
    """Are library and harness of a build folder newer than the sources that each of them is made of?"""
    sources = {
        LIBRARY: [*PLUGINS.glob("kernels/**/cuda*"), *PLUGINS.glob("tensorrt/*.[ch]*")],
        HARNESS: [*PLUGINS.glob("tests/tensorrt_*"), *PLUGINS.glob("tests/golden_file.*")],
    }
    return all(
        (folder / name).is_file() and (folder / name).stat().st_mtime >= max(path.stat().st_mtime for path in paths)
        for name, paths in sources.items()
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of ``make native`` where it is up to date; else one compiled here, for one architecture."""
    if is_current(NATIVE):
        return NATIVE
    headers = os.environ.get("TensorRT_ROOT")  # noqa: SIM112 (CMake's own spelling)
    if headers is None:
        pytest.skip("no TensorRT headers: set TensorRT_ROOT, or configure build/native with -DTensorRT_ROOT=<folder>")
    for program in ("cmake", "c++", "nvcc"):
        if shutil.which(program, path=SEARCH) is None:
            pytest.skip(f"no {program}, which the TensorRT plugin is built with")
    build = tmp_path_factory.mktemp("tensorrt")
    configured = run(
        *("cmake", *GENERATOR, "-S", PLUGINS, "-B", build, f"-DTensorRT_ROOT={headers}", "-DLIT_DEPLOY_CUDA=ON"),
        *("-DCMAKE_CUDA_ARCHITECTURES=90", "-DLIT_DEPLOY_DOWNLOAD_HEADERS=OFF"),
        f"-DPython3_EXECUTABLE={sys.executable}",
    )
    assert configured.returncode == 0, configured.stdout
    compiled = run("cmake", "--build", build, "--parallel", "2", "--target", "lit_deploy_tensorrt", HARNESS)
    assert compiled.returncode == 0, compiled.stdout
    assert "warning" not in compiled.stdout, compiled.stdout
    return build


def device_code(library: Path) -> tuple[set[int], set[int]]:
    """The compute capabilities (times ten) of the machine code and of the PTX inside a library.

    Reads the containers that nvcc writes: a header (magic, version, header size, payload size), then entries (kind,
    header size, payload size, ..., capability at byte 28); kind 1 is PTX, 2 is machine code.
    """
    data = library.read_bytes()
    found: dict[int, set[int]] = {1: set(), 2: set()}
    for match in re.finditer(re.escape(struct.pack("<I", 0xBA55ED50)), data):
        _, _, header, size = struct.unpack_from("<IHHQ", data, match.start())
        position = match.start() + header
        end = position + size
        while position < end:
            kind, _, entry_header, payload = struct.unpack_from("<HHIQ", data, position)
            (capability,) = struct.unpack_from("<I", data, position + 28)
            found[kind].add(capability)
            position += entry_header + payload
    return found[2], found[1]


def description(library: Path) -> str:
    """What the library says it was built with."""
    function = ctypes.CDLL(str(library)).lit_deploy_plugin_build
    function.restype = ctypes.c_char_p
    return str(function().decode())


def test_holds_the_device_code_that_it_says(built: Path) -> None:
    said = description(built / LIBRARY)
    listed = re.fullmatch(r"TensorRT headers \d+\.\d+\.\d+, CUDA \d+\.\d+, architectures (\d.*)", said)
    assert listed, said
    entries = [re.fullmatch(r"(\d+)[af]?(-real|-virtual)?", entry) for entry in listed[1].split()]
    sass = {int(entry[1]) for entry in entries if entry and entry[2] != "-virtual"}
    ptx = {int(entry[1]) for entry in entries if entry and entry[2] != "-real"}
    assert ptx, f"no PTX, so nothing for a GPU that comes later: {said}"
    assert device_code(built / LIBRARY) == (sass, ptx)


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm: apt-get install binutils")
def test_symbols(built: Path) -> None:
    """Only what TensorRT and people call is exported; nothing of TensorRT or CUDA has to be found at load time."""
    defined = run("nm", "-D", "--defined-only", built / LIBRARY).stdout.splitlines()
    assert {line.split()[-1] for line in defined} == {
        *("getCreators", "setLoggerFinder"),
        *("lit_deploy_plugin_calls", "lit_deploy_plugin_version", "lit_deploy_plugin_build"),
    }
    undefined = run("nm", "-D", "--undefined-only", built / LIBRARY).stdout
    assert not re.search(r"nvinfer|getPluginRegistry|getLogger|[Ii]nferLib| cuda| cu[A-Z]|_ZN", undefined), undefined


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf: apt-get install binutils")
def test_needs_nothing_but_the_c_library(built: Path) -> None:
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", built / LIBRARY).stdout)
    assert needed
    allowed = r"(libc|libm|libdl|librt|libpthread|ld-linux-[\w-]+)\.so\.\d+"
    assert [name for name in needed if not re.fullmatch(allowed, name)] == []


def test_c_functions(built: Path) -> None:
    library = ctypes.CDLL(str(built / LIBRARY))
    library.lit_deploy_plugin_calls.restype = ctypes.c_int64
    library.lit_deploy_plugin_version.restype = ctypes.c_char_p
    assert library.lit_deploy_plugin_version() == b"1"
    assert library.lit_deploy_plugin_calls(b"enqueue") == 0
    assert library.lit_deploy_plugin_calls(b"no_such_method") == -1
    assert library.lit_deploy_plugin_calls(None) == -1


def test_harness(built: Path, tmp_path: Path) -> None:
    golden = tmp_path / "dcn.bin"
    written = run(sys.executable, PLUGINS / "tests" / "golden_data.py", ROOT / "tests" / "data" / "dcn.npz", golden)
    assert written.returncode == 0, written.stdout
    result = run(built / HARNESS, built / LIBRARY, golden)
    assert result.returncode == 0, result.stdout
    assert re.search(r"^tensorrt_plugin: [1-9]\d* passed, 0 failed$", result.stdout, re.MULTILINE), result.stdout
    ran = re.search(r"^enqueue: 11 golden cases in 3 types$", result.stdout, re.MULTILINE)
    skipped = re.search(r"^SKIPPED: enqueue \(no CUDA device: .+\)$", result.stdout, re.MULTILINE)
    assert (ran is None) != (skipped is None), result.stdout


def test_harness_notices_a_library_that_is_none(built: Path, tmp_path: Path) -> None:
    assert run(built / HARNESS, built / "no_such_library.so", tmp_path / "none").returncode == 2
