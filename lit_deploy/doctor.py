"""What is installed, found and missing on this machine, and the command that mends it. Imports no torch."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lit_deploy import __version__, native, trt
from lit_deploy.downloads import cache_dir
from lit_deploy.errors import first_line

Status = Literal["ok", "missing", "optional"]

PACKAGES = (
    # (distribution, least version, required)
    ("msgspec", "0.19", True),
    ("numpy", "1.26", True),
    ("onnx", "1.18", True),
    ("onnxscript", "0.5", True),
    ("pillow", "10.4", True),
    ("rich", "13.7", True),
    ("safetensors", "0.4", True),
    ("torch", "2.9", True),
    ("typer", "0.15", True),
    ("matplotlib", "3.8", False),
    ("openvino", "2025.0", False),
    ("cuda-bindings", "12.8", False),
)
"""The least versions of pyproject.toml; a test holds them together."""

ONNXRUNTIME_MINIMUM = "1.25"
EXTRAS = {"matplotlib": "plot", "cuda-bindings": "trt"}
PURPOSE = {
    "matplotlib": "draws --plot",
    "openvino": "a peer in benchmarks",
    "cuda-bindings": "runs engines",
}
TENSORRT_HEADER = "NvInferRuntime.h"
TENSORRT_FOLDERS = (
    "/usr/include/x86_64-linux-gnu",
    "/usr/include/aarch64-linux-gnu",
    "/usr/include",
    "/usr/local/include",
)
HEADER = "onnxruntime_c_api.h"
HEADER_SUFFIXES = ("", "include", "include/onnxruntime", "onnxruntime", "include/onnxruntime/core/session")
ISA_VARIABLE = "LIT_DEPLOY_CPU_ISA"


@dataclass(frozen=True)
class Check:
    """One thing that was looked for.

    Attributes:
        name: what it is.
        status: ``ok``, ``missing`` (required to export or run) or ``optional`` (absent, and one can do without).
        found: what is there, or what its absence means.
        searched: every path that was looked at, where paths were looked at.
        remedy: the command that mends it; empty when there is nothing to mend.
    """

    name: str
    status: Status
    found: str
    searched: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All checks, in the order they are shown."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether everything required to export and run is there."""
        return all(check.status != "missing" for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0 when everything required is there, else 2."""
        return 0 if self.ok else 2


def diagnose() -> Diagnosis:
    """Look at Python, the packages, the custom-op library and what builds it, the CPU and the GPU.

    Never raises for something absent, and takes well under a few seconds: versions are read from package metadata.
    """
    required = [_package(name, least, needed) for name, least, needed in PACKAGES if needed]
    optional = [_package(name, least, needed) for name, least, needed in PACKAGES if not needed]
    return Diagnosis(
        (
            _python(),
            Check("lit-deploy", "ok", __version__),
            *required,
            _onnxruntime(),
            _library(),
            _cpu(),
            _compiler(),
            _tool("CMake", "cmake", "builds the custom-op library", "pip install cmake"),
            _headers(),
            _gpu(),
            _tool("nvcc", "nvcc", "only for building CUDA kernels", "install the CUDA toolkit"),
            *optional,
            *(_backend(name) for name in trt.BACKENDS),
            _plugin(),
            _tensorrt_headers(),
            *_runtime(),
        )
    )


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution from its metadata, without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The CPU's marketing name on Linux, otherwise what Python knows."""
    return native.cpuinfo("model name") or platform.processor() or platform.machine()


def cpp_compiler() -> str | None:
    """Path of the C++ compiler that CMake and torch.compile would use."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((path for path in (shutil.which(name) for name in names if name) if path), None)


def gpu_names() -> tuple[str, ...]:
    """NVIDIA GPUs as ``name, memory, driver``; empty where there is none or no driver."""
    lines = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return tuple(line.strip() for line in lines.splitlines() if line.strip())


def kernel_isa(flags: frozenset[str], requested: str | None = None) -> str:
    """Instruction set that the CPU kernel will choose: ``portable``, ``avx2`` or ``avx512``.

    Args:
        flags: CPU flags as Linux names them.
        requested: value of ``LIT_DEPLOY_CPU_ISA``; ignored, as the kernel does, when this CPU lacks it.
    """
    supported = ["portable"]
    if {"avx2", "fma", "f16c"} <= flags:
        supported.append("avx2")
        if "avx512f" in flags:
            supported.append("avx512")
    return requested if requested in supported else supported[-1]


def _python() -> Check:
    # An older Python cannot import this module: nothing to check.
    return Check("Python", "ok", f"{platform.python_version()} ({sys.executable})")


def _package(distribution: str, least: str, required: bool) -> Check:
    extra = EXTRAS.get(distribution)
    install = f"pip install 'lit-deploy[{extra}]'" if extra else f"pip install '{distribution}>={least}'"
    absent: Status = "missing" if required else "optional"
    version = installed_version(distribution)
    if version is None:
        purpose = f" ({PURPOSE[distribution]})" if distribution in PURPOSE else ""
        return Check(distribution, absent, f"not installed{purpose}", remedy=install)
    if trt.numbers(version) < trt.numbers(least):
        return Check(distribution, absent, f"{version}, older than {least}", remedy=install)
    return Check(distribution, "ok", version)


def _onnxruntime() -> Check:
    install = "pip install 'lit-deploy[ort]'"
    distributions = [name for name in ("onnxruntime", "onnxruntime-gpu") if installed_version(name)]
    ort, problem = _import_onnxruntime()
    if ort is None:
        return Check("onnxruntime", "missing", problem, remedy=install)
    version, providers = ort.__version__, ", ".join(ort.get_available_providers())
    if trt.numbers(version) < trt.numbers(ONNXRUNTIME_MINIMUM):
        return Check("onnxruntime", "missing", f"{version}, older than {ONNXRUNTIME_MINIMUM}", remedy=install)
    if len(distributions) > 1:
        return Check(
            "onnxruntime", "ok", f"{version} ({providers}); {' and '.join(distributions)} overwrite each other's files",
            remedy="pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'lit-deploy[ort-gpu]'",
        )  # fmt: skip
    return Check("onnxruntime", "ok", f"{version} ({providers})")


def _import_onnxruntime() -> tuple[Any, str]:
    """The module, or None and why not."""
    try:
        import onnxruntime
    except ImportError as error:
        broken = installed_version("onnxruntime") or installed_version("onnxruntime-gpu")
        return None, f"{broken} is installed but does not import ({error})" if broken else "not installed"
    return onnxruntime, ""


def _library() -> Check:
    name, searched = "custom-op library", tuple(map(str, native.searched_paths()))
    library = native.find_library()
    if library is None:
        return _absent(
            name,
            native.ENVIRONMENT_VARIABLE,
            "exported files run their slower built-in function",
            searched,
            native.BUILD_COMMAND,
        )
    ort, _ = _import_onnxruntime()
    if ort is None:
        return Check(name, "ok", f"{library} (not tried: no ONNX Runtime)", searched)
    try:
        ort.SessionOptions().register_custom_ops_library(str(library))
    except Exception as error:  # ONNX Runtime raises its own bare exception types
        # Required to work once it is there: sessions refuse to start with a library that does not load.
        found = f"{library} does not load in ONNX Runtime {ort.__version__} ({first_line(error)})"
        return Check(name, "missing", found, searched, native.BUILD_COMMAND)
    return Check(name, "ok", f"{library} (loads in ONNX Runtime {ort.__version__})", searched)


def _absent(name: str, variable: str, without: str, searched: tuple[str, ...], remedy: str) -> Check:
    """A compiled library that is not there; one that the environment names must be."""
    if os.environ.get(variable):
        found = f"{variable} names a file that is not there; sessions refuse until it is unset"
        return Check(name, "missing", found, searched, f"unset {variable}, or build it: {remedy}")
    return Check(name, "optional", f"not found; {without}", searched, remedy)


def _backend(name: trt.BackendName) -> Check:
    backend, version = trt.BACKENDS[name], trt.installed_version(name)
    if version is None:
        return Check(backend.title, "optional", "not installed (builds and runs engines)", remedy=backend.install)
    if trt.numbers(version) < trt.numbers(backend.least):
        return Check(backend.title, "optional", f"{version}, older than {backend.least}", remedy=backend.install)
    return Check(backend.title, "ok", version)


def _plugin() -> Check:
    searched = tuple(map(str, native.searched_plugin_paths()))
    plugin = native.find_plugin()
    if plugin is None:
        return _absent(
            "TensorRT plugin",
            native.PLUGIN_VARIABLE,
            "engines are built from the function in the file",
            searched,
            native.PLUGIN_BUILD_COMMAND,
        )
    try:
        library = ctypes.CDLL(str(plugin))
        library.lit_deploy_plugin_build.restype = ctypes.c_char_p
        built = library.lit_deploy_plugin_build().decode()
    except (OSError, AttributeError) as error:
        found = f"{plugin} is not lit-deploy's plugin library, or does not load ({first_line(error)})"
        return Check("TensorRT plugin", "missing", found, searched, native.PLUGIN_BUILD_COMMAND)
    return Check("TensorRT plugin", "ok", f"{plugin} ({built})", searched)


def _tensorrt_headers() -> Check:
    root = os.environ.get("TensorRT_ROOT")  # noqa: SIM112  (CMake's own spelling)
    folders = (f"{root}/include", root) if root else TENSORRT_FOLDERS
    for folder in folders:
        if Path(folder, TENSORRT_HEADER).is_file():
            return Check("TensorRT headers", "ok", folder, folders)
    return Check(
        "TensorRT headers", "optional", "none here; without them the plugin is not built", folders,
        "export TensorRT_ROOT=/path/to/an/unpacked/TensorRT, and build again",
    )  # fmt: skip


def _runtime() -> tuple[Check, ...]:
    """Of a source checkout; elsewhere CMake installs it wherever the service wants it, and nobody here knows."""
    library = native.runtime_path()
    searched = (str(library),)
    if not (library.parents[2] / "plugins").is_dir():
        return ()
    if not library.is_file():
        found = "not built; only C and C++ services need it"
        return (Check("C runtime", "optional", found, searched, native.RUNTIME_BUILD_COMMAND),)
    try:
        version = ctypes.CDLL(str(library)).lit_version
    except (OSError, AttributeError) as error:
        found = f"{library} does not load ({first_line(error)})"
        return (Check("C runtime", "optional", found, searched, native.RUNTIME_BUILD_COMMAND),)
    version.restype = ctypes.c_char_p
    wheel = native.find_onnxruntime_library()
    hint = f"; here {native.ONNXRUNTIME_VARIABLE}={wheel}" if wheel else ""
    return (Check("C runtime", "ok", f"{library} ({version().decode()}{hint})", searched),)


def _cpu() -> Check:
    flags = native.cpu_flags()
    # the last two are for int8
    features = ", ".join(name for name in ("avx2", "f16c", "avx512f", "avx512_vnni", "avx_vnni") if name in flags)
    requested = os.environ.get(ISA_VARIABLE)
    kernel = kernel_isa(flags, requested)
    note = f"; {ISA_VARIABLE}={requested} is not one of this CPU's" if requested and requested != kernel else ""
    return Check(
        "CPU", "ok", f"{cpu_name()}, {os.cpu_count()} threads; {features or 'no AVX2'}; runs the {kernel} kernel{note}"
    )


def _compiler() -> Check:
    compiler = cpp_compiler()
    if compiler is None:
        return Check(
            "C++ compiler", "optional", "not found (builds the custom-op library; torch.compile needs it too)",
            remedy="apt install g++",
        )  # fmt: skip
    return Check("C++ compiler", "ok", f"{compiler} ({_first_line(compiler, '--version')})")


def _tool(name: str, command: str, purpose: str, remedy: str) -> Check:
    path = shutil.which(command)
    if path is None:
        return Check(name, "optional", f"not found ({purpose})", remedy=remedy)
    version = re.search(r"(?:version|release) ([\d.]+)", _output(path, "--version"))
    return Check(name, "ok", f"{path} ({version.group(1) if version else 'version unknown'})")


def header_folders() -> tuple[Path, ...]:
    """Folders below which the build looks for ONNX Runtime's headers, in its order."""
    root = os.environ.get("ONNXRUNTIME_ROOT")
    if root:
        return (Path(root),)
    cache = cache_dir()
    downloaded = sorted(cache.glob("onnxruntime-*")) or [cache / "onnxruntime-linux-x64-*"]
    return (Path("/usr"), Path("/usr/local"), *downloaded, cache / "debian-trixie-libonnxruntime-dev" / "usr")


def _headers() -> Check:
    name, folders = "ONNX Runtime headers", header_folders()
    candidates = (folder / suffix / HEADER for folder in folders for suffix in HEADER_SUFFIXES)
    header = next((path for path in candidates if path.is_file()), None)
    searched = tuple(map(str, folders))
    if header is not None:
        api = re.search(r"^#define ORT_API_VERSION (\d+)", header.read_text(errors="replace"), re.MULTILINE)
        return Check(name, "ok", f"{header.parent} (API {api.group(1) if api else 'unknown'})", searched)
    if os.environ.get("ONNXRUNTIME_ROOT"):
        return Check(
            name, "optional", f"ONNXRUNTIME_ROOT={folders[0]} holds no {HEADER}: the build stops there", searched,
            "export ONNXRUNTIME_ROOT=/path/to/an/unpacked/onnxruntime/release, or unset ONNXRUNTIME_ROOT",
        )  # fmt: skip
    return Check(
        name, "optional", "none here; building the custom-op library downloads them", searched,
        "offline: apt install libonnxruntime-dev (Debian 13), or unpack a release archive from "
        "github.com/microsoft/onnxruntime and export ONNXRUNTIME_ROOT=FOLDER",
    )  # fmt: skip


def _gpu() -> Check:
    gpus = gpu_names()
    if gpus:
        return Check("GPU", "ok", "; ".join(gpus))
    return Check("GPU", "optional", "no NVIDIA GPU or driver; everything but engines runs on the CPU")


def _output(*command: str) -> str:
    """Standard output of a short command; empty when it is absent, fails or hangs."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout if result.returncode == 0 else ""


def _first_line(*command: str) -> str:
    return (_output(*command).strip().splitlines() or ["version unknown"])[0]
