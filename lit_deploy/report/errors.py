"""What an error carries beside its sentence, for the terminal."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lit_deploy.core.errors import BuildFailed, LitDeployError, StateDictMismatch
from lit_deploy.core.text import shown_key
from lit_deploy.report.terminal import text
from lit_deploy.report.verify import verify_table
from lit_deploy.workflows.verify import ParityFailed

MAX_LISTED = 200
"""Keys that are listed below a sentence; others are counted."""


def error_details(error: LitDeployError) -> RenderableType:
    """What an error carries beside its sentence: the keys that differ, the failed comparison, the builder's log."""
    if isinstance(error, ParityFailed):
        return verify_table(error.report)
    if isinstance(error, BuildFailed):
        lines = ("the last lines of the builder:", *error.log) if error.log else ()
        return Text("\n").join(text(line, "dim") for line in lines)
    if not isinstance(error, StateDictMismatch):
        return Text("")
    table = Table()
    for column in ("key", "problem"):
        table.add_column(column, overflow="fold")
    rows = [(key, "missing") for key in error.missing]
    rows += [(key, "unexpected") for key in error.unexpected]
    rows += [(key, f"shape {list(got)}, expected {list(expected)}") for key, got, expected in error.misshapen]
    for key, problem in rows[:MAX_LISTED]:
        table.add_row(text(shown_key(key)), text(problem))
    if len(rows) > MAX_LISTED:
        table.add_row("...", f"{len(rows) - MAX_LISTED} more")
    return table
