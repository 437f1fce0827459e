"""Sessions on OpenVINO's CPU plugin, with our operators as an extension. Imports no torch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.inlining import inlined
from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.artifacts.openvino_file import IR_SUFFIX, read_ir
from lit_deploy.backends.base import IN_MEMORY, BackEnd, check_feeds
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.backends.table import BACKENDS
from lit_deploy.core.errors import ArtifactError, MissingDependency, UsageError, refuse_for_memory
from lit_deploy.core.specs import PrecisionName, TensorSpec
from lit_deploy.core.text import last_line
from lit_deploy.machine import native
from lit_deploy.machine.facts import computes_bf16, cpu_flags, int8_saturates
from lit_deploy.ops.relative_position_attention.schema import OP_TYPE as ATTENTION
from lit_deploy.tasks.promises import check_tensors
from lit_deploy.tasks.protocol import Arrays

MAX_COMPILED = 3
"""Input sizes whose compiled networks are kept: each holds the memory of one inference."""

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class OpenVinoSession(BackEnd):
    """An exported ``.onnx`` file or IR (``.xml``) on OpenVINO's CPU plugin; see ``Session``.

    Ordinary files run our kernels where the extension is found, otherwise the functions inside them, which are inlined
    first. Every input size is compiled with static shapes, as OpenVINO is fastest then; the last few stay compiled.
    """

    def __init__(self, source: str | Path | OnnxArtifact, options: SessionOptions) -> None:
        super().__init__(options)
        self._source = source if isinstance(source, OnnxArtifact) else Path(source)
        self._path = IN_MEMORY if isinstance(source, OnnxArtifact) else Path(source)  # for messages
        self._requests: OrderedDict[Shapes, Any] = OrderedDict()
        self._running = threading.Lock()  # a request runs one inference at a time

    def _enter(self) -> None:
        with BACKENDS["openvino"].loading():
            import openvino
        if self._options.device != "cpu":
            raise UsageError(f"device is {self._options.device}, but OpenVINO runs on the CPU here; use --device cpu")
        version = openvino.__version__.split("-")[0]
        artifact, manifest = self._read()
        if manifest.precision == "fp8":
            raise UsageError(
                f"OpenVINO's CPU has no products of 8-bit floats, which {self._path.name} holds; use ONNX Runtime"
            )
        # an IR holds no functions that could stand in for our operators
        wanted = self._options.library if artifact is not None else True
        extension = None if manifest.portable else native.choose_extension(wanted)
        if manifest.portable and self._options.library:
            raise UsageError(
                f"{self._path} is a portable file, which holds no custom operator; export it without --portable"
            )
        self._core = openvino.Core()
        if extension is not None:
            try:
                self._core.add_extension(str(extension))
            except RuntimeError as error:
                refuse_for_memory(error)
                raise MissingDependency(
                    f"OpenVINO {version} cannot load {extension} ({last_line(error)}); "
                    f"rebuild it against this OpenVINO: {native.BUILD_COMMAND}"
                ) from None
        self._model: Any = self._load(artifact, manifest, inline=extension is None and not manifest.portable)
        # Inference in f32 keeps what the file says; where the CPU has bfloat16, OpenVINO would choose that by itself.
        self._bf16 = self._half(manifest)
        self._manifest = manifest
        self._emulates_int8 = manifest.precision == "int8" and int8_saturates(cpu_flags())
        kernels = "inlined" if manifest.portable else "lit-deploy kernels" if extension else "built-in functions"
        emulated = ", int8 emulated" if self._emulates_int8 else ""
        self._description = f"OpenVINO {version} cpu ({'bf16' if self._bf16 else 'f32'}, {kernels}{emulated})"

    @property
    def precision(self) -> PrecisionName:
        return "bf16" if self._bf16 and self.manifest.precision == "fp32" else self.manifest.precision

    def _read(self) -> tuple[OnnxArtifact | None, Manifest]:
        """An ``.onnx`` file with its manifest; of an IR the manifest alone."""
        if isinstance(self._source, OnnxArtifact):
            return self._source, self._source.manifest
        if self._path.suffix.lower() == IR_SUFFIX:
            return None, read_ir(self._path)[0]
        artifact = OnnxArtifact.read(self._source)
        return artifact, artifact.manifest

    def _load(self, artifact: OnnxArtifact | None, manifest: Manifest, *, inline: bool) -> Any:
        """OpenVINO's form of the network, with the layers as further outputs where they are asked for."""
        try:
            if artifact is None:
                model = self._core.read_model(str(self._path))
            else:
                graph = inlined(artifact.graph) if inline else artifact.graph
                model = self._core.read_model(graph.SerializeToString())
            check_tensors(self._path, manifest, *(_specs(ports) for ports in (model.inputs, model.outputs)))
            if self._options.layers:
                model.add_outputs(list(manifest.layers))
        except RuntimeError as error:
            refuse_for_memory(error)
            raise ArtifactError(f"OpenVINO refuses {self._path} ({last_line(error)}); export it again") from None
        return model

    def _half(self, manifest: Manifest) -> bool:
        """Whether products are to be computed in bfloat16: the file is of that type, or the options ask for it."""
        hint = self._options.precision_hint
        capable = computes_bf16(cpu_flags())
        if hint == "bf16" and not capable:
            raise UsageError(
                "this CPU does not compute in bfloat16 (AMX or AVX512_BF16); leave out --precision-hint bf16"
            )
        return hint == "bf16" or (hint is None and manifest.base == "bf16" and capable)

    def _close(self) -> None:
        self._requests.clear()
        self._model = None

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Arrays:
        check_feeds(feeds, self.inputs)
        # It would read the memory of a view, a turned picture say, in the order of an array without gaps.
        arrays = {name: np.ascontiguousarray(feeds[name]) for name in sorted(feeds)}
        shapes = tuple((name, array.shape) for name, array in arrays.items())
        with self._running:
            request = self._requests.pop(shapes, None)
            if request is None:
                while len(self._requests) >= MAX_COMPILED:  # before the next one takes as much
                    self._requests.popitem(last=False)
                request = self._compile(shapes)
            self._requests[shapes] = request
            try:
                results = request.infer(arrays, share_inputs=True)
            except RuntimeError as error:
                refuse_for_memory(error)
                raise ArtifactError(f"OpenVINO failed while it ran {self._path}: {last_line(error)}") from None
            outputs = {spec.name: results[spec.name] for spec in self.outputs}
            layers = self.manifest.layers if self._options.layers else ()
            return outputs | {name: results[name].astype(np.float32) for name in layers}

    def execution_graph(self) -> Any:
        """What OpenVINO made of the network for the input size that ran last: an ``openvino.Model`` of its nodes."""
        return next(reversed(self._requests.values())).get_compiled_model().get_runtime_model()

    def _compile(self, shapes: Shapes) -> Any:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if self._bf16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self._options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self._options.threads
        if self._emulates_int8:  # dequantised weights, in float32: exact where its int8 products would clip sums
            settings["LP_TRANSFORMS_MODE"] = False
        try:
            model = self._model.clone()
            model.reshape({name: list(shape) for name, shape in shapes})
            if self._bf16:
                _attend_in_bfloat16(model)
            return self._core.compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            refuse_for_memory(error)
            raise ArtifactError(f"OpenVINO refuses {self._path.name} ({last_line(error)}); export it again") from error


def _specs(ports: Any) -> list[TensorSpec]:
    """OpenVINO's inputs or outputs as TensorSpecs."""
    return [
        TensorSpec(
            port.get_any_name(),
            port.get_element_type().to_dtype().name,
            tuple(size.get_length() if size.is_static else "batch" for size in port.get_partial_shape()),
        )
        for port in ports
    ]


def _attend_in_bfloat16(model: Any) -> None:
    """Hand bfloat16 to our attention, which then multiplies in it.

    Around operators of an extension OpenVINO converts to float32 whatever it computes in itself. That is right for the
    merging, whose sampling positions are lost in bfloat16 and which multiplies little.
    """
    from openvino import opset13

    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() == ATTENTION]
    for node in nodes:
        if node.get_input_element_type(0).get_type_name() == "bf16":
            continue
        node.input(0).replace_source_output(opset13.convert(node.input_value(0), "bf16").output(0))
        node.validate_and_infer_types()
        readers = list(node.output(0).get_target_inputs())
        back = opset13.convert(node.output(0), "f32")
        for reader in readers:
            reader.replace_source_output(back.output(0))
    model.validate_nodes_and_infer_types()
