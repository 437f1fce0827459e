"""The command ``inspect``."""

from __future__ import annotations

from lit_deploy.commands.options import Artifact, Json


def inspect(artifact: Artifact, json: Json = False) -> None:
    """Tell what a checkpoint or an exported file is."""
    from lit_deploy.report.inspect import inspection_table
    from lit_deploy.report.terminal import as_json, show
    from lit_deploy.workflows.inspect import inspect_file

    description = inspect_file(artifact)
    show(as_json(description) if json else inspection_table(description))
