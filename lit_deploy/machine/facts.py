"""What this computer is and what is installed on it, read without loading any of it. Imports no torch."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lit_deploy.machine.tensorrt import BACKENDS


@dataclass(frozen=True)
class Machine:
    """Where and when the numbers were taken. ``load_average`` is that of the last minute before the start."""

    cpu: str
    cores: int
    gpus: tuple[str, ...]
    os: str
    python: str
    packages: dict[str, str]
    date: str
    load_average: float


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution from its metadata, without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpuinfo(field: str) -> str:
    """First value of a field of /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if re.match(rf"{field}\s*:", line)), "")


def cpu_flags() -> frozenset[str]:
    """What an x86 CPU can do, as Linux names it; empty where that cannot be told."""
    return frozenset(cpuinfo("flags").split())


def cpu_name() -> str:
    """The CPU's marketing name on Linux, otherwise what Python knows."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def cpp_compiler() -> str | None:
    """Path of the C++ compiler that CMake and torch.compile would use."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((path for path in (shutil.which(name) for name in names if name) if path), None)


def gpu_names() -> tuple[str, ...]:
    """NVIDIA GPUs as ``name, memory, driver``; empty where there is none or no driver."""
    lines = output_of("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return tuple(line.strip() for line in lines.splitlines() if line.strip())


def kernel_isa(flags: frozenset[str], requested: str | None = None) -> str:
    """Widest instruction set that the CPU kernels use: ``portable``, ``avx2``, ``avx512`` or ``amx``.

    AMX is for attention in bfloat16; everything else then runs on AVX-512.

    Args:
        flags: CPU flags as Linux names them.
        requested: value of ``LIT_DEPLOY_CPU_ISA``; ignored, as the kernel does, when this CPU lacks it.
    """
    supported = ["portable"]
    if {"avx2", "fma", "f16c"} <= flags:
        supported.append("avx2")
        if "avx512f" in flags:
            supported.append("avx512")
            if {"avx512bw", "avx512_bf16", "amx_tile", "amx_bf16"} <= flags:
                supported.append("amx")
    return requested if requested in supported else supported[-1]


def computes_bf16(flags: frozenset[str]) -> bool:
    """Whether a CPU of these flags multiplies bfloat16 itself, by AMX or AVX512_BF16."""
    return not flags.isdisjoint(("amx_bf16", "avx512_bf16"))


def int8_saturates(flags: frozenset[str]) -> bool:
    """Whether int8 kernels of a CPU of these flags, left to themselves, add pairs of products in 16 bits and clip them.

    So they do on x86 without integer dot products (VNNI), in ONNX Runtime and OpenVINO. Source: ONNX Runtime's
    onnxruntime_session_options_config_keys.h; OpenVINO: seen.
    """
    return "avx2" in flags and flags.isdisjoint(("avx512_vnni", "avx_vnni"))


def this_machine() -> Machine:
    """Describe the machine and what is installed, now."""
    names = ("lit-deploy", "numpy", "onnx", "torch", "onnxruntime", "onnxruntime-gpu", "openvino")
    packages = {name: version for name in names if (version := installed_version(name))}
    for backend in BACKENDS.values():
        if version := next(filter(None, map(installed_version, backend.distributions)), None):
            packages[backend.title] = version
    return Machine(
        cpu=cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        gpus=gpu_names(),
        os=_os_name(),
        python=platform.python_version(),
        packages=packages,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        load_average=round(os.getloadavg()[0], 2),
    )


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def output_of(*command: str) -> str:
    """Standard output of a short command; empty when it is absent, fails or hangs."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout if result.returncode == 0 else ""
