"""The options of the command line: their types, help texts and panels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lit_deploy.specs import MAX_BATCH, PrecisionName

ENGINE = "Engine (--format trt)"
ENGINE_OPTIONS = (
    "builder", "plugin", "embed_plugin", "target", "hardware_compatible", "version_compatible", "workspace",
    "optimization_level", "timing_cache", "layers",
)  # fmt: skip
GRAPH_OPTIONS = ("precision", "input", "output", "portable", "labels", "resize", "mean", "std")

Artifact = Annotated[
    str, typer.Argument(help="Exported .onnx file, engine, or checkpoint.", metavar="FILE", show_default=False)
]
Checkpoint = Annotated[
    str,
    typer.Option(
        "--ckpt",
        help="Checkpoint file (.pth, .safetensors), official name (lit_s) or https URL.",
        metavar="CKPT",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.", rich_help_panel="Report")]
Threads = Annotated[
    int | None,
    typer.Option(help="Threads of one inference; all cores when left out.", min=1, rich_help_panel="Run"),
]
Device = Annotated[
    Literal["cpu", "cuda"], typer.Option(help="Where to run; engines always run on cuda.", rich_help_panel="Run")
]
EngineCode = Annotated[
    bool,
    typer.Option(
        "--allow-engine-code",
        help="Let an engine run the code it carries (embedded plugin, version-compatible); only for files you trust.",
        rich_help_panel="Run",
    ),
]
Library = Annotated[
    bool | None,
    typer.Option(
        "--library/--no-library",
        help="Require, or leave out, the custom-op library; used where found when left out.",
        show_default=False,
        rich_help_panel="Run",
    ),
]

Source = Annotated[
    str,
    typer.Option(
        "--ckpt",
        help="Checkpoint file (.pth, .safetensors), official name (lit_s) or https URL; for an engine, also an "
        "exported .onnx file.",
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
        help="File to write; <checkpoint>.onnx or <checkpoint>.engine here when left out.",
        show_default=False,
    ),
]
Format = Annotated[
    Literal["onnx", "trt"],
    typer.Option(help="trt builds a TensorRT engine, with a sidecar and the ONNX file it was made from beside it."),
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
    Literal["float", "uint8"],
    typer.Option(
        help="float: float32 NCHW, normalised. uint8: raw RGB pixels NHWC, normalised inside the graph.",
        rich_help_panel="Graph",
    ),
]
Output = Annotated[
    Literal["logits", "probabilities", "top5"],
    typer.Option(help="top5 gives scores and class indices.", rich_help_panel="Graph"),
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
        help="Class names, one a line; ImageNet's for 1000 classes when left out.",
        show_default=False,
        rich_help_panel="Input",
    ),
]
Resize = Annotated[
    int | None,
    typer.Option(
        help="Shorter side in pixels before the centre crop; 256/224 of the input size when left out.",
        min=1,
        rich_help_panel="Input",
    ),
]
Mean = Annotated[
    tuple[float, float, float] | None,
    typer.Option(help="Mean of R, G, B on the 0..1 scale; ImageNet's when left out.", rich_help_panel="Input"),
]
Std = Annotated[
    tuple[float, float, float] | None,
    typer.Option(help="Deviation of R, G, B on the 0..1 scale; ImageNet's when left out.", rich_help_panel="Input"),
]
Proof = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Compare the file with PyTorch before it gets its name.")
]
Builder = Annotated[
    Literal["auto", "tensorrt", "tensorrt_rtx"],
    typer.Option(
        help="auto: tensorrt where it and a GPU are, else tensorrt_rtx, which also builds without a GPU.",
        rich_help_panel=ENGINE,
    ),
]
Plugin = Annotated[
    bool | None,
    typer.Option(
        "--plugin/--no-plugin",
        help="Require the plugin, or build the function in the file, which needs no library anywhere; the plugin "
        "where its library is found when left out.",
        show_default=False,
        rich_help_panel=ENGINE,
    ),
]
EmbedPlugin = Annotated[
    bool, typer.Option("--embed-plugin", help="Put the plugin library into the engine.", rich_help_panel=ENGINE)
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="CAPABILITIES",
        help="tensorrt_rtx: compute capabilities to build for, separated by commas, e.g. 8.6,8.9,12.0; all "
        "from 8.0 when left out.",
        show_default=False,
        rich_help_panel=ENGINE,
    ),
]
HardwareCompatible = Annotated[
    bool,
    typer.Option(
        "--hardware-compatible",
        help="tensorrt: run on every GPU of compute capability 8.0 and above.",
        rich_help_panel=ENGINE,
    ),
]
VersionCompatible = Annotated[
    bool,
    typer.Option(
        "--version-compatible",
        help="tensorrt: run on later releases of the same major version too.",
        rich_help_panel=ENGINE,
    ),
]
Workspace = Annotated[
    int | None,
    typer.Option(
        metavar="MIB", help="Most scratch memory of a layer in MiB.", min=1, show_default=False, rich_help_panel=ENGINE
    ),
]
OptimizationLevel = Annotated[
    int | None,
    typer.Option(metavar="LEVEL", help="0 (fast build) to 5; 3 when left out.", min=0, max=5, rich_help_panel=ENGINE),
]
TimingCache = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="tensorrt: file of measured kernel times, read if it is there, and written.",
        show_default=False,
        rich_help_panel=ENGINE,
    ),
]
Layers = Annotated[
    bool,
    typer.Option(
        "--layers",
        help="Debug build: layers are outputs too, for `verify --layers`.",
        rich_help_panel=ENGINE,
    ),
]
VerifyImages = Annotated[
    Path | None,
    typer.Option(help="Directory of images; eight seeded images when left out.", show_default=False),
]
VerifyLimit = Annotated[int, typer.Option(help="Most images taken from the directory.", min=1)]
VerifyLayers = Annotated[
    bool, typer.Option("--layers", help="Compare every block and merging, and name the first that departs.")
]
VerifyPlot = Annotated[
    Path | None,
    typer.Option(help="Draw the error per layer: PNG, SVG or PDF (with --layers).", rich_help_panel="Report"),
]
BenchArtifacts = Annotated[
    list[str] | None,
    typer.Argument(
        help="Exported files to measure; LIT-S with seeded weights on everything here when left out.",
        metavar="[FILE]...",
        show_default=False,
    ),
]
BenchCkpt = Annotated[
    str | None, typer.Option("--ckpt", help="Also measure PyTorch on this checkpoint.", show_default=False)
]
BenchBatch = Annotated[str, typer.Option(help="Batch sizes, separated by commas.", rich_help_panel="Run")]
BenchRounds = Annotated[
    int, typer.Option(help="Turns of every contender; ratios are taken turn by turn.", min=1, rich_help_panel="Run")
]
BenchMarkdown = Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.", rich_help_panel="Report")]
BenchPlot = Annotated[Path | None, typer.Option(help="Draw a chart: PNG, SVG or PDF.", rich_help_panel="Report")]
PredictImages = Annotated[list[Path], typer.Argument(help="Image files.", metavar="IMAGE...", show_default=False)]
PredictTop = Annotated[int, typer.Option(help="Classes per image.", min=1)]

EVALUATE_IMAGES = "Images"
GATES = "Gates (exit code 1)"
EvaluateArtifacts = Annotated[
    list[str], typer.Argument(help="Exported files, engines or checkpoints.", metavar="FILE...", show_default=False)
]
EvaluateImages = Annotated[
    Path,
    typer.Option(
        help="Folder with one sub-folder of images per class, or, with --labels-file, of images.",
        show_default=False,
        rich_help_panel=EVALUATE_IMAGES,
    ),
]
EvaluateCkpt = Annotated[
    str | None,
    typer.Option(
        "--ckpt",
        help="Also evaluate PyTorch on this checkpoint, and compare the files with it; with the first file when left "
        "out.",
        metavar="CKPT",
        show_default=False,
    ),
]
EvaluateLabelsFile = Annotated[
    Path | None,
    typer.Option(
        help="Text: a file and its class (name, or index from 0) on every line; or only classes, for the images in "
        "sorted order.",
        show_default=False,
        rich_help_panel=EVALUATE_IMAGES,
    ),
]
EvaluateFolders = Annotated[
    Literal["auto", "name", "index", "order"],
    typer.Option(
        help="What names of class folders are: the file's labels, class indices from 0, or sorted in the order of "
        "the classes (as torchvision's ImageFolder); auto takes the first that fits.",
        rich_help_panel=EVALUATE_IMAGES,
    ),
]
EvaluateLimit = Annotated[
    int | None,
    typer.Option(
        help="Most images, evenly spaced; all when left out.",
        min=1,
        show_default=False,
        rich_help_panel=EVALUATE_IMAGES,
    ),
]
EvaluateBatch = Annotated[
    int,
    typer.Option(
        help="Images per batch; a file of a fixed batch gets its own number.",
        min=1,
        max=MAX_BATCH,
        rich_help_panel="Run",
    ),
]
EvaluateWorkers = Annotated[
    int | None,
    typer.Option(
        help="Threads that decode and resize images; all cores when left out.",
        min=1,
        show_default=False,
        rich_help_panel="Run",
    ),
]
EvaluateState = Annotated[
    Path | None,
    typer.Option(
        help="File that finished batches are added to, and that a killed evaluation goes on from; one in the cache "
        "folder, until the evaluation is complete, when left out.",
        metavar="FILE",
        show_default=False,
        rich_help_panel="Run",
    ),
]
EvaluateMinTop1 = Annotated[
    float | None,
    typer.Option(
        "--min-top1",
        help="Least top-1 accuracy of every FILE, the first too, but not of --ckpt; in percent, e.g. 81.",
        metavar="PERCENT",
        min=0,
        max=100,
        show_default=False,
        rich_help_panel=GATES,
    ),
]
EvaluateMinAgreement = Annotated[
    float | None,
    typer.Option(
        help="Least share of images on which every FILE predicts as --ckpt does, or without it as the first FILE; in "
        "percent, e.g. 99.",
        metavar="PERCENT",
        min=0,
        max=100,
        show_default=False,
        rich_help_panel=GATES,
    ),
]
