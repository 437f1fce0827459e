"""Sessions on ONNX Runtime, with or without the lit-deploy custom-op library. Imports no torch."""

from __future__ import annotations

import bisect
import contextlib
import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import MANIFEST_KEY, Manifest
from lit_deploy.artifacts.onnx_file import (
    OnnxArtifact,
    check_file,
    lost_functions,
    lost_sentence,
    manifest_of,
    read_manifest,
    read_onnx,
    with_outputs,
)
from lit_deploy.backends.base import IN_MEMORY, BackEnd, check_feeds
from lit_deploy.backends.emulation import FP8_SETTING, NOTES, bf16_in_float32, emulated_precisions
from lit_deploy.backends.int8_weights import own_weights
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.backends.table import BACKENDS
from lit_deploy.core.errors import ArtifactError, LitDeployError, MissingDependency, UsageError, refuse_for_memory
from lit_deploy.core.specs import TensorSpec
from lit_deploy.core.text import first_line
from lit_deploy.machine import native
from lit_deploy.machine.facts import cpu_flags, int8_saturates
from lit_deploy.machine.packages import PACKAGES
from lit_deploy.ops.domain import CUDA_DEVICE, DEVICE_ENTRY
from lit_deploy.tasks.promises import check_tensors
from lit_deploy.tasks.protocol import Arrays

_TAIL = 1 << 20
"""Bytes at the end of a file, more than any manifest has."""

_CONTAINERS = ("If", "Loop", "Scan")
"""Types of nodes whose time is that of nodes inside them."""

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


EXACT_INT8 = ("session.x64quantprecision", "1")
"""Session configuration entry for x86 CPUs without integer dot products (VNNI). There ONNX Runtime's kernels for int8
add pairs of products in 16 bits and clip what does not fit, unless this is set; with it they are slower and exact.
Source: onnxruntime_session_options_config_keys.h."""


class OnnxRuntimeSession(BackEnd):
    """An exported file on ONNX Runtime (CPU or CUDA); see ``Session``."""

    def __init__(self, source: str | Path | OnnxArtifact, options: SessionOptions) -> None:
        super().__init__(options)
        self._source = source if isinstance(source, OnnxArtifact) else Path(source)
        self._path = IN_MEMORY if isinstance(source, OnnxArtifact) else Path(source)  # for messages
        self._session: Any = None
        self._notes: tempfile.TemporaryDirectory[str] | None = None

    def _enter(self) -> None:
        if isinstance(self._source, Path):
            check_file(self._source)
        ort = _import_onnxruntime()
        settings = self._settings(ort)
        library = self._library()
        if library is not None:
            try:
                settings.register_custom_ops_library(str(library))
            except Exception as error:  # ONNX Runtime raises its own bare exception types
                refuse_for_memory(error)
                raise MissingDependency(
                    f"ONNX Runtime {ort.__version__} cannot load {library} ({first_line(error)}); "
                    f"rebuild it: {native.BUILD_COMMAND}"
                ) from None
        providers = _providers(ort, self._options.device)

        def load(emulated: tuple[str, ...]) -> Any:
            source = _model(self._source, self._options, "bf16" in emulated)
            if "fp8" in emulated:
                settings.add_session_config_entry(*FP8_SETTING)
            # its own fallback would print to stdout and try the same again
            return ort.InferenceSession(source, settings, providers=providers, enable_fallback=0)

        emulated: tuple[str, ...] = ()
        try:
            try:
                self._session = load(())
            except Exception:  # only who is refused pays for reading the manifest first
                if self._options.device == "cpu":
                    emulated = emulated_precisions(_manifest(self._source))
                if not emulated:
                    raise
                self._session = load(emulated)
        except LitDeployError:
            raise
        except Exception as error:
            refuse_for_memory(error)
            if library is None and (lost := _lost(self._source)):
                raise ArtifactError(f"ONNX Runtime refuses {self._path}: {lost_sentence(lost)}") from None
            raise ArtifactError(
                f"ONNX Runtime {ort.__version__} refuses {self._path} ({first_line(error)}); export it again"
            ) from None
        try:  # ONNX Runtime hands over names and metadata that it never looked at
            metadata = self._session.get_modelmeta().custom_metadata_map
            for value in (*self._session.get_inputs(), *self._session.get_outputs()):
                _ = value.name, value.shape
        except UnicodeDecodeError:
            raise ArtifactError(f"{self._path} is damaged: it holds names that are no text; export it again") from None
        self._manifest = manifest_of(metadata, self._path)
        wanted = "CUDAExecutionProvider" if self._options.device == "cuda" else "CPUExecutionProvider"
        if self._session.get_providers()[0] != wanted:  # it goes on without a provider that does not load
            raise MissingDependency(
                f"ONNX Runtime {ort.__version__} could not start {wanted} (driver, CUDA or cuDNN missing); "
                "mend the installation, or use --device cpu"
            )
        self._check_manifest()
        kind = "inlined" if self.manifest.portable else "lit-deploy kernel" if library else "built-in function"
        notes = ", ".join((kind, *(NOTES[name] for name in emulated)))
        self._description = f"ONNX Runtime {ort.__version__} {self._options.device} ({notes})"

    def _settings(self, ort: Any) -> Any:
        settings = ort.SessionOptions()
        settings.log_severity_level = 4  # what it would log as an error is raised as well
        if self._options.threads is not None:
            settings.intra_op_num_threads = self._options.threads
        if self._options.device == "cuda":  # before the library is registered: it asks for it
            settings.add_session_config_entry(DEVICE_ENTRY, CUDA_DEVICE)
        if int8_saturates(cpu_flags()):
            settings.add_session_config_entry(*EXACT_INT8)
        # A plan of where values lie is made for every size of picture, beside the memory of the runs without one: of a
        # Mask R-CNN at 800x1216 it takes 380 of 1170 MiB. A classifier, whose size is one, is faster with it.
        settings.enable_mem_pattern = not _is_dense(self._source)
        if self._options.profiled:
            self._notes = tempfile.TemporaryDirectory(prefix="lit-deploy-profile-")
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(self._notes.name) / "nodes")
        return settings

    def _close(self) -> None:
        self._session = None
        if self._notes is not None:
            self._notes.cleanup()

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        self._open()
        return _specs(self._session.get_outputs())

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Arrays:
        check_feeds(feeds, self.inputs)
        names = [value.name for value in self._session.get_outputs()]
        try:
            return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))
        except Exception as error:
            refuse_for_memory(error)
            raise ArtifactError(f"ONNX Runtime failed while it ran {self._path}: {first_line(error)}") from None

    def node_times(self) -> list[dict[str, float]]:
        """See ``ProfiledSession``."""
        self._open()
        events = json.loads(Path(self._session.end_profiling()).read_text())
        if self._notes is not None:
            self._notes.cleanup()  # here, as a worker of a benchmark is killed rather than closed
        runs = sorted(event["ts"] for event in events if event["name"] == "model_run")
        times: list[dict[str, float]] = [{} for _ in runs]
        for event in events:
            kind = event.get("args", {}).get("op_name")
            if event["name"].endswith("_kernel_time") and kind not in _CONTAINERS:
                run = times[bisect.bisect_right(runs, event["ts"]) - 1]
                run[kind] = run.get(kind, 0.0) + event["dur"] / 1000
        return times

    def _check_manifest(self) -> None:
        """Raise when the graph is not the one that the manifest describes, or cannot be run as asked."""
        if self.manifest.portable and self._options.library:
            raise UsageError(
                f"{self._path} is a portable file, which holds no custom operator; export it without --portable"
            )
        check_tensors(self._path, self.manifest, _specs(self._session.get_inputs()), self.outputs)

    def _library(self) -> Path | None:
        return native.choose_library(self._options.library, self._options.device)


def _specs(values: Any) -> tuple[TensorSpec, ...]:
    """ONNX Runtime's inputs or outputs as TensorSpecs."""
    return tuple(TensorSpec(v.name, _DTYPES.get(v.type, v.type), tuple(v.shape)) for v in values)


def _import_onnxruntime() -> Any:
    record = BACKENDS["onnxruntime"]
    with record.loading():
        import onnxruntime
    if not hasattr(onnxruntime, "InferenceSession"):  # a folder of that name
        raise MissingDependency(record.absence)
    return onnxruntime


def _providers(ort: Any, device: str) -> list[Any]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise MissingDependency(
            f"device cuda was asked for, but ONNX Runtime {ort.__version__} has no CUDA provider here; "
            f"run: {PACKAGES['onnxruntime-gpu'].install}, or use --device cpu"
        )
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it cannot find
        ort.preload_dlls()  # CUDA and cuDNN from their pip packages, which nobody else has loaded where torch is not
    # float32 means float32: TensorFloat-32 products have 10 bits
    return [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]


def _manifest(source: Path | OnnxArtifact) -> Manifest:
    return source.manifest if isinstance(source, OnnxArtifact) else read_manifest(source)


def _lost(source: Path | OnnxArtifact) -> tuple[str, ...]:
    return lost_functions(source.graph if isinstance(source, OnnxArtifact) else read_onnx(source))


def _is_dense(source: Path | OnnxArtifact) -> bool:
    """Whether it is no classifier, told without reading a file as a whole: the manifest is at its end."""
    if isinstance(source, OnnxArtifact):
        return source.manifest.task != "classification"
    with source.open("rb") as file:
        file.seek(max(0, source.stat().st_size - _TAIL))
        _, _, manifest = file.read().rpartition(MANIFEST_KEY.encode())
    return b'"task":"' in manifest and b'"task":"classification"' not in manifest


def _model(source: Path | OnnxArtifact, options: SessionOptions, bf16: bool) -> str | bytes:
    """What ONNX Runtime is to load: the path, or the model as it is asked for, serialised.

    Args:
        source: the file, or its content; ``options``: they name the values that become further outputs.
        bf16: compute it in float32, rounded to bfloat16.
    """
    apart = int8_saturates(cpu_flags()) and _is_dense(source) and _manifest(source).precision == "int8"
    if not (options.layers or options.values or bf16 or apart):
        return source.to_bytes() if isinstance(source, OnnxArtifact) else str(source)
    if isinstance(source, OnnxArtifact):
        artifact, path = source, IN_MEMORY
    else:
        artifact, path = OnnxArtifact.read(source), source
    graph = type(artifact.graph)()
    graph.CopyFrom(artifact.graph)
    if bf16:
        bf16_in_float32(graph, path)
    if apart:
        own_weights(graph)
    layers = artifact.manifest.layers if options.layers else ()
    with_outputs(graph, tuple(dict.fromkeys((*layers, *options.values))), path)
    return OnnxArtifact(graph, artifact.manifest).to_bytes()
