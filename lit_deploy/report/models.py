"""The published models, as a terminal table and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from lit_deploy.models.families.family import Published
from lit_deploy.models.layout import mac_count, parameter_count
from lit_deploy.report.terminal import as_json, text


def models_table(models: Mapping[str, Published]) -> RenderableType:
    """The official models; accuracy is what the authors published for ImageNet-1K."""
    table = Table(
        caption="Accuracy: published by the authors for ImageNet-1K, mixed precision.", caption_justify="left"
    )
    table.add_column("name", no_wrap=True)
    for column in ("parameters", "MACs", "input", "top-1 %", "top-5 %"):
        table.add_column(column, justify="right")
    table.add_column("checkpoint", overflow="fold")
    for name, model in models.items():
        parameters, macs = parameter_count(model.spec), mac_count(model.spec)
        height, width = model.spec.image_size
        table.add_row(
            name, f"{parameters / 1e6:.1f} M", f"{macs / 1e9:.2f} G", f"{height} x {width}",
            f"{model.top1:.2f}", "-" if model.top5 is None else f"{model.top5:.2f}", text(model.url),
        )  # fmt: skip
    return table


def models_json(models: Mapping[str, Published]) -> str:
    """The official models by name, with parameters, MACs and URL."""

    def described(model: Published) -> dict[str, Any]:
        counts = {"parameters": parameter_count(model.spec), "macs": mac_count(model.spec)}
        return {**dataclasses.asdict(model), **counts}

    return as_json({name: described(model) for name, model in models.items()})
