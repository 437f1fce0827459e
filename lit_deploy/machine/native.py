"""Where the compiled libraries are looked for, and how to build them."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
from pathlib import Path

from lit_deploy import __version__
from lit_deploy.core.errors import MissingDependency
from lit_deploy.core.files import PACKAGE

LIBRARY_NAME = "liblit_deploy_onnxruntime.so"
ENVIRONMENT_VARIABLE = "LIT_DEPLOY_LIBRARY"
EXTENSION_NAME = "liblit_deploy_openvino.so"
EXTENSION_VARIABLE = "LIT_DEPLOY_OPENVINO_EXTENSION"
PLUGIN_NAME = "liblit_deploy_tensorrt.so"
PLUGIN_VARIABLE = "LIT_DEPLOY_PLUGIN"
ONNXRUNTIME_VARIABLE = "LIT_DEPLOY_ONNXRUNTIME"
RUNTIME_NAME = "liblit_deploy_runtime.so"
BUILD_COMMAND = "pip install .  (with a C++17 compiler; in a source checkout: make native)"
RUNTIME_BUILD_COMMAND = "cmake -S plugins -B build/native && cmake --build build/native  (see docs/embedding.md)"
PLUGIN_BUILD_COMMAND = "TensorRT_ROOT=/path/to/TensorRT pip install .  (with nvcc; see docs/tensorrt.md)"


def named_library() -> Path | None:
    """The custom-op library that the environment variable names, whether it exists or not."""
    return _named(ENVIRONMENT_VARIABLE)


def searched_paths() -> tuple[Path, ...]:
    """Paths in the order they are tried: the environment variable's alone if set, else the package and ``build``.

    Then the installed package, of the same version: Python started inside a clone takes the clone's, which may not be
    built.
    """
    return _searched(LIBRARY_NAME, ENVIRONMENT_VARIABLE)


def find_library() -> Path | None:
    """Return ONNX Runtime's custom-op library, or None when it was not built."""
    return next((path for path in searched_paths() if path.is_file()), None)


def has_cuda_kernel(library: Path) -> bool:
    """Whether the custom-op library holds a CUDA kernel beside the CPU's; False for one that does not load."""
    try:
        return bool(ctypes.CDLL(str(library)).lit_deploy_has_cuda())
    except (OSError, AttributeError):  # a library from before there was one does not export the function
        return False


def choose_library(wanted: bool | None, device: str) -> Path | None:
    """The custom-op library that a file runs with, None for the function inside the file.

    Args:
        wanted: True requires it, False leaves it out, None takes it where it is found.
        device: ``cpu`` or ``cuda``.

    Raises:
        MissingDependency: it is required, or named by the environment, and not there, or lacks the CUDA kernel.
    """
    if wanted is False:
        return None
    found = find_library()
    if found is None and (wanted or named_library()):
        searched = ", ".join(map(str, searched_paths()))
        raise MissingDependency(
            f"the lit-deploy custom-op library was not found (searched {searched}); "
            f"build it: {BUILD_COMMAND}, or set {ENVIRONMENT_VARIABLE}"
        )
    if found is not None and device == "cuda" and not has_cuda_kernel(found):
        # Its CPU kernel would copy every token map to the host and back; the function stays on the device.
        if wanted:
            raise MissingDependency(
                f"{found} holds no CUDA kernel for this GPU and driver; build it again where nvcc is found: "
                f"{BUILD_COMMAND}, or leave the library out"
            )
        return None
    return found


def searched_extension_paths() -> tuple[Path, ...]:
    """The same for the operators' extension of OpenVINO."""
    return _searched(EXTENSION_NAME, EXTENSION_VARIABLE)


def find_extension() -> Path | None:
    """Return OpenVINO's extension, or None when it was not built."""
    return next((path for path in searched_extension_paths() if path.is_file()), None)


def choose_extension(wanted: bool | None) -> Path | None:
    """The extension that a file runs with on OpenVINO, None for the functions inside the file.

    Args:
        wanted: True requires it, False leaves it out, None takes it where it is found.

    Raises:
        MissingDependency: it is required, or named by the environment, and not there.
    """
    if wanted is False:
        return None
    found = find_extension()
    if found is None and (wanted or _named(EXTENSION_VARIABLE)):
        searched = ", ".join(map(str, searched_extension_paths()))
        raise MissingDependency(
            f"the lit-deploy extension of OpenVINO was not found (searched {searched}); "
            f"build it where openvino is installed: {BUILD_COMMAND}, or set {EXTENSION_VARIABLE}"
        )
    return found


def searched_plugin_paths() -> tuple[Path, ...]:
    """The same for the TensorRT plugin library."""
    return _searched(PLUGIN_NAME, PLUGIN_VARIABLE)


def find_plugin() -> Path | None:
    """Return the TensorRT plugin library, or None when it was not built."""
    return next((path for path in searched_plugin_paths() if path.is_file()), None)


def runtime_path() -> Path:
    """Where a source checkout builds the C runtime; it is installed with CMake, not with the Python package."""
    return PACKAGE.parent / "build" / "native" / RUNTIME_NAME


def find_onnxruntime_library() -> Path | None:
    """The ``libonnxruntime.so`` inside the installed wheel, which a C service can load too; None without one."""
    spec = importlib.util.find_spec("onnxruntime")
    folders = spec.submodule_search_locations if spec is not None else None
    found = (path for folder in folders or () for path in sorted(Path(folder, "capi").glob("libonnxruntime.so*")))
    return next(found, None)


def _named(variable: str) -> Path | None:
    named = os.environ.get(variable)
    return Path(named).resolve() if named else None  # a bare name would be looked for on the library path


def _searched(name: str, variable: str) -> tuple[Path, ...]:
    named = _named(variable)
    if named is not None:
        return (named,)
    installed = (
        Path(str(found.locate_file(f"{PACKAGE.name}/lib/{name}")))
        for found in importlib.metadata.distributions(name="lit-deploy")
        if found.version == __version__
    )
    return tuple(dict.fromkeys((PACKAGE / "lib" / name, PACKAGE.parent / "build" / "native" / name, *installed)))
