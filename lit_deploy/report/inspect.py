"""The description of a file, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from lit_deploy.report.terminal import text

ABSENT = {"batch": "dynamic", "height": "any", "width": "any"}
"""What it means that a field has no value, where it means something."""

SIZES = ("image_size",)
"""Pairs of height and width in pixels."""

MOST = 40
"""Entries of a list that are shown."""


def inspection_table(description: Mapping[str, Any]) -> RenderableType:
    """The nested description of a file, one line for each of its fields; empty ones are left out."""
    table = Table()
    table.add_column("field", style="bold", no_wrap=True)
    table.add_column("value", overflow="fold")
    for key, value in _flatten(description):
        table.add_row(text(key), text(value, "yellow" if key == "note" else ""))
    return table


def _flatten(description: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in description.items():
        if isinstance(value, Mapping) and not _countable(value):
            yield from _flatten(value, f"{prefix}{key}.")
        elif shown := _shown(key, value):
            yield f"{prefix}{key}", shown


def _countable(value: Mapping[str, Any]) -> bool:
    """Whether it fits into one line: how often something is there, or in which version."""
    return all(isinstance(item, int) and not isinstance(item, bool) for item in value.values())


def _shown(key: str, value: Any) -> str:
    """A value in words; empty for what is not there."""
    if value is None or isinstance(value, bool):
        return {None: ABSENT.get(key, ""), True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return _number(key, value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        if {"name", "dtype", "shape"} <= value.keys():
            return f"{value['name']} {value['dtype']} [{', '.join(map(str, value['shape']))}]"
        pairs = ((name, _shown(name, item)) for name, item in value.items())
        return ", ".join(f"{name} {shown}" for name, shown in pairs if shown)
    if isinstance(value, list | tuple):
        if key == "profiles":
            return ", ".join(":".join(map(str, profile)) for profile in value)
        nested = any(isinstance(item, Mapping | list | tuple) for item in value)
        join = " x " if key in SIZES else "; " if nested else ", "
        shown = [_shown("", item) for item in value[:MOST]]
        return join.join([*shown, f"... {len(value)} in all"] if len(value) > MOST else shown)
    return str(value)


def _number(key: str, value: int) -> str:
    if key in ("size", "engine_size"):
        return f"{value / 1e6:.1f} MB ({value:,} bytes)"
    if key in ("parameters", "macs"):
        scale, unit = (1e9, "G") if value >= 1e9 else (1e6, "M") if value >= 1e6 else (1e3, "k")
        return f"{value / scale:.1f} {unit} ({value:,})"
    return str(value)
