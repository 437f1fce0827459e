"""One TensorRT execution context with a stream and buffers of its own, for one batch at a time. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.backends.cuda_memory import Buffer, Device
from lit_deploy.backends.protocol import Phases
from lit_deploy.core.errors import ArtifactError
from lit_deploy.core.specs import TensorSpec
from lit_deploy.tasks.protocol import Arrays


@dataclass(frozen=True)
class LoadedEngine:
    """A deserialised engine and what its contexts must know about it.

    Attributes:
        module: TensorRT's Python module; ``engine``: its ``ICudaEngine``.
        inputs, outputs: all tensors; every one of them needs memory.
        returned: names of the outputs that are copied to the host.
        host: names of the inputs that are read on the host, as sizes of other tensors depend on them.
        cuda_graph: replay a CUDA graph from the second run of a shape on.
    """

    module: Any
    engine: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    returned: tuple[str, ...]
    host: tuple[str, ...]
    cuda_graph: bool


class EngineContext:
    """Runs an engine for one thread at a time; make, use and close it with the device's context current.

    A captured graph is that of the last shape: it holds the addresses of the buffers and the state of the context, so
    another profile, another batch size or a buffer that grew drops it. The next run is then an ordinary one, which lets
    TensorRT do whatever it does once per shape, and the one after it captures again.

    Attributes:
        batch: images of the last run; 0 before the first.
    """

    def __init__(self, device: Device, loaded: LoadedEngine) -> None:
        self.batch = 0
        self._device = device
        self._loaded = loaded
        self._context, self._captures = _create_context(loaded)
        if self._context is None:
            raise ArtifactError("TensorRT could not create an execution context, most often for lack of GPU memory")
        self._stream = device.check(device.api.cuStreamCreate(device.api.CUstream_flags.CU_STREAM_NON_BLOCKING.value))
        self._dtypes = {spec.name: spec.dtype for spec in (*loaded.inputs, *loaded.outputs)}
        pinned = {spec.name for spec in loaded.inputs} | set(loaded.returned)
        self._buffers = {name: Buffer(device, pinned=name in pinned) for name in self._dtypes}
        self._host: dict[str, NDArray[np.generic]] = {}  # pinned memory of the last shapes
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._sizes: dict[str, bytes] = {}  # the last values of what is read on the host
        self._profile = -1
        self._key: tuple[Any, ...] = ()
        self._warm = False
        self._graph: Any = None
        self._events: list[Any] = []

    def run(self, feeds: Mapping[str, NDArray[np.generic]], profile: int, *, timed: bool) -> tuple[Arrays, Phases]:
        """Run one batch and wait for it.

        Args:
            feeds: the inputs, of the engine's types, with a batch size inside ``profile``.
            profile: index of an optimisation profile.
            timed: measure the phases, which are all 0 otherwise.

        Raises:
            ArtifactError: TensorRT refuses. MissingDependency: CUDA does. The context must be closed then.
        """
        self._prepare(feeds, profile)
        uploaded = [name for name in feeds if name not in self._loaded.host]
        for name in uploaded:
            np.copyto(self._host[name], feeds[name])
        record = self._record if timed else _nothing
        record(0)
        for name in uploaded:
            self._buffers[name].upload(self._host[name].nbytes, self._stream)
        record(1)
        begin = time.perf_counter_ns()
        self._launch()
        enqueue = (time.perf_counter_ns() - begin) / 1e6
        record(2)
        for name in self._loaded.returned:
            self._buffers[name].download(self._host[name].nbytes, self._stream)
        record(3)
        self._device.check(self._device.api.cuStreamSynchronize(self._stream))
        outputs = {name: self._host[name].copy() for name in self._loaded.returned}
        if not timed:
            return outputs, Phases(0, 0, 0, 0)
        upload, compute, download = (self._elapsed(index) for index in range(3))
        return outputs, Phases(upload, compute, download, enqueue)

    def close(self) -> None:
        """Let go of everything, whatever state the GPU is in."""
        api = self._device.api
        api.cuStreamSynchronize(self._stream)
        self._drop_graph()
        self._context = None
        for buffer in self._buffers.values():
            buffer.free()
        for event in self._events:
            api.cuEventDestroy(event)
        self._events.clear()
        api.cuStreamDestroy(self._stream)

    def _prepare(self, feeds: Mapping[str, NDArray[np.generic]], profile: int) -> None:
        """Tell TensorRT shapes and addresses, with room in every buffer; nothing to do when they are the last ones."""
        shapes = {name: array.shape for name, array in feeds.items()}
        sizes = {name: feeds[name].tobytes() for name in self._loaded.host}
        same = shapes.items() <= self._shapes.items() and sizes == self._sizes
        if self._key and same and profile == self._profile:
            return
        context = self._context
        if profile != self._profile:
            if not context.set_optimization_profile_async(profile, int(self._stream)):
                raise ArtifactError(f"TensorRT refuses optimisation profile {profile}")
            self._profile = profile
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise ArtifactError(f"TensorRT refuses the shape {list(shape)} of '{name}'")
        for name in self._loaded.host:
            buffer = self._buffers[name]
            buffer.reserve(feeds[name].nbytes)
            self._host[name] = buffer.array(shapes[name], self._dtypes[name])
            np.copyto(self._host[name], feeds[name])
            if not context.set_tensor_address(name, self._host[name].ctypes.data):
                raise ArtifactError(f"TensorRT refuses the sizes in '{name}'")
        self._shapes, self._sizes = dict(shapes), sizes
        for spec in self._loaded.outputs:
            self._shapes[spec.name] = tuple(context.get_tensor_shape(spec.name))
        for name, buffer in self._buffers.items():
            if name in self._loaded.host:
                continue
            shape, dtype = self._shapes[name], self._dtypes[name]
            buffer.reserve(int(np.prod(shape)) * np.dtype(dtype).itemsize)
            if not context.set_tensor_address(name, buffer.address):
                raise ArtifactError(f"TensorRT refuses the memory of '{name}'")
            if buffer.pinned:
                self._host[name] = buffer.array(shape, dtype)
        self.batch = shapes[self._loaded.inputs[0].name][0]
        key = (
            profile,
            tuple(self._shapes.items()),
            tuple(sizes.items()),
            tuple(buffer.address for buffer in self._buffers.values()),
        )
        if key != self._key:
            self._drop_graph()
            self._key, self._warm = key, False

    def _launch(self) -> None:
        """Enqueue the network: kernel by kernel, or as a graph once an ordinary run of the same shape is over."""
        if self._captures and self._warm and self._graph is None:
            self._graph = self._capture()
        if self._graph is not None:
            self._device.check(self._device.api.cuGraphLaunch(self._graph, self._stream))
            return
        self._enqueue()
        self._warm = True

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            raise ArtifactError("TensorRT could not enqueue the network")

    def _capture(self) -> Any:
        api, check = self._device.api, self._device.check
        # thread-local: what other threads do meanwhile (allocate, say) must not spoil the capture
        check(api.cuStreamBeginCapture(self._stream, api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
        try:
            self._enqueue()
        except ArtifactError:
            api.cuStreamEndCapture(self._stream)
            raise ArtifactError("the network cannot be captured as a CUDA graph: open it without cuda_graph") from None
        graph = check(api.cuStreamEndCapture(self._stream))
        try:
            return check(api.cuGraphInstantiate(graph, 0))
        finally:
            api.cuGraphDestroy(graph)

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._device.api.cuGraphExecDestroy(self._graph)
            self._graph = None

    def _record(self, index: int) -> None:
        api, check = self._device.api, self._device.check
        if not self._events:
            self._events = [check(api.cuEventCreate(api.CUevent_flags.CU_EVENT_DEFAULT.value)) for _ in range(4)]
        check(api.cuEventRecord(self._events[index], self._stream))

    def _elapsed(self, index: int) -> float:
        """Milliseconds from one event to the next; the stream must be idle."""
        return float(self._device.check(self._device.api.cuEventElapsedTime(*self._events[index : index + 2])))


def _nothing(index: int) -> None:
    """Stands in for the events of a run that is not timed."""


def _create_context(loaded: LoadedEngine) -> tuple[Any, bool]:
    """An execution context, and whether its graphs are ours to capture."""
    strategy = getattr(loaded.module, "CudaGraphStrategy", None)
    if not loaded.cuda_graph or strategy is None:
        return loaded.engine.create_execution_context(), loaded.cuda_graph
    # TensorRT-RTX captures by itself: it alone knows when the kernels it compiles for a shape are the final ones.
    config = loaded.engine.create_runtime_config()
    config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE
    return loaded.engine.create_execution_context(config), False
