"""Results on their way to the terminal: one printer, one progress bar, one form of JSON. Measures nothing.

Table functions of this folder return rich renderables and text functions return strings; ``show`` prints either.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.segment import Segment
from rich.text import Text

from lit_deploy.core.progress import Progress, Step
from lit_deploy.core.text import OBEYED, printable

PIPED_WIDTH = 140
"""Columns of a table that goes to a file or a pipe."""


_BEYOND_ASCII = re.compile(r"[^\x00-\x7e]")


class _Console(Console):
    """A console that reads no markup: square brackets and colons in the names of others mean nothing."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1, which means that a gate failed


@dataclass(frozen=True)
class _Printable:
    """What is rendered, without a character that the terminal would obey."""

    content: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.content, options):
            yield Segment(printable(segment.text, lines=True), segment.style, segment.control)


def show(what: RenderableType, *, stderr: bool = False) -> None:
    """Print a table, or a text as it is, but for what a terminal would obey: all that is printed goes through here."""
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(what, str):
        print(printable(what, lines=True), file=stream)
    else:
        _Console(file=stream, width=None if stream.isatty() else PIPED_WIDTH).print(_Printable(what))


@contextlib.contextmanager
def steps() -> Iterator[Progress]:
    """Yield a function that shows the current step and its time on stderr; silent where that is no terminal."""
    columns = (SpinnerColumn(), _Bar(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    console = _Console(stderr=True)
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("start", total=None)

        def show_step(step: Step) -> None:
            if step.fraction is None:
                bars.reset(task, description=printable(step.name), total=None)
            else:  # the clock and the bar go on
                bars.update(task, description=printable(str(step)), total=1.0, completed=step.fraction)

        yield show_step


class _Bar(BarColumn):
    """A bar for steps that say how much is done, nothing for the others."""

    def render(self, task: Task) -> Any:
        return Text("") if task.total is None else super().render(task)


def as_json(value: Any) -> str:
    """Any result as JSON, whole; numbers that JSON lacks (NaN, infinity) become null.

    What a terminal would obey, and what standard output cannot encode, is escaped as JSON escapes it. Half a surrogate
    pair, of a file name that is no text, is no JSON at all; it becomes its escape (``\\udcff``) in letters.
    """
    told = msgspec.json.format(json_of(value), indent=2).decode()
    unsafe = OBEYED if (sys.stdout.encoding or "ascii").lower().startswith("utf") else _BEYOND_ASCII
    return "\n".join(unsafe.sub(_json_escape, line) for line in told.split("\n"))


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))


def json_of(value: Any) -> msgspec.Raw:
    """JSON on one line, as a part of what ``as_json`` takes."""
    try:
        return msgspec.Raw(msgspec.json.encode(value, enc_hook=str))
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value, enc_hook=str, str_keys=True)
        return msgspec.Raw(msgspec.json.encode(_encodable(plain)))


def _encodable(value: Any) -> Any:
    """The same with every text fit for UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_encodable(key): _encodable(entry) for key, entry in value.items()}
    if isinstance(value, Iterable):
        return [_encodable(entry) for entry in value]
    return value


def text(value: str, style: str = "") -> Text:
    """Text that came from outside, on one line: what is in it is neither markup nor obeyed by a terminal."""
    return Text(printable(value), style)
