"""The doctor: what it finds, what it says is missing, and that its words agree with the build."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from lit_deploy.machine import native
from lit_deploy.machine import tensorrt as trt
from lit_deploy.machine.facts import kernel_isa
from lit_deploy.machine.packages import PACKAGES
from lit_deploy.workflows import doctor
from lit_deploy.workflows.doctor import Check, Diagnosis, diagnose

ROOT = Path(__file__).resolve().parents[2]


def check(diagnosis: Diagnosis, name: str) -> Check:
    return next(check for check in diagnosis.checks if check.name == name)


def test_this_machine() -> None:
    diagnosis = diagnose()
    assert diagnosis.ok
    assert diagnosis.exit_code == 0
    assert check(diagnosis, "torch").found == importlib.metadata.version("torch")
    assert "CPUExecutionProvider" in check(diagnosis, "onnxruntime").found
    assert "kernel" in check(diagnosis, "CPU").found
    names = {c.name for c in diagnosis.checks}
    assert {"Python", "lit-deploy", "GPU", "nvcc", "C++ compiler", "CMake", "ONNX Runtime headers"} <= names
    assert {
        "openvino",
        "TensorRT",
        "TensorRT-RTX",
        "TensorRT plugin",
        "cuda-bindings",
        "matplotlib",
        "custom-op library",
    } <= names
    assert all(c.remedy for c in diagnosis.checks if c.status == "missing")


def test_torch_is_not_imported() -> None:
    program = (
        "import sys; from lit_deploy.workflows.doctor import diagnose; diagnose(); sys.exit('torch' in sys.modules)"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    assert subprocess.run([sys.executable, "-c", program], env=environment, timeout=60, check=False).returncode == 0


def test_least_versions_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [item for name, items in project["optional-dependencies"].items() for item in items]
    declared = dict(item.split(">=") for item in [*project["dependencies"], *extras] if ">=" in item)
    needed = {item.partition(">=")[0] for item in project["dependencies"]}
    assert {package.name for package in PACKAGES.values() if package.extra is None} == needed
    for package in PACKAGES.values():
        assert declared[package.name] == package.least
        if package.extra is not None:
            assert f"{package.name}>={package.least}" in project["optional-dependencies"][package.extra]
    assert declared["tensorrt"] == trt.BACKENDS["tensorrt"].least
    assert declared["tensorrt-rtx-cu13-bindings"] == trt.BACKENDS["tensorrt_rtx"].least


def test_missing_and_old_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.installed_version
    changed = {"torch": "2.1.0+cu121", "openvino": None, "onnx": None}
    monkeypatch.setattr(doctor, "installed_version", lambda name: changed.get(name, real(name)))
    diagnosis = diagnose()
    assert diagnosis.exit_code == 2
    torch = check(diagnosis, "torch")
    assert (torch.status, torch.found) == ("optional", "2.1.0+cu121, older than 2.9"), "running a file needs none"
    assert torch.remedy == "pip install 'lit-deploy[export]'"
    assert not diagnosis.exports
    assert check(diagnosis, "onnx").status == "missing"
    assert check(diagnosis, "openvino").status == "optional"


def test_no_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    diagnosis = diagnose()
    assert check(diagnosis, "onnxruntime").status == "missing"
    assert check(diagnosis, "onnxruntime").remedy == "pip install 'lit-deploy[ort]'"
    assert diagnosis.exit_code == 2


def test_library_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(native.ENVIRONMENT_VARIABLE, str(tmp_path / "absent.so"))
    diagnosis = diagnose()
    found = check(diagnosis, "custom-op library")
    assert (found.status, diagnosis.exit_code) == ("missing", 2), "sessions refuse as long as it is named"
    assert found.searched == (str(tmp_path / "absent.so"),)
    assert native.ENVIRONMENT_VARIABLE in found.found
    assert native.BUILD_COMMAND in found.remedy
    monkeypatch.delenv(native.ENVIRONMENT_VARIABLE)
    monkeypatch.setattr(native, "find_library", lambda: None)
    assert check(diagnose(), "custom-op library").status == "optional"


def test_extension(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = tmp_path / "extension.so"
    monkeypatch.setenv(native.EXTENSION_VARIABLE, str(library))
    absent = check(doctor.diagnose(), "OpenVINO extension")
    assert (absent.status, absent.searched) == ("missing", (str(library),))
    library.write_bytes(b"no library")
    broken = check(doctor.diagnose(), "OpenVINO extension")
    assert broken.status == "missing"
    assert "does not load in OpenVINO" in broken.found
    monkeypatch.delenv(native.EXTENSION_VARIABLE)
    monkeypatch.setattr(native, "find_extension", lambda: None)
    assert check(doctor.diagnose(), "OpenVINO extension").status == "optional"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("avx2 avx512f avx512_vnni amx_bf16", "OpenVINO in bfloat16"),
        ("avx2 avx_vnni", "int8 files on OpenVINO"),
        ("avx2", "OpenVINO in float32"),
    ],
)
def test_what_is_fastest(flags: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cpu_flags", lambda: frozenset(flags.split()))
    assert check(doctor.diagnose(), "fastest here").found.startswith(expected)
    monkeypatch.setitem(doctor.BACKENDS, "openvino", replace(doctor.BACKENDS["openvino"], modules=()))
    absent = check(doctor.diagnose(), "fastest here")
    assert (absent.status, absent.remedy) == ("optional", "pip install 'lit-deploy[openvino]'")


def test_plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(native.PLUGIN_VARIABLE, str(tmp_path / "absent.so"))
    found = check(diagnose(), "TensorRT plugin")
    assert (found.status, found.searched) == ("missing", (str(tmp_path / "absent.so"),))
    (tmp_path / "absent.so").write_bytes(b"not a library")
    assert "does not load" in check(diagnose(), "TensorRT plugin").found
    monkeypatch.delenv(native.PLUGIN_VARIABLE)
    monkeypatch.setattr(native, "find_plugin", lambda: None)
    found = check(diagnose(), "TensorRT plugin")
    assert (found.status, found.remedy) == ("optional", native.PLUGIN_BUILD_COMMAND)


def test_tensorrt_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TensorRT_ROOT", str(tmp_path))
    assert check(diagnose(), "TensorRT headers").status == "optional"
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / doctor.TENSORRT_HEADER).touch()
    found = check(diagnose(), "TensorRT headers")
    assert (found.status, found.found) == ("ok", str(tmp_path / "include"))


def test_library_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setenv(native.ENVIRONMENT_VARIABLE, str(broken))
    diagnosis = diagnose()
    found = check(diagnosis, "custom-op library")
    assert found.status == "missing"
    assert "does not load in ONNX Runtime" in found.found
    assert diagnosis.exit_code == 2


@pytest.mark.skipif(native.find_library() is None, reason="the custom-op library is not built")
def test_library_present() -> None:
    found = check(diagnose(), "custom-op library")
    assert found.status == "ok"
    assert "(loads in ONNX Runtime" in found.found


@pytest.mark.parametrize(
    ("flags", "requested", "expected"),
    [
        ("sse2", None, "portable"),
        ("avx2 fma f16c", None, "avx2"),
        ("avx2 fma f16c avx512f", None, "avx512"),
        ("avx2 fma avx512f", None, "portable"),
        ("avx2 fma f16c avx512f", "avx2", "avx2"),
        ("avx2 fma f16c", "avx512", "avx2"),
        ("avx2 fma f16c", "nonsense", "avx2"),
        ("avx2 fma f16c avx512f avx512bw avx512_bf16 amx_tile amx_bf16", None, "amx"),
        ("avx2 fma f16c avx512f avx512bw avx512_bf16 amx_tile amx_bf16", "avx512", "avx512"),
    ],
)
def test_kernel_isa(flags: str, requested: str | None, expected: str) -> None:
    assert kernel_isa(frozenset(flags.split()), requested) == expected


def test_unusable_isa_request_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(doctor.ISA_VARIABLE, "avx9000")
    assert "LIT_DEPLOY_CPU_ISA=avx9000 is not one of this CPU's" in check(diagnose(), "CPU").found


def test_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    header = tmp_path / "release" / "include" / "onnxruntime_c_api.h"
    header.parent.mkdir(parents=True)
    header.write_text("#pragma once\n#define ORT_API_VERSION 21\n")
    monkeypatch.setenv("ONNXRUNTIME_ROOT", str(tmp_path / "release"))
    found = check(diagnose(), "ONNX Runtime headers")
    assert (found.status, found.found) == ("ok", f"{header.parent} (API 21)")
    monkeypatch.setenv("ONNXRUNTIME_ROOT", str(tmp_path / "wrong"))
    found = check(diagnose(), "ONNX Runtime headers")
    assert found.status == "optional"
    assert "ONNXRUNTIME_ROOT" in found.remedy


def test_downloaded_headers_are_found_where_the_build_keeps_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ONNXRUNTIME_ROOT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert doctor.header_folders()[-1] == tmp_path / "lit-deploy" / "debian-trixie-libonnxruntime-dev" / "usr"
    cmake = ROOT / "plugins" / "cmake"
    assert "${cache}/debian-trixie-${package}" in (cmake / "LitDeployDownloads.cmake").read_text()
    assert "lit_deploy_from_debian(libonnxruntime-dev " in (cmake / "FindOnnxRuntimeHeaders.cmake").read_text()
    header = tmp_path / "lit-deploy" / "onnxruntime-linux-x64-1.21.0" / "include" / "onnxruntime_c_api.h"
    header.parent.mkdir(parents=True)
    header.write_text("#define ORT_API_VERSION 21\n")
    monkeypatch.setattr(doctor, "header_folders", lambda: (header.parent.parent,))
    assert check(diagnose(), "ONNX Runtime headers").status == "ok"


def test_absent_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    diagnosis = diagnose()
    for name in ("C++ compiler", "CMake", "nvcc", "GPU"):
        assert check(diagnosis, name).status == "optional", name
    assert check(diagnosis, "C++ compiler").remedy == "apt install g++"
    assert diagnosis.ok, "nothing of it is required to export and run"


def test_c_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = tmp_path / "build" / "native" / native.RUNTIME_NAME
    monkeypatch.setattr(native, "runtime_path", lambda: library)
    assert not [c for c in diagnose().checks if c.name == "C runtime"], "no source checkout, and nothing to build"
    (tmp_path / "plugins").mkdir()
    absent = check(diagnose(), "C runtime")
    assert (absent.status, absent.searched) == ("optional", (str(library),))
    assert "cmake" in absent.remedy
    library.parent.mkdir(parents=True)
    library.write_bytes(b"no library")
    assert "does not load" in check(diagnose(), "C runtime").found


@pytest.mark.skipif(not native.runtime_path().is_file(), reason=f"no C runtime: {native.RUNTIME_BUILD_COMMAND}")
def test_c_runtime_present() -> None:
    found = check(diagnose(), "C runtime")
    assert found.status == "ok"
    assert importlib.metadata.version("lit-deploy") in found.found
    assert f"{native.ONNXRUNTIME_VARIABLE}={native.find_onnxruntime_library()}" in found.found
