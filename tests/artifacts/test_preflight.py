"""The preflight: every reason why an engine cannot run here is one sentence, before TensorRT is loaded.

Machines and engines are made by hand, so that every reason can be met on any machine.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from support.engines import BESIDE, ENGINE, H200, LIBRARY, RTX_4090, SIDECAR, TENSORRT_BUILD, host_with, write_engine

from lit_deploy.artifacts import preflight as preflight_module
from lit_deploy.artifacts.preflight import Host, here, preflight, target_of, this_host
from lit_deploy.artifacts.sidecar import Sidecar
from lit_deploy.core.errors import ArtifactError, LitDeployError, MissingDependency
from lit_deploy.core.files import PACKAGE
from lit_deploy.machine.cuda import Gpu, find_gpu
from lit_deploy.machine.native import PLUGIN_VARIABLE
from lit_deploy.machine.tensorrt import RTX_TARGETS, installed_version

pytestmark = pytest.mark.usefixtures("no_tensorrt")


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write_engine(tmp_path)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "liblit_deploy_tensorrt.so"
    path.write_bytes(LIBRARY)
    return path


def no_gpu() -> NoReturn:
    raise MissingDependency("no NVIDIA driver was found (libcuda.so.1)")


def refusal(engine: Path, sidecar: Sidecar, host: Host, **options: Any) -> str:
    """The one sentence that an engine is refused with."""
    with pytest.raises(LitDeployError) as caught:
        preflight(engine, sidecar, host, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def again(engine: Path, options: str) -> str:
    """How a sentence ends that tells to build the engine again."""
    return f"build it again here: lit-deploy export --ckpt {engine}.onnx --format trt --out {engine} {options}"


# ------------------------------------------------------------------------------------------------- what fits


@pytest.mark.parametrize(
    ("build", "gpu"),
    [
        ({}, RTX_4090),
        ({}, Gpu("A100", "8.0", "13.2")),
        ({}, Gpu("RTX 5090", "12.0", "14.0")),
        ({"targets": ("8.6", "8.9")}, RTX_4090),
        ({"targets": ("8.6", "8.9")}, Gpu("RTX 3090", "8.6", "13.0")),
        ({"cuda_version": "12"}, RTX_4090),
        ({"cuda_version": None}, RTX_4090),
        ({"cuda_version": "13.3"}, RTX_4090),  # minor versions are compatible
        ({"backend": "tensorrt", "gpu": "NVIDIA H200", "compute_capability": "9.0"}, H200),
        ({"backend": "tensorrt", "compute_capability": "8.6", "hardware_compatible": "ampere+"}, H200),
    ],
)
def test_an_engine_that_fits_is_accepted(build: dict[str, Any], gpu: Gpu, engine: Path) -> None:
    sidecar = replace(SIDECAR, build=replace(SIDECAR.build, **build))
    assert preflight(engine, sidecar, host_with(gpu)) == gpu


@pytest.mark.parametrize("capability", RTX_TARGETS)
def test_what_rtx_builds_for_by_itself(capability: str, engine: Path) -> None:
    gpu = Gpu("any", capability, "13.0")
    assert preflight(engine, SIDECAR, host_with(gpu)) == gpu


@pytest.mark.parametrize("capability", ["7.5", "8.7", "9.0", "10.0", "10.3", "11.0", "12.2", "8", "8.60"])
def test_what_rtx_does_not_build_for_by_itself(capability: str, engine: Path) -> None:
    """Exactly its targets, and nothing between them: Orin (8.7) and Thor (11.0) are RTX GPUs no more than Hopper is."""
    message = refusal(engine, SIDECAR, host_with(Gpu("any", capability, "13.0")))
    assert "was built for RTX GPUs of compute capability 8.0, 8.6, 8.9, 12.0, 12.1, here is any (compute" in message
    assert message.endswith(again(engine, "--builder tensorrt --batch 1:8:32 --no-plugin")), "RTX could not, there"


def test_plugins_that_fit(engine: Path, library: Path) -> None:
    assert preflight(engine, replace(SIDECAR, plugin=BESIDE), host_with(library=library)) == RTX_4090
    embedded = replace(SIDECAR, plugin=replace(BESIDE, embedded=True))
    assert preflight(engine, embedded, host_with(), allow_host_code=True) == RTX_4090
    assert preflight(engine, SIDECAR, host_with(library=library)) == RTX_4090, "a library that is not needed"


@pytest.mark.parametrize(
    ("built", "installed", "compatible", "fits"),
    [
        ("1.7.1.116", "1.7.1.116", False, True),
        ("1.7.1.116", "1.7.1", False, False),
        ("1.7.1.116", "1.7.2.1", False, False),
        ("1.7.1.116", "1.6.0.9", False, False),
        ("11.1.0.99", "11.1.0.99", True, True),
        ("11.1.0.99", "11.4.0.1", True, True),
        ("11.1.0.99", "11.0.9.99", True, False),
        ("11.1.0.99", "12.0.0.1", True, False),
        ("10.9.0.34", "11.1.0.99", True, False),
        ("10.9.0.34", "10.16.1.2", True, True),  # 16 is more than 9, although "16" sorts before "9"
        ("10.9.0.34", "10.16.1.2", False, False),
        ("unknown", "10.16.1.2", True, False),
    ],
)
def test_releases(built: str, installed: str, compatible: bool, fits: bool, engine: Path) -> None:
    """The same release; a version-compatible engine also runs on later ones of the same major version."""
    build = replace(TENSORRT_BUILD, backend_version=built, version_compatible=compatible)
    sidecar, host = replace(SIDECAR, build=build), host_with(H200, installed)
    if fits:
        assert preflight(engine, sidecar, host, allow_host_code=True) == H200
    else:
        message = refusal(engine, sidecar, host)
        assert f"was built by TensorRT {built}, here is {installed}; " in message
        flag = " --version-compatible" if compatible else ""
        assert message.endswith(again(engine, f"--builder tensorrt --batch 1:8:32 --no-plugin{flag}"))


# -------------------------------------------------------------------------------------------- what does not fit

Fault = tuple[Callable[[Path, Sidecar, Host], tuple[Sidecar, Host]], type[LitDeployError], str, str]
"""What to change, and the refusal: its type, how its sentence reads, and the options of the command that mends it."""

SAME = "--builder tensorrt_rtx --batch 1:8:32 --no-plugin"


def build_fault(**changes: Any) -> Callable[[Path, Sidecar, Host], tuple[Sidecar, Host]]:
    return lambda engine, sidecar, host: (replace(sidecar, build=replace(sidecar.build, **changes)), host)


def host_fault(**changes: Any) -> Callable[[Path, Sidecar, Host], tuple[Sidecar, Host]]:
    return lambda engine, sidecar, host: (sidecar, replace(host, **changes))


def plugin_fault(**changes: Any) -> Callable[[Path, Sidecar, Host], tuple[Sidecar, Host]]:
    return lambda engine, sidecar, host: (replace(sidecar, plugin=replace(BESIDE, **changes)), host)


def content_fault(change: Callable[[bytes], bytes]) -> Callable[[Path, Sidecar, Host], tuple[Sidecar, Host]]:
    def apply(engine: Path, sidecar: Sidecar, host: Host) -> tuple[Sidecar, Host]:
        engine.write_bytes(change(engine.read_bytes()))
        return sidecar, host

    return apply


def wrong_library(engine: Path, sidecar: Sidecar, host: Host) -> tuple[Sidecar, Host]:
    other = engine.with_name("other.so")
    other.write_bytes(LIBRARY + b"!")
    return replace(sidecar, plugin=BESIDE), replace(host, library=other)


CUDA_12 = replace(RTX_4090, driver_cuda="12.8")
FAULTS: dict[str, Fault] = {
    "another operating system": (
        build_fault(os="Windows"), ArtifactError, "was built for Windows x86_64, this is Linux x86_64; ", SAME
    ),
    "another architecture": (
        build_fault(arch="aarch64"), ArtifactError, "was built for Linux aarch64, this is Linux x86_64; ", SAME
    ),
    "no back end": (
        host_fault(version_of=lambda backend: None), MissingDependency,
        "needs TensorRT-RTX 1.7.1.116, which is not installed; run: pip install 'lit-deploy[rtx]'", "",
    ),
    "another release": (
        host_fault(version_of=lambda backend: "1.8.0.2"), ArtifactError,
        "was built by TensorRT-RTX 1.7.1.116, here is 1.8.0.2; ", SAME,
    ),
    "truncated": (
        content_fault(lambda content: content[:-5]), ArtifactError,
        f"is not the file its sidecar describes (damaged or replaced; {len(ENGINE) - 5} bytes); ", SAME,
    ),
    "replaced by one of the same size": (
        content_fault(lambda content: content.replace(b"not", b"now")), ArtifactError,
        f"is not the file its sidecar describes (damaged or replaced; {len(ENGINE)} bytes); ", SAME,
    ),
    "code without permission": (
        plugin_fault(embedded=True), ArtifactError,
        "carries its plugin inside, so opening it runs code from the file; if you trust it, add --allow-engine-code "
        "(allow_engine_code=True)", "",
    ),
    "no plugin library": (
        plugin_fault(), MissingDependency,
        "needs the plugin library liblit_deploy_tensorrt.so, which was not found (searched /searched/plugin.so); "
        f"copy it there or set {PLUGIN_VARIABLE}, or build it: ", "",
    ),
    "another plugin library": (
        wrong_library, ArtifactError,
        f"other.so (SHA-256 {BESIDE.sha256[:12]} expected); set {PLUGIN_VARIABLE} to the one it was built with, or ",
        "--builder tensorrt_rtx --batch 1:8:32 --plugin",
    ),
    "no GPU": (host_fault(gpu=no_gpu), MissingDependency, "no NVIDIA driver was found", ""),
    "an older driver": (
        host_fault(gpu=lambda: CUDA_12), ArtifactError,
        "was built with CUDA 13, the driver here knows 12.8; update the driver", None,
    ),
    "RTX on Hopper": (
        host_fault(gpu=lambda: H200), ArtifactError,
        "was built for RTX GPUs of compute capability 8.0, 8.6, 8.9, 12.0, 12.1, here is NVIDIA H200 (compute "
        "capability 9.0); ", "--builder tensorrt --batch 1:8:32 --no-plugin",
    ),
    "RTX built for others": (
        build_fault(targets=("8.6", "12.0")), ArtifactError,
        "was built for RTX GPUs of compute capability 8.6, 12.0, here is NVIDIA GeForce RTX 4090 (compute capability "
        "8.9); ", f"{SAME} --target 8.9",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_refusals(name: str, engine: Path) -> None:
    """Each with its own sentence: what was found, what was expected, and what mends it."""
    apply, kind, words, rebuild = FAULTS[name]
    sidecar, host = apply(engine, SIDECAR, host_with())
    message = refusal(engine, sidecar, host)
    assert words in message
    assert message.endswith(again(engine, rebuild)) if rebuild else "build it again" not in message
    with pytest.raises(kind):
        preflight(engine, sidecar, host)
    if kind is ArtifactError:
        assert message.startswith(str(engine)), "which file"


@pytest.mark.parametrize(
    ("build", "gpu", "words"),
    [
        ({}, Gpu("A100", "8.0", "13.0"), "built for NVIDIA H200 (compute capability 9.0), here is A100"),
        # the same capability, another model: TensorRT timed its kernels on the other one
        ({}, Gpu("NVIDIA H100", "9.0", "13.0"), "NVIDIA H200 (compute capability 9.0), here is NVIDIA H100 (compute"),
        ({}, Gpu("NVIDIA H200", "9.1", "13.0"), "here is NVIDIA H200 (compute capability 9.1)"),
        ({"hardware_compatible": "ampere+"}, Gpu("T4", "7.5", "13.0"), "built for compute capability 8.0 and above"),
    ],
)
def test_tensorrt_on_another_gpu(build: dict[str, Any], gpu: Gpu, words: str, engine: Path) -> None:
    sidecar = replace(SIDECAR, build=replace(TENSORRT_BUILD, **build))
    message = refusal(engine, sidecar, host_with(gpu, "11.1.0.99"))
    assert words in message
    flag = " --hardware-compatible" if build else ""
    assert message.endswith(again(engine, f"--builder tensorrt --batch 1:8:32 --no-plugin{flag}"))
    assert target_of(sidecar.build) in message


def test_the_runtime_inside_a_version_compatible_engine_is_code_too(engine: Path) -> None:
    build = replace(TENSORRT_BUILD, version_compatible=True)
    host = host_with(H200, "11.1.0.99")
    assert "carries a runtime inside, so opening it runs code from the file; " in refusal(
        engine, replace(SIDECAR, build=build), host
    )
    both = replace(SIDECAR, build=build, plugin=replace(BESIDE, embedded=True))
    assert "carries its plugin and a runtime inside, so opening it" in refusal(engine, both, host)
    assert preflight(engine, both, host, allow_host_code=True) == H200


def test_permission_is_for_the_code_alone(engine: Path) -> None:
    """``--allow-engine-code`` opens nothing else: a replaced engine stays refused."""
    sidecar = replace(SIDECAR, plugin=replace(BESIDE, embedded=True))
    engine.write_bytes(ENGINE + b"!")
    assert "is not the file its sidecar describes" in refusal(engine, sidecar, host_with(), allow_host_code=True)


def test_what_costs_least_is_asked_first(engine: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the sidecar, then package metadata, then the size, then files, and the GPU last."""
    asked: list[str] = []

    def hashed(path: Path, real: Callable[[Path], str] = preflight_module.sha256_of) -> str:
        asked.append(f"hash of {path.name}")
        return real(path)

    def version(backend: str) -> str:
        asked.append("version")
        return "1.7.1.116"

    def gpu() -> Gpu:
        asked.append("GPU")
        return RTX_4090

    monkeypatch.setattr(preflight_module, "sha256_of", hashed)
    host = replace(host_with(version_of=version, library=library), gpu=gpu)
    sidecar = replace(SIDECAR, plugin=BESIDE)

    preflight(engine, sidecar, host)
    assert asked == ["version", "hash of liblit_deploy_tensorrt.so", "hash of lit.engine", "GPU"]
    asked.clear()
    refusal(engine, build_fault(os="Windows")(engine, sidecar, host)[0], host)
    assert asked == []
    refusal(engine, build_fault(backend_version="1.6.0")(engine, sidecar, host)[0], host)
    assert asked == ["version"]
    asked.clear()
    refusal(engine, replace(sidecar, plugin=replace(BESIDE, embedded=True)), host)
    assert asked == ["version"], "no gigabyte is hashed to ask for a permission"
    asked.clear()
    engine.write_bytes(ENGINE[:-1])
    refusal(engine, sidecar, host)
    assert "hash of lit.engine" not in asked, "the size told"
    assert "GPU" not in asked
    asked.clear()
    engine.write_bytes(ENGINE[::-1])
    refusal(engine, sidecar, host)
    assert asked[-1] == "hash of lit.engine", "the GPU is not asked about another engine"


# ----------------------------------------------------------------------------------------------- this machine


def test_this_host(monkeypatch: pytest.MonkeyPatch, library: Path) -> None:
    monkeypatch.undo()  # back ends may be asked for, not loaded
    monkeypatch.setenv(PLUGIN_VARIABLE, str(library))
    host = this_host()
    assert (host.os, host.arch) == here()
    assert (host.library, host.searched) == (library, (library,))
    assert host.version_of("tensorrt_rtx") == installed_version("tensorrt_rtx")
    if find_gpu() is None:
        with pytest.raises(MissingDependency):
            host.gpu()
    else:
        assert host.gpu() == find_gpu()


OPENED = """
import sys
from pathlib import Path
from lit_deploy.core.errors import LitDeployError
from lit_deploy.backends.open import open_session
for path in sys.argv[1:]:
    try:
        with open_session(path):
            print("opened")
    except LitDeployError as error:
        print(error)
print(sorted({"tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "torch"} & set(sys.modules)))
"""


def test_a_session_refuses_before_it_loads_tensorrt(tmp_path: Path) -> None:
    """The same through ``open_session``, in a process of its own: nothing of TensorRT, nor torch, is imported."""
    system, machine = here()
    version = installed_version("tensorrt_rtx") or "1.7.1.116"
    build = replace(SIDECAR.build, os=system, arch=machine, backend_version=version)
    fitting = replace(SIDECAR, build=build)
    cases = {
        "foreign": (replace(fitting, build=replace(build, os="Windows")), "was built for Windows"),
        "older": (replace(fitting, build=replace(build, backend_version="1.2.3")), "1.2.3"),
        "replaced": (replace(fitting, engine_sha256="0" * 64), "sidecar describes|not installed"),
        "embedded": (replace(fitting, plugin=replace(BESIDE, embedded=True)), "allow-engine-code|not installed"),
    }
    paths = []
    for name, (sidecar, _) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        paths.append(write_engine(folder, sidecar))
    done = subprocess.run(
        [sys.executable, "-c", OPENED, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=PACKAGE.parent,
    )
    *lines, loaded = done.stdout.splitlines()
    assert len(lines) == len(cases), done.stdout + done.stderr
    for line, (_, words) in zip(lines, cases.values(), strict=True):
        assert any(word in line for word in words.split("|")), line
    assert loaded == "[]"
