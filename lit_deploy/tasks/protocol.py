"""What a task has to tell the rest of the house. A task is a package here whose ``__init__`` offers these names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.core.specs import OutputKind, TensorSpec, Tolerance
from lit_deploy.tasks.comparison import Comparison

if TYPE_CHECKING:
    from torch import Tensor

Arrays = dict[str, NDArray[np.generic]]
"""Inputs or outputs of a session by name."""


@dataclass(frozen=True)
class OutputAgreement:
    """How a session's outputs compare with the reference's.

    Attributes:
        output: the numbers.
        top1, top5: share of images whose predictions agree (a tie of the reference counts as agreement).
        faults: one sentence for every check that was not met.
        blind: one sentence for every reason why a fault could not have been noticed.
    """

    output: Comparison
    top1: float
    top5: float
    faults: tuple[str, ...]
    blind: tuple[str, ...]


class Prediction(Protocol):
    """What was found in one image: a dataclass, whose fields are its JSON."""

    COLUMNS: ClassVar[tuple[str, ...]]
    """Headings of ``rows``."""

    @property
    def image(self) -> str:
        """Path as it was given."""

    def rows(self) -> list[tuple[str, ...]]:
        """As rows of a table."""


class Task(Protocol):
    """One task. Importing it loads neither torch nor onnx."""

    def input_specs(self, manifest: Manifest) -> tuple[TensorSpec, ...]:
        """The inputs that a manifest promises."""

    def output_specs(self, manifest: Manifest) -> tuple[TensorSpec, ...]:
        """The outputs that a manifest promises, without layers."""

    def graph_outputs(self, features: Tensor, output: OutputKind) -> tuple[Tensor, ...]:
        """What an exported graph returns, in the order of ``output_specs``, from what the network returns."""

    def feed(self, images: NDArray[Any]) -> Arrays:
        """What a session takes, of a batch in its layout."""

    def prepare(self, images: Sequence[str | Path | bytes], manifest: Manifest) -> NDArray[Any]:
        """A batch in a session's layout, of image files, by the rule in the manifest."""

    def predictions(
        self, outputs: Mapping[str, NDArray[Any]], manifest: Manifest, images: Sequence[str], top: int
    ) -> Sequence[Prediction]:
        """What outputs say about the images of a batch."""

    def difference(self, reference: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> float:
        """Largest difference of two sessions' outputs over the reference's largest magnitude; infinite for NaN."""

    def agreement(
        self,
        manifest: Manifest,
        tolerance: Tolerance,
        expected: Mapping[str, NDArray[Any]],
        got: Mapping[str, NDArray[Any]],
    ) -> OutputAgreement:
        """Compare the outputs of a file with those of the float32 reference on the same images."""
