"""What an error carries beside its sentence, for the terminal."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lit_deploy.core.errors import BuildFailed, LitDeployError, StateDictMismatch
from lit_deploy.report.terminal import text
from lit_deploy.report.verify import verify_table
from lit_deploy.workflows.verify import ParityFailed


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
    for key in error.missing:
        table.add_row(text(key), "missing")
    for key in error.unexpected:
        table.add_row(text(key), "unexpected")
    for key, got, expected in error.misshapen:
        table.add_row(text(key), text(f"shape {list(got)}, expected {list(expected)}"))
    return table
