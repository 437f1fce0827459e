"""The CUDA device of this machine: what is told about it, and one sentence for each way in which there is none.

A driver made by hand stands for machines that are not here; what is really here is asked in ``test_this_machine``.
"""

from __future__ import annotations

import enum
import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lit_deploy.core.errors import MissingDependency
from lit_deploy.machine import cuda
from lit_deploy.machine.cuda import Gpu, find_gpu, load_driver, require_gpu


class Result(enum.Enum):
    """Two of the driver's statuses."""

    CUDA_SUCCESS = 0
    CUDA_ERROR_NO_DEVICE = 100


OK, NO_DEVICE = Result.CUDA_SUCCESS, Result.CUDA_ERROR_NO_DEVICE


def driver_with(devices: list[tuple[bytes, int, int]], version: int = 13000, **calls: Any) -> SimpleNamespace:
    """A driver that shows devices of the given name and compute capability; ``calls`` replace its functions."""
    attributes = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=1, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=2
    )
    given = {
        "CUresult": Result,
        "CUdevice_attribute": attributes,
        "cuInit": lambda flags: (OK,),
        "cuDeviceGetCount": lambda: (OK, len(devices)),
        "cuDeviceGet": lambda index: (OK, devices[index]),
        "cuDeviceGetName": lambda length, device: (OK, device[0].ljust(length, b"\0")),
        "cuDeviceGetAttribute": lambda attribute, device: (OK, device[attribute]),
        "cuDriverGetVersion": lambda: (OK, version),
    }
    return SimpleNamespace(**{**given, **calls})


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a driver in the place of ``cuda.bindings.driver``; None takes the bindings away."""

    def put(driver: SimpleNamespace | None) -> None:
        package: Any = None
        if driver is not None:
            package = ModuleType("cuda.bindings")
            package.driver = driver  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "cuda.bindings", package)

    return put


def refusal(device: int = 0) -> str:
    with pytest.raises(MissingDependency) as caught:
        require_gpu(device)
    assert "\n" not in str(caught.value)
    assert find_gpu(device) is None, "asked for politely, the same machine has none"
    return str(caught.value)


def test_devices_are_described(install: Any) -> None:
    install(driver_with([(b"NVIDIA H200", 9, 0), (b"NVIDIA GeForce RTX 5090 ", 12, 0)], version=12080))
    assert require_gpu() == Gpu("NVIDIA H200", "9.0", "12.8")
    assert require_gpu(1) == find_gpu(1) == Gpu("NVIDIA GeForce RTX 5090", "12.0", "12.8")
    install(driver_with([(b"\xff\xfeodd", 8, 6)], version=13030))
    told = require_gpu()
    assert (told.compute_capability, told.driver_cuda) == ("8.6", "13.3")
    assert told.name.endswith("odd")


def test_no_bindings(install: Any) -> None:
    install(None)
    assert refusal() == f"the CUDA bindings for Python are not installed; run: {cuda.INSTALL}"


def test_no_driver(install: Any) -> None:
    """cuda-bindings raises an error of its own, not a status, when it finds no libcuda."""

    def absent(flags: int) -> Any:
        raise RuntimeError("libcuda.so.1: cannot open shared object file")

    install(driver_with([], cuInit=absent))
    assert refusal().startswith("no NVIDIA driver was found (libcuda.so.1); install the driver, or ")


def test_no_device(install: Any) -> None:
    install(driver_with([], cuInit=lambda flags: (NO_DEVICE,)))
    message = refusal()
    assert "no CUDA device can be used here (the CUDA driver says CUDA_ERROR_NO_DEVICE); run on a machine" in message
    install(driver_with([]))
    assert "CUDA device 0 was asked for, but this machine shows 0" in refusal()
    install(driver_with([(b"A", 8, 0)]))
    assert "CUDA device 3 was asked for, but this machine shows 1" in refusal(3)


def test_a_failing_call_is_named(install: Any) -> None:
    install(driver_with([(b"A", 8, 0)], cuDeviceGetName=lambda length, device: (NO_DEVICE, b"")))
    assert "the CUDA driver says CUDA_ERROR_NO_DEVICE" in refusal()


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason=f"no CUDA bindings: {cuda.INSTALL}")
def test_this_machine() -> None:
    """With the real bindings: a description, or a sentence; never the bindings' own exception."""
    try:
        load_driver()
    except MissingDependency as error:
        assert "driver" in str(error) or "CUDA device" in str(error)  # noqa: PT017
        refusal()
        return
    gpu = require_gpu()
    major, minor = gpu.compute_capability.split(".")
    assert (int(major) >= 5, minor.isdecimal()) == (True, True)
    assert find_gpu(99) is None
