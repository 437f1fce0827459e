"""The compiled libraries that ``doctor`` looks for: where they are, and whether they load."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any, Literal

from lit_deploy.core.text import first_line, last_line
from lit_deploy.machine import native

BACKENDS_OF_ONNX = ("onnxruntime", "onnxruntime-gpu")
"""Distributions of ONNX Runtime, which are one check."""

Status = Literal["ok", "missing", "optional"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked for.

    Attributes:
        name: what it is.
        status: ``ok``, ``missing`` (required to run files) or ``optional`` (absent, and one can do without).
        found: what is there, or what its absence means.
        searched: every path that was looked at, where paths were looked at.
        remedy: the command that mends it; empty when there is nothing to mend.
    """

    name: str
    status: Status
    found: str
    searched: tuple[str, ...] = ()
    remedy: str = ""


def import_onnxruntime() -> tuple[Any, str]:
    """The module, or None and why not."""
    try:
        import onnxruntime
    except Exception as error:
        return None, _why_not("onnxruntime", error)
    return onnxruntime, ""


def _why_not(module: str, error: Exception) -> str:
    """What an import says: whatever the loader, or a package's own first lines, come to."""
    if isinstance(error, ModuleNotFoundError) and error.name == module:
        return "not installed"
    return f"installed but does not load ({first_line(error)})"


def custom_op_library() -> Check:
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
    ort, _ = import_onnxruntime()
    if ort is None:
        return Check(name, "ok", f"{library} (not tried: no ONNX Runtime)", searched)
    try:
        ort.SessionOptions().register_custom_ops_library(str(library))
    except Exception as error:  # ONNX Runtime raises its own bare exception types
        # Required to work once it is there: sessions refuse to start with a library that does not load.
        found = f"{library} does not load in ONNX Runtime {ort.__version__} ({first_line(error)})"
        return Check(name=name, status="missing", found=found, searched=searched, remedy=native.BUILD_COMMAND)
    return Check(name, "ok", f"{library} (loads in ONNX Runtime {ort.__version__})", searched)


def openvino_extension() -> Check:
    name, searched = "OpenVINO extension", tuple(map(str, native.searched_extension_paths()))
    extension = native.find_extension()
    if extension is None:
        return _absent(
            name,
            native.EXTENSION_VARIABLE,
            "OpenVINO runs files by their slower built-in functions",
            searched,
            native.BUILD_COMMAND,
        )
    try:
        import openvino
    except Exception as error:
        return Check(name, "ok", f"{extension} (not tried: OpenVINO is {_why_not('openvino', error)})", searched)
    version = openvino.__version__.split("-")[0]
    try:
        openvino.Core().add_extension(str(extension))
    except RuntimeError as error:
        found = f"{extension} does not load in OpenVINO {version} ({last_line(error)})"
        return Check(name=name, status="missing", found=found, searched=searched, remedy=native.BUILD_COMMAND)
    return Check(name, "ok", f"{extension} (loads in OpenVINO {version})", searched)


def _absent(name: str, variable: str, without: str, searched: tuple[str, ...], remedy: str) -> Check:
    """A compiled library that is not there; one that the environment names must be."""
    if os.environ.get(variable):
        found = f"{variable} names a file that is not there; sessions refuse until it is unset"
        return Check(
            name=name,
            status="missing",
            found=found,
            searched=searched,
            remedy=f"unset {variable}, or build it: {remedy}",
        )
    return Check(name=name, status="optional", found=f"not found; {without}", searched=searched, remedy=remedy)


def tensorrt_plugin() -> Check:
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
        return Check(
            name="TensorRT plugin", status="missing", found=found, searched=searched, remedy=native.PLUGIN_BUILD_COMMAND
        )
    return Check("TensorRT plugin", "ok", f"{plugin} ({built})", searched)


def c_runtime() -> tuple[Check, ...]:
    """Of a source checkout; elsewhere CMake installs it wherever the service wants it, and nobody here knows."""
    library = native.runtime_path()
    searched = (str(library),)
    if not (library.parents[2] / "plugins").is_dir():
        return ()
    if not library.is_file():
        found = "not built; only C and C++ services need it"
        return (
            Check(
                name="C runtime", status="optional", found=found, searched=searched, remedy=native.RUNTIME_BUILD_COMMAND
            ),
        )
    try:
        version = ctypes.CDLL(str(library)).lit_version
    except (OSError, AttributeError) as error:
        found = f"{library} does not load ({first_line(error)})"
        return (
            Check(
                name="C runtime", status="optional", found=found, searched=searched, remedy=native.RUNTIME_BUILD_COMMAND
            ),
        )
    version.restype = ctypes.c_char_p
    wheel = native.find_onnxruntime_library()
    hint = f"; here {native.ONNXRUNTIME_VARIABLE}={wheel}" if wheel else ""
    return (Check("C runtime", "ok", f"{library} ({version().decode()}{hint})", searched),)
