"""What is here and what is missing, as a terminal table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lit_deploy.machine.packages import PACKAGES
from lit_deploy.report.terminal import text
from lit_deploy.workflows.doctor import Diagnosis

EXPORT = PACKAGES["torch"].install
STATUS_STYLES = {"ok": "green", "missing": "bold red", "optional": "yellow"}


def doctor_table(diagnosis: Diagnosis) -> RenderableType:
    """Every check with what was found, the paths that were searched, and the command that mends it."""
    table = Table()
    table.add_column("what", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("found", overflow="fold")
    for check in diagnosis.checks:
        found = text(check.found)
        if check.status != "ok":
            found.append("".join(f"\n  searched {path}" for path in check.searched), "dim")
        if check.remedy:
            found.append(f"\n  {check.remedy}", "cyan")
        table.add_row(check.name, Text(check.status, STATUS_STYLES[check.status]), found)
    if not diagnosis.ok:
        conclusion = Text("Something required is missing; the commands above mend it.", "bold red")
    elif not diagnosis.exports:
        conclusion = Text(f"Everything required to run files is here; to export them: {EXPORT}", "green")
    else:
        conclusion = Text("Everything required to export and run is here.", "green")
    return Group(table, conclusion)
