"""From an exported ONNX file to a TensorRT or TensorRT-RTX engine and its sidecar.

The builder runs in a process of its own: ``engine_process`` starts it, and ``tensorrt_builder`` is what runs there.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import msgspec

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.preflight import FP8_LEAST, computes, here
from lit_deploy.artifacts.sidecar import EngineBuild, EnginePlugin, Inspection, Sidecar, onnx_path
from lit_deploy.core.errors import ExportError, MissingDependency, UsageError
from lit_deploy.core.files import sha256_of
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.core.specs import EIGHT_BIT, OP_VERSION, PrecisionName, TensorSpec
from lit_deploy.exporters.engine_options import DEFAULT_PROFILE, EngineOptions, engine_sizes
from lit_deploy.exporters.engine_process import built
from lit_deploy.exporters.fixed_rows import with_fixed_rows
from lit_deploy.machine import native
from lit_deploy.machine import tensorrt as trt
from lit_deploy.machine.cuda import Gpu, find_gpu, require_gpu
from lit_deploy.machine.tensorrt import BACKENDS, RTX_TARGETS, BackendName
from lit_deploy.ops.deformable_token_merging.schema import OP_TYPE as MERGING
from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.multi_level_roi_align.schema import OP_TYPE as ROI_ALIGN
from lit_deploy.ops.nms.matrix_form import MatrixForm, in_matrix_form
from lit_deploy.ops.relative_position_attention.schema import OP_TYPE as ATTENTION
from lit_deploy.ops.relative_position_attention.small_maps import decomposed
from lit_deploy.ops.table import attention_function

TYPES: dict[PrecisionName, str] = {
    "fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8", "fp8": "float8e4m3",
}  # fmt: skip
"""What the builder process calls the types."""


def engine_from_onnx(
    model: bytes, manifest: Manifest, name: str, options: EngineOptions, progress: Progress = unseen
) -> tuple[bytes, Sidecar]:
    """Build an engine and describe it.

    Args:
        model: a serialised ``onnx.ModelProto`` as ``onnx_from_checkpoint`` makes it; its types are the engine's.
        manifest: the manifest in it.
        name: file name of the engine, for the sidecar.
        options: how to build.
        progress: called with every step and the percentage that is done.

    Returns:
        The engine and its sidecar (without parity).

    Raises:
        UsageError: options that the back end does not know. MissingDependency: no back end, GPU or plugin library.
        BuildFailed: the builder refused or died. ExportError: what it built is not what was asked for.
    """
    if manifest.batch and options.profile is not None:
        raise UsageError(f"the ONNX file is for batches of {manifest.batch} only, so it takes no profile; drop --batch")
    check_plugin(manifest, options)
    sizes = engine_sizes(manifest, options)
    options, version, gpu, library = ready_to_build(options, portable=manifest.portable, precision=manifest.precision)
    backend = options.backend
    assert backend is not None
    title = BACKENDS[backend].title
    progress(Step(f"start {title} {version}", 0.0))
    plugins = plugins_of(manifest)
    engine, facts = built(
        _as_built(model, manifest, options), manifest, options, sizes, library, tuple(plugins), progress
    )
    inspections = msgspec.convert(facts["inspections"], tuple[Inspection, ...])
    for inspection in inspections:
        _check_inspection(inspection, manifest, library is not None)
    if library is not None and facts["plugin_calls"] < 1:
        raise ExportError(f"{title} never configured the plugin of {library}, so the engine does not call it")
    sidecar = Sidecar(
        engine_sha256=hashlib.sha256(engine).hexdigest(),
        engine_size=len(engine),
        onnx=onnx_path(Path(name)).name,
        onnx_sha256=hashlib.sha256(model).hexdigest(),
        build=_described(backend, version, gpu, options, manifest),
        profiles=() if manifest.batch else (options.profile or DEFAULT_PROFILE,),
        sizes=sizes,
        inputs=msgspec.convert(facts["inputs"], tuple[TensorSpec, ...]),
        outputs=msgspec.convert(facts["outputs"], tuple[TensorSpec, ...]),
        plugin=_described_plugin(library, tuple(plugins), options),
        inspections=inspections,
        parity=None,
        manifest=manifest,
    )
    return engine, sidecar


def _as_built(model: bytes, manifest: Manifest, options: EngineOptions) -> bytes:
    """The graph that TensorRT is given.

    It has no kernel for attention, and knows how to fuse the products of one; and TensorRT-RTX has no suppression. Over
    large maps, products in a half type are made in one pass, as the fused ones are; those in float32 stay in blocks.
    No size may depend on what was found: a mask is computed for every row of the result, whether it counts or not.
    """
    import onnx

    proto = decomposed(onnx.load_from_string(model))
    if manifest.task == "instance_segmentation":
        assert manifest.dense is not None
        proto = with_fixed_rows(proto, manifest.dense.max_detections)
    proto = in_matrix_form(proto, MatrixForm(options.nms_candidates))
    for function in proto.functions:
        if function.name == ATTENTION and manifest.base != "fp32":
            function.CopyFrom(attention_function(proto.graph, one_pass=True))
    serialised: bytes = proto.SerializeToString()
    return serialised


def ready_to_build(
    options: EngineOptions, *, portable: bool, precision: PrecisionName = "fp32"
) -> tuple[EngineOptions, str, Gpu | None, Path | None]:
    """Refuse what cannot be built here, before any work is done.

    Args:
        options: how to build.
        portable: the ONNX file holds no operator that the plugin could compute.
        precision: of the ONNX file.

    Returns:
        The options with the back end (and, for fp8, the targets) settled, its version, the GPU, and the plugin library
        to build with.

    Raises:
        UsageError, MissingDependency: see ``engine_from_onnx``.
    """
    backend = options.backend or trt.default_backend()
    options = replace(options, backend=backend)
    _check_backend(backend, options)
    version = trt.installed_version(backend)
    if version is None:
        raise MissingDependency(f"{BACKENDS[backend].title} is not installed; run: {BACKENDS[backend].install}")
    gpu = require_gpu() if backend == "tensorrt" else find_gpu()
    if precision == "fp8":
        options = _for_fp8(options, gpu)
    return options, version, gpu, _plugin_library(portable, options)


def _for_fp8(options: EngineOptions, gpu: Gpu | None) -> EngineOptions:
    """Refuse GPUs that compute no fp8; the builder would say so minutes later, and not in these words."""
    instead = "or use --precision int8 or fp16"
    if options.hardware_compatible:
        raise UsageError(
            "--hardware-compatible means every GPU of compute capability 8.0 and above, but fp8 needs "
            f"{FP8_LEAST} and above; drop it, {instead}"
        )
    if options.backend == "tensorrt":
        assert gpu is not None
        if not computes("fp8", gpu.compute_capability):
            raise UsageError(
                f"fp8 needs a GPU of compute capability {FP8_LEAST} and above, and TensorRT builds for the one here, "
                f"{gpu.name} ({gpu.compute_capability}); build elsewhere, with --builder tensorrt_rtx, {instead}"
            )
        return options
    too_old = [target for target in options.targets if not computes("fp8", target)]
    if too_old:
        raise UsageError(
            f"the target {too_old[0]} computes no fp8, which needs {FP8_LEAST} and above; leave it out, {instead}"
        )
    # Its own choice leaves the older ones out without a word; the sidecar is to say for which GPUs the engine is.
    return replace(options, targets=options.targets or tuple(t for t in RTX_TARGETS if computes("fp8", t)))


def _check_backend(backend: BackendName, options: EngineOptions) -> None:
    """Refuse what a back end would silently ignore."""
    rtx = backend == "tensorrt_rtx"
    refused = (
        (rtx and options.version_compatible, "--version-compatible", "its engines never cross releases"),
        (rtx and options.hardware_compatible, "--hardware-compatible", "name the GPUs with --target instead"),
        (rtx and options.timing_cache is not None, "--timing-cache", "it measures nothing while it builds"),
        (not rtx and options.targets, "--target", "it builds for the GPU it runs on"),
    )
    for given, option, reason in refused:
        if given:
            raise UsageError(f"{BACKENDS[backend].title} does not take {option}: {reason}")


def plugins_of(manifest: Manifest) -> dict[str, int]:
    """The layers of a network that our plugins compute where their library is: names and counts."""
    plugins = {MERGING: manifest.model.mergings}
    if manifest.task == "instance_segmentation":
        plugins[ROI_ALIGN] = 2  # of the box head and of the mask head
    return plugins


def check_plugin(manifest: Manifest, options: EngineOptions) -> None:
    """Refuse a network that needs our plugins where they are not to be had, before any work is done.

    RoIAlign in standard operators is none for an engine: TensorRT-RTX does not build it, and TensorRT's own computes
    positions in the maps' type and divides by an unguarded number of samples.

    Raises:
        UsageError: the plugin is left out, or the file holds the operators inlined. MissingDependency: no library.
    """
    if ROI_ALIGN not in plugins_of(manifest):
        return
    needed = f"an engine of Mask R-CNN needs the plugin {ROI_ALIGN}, as TensorRT has no such operator"
    if manifest.portable or options.plugin is False:
        raise UsageError(f"{needed}; drop {'--portable' if manifest.portable else '--no-plugin'}")
    if _plugin_library(manifest.portable, options) is None:
        searched = ", ".join(map(str, native.searched_plugin_paths()))
        raise MissingDependency(
            f"{needed}, and the plugin library was not found (searched {searched}); build it: "
            f"{native.PLUGIN_BUILD_COMMAND}, or leave out --format trt and run the .onnx file"
        )


def _plugin_library(portable: bool, options: EngineOptions) -> Path | None:
    """The library to build with, or None for the function in the file."""
    wanted = options.plugin or options.embed_plugin
    if portable and wanted:
        raise UsageError("the file is portable, so it holds no operator that a plugin could compute; drop --portable")
    if portable or options.plugin is False:
        return None
    library = native.find_plugin()
    if library is None and (wanted or os.environ.get(native.PLUGIN_VARIABLE)):
        searched = ", ".join(map(str, native.searched_plugin_paths()))
        raise MissingDependency(
            f"the TensorRT plugin library was not found (searched {searched}); build it: "
            f"{native.PLUGIN_BUILD_COMMAND}, or use --no-plugin"
        )
    return library


def _described(
    backend: BackendName, version: str, gpu: Gpu | None, options: EngineOptions, manifest: Manifest
) -> EngineBuild:
    system, machine = here()
    suppresses = manifest.task in ("detection", "instance_segmentation")
    return EngineBuild(
        backend=backend,
        backend_version=version,
        cuda_version=trt.cuda_version(backend),
        gpu=gpu.name if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
        targets=options.targets,
        os=system,
        arch=machine,
        hardware_compatible="ampere+" if options.hardware_compatible else "none",
        version_compatible=options.version_compatible,
        workspace_mib=options.workspace_mib,
        optimization_level=options.optimization_level,
        timing_cache=options.timing_cache is not None,
        layers=options.layers,
        nms_candidates=options.nms_candidates if suppresses else None,
    )


def _described_plugin(library: Path | None, plugins: tuple[str, ...], options: EngineOptions) -> EnginePlugin | None:
    if library is None:
        return None
    return EnginePlugin(
        name=plugins[0],
        others=plugins[1:],
        version=str(OP_VERSION),
        namespace=DOMAIN,
        library=library.name,
        sha256=sha256_of(library),
        embedded=options.embed_plugin,
    )


def _check_inspection(inspection: Inspection, manifest: Manifest, plugin: bool) -> None:
    """Fail when precision or plugin use is not what was asked for."""
    asked, quantization = TYPES[manifest.precision], manifest.quantization
    found = ", ".join(f"{count} {kind}" for kind, count in inspection.products.items()) or "none"
    if inspection.source == "engine":  # told in text that differs between releases: only what is surely wrong counts
        if inspection.products and asked not in inspection.products:
            raise ExportError(f"{manifest.precision} was asked for, but the engine's layers return: {found}")
        return
    if manifest.precision in EIGHT_BIT and quantization is not None:
        wanted_types = {asked, TYPES[quantization.base]}
        if inspection.products.get(asked) != quantization.products or not inspection.products.keys() <= wanted_types:
            raise ExportError(
                f"{quantization.products} matrix products of {manifest.precision} and all others of "
                f"{quantization.base} were asked for, but those of the network are: {found}"
            )
    elif inspection.products.keys() != {asked}:
        raise ExportError(f"{manifest.precision} was asked for, but the matrix products of the network are: {found}")
    wanted = sum(plugins_of(manifest).values()) if plugin else 0
    if inspection.plugin_layers != wanted:
        raise ExportError(
            f"the network has {inspection.plugin_layers} plugin layers, expected {wanted}; "
            + ("the parser took the function in the file; try --no-plugin" if plugin else "this is a bug")
        )
