"""The command line: its commands, what all of them share, and exit codes.

Heavy imports stand inside the commands, so that ``lit-deploy --help`` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from lit_deploy import __version__
from lit_deploy.commands.bench import bench
from lit_deploy.commands.doctor import doctor
from lit_deploy.commands.evaluate import evaluate
from lit_deploy.commands.export import export
from lit_deploy.commands.inspect import inspect
from lit_deploy.commands.models import models
from lit_deploy.commands.package import package
from lit_deploy.commands.predict import predict
from lit_deploy.commands.quantize import quantize
from lit_deploy.commands.verify import verify
from lit_deploy.core.errors import LitDeployError, MissingDependency, UsageError

app = typer.Typer(
    name="lit-deploy",
    help="Export LIT checkpoints as ONNX files and TensorRT engines, prove that they compute the same, measure them.",
    epilog="Exit codes: 0 done, 1 a gate failed (parity, accuracy, speed) or images left out, 2 usage or environment.",
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


for command in (export, quantize, package, verify, bench, evaluate, predict, inspect, models, doctor):
    app.command()(command)


def _fail(error: LitDeployError) -> NoReturn:
    """Say one sentence on stderr and leave with the error's exit code."""
    if _debug:
        traceback.print_exception(error)
    typer.echo(f"error: {error}", err=True)
    if error.detailed:
        from lit_deploy.report.errors import error_details
        from lit_deploy.report.terminal import show

        show(error_details(error), stderr=True)
    sys.exit(error.exit_code)


def main() -> None:
    """Run the command line; errors of lit-deploy become one sentence and an exit code.

    1 means that a gate failed, or that ``predict`` left out images, and nothing else, so a bug (with its traceback) and
    a lost output end with 2 as well.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # temporary files go, as with Ctrl-C
    try:
        app()
        sys.stdout.flush()
    except LitDeployError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        from lit_deploy.machine.packages import PACKAGES

        missing = PACKAGES.get(error.name or "")
        if missing is None:
            traceback.print_exc()
            sys.exit(2)
        _fail(MissingDependency(f"the package {missing.name} is not installed; run: {missing.install}"))
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
