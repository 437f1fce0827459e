"""Predictions as files: JSON Lines with an object an image, CSV and Parquet with a row a class or object.

Rows begin with the image and the rank of what was found in it, from 1; an image in which nothing was found has one row,
without a rank.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lit_deploy.core.errors import UsageError
from lit_deploy.core.files import check_target
from lit_deploy.core.text import shown_path
from lit_deploy.machine.packages import require
from lit_deploy.tasks.protocol import Prediction, Task
from lit_deploy.workflows.predict import Drawn

FORMATS = (".jsonl", ".csv", ".parquet")
"""Endings of the names of such files."""

_ROW_GROUP = 1 << 16  # rows of a Parquet file that are in memory

Row = Sequence[Any]
Columns = Mapping[str, type]
Write = Callable[[msgspec.Raw], None]


def check_results(path: Path) -> None:
    """Raise what writing there would raise, before any work.

    Raises:
        UsageError: an unknown ending, or a place that cannot be written.
        MissingDependency: Parquet without pyarrow.
    """
    if path.suffix.lower() not in FORMATS:
        known = ", ".join(FORMATS)
        raise UsageError(f"the results are to be written to {path.name}, expected a name ending in {known}")
    check_target(path)
    if path.suffix.lower() == ".parquet":
        require(f"writing {path.name}", "pyarrow")


def columns_of(task: Task, *, drawn: bool) -> Columns:
    """Names and types of the columns of a task's rows; with those of files that are drawn."""
    return {
        "image": str, "rank": int, **task.FIELDS, **({"picture": str, "label_map": str} if drawn else {})
    }  # fmt: skip


def encoded(prediction: Prediction, drawn: Drawn | None, suffix: str, task: Task) -> msgspec.Raw:
    """What a file holds of an image, as JSON: the object of JSON Lines, the rows of the others."""
    files: dict[str, str | None] = {}
    if drawn is not None:
        files["picture"] = shown_path(drawn.picture)
        files["label_map"] = None if drawn.label_map is None else shown_path(drawn.label_map)
    if suffix == ".jsonl":
        told = {name: file for name, file in files.items() if file is not None}
        return msgspec.Raw(msgspec.json.encode({**msgspec.to_builtins(prediction), **told}))
    records = [(rank, *values) for rank, values in enumerate(prediction.records(), start=1)]
    nothing = (None,) * (1 + len(task.FIELDS))
    rows = [(prediction.image, *record, *files.values()) for record in records or [nothing]]
    return msgspec.Raw(msgspec.json.encode(rows))


@contextlib.contextmanager
def writing(path: Path, suffix: str, columns: Columns) -> Iterator[Write]:
    """Yield what writes an image, as ``encoded`` gives it, to a file of that kind."""
    if suffix == ".parquet":
        with _parquet(path, columns) as write:
            yield write
    elif suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as text:
            table = csv.writer(text, lineterminator="\n")
            table.writerow(columns)
            yield lambda image: table.writerows(msgspec.json.decode(image))
    else:
        with path.open("wb") as file:
            yield lambda image: file.writelines((image, b"\n"))


@contextlib.contextmanager
def _parquet(path: Path, columns: Columns) -> Iterator[Write]:
    import pyarrow
    import pyarrow.parquet

    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    rows: list[Row] = []

    def flush() -> None:
        named = {name: [row[place] for row in rows] for place, name in enumerate(columns)}
        file.write_table(pyarrow.table(named, schema=schema))
        rows.clear()

    def write(image: msgspec.Raw) -> None:
        rows.extend(msgspec.json.decode(image))
        if len(rows) >= _ROW_GROUP:
            flush()

    with pyarrow.parquet.ParquetWriter(path, schema) as file:
        yield write
        flush()
