"""The process that builds an engine; started by ``exporters.tensorrt``, one request per process.

The request comes as JSON on standard input; steps, and in the end ``done`` or ``error``, go out as JSON lines. What
TensorRT says goes to standard error. ONNX model, engine and timing cache are descriptors of anonymous memory.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from lit_deploy.core.errors import LitDeployError
from lit_deploy.core.processes import die_with_parent
from lit_deploy.core.specs import OP_VERSION
from lit_deploy.core.text import first_line
from lit_deploy.machine import tensorrt as trt
from lit_deploy.machine.cuda import find_gpu
from lit_deploy.ops.domain import DOMAIN

ONLY_RESHAPE = ("SHUFFLE", "UNSQUEEZE")
"""Layers by which a parser gives a dequantised weight as many dimensions as what it is multiplied with."""
INSPECTED_TYPES = {
    "bfloat16": r"bf16|bfloat16",
    "float8e4m3": r"fp8|float8|e4m3",
    "int8": r"\bint8",
    "float16": r"half|fp16|float16",
    "float32": r"float|fp32",
}
"""How the engine inspector's text tells a type, in any release; the first that is found counts."""
MAX_REASON = 300
"""Characters of TensorRT's own reason in a message; the log follows it."""
NOISE = (
    # said about every value of a function that is used more than once
    "already exists, the output tensors of this new instance will not be queryable",
    # said by TensorRT-RTX, behind the real reason, wherever something fails on a machine without a GPU
    "CUDA driver version is insufficient for CUDA runtime version",
)


class BuildRefused(Exception):
    """TensorRT refused; the message is one sentence."""


def build(request: dict[str, Any], say: Any) -> dict[str, Any]:
    """Build the engine of a request into its descriptor; return what was built, as JSON-able facts."""
    module = trt.load(request["backend"])
    errors: list[str] = []

    def sink(severity: trt.Severity, message: str) -> None:
        if severity == "verbose" or any(noise in message for noise in NOISE):
            return
        if severity in ("internal error", "error"):
            errors.append(message)
        print(f"[{severity}] {message}", file=sys.stderr, flush=True)

    def refuse(what: str, reasons: list[str]) -> BuildRefused:
        reason = " ".join(reasons[0].split())[:MAX_REASON] if reasons else "it gives no reason"
        return BuildRefused(f"{trt.BACKENDS[request['backend']].title} {module.__version__} {what} ({reason})")

    logger = trt.make_logger(module, sink)
    try:
        builder = module.Builder(logger)
    except Exception as error:  # what TensorRT's bindings raise where there is no GPU
        raise BuildRefused(f"TensorRT cannot start its builder here ({first_line(error)})") from None
    if request["library"] is not None:
        _load_plugin(builder, request)

    say("parse the ONNX model")
    flags = module.NetworkDefinitionCreationFlag
    # 11.x knows strongly typed networks only, and may drop the flag
    strongly_typed = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0
    network = builder.create_network(strongly_typed)
    parser = module.OnnxParser(network, logger)
    if not parser.parse(_model(request)):
        raise refuse("cannot parse the model", [parser.get_error(i).desc() for i in range(parser.num_errors)])
    inspections = [inspect_network(network, tuple(request["float32_prefixes"]))]

    config = builder.create_builder_config()
    _configure(module, builder, config, network, request)
    monitor = make_monitor(module, say)
    config.progress_monitor = monitor
    serialised = builder.build_serialized_network(network, config)
    if serialised is None:
        raise refuse("could not build the engine", errors)
    view = memoryview(serialised)
    _write(request["engine"], view)
    if request["cache"] is not None:
        _write(request["cache"], memoryview(config.get_timing_cache().serialize()))
    if find_gpu() is not None:
        say("inspect the engine")
        inspections += inspect_engine(module, logger, request, view)
    return {
        "inspections": inspections,
        "plugin_calls": _plugin_calls(request["library"]),
        "inputs": [_tensor(network.get_input(i), request["dims"]) for i in range(network.num_inputs)],
        "outputs": [_tensor(network.get_output(i), request["dims"]) for i in range(network.num_outputs)],
    }


def _load_plugin(owner: Any, request: dict[str, Any]) -> None:
    """Load the plugin library into the registry of a builder or a runtime; each has its own."""
    library, names = Path(request["library"]), request["plugins"]
    trt.load_plugin(owner.get_plugin_registry(), library, names, str(OP_VERSION), DOMAIN)


def _model(request: dict[str, Any]) -> bytes:
    with open(request["model"], "rb") as file:
        model = file.read()
    if not request["layers"]:
        return model
    import onnx

    from lit_deploy.artifacts.onnx_file import manifest_of, metadata_of, with_outputs

    proto, path = onnx.load_from_string(model), Path("the model")
    with_outputs(proto, manifest_of(metadata_of(proto), path).layers, path)
    serialised: bytes = proto.SerializeToString()
    return serialised


def _configure(module: Any, builder: Any, config: Any, network: Any, request: dict[str, Any]) -> None:
    config.clear_flag(module.BuilderFlag.TF32)  # on by default, and then float32 products would be of 10 bits
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED  # or the engine could not be inspected
    if request["workspace_mib"] is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, request["workspace_mib"] << 20)
    if request["optimization_level"] is not None:
        config.builder_optimization_level = request["optimization_level"]
    profile, ranges = builder.create_optimization_profile(), 0
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes = [tuple(shape) for shape in request["profile"].get(tensor.name, ())]
        if shapes and -1 in tensor.shape:
            profile.set_shape(tensor.name, *shapes)
        elif shapes and tensor.is_shape_tensor:  # its numbers are sizes of other tensors
            profile.set_shape_input(tensor.name, *shapes)
        else:
            continue
        ranges += 1
    if ranges:
        config.add_optimization_profile(profile)
    if request["version_compatible"]:
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if request["hardware_compatible"]:
        config.hardware_compatibility_level = module.HardwareCompatibilityLevel.AMPERE_PLUS
    if request["targets"]:
        config.num_compute_capabilities = len(request["targets"])
        for index, target in enumerate(request["targets"]):
            capability = getattr(module.ComputeCapability, f"SM{target.replace('.', '')}")
            if not config.set_compute_capability(capability, index):
                raise BuildRefused(f"TensorRT-RTX {module.__version__} does not build for compute capability {target}")
    if request["embed_plugin"]:
        config.plugins_to_serialize = [request["library"]]
    if request["cache"] is not None:
        with open(request["cache"], "rb", closefd=False) as file:
            cache = config.create_timing_cache(file.read())
        if cache is None or not config.set_timing_cache(cache, False):
            raise BuildRefused("the timing cache is damaged or from another release or GPU; delete it")


def inspect_network(network: Any, float32_prefixes: tuple[str, ...]) -> dict[str, Any]:
    """Count, in the network as it is parsed, matrix products by type and layers that call our plugins.

    Products of layers whose names begin with one of ``float32_prefixes`` are left out: those of the patch embedding
    (see ``models.lowering``) and of a suppression in matrix form are float32 in every precision.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    producers = {layer.get_output(index).name: layer for layer in layers for index in range(layer.num_outputs)}
    products: Counter[str] = Counter()
    for layer in layers:
        if layer.type.name == "MATRIX_MULTIPLY" and not layer.name.startswith(float32_prefixes):
            products[_product_type(layer, producers)] += 1
    plugins = sum(layer.type.name.startswith("PLUGIN") for layer in layers)
    return {"source": "network", "products": dict(products), "plugin_layers": plugins, "layers": len(layers)}


def _product_type(product: Any, producers: dict[str, Any]) -> str:
    """The type a product computes in: 8 bits where both factors are dequantised from it, else that of its result.

    The result itself tells nothing: quantised or not, it is of the type that dequantisation gives.
    """
    left, right = (_dequantized_from(product.get_input(index), producers) for index in range(2))
    return left if left is not None and left == right else _dtype(product.get_output(0).dtype)


def _dequantized_from(tensor: Any, producers: dict[str, Any]) -> str | None:
    """The type that a tensor is dequantised from, or None if it is not."""
    layer = producers.get(tensor.name)
    while layer is not None and layer.type.name in ONLY_RESHAPE:
        layer = producers.get(layer.get_input(0).name)
    if layer is None or layer.type.name != "DEQUANTIZE":
        return None
    return _dtype(layer.get_input(0).dtype)


def inspect_engine(module: Any, logger: Any, request: dict[str, Any], engine: memoryview) -> list[dict[str, Any]]:
    """The same for the finished engine, where it can be deserialised: a GPU of its kind is here."""
    runtime = module.Runtime(logger)
    runtime.engine_host_code_allowed = True  # what is inside was put there a moment ago
    if request["library"] is not None and not request["embed_plugin"]:  # the builder's registry is another one
        _load_plugin(runtime, request)
    loaded = runtime.deserialize_cuda_engine(engine)
    if loaded is None:  # built for another GPU than the one that is here
        return []
    inspector = loaded.create_engine_inspector()
    described = json.loads(inspector.get_engine_information(module.LayerInformationFormat.JSON))
    return [summary_of(described.get("Layers", []), request["plugins"])]


def summary_of(layers: list[Any], names: Sequence[str]) -> dict[str, Any]:
    """Summarise the inspector's layers: outputs of layers by type, and layers that call plugins of these names."""
    types: Counter[str] = Counter()
    plugins = 0
    for layer in layers:
        text = json.dumps(layer)
        plugins += any(name in text for name in names) and "plugin" in text.lower()
        for output in layer.get("Outputs", []) if isinstance(layer, dict) else []:
            described = str(output.get("Format/Datatype", output.get("Datatype", ""))).lower()  # RTX: the latter
            kinds = (kind for kind, words in INSPECTED_TYPES.items() if re.search(words, described))
            types[next(kinds, "other")] += 1
    return {"source": "engine", "products": dict(types), "plugin_layers": plugins, "layers": len(layers)}


def _plugin_calls(library: str | None) -> int:
    """How often the builder configured our plugins, by the library's own record."""
    if library is None:
        return 0
    loaded = ctypes.CDLL(library)  # the copy that the registry has loaded
    try:
        calls = loaded.lit_deploy_plugin_calls
    except AttributeError:
        raise BuildRefused(
            f"{library} keeps no record of its calls, so it is not lit-deploy's plugin library"
        ) from None
    calls.restype, calls.argtypes = ctypes.c_int64, [ctypes.c_char_p]
    return int(calls(b"configurePlugin"))


def make_monitor(module: Any, say: Any) -> Any:
    """An IProgressMonitor that says how much of the outermost phase is done; phases nest and may end early."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._phases: dict[str, tuple[str | None, int, int]] = {}  # parent, steps, steps done
            self._shown = -1
            self._lock = threading.Lock()  # TensorRT calls from several threads

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            with self._lock:
                self._phases[name] = (parent, steps, 0)
                self._show(name)

        def step_complete(self, name: str, step: int) -> bool:
            with self._lock:
                if name in self._phases:
                    parent, steps, _ = self._phases[name]
                    self._phases[name] = (parent, steps, step + 1)
                    self._show(name)
            return True

        def phase_finish(self, name: str) -> None:
            with self._lock:
                self._phases.pop(name, None)

        def _done(self, name: str) -> float:
            _, steps, done = self._phases[name]
            inner = max((self._done(child) for child, phase in self._phases.items() if phase[0] == name), default=0.0)
            return min(1.0, (done + inner) / max(steps, 1))

        def _show(self, name: str) -> None:
            outermost = max(
                (self._done(n) for n, phase in self._phases.items() if phase[0] not in self._phases), default=0
            )
            if (percent := int(100 * outermost)) > self._shown:
                self._shown = percent
                say(name[0].lower() + name[1:], percent / 100)

    return Monitor()


def _tensor(tensor: Any, dims: dict[str, list[int | str]]) -> dict[str, Any]:
    """Name, type and shape; sizes that are not fixed by the names in ``dims``, of layers the batch."""
    names = dims.get(tensor.name, ["batch"] * len(tensor.shape))
    shape = [size if size >= 0 else name for size, name in zip(tensor.shape, names, strict=True)]
    return {"name": tensor.name, "dtype": _dtype(tensor.dtype), "shape": shape}


def _dtype(dtype: Any) -> str:
    name: str = dtype.name
    return trt.DTYPES.get(name, name.lower())


def _write(descriptor: int, content: memoryview) -> None:
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)


def main() -> None:
    """Serve the one request on standard input."""
    request = json.load(sys.stdin)
    die_with_parent(request["parent"])
    replies: IO[str] = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not land between the replies

    def reply(**answer: Any) -> None:
        replies.write(json.dumps(answer) + "\n")
        replies.flush()

    try:
        reply(done=build(request, lambda step, fraction=None: reply(step=step, fraction=fraction)))
    except BuildRefused as error:
        reply(refused=str(error))
    except LitDeployError as error:
        reply(error=type(error).__name__, message=str(error))
    os._exit(0)  # not through TensorRT's destructors: the work is done, and their order is Python's whim


if __name__ == "__main__":
    main()
