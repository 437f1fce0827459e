"""A CUDA device and the memory that a session keeps on it, through the driver API. Imports no torch."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.machine.cuda import called, load_driver


class Device:
    """A device's primary context: the one that TensorRT, and every library on the CUDA runtime, works in.

    Args:
        index: as CUDA counts.

    Attributes:
        api: the driver API, for calls whose answer goes to ``check``.

    Raises:
        MissingDependency: no driver, no such device, or no memory for a context.
    """

    def __init__(self, index: int = 0) -> None:
        self.api: Any = load_driver()
        self._handle = self.check(self.api.cuDeviceGet(index))
        self._context = self.check(self.api.cuDevicePrimaryCtxRetain(self._handle))

    def check(self, answer: tuple[Any, ...]) -> Any:
        """The value of a driver call; MissingDependency names the status when it failed."""
        values = called(self.api, answer)
        return values[0] if values else None

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the context the calling thread's, and give the thread its own back afterwards."""
        self.check(self.api.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            self.api.cuCtxPopCurrent()

    def spin_wait(self) -> bool:
        """Whether a thread that waits for the GPU keeps its core busy."""
        flags, _ = called(self.api, self.api.cuDevicePrimaryCtxGetState(self._handle))
        sleeps = self.api.CUctx_flags.CU_CTX_SCHED_YIELD.value | self.api.CUctx_flags.CU_CTX_SCHED_BLOCKING_SYNC.value
        return not flags & sleeps  # the default, automatic, spins where there are more cores than contexts

    def close(self) -> None:
        """Let go of the context; the last one to do so in the process destroys it."""
        self.api.cuDevicePrimaryCtxRelease(self._handle)


class Buffer:
    """Memory of one tensor: on the device and, if wanted, pinned on the host to copy from or to. Grows as needed.

    Attributes:
        address: on the device; it changes when the buffer grows.
        pinned: there is memory on the host, too.
    """

    def __init__(self, device: Device, *, pinned: bool) -> None:
        self.address = 0
        self._device = device
        self.pinned = pinned
        self._host = 0
        self._size = 0

    def reserve(self, size: int) -> None:
        """Have room for ``size`` bytes; nothing may be using the buffer, and its contents are lost when it grows.

        Raises:
            MissingDependency: out of memory.
        """
        if size <= self._size:
            return
        self.free()
        api = self._device.api
        self.address = int(self._device.check(api.cuMemAlloc(size)))
        if self.pinned:
            self._host = int(self._device.check(api.cuMemAllocHost(size)))
        self._size = size

    def array(self, shape: tuple[int, ...], dtype: str) -> NDArray[np.generic]:
        """The pinned memory as an array; valid until the buffer grows or is freed."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = (ctypes.c_ubyte * size).from_address(self._host)
        return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)

    def upload(self, size: int, stream: Any) -> None:
        """Copy the first ``size`` bytes to the device, asynchronously."""
        self._device.check(self._device.api.cuMemcpyHtoDAsync(self.address, self._host, size, stream))

    def download(self, size: int, stream: Any) -> None:
        """Copy the first ``size`` bytes to the host, asynchronously."""
        self._device.check(self._device.api.cuMemcpyDtoHAsync(self._host, self.address, size, stream))

    def free(self) -> None:
        """Give the memory back; answers are dropped, as after a failure on the GPU every call fails."""
        if self.address:
            self._device.api.cuMemFree(self.address)
        if self._host:
            self._device.api.cuMemFreeHost(self._host)
        self.address = self._host = self._size = 0
