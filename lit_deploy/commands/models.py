"""The command ``models``."""

from __future__ import annotations

from lit_deploy.commands.options import Json


def models(json: Json = False) -> None:
    """List the official models: parameters, MACs, input size, published accuracy, download URL."""
    from lit_deploy.models.families import PUBLISHED
    from lit_deploy.report.models import models_json, models_table
    from lit_deploy.report.terminal import show

    show(models_json(PUBLISHED) if json else models_table(PUBLISHED))
