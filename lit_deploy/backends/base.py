"""What the back ends share: a manifest that is there while a session is open, and checks of what goes in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import MAX_BATCH, PrecisionName, TensorSpec
from lit_deploy.tasks.table import task_of

T = TypeVar("T")

IN_MEMORY = Path("the model in memory")
"""What messages call a model that is no file."""


def entered(value: T | None) -> T:
    """Return what ``__enter__`` sets; UsageError while the session is not entered."""
    if value is None:
        raise UsageError("the session is not open; use it as: with open_session(...) as session")
    return value


class BackEnd:
    """What every back end shares: a manifest that is there while the session is open."""

    description = ""

    def __init__(self, options: SessionOptions) -> None:
        self._options = options
        self._manifest: Manifest | None = None

    @property
    def manifest(self) -> Manifest:
        return entered(self._manifest)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return task_of(self.manifest).input_specs(self.manifest)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return task_of(self.manifest).output_specs(self.manifest)

    @property
    def precision(self) -> PrecisionName:
        return self.manifest.precision

    @property
    def batch_range(self) -> tuple[int, int]:
        fixed = self.manifest.batch
        return (fixed, fixed) if fixed else (1, MAX_BATCH)

    def _close(self) -> None:
        """Let go of what ``__enter__`` loaded."""
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manifest = None
        self._close()


def filled(pictures: Sequence[T], least: int) -> list[T]:
    """Fill up a batch that is smaller than a session takes with its last picture."""
    return [*pictures, *[pictures[-1]] * (least - len(pictures))]


def check_feeds(feeds: Mapping[str, NDArray[np.generic]], inputs: tuple[TensorSpec, ...]) -> None:
    """Raise UsageError in one sentence when ``feeds`` is not what ``inputs`` describe."""
    wanted = {spec.name for spec in inputs}
    if set(feeds) != wanted:
        raise UsageError(f"got inputs {sorted(feeds)}, expected {sorted(wanted)}")
    for spec in inputs:
        array = feeds[spec.name]
        if not isinstance(array, np.ndarray):
            raise UsageError(f"input '{spec.name}' is a {type(array).__name__}, expected a NumPy array")
        fits = len(array.shape) == len(spec.shape) and all(
            isinstance(want, str) or want == got for want, got in zip(spec.shape, array.shape, strict=True)
        )
        # dtype, not its name: a byte-swapped float32 would be read as other numbers
        if array.dtype != np.dtype(spec.dtype) or not fits:
            shape = " x ".join(map(str, spec.shape))
            raise UsageError(
                f"input '{spec.name}' is {array.dtype} {list(array.shape)}, expected {spec.dtype} [{shape}]"
            )
