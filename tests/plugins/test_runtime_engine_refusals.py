"""Engines that the C runtime refuses: what it says, and that ``artifacts.sidecar`` refuses the same ones in Python.

CUDA and TensorRT are played by two libraries of ``plugins/tests/``; no GPU is needed.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.runtime_engine_worker import FAKES, FOUND, GPU, MAJOR, VERSION
from support.runtime_engines import PLUGIN, RELEASE, Play, assert_ran, images, needs_fakes, write_engine
from support.runtime_library import LIBRARY

from lit_deploy.artifacts.preflight import Host, preflight, rebuild_command
from lit_deploy.artifacts.sidecar import onnx_path, read_sidecar, sidecar_path
from lit_deploy.core.errors import LitDeployError
from lit_deploy.core.specs import TensorSpec
from lit_deploy.machine.cuda import Gpu
from lit_deploy.machine.native import PLUGIN_NAME

# -------------------------------------------------------------------------------------------------------- refusals

Case = tuple[dict[str, Any], dict[str, Any], str, str]
"""What is written, how it is opened, and the refusal: its status and how its sentence reads."""

OTHER = "12.9.0.1" if MAJOR != "12" else "13.9.0.1"
SAME = "--builder tensorrt --batch 1:4:8 --no-plugin"
REFUSALS: dict[str, Case] = {
    "another operating system": (
        {"build": {"os": "Windows"}},
        {},
        "LIT_NOT_SUPPORTED",
        f"was built for Windows x86_64, this is Linux x86_64; {{again}} {SAME}",
    ),
    "another architecture": (
        {"build": {"arch": "riscv64"}},
        {},
        "LIT_NOT_SUPPORTED",
        "was built for Linux riscv64, this is Linux ",
    ),
    "classes laid out differently": (
        {"build": {"backend_version": OTHER}},
        {},
        "LIT_NOT_SUPPORTED",
        f"needs TensorRT {OTHER}; this liblit_deploy_runtime.so was compiled with the headers of TensorRT {MAJOR}.",
    ),
    "no library": (
        {},
        {"variables": {"LIT_DEPLOY_TENSORRT": "/nowhere/libnvinfer.so"}},
        "LIT_LIBRARY_NOT_FOUND",
        "TensorRT could not be loaded (searched /nowhere/libnvinfer.so",
    ),
    "no library of TensorRT": (
        {},
        {"variables": {"LIT_DEPLOY_TENSORRT": str(FAKES / "libcuda.so.1")}},
        "LIT_WRONG_VERSION",
        "libcuda.so.1 has no getInferLibMajorVersion(); expected TensorRT 10 or newer",
    ),
    "TensorRT-RTX by the name of TensorRT": (
        {},
        {"version": (1, 7, 1, 116)},
        "LIT_WRONG_VERSION",
        "is 1.7.1.116, which is not TensorRT; ",
    ),
    "another major release": (
        {},
        {"version": (int(MAJOR or 0) + 1, 0, 0, 1)},
        "LIT_NOT_SUPPORTED",
        ", whose classes differ; build it with -DTensorRT_ROOT=",
    ),
    "another release": (
        {},
        {"version": (VERSION[0], 8, 0, 1)},
        "LIT_WRONG_VERSION",
        f"was built by TensorRT {RELEASE}, here is {MAJOR}.8.0.1 (",
    ),
    "an earlier release of a version-compatible one": (
        {"build": {"version_compatible": True}},
        {"version": (VERSION[0], 8, 0, 1), "options": {"allow_engine_code": 1}},
        "LIT_WRONG_VERSION",
        f"{SAME} --version-compatible",
    ),
    "a plugin inside": (
        {"plugin": replace(PLUGIN, embedded=True)},
        {},
        "LIT_NOT_SUPPORTED",
        "carries its plugin inside, so opening it runs code from the file; if you trust it, set allow_engine_code",
    ),
    "a plugin and a runtime inside": (
        {"plugin": replace(PLUGIN, embedded=True), "build": {"version_compatible": True}},
        {},
        "LIT_NOT_SUPPORTED",
        "carries its plugin and a runtime inside, ",
    ),
    "no plugin library": (
        {"plugin": PLUGIN},
        {},
        "LIT_LIBRARY_NOT_FOUND",
        "needs the plugin library liblit_deploy_tensorrt.so, which was not found (searched ",
    ),
    "a named plugin library that is not there": (
        {"plugin": PLUGIN},
        {"options": {"operator_library": "/nowhere/p.so"}},
        "LIT_LIBRARY_NOT_FOUND",
        "searched /nowhere/p.so",
    ),
    "another plugin library": (
        {"plugin": PLUGIN},
        {"options": {"operator_library": str(Path(__file__))}},
        "LIT_WRONG_VERSION",
        f"test_runtime_engine_refusals.py (SHA-256 {PLUGIN.sha256[:12]} expected); set LIT_DEPLOY_PLUGIN",
    ),
    "a plugin that is to be left out": (
        {"plugin": PLUGIN},
        {"options": {"operator_library": ""}},
        "LIT_NOT_SUPPORTED",
        "calls the plugin, which cannot be left out",
    ),
    "truncated": (
        {"engine_size": 10_000},
        {},
        "LIT_BAD_MODEL",
        "is not the file its sidecar describes (damaged or replaced; ",
    ),
    "replaced": ({"engine_sha256": "0" * 64}, {}, "LIT_BAD_MODEL", "is not the file its sidecar describes"),
    "no GPU": (
        {},
        {"gpu": (*GPU[:4], 0)},
        "LIT_NO_DEVICE",
        "CUDA device 0 was asked for, but this machine shows 0 of them",
    ),
    "too few GPUs": (
        {},
        {"options": {"device_index": 1}},
        "LIT_NO_DEVICE",
        "CUDA device 1 was asked for, but this machine shows 1",
    ),
    "an older driver": (
        {},
        {"gpu": ("Fake GPU", 9, 0, 12080, 1)},
        "LIT_WRONG_VERSION",
        "was built with CUDA 13, the driver here knows 12.8; update",
    ),
    "fp8 on Ampere": (
        {"manifest": {"precision": "fp8"}, "build": {"compute_capability": "8.6"}},
        {"gpu": ("Fake GPU", 8, 6, 13000, 1)},
        "LIT_NOT_SUPPORTED",
        "is of fp8, which needs compute capability 8.9 and above, here is Fake GPU (compute capability 8.6)",
    ),
    "another GPU": (
        {},
        {"gpu": ("Other", 9, 0, 13000, 1)},
        "LIT_NO_DEVICE",
        "was built for Fake GPU (compute capability 9.0), here is Other (compute capability 9.0); ",
    ),
    "the same name, another capability": (
        {},
        {"gpu": ("Fake GPU", 9, 1, 13000, 1)},
        "LIT_NO_DEVICE",
        "(compute capability 9.1); ",
    ),
    "older than Ampere": (
        {"build": {"hardware_compatible": "ampere+"}},
        {"gpu": ("T4", 7, 5, 13000, 1)},
        "LIT_NO_DEVICE",
        "was built for compute capability 8.0 and above, here is T4 (compute capability 7.5); ",
    ),
    "no engine": (
        {"lines": lambda text: "rubbish"},
        {},
        "LIT_BAD_MODEL",
        "{path} is refused by TensorRT {release} (Error Code 4: magic tag does not match); {again} ",
    ),
    "code that the engine hides": ({"more": "code\n"}, {}, "LIT_BAD_MODEL", "host code is not allowed"),
    "another class count": (
        {"lines": lambda text: text.replace("-1 7", "-1 9")},
        {},
        "LIT_BAD_MODEL",
        "has float32 logits [batch, 9], its sidecar promises float32 logits [batch, 7]; ",
    ),
    "another input type": (
        {"lines": lambda text: text.replace("in float32", "in float16")},
        {},
        "LIT_BAD_MODEL",
        "has float16 images [",
    ),
    "a tensor too many": (
        {"more": "tensor spare out float32 -1 2\n"},
        {},
        "LIT_BAD_MODEL",
        "has 3 tensors, its sidecar promises 2; ",
    ),
    "a tensor of another name": (
        {"lines": lambda text: text.replace("logits", "values")},
        {},
        "LIT_BAD_MODEL",
        "has no tensor 'logits', its sidecar promises ",
    ),
    "input and output swapped": (
        {"lines": lambda text: text.replace(" in ", " x ")},
        {},
        "LIT_BAD_MODEL",
        "its sidecar promises float32 images",
    ),
    "a profile too many": ({"more": "profile 1 2\n"}, {}, "LIT_BAD_MODEL", "has 2 profiles, its sidecar promises 1; "),
    "a sidecar that the manifest contradicts": (
        {
            "inputs": (TensorSpec("images", "float32", ("batch", 3, 16, 16)),),
            "lines": lambda text: text.replace("32 32", "16 16"),
        },
        {},
        "LIT_BAD_MODEL",
        "has float32 images [batch, 3, 16, 16], its sidecar promises float32 images [batch, 3, 32, 32] in its",
    ),
}


@needs_fakes
@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str, tmp_path: Path, play: Play) -> None:
    if name == "no plugin library" and (LIBRARY.resolve().parent / PLUGIN_NAME).exists():
        pytest.skip(f"{PLUGIN_NAME} lies beside the runtime, where it is found")
    written, opened, status, words = REFUSALS[name]
    path = write_engine(tmp_path, **written)
    played = play(path, **opened)
    again = f"build it again on this machine: lit-deploy export --ckpt {path}.onnx --format trt --out {path}"
    assert played.status == status, played
    assert words.format(path=path, again=again, release=RELEASE) in played.sentence
    assert "\n" not in played.sentence


@needs_fakes
def test_engines_of_other_tasks(tmp_path: Path, play: Play) -> None:
    """Told before anything else of the sidecar is read: what those will say is not known here."""
    path = write_engine(tmp_path)
    sidecar = sidecar_path(path)
    document = json.loads(sidecar.read_text())
    document["manifest"]["task"], document["profiles"] = "counting", {"by": "size"}
    sidecar.write_text(json.dumps(document))
    done = play(path)
    assert done.status == "LIT_NOT_SUPPORTED"
    assert "is for the task 'counting', this library runs classification, detection, " in done.sentence


@needs_fakes
def test_an_output_of_another_size_than_the_manifest_says(tmp_path: Path, play: Play) -> None:
    """Engine and sidecar leave it open, so that a run alone can tell; its results would be read as other classes'."""
    anything = TensorSpec("logits", "float32", ("batch", "classes"))
    for size, status in ((9, "LIT_RUN_FAILED"), (7, "LIT_OK")):
        path = write_engine(tmp_path, outputs=(anything,), lines=lambda text, n=size: text.replace("-1 7", f"-1 -{n}"))
        (answer,) = play(path, [("run", images(2))]).steps
        assert answer[0] == status, answer
        assert status == "LIT_OK" or "gives 'logits' another shape than float32 logits [batch, 7]" in answer[1]


ACCEPTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "CUDA not known": ({"build": {"cuda_version": None}}, {}),
    "a newer driver": ({}, {"gpu": ("Fake GPU", 9, 0, 14010, 1)}),
    "a later release of a version-compatible one": (
        {"build": {"version_compatible": True}},
        {"version": (VERSION[0], 16, 1, 2), "options": {"allow_engine_code": 1}},
    ),
    "Ampere and above": (
        {"build": {"hardware_compatible": "ampere+", "compute_capability": "8.6"}},
        {"gpu": ("Other", 12, 0, 13000, 1)},
    ),
    "fp8 on Hopper": ({"manifest": {"precision": "fp8"}}, {}),
    "the second GPU": ({}, {"options": {"device_index": 1}, "gpu": (*GPU[:4], 2)}),
    "code with permission": ({"more": "code\n"}, {"options": {"allow_engine_code": 1}}),
    "named by lit_options": (
        {},
        {
            "options": {"backend_library": str(FOUND[0]) if FOUND else ""},
            "variables": {"LIT_DEPLOY_TENSORRT": "/nowhere"},
        },
    ),
    "found by the linker": ({}, {"variables": {"LIT_DEPLOY_TENSORRT": ""}}),
    "layers": (
        {
            "more": "tensor norm out float32 -1 5\n",
            "build": {"layers": True},
            "outputs": (TensorSpec("logits", "float32", ("batch", 7)), TensorSpec("norm", "float32", ("batch", 5))),
        },
        {},
    ),
}


@needs_fakes
@pytest.mark.parametrize("name", ACCEPTED)
def test_what_fits_is_accepted(name: str, tmp_path: Path, play: Play) -> None:
    written, opened = ACCEPTED[name]
    played = play(write_engine(tmp_path, **written), [("run", images(3))], **opened)
    assert played.status == "LIT_OK", played.sentence
    assert_ran(played.steps[0], images(3))


def python_knows(name: str) -> bool:
    """Whether a case is about what ``preflight`` is told of: not where libraries lie, and nothing inside an engine."""
    written, opened = (REFUSALS | ACCEPTED)[name][:2]
    options = opened.get("options", {})
    return (
        not {"lines", "more"} & set(written)
        and set(opened) <= {"gpu", "version", "options"}
        and options.get("operator_library") != ""
        and opened.get("gpu", GPU)[4] == 1 > options.get("device_index", 0)
        and name
        not in ("classes laid out differently", "another major release", "TensorRT-RTX by the name of TensorRT")
    )


@needs_fakes
@pytest.mark.parametrize("name", [name for name in [*REFUSALS, *ACCEPTED] if python_knows(name)])
def test_python_says_the_same(name: str, tmp_path: Path) -> None:
    """Sidecar and machine, as both are told of them: what one of the two refuses, so does the other."""
    written, opened = (REFUSALS | ACCEPTED)[name][:2]
    path = write_engine(tmp_path, **written)
    options, gpu = opened.get("options", {}), opened.get("gpu", GPU)
    library = options.get("operator_library")
    sidecar = read_sidecar(path)
    host = Host(
        lambda backend: ".".join(map(str, opened.get("version", VERSION))),
        lambda: Gpu(gpu[0], f"{gpu[1]}.{gpu[2]}", f"{gpu[3] // 1000}.{gpu[3] % 1000 // 10}"),
        Path(library) if library and Path(library).exists() else None, (), "Linux", os.uname().machine,
    )  # fmt: skip
    allowed = bool(options.get("allow_engine_code"))
    if name in ACCEPTED:
        assert preflight(path, sidecar, host, allow_host_code=allowed)
    else:
        with pytest.raises(LitDeployError):
            preflight(path, sidecar, host, allow_host_code=allowed)


@needs_fakes
@pytest.mark.parametrize(
    "build",
    [
        {},
        {"hardware_compatible": "ampere+", "version_compatible": True},
        {"workspace_mib": 512, "optimization_level": 5, "layers": True},
        {"nms_candidates": 3000},
    ],
)
@pytest.mark.parametrize("plugin", [None, PLUGIN])
def test_the_command_is_python_s(build: dict[str, Any], plugin: Any, tmp_path: Path, play: Play) -> None:
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    path = write_engine(folder, build={**build, "os": "Plan9"}, plugin=plugin)
    onnx_path(path).touch()
    command = rebuild_command(path, read_sidecar(path))
    assert play(path).sentence.endswith(f"; build it again on this machine: {command}")
