"""The description of a file, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from lit_deploy.report.terminal import text


def inspection_table(description: Mapping[str, Any]) -> RenderableType:
    """The nested description of a file, one ``key value`` line each."""
    table = Table.grid(padding=(0, 2))
    for key, value in _flatten(description):
        table.add_row(text(key, "bold"), text(value))
    return table


def _flatten(description: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in description.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", "-" if value is None or value == "" else str(value)
