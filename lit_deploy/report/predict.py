"""What a file found in images, as a terminal table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table

from lit_deploy.report.terminal import text
from lit_deploy.tasks.protocol import Prediction


def predictions_table(predictions: Sequence[Prediction]) -> RenderableType:
    """What was found in every image, in the columns of its task."""
    table = Table()
    table.add_column("image", overflow="fold")
    for column in predictions[0].COLUMNS:
        table.add_column(column, justify="left" if column == "class" else "right")
    for prediction in predictions:
        for rank, cells in enumerate(prediction.rows()):
            table.add_row(text("" if rank else prediction.image), *map(text, cells))
        table.add_section()
    return table
