"""The table of back ends: a new one is a file beside this one and a line here. Loads none of them."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager
from dataclasses import dataclass

from lit_deploy.artifacts.openvino_file import IR_SUFFIX
from lit_deploy.artifacts.sidecar import ENGINE_SUFFIXES
from lit_deploy.backends.protocol import BackendName
from lit_deploy.machine import tensorrt
from lit_deploy.machine.packages import PACKAGES, imported


@dataclass(frozen=True)
class BackEndRecord:
    """What is known about a back end without loading it.

    Attributes:
        name: in options and messages; ``title``: in sentences.
        suffixes: endings of the files it runs; empty for whatever no other back end runs: checkpoints and their names.
        session: module and class of its sessions, ``module:Class``.
        modules: any of them is there where it is installed, whatever the distribution is called: builds of ONNX Runtime
            have many names.
        install: the command that installs it.
    """

    name: BackendName
    title: str
    suffixes: tuple[str, ...]
    session: str
    modules: tuple[str, ...]
    install: str

    @property
    def absence(self) -> str:
        """What to say where it is missing: that, and what mends it."""
        return f"{self.title} is not installed; run: {self.install}"

    def loading(self) -> AbstractContextManager[None]:
        """Around the import of its module: MissingDependency where that is absent, or does not load."""
        return imported(self.modules[0], self.absence, self.title, self.install)

    def missing(self) -> str | None:
        """``absence`` where it is missing, None where it is installed; imports nothing."""
        specs = (importlib.util.find_spec(name) for name in self.modules)
        # any folder of that name is a package too
        return None if any(spec is not None and spec.origin for spec in specs) else self.absence


BACKENDS: dict[BackendName, BackEndRecord] = {
    record.name: record
    for record in (
        BackEndRecord(
            name="onnxruntime",
            title="ONNX Runtime",
            suffixes=(".onnx",),
            session="lit_deploy.backends.onnxruntime:OnnxRuntimeSession",
            modules=("onnxruntime",),
            install=PACKAGES["onnxruntime"].install,
        ),
        BackEndRecord(
            name="openvino",
            title="OpenVINO",
            suffixes=(".onnx", IR_SUFFIX),
            session="lit_deploy.backends.openvino:OpenVinoSession",
            modules=("openvino",),
            install=PACKAGES["openvino"].install,
        ),
        BackEndRecord(
            name="tensorrt",
            title="TensorRT",
            suffixes=ENGINE_SUFFIXES,
            session="lit_deploy.backends.tensorrt:TensorRTSession",
            modules=tuple(name for backend in tensorrt.BACKENDS.values() for name in backend.modules),
            install=tensorrt.BACKENDS["tensorrt"].install,
        ),
        BackEndRecord(
            name="torch",
            title="PyTorch",
            suffixes=(),
            session="lit_deploy.backends.torch:TorchSession",
            modules=("torch",),
            install=PACKAGES["torch"].install,
        ),
    )
}
"""All back ends by name."""
