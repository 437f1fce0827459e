"""The builder process from inside: the calls it makes, what it counts, and how it tells its progress.

TensorRT itself cannot build without a GPU: a stand-in (``fake_builder``) takes its place. What TensorRT-RTX really
builds is in ``test_engine_export``.
"""

from __future__ import annotations

import enum
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from support import fake_builder
from support.engines import ROOT, needs_rtx
from support.exported import export_of
from support.fake_builder import Behaviour, DataType, Layer, LayerType

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.core.errors import MissingDependency, UsageError
from lit_deploy.core.progress import Step
from lit_deploy.exporters import tensorrt_builder
from lit_deploy.exporters.tensorrt_builder import BuildRefused, build, make_monitor, summary_of
from lit_deploy.machine import tensorrt as trt
from lit_deploy.machine.cuda import Gpu
from lit_deploy.models.families import FAMILIES

CheckpointFile = Callable[[str], Path]
A100 = Gpu("NVIDIA A100", "8.0", "13.0")
MODEL = b"an ONNX model"
PLUGINS = ["DeformableTokenMerging"]
PROFILE = {"images": [[batch, 64, 64, 3] for batch in (1, 8, 32)]}


class Request:
    """A request with its descriptors of anonymous memory, and what a build left in them."""

    def __init__(self, model: bytes = MODEL, cache: bytes | None = None, **changes: Any) -> None:
        self.files = {"model": self._memory(model), "engine": self._memory(b"")}
        if cache is not None:
            self.files["cache"] = self._memory(cache)
        fields: dict[str, Any] = {
            "backend": "tensorrt", "library": None, "profile": PROFILE, "dims": {}, "embed_plugin": False,
            "hardware_compatible": False, "version_compatible": False, "targets": (), "workspace_mib": None,
            "optimization_level": None, "layers": False, "cache": None, "float32_prefixes": ["patch_embed."],
            "plugins": PLUGINS,
        }  # fmt: skip
        self.fields = {**fields, **self.files, **changes}

    @staticmethod
    def _memory(content: bytes) -> int:
        descriptor = os.memfd_create("test")
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def left(self, name: str) -> bytes:
        return os.pread(self.files[name], 1 << 26, 0)


def shown_in(steps: list[str]) -> Callable[..., None]:
    """What the builder is given to say its steps to: they come out as a user sees them."""
    return lambda name, fraction=None: steps.append(str(Step(name, fraction)))


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[dict[str, Any], Request, list[str]]]]:
    """``builder(behaviour, gpu, **request)`` builds in this process; gives facts, request and the steps said."""
    requests: list[Request] = []

    def run(behaviour: Behaviour, gpu: Gpu | None = None, **request: Any) -> tuple[dict[str, Any], Request, list[str]]:
        monkeypatch.setitem(sys.modules, "tensorrt", fake_builder.make_module(behaviour))
        monkeypatch.setattr(tensorrt_builder, "find_gpu", lambda: gpu)
        monkeypatch.setattr(tensorrt_builder, "_plugin_calls", lambda library: 0 if library is None else 3)
        requests.append(Request(**request))
        steps: list[str] = []
        return build(requests[-1].fields, shown_in(steps)), requests[-1], steps

    yield run
    for request in requests:
        for name, descriptor in request.files.items():
            if name != "model":  # the builder closed that one itself
                os.close(descriptor)


@needs_rtx
def test_the_stand_in_has_the_names_of_the_real_module() -> None:
    """A fake that answers to invented names would prove nothing at all."""
    real, fake = trt.load("tensorrt_rtx"), fake_builder.make_module(Behaviour())
    for name, value in vars(fake).items():
        if name.startswith("_"):
            continue
        assert hasattr(real, name), name
        if isinstance(value, type) and issubclass(value, enum.Enum):
            for member in value:
                assert hasattr(getattr(real, name), member.name), f"{name}.{member.name}"
    for name in ("Builder", "OnnxParser", "Runtime"):
        for member in vars(getattr(fake, name)):
            assert member.startswith("_") or hasattr(getattr(real, name), member), f"{name}.{member}"
    for member in DataType:
        assert hasattr(real.DataType, member.name)
    for kind in LayerType:
        assert hasattr(real.LayerType, kind.name)
    configuration = vars(real.IBuilderConfig)
    assert {"set_flag", "clear_flag", "add_optimization_profile", "create_timing_cache"} <= configuration.keys()


TF32 = """
from lit_deploy.machine import tensorrt as trt
module = trt.load("tensorrt_rtx")
config = module.Builder(trt.make_logger(module, lambda severity, message: None)).create_builder_config()
print(config.get_flag(module.BuilderFlag.TF32))
config.clear_flag(module.BuilderFlag.TF32)
print(config.get_flag(module.BuilderFlag.TF32))
"""


@needs_rtx
def test_the_real_builder_begins_with_tf32() -> None:
    """What the stand-in does as well; in a process of its own, as everything that is really TensorRT's."""
    done = subprocess.run([sys.executable, "-c", TF32], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["True", "False"]


# ------------------------------------------------------------------------------------------------ the calls


def test_a_plain_build(builder: Any) -> None:
    behaviour = Behaviour()
    facts, request, steps = builder(behaviour)
    calls = behaviour.calls
    assert request.left("engine") == fake_builder.ENGINE
    assert calls["model"] == MODEL
    assert calls["network_flags"] == 0b10, "strongly typed"
    assert calls["profile"] == {"images": ((1, 64, 64, 3), (8, 64, 64, 3), (32, 64, 64, 3))}
    assert calls["profiles"] == 1
    assert calls["profiling_verbosity"].name == "DETAILED"
    assert calls["flags"] == set(), "TF32 is off, and nothing else is on"
    untouched = {
        "memory", "builder_optimization_level", "hardware_compatibility_level", "plugins_to_serialize",
        "old_cache", "num_compute_capabilities", "plugin_library", "deserialised",
    }  # fmt: skip
    assert calls.keys() & untouched == set(), "what was not asked for stays TensorRT's own choice"
    assert facts == {
        "inspections": [{"source": "network", "products": {"float16": 2}, "plugin_layers": 0, "layers": 4}],
        "plugin_calls": 0,
        "inputs": [{"name": "images", "dtype": "uint8", "shape": ["batch", 64, 64, 3]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 7]}],
    }
    assert steps == ["parse the ONNX model", "  0 %  building", " 50 %  building"]


def test_every_setting_arrives(builder: Any, tmp_path: Path) -> None:
    behaviour = Behaviour()
    _, request, _ = builder(
        behaviour, profile={}, workspace_mib=48, optimization_level=5, version_compatible=True,
        hardware_compatible=True, embed_plugin=True, library=str(tmp_path / "plugin.so"), cache=b"older ",
    )  # fmt: skip
    calls = behaviour.calls
    assert "profile" not in calls, "a fixed batch needs none"
    assert (calls["memory"][0].name, calls["memory"][1]) == ("WORKSPACE", 48 * 1024**2)
    assert calls["builder_optimization_level"] == 5
    assert [flag.name for flag in calls["flags"]] == ["VERSION_COMPATIBLE"], "and no TF32"
    assert calls["hardware_compatibility_level"].name == "AMPERE_PLUS"
    assert calls["plugin_library"] == str(tmp_path / "plugin.so")
    assert calls["plugins_to_serialize"] == [str(tmp_path / "plugin.so")]
    assert (calls["old_cache"], calls["ignore_mismatch"]) == (b"older ", False)
    assert request.left("cache") == b"older " + fake_builder.CACHE


def test_a_shorter_cache_replaces_a_longer_one(builder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_builder, "CACHE", b"")
    behaviour = Behaviour()
    _, request, _ = builder(behaviour, cache=b"x" * 1000)
    assert request.left("cache") == b"x" * 1000
    tensorrt_builder._write(request.files["cache"], memoryview(b"short"))
    assert request.left("cache") == b"short"


def test_releases_without_the_flag_for_strong_typing(builder: Any) -> None:
    """Where strongly typed networks are the only ones, the flag may be gone: none is set."""
    behaviour = Behaviour(strongly_typed_flag=False)
    builder(behaviour)
    assert behaviour.calls["network_flags"] == 0


def test_layers_become_outputs(builder: Any, checkpoint_file: CheckpointFile) -> None:
    """The model of a debug build has the manifest's layers as float32 outputs; the one that is kept has not."""
    source = export_of(checkpoint_file("tiny"), precision="fp16")
    behaviour = Behaviour()
    builder(behaviour, model=source.read_bytes(), layers=True)
    outputs = onnx.load_from_string(behaviour.calls["model"]).graph.output
    assert [value.name for value in outputs] == ["logits", *read_manifest(source).layers]
    assert {value.type.tensor_type.elem_type for value in outputs} == {onnx.TensorProto.FLOAT}
    builder(behaviour, model=source.read_bytes())
    assert behaviour.calls["model"] == source.read_bytes()


# --------------------------------------------------------------------------------------------- refusals


def refusal(builder: Any, behaviour: Behaviour, **request: Any) -> str:
    with pytest.raises(BuildRefused) as caught:
        builder(behaviour, **request)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_refusals_are_one_sentence(builder: Any) -> None:
    assert refusal(builder, Behaviour(can_start=False)) == (
        "TensorRT cannot start its builder here (pybind11::init(): factory function returned nullptr)"
    )
    message = refusal(builder, Behaviour(parse_errors=("no creator\n  for   X", "and so on")))
    assert message == "TensorRT 10.16.0.72 cannot parse the model (no creator for X)"
    message = refusal(builder, Behaviour(built=False, log=((2, "only a warning"), (1, "out of memory"), (1, "then"))))
    assert message == "TensorRT 10.16.0.72 could not build the engine (out of memory)"
    message = refusal(builder, Behaviour(built=False, log=((2, "only a warning"),)))
    assert message == "TensorRT 10.16.0.72 could not build the engine (it gives no reason)"
    long = refusal(builder, Behaviour(built=False, log=((0, "word " * 1000),)))
    assert len(long) < 400, "the log has the rest"
    message = refusal(builder, Behaviour(cache_fits=False), cache=b"of another release")
    assert message == "the timing cache is damaged or from another release or GPU; delete it"


def test_an_old_tensorrt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_builder.make_module(Behaviour(), "10.3.0"))
    request = Request()
    with pytest.raises(MissingDependency, match=r"10\.3\.0 is older than 10\.9"):
        build(request.fields, lambda step, fraction=None: None)
    for descriptor in request.files.values():
        os.close(descriptor)


@needs_rtx
def test_rtx_without_a_target(tmp_path: Path) -> None:
    """The real module: a library that is none, as a sentence."""
    (tmp_path / "plugin.so").write_bytes(b"\x7fELF but no more")
    request = Request(backend="tensorrt_rtx", library=str(tmp_path / "plugin.so"))
    with pytest.raises(UsageError, match="it is no plugin library"):
        build(request.fields, lambda step, fraction=None: None)
    for descriptor in request.files.values():
        os.close(descriptor)


def test_the_log_reaches_stderr_without_the_noise(builder: Any, capfd: pytest.CaptureFixture[str]) -> None:
    noise = f"Value x {tensorrt_builder.NOISE}"
    builder(Behaviour(log=((3, "detected inputs"), (4, "chatter"), (2, noise), (1, "odd"))))
    assert capfd.readouterr().err.splitlines() == ["[info] detected inputs", "[error] odd"]


# ------------------------------------------------------------------------------------------- what was built


@pytest.mark.parametrize(
    "prefix", [family.patch_prefix for family in FAMILIES.values()], ids=lambda prefix: prefix.rstrip(".")
)
def test_network_inspection_counts_by_type(prefix: str, builder: Any) -> None:
    product, plugin = LayerType.MATRIX_MULTIPLY, LayerType.PLUGIN_V3
    layers = [
        Layer(product, f"{prefix}proj/MatMul", DataType.FLOAT),
        Layer(product, f"{prefix}other/MatMul", DataType.FLOAT),
        Layer(product, "patch_embed2.dconv/MatMul", DataType.BF16),
        Layer(product, "layers.0.blocks.0/MatMul", DataType.BF16),
        Layer(product, "head/MatMul", DataType.FLOAT),
        Layer(plugin, "layers.0.downsample"),
        Layer(LayerType.SHUFFLE, "PLUGIN by name only"),
    ]
    facts, _, _ = builder(Behaviour(layers=layers), float32_prefixes=[prefix])
    (found,) = facts["inspections"]
    assert found["products"] == {"bfloat16": 2, "float32": 1}, "LIT-Ti's mergings count; the forgotten head shows"
    assert (found["plugin_layers"], found["layers"]) == (1, 7)


INSPECTED = [
    {"Name": "layers.0.downsample/DeformableTokenMerging", "LayerType": "PluginV3",
     "Outputs": [{"Name": "a", "Format/Datatype": "Half"}]},
    {"Name": "reformat for DeformableTokenMerging", "LayerType": "Reformat",
     "Outputs": [{"Name": "b", "Format/Datatype": "Row major linear FP16 format"}]},
    {"Name": "norm", "Outputs": [{"Format/Datatype": "Float"}, {"Format/Datatype": "Row major Linear FP32"}]},
    {"Name": "classes", "Outputs": [{"Format/Datatype": "Int64"}]},
    {"Name": "bf", "Outputs": [{"Format/Datatype": "BFloat16"}, {"Format/Datatype": "Row major BF16"}]},
    {"Name": "wide", "Outputs": [{"Format/Datatype": "Float16"}, {"Format/Datatype": "Float32"}]},
    "PluginV3 lit_deploy::DeformableTokenMerging",
    "a layer that is told by name only",
]  # fmt: skip


def test_summary_of_the_inspectors_layers() -> None:
    summary = summary_of(INSPECTED, PLUGINS)
    assert summary["products"] == {"float16": 3, "float32": 3, "bfloat16": 2, "other": 1}
    assert (summary["plugin_layers"], summary["layers"], summary["source"]) == (2, 8, "engine")
    assert summary_of([], PLUGINS) == {"source": "engine", "products": {}, "plugin_layers": 0, "layers": 0}


def test_the_engine_is_inspected_where_a_gpu_is(builder: Any) -> None:
    behaviour = Behaviour(inspected=INSPECTED)
    facts, _, steps = builder(behaviour, A100)
    assert [found["source"] for found in facts["inspections"]] == ["network", "engine"]
    assert facts["inspections"][1] == summary_of(INSPECTED, PLUGINS)
    assert behaviour.calls["deserialised"] == (fake_builder.ENGINE, True), "the code inside was put there just now"
    assert steps[-1] == "inspect the engine"
    facts, _, _ = builder(Behaviour(deserialises=False), A100)
    assert len(facts["inspections"]) == 1, "built for another GPU than this one: the network is what can be looked at"


# ---------------------------------------------------------------------------------------------- progress


@pytest.fixture
def monitor() -> tuple[Any, list[str]]:
    class IProgressMonitor:
        def __init__(self) -> None:
            self.constructed = True

    steps: list[str] = []
    made = make_monitor(SimpleNamespace(IProgressMonitor=IProgressMonitor), shown_in(steps))
    assert made.constructed, "TensorRT's own constructor has run"
    return made, steps


def percentages(steps: list[str]) -> list[int]:
    return [int(step.split("%")[0]) for step in steps]


def test_phases_nest(monitor: tuple[Any, list[str]]) -> None:
    """Half of an inner phase of four outer ones is an eighth."""
    watch, steps = monitor
    watch.phase_start("Build", None, 4)
    watch.phase_start("Fuse", "Build", 2)
    assert watch.step_complete("Fuse", 0) is True, "False would cancel the build"
    watch.phase_start("Deep", "Fuse", 10)
    watch.step_complete("Deep", 4)
    watch.phase_finish("Deep")
    watch.step_complete("Fuse", 1)
    watch.phase_finish("Fuse")
    watch.step_complete("Build", 0)
    watch.step_complete("Build", 3)
    watch.phase_finish("Build")
    assert steps == ["  0 %  build", " 12 %  fuse", " 18 %  deep", " 25 %  fuse", "100 %  build"]


def test_phases_that_end_early_and_odd_calls(monitor: tuple[Any, list[str]]) -> None:
    watch, steps = monitor
    watch.phase_start("Build", None, 2)
    watch.phase_start("Cut short", "Build", 1000)
    watch.step_complete("Cut short", 9)
    watch.phase_finish("Cut short")
    watch.step_complete("Cut short", 10)  # a thread that comes late
    watch.step_complete("Build", 0)
    watch.phase_start("Nothing to do", "Build", 0)
    watch.phase_start("Parent unknown", "Gone", 1)
    watch.step_complete("Build", 7)  # more than was announced
    watch.phase_finish("Never started")
    found = percentages(steps)
    assert found == sorted(found)
    assert len(set(found)) == len(found), "each is said once"
    assert found[-1] == 100


def test_a_second_outermost_phase_does_not_run_backwards(monitor: tuple[Any, list[str]]) -> None:
    watch, steps = monitor
    for name in ("First", "Second"):
        watch.phase_start(name, None, 2)
        for step in range(2):
            watch.step_complete(name, step)
        watch.phase_finish(name)
    assert percentages(steps) == [0, 50, 100]


def test_threads_mix(monitor: tuple[Any, list[str]]) -> None:
    """TensorRT calls from several threads: none stumbles over another's phases, and percentages still ascend."""
    watch, steps = monitor
    watch.phase_start("Build", None, 1000)
    completed = itertools.count()

    def work(number: int) -> None:
        for turn in range(150):
            names = [f"Phase {number}.{turn}.{depth}" for depth in range(4)]
            for name, parent in zip(names, ["Build", *names], strict=False):
                watch.phase_start(name, parent, 3)
                watch.step_complete(name, random.Random(turn).randrange(3))
            for name in reversed(names):
                watch.phase_finish(name)
            watch.step_complete("Build", next(completed))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(work, range(6))) == [None] * 6
    finally:
        sys.setswitchinterval(before)
    found = percentages(steps)
    assert found == sorted(set(found)), "each once, in order"
    assert found[-1] >= 89, "900 of 1000 steps"
