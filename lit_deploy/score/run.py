"""Score any number of pictures: list them, leave out what an earlier run has done, write the rest shard by shard."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from lit_deploy.core.files import atomic_path, made_folder, to_disk, write_text
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.core.text import shown_path
from lit_deploy.machine.facts import this_machine
from lit_deploy.machine.packages import require
from lit_deploy.score.engine import Opened, local
from lit_deploy.score.inference import LABEL_MAPS, Row, Scored
from lit_deploy.score.job import Job
from lit_deploy.score.model import Model, model_of
from lit_deploy.score.plan import Plan, open_plan
from lit_deploy.score.shards import SUFFIX, Batch, Listing, Shard, listed
from lit_deploy.score.sources import Sources
from lit_deploy.score.tables import errors_in, schema_of, write_rows

SUMMARY = "summary.json"
_NAME = re.compile(r"\d{6,}-[0-9a-f]{16}")

LeftOut = Callable[[str, str], None]
"""Told of every picture that cannot be used: its path, and why."""


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        out: folder of the results; ``shards``: files in it.
        pictures: rows of all shards; ``errors``: those of pictures that could not be used.
        resumed: pictures that earlier runs had done.
        seconds: of this run's scoring, with the listing before it; ``images_per_second``: without.
        left_out: what of the sources was no picture, in words.
    """

    out: Path
    shards: int
    pictures: int
    errors: int
    resumed: int
    seconds: float
    images_per_second: float
    left_out: str


def score(
    job: Job,
    out: str | Path,
    *,
    engine: Opened | None = None,
    retry_errors: bool = False,
    left_out: LeftOut | None = None,
    progress: Progress = unseen,
) -> Summary:
    """Write what an exported file or a checkpoint finds in pictures; the same call after a kill goes on.

    Args:
        job: what is scored, and how.
        out: folder, made where it is missing: a Parquet file a shard, ``summary.json``, and label maps of semantic
            segmentation.
        engine: where it runs; this machine when None.
        retry_errors: also do shards again in which pictures could not be used.
        left_out: called for every picture that cannot be used.
        progress: called with the share done, images per second and the time left.

    Raises:
        ImageError: a source that is not there or holds no picture.
        UsageError: a folder that cannot be written, or that holds a run of another model, other sources or options.
        MissingDependency: pyarrow, or what a scheme of a URL needs.
    """
    require("scoring", "pyarrow")
    folder, model = made_folder(Path(out)), model_of(job.source)
    with open_plan(folder, job, model) as plan:
        began = time.monotonic()
        found = Sources(job.sources, job.column, str(folder))
        with listed(found.entries(), job.shard_size, plan.key, progress) as listing:
            anew = plan.session is None
            todo = [shard for shard in listing.shards if anew or not _is_done(folder, shard, retry_errors)]
            names = [shard.name for shard in listing.shards]
            scoring = time.monotonic()
            if _told(folder) != _files(names):
                (folder / SUMMARY).unlink(missing_ok=True)  # it is of a whole
            if todo:
                with (engine or local())(job, model) as opened:
                    (folder / SUMMARY).unlink(missing_ok=True)
                    if anew:  # what lies there may be another session's
                        _remove_but((), folder)
                    plan.begin(opened.facts.description)
                    writer = _Writer(folder, schema_of(opened.facts.manifest), left_out)
                    tell = _Telling(listing, todo, progress)
                    for batch, scored in opened.scored(listing.batches(todo, opened.facts.batch)):
                        writer.take(batch, scored)
                        tell(len(scored.rows))
            now = sum(shard.count for shard in todo)
            ended = time.monotonic()
            summary = Summary(
                folder, len(listing.shards), listing.pictures, _errors(folder, listing), listing.pictures - now,
                ended - began, now / max(ended - scoring, 1e-9), found.summary,
            )  # fmt: skip
            _remove_but(names, folder)
            if not (folder / SUMMARY).exists():
                _write_summary(summary, job, model, plan, listing)
    return summary


def _file(folder: Path, shard: Shard) -> Path:
    return folder / f"{shard.name}{SUFFIX}"


def _is_done(folder: Path, shard: Shard, retry_errors: bool) -> bool:
    try:
        return not errors_in(_file(folder, shard)) or not retry_errors
    except (OSError, ValueError):  # it is not there, or damaged
        return False


def _errors(folder: Path, listing: Listing) -> int:
    return sum(errors_in(_file(folder, shard)) for shard in listing.shards)


class _Writer:
    """Gathers the batches of shards, which may come in any order, and writes a shard with the last of its batches."""

    def __init__(self, folder: Path, schema: Any, left_out: LeftOut | None) -> None:
        self._folder, self._schema, self._left_out = folder, schema, left_out
        self._waiting: dict[int, dict[int, list[Row]]] = {}

    def take(self, batch: Batch, scored: Scored) -> None:
        for name, content in scored.label_maps.items():
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as part:
                part.write_bytes(content)
                to_disk(part)
        shard = self._waiting.setdefault(batch.shard.number, {})
        shard[batch.start] = scored.rows
        if sum(map(len, shard.values())) == batch.shard.count:
            rows = [row for _, part in sorted(self._waiting.pop(batch.shard.number).items()) for row in part]
            write_rows(_file(self._folder, batch.shard), rows, self._schema)
            for row in rows:
                if "error" in row and self._left_out is not None:
                    self._left_out(row["path"], row["error"])


class _Telling:
    """Says how far a run is, how fast, and how long it will take."""

    def __init__(self, listing: Listing, todo: Iterable[Shard], progress: Progress) -> None:
        self._total, self._progress, self._now = listing.pictures, progress, 0
        self._before = self._total - sum(shard.count for shard in todo)
        self._began = time.monotonic()

    def __call__(self, count: int) -> None:
        self._now += count
        done, rate = self._before + self._now, self._now / max(time.monotonic() - self._began, 1e-9)
        left = timedelta(seconds=round((self._total - done) / rate))
        name = f"{done:,} of {self._total:,} images, {rate:.1f} images/s, {left} left"
        self._progress(Step(name, done / self._total))


def _remove_but(names: Collection[str], folder: Path) -> None:
    """Delete all other shards: as they are named by their content, of pictures that the sources do not hold now."""
    names = set(names)
    for path in folder.glob(f"*{SUFFIX}"):
        if _NAME.fullmatch(path.stem) and path.stem not in names:
            path.unlink(missing_ok=True)
    for maps in (folder / LABEL_MAPS).glob("*"):
        if _NAME.fullmatch(maps.name) and maps.name not in names:
            for path in maps.glob("*.png"):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody has put something else there
                maps.rmdir()


def _files(names: Iterable[str]) -> list[str]:
    return [f"{name}{SUFFIX}" for name in names]


def _told(folder: Path) -> Any:
    """The shards of which the summary is, where there is one."""
    try:
        return msgspec.json.decode((folder / SUMMARY).read_bytes())["shards"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _write_summary(summary: Summary, job: Job, model: Model, plan: Plan, listing: Listing) -> None:
    told = {
        "pictures": summary.pictures,
        "errors": summary.errors,
        "left_out": summary.left_out,
        "this_run": {
            "pictures": summary.pictures - summary.resumed,
            "seconds": round(summary.seconds, 3),
            "images_per_second": round(summary.images_per_second, 3),
        },
        "model": {"name": model.name, "sha256": model.sha256},
        "session": plan.session,
        "options": job.settings,
        "sources": [shown_path(source) for source in job.sources],
        "machine": msgspec.to_builtins(this_machine()),
        "shards": _files(shard.name for shard in listing.shards),
    }
    write_text(msgspec.json.format(msgspec.json.encode(told), indent=2).decode(), summary.out / SUMMARY)
