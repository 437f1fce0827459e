"""What a task has to tell the rest of the house. A task is a package here whose ``__init__`` offers these names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.core.specs import OutputKind, TensorSpec, Tolerance
from lit_deploy.images.picture import Picture
from lit_deploy.tasks.arrays import Arrays, Outputs, Pair
from lit_deploy.tasks.comparison import Comparison
from lit_deploy.tasks.intervals import independent_count

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Arrays",
    "Change",
    "Findings",
    "LabelledPixels",
    "Metric",
    "OutputAgreement",
    "Outputs",
    "Pair",
    "Prediction",
    "Task",
]


@dataclass(frozen=True)
class Metric:
    """One number of a comparison.

    Attributes:
        key: in a manifest and in JSON; ``title``: in tables.
        value: the number; ``text``: as it is printed.
        limit: what it is held to, as it is printed; empty where it is told for information only.
    """

    key: str
    title: str
    value: float
    text: str
    limit: str = ""


@dataclass(frozen=True)
class OutputAgreement:
    """How a session's outputs compare with the reference's.

    Attributes:
        output: error of the output that says most: a classifier's logits, a detector's boxes in pixels.
        metrics: everything that is worth telling.
        faults: one sentence for every check that was not met.
        blind: one sentence for every reason why a fault could not have been noticed.
    """

    output: Comparison
    metrics: tuple[Metric, ...]
    faults: tuple[str, ...]
    blind: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """How far what a file says about images departs from what another one says about them.

    Attributes:
        differing: of ``total`` predictions, those that are not the other file's.
        counted: what a prediction is, in the plural: images, detections, pixels.
        title: of the count, in tables; ``sentence``: the same for messages, with ``{reference}``, ``{differing}`` and
            ``{total}`` in it.
        broken: images whose outputs are not finite.
        error: how far the outputs are apart, as a share; to rank files by.
        cosines: cosine similarity of each image's logits ``[N]``; None where a task or a file does not give them.
        parts: where an image has several predictions, of every image how many differ and how many there are.
    """

    differing: int
    total: int
    counted: str
    title: str
    sentence: str
    broken: int
    error: float
    cosines: NDArray[np.float64] | None
    parts: tuple[tuple[int, int], ...] = ()

    @property
    def share(self) -> float:
        """Of the predictions, those that differ; 0..1."""
        return self.differing / max(self.total, 1)

    @property
    def independent(self) -> float:
        """How many independent predictions the share is worth; those of one image may change together."""
        return independent_count(self.parts) if self.parts else max(self.total, 1)


class Findings(Protocol):
    """What a file said about images, as far as it tells whether another file says the same."""

    def __len__(self) -> int:
        """Number of images."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What makes an agreement with these findings mean little, one sentence each."""

    def joined(self, others: Sequence[Self]) -> Self:
        """The images of all, in order."""

    def at(self, images: NDArray[np.int_]) -> Self:
        """Some of the images, by position."""

    def change(self, reference: Self) -> Change:
        """Compare with the findings of another file on the same images."""


class Prediction(Protocol):
    """What was found in one image: a dataclass, whose fields are its JSON."""

    COLUMNS: ClassVar[tuple[str, ...]]
    """Headings of ``rows``."""

    @property
    def image(self) -> str:
        """Path as it was given."""

    def rows(self) -> list[tuple[str, ...]]:
        """As rows of a table."""

    def records(self) -> list[tuple[Any, ...]]:
        """The same as values, for files: those that the task's ``FIELDS`` name."""


@runtime_checkable
class LabelledPixels(Protocol):
    """A prediction that says something of every pixel."""

    def label_image(self, manifest: Manifest) -> Image.Image:
        """The label of every pixel, as a palette image."""


class Task(Protocol):
    """One task. Importing it loads neither torch nor onnx."""

    OUTPUTS: tuple[OutputKind, ...]
    """Forms of its output that a file can have, the usual one first."""
    FIELDS: Mapping[str, type]
    """Names and types of the values of ``Prediction.records``."""

    def input_specs(self, manifest: Manifest) -> tuple[TensorSpec, ...]:
        """The inputs that a manifest promises."""

    def output_specs(self, manifest: Manifest) -> tuple[TensorSpec, ...]:
        """The outputs that a manifest promises, without layers."""

    def graph(self, model: nn.Module, manifest: Manifest) -> nn.Module:
        """A network of this task as a session: from tensors in the order of ``input_specs`` to those of
        ``output_specs``."""

    def pictures(self, images: Sequence[str | Path | bytes], manifest: Manifest) -> list[Picture]:
        """Image files, decoded and resized by the rule in the manifest."""

    def seeded(self, manifest: Manifest, size: tuple[int, int] | None = None) -> list[Picture]:
        """Synthetic pictures for verification and benchmarks, of a height and width where any will do."""

    def feed(self, pictures: Sequence[Picture], manifest: Manifest) -> Arrays:
        """What a session takes, of a batch of pictures."""

    def predictions(
        self,
        outputs: Mapping[str, NDArray[Any]],
        manifest: Manifest,
        images: Sequence[str],
        pictures: Sequence[Picture],
        top: int,
    ) -> Sequence[Prediction]:
        """What outputs say about the images of a batch."""

    def drawn(self, prediction: Any, image: Image.Image, manifest: Manifest) -> Image.Image:
        """A picture with what was found in it."""

    def difference(self, reference: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> float:
        """How far two sessions' outputs are apart, over the reference's scale; infinite for NaN."""

    def reference(self, manifest: Manifest) -> Manifest:
        """What the float32 reference takes and gives so that a file of ``manifest`` can be compared with it."""

    def agreement(self, manifest: Manifest, tolerance: Tolerance, pairs: Iterable[Pair]) -> OutputAgreement:
        """Compare the outputs of a file with those of the float32 reference, batch by batch of the same images.

        Args:
            manifest: of the tested file; ``tolerance``: the limits of its precision.
            pairs: outputs of the reference and of the file. Taken one after the other: all of many large pictures would
                not fit in memory.
        """

    def findings(self, outputs: Mapping[str, NDArray[Any]], manifest: Manifest, images: int) -> Any:
        """What outputs say about the first ``images`` of a batch, as ``Findings`` of the task's own kind."""
