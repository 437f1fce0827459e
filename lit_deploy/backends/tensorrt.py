"""Sessions on TensorRT and TensorRT-RTX engines. Imports no torch.

Everything that can be refused is refused from the sidecar, before anything of TensorRT is loaded.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.preflight import preflight, rebuild_command, this_host
from lit_deploy.artifacts.sidecar import Sidecar, read_sidecar
from lit_deploy.backends.base import BackEnd, check_feeds, loaded
from lit_deploy.backends.cuda_memory import Device
from lit_deploy.backends.protocol import Phases, SessionOptions, TimingSettings
from lit_deploy.backends.tensorrt_context import EngineContext, LoadedEngine
from lit_deploy.core.errors import ArtifactError, LitDeployWarning, MissingDependency, UsageError
from lit_deploy.core.specs import IMAGE, ORIGINAL_SIZE, TensorSpec
from lit_deploy.machine import native
from lit_deploy.machine import tensorrt as trt
from lit_deploy.ops.nms.matrix_form import COMPLETE
from lit_deploy.tasks.protocol import Arrays
from lit_deploy.tasks.table import task_of

MOST_GRAPHS = 8
"""Idle contexts that wait with a CUDA graph of their batch size; beyond it the one that waits longest is used anew."""

NUMPY_TYPES = {"float32", "float16", "uint8", "int8", "int32", "int64", "bool"}


class TensorRTSession(BackEnd):
    """An engine on the first CUDA device; see ``Session`` and ``TimedSession``.

    ``run`` may be called from several threads: each takes an execution context, with a stream and buffers, that no
    other one uses meanwhile. As many are made as there are callers at once, and kept until the session ends. Arrays
    travel through pinned memory; what ``run`` returns is the caller's own.
    """

    def __init__(self, path: str | Path, options: SessionOptions) -> None:
        super().__init__(options)
        self._path = Path(path)
        self._sidecar: Sidecar | None = None
        self._device: Device | None = None
        self._runtime: Any = None
        self._loaded: LoadedEngine | None = None
        self._lock = threading.Lock()
        self._idle: list[EngineContext] = []  # in the order they were given back
        self._all: list[EngineContext] = []
        self._said = threading.local()  # the calling thread's last errors of TensorRT

    def _enter(self) -> None:
        sidecar = read_sidecar(self._path)
        self._check_options(sidecar)
        preflight(self._path, sidecar, this_host(), allow_host_code=self._options.allow_engine_code)
        self._sidecar = sidecar
        self._load(sidecar)
        self._manifest = sidecar.manifest

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        self._open()
        engine = loaded(self._loaded)
        return tuple(next(spec for spec in engine.outputs if spec.name == name) for name in engine.returned)

    @property
    def batch_range(self) -> tuple[int, int]:
        self._open()
        profiles = loaded(self._sidecar).profiles
        if not profiles:
            return super().batch_range
        return min(low for low, _, _ in profiles), max(high for _, _, high in profiles)

    @property
    def timing_settings(self) -> TimingSettings:
        self._open()
        device = loaded(self._device)
        return TimingSettings(True, device.spin_wait(), self._options.cuda_graph)

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Arrays:
        return self._run(feeds, timed=False)[0]

    def timed_run(self, feeds: Mapping[str, NDArray[np.generic]]) -> tuple[Arrays, Phases]:
        """Run one batch; also tell how long the copies and the network took on the GPU."""
        return self._run(feeds, timed=True)

    def _run(self, feeds: Mapping[str, NDArray[np.generic]], *, timed: bool) -> tuple[Arrays, Phases]:
        check_feeds(feeds, self.inputs)
        engine, device = loaded(self._loaded), loaded(self._device)
        batch = len(feeds[self.inputs[0].name])
        if batch == 0:  # TensorRT takes no empty tensors
            return {spec.name: _empty(spec) for spec in self.outputs}, Phases(0, 0, 0, 0)
        profile = self._profile_for(batch)
        self._check_sizes(feeds)
        self._said.errors = []
        try:
            with device.current():
                context = self._take(device, engine, batch)
                try:
                    answer = context.run(feeds, profile, timed=timed)
                except BaseException:
                    self._discard(context)
                    raise
        except (ArtifactError, MissingDependency) as error:
            said = self._reason("")
            raise ArtifactError(
                f"{self._path} failed on the GPU with batch {batch} ({error}{said and f': {said}'}); "
                "if memory is short, use a smaller batch or fewer threads at once"
            ) from None
        with self._lock:
            self._idle.append(context)
        if not answer[0].get(COMPLETE, np.ones(1)).all():
            warnings.warn(
                f"{self._path} compares the best candidates only, and of a picture more of them might have changed the "
                "result; build it again with more --nms-candidates, or a higher --score-threshold",
                LitDeployWarning,
                stacklevel=2,
            )
        return answer

    def _profile_for(self, batch: int) -> int:
        """Index of the profile that was tuned nearest to a batch size."""
        profiles = loaded(self._sidecar).profiles
        fitting = [index for index, (low, _, high) in enumerate(profiles) if low <= batch <= high]
        if fitting:
            return min(fitting, key=lambda index: abs(profiles[index][1] - batch))
        if not profiles:  # a fixed batch, which was checked with the inputs
            return 0
        ranges = " and ".join(f"{low} to {high}" for low, _, high in profiles)
        low, high = min(batch, self.batch_range[0]), max(batch, self.batch_range[1])
        raise UsageError(
            f"got a batch of {batch} images, but {self._path} was built for {ranges}; run smaller or larger batches, "
            f"or build it again: {rebuild_command(self._path, loaded(self._sidecar), batch=(low, batch, high))}"
        )

    def _check_sizes(self, feeds: Mapping[str, NDArray[np.generic]]) -> None:
        """Raise UsageError for a picture of a size that the engine was not built for."""
        sidecar = loaded(self._sidecar)
        if sidecar.sizes is None:
            return
        spec = next(spec for spec in sidecar.inputs if spec.name == IMAGE)
        measured = dict(zip(spec.shape, feeds[IMAGE].shape, strict=True))
        for name, (low, _, high) in (("height", sidecar.sizes.height), ("width", sidecar.sizes.width)):
            if name in measured and not low <= measured[name] <= high:
                raise UsageError(
                    f"got a picture whose {name} is {measured[name]} pixels, but {self._path} was built for {low} to "
                    f"{high}; build it again: {rebuild_command(self._path, sidecar)} with another --size"
                )
        low, _, high = sidecar.sizes.original
        sides = feeds[ORIGINAL_SIZE]
        if not low <= sides.min() <= sides.max() <= high:
            raise UsageError(
                f"got a picture of originally {' x '.join(map(str, sides))} pixels, but {self._path} was built for "
                f"sides of {low} to {high}; make it smaller, or build it again with --max-original {sides.max()}"
            )

    def _take(self, device: Device, loaded: LoadedEngine, batch: int) -> EngineContext:
        """A context that nobody uses; with CUDA graphs, one for this batch size: a graph holds a context's state."""
        with self._lock:
            fitting = [c for c in self._idle if not loaded.cuda_graph or c.batch == batch]
            if not fitting and len(self._idle) >= MOST_GRAPHS:
                fitting = self._idle[:1]
            if fitting:
                self._idle.remove(fitting[-1])
                return fitting[-1]
            context = EngineContext(device, loaded)
            self._all.append(context)
            return context

    def _discard(self, context: EngineContext) -> None:
        """Close a context that failed: its stream or its buffers may be in any state."""
        with self._lock:
            self._all.remove(context)
        context.close()

    def _check_options(self, sidecar: Sidecar) -> None:
        plugin, library = sidecar.plugin is not None, self._options.library
        if library is not None and library != plugin:
            raise UsageError(
                f"{self._path} {'calls the plugin' if plugin else 'was built without the plugin'}, which cannot be "
                f"changed any more; build it {'with --no-plugin' if plugin else 'without --no-plugin'}"
            )
        if self._options.layers and not sidecar.build.layers:
            raise UsageError(
                f"{self._path} does not return its layers; build an engine that does: "
                f"lit-deploy export --ckpt {sidecar.manifest.source} --format trt --layers"
            )

    def _load(self, sidecar: Sidecar) -> None:
        """Deserialise the engine, with its plugin at hand, and check that it is what the sidecar describes."""
        backend, plugin = sidecar.build.backend, sidecar.plugin
        title = trt.BACKENDS[backend].title
        module = trt.load(backend)
        if plugin is not None and backend == "tensorrt_rtx" and not trt.rtx_library_is_found():
            raise MissingDependency(
                f"{self._path} calls a plugin, for which {title} looks for libtensorrt_rtx.so and ends the process "
                f"when it is not found; start the process with LD_LIBRARY_PATH={trt.rtx_library_folder()}"
            )
        self._device = Device()
        with self._device.current():
            # TensorRT keeps a pointer to its logger, and an engine one to its runtime: both live until ``_close``.
            self._logger = trt.make_logger(module, self._listen)
            self._runtime = module.Runtime(self._logger)
            self._runtime.engine_host_code_allowed = self._options.allow_engine_code
            library = native.find_plugin()
            if plugin is not None and not plugin.embedded and library is not None:
                registry = self._runtime.get_plugin_registry()
                trt.load_plugin(registry, library, plugin.names, plugin.version, plugin.namespace)
            engine = self._runtime.deserialize_cuda_engine(self._path.read_bytes())
        if engine is None:
            raise ArtifactError(
                f"{title} {module.__version__} refuses {self._path} ({self._reason('it does not say why')}); "
                f"build it again here: {rebuild_command(self._path, sidecar)}"
            )
        returned = [spec.name for spec in task_of(sidecar.manifest).output_specs(sidecar.manifest)]
        returned += [spec.name for spec in sidecar.outputs if spec.name == COMPLETE]
        if self._options.layers:
            returned += sidecar.manifest.layers
        _check_tensors(self._path, engine, sidecar, returned)
        self._loaded = LoadedEngine(
            module=module,
            engine=engine,
            inputs=sidecar.inputs,
            outputs=sidecar.outputs,
            returned=tuple(returned),
            host=tuple(s.name for s in sidecar.inputs if engine.get_tensor_location(s.name).name == "HOST"),
            cuda_graph=self._options.cuda_graph,
        )
        how = "built-in function" if plugin is None else "embedded plugin" if plugin.embedded else "plugin"
        if plugin is None and sidecar.manifest.portable:
            how = "inlined"
        self._description = f"{title} {module.__version__} ({how}{', CUDA graph' if self._options.cuda_graph else ''})"

    def _listen(self, severity: trt.Severity, message: str) -> None:
        if severity in ("internal error", "error"):
            self._errors().append(message)

    def _reason(self, otherwise: str) -> str:
        """The first line of the first error that TensorRT logged for this, else ``otherwise``."""
        lines = "".join(self._errors()[:1]).strip().splitlines()
        return lines[0] if lines else otherwise

    def _errors(self) -> list[str]:
        if not hasattr(self._said, "errors"):
            self._said.errors = []
        errors: list[str] = self._said.errors
        return errors

    def _close(self) -> None:
        device = self._device
        if device is not None:
            self._idle.clear()
            # after a failure on the GPU nothing can be made current, and there is nothing left to give back
            with contextlib.suppress(MissingDependency), device.current():
                while self._all:
                    self._all.pop().close()
                self._loaded = None  # before its runtime
                self._runtime = None
            self._all.clear()
            self._loaded = self._runtime = None
            device.close()
        self._device = self._sidecar = None


def _empty(spec: TensorSpec) -> NDArray[np.generic]:
    return np.empty((0, *(size for size in spec.shape[1:] if isinstance(size, int))), spec.dtype)


def _tensors(engine: Any) -> dict[str, list[TensorSpec]]:
    """Inputs and outputs of an engine, by ``INPUT`` and ``OUTPUT``."""
    tensors: dict[str, list[TensorSpec]] = {"INPUT": [], "OUTPUT": []}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = engine.get_tensor_dtype(name).name
        shape = tuple(size if size >= 0 else "batch" for size in engine.get_tensor_shape(name))
        tensors[engine.get_tensor_mode(name).name].append(TensorSpec(name, trt.DTYPES.get(dtype, dtype.lower()), shape))
    return tensors


def _name(spec: TensorSpec) -> str:
    return spec.name


def _check_tensors(path: Path, engine: Any, sidecar: Sidecar, returned: list[str]) -> None:
    """Raise ArtifactError when engine, sidecar and manifest do not describe the same inputs and outputs."""
    tensors = _tensors(engine)
    outputs = {spec.name: spec for spec in sidecar.outputs}
    pairs = [
        *itertools.zip_longest(tensors["INPUT"], sidecar.inputs),
        *itertools.zip_longest(sorted(tensors["OUTPUT"], key=_name), sorted(sidecar.outputs, key=_name)),
        *itertools.zip_longest(sidecar.inputs, task_of(sidecar.manifest).input_specs(sidecar.manifest)),
        *((outputs.get(spec.name), spec) for spec in task_of(sidecar.manifest).output_specs(sidecar.manifest)),
        *((outputs.get(name), outputs.get(name)) for name in returned),
    ]
    for found, wanted in pairs:
        if found is None or wanted is None or not found.agrees(wanted):
            raise ArtifactError(
                f"{path} has {found}, its sidecar promises {wanted}; "
                f"build it again here: {rebuild_command(path, sidecar)}"
            )
    unknown = [spec for spec in (*sidecar.inputs, *sidecar.outputs) if spec.dtype not in NUMPY_TYPES]
    count = engine.num_optimization_profiles
    if unknown or count != max(1, len(sidecar.profiles)):
        raise ArtifactError(
            f"{path} has {count} profiles and tensors of type {[spec.dtype for spec in unknown]} that this lit-deploy "
            f"does not run; build it again here: {rebuild_command(path, sidecar)}"
        )
