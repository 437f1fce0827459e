"""The command ``doctor``."""

from __future__ import annotations

import typer

from lit_deploy.commands.options import Json


def doctor(json: Json = False) -> None:
    """Tell what is installed, found and missing here, and the command that mends it."""
    from lit_deploy.report.doctor import doctor_table
    from lit_deploy.report.terminal import as_json, show
    from lit_deploy.workflows.doctor import diagnose

    diagnosis = diagnose()
    show(as_json(diagnosis) if json else doctor_table(diagnosis))
    raise typer.Exit(diagnosis.exit_code)
