"""The command ``inspect``."""

from __future__ import annotations

from lit_deploy.commands.options import Artifact, Json, NetworkKey, Sha256
from lit_deploy.commands.values import checkpoint_source


def inspect(artifact: Artifact, key: NetworkKey = None, sha256: Sha256 = None, json: Json = False) -> None:
    """Tell what a checkpoint or an exported file is."""
    from lit_deploy.report.inspect import inspection_table
    from lit_deploy.report.terminal import as_json, show
    from lit_deploy.workflows.inspect import inspect_file

    if key is not None or sha256 is not None:
        artifact = checkpoint_source(artifact, key, sha256)
    description = inspect_file(artifact)
    show(as_json(description) if json else inspection_table(description))
