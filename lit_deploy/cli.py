"""The command line: declarations, help panels and exit codes. The work is done elsewhere.

Heavy imports stand inside the commands, so that ``lit-deploy --help`` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from lit_deploy import __version__
from lit_deploy import cli_options as opt
from lit_deploy import cli_quantize_options as opt8
from lit_deploy.cli_package import package
from lit_deploy.cli_values import batch_size, one_form, quantize_options, refuse, session_options, share, targets
from lit_deploy.cli_values import profile as batch_profile
from lit_deploy.errors import (
    BuildFailed,
    LitDeployError,
    MissingDependency,
    ParityFailed,
    StateDictMismatch,
    UsageError,
)
from lit_deploy.specs import EIGHT_BIT

app = typer.Typer(
    name="lit-deploy",
    help="Export LIT checkpoints as ONNX files and TensorRT engines, prove that they compute the same, measure them.",
    epilog="Exit codes: 0 done, 1 a gate failed (parity, accuracy, speed), 2 usage or environment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_debug = False


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lit-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    global _debug
    _debug = debug
    if context.invoked_subcommand != "bench":
        # PyTorch's idle threads would spin, and take the cores from ONNX Runtime's, which it is compared with.
        # A benchmark has them in processes of their own.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@app.command()
def export(
    context: typer.Context,
    ckpt: opt.Source,
    out: opt.Out = None,
    format: opt.Format = "onnx",
    precision: opt.Precision = "fp32",
    batch: opt.Batch = "dynamic",
    input: opt.Input = "float",
    output: opt.Output = "logits",
    portable: opt.Portable = False,
    labels: opt.Labels = None,
    resize: opt.Resize = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    verify: opt.Proof = True,
    threads: opt.Threads = None,
    calib: opt8.Calib = None,
    calib_method: opt8.CalibMethod = "minmax",
    calib_percentile: opt8.CalibPercentile = None,
    calib_limit: opt8.CalibLimit = 128,
    keep: opt8.Keep = None,
    accuracy_budget: opt8.AccuracyBudget = 1.0,
    force: opt8.Force = False,
    builder: opt.Builder = "auto",
    plugin: opt.Plugin = None,
    embed_plugin: opt.EmbedPlugin = False,
    target: opt.Target = None,
    hardware_compatible: opt.HardwareCompatible = False,
    version_compatible: opt.VersionCompatible = False,
    workspace: opt.Workspace = None,
    optimization_level: opt.OptimizationLevel = None,
    timing_cache: opt.TimingCache = None,
    layers: opt.Layers = False,
) -> None:
    """Write a checkpoint as a file that runs elsewhere, and prove that it computes the same."""
    from lit_deploy import report
    from lit_deploy.export import export_checkpoint, export_engine
    from lit_deploy.exporters.onnx import OnnxOptions
    from lit_deploy.exporters.tensorrt import EngineOptions

    given = [p for p in context.params if (source := context.get_parameter_source(p)) and source.name == "COMMANDLINE"]
    profile = quantize = None
    if calib is None:
        missing = "--calib" if precision in EIGHT_BIT else "--precision int8 (or fp8) and --calib"
        refuse(given, opt8.EIGHT_BIT_OPTIONS, f"is for files of 8 bits; add {missing}")
    else:
        quantize = quantize_options(calib, calib_method, calib_percentile, calib_limit, keep, accuracy_budget, force)
    if format == "onnx":
        refuse(given, opt.ENGINE_OPTIONS, "is for engines; add --format trt")
        size = None if batch == "dynamic" else batch_size("--batch", batch, "'dynamic' or a number of images")
    elif ":" in batch:
        size, profile = None, batch_profile(batch)
    else:
        size = (
            None if batch == "dynamic" else batch_size("--batch", batch, "'dynamic', a number of images or MIN:OPT:MAX")
        )
    options: OnnxOptions | None = OnnxOptions(input, output, precision, size, portable, labels, resize, mean, std)
    stem = Path(ckpt).stem or "model"
    with report.steps() as progress:
        if format == "onnx":
            result = export_checkpoint(
                ckpt, out or Path(f"{stem}.onnx"), options, quantize=quantize, verify=verify, threads=threads,
                progress=progress,
            )  # fmt: skip
        else:
            if Path(ckpt).suffix.lower() == ".onnx":
                refuse(
                    given,
                    ("calib",),
                    "is for checkpoints: an .onnx file is built as it is, quantised or not",
                )
                decided = f"is decided already in {Path(ckpt).name}; export the checkpoint again"
                refuse(given, opt.GRAPH_OPTIONS, decided)
                if size is not None:
                    raise UsageError(f"{ckpt} is exported already; give its batch profile as --batch MIN:OPT:MAX")
                options, stem = None, stem.removesuffix(".engine")
            build = EngineOptions(
                None if builder == "auto" else builder, profile, plugin, embed_plugin, hardware_compatible,
                version_compatible, targets(target), workspace, optimization_level,
                timing_cache, layers,
            )  # fmt: skip
            result = export_engine(
                ckpt, out or Path(f"{stem}.engine"), options, build, quantize=quantize, verify=verify, threads=threads,
                progress=progress,
            )  # fmt: skip
    report.show(report.export_summary(result))


@app.command()
def quantize(
    artifact: opt8.QuantizeArtifact,
    calib: opt8.RequiredCalib,
    out: opt8.QuantizeOut = None,
    precision: opt8.EightBits = "int8",
    scan: opt8.Scan = False,
    calib_method: opt8.CalibMethod = "minmax",
    calib_percentile: opt8.CalibPercentile = None,
    calib_limit: opt8.CalibLimit = 128,
    keep: opt8.Keep = None,
    accuracy_budget: opt8.AccuracyBudget = 1.0,
    force: opt8.Force = False,
    threads: opt.Threads = None,
    json: opt.Json = False,
) -> None:
    """Quantise an exported file to 8 bits; or (--scan) rank its modules by the damage that does, and propose --keep."""
    from lit_deploy import report
    from lit_deploy.quantize import quantize_file, scan_file

    options = quantize_options(calib, calib_method, calib_percentile, calib_limit, keep, accuracy_budget, force)
    if scan and (out is not None or force):
        raise UsageError(f"--scan writes no file; drop {'--out' if out is not None else '--force'}")
    with report.steps() as progress:
        if scan:
            found = scan_file(artifact, options, precision, threads=threads, progress=progress)
        else:
            path = out or Path(f"{Path(artifact).stem}_{precision}.onnx")
            result = quantize_file(artifact, path, options, precision, threads=threads, progress=progress)
    if scan:
        report.show(report.as_json(found) if json else report.scan_table(found))
    else:
        report.show(report.as_json(result) if json else report.quantize_summary(result))


app.command()(package)


@app.command()
def verify(
    artifact: opt.Artifact,
    ckpt: opt.Checkpoint,
    images: opt.VerifyImages = None,
    limit: opt.VerifyLimit = 64,
    layers: opt.VerifyLayers = False,
    plot: opt.VerifyPlot = None,
    json: opt.Json = False,
    device: opt.Device = "cpu",
    threads: opt.Threads = None,
    library: opt.Library = None,
    allow_engine_code: opt.EngineCode = False,
) -> None:
    """Compare a file with the PyTorch float32 model of its checkpoint. Exits with 1 when it departs."""
    from lit_deploy import report
    from lit_deploy.verify import verify_artifact

    if plot is not None and not layers:
        raise UsageError("--plot draws the error per layer; add --layers")
    if plot is not None:
        report.check_chart(plot)
    options = session_options([artifact], device, threads, library, allow_engine_code)
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
    artifacts: opt.BenchArtifacts = None,
    ckpt: opt.BenchCkpt = None,
    batch: opt.BenchBatch = "1,8",
    rounds: opt.BenchRounds = 20,
    device: opt.Device = "cpu",
    threads: opt.Threads = None,
    allow_engine_code: opt.EngineCode = False,
    json: opt.Json = False,
    markdown: opt.BenchMarkdown = False,
    plot: opt.BenchPlot = None,
) -> None:
    """Measure latency, throughput and memory, contenders taking turns in processes of their own."""
    from lit_deploy import report
    from lit_deploy.bench import bench_files

    one_form(json, markdown)
    batches = tuple(batch_size("--batch", part, "numbers separated by commas, e.g. 1,8") for part in batch.split(","))
    if plot is not None:
        report.check_chart(plot)
    with report.steps() as progress:
        result = bench_files(
            artifacts or [], ckpt, batches=batches, rounds=rounds, threads=threads, device=device,
            allow_engine_code=allow_engine_code, progress=progress,
        )  # fmt: skip
    if plot is not None:
        report.bench_plot(result, plot)
    if json:
        report.show(report.as_json(result))
    elif markdown:
        report.show(report.bench_markdown(result))
    else:
        report.show(report.bench_table(result))


@app.command()
def evaluate(
    artifacts: opt.EvaluateArtifacts,
    images: opt.EvaluateImages,
    ckpt: opt.EvaluateCkpt = None,
    labels_file: opt.EvaluateLabelsFile = None,
    folders: opt.EvaluateFolders = "auto",
    limit: opt.EvaluateLimit = None,
    batch: opt.EvaluateBatch = 32,
    workers: opt.EvaluateWorkers = None,
    state: opt.EvaluateState = None,
    device: opt.Device = "cpu",
    threads: opt.Threads = None,
    library: opt.Library = None,
    allow_engine_code: opt.EngineCode = False,
    min_top1: opt.EvaluateMinTop1 = None,
    min_agreement: opt.EvaluateMinAgreement = None,
    json: opt.Json = False,
    markdown: opt.BenchMarkdown = False,
) -> None:
    """Measure accuracy on a folder of images, and how far files agree. Goes on where it was killed."""
    from lit_deploy import report
    from lit_deploy.evaluate import check_gates, evaluate_artifacts

    one_form(json, markdown)
    top1, agreement = share("--min-top1", min_top1), share("--min-agreement", min_agreement)
    if agreement is not None and len(artifacts) + (ckpt is not None) < 2:
        raise UsageError("--min-agreement needs something to agree with; add --ckpt, or name a second file")
    options = session_options(artifacts, device, threads, library, allow_engine_code)
    with report.steps() as progress:
        result = evaluate_artifacts(
            artifacts, images, ckpt, labels_file=labels_file, folders=folders, batch=batch, workers=workers,
            limit=limit, state=state, options=options, progress=progress,
        )  # fmt: skip
    if json:
        report.show(report.as_json(result))
    else:
        report.show(report.evaluate_markdown(result) if markdown else report.evaluate_table(result))
    check_gates(result, top1, agreement)


@app.command()
def predict(
    artifact: opt.Artifact,
    images: opt.PredictImages,
    top: opt.PredictTop = 5,
    json: opt.Json = False,
    device: opt.Device = "cpu",
    threads: opt.Threads = None,
    library: opt.Library = None,
    allow_engine_code: opt.EngineCode = False,
) -> None:
    """Print the most probable classes of images, by the resize rule the file carries."""
    from lit_deploy import report
    from lit_deploy.predict import predict_images

    options = session_options([artifact], device, threads, library, allow_engine_code)
    predictions = predict_images(artifact, images, top, options)
    report.show(report.as_json(predictions) if json else report.predictions_table(predictions))


@app.command()
def inspect(artifact: opt.Artifact, json: opt.Json = False) -> None:
    """Tell what a checkpoint or an exported file is."""
    from lit_deploy import report
    from lit_deploy.inspection import inspect_file

    description = inspect_file(artifact)
    report.show(report.as_json(description) if json else report.inspection_table(description))


@app.command()
def models(json: opt.Json = False) -> None:
    """List the official models: parameters, MACs, input size, published accuracy, download URL."""
    from lit_deploy import report
    from lit_deploy.models.registry import OFFICIAL

    report.show(report.models_json(OFFICIAL) if json else report.models_table(OFFICIAL))


@app.command()
def doctor(json: opt.Json = False) -> None:
    """Tell what is installed, found and missing here, and the command that mends it."""
    from lit_deploy import report
    from lit_deploy.doctor import diagnose

    diagnosis = diagnose()
    report.show(report.as_json(diagnosis) if json else report.doctor_table(diagnosis))
    raise typer.Exit(diagnosis.exit_code)


def _fail(error: LitDeployError) -> NoReturn:
    """Say one sentence on stderr and leave with the error's exit code."""
    if _debug:
        traceback.print_exception(error)
    typer.echo(f"error: {error}", err=True)
    if isinstance(error, StateDictMismatch | ParityFailed | BuildFailed):
        from lit_deploy import report

        report.show(report.error_details(error), stderr=True)
    sys.exit(error.exit_code)


def main() -> None:
    """Run the command line; errors of lit-deploy become one sentence and an exit code.

    1 means that a gate failed and nothing else, so a bug (with its traceback) and a lost output end with 2 as well.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # temporary files go, as with Ctrl-C
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
