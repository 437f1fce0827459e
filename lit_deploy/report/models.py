"""The published models, as a terminal table and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from lit_deploy.models.families.family import Published
from lit_deploy.models.layout import input_size, mac_count, parameter_count
from lit_deploy.report.terminal import as_json, text


def models_table(models: Mapping[str, Published]) -> RenderableType:
    """The official models, with what the authors published about them."""
    table = Table(
        caption="Published by the authors: top-1 and top-5 on ImageNet-1K (mixed precision), AP on COCO, mIoU on "
        "ADE20K.",
        caption_justify="left",
    )
    table.add_column("name", no_wrap=True)
    for column in ("parameters", "MACs", "input"):
        table.add_column(column, justify="right")
    table.add_column("published", overflow="fold")
    table.add_column("checkpoint", overflow="fold")
    for name, model in models.items():
        parameters, macs = parameter_count(model.spec), mac_count(model.spec)
        height, width = input_size(model.spec)
        table.add_row(
            name, f"{parameters / 1e6:.1f} M", f"{macs / 1e9:.1f} G", f"{height} x {width}",
            ", ".join(f"{key} {value:.1f}" for key, value in model.scores.items()), text(model.url),
        )  # fmt: skip
    return table


def models_json(models: Mapping[str, Published]) -> str:
    """The official models by name, with parameters, MACs and URL."""

    def described(model: Published) -> dict[str, Any]:
        counts = {
            "parameters": parameter_count(model.spec), "macs": mac_count(model.spec),
            "input_size": input_size(model.spec),
        }  # fmt: skip
        return {**dataclasses.asdict(model), **counts}

    return as_json({name: described(model) for name, model in models.items()})
