"""The shim over the two back ends: what is installed, told without loading it, and how they are loaded."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from support.engines import BESIDE, RTX_4090, SIDECAR, TENSORRT_BUILD, needs_rtx, write_engine

from lit_deploy.artifacts.sidecar import Sidecar
from lit_deploy.commands import values as cli_values
from lit_deploy.core.errors import MissingDependency, UsageError
from lit_deploy.machine import tensorrt as trt
from lit_deploy.machine.cuda import Gpu

GPU = Gpu("NVIDIA A100", "8.0", "13.0")


def module_of(version: str) -> ModuleType:
    module = ModuleType("tensorrt")
    module.__version__ = version  # type: ignore[attr-defined]
    module.__spec__ = SimpleNamespace(origin="tensorrt.py")  # type: ignore[assignment]
    return module


# ---------------------------------------------------------------------------------------------- what is installed


@pytest.mark.parametrize(
    ("version", "expected"),
    [("10.16.0.72", (10, 16, 0, 72)), ("1.7.1.116", (1, 7, 1, 116)), ("11", (11,)), ("10.9.0a1", (10, 9, 0)),
     ("10.dev", (10,)), ("dev", ()), ("", ())],
)  # fmt: skip
def test_numbers(version: str, expected: tuple[int, ...]) -> None:
    assert trt.numbers(version) == expected


@needs_rtx
def test_installed_version_is_that_of_the_package() -> None:
    names = ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx")
    versions = []
    for name in names:
        try:
            versions.append(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue
    assert trt.installed_version("tensorrt_rtx") == versions[0] == trt.load("tensorrt_rtx").__version__
    assert trt.cuda_version("tensorrt_rtx") in ("12", "13", None)


def test_asking_loads_nothing() -> None:
    code = (
        "import sys; from lit_deploy.machine import tensorrt as trt\n"
        "print([(trt.installed_version(b), trt.cuda_version(b)) for b in trt.BACKENDS])\n"
        "print([n for b in trt.BACKENDS.values() for n in b.modules if n in sys.modules])"
    )
    root = Path(trt.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.splitlines()[-1] == "[]"


def test_versions_of_packages_that_are_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = {"tensorrt-cu12": "10.16.0.72"}

    def version(name: str) -> str:
        if name not in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "tensorrt", module_of("10.16.0.73"))
    assert trt.installed_version("tensorrt") == "10.16.0.72"
    assert trt.cuda_version("tensorrt") == "12"
    packages.clear()
    assert trt.installed_version("tensorrt") == "10.16.0.73", "without metadata, the module is asked"
    assert trt.cuda_version("tensorrt") is None
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    packages["tensorrt-cu12"] = "10.16.0.72"
    assert trt.installed_version("tensorrt") is None, "metadata without a module is no installation"


@pytest.mark.parametrize("inside", [None, "notes.txt", "__init__.py"], ids=["empty", "files", "package"])
def test_a_folder_of_that_name_is_no_tensorrt(
    inside: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``tensorrt/`` in the folder that one works in: Python would import it, and it is nothing."""
    folder = tmp_path / "tensorrt"
    folder.mkdir()
    if inside is not None:
        (folder / inside).write_text("")

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert trt.installed_version("tensorrt") is None
        with pytest.raises(MissingDependency, match=r"^TensorRT is not installed; run: "):
            trt.load("tensorrt")
    finally:
        sys.modules.pop("tensorrt", None)


@pytest.mark.parametrize(
    ("installed", "gpu", "expected"),
    [
        ({"tensorrt", "tensorrt_rtx"}, GPU, "tensorrt"),
        ({"tensorrt", "tensorrt_rtx"}, None, "tensorrt_rtx"),
        ({"tensorrt_rtx"}, GPU, "tensorrt_rtx"),
        ({"tensorrt"}, None, r"builds engines only on a machine with a GPU; .* pip install 'lit-deploy\[rtx\]'"),
        (set(), GPU, r"neither TensorRT nor TensorRT-RTX is installed; run: pip install 'lit-deploy\[trt\]'"),
    ],
)
def test_default_backend(installed: set[str], gpu: Gpu | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "installed_version", lambda backend: "1.7" if backend in installed else None)
    monkeypatch.setattr(trt, "find_gpu", lambda: gpu)
    if " " in expected:
        with pytest.raises(MissingDependency, match=expected):
            trt.default_backend()
    else:
        assert trt.default_backend() == expected


# --------------------------------------------------------------------------------------------------- loading


def test_load(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match=r"^TensorRT is not installed; run: pip install 'lit-deploy\[trt\]'$"):
        trt.load("tensorrt")
    with pytest.raises(MissingDependency, match=r"^TensorRT-RTX is not installed; run: pip install"):
        trt.load("tensorrt_rtx")
    monkeypatch.setitem(sys.modules, "tensorrt", module_of("10.8.0.43"))
    with pytest.raises(MissingDependency, match=r"^TensorRT 10\.8\.0\.43 is older than 10\.9, the least that is supp"):
        trt.load("tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", module_of("10.16.0"))
    assert trt.load("tensorrt").__version__ == "10.16.0", "16 is more than 9"
    second = module_of("1.7.0.2")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", second)
    assert trt.load("tensorrt_rtx") is second, "the second name of its module"


def test_a_module_whose_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object\\nfile')")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependency) as caught:
        trt.load("tensorrt")
    assert str(caught.value).startswith(
        "TensorRT is installed but does not load (libnvinfer.so.10: cannot open shared object); run: "
    )


# ------------------------------------------------------------------------------------------- where its library is


@needs_rtx
def test_the_library_is_found_in_the_environment_that_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in that environment finds ``libtensorrt_rtx.so`` by its bare name; without it the name is unknown."""
    code = "import ctypes; ctypes.CDLL('libtensorrt_rtx.so')"
    bare = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    if subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True).returncode == 0:
        pytest.skip("this system finds libtensorrt_rtx.so by itself")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somewhere/else")
    monkeypatch.setattr(trt, "rtx_library_is_found", lambda: False)
    environment = trt.process_environment("tensorrt_rtx")
    assert environment["LD_LIBRARY_PATH"].endswith(":/somewhere/else")
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
    link = tmp_path / "lit-deploy" / f"tensorrt-rtx-{trt.installed_version('tensorrt_rtx')}" / "libtensorrt_rtx.so"
    assert os.listdir(link.parent) == [link.name]

    written = os.lstat(link).st_mtime_ns
    trt.process_environment("tensorrt_rtx")
    assert os.lstat(link).st_mtime_ns == written, "a link that is right stays"
    target = link.resolve()
    link.unlink()
    link.symlink_to("/nowhere")
    assert (trt.rtx_library_folder() / link.name).resolve() == target, "one that is wrong is replaced"
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert trt.process_environment("tensorrt_rtx")["LD_LIBRARY_PATH"] == str(link.parent)


def test_other_environments_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trt.process_environment("tensorrt") == dict(os.environ)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert trt.process_environment("tensorrt_rtx") == dict(os.environ)


def test_no_library_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingDependency, match=r"libtensorrt_rtx\.so was not found; put the folder .* LD_LIBRARY_PATH"
    ):
        trt.rtx_library_folder()


RESTART = """
import os, sys
from lit_deploy.machine import tensorrt as trt
if len(sys.argv) > 3:
    trt.process_environment = lambda backend: dict(os.environ)  # a path that does not help
print("start", trt.rtx_library_is_found(), sys.argv[1:], flush=True)
trt.restart_with_rtx_library()
print("go on", trt.rtx_library_is_found(), os.getpid() == int(os.environ["PID"]), flush=True)
"""


@needs_rtx
@pytest.mark.parametrize("how", ["-c", "file", "module"])
def test_a_restarted_program_finds_the_library(how: str, tmp_path: Path) -> None:
    """The same program with the same arguments in the same process, once; and not at all where nothing is missing."""
    (tmp_path / "program.py").write_text(RESTART)
    command = {"-c": ["-c", RESTART], "file": [str(tmp_path / "program.py")], "module": ["-m", "program"]}[how]
    command = ["sh", "-c", 'PID=$$ exec "$@"', "sh", sys.executable, "-X", "utf8", *command]
    root = Path(trt.__file__).parents[1]
    bare = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    bare |= {"PYTHONPATH": f"{root}:{tmp_path}", "XDG_CACHE_HOME": str(tmp_path)}

    def run(*arguments: str, **variables: str) -> list[str]:
        environment = {**bare, **variables}
        done = subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.splitlines()

    words = ["a b", "--c='d'"]
    if run(*words)[0].startswith("start True"):
        pytest.skip("this system finds libtensorrt_rtx.so by itself")
    assert run(*words) == [f"start False {words}", f"start True {words}", "go on True True"]
    assert run("1", "2", "3") == ["start False ['1', '2', '3']"] * 2 + ["go on False True"], "it does not try for ever"
    found = trt.rtx_library_folder()
    assert run(*words, LD_LIBRARY_PATH=str(found)) == [f"start True {words}", "go on True True"]


@pytest.mark.parametrize(
    ("sidecar", "gpu", "restarted"),
    [
        (replace(SIDECAR, plugin=BESIDE), RTX_4090, True),
        (replace(SIDECAR, plugin=replace(BESIDE, embedded=True)), RTX_4090, True),
        (replace(SIDECAR, plugin=BESIDE), None, False),  # refused anyhow, and soon
        (SIDECAR, RTX_4090, False),  # without a plugin nothing looks for the library
        (replace(SIDECAR, build=TENSORRT_BUILD, plugin=BESIDE), RTX_4090, False),
    ],
)
def test_which_engines_restart_the_command(
    sidecar: Sidecar, gpu: Gpu | None, restarted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []
    monkeypatch.setattr("lit_deploy.machine.cuda.find_gpu", lambda: gpu)
    monkeypatch.setattr(trt, "restart_with_rtx_library", lambda: begun.append(True))
    engine = write_engine(tmp_path, sidecar)
    cli_values._restart_if_needed(str(engine))
    cli_values._restart_if_needed(str(engine.rename(tmp_path / "lit.onnx")))
    assert begun == [True] * restarted


# ------------------------------------------------------------------------------------------- logger and plugins


def test_logger_passes_everything_on() -> None:
    class ILogger:
        def __init__(self) -> None:
            self.whole = True

    told: list[tuple[str, str]] = []
    logger = trt.make_logger(SimpleNamespace(ILogger=ILogger), lambda *what: told.append(what))
    assert logger.whole, "TensorRT's own constructor has run"
    for severity in range(6):
        logger.log(severity, f"message {severity}")
    names = ["internal error", "error", "warning", "info", "verbose", "verbose"]
    assert told == [(name, f"message {index}") for index, name in enumerate(names)]


@needs_rtx
def test_severities_are_those_of_the_real_module() -> None:
    severity = trt.load("tensorrt_rtx").ILogger
    names = [severity.INTERNAL_ERROR, severity.ERROR, severity.WARNING, severity.INFO, severity.VERBOSE]
    assert [int(value) for value in names] == [0, 1, 2, 3, 4]


class Registry:
    """A plugin registry that does what TensorRT's does: a creator is there after its library was loaded, once."""

    def __init__(self, version: str | None) -> None:
        other = SimpleNamespace(name="NMS", plugin_version="1", plugin_namespace="")
        self.inside = [SimpleNamespace(name="DeformableTokenMerging", plugin_version=version, plugin_namespace="ours")]
        self.all_creators = [other]
        self.loaded: list[str] = []

    def load_library(self, path: str) -> Any:
        self.loaded.append(path)
        if self.inside[0].plugin_version is None or self.inside[0] in self.all_creators:
            return None
        self.all_creators += self.inside
        return object()


def test_load_plugin(tmp_path: Path) -> None:
    wanted = (["DeformableTokenMerging"], "1", "ours")
    registry = Registry("1")
    library = tmp_path / "plugin.so"
    trt.load_plugin(registry, library, *wanted)
    trt.load_plugin(registry, library, *wanted)
    assert registry.loaded == [str(library)], "a second time would be an error in TensorRT"
    with pytest.raises(UsageError, match=r"TensorRT cannot load .*plugin\.so: it is no plugin library, or was built"):
        trt.load_plugin(Registry(None), library, *wanted)
    with pytest.raises(
        UsageError, match=r"plugin\.so holds no plugin ours::DeformableTokenMerging version 1; build it"
    ):
        trt.load_plugin(Registry("2"), library, *wanted)
    with pytest.raises(UsageError, match=r"plugin\.so holds no plugin ours::MultiLevelRoiAlign version 1; build it"):
        trt.load_plugin(Registry("1"), library, ["DeformableTokenMerging", "MultiLevelRoiAlign"], "1", "ours")


@needs_rtx
def test_the_stand_in_has_the_names_of_the_real_registry() -> None:
    module = trt.load("tensorrt_rtx")
    assert {"all_creators", "load_library"} <= vars(module.IPluginRegistry).keys()
    assert {"name", "plugin_version", "plugin_namespace"} <= vars(module.IPluginCreatorV3One).keys()
