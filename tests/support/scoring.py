"""Pictures and engines for the tests of scoring."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.images.synthetic import synthetic_image
from lit_deploy.score.engine import Engine
from lit_deploy.score.inference import Scored, Scorer
from lit_deploy.score.job import Job
from lit_deploy.score.model import Model
from lit_deploy.score.preparing import Preparer
from lit_deploy.score.shards import Batch

pytest.importorskip("pyarrow", reason="the extra parquet is not installed")

PICTURES, BAD = 60, 2
ONE = SessionOptions(threads=1)


def picture(index: int, kind: str = "PNG") -> bytes:
    """The file of a picture, each its own."""
    buffer = io.BytesIO()
    Image.fromarray(synthetic_image(4, f"score:{index}", 60 + index % 7, 90)).save(buffer, kind)
    return buffer.getvalue()


def write_pictures(folder: Path, count: int = PICTURES) -> Path:
    """Pictures in three folders, two of ``PICTURES`` damaged."""
    for index in range(count):
        path = folder / f"d{index % 3}" / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = picture(index)
        path.write_bytes(content[: len(content) // 2] if index in (7, 31) else content)
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    """All rows of a run, in the order of its shards."""
    import pyarrow.parquet

    return [row for path in sorted(folder.glob("*.parquet")) for row in pyarrow.parquet.read_table(path).to_pylist()]


class _Inline:
    def __init__(self, scorer: Scorer) -> None:
        self.facts, self._scorer, self._prepare = scorer.facts, scorer, Preparer(scorer.facts.manifest)

    def scored(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Scored]]:
        for batch in batches:
            yield batch, self._scorer(batch, self._prepare(batch.entries))


@contextlib.contextmanager
def inline(job: Job, model: Model) -> Iterator[Engine]:
    """An engine that does everything in this process, for what has nothing to do with processes."""
    with open_session(job.source, job.options) as session:
        yield _Inline(Scorer(session, job.wanted))
