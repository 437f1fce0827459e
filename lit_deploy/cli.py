"""The command line: its commands, what all of them share, and exit codes.

Heavy imports stand inside the commands, so that ``lit-deploy --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import traceback
import warnings
from typing import Annotated, NoReturn, TextIO

import typer

from lit_deploy import __version__
from lit_deploy.commands.bench import bench
from lit_deploy.commands.doctor import doctor
from lit_deploy.commands.evaluate import evaluate
from lit_deploy.commands.explain import explain
from lit_deploy.commands.export import export
from lit_deploy.commands.inspect import inspect
from lit_deploy.commands.models import models
from lit_deploy.commands.package import package
from lit_deploy.commands.predict import predict
from lit_deploy.commands.quantize import quantize
from lit_deploy.commands.score import score
from lit_deploy.commands.verify import verify
from lit_deploy.core.errors import LitDeployError, LitDeployWarning, MissingDependency, UsageError, refuse_for_memory
from lit_deploy.core.signals import ended_by_signals
from lit_deploy.core.text import first_line, printable

app = typer.Typer(
    name="lit-deploy",
    help="Export LIT checkpoints as ONNX files and TensorRT engines, prove that they compute the same, measure them.",
    epilog="Exit codes: 0 done, 1 a gate failed (parity, accuracy, speed) or images left out, 2 usage or environment.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_debug = False
_show_warning = warnings.showwarning
_DISTRIBUTIONS = {"PIL": "pillow"}
"""What packages are called on the index where their modules are called otherwise."""


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


for command in (export, quantize, package, verify, bench, evaluate, predict, score, explain, inspect, models, doctor):
    app.command()(command)


def _fail(error: LitDeployError) -> NoReturn:
    """Say one sentence on stderr and leave with the error's exit code."""
    if _debug:
        _print_traceback(error)
    print(f"error: {printable(str(error))}", file=sys.stderr)
    if error.detailed:
        from lit_deploy.report.errors import error_details
        from lit_deploy.report.terminal import show

        show(error_details(error), stderr=True)
    sys.exit(error.exit_code)


def _print_traceback(error: BaseException) -> None:
    print(printable("".join(traceback.format_exception(error)), lines=True), file=sys.stderr, end="")


def _absent(error: ImportError) -> MissingDependency | None:
    """What to say of a package that cannot be imported; None where it is none that we need."""
    from lit_deploy.machine.packages import PACKAGES

    if isinstance(error, ModuleNotFoundError) and (package := PACKAGES.get(error.name or "")) is not None:
        return MissingDependency(f"the package {error.name} is not installed; run: {package.install}")
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    tops = [name.partition(".")[0] for name in (error.name or "", *reversed(frames))]  # the innermost first
    foreign = itertools.takewhile(lambda top: top != "lit_deploy", tops)  # a name that we got wrong is a bug
    package = next((PACKAGES[name] for top in foreign if (name := _DISTRIBUTIONS.get(top, top)) in PACKAGES), None)
    if package is None:
        return None
    return MissingDependency(
        f"the package {package.name} is installed but does not load ({first_line(error)}); run: {package.install}"
    )


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our warnings are sentences for the user; those of others stay as they are."""
    if issubclass(category, LitDeployWarning):
        print(f"note: {printable(str(message))}", file=sys.stderr)
    else:
        _show_warning(message, category, filename, lineno, file, line)


def main() -> None:
    """Run the command line; errors of lit-deploy become one sentence and an exit code.

    1 means that a gate failed, or that ``predict`` or ``score`` left out images, and nothing else, so a bug (with its
    traceback) and a lost output end with 2 as well.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # something else that stands in for them
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # no letter ends a command
    warnings.showwarning = _warn
    with ended_by_signals():
        _run()


def _run() -> None:
    try:
        app(prog_name="lit-deploy")  # whatever it was started as: shells complete that name
        sys.stdout.flush()
    except LitDeployError as error:
        _fail(error)
    except BrokenPipeError:  # the reader of our output has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)
    except Exception as error:
        said = _told(error)
        if said is not None:
            _fail(said)
        _print_traceback(error)
        sys.exit(2)


def _told(error: Exception) -> LitDeployError | None:
    """The sentence for what the environment is to blame for; None for a bug."""
    try:
        refuse_for_memory(error)
    except LitDeployError as short:
        return short
    if isinstance(error, ImportError):
        return _absent(error)
    return UsageError(f"the operating system refused: {error}") if isinstance(error, OSError) else None


if __name__ == "__main__":
    main()
