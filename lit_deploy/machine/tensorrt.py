"""A thin shim over the two TensorRT back ends: ``tensorrt`` (needs a GPU to build) and ``tensorrt_rtx``.

Both Python modules offer the same API; what differs between them and their releases is said here and nowhere else.
Source: NVIDIA's API references of TensorRT 10.9 to 11.x and TensorRT-RTX 1.7.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import secrets
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lit_deploy.core.errors import MissingDependency, UsageError
from lit_deploy.core.files import cache_dir
from lit_deploy.core.text import first_line
from lit_deploy.machine.cuda import find_gpu

BackendName = Literal["tensorrt", "tensorrt_rtx"]


@dataclass(frozen=True)
class Backend:
    """What is known about one of the two without loading it.

    Attributes:
        title: its name in sentences.
        modules: import names, in the order they are tried.
        distributions: packages whose metadata states the version.
        least: oldest release that is supported.
        install: command that installs it.
    """

    title: str
    modules: tuple[str, ...]
    distributions: tuple[str, ...]
    least: str
    install: str


BACKENDS: dict[BackendName, Backend] = {
    "tensorrt": Backend(
        title="TensorRT",
        modules=("tensorrt",),
        distributions=(
            "tensorrt",
            "tensorrt-cu13",
            "tensorrt-cu12",
            "tensorrt-cu13-bindings",
            "tensorrt-cu12-bindings",
        ),
        least="10.9",
        install="pip install 'lit-deploy[trt]'",
    ),
    "tensorrt_rtx": Backend(
        title="TensorRT-RTX",
        modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
        distributions=("tensorrt-rtx-cu13-bindings", "tensorrt-rtx"),
        least="1.7",
        install="pip install 'lit-deploy[rtx]'",
    ),
}

RTX_TARGETS = ("8.0", "8.6", "8.9", "12.0", "12.1")
"""What TensorRT-RTX builds for. It also knows 7.5, but no float32 product there, which the patch embedding is."""

DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32", "UINT8": "uint8",
    "BOOL": "bool", "INT8": "int8", "FP8": "float8e4m3",
}  # fmt: skip
"""NumPy's names (ml_dtypes' where NumPy has none) of the types of TensorRT."""

Severity = Literal["internal error", "error", "warning", "info", "verbose"]
_RESTARTED = "LIT_DEPLOY_RESTARTED"
_SEVERITIES: tuple[Severity, ...] = ("internal error", "error", "warning", "info", "verbose")


def installed_version(backend: BackendName) -> str | None:
    """Version of an installed back end from package metadata, without loading it; None when it is absent."""
    specs = (importlib.util.find_spec(name) for name in BACKENDS[backend].modules)
    if not any(spec is not None and spec.origin for spec in specs):  # any folder of that name is a package too
        return None
    for distribution in BACKENDS[backend].distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(distribution)
    with contextlib.suppress(MissingDependency):  # a folder of that name that has an ``__init__.py``
        return str(load(backend).__version__)  # installed without metadata, as from NVIDIA's archive
    return None


def cuda_version(backend: BackendName) -> str | None:
    """Major CUDA version that an installed back end was made for, told from its package's name; None if not known."""
    names = (name for name in BACKENDS[backend].distributions if "-cu" in name)
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(name)
            return name.partition("-cu")[2].partition("-")[0]
    return None


def default_backend() -> BackendName:
    """The back end that can build here: TensorRT where it and a GPU are, else TensorRT-RTX.

    Raises:
        MissingDependency: neither can.
    """
    if installed_version("tensorrt") is not None and find_gpu() is not None:
        return "tensorrt"
    if installed_version("tensorrt_rtx") is not None:
        return "tensorrt_rtx"
    if installed_version("tensorrt") is not None:
        raise MissingDependency(
            "TensorRT is installed, but it builds engines only on a machine with a GPU; "
            f"TensorRT-RTX builds without one: {BACKENDS['tensorrt_rtx'].install}"
        )
    raise MissingDependency(
        f"neither TensorRT nor TensorRT-RTX is installed; run: {BACKENDS['tensorrt'].install} (data centre GPUs), "
        f"or {BACKENDS['tensorrt_rtx'].install} (RTX GPUs; also builds without a GPU)"
    )


def load(backend: BackendName) -> Any:
    """Import a back end's Python module.

    Raises:
        MissingDependency: it is absent, does not load, or is older than the least release.
    """
    known = BACKENDS[backend]
    problem = "is not installed"
    for name in known.modules:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:  # another module, that this one needs
                problem = f"is installed but does not load ({first_line(error)})"
            continue
        except (ImportError, OSError) as error:  # a library that it needs is missing
            problem = f"is installed but does not load ({first_line(error)})"
            continue
        if not hasattr(module, "__version__"):  # a folder of that name
            continue
        if numbers(module.__version__) < numbers(known.least):
            problem = f"{module.__version__} is older than {known.least}, the least that is supported"
            break
        return module
    raise MissingDependency(f"{known.title} {problem}; run: {known.install}")


def numbers(version: str) -> tuple[int, ...]:
    """Leading numeric components of a version: ``10.16.0.72`` is (10, 16, 0, 72)."""
    parts = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def process_environment(backend: BackendName) -> dict[str, str]:
    """Environment for a process that builds or runs engines with our plugin.

    TensorRT-RTX looks for a file ``libtensorrt_rtx.so`` as soon as a plugin is used, and ends the process when there is
    none; the wheels hold ``libtensorrt_rtx.so.1`` only. A folder with that link goes in front of the library path,
    which the dynamic linker reads when a process starts and never again.
    """
    environment = dict(os.environ)
    if backend == "tensorrt_rtx" and not rtx_library_is_found():
        paths = [str(rtx_library_folder()), environment.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
    return environment


def rtx_library_is_found() -> bool:
    """Whether this process finds ``libtensorrt_rtx.so`` by that name (it cannot be taught to, once it has started)."""
    try:
        ctypes.CDLL("libtensorrt_rtx.so")
    except OSError:
        return False
    return True


def restart_with_rtx_library() -> None:
    """Start this program again, in its place, if TensorRT-RTX would not find itself (see ``process_environment``)."""
    if rtx_library_is_found() or _RESTARTED in os.environ or installed_version("tensorrt_rtx") is None:
        return
    environment = {**process_environment("tensorrt_rtx"), _RESTARTED: "1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def rtx_library_folder() -> Path:
    """A folder in the cache that holds a link ``libtensorrt_rtx.so`` to the installed library.

    Raises:
        MissingDependency: the library cannot be found.
    """
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    candidates = [] if spec is None or spec.origin is None else [*Path(spec.origin).parent.glob("libtensorrt_rtx.so.*")]
    if not candidates:
        raise MissingDependency(
            "libtensorrt_rtx.so was not found; put the folder of TensorRT-RTX's libraries on LD_LIBRARY_PATH"
        )
    target = min(candidates).resolve()
    folder = cache_dir() / f"tensorrt-rtx-{installed_version('tensorrt_rtx')}"
    link = folder / "libtensorrt_rtx.so"
    if not (link.is_symlink() and link.resolve() == target):
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".libtensorrt_rtx.so.{secrets.token_hex(8)}"  # renamed, as another may do the same now
        fresh.symlink_to(target)
        os.replace(fresh, link)
    return folder


def make_logger(module: Any, sink: Callable[[Severity, str], None]) -> Any:
    """A TensorRT logger that hands every message to ``sink``. It must outlive all that was made with it."""

    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            sink(_SEVERITIES[min(int(severity), len(_SEVERITIES) - 1)], message)

    return Logger()


def load_plugin(registry: Any, library: Path, names: Iterable[str], version: str, namespace: str) -> None:
    """Register the plugin library with a TensorRT registry; does nothing when its creators are there already.

    Raises:
        UsageError: the file is no TensorRT plugin library, or lacks one of the creators.
    """

    def missing() -> list[str]:  # get_creator would log an error where there is none
        known = {(c.name, c.plugin_version, c.plugin_namespace) for c in registry.all_creators}
        return [name for name in names if (name, version, namespace) not in known]

    names = tuple(names)
    if not missing():
        return  # loading the same library twice is an error in TensorRT
    if registry.load_library(str(library)) is None:
        raise UsageError(f"TensorRT cannot load {library}: it is no plugin library, or was built for another machine")
    if lacking := missing():
        raise UsageError(f"{library} holds no plugin {namespace}::{lacking[0]} version {version}; build it again")
