"""What a file found in images, as a terminal table or JSON; one prediction after the other is taken in and let go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table

from lit_deploy.report.terminal import as_json, json_of, text
from lit_deploy.tasks.protocol import Prediction
from lit_deploy.workflows.predict_file import WrittenResults


def predictions_table(predictions: Iterable[Prediction]) -> RenderableType:
    """What was found in every image, in the columns of its task."""
    table = Table()
    table.add_column("image", overflow="fold")
    for prediction in predictions:
        if len(table.columns) == 1:
            for column in prediction.COLUMNS:
                table.add_column(column, justify="left" if column == "class" else "right")
        for rank, cells in enumerate(prediction.rows() or [("nothing",)]):
            table.add_row(text("" if rank else prediction.image), *map(text, cells))
        table.add_section()
    return table


def noting_orientations(predictions: Iterable[Prediction], turned: list[str]) -> Iterator[Prediction]:
    """The same predictions; ``turned`` gets the names of pictures that lie on their side for a classifier."""
    for prediction in predictions:
        if getattr(prediction, "orientation", 1) != 1:
            turned.append(prediction.image)
        yield prediction


def orientation_hint(turned: Sequence[str]) -> str:
    """What to know about pictures whose EXIF orientation a classifier ignores; at least one."""
    more = f" and {len(turned) - 1} more" if len(turned) > 1 else ""
    return (
        f"hint: {turned[0]}{more} should be turned by its EXIF orientation, which classifiers ignore as the official "
        "evaluation does; turn the pixels themselves where it matters"
    )


def predictions_json(predictions: Iterable[Prediction]) -> str:
    """What was found in every image, as a JSON array; the fields of a prediction are its members."""
    return as_json([json_of(prediction) for prediction in predictions])


def written_text(results: WrittenResults) -> str:
    """What was written, in a line."""
    rate = (results.images - results.resumed) / max(results.seconds, 1e-9)
    resumed = f", {results.resumed:,} of them by an earlier run" if results.resumed else ""
    return f"wrote {results.path}: {results.images:,} images{resumed}; {results.seconds:.1f} s, {rate:.1f} images/s"
