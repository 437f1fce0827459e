"""What is installed, found and missing on this machine, and the command that mends it. Imports no torch."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from lit_deploy import __version__
from lit_deploy.backends.table import BACKENDS
from lit_deploy.core.files import cache_dir
from lit_deploy.machine import tensorrt as trt
from lit_deploy.machine.facts import (
    computes_bf16,
    cpp_compiler,
    cpu_flags,
    cpu_name,
    gpu_names,
    installed_version,
    kernel_isa,
    output_of,
)
from lit_deploy.machine.packages import PACKAGES, Package
from lit_deploy.workflows.doctor_libraries import (
    BACKENDS_OF_ONNX,
    Check,
    Status,
    c_runtime,
    custom_op_library,
    import_onnxruntime,
    openvino_extension,
    tensorrt_plugin,
)

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
CPU_FEATURES = (
    "avx2", "f16c", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "avx512_bf16", "amx_bf16"
)  # fmt: skip
"""What decides over speed: vectors of float32, products of int8, products of bfloat16."""


@dataclass(frozen=True)
class Diagnosis:
    """All checks, in the order they are shown."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether everything required to run files is there."""
        return all(check.status != "missing" for check in self.checks)

    @property
    def exports(self) -> bool:
        """Whether checkpoints can be exported and verified, too."""
        needed = {package.name for package in PACKAGES.values() if package.extra == "export"}
        return self.ok and all(check.status == "ok" for check in self.checks if check.name in needed)

    @property
    def exit_code(self) -> int:
        """0 when everything required is there, else 2."""
        return 0 if self.ok else 2


def diagnose() -> Diagnosis:
    """Look at Python, the packages, the custom-op library and what builds it, the CPU and the GPU.

    Never raises for something absent, and takes well under a few seconds: versions are read from package metadata.
    """
    packages = [package for package in PACKAGES.values() if package.name not in BACKENDS_OF_ONNX]
    required = [_package(package) for package in packages if package.extra is None]
    optional = [_package(package) for package in packages if package.extra is not None]
    return Diagnosis(
        (
            _python(),
            Check("lit-deploy", "ok", __version__),
            *required,
            _onnxruntime(),
            custom_op_library(),
            openvino_extension(),
            _cpu(),
            _fastest(),
            _compiler(),
            _tool("CMake", "cmake", "builds the custom-op library", "pip install cmake"),
            _headers(),
            _gpu(),
            _tool("nvcc", "nvcc", "only for building CUDA kernels", "install the CUDA toolkit"),
            *optional,
            *(_backend(name) for name in trt.BACKENDS),
            tensorrt_plugin(),
            _tensorrt_headers(),
            *c_runtime(),
        )
    )


def _python() -> Check:
    # An older Python cannot import this module: nothing to check.
    return Check("Python", "ok", f"{platform.python_version()} ({sys.executable})")


def _package(package: Package) -> Check:
    absent: Status = "optional" if package.extra else "missing"
    version = installed_version(package.name)
    if version is None:
        purpose = f" ({package.purpose})" if package.purpose else ""
        return Check(package.name, absent, f"not installed{purpose}", remedy=package.install)
    if trt.numbers(version) < trt.numbers(package.least):
        return Check(package.name, absent, f"{version}, older than {package.least}", remedy=package.install)
    return Check(package.name, "ok", version)


def _onnxruntime() -> Check:
    install, least = PACKAGES["onnxruntime"].install, PACKAGES["onnxruntime"].least
    distributions = [name for name in BACKENDS_OF_ONNX if installed_version(name)]
    ort, problem = import_onnxruntime()
    if ort is None:
        return Check("onnxruntime", "missing", problem, remedy=install)
    version, providers = ort.__version__, ", ".join(ort.get_available_providers())
    if trt.numbers(version) < trt.numbers(least):
        return Check("onnxruntime", "missing", f"{version}, older than {least}", remedy=install)
    if len(distributions) > 1:
        return Check(
            "onnxruntime",
            "ok",
            f"{version} ({providers}); {' and '.join(distributions)} overwrite each other's files",
            remedy=f"pip uninstall -y {' '.join(BACKENDS_OF_ONNX)} && {PACKAGES['onnxruntime-gpu'].install}",
        )
    return Check("onnxruntime", "ok", f"{version} ({providers})")


def _fastest() -> Check:
    """What to expect of this CPU; ``lit-deploy bench`` measures it."""
    name, flags = "fastest here", cpu_flags()
    if BACKENDS["openvino"].missing():
        return Check(
            name,
            "optional",
            "files run on ONNX Runtime; OpenVINO is faster on x86",
            remedy=PACKAGES["openvino"].install,
        )
    if computes_bf16(flags):
        found = "OpenVINO in bfloat16 (--backend openvino --precision-hint bf16), and int8 files on OpenVINO"
    elif flags.isdisjoint(("avx512_vnni", "avx_vnni")):
        found = "OpenVINO in float32 (--backend openvino); this CPU has no products of int8 and bfloat16"
    else:
        found = "int8 files on OpenVINO (--precision int8, --backend openvino); OpenVINO in float32 for others"
    return Check(name, "ok", f"{found}; lit-deploy bench measures it")


def _backend(name: trt.BackendName) -> Check:
    backend, version = trt.BACKENDS[name], trt.installed_version(name)
    if version is None:
        return Check(backend.title, "optional", "not installed (builds and runs engines)", remedy=backend.install)
    if trt.numbers(version) < trt.numbers(backend.least):
        return Check(backend.title, "optional", f"{version}, older than {backend.least}", remedy=backend.install)
    return Check(backend.title, "ok", version)


def _tensorrt_headers() -> Check:
    root = os.environ.get("TensorRT_ROOT")  # noqa: SIM112  (CMake's own spelling)
    folders = (f"{root}/include", root) if root else TENSORRT_FOLDERS
    for folder in folders:
        if Path(folder, TENSORRT_HEADER).is_file():
            return Check("TensorRT headers", "ok", folder, folders)
    return Check(
        name="TensorRT headers",
        status="optional",
        found="none here; without them the plugin is not built",
        searched=folders,
        remedy="export TensorRT_ROOT=/path/to/an/unpacked/TensorRT, and build again",
    )


def _cpu() -> Check:
    flags = cpu_flags()
    features = ", ".join(name for name in CPU_FEATURES if name in flags)
    requested = os.environ.get(ISA_VARIABLE)
    kernel = kernel_isa(flags, requested)
    note = f"; {ISA_VARIABLE}={requested} is not one of this CPU's" if requested and requested != kernel else ""
    return Check(
        "CPU", "ok", f"{cpu_name()}, {os.cpu_count()} threads; {features or 'no AVX2'}; runs the {kernel} kernels{note}"
    )


def _compiler() -> Check:
    compiler = cpp_compiler()
    if compiler is None:
        return Check(
            "C++ compiler",
            "optional",
            "not found (builds the custom-op library; torch.compile needs it too)",
            remedy="apt install g++",
        )
    return Check("C++ compiler", "ok", f"{compiler} ({_first_line(compiler, '--version')})")


def _tool(name: str, command: str, purpose: str, remedy: str) -> Check:
    path = shutil.which(command)
    if path is None:
        return Check(name, "optional", f"not found ({purpose})", remedy=remedy)
    version = re.search(r"(?:version|release) ([\d.]+)", output_of(path, "--version"))
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
            name=name,
            status="optional",
            found=f"ONNXRUNTIME_ROOT={folders[0]} holds no {HEADER}: the build stops there",
            searched=searched,
            remedy="export ONNXRUNTIME_ROOT=/path/to/an/unpacked/onnxruntime/release, or unset ONNXRUNTIME_ROOT",
        )
    return Check(
        name=name,
        status="optional",
        found="none here; building the custom-op library downloads them",
        searched=searched,
        remedy="offline: apt install libonnxruntime-dev (Debian 13), or unpack a release archive from "
        "github.com/microsoft/onnxruntime and export ONNXRUNTIME_ROOT=FOLDER",
    )


def _gpu() -> Check:
    gpus = gpu_names()
    if gpus:
        return Check("GPU", "ok", "; ".join(gpus))
    return Check("GPU", "optional", "no NVIDIA GPU or driver; everything but engines runs on the CPU")


def _first_line(*command: str) -> str:
    return (output_of(*command).strip().splitlines() or ["version unknown"])[0]
