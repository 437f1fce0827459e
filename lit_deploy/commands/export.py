"""The command ``export``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Literal

import typer

from lit_deploy.commands.engine_options import (
    ENGINE_OPTIONS,
    Builder,
    EmbedPlugin,
    HardwareCompatible,
    Layers,
    MaxOriginal,
    NmsCandidates,
    OptimizationLevel,
    Plugin,
    Target,
    TimingCache,
    VersionCompatible,
    Workspace,
)
from lit_deploy.commands.options import Json, NetworkKey, Sha256, Threads
from lit_deploy.commands.quantize_options import (
    CALIB,
    EIGHT_BIT_OPTIONS,
    EIGHT_BITS,
    AccuracyBudget,
    CalibLimit,
    CalibMethod,
    CalibPercentile,
    Force,
    Keep,
)
from lit_deploy.commands.values import (
    batch_of,
    checkpoint_source,
    height_width,
    quantize_options,
    refuse,
    size_ranges,
    targets,
)
from lit_deploy.core.errors import LitDeployError, UsageError
from lit_deploy.core.specs import (
    EIGHT_BIT,
    MAX_DETECTIONS,
    MAX_RESIZE,
    MAX_SIDE,
    InputKind,
    OutputKind,
    PrecisionName,
)

GRAPH_OPTIONS = (
    "precision", "input", "output", "portable", "labels", "resize", "mean", "std", "size", "score_threshold",
    "iou_threshold", "max_det",
)  # fmt: skip
DENSE = "Detection and segmentation"
Source = Annotated[
    str,
    typer.Option(
        "--ckpt",
        help="Checkpoint file (.pth, .safetensors), official name (lit_s) or https URL; for an engine or an IR, also "
        "an exported .onnx file.",
        metavar="CKPT",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="File to write; <checkpoint>.onnx, .xml or .engine here when left out.",
        show_default=False,
    ),
]
Format = Annotated[
    Literal["onnx", "openvino", "trt"],
    typer.Option(
        help="openvino writes an IR (.xml and .bin). trt builds a TensorRT engine, with a sidecar and the ONNX file it "
        "was made from beside it."
    ),
]
Precision = Annotated[
    PrecisionName,
    typer.Option(
        help="Type of weights and activations. int8, fp8: of the matrix products, by --calib; fp8 is for engines.",
        rich_help_panel="Graph",
    ),
]
Batch = Annotated[
    str,
    typer.Option(
        help="'dynamic', a fixed number of images, or MIN:OPT:MAX for an engine (1:8:32 when 'dynamic').",
        rich_help_panel="Graph",
    ),
]
Input = Annotated[
    InputKind | None,
    typer.Option(
        help="float: float32 NCHW, normalised. uint8: raw RGB pixels NHWC, normalised inside the graph. float for a "
        "classifier, uint8 for others when left out.",
        show_default=False,
        rich_help_panel="Graph",
    ),
]
Output = Annotated[
    OutputKind | None,
    typer.Option(
        help="Of a classifier logits, probabilities, top5 (scores and class indices) or features (the vector before "
        "the head); of others results, or logits of a segmentation network. The first of these when left out.",
        show_default=False,
        rich_help_panel="Graph",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="HxW",
        help="A fixed input size in pixels, to which pictures are resized; any when left out. Of an engine also "
        "MIN:OPT:MAXxMIN:OPT:MAX; all that the resize rule gives when left out.",
        show_default=False,
        rich_help_panel=DENSE,
    ),
]
ScoreThreshold = Annotated[
    float | None,
    typer.Option(
        help="Detections score above this; 0.05 when left out.",
        min=0.0,
        max=1.0,
        show_default=False,
        rich_help_panel=DENSE,
    ),
]
IouThreshold = Annotated[
    float | None,
    typer.Option(
        help="Of two boxes of a class that overlap by more, the better one stays; 0.5 when left out.",
        min=0.0,
        max=1.0,
        show_default=False,
        rich_help_panel=DENSE,
    ),
]
MaxDetections = Annotated[
    int | None,
    typer.Option(
        "--max-det",
        help="Detections of a picture, and rows of the outputs; 100 when left out.",
        min=1,
        max=MAX_DETECTIONS,
        show_default=False,
        rich_help_panel=DENSE,
    ),
]
Portable = Annotated[
    bool,
    typer.Option(
        "--portable",
        help="Inline the operator, for runtimes without model-local functions.",
        rich_help_panel="Graph",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Class names, one a line; the checkpoint's own, or those of the data set with as many classes when left "
        "out.",
        show_default=False,
        rich_help_panel="Input",
    ),
]
Resize = Annotated[
    int | None,
    typer.Option(
        help="Shorter side in pixels after resizing, before a classifier's centre crop, which has to fit; the official "
        "evaluation's when left out.",
        min=1,
        max=MAX_RESIZE * MAX_SIDE,
        rich_help_panel="Input",
    ),
]
Mean = Annotated[
    tuple[float, float, float] | None,
    typer.Option(
        help="Mean of R, G, B for pixels in 0..1, not 0..255; 0.485 0.456 0.406, ImageNet's, when left out.",
        rich_help_panel="Input",
    ),
]
Std = Annotated[
    tuple[float, float, float] | None,
    typer.Option(
        help="Deviation of R, G, B for pixels in 0..1; 0.229 0.224 0.225, ImageNet's, when left out.",
        rich_help_panel="Input",
    ),
]
Proof = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Compare the file with PyTorch before it gets its name.")
]
ProvenOn = Annotated[
    Literal["onnxruntime", "openvino"] | None,
    typer.Option(
        help="What an .onnx file is proven and measured on: ONNX Runtime when left out, and OpenVINO for bf16 where it "
        "computes that here.",
        show_default=False,
    ),
]
Calib = Annotated[
    Path | None, typer.Option(metavar="DIR|NPZ", help=CALIB, show_default=False, rich_help_panel=EIGHT_BITS)
]


def export(
    context: typer.Context,
    ckpt: Source,
    out: Out = None,
    key: NetworkKey = None,
    sha256: Sha256 = None,
    format: Format = "onnx",
    precision: Precision = "fp32",
    batch: Batch = "dynamic",
    input: Input = None,
    output: Output = None,
    portable: Portable = False,
    labels: Labels = None,
    resize: Resize = None,
    mean: Mean = None,
    std: Std = None,
    size: Size = None,
    score_threshold: ScoreThreshold = None,
    iou_threshold: IouThreshold = None,
    max_det: MaxDetections = None,
    verify: Proof = True,
    json: Json = False,
    threads: Threads = None,
    backend: ProvenOn = None,
    calib: Calib = None,
    calib_method: CalibMethod = "minmax",
    calib_percentile: CalibPercentile = None,
    calib_limit: CalibLimit = 128,
    keep: Keep = None,
    accuracy_budget: AccuracyBudget = 1.0,
    force: Force = False,
    max_original: MaxOriginal = 2048,
    nms_candidates: NmsCandidates = 2048,
    builder: Builder = "auto",
    plugin: Plugin = None,
    embed_plugin: EmbedPlugin = False,
    target: Target = None,
    hardware_compatible: HardwareCompatible = False,
    version_compatible: VersionCompatible = False,
    workspace: Workspace = None,
    optimization_level: OptimizationLevel = None,
    timing_cache: TimingCache = None,
    layers: Layers = False,
) -> None:
    """Write a checkpoint as a file that runs elsewhere, and prove that it computes the same."""
    from lit_deploy.core.progress import Step
    from lit_deploy.exporters.engine_options import EngineOptions
    from lit_deploy.exporters.options import OnnxOptions
    from lit_deploy.report.export import advice_line, export_json, export_summary
    from lit_deploy.report.terminal import show, steps
    from lit_deploy.workflows.advice import faster_choice
    from lit_deploy.workflows.export import export_checkpoint, export_engine
    from lit_deploy.workflows.export_ir import export_ir

    given = [p for p in context.params if (source := context.get_parameter_source(p)) and source.name == "COMMANDLINE"]
    quantize = None
    if calib is None:
        missing = "--calib" if precision in EIGHT_BIT else "--precision int8 (or fp8) and --calib"
        refuse(given, EIGHT_BIT_OPTIONS, f"is for files of 8 bits; add {missing}")
    else:
        quantize = quantize_options(
            calib=calib, method=calib_method, percentile=calib_percentile, limit=calib_limit, keep=keep,
            budget=accuracy_budget, force=force,
        )  # fmt: skip
    if format != "trt":
        refuse(given, ENGINE_OPTIONS, "is for engines; add --format trt")
    if format != "onnx":
        refuse(given, ("backend",), f"is for .onnx files; --format {format} has one back end")
    ranged = format == "trt" and size is not None and ":" in size
    images, profile = batch_of(batch, engine=format == "trt")
    options: OnnxOptions | None = OnnxOptions(
        input=input, output=output, precision=precision, batch=images, portable=portable, labels=labels, resize=resize,
        mean=mean, std=std, size=None if ranged else height_width("--size", size), score_threshold=score_threshold,
        iou_threshold=iou_threshold, max_detections=max_det,
    )  # fmt: skip
    stem = Path(ckpt.partition("#")[0]).stem or "model"
    exported = format != "onnx" and Path(ckpt).suffix.lower() == ".onnx"
    if exported:
        refuse(given, ("key", "sha256"), "is for checkpoints, and an .onnx file holds one network")
        refuse(given, ("calib",), "is for checkpoints: an .onnx file is taken as it is, quantised or not")
        decided = f"is decided already in {Path(ckpt).name}; export the checkpoint again"
        refuse(given, tuple(name for name in GRAPH_OPTIONS if name != "size" or not ranged), decided)
        options, stem = None, stem.removesuffix(".engine")
    else:
        ckpt = checkpoint_source(ckpt, key, sha256)
    advice = None
    with steps() as progress:
        if format == "onnx":
            result = export_checkpoint(
                ckpt, out or Path(f"{stem}.onnx"), options, quantize=quantize, verify=verify, threads=threads,
                backend=backend, progress=progress,
            )  # fmt: skip
            if result.report is not None and backend is None and precision != "bf16":
                progress(Step("look for a faster choice"))
                with contextlib.suppress(LitDeployError):  # the file is written and proven, whatever else is broken
                    advice = faster_choice(result.path, result.manifest, ckpt, threads)
        elif format == "openvino":
            if exported:
                refuse(given, ("batch",), decided)
            result = export_ir(
                ckpt, out or Path(f"{stem}.xml"), options, quantize=quantize, verify=verify, threads=threads,
                progress=progress,
            )  # fmt: skip
        else:
            if exported and images is not None:
                raise UsageError(f"{ckpt} is exported already; give its batch profile as --batch MIN:OPT:MAX")
            build = EngineOptions(
                backend=None if builder == "auto" else builder, profile=profile, plugin=plugin,
                sizes=size_ranges(size) if ranged and size is not None else None,
                max_original=max_original, nms_candidates=nms_candidates,
                embed_plugin=embed_plugin, hardware_compatible=hardware_compatible,
                version_compatible=version_compatible, targets=targets(target), workspace_mib=workspace,
                optimization_level=optimization_level, timing_cache=timing_cache, layers=layers,
            )  # fmt: skip
            result = export_engine(
                ckpt, out or Path(f"{stem}.engine"), options, build, quantize=quantize, verify=verify, threads=threads,
                progress=progress,
            )  # fmt: skip
    show(export_json(result, advice) if json else export_summary(result))
    if advice is not None and not json:
        show(advice_line(advice))
