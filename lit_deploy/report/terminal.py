"""Results on their way to the terminal: one printer, one progress bar, one form of JSON. Measures nothing.

Table functions of this folder return rich renderables and text functions return strings; ``show`` prints either.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
from rich.console import Console, RenderableType
from rich.progress import BarColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from lit_deploy.core.progress import Progress, Step

PIPED_WIDTH = 140
"""Columns of a table that goes to a file or a pipe."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1, which means that a gate failed


def show(what: RenderableType, *, stderr: bool = False) -> None:
    """Print a table, or a string exactly as it is (so that JSON stays JSON)."""
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(what, str):
        print(what, file=stream)
    else:
        _Console(file=stream, width=None if stream.isatty() else PIPED_WIDTH).print(what)


@contextlib.contextmanager
def steps() -> Iterator[Progress]:
    """Yield a function that shows the current step and its time on stderr; silent where that is no terminal."""
    columns = (SpinnerColumn(), _Bar(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    console = Console(stderr=True)
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("start", total=None)

        def show_step(step: Step) -> None:
            if step.fraction is None:
                bars.reset(task, description=step.name, total=None)
            else:  # the clock and the bar go on
                bars.update(task, description=str(step), total=1.0, completed=step.fraction)

        yield show_step


class _Bar(BarColumn):
    """A bar for steps that say how much is done, nothing for the others."""

    def render(self, task: Task) -> Any:
        return Text("") if task.total is None else super().render(task)


def as_json(value: Any) -> str:
    """Any result as JSON, whole; numbers that JSON lacks (NaN, infinity) become null."""
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode()


def text(value: str, style: str = "") -> Text:
    """Text that came from outside: square brackets in it are not markup."""
    return Text(value, style)
