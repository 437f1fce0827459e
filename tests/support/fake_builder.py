"""A stand-in for the Python module ``tensorrt``, just enough for our builder.

It proves which calls are made, with what, and how refusals are told; it proves nothing about TensorRT. Its names are
held to those of the real TensorRT-RTX module by a test. A name that is not here raises AttributeError, as there.
"""

from __future__ import annotations

import enum
import json
import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

CACHE = b"kernel times"
ENGINE = b"a serialised engine"


class DataType(enum.Enum):
    """Element types by TensorRT's names."""

    FLOAT = 0
    HALF = 1
    INT64 = 2
    UINT8 = 3
    BF16 = 4
    INT8 = 5
    FP8 = 6


class LayerType(enum.Enum):
    """The kinds of layers that are counted, those that lead to their types, and one that does neither."""

    MATRIX_MULTIPLY = 0
    PLUGIN_V3 = 1
    SHUFFLE = 2
    UNSQUEEZE = 3
    QUANTIZE = 4
    DEQUANTIZE = 5
    CONSTANT = 6
    ACTIVATION = 7


@dataclass
class Tensor:
    """An input or output; a size of -1 is dynamic."""

    name: str
    dtype: DataType
    shape: tuple[int, ...]


@dataclass
class Layer:
    """A layer with one output; an input that no layer of the network gives is one of the network."""

    type: LayerType
    name: str
    dtype: DataType = DataType.HALF
    inputs: tuple[Layer, ...] = ()
    num_outputs = 1

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index].get_output(0) if index < len(self.inputs) else Tensor("images", self.dtype, (-1, 4))

    def get_output(self, index: int) -> Tensor:
        return Tensor(f"{self.name}_output_{index}", self.dtype, (-1, 4))


@dataclass
class Behaviour:
    """What the stand-in is to do, and, after a build, what it was asked.

    Attributes:
        layers: of the parsed network. ``parse_errors``: what the parser says instead of parsing.
        can_start: whether there is a GPU to build on. ``strongly_typed_flag``: 10.x has it, later releases may not.
        built: whether the build succeeds; else ``log`` says why. ``cache_fits``: whether a timing cache is taken.
        deserialises: whether the engine can run here. ``inspected``: the inspector's layers.
        calls: every setting and call that counts, by name.
    """

    layers: list[Layer] = field(
        default_factory=lambda: [
            Layer(LayerType.MATRIX_MULTIPLY, "patch_embed.proj/MatMul", DataType.FLOAT),
            Layer(LayerType.MATRIX_MULTIPLY, "layers.0/MatMul"),
            Layer(LayerType.MATRIX_MULTIPLY, "head/MatMul"),
            Layer(LayerType.SHUFFLE, "reshape", DataType.FLOAT),
        ]
    )
    parse_errors: tuple[str, ...] = ()
    can_start: bool = True
    strongly_typed_flag: bool = True
    built: bool = True
    log: tuple[tuple[int, str], ...] = ()
    cache_fits: bool = True
    deserialises: bool = True
    inspected: list[Any] = field(default_factory=list)
    calls: dict[str, Any] = field(default_factory=dict)


def make_module(behaviour: Behaviour, version: str = "10.16.0.72") -> ModuleType:
    """The module ``tensorrt`` of that behaviour."""
    calls = behaviour.calls
    builder_flag = enum.Enum("BuilderFlag", ["VERSION_COMPATIBLE", "TF32"])

    class Base:
        def __init__(self) -> None:
            self.constructed = True

    class Profile:
        def set_shape(self, name: str, least: Any, best: Any, most: Any) -> None:
            calls.setdefault("profile", {})[name] = (least, best, most)

    class Network:
        num_inputs = num_outputs = 1
        num_layers = len(behaviour.layers)

        def get_layer(self, index: int) -> Layer:
            return behaviour.layers[index]

        def get_input(self, index: int) -> Tensor:
            return Tensor("images", DataType.UINT8, (-1, 64, 64, 3))

        def get_output(self, index: int) -> Tensor:
            return Tensor("logits", DataType.FLOAT, (-1, 7))

    class Parser:
        num_errors = len(behaviour.parse_errors)

        def __init__(self, network: Network, logger: Any) -> None:
            pass

        def parse(self, model: bytes) -> bool:
            calls["model"] = model
            return not behaviour.parse_errors

        def get_error(self, index: int) -> Any:
            return SimpleNamespace(desc=lambda: behaviour.parse_errors[index])

    class Config:
        """Attributes that are set are remembered; TF32 is on from the start, as in TensorRT."""

        def __init__(self) -> None:
            calls["flags"] = {builder_flag.TF32}

        def __setattr__(self, name: str, value: Any) -> None:
            calls[name] = value
            super().__setattr__(name, value)

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            calls["memory"] = (pool, size)

        def set_flag(self, flag: Any) -> None:
            calls["flags"].add(flag)

        def clear_flag(self, flag: Any) -> None:
            calls["flags"].discard(flag)

        def add_optimization_profile(self, profile: Profile) -> int:
            calls["profiles"] = calls.get("profiles", 0) + 1
            return 0

        def create_timing_cache(self, content: bytes) -> Any:
            calls["old_cache"] = content
            return SimpleNamespace() if behaviour.cache_fits else None

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            calls["ignore_mismatch"] = ignore_mismatch
            return True

        def get_timing_cache(self) -> Any:
            return SimpleNamespace(serialize=lambda: calls["old_cache"] + CACHE)

    class Builder:
        def __init__(self, logger: Any) -> None:
            if not behaviour.can_start:
                raise TypeError("pybind11::init(): factory function returned nullptr\nmore of it")
            self.logger = logger

        def get_plugin_registry(self) -> Any:
            creators: list[Any] = []

            def load(path: str) -> Any:
                calls["plugin_library"] = path
                creators.append(
                    SimpleNamespace(name="DeformableTokenMerging", plugin_version="1", plugin_namespace="lit_deploy")
                )
                return object()

            return SimpleNamespace(load_library=load, all_creators=creators)

        def create_network(self, flags: int) -> Network:
            calls["network_flags"] = flags
            return Network()

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            for severity, message in behaviour.log:
                self.logger.log(severity, message)
            monitor = config.progress_monitor
            monitor.phase_start("Building", None, 2)
            monitor.step_complete("Building", 0)
            monitor.phase_finish("Building")
            return ENGINE if behaviour.built else None

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger: Any) -> None:
            pass

        def deserialize_cuda_engine(self, engine: memoryview) -> Any:
            calls["deserialised"] = (bytes(engine), self.engine_host_code_allowed)
            if not behaviour.deserialises:
                return None
            text = json.dumps({"Layers": behaviour.inspected, "Bindings": []})
            return SimpleNamespace(
                create_engine_inspector=lambda: SimpleNamespace(get_engine_information=lambda form: text)
            )

    flags = {"STRONGLY_TYPED": 1} if behaviour.strongly_typed_flag else {}
    module = ModuleType("tensorrt")
    given = {
        "__version__": version,
        "ILogger": Base,
        "IProgressMonitor": type("IProgressMonitor", (Base,), {}),
        "Builder": Builder,
        "OnnxParser": Parser,
        "Runtime": Runtime,
        "NetworkDefinitionCreationFlag": enum.IntEnum("NetworkDefinitionCreationFlag", flags),
        "ProfilingVerbosity": enum.Enum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "DETAILED"]),
        "MemoryPoolType": enum.Enum("MemoryPoolType", ["WORKSPACE"]),
        "BuilderFlag": builder_flag,
        "HardwareCompatibilityLevel": enum.Enum("HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS"]),
        "LayerInformationFormat": enum.Enum("LayerInformationFormat", ["ONELINE", "JSON"]),
    }
    for name, value in given.items():
        setattr(module, name, value)
    return module


def install(behaviour: Behaviour) -> None:
    """Put the stand-in in the place of ``tensorrt`` in this process, and a GPU beside it."""
    from lit_deploy.exporters import tensorrt_builder
    from lit_deploy.machine import cuda

    sys.modules["tensorrt"] = make_module(behaviour)
    tensorrt_builder.find_gpu = lambda: cuda.Gpu("NVIDIA A100", "8.0", "13.0")  # type: ignore[assignment]
