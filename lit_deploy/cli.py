"""The command line: declarations, help panels and exit codes. The work is done elsewhere.

Heavy imports stand inside the commands, so that ``lit-deploy --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from lit_deploy import __version__
from lit_deploy.errors import LitDeployError, MissingDependency, ParityFailed, StateDictMismatch, UsageError
from lit_deploy.specs import MAX_BATCH

app = typer.Typer(
    name="lit-deploy",
    help="Export LIT checkpoints to ONNX, prove that the file computes the same, and measure it.",
    epilog="Exit codes: 0 done, 1 a gate failed (parity, accuracy), 2 usage or environment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_debug = False

Artifact = Annotated[
    str, typer.Argument(help="Exported .onnx file, or a checkpoint.", metavar="FILE", show_default=False)
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
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to run.", rich_help_panel="Run")]
Library = Annotated[
    bool | None,
    typer.Option(
        "--library/--no-library",
        help="Require, or leave out, the custom-op library; used where found when left out.",
        show_default=False,
        rich_help_panel="Run",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lit-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    global _debug
    _debug = debug


@app.command()
def export(
    ckpt: Checkpoint,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write; <checkpoint>.onnx here when left out.", show_default=False),
    ] = None,
    format: Annotated[Literal["onnx", "trt"], typer.Option(help="File format; trt is not in this release.")] = "onnx",
    precision: Annotated[
        Literal["fp32", "fp16"], typer.Option(help="Type of weights and activations.", rich_help_panel="Graph")
    ] = "fp32",
    batch: Annotated[
        str, typer.Option(help="'dynamic', or a fixed number of images.", rich_help_panel="Graph")
    ] = "dynamic",
    input: Annotated[
        Literal["float", "uint8"],
        typer.Option(
            help="float: float32 NCHW, normalised. uint8: raw RGB pixels NHWC, normalised inside the graph.",
            rich_help_panel="Graph",
        ),
    ] = "float",
    output: Annotated[
        Literal["logits", "probabilities", "top5"],
        typer.Option(help="top5 gives scores and class indices.", rich_help_panel="Graph"),
    ] = "logits",
    portable: Annotated[
        bool,
        typer.Option(
            "--portable",
            help="Inline the operator, for runtimes without model-local functions.",
            rich_help_panel="Graph",
        ),
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Class names, one a line; ImageNet's for 1000 classes when left out.",
            show_default=False,
            rich_help_panel="Input",
        ),
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(
            help="Shorter side in pixels before the centre crop; 256/224 of the input size when left out.",
            min=1,
            rich_help_panel="Input",
        ),
    ] = None,
    mean: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Mean of R, G, B on the 0..1 scale; ImageNet's when left out.", rich_help_panel="Input"),
    ] = None,
    std: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Deviation of R, G, B on the 0..1 scale; ImageNet's when left out.", rich_help_panel="Input"),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare the file with PyTorch before it gets its name.")
    ] = True,
    threads: Threads = None,
) -> None:
    """Write a checkpoint as a file that runs elsewhere, and prove that it computes the same."""
    if format == "trt":
        raise UsageError("--format trt (TensorRT) is not in this release; use --format onnx")
    from lit_deploy import report
    from lit_deploy.export import export_checkpoint
    from lit_deploy.exporters.onnx import OnnxOptions

    size = None if batch == "dynamic" else _batch("--batch", batch, "'dynamic' or a number of images")
    options = OnnxOptions(input, output, precision, size, portable, labels, resize, mean, std)
    with report.steps() as progress:
        result = export_checkpoint(
            ckpt,
            out or Path(f"{Path(ckpt).stem or 'model'}.onnx"),
            options,
            verify=verify,
            threads=threads,
            progress=progress,
        )
    report.show(report.export_summary(result))


@app.command()
def verify(
    artifact: Artifact,
    ckpt: Checkpoint,
    images: Annotated[
        Path | None,
        typer.Option(help="Directory of images; eight seeded images when left out.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(help="Most images taken from the directory.", min=1)] = 64,
    layers: Annotated[
        bool, typer.Option("--layers", help="Compare every block and merging, and name the first that departs.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the error per layer: PNG, SVG or PDF (with --layers).", rich_help_panel="Report"),
    ] = None,
    json: Json = False,
    device: Device = "cpu",
    threads: Threads = None,
    library: Library = None,
) -> None:
    """Compare a file with the PyTorch float32 model of its checkpoint. Exits with 1 when it departs."""
    from lit_deploy import report
    from lit_deploy.runtime.session import SessionOptions
    from lit_deploy.verify import verify_artifact

    if plot is not None and not layers:
        raise UsageError("--plot draws the error per layer; add --layers")
    if plot is not None:
        report.check_chart(plot)
    options = SessionOptions(device, threads, library)
    result = verify_artifact(artifact, ckpt, images=images, limit=limit, layers=layers, options=options)
    if plot is not None:
        report.layers_plot(result, plot)
    if json:
        report.show(report.as_json(result))
    else:
        report.show(report.verify_table(result))
        if layers:
            report.show(report.layers_table(result))
    if result.verdict != "pass":
        raise typer.Exit(1)


@app.command()
def bench(
    artifacts: Annotated[
        list[str] | None,
        typer.Argument(
            help="Exported files to measure; LIT-S with seeded weights on everything here when left out.",
            metavar="[FILE]...",
            show_default=False,
        ),
    ] = None,
    ckpt: Annotated[
        str | None, typer.Option("--ckpt", help="Also measure PyTorch on this checkpoint.", show_default=False)
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.", rich_help_panel="Run")] = "1,8",
    rounds: Annotated[
        int, typer.Option(help="Turns of every contender; ratios are taken turn by turn.", min=1, rich_help_panel="Run")
    ] = 20,
    device: Device = "cpu",
    threads: Threads = None,
    json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a Markdown table.", rich_help_panel="Report")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw a chart: PNG, SVG or PDF.", rich_help_panel="Report")] = None,
) -> None:
    """Measure latency, throughput and memory, contenders taking turns in processes of their own."""
    from lit_deploy import report
    from lit_deploy.bench import bench_files

    if json and markdown:
        raise UsageError("--json and --markdown are two forms of one report; choose one")
    batches = tuple(_batch("--batch", part, "numbers separated by commas, e.g. 1,8") for part in batch.split(","))
    if plot is not None:
        report.check_chart(plot)
    with report.steps() as progress:
        result = bench_files(
            artifacts or [], ckpt, batches=batches, rounds=rounds, threads=threads, device=device, progress=progress
        )
    if plot is not None:
        report.bench_plot(result, plot)
    if json:
        report.show(report.as_json(result))
    elif markdown:
        report.show(report.bench_markdown(result))
    else:
        report.show(report.bench_table(result))


@app.command()
def predict(
    artifact: Artifact,
    images: Annotated[list[Path], typer.Argument(help="Image files.", metavar="IMAGE...", show_default=False)],
    top: Annotated[int, typer.Option(help="Classes per image.", min=1)] = 5,
    json: Json = False,
    device: Device = "cpu",
    threads: Threads = None,
    library: Library = None,
) -> None:
    """Print the most probable classes of images, by the resize rule the file carries."""
    from lit_deploy import report
    from lit_deploy.predict import predict_images
    from lit_deploy.runtime.session import SessionOptions

    predictions = predict_images(artifact, images, top, SessionOptions(device, threads, library))
    report.show(report.as_json(predictions) if json else report.predictions_table(predictions))


@app.command()
def inspect(artifact: Artifact, json: Json = False) -> None:
    """Tell what a checkpoint or an exported file is."""
    from lit_deploy import report
    from lit_deploy.inspection import inspect_file

    description = inspect_file(artifact)
    report.show(report.as_json(description) if json else report.inspection_table(description))


@app.command()
def models(json: Json = False) -> None:
    """List the official models: parameters, MACs, input size, published accuracy, download URL."""
    from lit_deploy import report
    from lit_deploy.models.registry import OFFICIAL

    report.show(report.models_json(OFFICIAL) if json else report.models_table(OFFICIAL))


@app.command()
def doctor(json: Json = False) -> None:
    """Tell what is installed, found and missing here, and the command that mends it."""
    from lit_deploy import report
    from lit_deploy.doctor import diagnose

    diagnosis = diagnose()
    report.show(report.as_json(diagnosis) if json else report.doctor_table(diagnosis))
    raise typer.Exit(diagnosis.exit_code)


def _batch(option: str, text: str, expected: str) -> int:
    if not text.strip().isdecimal() or not 1 <= int(text) <= MAX_BATCH:
        raise UsageError(f"{option} is '{text}', expected {expected} (1 to {MAX_BATCH})")
    return int(text)


def _fail(error: LitDeployError) -> NoReturn:
    """Say one sentence on stderr and leave with the error's exit code."""
    if _debug:
        traceback.print_exception(error)
    typer.echo(f"error: {error}", err=True)
    if isinstance(error, StateDictMismatch | ParityFailed):
        from lit_deploy import report

        report.show(report.error_details(error), stderr=True)
    sys.exit(error.exit_code)


def main() -> None:
    """Run the command line; errors of lit-deploy become one sentence and an exit code.

    1 means that a gate failed and nothing else, so a bug (with its traceback) and a lost output end with 2 as well.
    """
    try:
        app()
        sys.stdout.flush()
    except LitDeployError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "onnxscript", "onnx", "rich", "msgspec", "safetensors"):
            traceback.print_exc()
            sys.exit(2)
        _fail(MissingDependency(f"the package {error.name} is not installed; run: pip install {error.name}"))
    except BrokenPipeError:  # the reader of our output has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)
    except OSError as error:
        _fail(UsageError(f"the operating system refused: {error}"))
    except Exception:
        traceback.print_exc()
        sys.exit(2)


if __name__ == "__main__":
    main()
