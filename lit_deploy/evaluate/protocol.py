"""What a task has to tell an evaluation, and what an evaluation tells of a file.

A task is a file beside this one and a line in ``table.py``: a class with the names of ``Evaluation``, and what it finds
of a file, with those of ``FileScore``. The runner (``run.py``) knows no task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import PrecisionName
from lit_deploy.evaluate.entries import Entry
from lit_deploy.images.datasets import Folders, Skipped


@dataclass(frozen=True)
class Request:
    """What is to be evaluated on; which of it a task takes says its ``Evaluation.OPTIONS``.

    Attributes:
        images: folder of images.
        labels_file, folders: see ``datasets.labelled_images``.
        annotations: see ``coco.annotated_images``.
        labels_dir: see ``label_maps.mapped_images``.
        results: file to write the detections to, in COCO's format; ``predictions``: the classes, in JSON Lines.
        batch: images per batch; None for what the task does best.
        limit: most images, evenly spaced; None for all.
        against_checkpoint: the first file is a checkpoint that the others are compared with.
    """

    images: Path
    labels_file: Path | None = None
    folders: Folders = "auto"
    annotations: Path | None = None
    labels_dir: Path | None = None
    results: Path | None = None
    predictions: Path | None = None
    batch: int | None = None
    limit: int | None = None
    against_checkpoint: bool = False


class Dataset(Protocol):
    """Images whose truth is known."""

    @property
    def root(self) -> Path:
        """Their folder."""

    @property
    def files(self) -> tuple[str, ...]:
        """Paths below it, in sorted order."""

    @property
    def mapping(self) -> str:
        """How truth and classes were brought together, in words."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What does not count, and why."""

    def sha256(self) -> str:
        """Hash of all that decides over the numbers."""


class FileScore(Protocol):
    """What one file reached: a dataclass, whose fields are its JSON."""

    COLUMNS: ClassVar[tuple[str, ...]]
    """Headings of ``rows``; the first is of words, the others are of numbers."""
    CAPTION: ClassVar[str]
    """Explains the table; ``{mapping}`` and ``{reference}`` stand for those of the report."""
    MATRIX: ClassVar[str]
    """Heading of how far every two files agree."""
    CLASS_COLUMNS: ClassVar[tuple[str, ...]]
    """Headings of ``class_rows``; none where there are no rows."""

    @property
    def label(self) -> str:
        """The file's name in tables."""

    @property
    def description(self) -> str:
        """Back end, version, and what of lit-deploy it uses."""

    @property
    def precision(self) -> PrecisionName:
        """Of the file's weights."""

    @property
    def agreement(self) -> float:
        """Share, 0..1, in which it agrees with the reference."""

    @property
    def not_finite(self) -> int:
        """Images whose output was NaN or infinite, or no class; they count as wrong."""

    def rows(self, images: int) -> list[list[str]]:
        """As rows of a table, of so many images."""

    def class_rows(self) -> list[list[str]]:
        """What it reached in every class, as rows of a table."""

    def agreed_on(self, images: int) -> str:
        """What ``agreement`` is a share of, and how much of it differs, in words."""

    def gates(self, images: int) -> dict[str, tuple[float, str]]:
        """By the name of the option that asks for it: what was reached, 0..1, and as the rest of a sentence."""


Matrix = tuple[tuple[float, ...], ...]
Records = Sequence[Sequence[Any]]
"""What was recorded, ``[files][images]``."""


class Evaluation(Protocol):
    """The evaluation of one task: how images are prepared and run, what is kept of them, and how that is scored.

    Made of the open files, of what was asked for, and of a list of sentences for the reader, to be added to. It refuses
    (UsageError, ImageError) whatever does not fit together before anything runs.
    """

    OPTIONS: ClassVar[frozenset[str]]
    """Fields of ``Request``, gates and tables that the task knows, beside those that all know."""

    RECORD: ClassVar[Any]
    """Type of what is kept of one image and file; msgspec writes it into the state and reads it."""

    def __init__(self, entries: Sequence[Entry], request: Request, notes: list[str]) -> None: ...

    @property
    def dataset(self) -> Dataset:
        """What it runs on."""

    @property
    def batch(self) -> int:
        """Images that run, and are written to the state, together."""

    def prepare(self, index: int) -> Any:
        """One image of the data set, ready for every file; ImageError where it cannot be used. Runs in any thread."""

    def run(self, prepared: Sequence[Any]) -> tuple[Records, tuple[float, ...]]:
        """What is kept of images that could be prepared, at least one; and the seconds that every file took."""

    def scores(
        self, places: Sequence[int], records: Records, seconds: Sequence[float]
    ) -> tuple[tuple[FileScore, ...], Matrix]:
        """What every file reached, and how far every two agree, from all that was kept.

        Args:
            places: indices of the images, ascending, at least one.
            records: ``[files][images]``; ``seconds``: of every file, in all.
        """


def refuse_strangers(task: str, label: str, asked: Sequence[str], options: Mapping[str, frozenset[str]]) -> None:
    """Raise UsageError for the first thing that was asked for and that the task does not have.

    Args:
        task: of the files, ``label``: name of the first.
        asked: names as in ``Evaluation.OPTIONS``; ``options``: those of every task.
    """
    for name in asked:
        if name not in options[task]:
            able = " and ".join(_words(other) for other, names in options.items() if name in names)
            raise UsageError(f"--{name.replace('_', '-')} is for {able}, and {label} is made for {_words(task)}")


def _words(task: str) -> str:
    return task.replace("_", " ")
