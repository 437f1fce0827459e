"""What the back ends share: a manifest that is there while a session is open, and checks of what goes in and out."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.backends.protocol import Session, SessionOptions
from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import MAX_BATCH, PrecisionName, TensorSpec
from lit_deploy.tasks.table import task_of

T = TypeVar("T")

IN_MEMORY = Path("the model in memory")
"""What messages call a model that is no file."""


def loaded(value: T | None) -> T:
    """What a session that is open has loaded."""
    assert value is not None
    return value


class BackEnd:
    """What every back end shares: it is loaded when it is entered or first used, and let go of once."""

    def __init__(self, options: SessionOptions) -> None:
        self._options = options
        self._manifest: Manifest | None = None
        self._description = ""
        self._closed = False
        self._opening = threading.RLock()

    @property
    def description(self) -> str:
        if not self._description:
            self._open()
        return self._description

    @property
    def manifest(self) -> Manifest:
        return self._open()

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

    def _enter(self) -> None:
        """Load the network; set ``_manifest`` and ``_description``."""
        raise NotImplementedError

    def _close(self) -> None:
        """Let go of what ``_enter`` loaded, or of as much as there is."""
        raise NotImplementedError

    def _open(self) -> Manifest:
        """Load what is not loaded yet: a notebook has no ``with`` that lasts from one cell to the next."""
        with self._opening:
            if self._closed:
                raise UsageError("the session is closed and not open any more; open another one with open_session")
            if self._manifest is None:
                try:
                    self._enter()
                except BaseException:
                    self._manifest = None
                    self._close()
                    raise
            return loaded(self._manifest)

    def __enter__(self) -> Self:
        self._closed = False
        self._open()
        return self

    def close(self) -> None:
        """Let go of memory and devices, once; whoever uses the session then is told that it is closed."""
        was_open = self._manifest is not None
        self._manifest, self._closed = None, True
        if was_open:
            self._close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_manifest", None) is not None and not sys.is_finalizing():
            with contextlib.suppress(Exception):
                self.close()


def filled(pictures: Sequence[T], least: int) -> list[T]:
    """Fill up a batch that is smaller than a session takes with its last picture."""
    return [*pictures, *[pictures[-1]] * (least - len(pictures))]


def with_threshold(session: Session, score_threshold: float | None) -> Manifest:
    """The manifest of a session with another score threshold, of which its task takes notice."""
    manifest = session.manifest
    if score_threshold is None:
        return manifest
    dense = manifest.dense
    if dense is None or all(output.name != "scores" for output in session.outputs):
        raise UsageError(f"the file's task is {manifest.task}, which knows no score threshold; leave it out")
    if not dense.score_threshold <= score_threshold < 1:
        raise UsageError(
            f"the score threshold is {score_threshold}, expected {dense.score_threshold}, below which the file keeps "
            "nothing, to 1; export with a lower --score-threshold for more"
        )
    return replace(manifest, dense=replace(dense, score_threshold=score_threshold))


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
