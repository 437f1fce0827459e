"""From prepared pictures to rows of results, whichever process the session is in."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.backends.base import filled, with_threshold
from lit_deploy.backends.protocol import Session
from lit_deploy.core.errors import ArtifactError
from lit_deploy.core.specs import BEST_CLASSES, MAX_DETECTIONS
from lit_deploy.images.picture import Picture
from lit_deploy.score.job import Wanted
from lit_deploy.score.preparing import Prepared
from lit_deploy.score.shards import Batch
from lit_deploy.tasks.arrays import Outputs
from lit_deploy.tasks.promises import require_results
from lit_deploy.tasks.protocol import LabelledPixels, Prediction
from lit_deploy.tasks.table import task_of

BATCH = 32
"""Images per run where the file takes that many."""

LABEL_MAPS = "label_maps"
"""Folder of label maps, beside the shards."""

OF_PICTURE = {"image_height": "height", "image_width": "width"}
"""Values of a task's ``FIELDS`` that all records of a picture share, and the attribute of its prediction."""

_COMPRESSION = 3  # of PNG: half the time of Pillow's 6, files a tenth larger

Row = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """What a batch gave: a row for every picture, and label maps as PNG files by their path beside the shards."""

    rows: list[Row]
    label_maps: dict[str, bytes]


@dataclass(frozen=True)
class Facts:
    """What is known of a session once it is open.

    Attributes:
        manifest: with the threshold that was asked for; ``description``: one line, as ``Session.description``.
        batch: pictures per run.
    """

    manifest: Manifest
    description: str
    batch: int


class Scorer:
    """A session and what is asked of it."""

    def __init__(self, session: Session, wanted: Wanted) -> None:
        require_results(session.manifest, "the file")
        manifest = with_threshold(session, wanted.score_threshold)
        self._session, self._manifest, self._task = session, manifest, task_of(manifest)
        self._least, most = session.batch_range
        if manifest.dense is not None:
            most = 1
        usual = BEST_CLASSES if manifest.dense is None else MAX_DETECTIONS
        self._top = usual if wanted.top is None else wanted.top
        self.facts = Facts(manifest, session.description, max(self._least, min(wanted.batch or BATCH, most)))

    def __call__(self, batch: Batch, prepared: Prepared) -> Scored:
        """The rows of a batch, in the order of its pictures."""
        found = self._predictions(prepared.pictures) if prepared.pictures else []
        by_place = dict(zip(prepared.places, found, strict=True))
        done = Scored([], {})
        for place, entry in enumerate(batch.entries):
            prediction = by_place.get(place)
            row: Row = {"path": entry.path, "sha256": prepared.sha256[place]}
            if isinstance(prediction, str):
                row["error"] = prediction
            elif prediction is None:
                row["error"] = prepared.errors[place]
            else:
                row.update(self._values(prediction))
                if isinstance(prediction, LabelledPixels):
                    row["label_map"] = f"{LABEL_MAPS}/{batch.shard.name}/{batch.start + place:06}.png"
                    done.label_maps[row["label_map"]] = self._png(prediction)
            done.rows.append(row)
        return done

    def _predictions(self, pictures: list[Picture]) -> list[Prediction | str]:
        """What is found in every picture, or why its outputs say nothing."""
        outputs = self._session.run(self._task.feed(filled(pictures, self._least), self._manifest))
        found: list[Prediction | str] = []
        for place, picture in enumerate(pictures):
            try:
                found += self._task.predictions(
                    self._of_one(outputs, place), self._manifest, ["the image"], [picture], self._top
                )
            except ArtifactError as error:
                found.append(str(error))
        return found

    def _of_one(self, outputs: Outputs, place: int) -> Outputs:
        if self._manifest.dense is not None:
            return outputs
        return {name: value[place : place + 1] for name, value in outputs.items()}

    def _values(self, prediction: Prediction) -> Row:
        return values_of(prediction, self._task.FIELDS)

    def _png(self, prediction: LabelledPixels) -> bytes:
        buffer = io.BytesIO()
        prediction.label_image(self._manifest).save(buffer, "PNG", compress_level=_COMPRESSION)
        return buffer.getvalue()


def values_of(prediction: Prediction, fields: Mapping[str, type]) -> Row:
    """The columns of one picture: a list a field, and one value for those that all records share."""
    records = prediction.records()
    lists = {name: [record[place] for record in records] for place, name in enumerate(fields)}
    return {
        name: getattr(prediction, OF_PICTURE[name]) if name in OF_PICTURE else values for name, values in lists.items()
    }
