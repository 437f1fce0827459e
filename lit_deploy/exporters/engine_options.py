"""How an engine is to be built: what a user can choose, and for which shapes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.sidecar import Range, SizeProfile
from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import MAX_BATCH, MAX_SIDE, MAX_WORKSPACE_MIB, ORIGINAL_SIZE, TensorSpec
from lit_deploy.machine.tensorrt import RTX_TARGETS, BackendName
from lit_deploy.ops.nms.matrix_form import DEFAULT_CANDIDATES, MAX_CANDIDATES
from lit_deploy.tasks.table import task_of

DEFAULT_PROFILE = (1, 8, 32)
DEFAULT_ORIGINAL = 2048
"""Pixels of the longer side of a picture before it was resized, at most; they take memory of an engine."""
LEAST_SIDE = 64
"""Pixels of a side of a picture, at least."""


@dataclass(frozen=True)
class EngineOptions:
    """How to build.

    Attributes:
        backend: who builds; None for TensorRT where it and a GPU are, else TensorRT-RTX.
        profile: least, best and largest batch of an ONNX file whose batch is dynamic; None for 1, 8, 32.
        sizes: least, best and largest height and width in pixels of the pictures that a detector or segmentation
            network takes; None for the size of the ONNX file, or all that its resize rule gives.
        max_original: longest side in pixels of the pictures before they are resized.
        nms_candidates: best candidates of a detector that are compared with each other, 1 to 3,840.
        plugin: True requires our plugin, False leaves it out (the function in the file is built instead, which needs no
            library anywhere), None uses it where its library is found.
        embed_plugin: put the plugin library into the engine.
        hardware_compatible: TensorRT: run on every GPU of compute capability 8.0 and above.
        version_compatible: TensorRT: run on later releases of the same major version.
        targets: TensorRT-RTX: compute capabilities to build for; empty for its own choice (all from 8.0), and for fp8
            all from 8.9.
        workspace_mib: most scratch memory of one layer in MiB; None for the builder's default.
        optimization_level: 0 (fast build) to 5; None for the builder's default.
        timing_cache: TensorRT: file of measured kernel times, read if it is there and written.
        layers: a debug build: the outputs of all layers are outputs of the engine.
    """

    backend: BackendName | None = None
    profile: tuple[int, int, int] | None = None
    sizes: tuple[Range, Range] | None = None
    max_original: int = DEFAULT_ORIGINAL
    nms_candidates: int = DEFAULT_CANDIDATES
    plugin: bool | None = None
    embed_plugin: bool = False
    hardware_compatible: bool = False
    version_compatible: bool = False
    targets: tuple[str, ...] = ()
    workspace_mib: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    layers: bool = False

    def __post_init__(self) -> None:
        low, best, high = self.profile or DEFAULT_PROFILE
        if not 1 <= low <= best <= high <= MAX_BATCH:
            raise UsageError(
                f"the batch profile is {low}:{best}:{high}, expected MIN:OPT:MAX in ascending order, 1 to {MAX_BATCH}"
            )
        for low, best, high in (*(self.sizes or ()), (1, 1, self.max_original)):
            if not 1 <= low <= best <= high <= MAX_SIDE:
                raise UsageError(
                    f"a side of the pictures is {low}:{best}:{high}, expected MIN:OPT:MAX in ascending order, 1 to "
                    f"{MAX_SIDE} pixels"
                )
        if not 1 <= self.nms_candidates <= MAX_CANDIDATES:
            raise UsageError(f"the NMS candidates are {self.nms_candidates}, expected 1 to {MAX_CANDIDATES}")
        if self.embed_plugin and self.plugin is False:
            raise UsageError("the plugin is to be embedded and left out at once; drop one of the two options")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UsageError(f"the optimisation level is {self.optimization_level}, expected 0 to 5")
        if self.workspace_mib is not None and not 1 <= self.workspace_mib <= MAX_WORKSPACE_MIB:
            raise UsageError(f"the workspace limit is {self.workspace_mib} MiB, expected 1 to {MAX_WORKSPACE_MIB}")
        unknown = [target for target in self.targets if target not in RTX_TARGETS]
        if unknown:
            raise UsageError(f"the target is '{unknown[0]}', expected compute capabilities of {', '.join(RTX_TARGETS)}")


def engine_sizes(manifest: Manifest, options: EngineOptions) -> SizeProfile | None:
    """The sizes that an engine is built for: those that were asked for, the file's own, or what the resize rule gives.

    Raises:
        UsageError: sizes are asked for, but the network takes one only, or is a classifier.
    """
    spec = manifest.input
    if options.sizes is not None and spec.height is not None:
        raise UsageError(f"the ONNX file takes pictures of {spec.height} x {spec.width} only; drop --size")
    if manifest.task == "classification":
        return None
    if options.sizes is not None:
        height, width = options.sizes
    elif spec.height is not None and spec.width is not None:
        height, width = (spec.height,) * 3, (spec.width,) * 3
    else:
        longest = spec.longest or spec.resize
        height = (LEAST_SIDE, min(spec.resize, longest), longest)
        width = (LEAST_SIDE, min(spec.resize * 3 // 2, longest), longest)
    usual = min(max(height[1], width[1]), options.max_original)
    return SizeProfile(height, width, (1, usual, options.max_original))


def shapes_of(
    manifest: Manifest, options: EngineOptions, sizes: SizeProfile | None
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The least, best and largest shape of every input, and of a size that comes as numbers these."""
    ranges: dict[str, Range] = {"batch": options.profile or DEFAULT_PROFILE}
    numbers = {}
    if sizes is not None:
        ranges |= {"height": sizes.height, "width": sizes.width}
        numbers[ORIGINAL_SIZE] = tuple((side, side) for side in sizes.original)

    def shape(spec: TensorSpec, index: int) -> tuple[int, ...]:
        return tuple(ranges[size][index] if isinstance(size, str) else size for size in spec.shape)

    inputs = task_of(manifest).input_specs(manifest)
    return {spec.name: tuple(shape(spec, index) for index in range(3)) for spec in inputs} | numbers
