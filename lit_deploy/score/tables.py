"""Shards of results as Parquet files: a row a picture, with lists of what was found in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.core.files import atomic_path, to_disk
from lit_deploy.score.inference import OF_PICTURE, Row
from lit_deploy.tasks.table import task_of


def schema_of(manifest: Manifest) -> Any:
    """Columns of a task's results: path, sha256, what was found, error."""
    import pyarrow

    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    fields = [
        (name, types[kind] if name in OF_PICTURE else pyarrow.list_(types[kind]))
        for name, kind in task_of(manifest).FIELDS.items()
    ]
    if manifest.task == "semantic_segmentation":
        fields.append(("label_map", pyarrow.string()))
    return pyarrow.schema(
        [("path", pyarrow.string()), ("sha256", pyarrow.string()), *fields, ("error", pyarrow.string())]
    )


def write_rows(path: Path, rows: Sequence[Row], schema: Any) -> None:
    """Write a shard, whole or not at all; values that a row lacks are null."""
    import pyarrow
    import pyarrow.parquet

    with atomic_path(path) as part:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), part, compression="zstd")
        to_disk(part)


def errors_in(path: Path) -> int:
    """How many pictures of a shard could not be used, from the file's own statistics."""
    import pyarrow.parquet

    metadata = pyarrow.parquet.read_metadata(path)
    column = next(place for place in range(metadata.num_columns) if metadata.schema.column(place).path == "error")
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    return sum(group.num_rows - group.column(column).statistics.null_count for group in groups)
