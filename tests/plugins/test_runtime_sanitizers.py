"""The C runtime under AddressSanitizer, UndefinedBehaviorSanitizer, LeakSanitizer and ThreadSanitizer.

ONNX Runtime itself is not instrumented: what it allocates is watched, what it writes is not.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import onnx
import pytest
from onnx import TensorProto, helper
from support.exported import export_of
from support.fake_tensorrt import write_engine
from support.micro_dense import found, micro_dense, micro_dense_manifest
from support.native_build import GENERATOR, needs_cmake, needs_compiler, run_tool
from support.runtime_library import ROOT
from support.runtime_models import UINT8, micro, micro_manifest, needs_onnxruntime
from support.shared import later

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.artifacts.sidecar import sidecar_path
from lit_deploy.core.specs import TaskName
from lit_deploy.machine.native import find_onnxruntime_library
from lit_deploy.ops.deformable_token_merging.schema import DOMAIN, OP_TYPE

SUPPRESSIONS = ROOT / "plugins" / "tests" / "runtime_tsan.supp"
CheckpointFile = Callable[[str], Path]

pytestmark = [needs_onnxruntime, needs_cmake, needs_compiler]


def called(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command; stdout and stderr together."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LIT_DEPLOY_")}
    kept["LIT_DEPLOY_ONNXRUNTIME"] = str(find_onnxruntime_library())
    return run_tool(*command, environment={**kept, **environment})


def built(folder: Path, sanitizer: str, *targets: str) -> Path:
    """A sanitizer build without optimisation, which would cost more than it saves here; its folder."""
    plain = ("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0", f"-DLIT_DEPLOY_SANITIZE={sanitizer}")
    configured = called("cmake", *GENERATOR, "-S", ROOT / "plugins", "-B", folder, *plain)
    assert configured.returncode == 0, configured.stdout
    if "The C runtime is NOT built" in configured.stdout:
        pytest.skip("the C runtime cannot be built here: its headers are missing (see plugins/runtime/CMakeLists.txt)")
    done = called("cmake", "--build", folder, "--parallel", "2", "--target", *targets)
    assert done.returncode == 0, done.stdout
    assert "warning:" not in done.stdout, done.stdout
    return folder


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of it with AddressSanitizer, UndefinedBehaviorSanitizer and LeakSanitizer."""
    programs = [f"lit_deploy_runtime_{name}" for name in ("driver", "fuzz", "memory")]
    return built(tmp_path_factory.mktemp("address"), "ON", *programs, "lit_deploy_onnxruntime")


@pytest.fixture(scope="module")
def thread(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver with ThreadSanitizer, on a machine where that can run."""
    folder = built(tmp_path_factory.mktemp("thread"), "thread", "lit_deploy_runtime_driver")
    if "unexpected memory mapping" in driven(folder, "none", "none").stdout:
        pytest.skip("ThreadSanitizer does not know this kernel's memory layout: sysctl vm.mmap_rnd_bits=28")
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that opens in a millisecond and takes pixels."""
    return micro(tmp_path_factory.mktemp("small") / "small.onnx", micro_manifest(input=UINT8))


def driven(build: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # Newer kernels scatter mappings more widely than ThreadSanitizer expects; without randomisation they do not.
    unscattered = (
        ["setarch", platform.machine(), "-R"] if build.name.startswith("thread") and shutil.which("setarch") else []
    )
    return called(
        *unscattered,
        build / "lit_deploy_runtime_driver",
        *arguments,
        TSAN_OPTIONS=f"halt_on_error=1 suppressions={SUPPRESSIONS}",
        UBSAN_OPTIONS="print_stacktrace=1",
        **environment,
    )


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("network", [pytest.param("small", marks=later), "tiny"])
def test_many_threads(
    sanitizer: str, network: str, small: Path, checkpoint_file: CheckpointFile, request: pytest.FixtureRequest
) -> None:
    path = small if network == "small" else export_of(checkpoint_file("tiny"))
    done = driven(request.getfixturevalue(sanitizer), "threads", path)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout


@pytest.mark.parametrize(
    ("sanitizer", "fault", "report"),
    [
        ("address", "leak", r"LeakSanitizer: detected memory leaks[\s\S]*lit_context_create"),
        ("address", "overflow", r"AddressSanitizer: heap-buffer-overflow[\s\S]*resample\.cc"),
        ("thread", "race", r"ThreadSanitizer: data race[\s\S]*api\.cc"),
    ],
)
def test_planted_faults_are_reported(
    sanitizer: str, fault: str, report: str, small: Path, request: pytest.FixtureRequest
) -> None:
    """Inside the library, whose code is therefore watched."""
    done = driven(request.getfixturevalue(sanitizer), fault, small)
    assert done.returncode != 0
    assert re.search(report, done.stdout), done.stdout


def test_a_thousand_lives_leave_nothing(address: Path, small: Path) -> None:
    """Nothing leaks, and nothing piles up that is still reachable."""
    done = driven(address, "cycles", small, "1000")
    assert done.returncode == 0, done.stdout
    early, late = map(int, re.findall(r"heap (\d+) (\d+)", done.stdout)[0])
    assert late - early < 900 * 100, "more than ONNX Runtime's own 60 bytes per session"


@pytest.mark.parametrize("task", get_args(TaskName))
def test_every_allocation_may_fail(task: TaskName, address: Path, small: Path, tmp_path: Path) -> None:
    """One after the other, alone and with all that follow: a status each time, nothing leaks, the process goes on."""
    path = small
    if task != "classification":
        manifest = micro_dense_manifest(task, 4)
        masks = task == "instance_segmentation"
        said = None if task == "semantic_segmentation" else found(4, 4, (57, 91), masks=masks)
        path = micro_dense(tmp_path / f"{task}.onnx", manifest, said)
    done = called(address / "lit_deploy_runtime_memory", path)
    assert done.returncode == 0, done.stdout
    assert min(map(int, re.findall(r"\d+", done.stdout))) > 100


@pytest.mark.parametrize("shape", [(1, 2, 2, 2**62), (2**21, 2**21, 2**21, 4)], ids=str)
def test_sizes_that_a_file_declares_do_not_overflow(shape: tuple[int, ...], address: Path, tmp_path: Path) -> None:
    """In the operator's shape inference, which multiplies them."""
    dims = {"x": shape, "offset_weight": (8, 4), "offset_bias": (8,)}

    def change(model: onnx.ModelProto) -> None:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in dims.items()]
        model.graph.input.extend(values)
        model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, (None,) * 4))
        model.graph.node.append(helper.make_node(OP_TYPE, list(dims), ["y"], domain=DOMAIN))
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))

    library = str(address / "liblit_deploy_onnxruntime.so")
    file = micro(tmp_path / "huge.onnx", change=change)
    # ONNX Runtime leaks what a custom operator refuses with.
    done = driven(address, "refused", file, LIT_DEPLOY_LIBRARY=library, ASAN_OPTIONS="detect_leaks=0")
    assert done.returncode == 0, done.stdout
    assert "expected at most 2^48 elements" in done.stdout


# ----------------------------------------------------------------------------------------------------- damaged files


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory, small: Path, checkpoint_file: CheckpointFile) -> dict[str, Path]:
    """A whole file for every target of ``runtime_fuzz.cc``."""
    folder = tmp_path_factory.mktemp("seeds")
    manifest, engine = folder / "manifest.json", folder / "tiny.engine"
    tiny = export_of(checkpoint_file("tiny"))
    manifest.write_text(read_manifest(tiny).to_json())
    write_engine(tiny, engine)
    return {"manifest": manifest, "metadata": small, "model": small, "network": tiny, "sidecar": sidecar_path(engine)}


@pytest.mark.parametrize(
    ("target", "seed", "count"),
    [
        ("manifest", "manifest", 3000),
        ("metadata", "metadata", 2000),
        ("model", "model", 1000),
        ("model", "network", 20),
        ("sidecar", "sidecar", 1000),
    ],
)
def test_damaged_files_are_refused_in_words(
    target: str, seed: str, count: int, address: Path, seeds: dict[str, Path], tmp_path: Path
) -> None:
    """Always the same damage; libFuzzer, which looks for more, is built with -DLIT_DEPLOY_FUZZ=ON."""
    current = tmp_path / "current"
    variables = {"LIT_DEPLOY_FUZZ": target, "LIT_DEPLOY_FUZZ_CURRENT": str(current)}
    done = called(address / "lit_deploy_runtime_fuzz", "1", str(count), seeds[seed], **variables)
    if target == "sidecar" and "LIT_DEPLOY_FUZZ is none of" in done.stdout:
        pytest.skip("the TensorRT back end of the C runtime is not built: no TensorRT headers")
    assert (done.returncode, done.stdout) == (0, f"{count + 1} inputs\n"), f"{current}: {done.stdout}"
