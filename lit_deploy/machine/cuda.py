"""The CUDA device of this machine, through NVIDIA's own bindings (``cuda-bindings``). Imports no torch.

Nothing here creates a context or touches the device beyond asking what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lit_deploy.core.errors import MissingDependency
from lit_deploy.core.text import first_line

INSTALL = "pip install cuda-bindings"


@dataclass(frozen=True)
class Gpu:
    """One CUDA device.

    Attributes:
        name: marketing name.
        compute_capability: e.g. ``9.0``.
        driver_cuda: newest CUDA version that the driver supports, e.g. ``13.0``.
    """

    name: str
    compute_capability: str
    driver_cuda: str


def find_gpu(device: int = 0) -> Gpu | None:
    """Describe a device, or return None where it, its driver or the bindings are absent."""
    try:
        return require_gpu(device)
    except MissingDependency:
        return None


def require_gpu(device: int = 0) -> Gpu:
    """Describe a device; MissingDependency says in one sentence what is absent and what mends it."""
    driver = load_driver()
    (count,) = called(driver, driver.cuDeviceGetCount())
    if count <= device:
        raise MissingDependency(f"CUDA device {device} was asked for, but this machine shows {count} of them")
    (handle,) = called(driver, driver.cuDeviceGet(device))
    (raw,) = called(driver, driver.cuDeviceGetName(128, handle))
    attribute = driver.CUdevice_attribute
    (major,) = called(
        driver, driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, handle)
    )
    (minor,) = called(
        driver, driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, handle)
    )
    (version,) = called(driver, driver.cuDriverGetVersion())
    name = bytes(raw).split(b"\0")[0].decode(errors="replace").strip()
    return Gpu(name, f"{major}.{minor}", f"{version // 1000}.{version % 1000 // 10}")


def load_driver() -> Any:
    """The driver API, initialised; MissingDependency where the bindings, the driver or every GPU are absent."""
    try:
        from cuda.bindings import driver
    except ModuleNotFoundError:
        raise MissingDependency(f"the CUDA bindings for Python are not installed; run: {INSTALL}") from None
    except ImportError as error:
        raise MissingDependency(
            f"the CUDA bindings for Python are installed but do not load ({first_line(error)}); install them again: "
            f"{INSTALL}"
        ) from None
    try:
        called(driver, driver.cuInit(0))
    except MissingDependency as error:
        raise MissingDependency(f"no CUDA device can be used here ({error}); run on a machine with a GPU") from None
    except Exception:  # cuda-bindings raises its own error when libcuda.so cannot be found
        raise MissingDependency(
            "no NVIDIA driver was found (libcuda.so.1); install the driver, or run on a machine with a GPU"
        ) from None
    return driver


def called(driver: Any, answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a driver call returned, without its status; MissingDependency names the status when it is no success."""
    status, *values = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        raise MissingDependency(f"the CUDA driver says {status.name}")
    return tuple(values)
