"""The table of back ends: a new one is a file beside this one and a line here. Loads none of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lit_deploy.artifacts.sidecar import ENGINE_SUFFIXES
from lit_deploy.backends.protocol import BackendName
from lit_deploy.machine import tensorrt
from lit_deploy.machine.facts import installed_version
from lit_deploy.machine.packages import PACKAGES


@dataclass(frozen=True)
class BackEndRecord:
    """What is known about a back end without loading it.

    Attributes:
        name: in options and messages; ``title``: in sentences.
        suffixes: endings of the files it runs; empty for whatever no other back end runs: checkpoints and their names.
        session: module and class of its sessions, ``module:Class``.
        install: the command that installs it.
        version: the version that is installed, read without importing anything; None where it is absent.
    """

    name: BackendName
    title: str
    suffixes: tuple[str, ...]
    session: str
    install: str
    version: Callable[[], str | None]

    @property
    def absence(self) -> str:
        """What to say where it is missing: that, and what mends it."""
        return f"{self.title} is not installed; run: {self.install}"

    def missing(self) -> str | None:
        """``absence`` where it is missing, None where it is installed."""
        return None if self.version() else self.absence


def _first_version(*distributions: str) -> Callable[[], str | None]:
    """Tells the version of the first of these packages that is installed."""
    return lambda: next(filter(None, map(installed_version, distributions)), None)


def _tensorrt_version() -> str | None:
    return next(filter(None, map(tensorrt.installed_version, tensorrt.BACKENDS)), None)


BACKENDS: dict[BackendName, BackEndRecord] = {
    record.name: record
    for record in (
        BackEndRecord(
            name="onnxruntime",
            title="ONNX Runtime",
            suffixes=(".onnx",),
            session="lit_deploy.backends.onnxruntime:OnnxRuntimeSession",
            install=PACKAGES["onnxruntime"].install,
            version=_first_version("onnxruntime", "onnxruntime-gpu"),
        ),
        BackEndRecord(
            name="openvino",
            title="OpenVINO",
            suffixes=(".onnx",),
            session="lit_deploy.backends.openvino:OpenVinoSession",
            install=PACKAGES["openvino"].install,
            version=_first_version("openvino"),
        ),
        BackEndRecord(
            name="tensorrt",
            title="TensorRT",
            suffixes=ENGINE_SUFFIXES,
            session="lit_deploy.backends.tensorrt:TensorRTSession",
            install=tensorrt.BACKENDS["tensorrt"].install,
            version=_tensorrt_version,
        ),
        BackEndRecord(
            name="torch",
            title="PyTorch",
            suffixes=(),
            session="lit_deploy.backends.torch:TorchSession",
            install=PACKAGES["torch"].install,
            version=_first_version("torch"),
        ),
    )
}
"""All back ends by name."""
