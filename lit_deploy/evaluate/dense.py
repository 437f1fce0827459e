"""What detectors and segmentation networks have in common: one picture at a time, and one run a file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lit_deploy.core.specs import PrecisionName
from lit_deploy.evaluate.entries import Entry, geometry
from lit_deploy.images.picture import Picture
from lit_deploy.tasks.arrays import Arrays
from lit_deploy.tasks.table import task_of


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """What is said of every file, whatever it reached.

    Attributes:
        label: its name in tables; ``path``: as it was given.
        description: back end, version, and what of lit-deploy it uses; ``precision``: of its weights.
        sha256: of the file.
        differing: of ``compared``, how many are not as the reference's; ``agreement``: share of those that are.
        not_finite: images whose output was NaN or infinite, or no class; they count as wrong.
        images_per_second: of ``Session.run``, disturbed by what runs beside it; ``bench`` measures speed properly.
    """

    label: str
    path: str
    description: str
    precision: PrecisionName
    sha256: str
    compared: int
    differing: int
    agreement: float
    not_finite: int
    images_per_second: float


def facts_of(entry: Entry, **told: Any) -> dict[str, Any]:
    """The fields of ``FileFacts`` for a file."""
    manifest = entry.session.manifest
    return {
        "label": entry.label, "path": entry.path, "description": entry.session.description,
        "precision": manifest.precision, "sha256": entry.sha256, **told,
    }  # fmt: skip


class Runs:
    """The files of an evaluation, and what each of them makes of a picture."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self._manifests = [entry.manifest for entry in entries]
        self._geometries = {geometry(manifest.input): manifest for manifest in self._manifests}
        self._warm: set[str] = set()

    def pictures(self, path: Any) -> dict[Any, Picture]:
        """A picture in every size that is needed, by what decides over it; ImageError where it cannot be used."""
        found = {}
        for key, manifest in self._geometries.items():
            (found[key],) = task_of(manifest).pictures([path], manifest)
        return found

    def outputs(self, index: int, pictures: dict[Any, Picture]) -> tuple[Arrays, float]:
        """What a file says about a picture, and the seconds that it took."""
        entry, manifest = self.entries[index], self._manifests[index]
        feeds = task_of(manifest).feed([pictures[geometry(manifest.input)]], manifest)
        if entry.label not in self._warm:  # the first run allocates and, on a GPU, loads kernels
            entry.session.run(feeds)
            self._warm.add(entry.label)
        began = time.perf_counter()
        outputs = entry.session.run(feeds)
        return outputs, time.perf_counter() - began


def percent(share: float | None) -> str:
    """A share for a table; nothing counts where it is None."""
    return "-" if share is None else f"{share:.2%}"
