"""A TensorRT that needs no GPU: engines are ONNX files that ONNX Runtime runs in the memory of ``fake_cuda``.

It holds callers to the rules of the real one: a context that is still running must not be changed; a shape must lie
inside the profile that was set before it; a graph is captured only after an ordinary run of the same shape, and replays
the shape and addresses that it was captured with.
"""

from __future__ import annotations

import importlib.machinery
import json
import platform
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx

from lit_deploy.artifacts.onnx_file import manifest_of, metadata_of
from lit_deploy.artifacts.sidecar import EngineBuild, EnginePlugin, Sidecar, SizeProfile, sidecar_path
from lit_deploy.core.files import sha256_of
from lit_deploy.core.specs import ORIGINAL_SIZE, TensorSpec
from lit_deploy.machine import native
from lit_deploy.machine import tensorrt as trt
from lit_deploy.ops.nms.matrix_form import COMPLETE
from lit_deploy.tasks.table import task_of
from support.fake_cuda import FakeDriver, Handle

MS_PER_IMAGE = 0.5
VERSION = "10.9.0.34"
IMAGES = np.random.default_rng(3).standard_normal((8, 3, 64, 64)).astype(np.float32)
"""What the engine of the fixture ``engine`` is given."""
PLUGIN = EnginePlugin("DeformableTokenMerging", "1", "lit_deploy", native.PLUGIN_NAME, "0" * 64, embedded=False)
PROFILES_KEY = "fake.profiles"
TYPES = {
    "tensor(float)": ("FLOAT", "float32"),
    "tensor(uint8)": ("UINT8", "uint8"),
    "tensor(int32)": ("INT32", "int32"),
    "tensor(int64)": ("INT64", "int64"),
}


class FakeTensorRT(ModuleType):
    """``tensorrt``; keeps every runtime and every context that is made."""

    ILogger = type("ILogger", (), {"__init__": lambda self: None})

    def __init__(self, driver: FakeDriver, name: str = "tensorrt", version: str = VERSION) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, origin="made up")
        self.__version__ = version
        self.driver = driver
        self.runtimes: list[FakeRuntime] = []
        self.contexts: list[FakeContext] = []
        self.Runtime = lambda logger: FakeRuntime(self, logger)


class FakeRuntime:
    """A runtime, and the registry of its plugins."""

    def __init__(self, module: FakeTensorRT, logger: Any) -> None:
        assert module.driver.depth == 1, "made without a CUDA context"
        self.module, self.logger = module, logger
        self.engine_host_code_allowed = False
        self.all_creators: list[SimpleNamespace] = []
        self.loaded: list[str] = []
        module.runtimes.append(self)

    def get_plugin_registry(self) -> FakeRuntime:
        return self

    def load_library(self, path: str) -> Any:
        self.loaded.append(path)
        self.all_creators.append(
            SimpleNamespace(name="DeformableTokenMerging", plugin_version="1", plugin_namespace="lit_deploy")
        )
        return "handle"

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        import onnxruntime

        try:
            return FakeEngine(self, onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]))
        except Exception:
            self.logger.log(0, "Error Code 4: magic tag does not match\nmore that nobody needs")
            return None


class FakeEngine:
    """An engine; its profiles stand in the metadata of the ONNX file."""

    def __init__(self, runtime: FakeRuntime, session: Any) -> None:
        self.runtime, self.session = runtime, session
        self.tensors = {value.name: value for value in (*session.get_inputs(), *session.get_outputs())}
        self.inputs = {value.name for value in session.get_inputs()}
        self.num_io_tensors = len(self.tensors)
        self.profiles = json.loads(session.get_modelmeta().custom_metadata_map.get(PROFILES_KEY, "[]"))
        self.num_optimization_profiles = max(1, len(self.profiles))

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=TYPES[self.tensors[name].type][0])

    def get_tensor_location(self, name: str) -> Any:
        return SimpleNamespace(name="HOST" if name == ORIGINAL_SIZE else "DEVICE")

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name="INPUT" if name in self.inputs else "OUTPUT")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self.tensors[name].shape)

    def create_runtime_config(self) -> Any:
        return SimpleNamespace()

    def create_execution_context(self, config: Any = None) -> Any:
        context = FakeContext(self)
        context.config = config
        self.runtime.module.contexts.append(context)
        return context


class FakeContext:
    """An execution context; ``runs`` and ``profiles_used`` record what was done with it."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.driver = engine, engine.runtime.module.driver
        self.profile: int | None = None
        self.shape: tuple[int, ...] | None = None  # of the first input, whose first dimension is the batch
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.pending = 0
        self.warm: set[tuple[Any, ...]] = set()
        self.profiles_used: list[int] = []
        self.runs: list[str] = []
        self.config: Any = None

    def _error(self, message: str) -> bool:
        self.engine.runtime.logger.log(1, message)
        return False

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        if self.pending:
            return self._error("the context is running")
        self.profile, self.shape, self.shapes = index, None, {}
        self.profiles_used.append(index)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self.pending:
            return self._error("the context is running")
        if self.engine.profiles:
            low, _, high = self.engine.profiles[self.profile or 0]
            if not low <= shape[0] <= high:
                return self._error(f"{shape} is outside profile {self.profile}")
        self.shapes[name] = tuple(shape)
        self.shape = self.shapes.get(next(iter(self.engine.tensors)))
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self.shape is not None
        if name in self.shapes:
            return self.shapes[name]
        return (self.shape[0], *self.engine.get_tensor_shape(name)[1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert not self.pending
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        handle: Handle = self.driver.live[stream]
        capturing = handle.captured is not None
        if self.profile is None or self.shape is None or set(self.addresses) != set(self.engine.tensors):
            return self._error("a profile, shape or address is not set")
        if capturing and (self.profile, self.shape) not in self.warm:
            return self._error("operation not permitted while the stream is capturing")
        shapes, addresses = {name: self.get_tensor_shape(name) for name in self.addresses}, dict(self.addresses)
        self.warm.add((self.profile, self.shape))
        self.runs.append("captured" if capturing else "enqueued")
        self.pending += not capturing

        def work() -> None:
            self._compute(shapes, addresses)
            self.pending -= not capturing

        self.driver._enqueue(handle, work)
        return True

    def _compute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        arrays = {}
        for name, shape in shapes.items():
            dtype = np.dtype(TYPES[self.engine.tensors[name].type][1])
            memory = self.driver.view(addresses[name], int(np.prod(shape)) * dtype.itemsize)
            arrays[name] = memory.view(dtype).reshape(shape)
        inputs = self.engine.inputs
        names = [name for name in arrays if name not in inputs]
        found = self.engine.session.run(names, {name: arrays[name] for name in inputs})
        for name, value in zip(names, found, strict=True):
            arrays[name][:] = value
        self.driver.clock += next(iter(shapes.values()))[0] * MS_PER_IMAGE


def modules(driver: FakeDriver, name: str = "tensorrt", version: str = VERSION) -> dict[str, ModuleType]:
    """What to put into ``sys.modules``."""
    cuda, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    cuda.bindings, bindings.driver = bindings, driver  # type: ignore[attr-defined]
    fake = FakeTensorRT(driver, name, version)
    return {"cuda": cuda, "cuda.bindings": bindings, "cuda.bindings.driver": driver, name: fake}


def install() -> None:
    """For a process that does nothing but run fake engines."""
    sys.modules.update(modules(FakeDriver()))


def write_engine(
    onnx_file: Path,
    engine: Path,
    profiles: tuple[tuple[int, int, int], ...] = ((1, 4, 8),),
    *,
    content: bytes | None = None,
    layers: bool = False,
    sizes: SizeProfile | None = None,
    plugin: EnginePlugin | None = None,
    **build: Any,
) -> Sidecar:
    """Write an "engine" and its sidecar; ``content`` is the ONNX file with further outputs, ``build`` what differs."""
    model = onnx.load_from_string(content) if content else onnx.load(str(onnx_file))
    manifest = manifest_of(metadata_of(model), onnx_file)
    model.metadata_props.add(key=PROFILES_KEY, value=json.dumps(profiles))
    onnx.save(model, str(engine))
    usual: dict[str, Any] = {
        "backend": "tensorrt", "backend_version": trt.installed_version("tensorrt") or VERSION,
        "cuda_version": "13.0", "gpu": "Fake GPU", "compute_capability": "9.0", "targets": (),
        "os": platform.system(), "arch": platform.machine(), "hardware_compatible": "none",
        "version_compatible": False, "workspace_mib": None, "optimization_level": None, "timing_cache": False,
        "layers": layers,
    }  # fmt: skip
    shapes = {v.name: tuple(d.dim_value or "batch" for d in v.type.tensor_type.shape.dim) for v in model.graph.output}
    task = task_of(manifest)
    complete = [TensorSpec(COMPLETE, "int32", (1,))] if COMPLETE in shapes else []
    further = [TensorSpec(name, "float32", shapes[name]) for name in manifest.layers if layers]
    sidecar = Sidecar(
        engine_sha256=sha256_of(engine), engine_size=engine.stat().st_size, onnx=onnx_file.name,
        onnx_sha256=sha256_of(onnx_file), build=EngineBuild(**{**usual, **build}), profiles=profiles,
        inputs=task.input_specs(manifest), outputs=(*task.output_specs(manifest), *complete, *further),
        plugin=plugin, inspections=(), parity=None, manifest=manifest, sizes=sizes,
    )  # fmt: skip
    sidecar_path(engine).write_text(sidecar.to_json())
    return sidecar
