"""A CUDA driver API that needs no GPU; device memory is host memory, and streams are lists of work.

It holds callers to the rules of the real one. Work waits in its stream until somebody synchronises; memory is full of
rubbish when it is new, and work on memory that was freed is an illegal address; a call without a current context fails;
a graph replays the work that was captured. What the GPU's clock shows is computed from the work, not measured.
"""

from __future__ import annotations

import ctypes
import enum
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

MS_PER_MEGABYTE = 0.125
SUCCESS = "CUDA_SUCCESS"
CUresult = enum.Enum(
    "CUresult",
    [SUCCESS, "CUDA_ERROR_OUT_OF_MEMORY", "CUDA_ERROR_INVALID_CONTEXT", "CUDA_ERROR_INVALID_VALUE",
     "CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "CUDA_ERROR_NO_DEVICE"],
)  # fmt: skip


class IllegalAddress(Exception):
    """Work touched memory that is not there."""


class Handle:
    """A stream, event, graph or memory address, which turns into an int as those of cuda-bindings do."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.work: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None
        self.milliseconds = 0.0

    def __int__(self) -> int:
        return self.number


class FakeDriver(ModuleType):
    """``cuda.bindings.driver``; ``calls`` counts every function, ``live`` holds what was made and not destroyed."""

    def __init__(self, memory: int = 1 << 30) -> None:
        super().__init__("cuda.bindings.driver")
        self.memory = memory
        self.calls: dict[str, int] = {}
        self.live: dict[int, Any] = {}
        self.broken = ""
        self.gpu = ("Fake GPU", 9, 0)
        self.flags = 0
        self.clock = 0.0
        self._numbers = iter(range(1 << 40, 1 << 50))
        self._contexts = threading.local()
        self._lock = threading.RLock()
        self.CUresult = CUresult
        self.CUdevice_attribute = SimpleNamespace(
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=1, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=2
        )
        flag = SimpleNamespace
        self.CUctx_flags = flag(CU_CTX_SCHED_YIELD=flag(value=2), CU_CTX_SCHED_BLOCKING_SYNC=flag(value=4))
        self.CUstream_flags = flag(CU_STREAM_NON_BLOCKING=flag(value=1))
        self.CUevent_flags = flag(CU_EVENT_DEFAULT=flag(value=0))
        self.CUstreamCaptureMode = flag(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not name.startswith("cu"):
            return value

        def call(*arguments: Any) -> tuple[Any, ...]:
            with self._lock:
                self.calls[name] = self.calls.get(name, 0) + 1
                outside = name.startswith(("cuInit", "cuDevice", "cuCtx", "cuDriver"))
                if not outside and not getattr(self._contexts, "stack", []):
                    return (CUresult.CUDA_ERROR_INVALID_CONTEXT, None)
                if name == self.broken:
                    return (CUresult.CUDA_ERROR_ILLEGAL_ADDRESS, None)
                try:
                    answer = value(*arguments)
                except IllegalAddress:
                    return (CUresult.CUDA_ERROR_ILLEGAL_ADDRESS, None)
                if isinstance(answer, CUresult):
                    return (answer, None)
                return (CUresult.CUDA_SUCCESS, *answer) if isinstance(answer, tuple) else (CUresult.CUDA_SUCCESS,)

        return call

    # ---- device and context
    def cuInit(self, flags: int) -> None: ...

    def cuDriverGetVersion(self) -> tuple[int]:
        return (13000,)

    def cuDeviceGetCount(self) -> tuple[int]:
        return (1,)

    def cuDeviceGet(self, index: int) -> tuple[int]:
        return (index,)

    def cuDeviceGetName(self, size: int, device: int) -> tuple[bytes]:
        return (self.gpu[0].encode() + b"\0",)

    def cuDeviceGetAttribute(self, attribute: int, device: int) -> tuple[int]:
        return (int(self.gpu[attribute]),)

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[Handle]:
        return (self._made("context"),)

    def cuDevicePrimaryCtxRelease(self, device: int) -> None:
        self.live.pop(next(number for number, what in self.live.items() if what == "context"))

    def cuDevicePrimaryCtxGetState(self, device: int) -> tuple[int, int]:
        return self.flags, 1

    def cuCtxPushCurrent(self, context: Handle) -> None:
        if not hasattr(self._contexts, "stack"):
            self._contexts.stack = []
        self._contexts.stack.append(context)

    def cuCtxPopCurrent(self) -> tuple[Handle]:
        return (self._contexts.stack.pop(),)

    @property
    def depth(self) -> int:
        """How many contexts the calling thread has pushed and not popped."""
        return len(getattr(self._contexts, "stack", []))

    # ---- memory
    def cuMemAlloc(self, size: int) -> Any:
        address = self._allocated(size)
        return (Handle(address),) if address else CUresult.CUDA_ERROR_OUT_OF_MEMORY

    def _allocated(self, size: int) -> int:
        if self.used() + size > self.memory:
            return 0
        block = ctypes.create_string_buffer(b"\xcd" * size, size)
        self.live[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def cuMemFree(self, address: int) -> None:
        ctypes.memset(address, 0xDD, len(self.live[address]))
        del self.live[address]

    def cuMemAllocHost(self, size: int) -> Any:
        address = self._allocated(size)
        return (address,) if address else CUresult.CUDA_ERROR_OUT_OF_MEMORY

    cuMemFreeHost = cuMemFree

    def used(self) -> int:
        return sum(len(block) for block in self.live.values() if isinstance(block, ctypes.Array))

    def view(self, address: int, size: int) -> np.ndarray:
        """Bytes at an address, if they lie inside one live allocation."""
        for start, block in self.live.items():
            if isinstance(block, ctypes.Array) and start <= address and address + size <= start + len(block):
                return np.frombuffer((ctypes.c_ubyte * size).from_address(address), np.uint8)
        raise IllegalAddress(hex(address))

    def cuMemcpyHtoDAsync(self, target: int, source: int, size: int, stream: Handle) -> None:
        self._enqueue(stream, lambda: self._copy(target, source, size))

    def cuMemcpyDtoHAsync(self, target: int, source: int, size: int, stream: Handle) -> None:
        self._enqueue(stream, lambda: self._copy(target, source, size))

    def _copy(self, target: int, source: int, size: int) -> None:
        self.view(target, size)[:] = self.view(source, size)
        self.clock += size / 1e6 * MS_PER_MEGABYTE

    # ---- streams, events, graphs
    def _made(self, what: Any) -> Handle:
        handle = Handle(next(self._numbers))
        self.live[handle.number] = handle if what is None else what
        return handle

    def _enqueue(self, stream: Handle, work: Callable[[], None]) -> None:
        (stream.work if stream.captured is None else stream.captured).append(work)

    def cuStreamCreate(self, flags: int) -> tuple[Handle]:
        assert flags == 1, "TensorRT wants a stream that does not wait for the default one"
        return (self._made(None),)

    def cuStreamSynchronize(self, stream: Handle) -> Any:
        work, stream.work = stream.work, []
        for step in work:
            step()

    def cuStreamDestroy(self, stream: Handle) -> None:
        del self.live[int(stream)]

    def cuEventCreate(self, flags: int) -> tuple[Handle]:
        return (self._made(None),)

    def cuEventRecord(self, event: Handle, stream: Handle) -> None:
        self._enqueue(stream, lambda: setattr(event, "milliseconds", self.clock))

    def cuEventElapsedTime(self, start: Handle, end: Handle) -> tuple[float]:
        return (end.milliseconds - start.milliseconds,)

    cuEventDestroy = cuStreamDestroy

    def cuStreamBeginCapture(self, stream: Handle, mode: int) -> None:
        stream.captured = []

    def cuStreamEndCapture(self, stream: Handle) -> Any:
        work, stream.captured = stream.captured, None
        if not work:
            return CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
        graph = self._made(None)
        graph.work = work
        return (graph,)

    def cuGraphInstantiate(self, graph: Handle, flags: int) -> tuple[Handle]:
        runnable = self._made(None)
        runnable.work = list(graph.work)
        return (runnable,)

    cuGraphDestroy = cuGraphExecDestroy = cuStreamDestroy

    def cuGraphLaunch(self, graph: Handle, stream: Handle) -> None:
        stream.work += graph.work
