"""Whole runs: what they write, runs that were killed, and what is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command import ROOT, Run, assert_one_sentence
from support.dense import DenseFile
from support.exported import edited, export_of
from support.scoring import BAD, ONE, PICTURES, inline, rows, write_pictures

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.core.errors import ImageError, OutOfMemory, UsageError
from lit_deploy.core.files import sha256_of
from lit_deploy.score.engine import local
from lit_deploy.score.job import Job, Wanted
from lit_deploy.score.preparing import AHEAD, preparing
from lit_deploy.score.run import score
from lit_deploy.score.shards import Batch, Shard
from lit_deploy.score.sources import Sources
from lit_deploy.workflows.predict import Wanted as OfPredict
from lit_deploy.workflows.predict import predict_images, predicted

SIZE, BATCH = 16, 4


@pytest.fixture(scope="module")
def model(checkpoint_file: Callable[[str], Path]) -> Path:
    return export_of(checkpoint_file("tiny"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("score") / "pictures")


def job(model: Path, *sources: Path, **changes: Any) -> Job:
    return Job(
        str(model),
        tuple(map(str, sources)),
        **{"wanted": Wanted(batch=BATCH), "options": ONE, "shard_size": SIZE, **changes},
    )


@pytest.fixture(scope="module")
def whole(model: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of a run that nobody disturbed, in two processes."""
    out = tmp_path_factory.mktemp("whole")
    told: list[tuple[str, str]] = []
    summary = score(job(model, pictures), out, engine=local(2), left_out=lambda *what: told.append(what))
    assert (summary.pictures, summary.errors, summary.resumed, summary.shards) == (PICTURES, BAD, 0, 4)
    assert sorted(Path(path).name for path, _ in told) == ["007.png", "031.png"]
    return rows(out)


def test_rows_are_those_of_predict(whole: list[dict[str, Any]], model: Path, pictures: Path) -> None:
    paths = [Path(row["path"]) for row in whole]
    assert paths == sorted(pictures.rglob("*.png"))
    assert [row["sha256"] for row in whole] == list(map(sha256_of, paths))
    found = list(predicted(model, [pictures], OfPredict(batch=BATCH), ONE, left_out=lambda error: None))
    good = [row for row in whole if row["error"] is None]
    assert [row["path"] for row in good] == [prediction.image for prediction in found]
    for row, prediction in zip(good, found, strict=True):
        assert [row["class"], row["label"]] == [list(values) for values in (prediction.classes, prediction.labels)]  # type: ignore[attr-defined]
        np.testing.assert_allclose(row["probability"], prediction.probabilities, rtol=1e-5)  # type: ignore[attr-defined]
    for row in whole:
        assert row["error"] is None or row["error"].startswith("the image is damaged or incomplete (")
        assert (row["class"] is None) == (row["error"] is not None)


@pytest.mark.parametrize("task", ["detection", "instance_segmentation", "semantic_segmentation"])
def test_dense_rows_are_those_of_predict(task: str, dense_file: DenseFile, tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", 3)
    model, out = dense_file(task), tmp_path / "out"
    score(job(model, pictures, wanted=Wanted()), out, engine=inline)
    written = rows(out)
    for row, expected in zip(written, predict_images(model, [pictures], options=ONE), strict=True):
        records = expected.records()
        assert records, "a network that finds nothing shows nothing"
        names = list(row)[2 : 2 + len(records[0])]
        lists = [row[name] if isinstance(row[name], list) else [row[name]] * len(records) for name in names]
        assert list(zip(*lists, strict=True)) == records
        if task == "semantic_segmentation":
            with Image.open(out / row["label_map"]) as labels:
                np.testing.assert_array_equal(np.asarray(labels), expected.label_map)  # type: ignore[attr-defined]
    assert ("label_map" in written[0]) == (task == "semantic_segmentation")


KILLED = """
import sys
from pathlib import Path
from lit_deploy import SessionOptions
from lit_deploy.score.engine import local
from lit_deploy.score.job import Job, Wanted
from lit_deploy.score.run import score
if __name__ == "__main__":
    model, pictures, out = sys.argv[1:]
    job = Job(model, (pictures,), Wanted(batch=4), SessionOptions(threads=1), shard_size=16)
    def progress(step):
        print(step.name, flush=True)
        if step.name.startswith("20 of"):
            sys.stdin.read()
    print(score(job, out, engine=local(1), progress=progress).resumed)
"""


def test_a_run_that_was_killed_goes_on(
    whole: list[dict[str, Any]], model: Path, pictures: Path, tmp_path: Path
) -> None:
    """With SIGKILL, in its second shard: the processes that decode end with it."""
    out, script = tmp_path / "out", tmp_path / "killed.py"
    script.write_text(KILLED)
    words = [sys.executable, str(script), str(model), str(pictures), str(out)]
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("20 of"):
                process.kill()
                break
    deadline = time.monotonic() + 20
    while _group_lives(process.pid):
        assert time.monotonic() < deadline, "a process that decodes has outlived the run"
        time.sleep(0.05)
    assert len(list(out.glob("*.parquet"))) == 1
    assert not (out / "summary.json").exists()
    summary = score(job(model, pictures), out, engine=inline)
    assert summary.resumed == 16
    assert rows(out) == whole


def _group_lives(group: int) -> bool:
    """Whether a process of a group is there that is no zombie, which nobody may have waited for yet."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            found = re.search(r"\) (\S) \d+ (\d+) ", stat.read_text(errors="replace"))
        except OSError:
            continue
        if found and int(found[2]) == group and found[1] not in "ZX":
            return True
    return False


def test_a_run_that_ended_anywhere_goes_on(
    whole: list[dict[str, Any]], model: Path, pictures: Path, tmp_path: Path
) -> None:
    moment = random.Random(1)
    for attempt in range(4):
        out, stop = tmp_path / str(attempt), moment.randrange(1, PICTURES // BATCH)

        def progress(step: Any, stop: int = stop) -> None:
            if step.name.startswith(f"{stop * BATCH} of"):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            score(job(model, pictures), out, engine=inline, progress=progress)
        assert score(job(model, pictures), out, engine=inline).resumed == stop * BATCH // SIZE * SIZE
        assert rows(out) == whole


def test_a_finished_run_does_nothing(model: Path, run: Run, tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", 5)
    out = tmp_path / "out"
    words = ("score", model, pictures, "--out", out, "--threads", 1, "--workers", 1, "--shard-size", 2)
    first = run(*words)
    assert (first.code, first.err) == (0, "")
    assert first.out.startswith(f"wrote {out}: 5 images in 3 files; ")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.iterdir()}
    told = json.loads((out / "summary.json").read_text())
    assert (told["pictures"], told["errors"], told["this_run"]["pictures"]) == (5, 0, 5)
    assert told["model"] == {"name": model.name, "sha256": sha256_of(model)}
    second = run(*words, "--json")
    assert json.loads(second.out)["resumed"] == 5
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.iterdir()} == before
    assert "is complete: 5 images in 3 files; nothing was left to do" in run(*words).out


def test_what_has_changed_is_scored_again(model: Path, tmp_path: Path) -> None:
    """A picture that is written anew or gone takes its shard with it, and no row of it stays."""
    pictures, out = write_pictures(tmp_path / "pictures", 8), tmp_path / "out"
    bad = pictures / "d1" / "007.png"
    assert score(job(model, pictures, shard_size=3), out, engine=inline).errors == 1
    again = score(job(model, pictures, shard_size=3), out, engine=inline, retry_errors=True)
    assert (again.errors, again.resumed) == (1, 5)
    bad.unlink()
    mended = score(job(model, pictures, shard_size=3), out, engine=inline)
    assert (mended.pictures, mended.errors, mended.resumed) == (7, 0, 3)
    assert [Path(row["path"]) for row in rows(out)] == sorted(pictures.rglob("*.png"))


def test_a_shard_of_which_nothing_is_left_goes(model: Path, tmp_path: Path) -> None:
    """Though no shard is to be done; and one that lost its content, as where the power went, is done again."""
    pictures, out = write_pictures(tmp_path / "pictures", 6), tmp_path / "out"
    score(job(model, pictures, shard_size=2), out, engine=inline)
    for path in (pictures / "d2").iterdir():
        path.unlink()
    less = score(job(model, pictures, shard_size=2), out, engine=inline)
    assert (less.pictures, less.resumed) == (4, 4)
    files = sorted(out.glob("*.parquet"))
    assert json.loads((out / "summary.json").read_text())["shards"] == [path.name for path in files]
    assert len(rows(out)) == 4
    files[0].write_bytes(b"")
    assert score(job(model, pictures, shard_size=2), out, engine=inline).resumed == 2
    assert len(rows(out)) == 4


def test_another_job_in_the_same_folder_is_refused(model: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(job(model, pictures / "d0"), out, engine=inline)
    before = sorted(out.iterdir())
    other = edited(model, tmp_path / "other.onnx", lambda graph: setattr(graph, "doc_string", "another"))
    for changed, words in (
        (job(other, pictures / "d0"), "another scoring, with other files"),
        (job(model, pictures / "d1"), "another scoring, with other images"),
        (job(model, pictures / "d0", wanted=Wanted(top=2, batch=BATCH)), "another scoring, with other settings"),
        (job(model, pictures / "d0", shard_size=8), "another scoring, with other settings"),
    ):
        with pytest.raises(UsageError, match=f"plan.jsonl belongs to {words} .*; give another --out"):
            score(changed, out, engine=inline)
    assert sorted(out.iterdir()) == before
    plan = (out / "plan.jsonl").read_bytes().splitlines(keepends=True)
    min(out.glob("*.parquet")).unlink()
    (out / "plan.jsonl").write_bytes(plan[0] + b'"ONNX Runtime 1.0 cpu"\n')
    with pytest.raises(UsageError, match=r"by ONNX Runtime 1\.0 cpu, where this is ONNX Runtime"):
        score(job(model, pictures / "d0"), out, engine=inline)
    (out / "plan.jsonl").unlink()
    assert score(job(model, pictures / "d0"), out, engine=inline).resumed == 0, "the rest may be another session's"


def test_a_mistake_leaves_nothing_behind(model: Path, pictures: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    with pytest.raises(ImageError, match="absent does not exist"):
        score(job(model, tmp_path / "absent"), out, engine=inline)
    assert list(out.iterdir()) == []
    assert_one_sentence(run("score", tmp_path / "no.onnx", pictures, "--out", out), "no.onnx does not exist")
    assert_one_sentence(run("score", model, pictures, "--out", model), "it is a file, expected a folder")


def test_no_more_is_prepared_than_the_network_can_follow(model: Path, pictures: Path) -> None:
    """So memory does not grow with the source: what is asked for stays a few batches ahead of what is taken."""
    entries = tuple(Sources([str(pictures / "d0")]).entries())
    asked = 0

    def batches() -> Iterator[Batch]:
        nonlocal asked
        for number in range(30):
            asked += 1
            yield Batch(Shard(number, str(number), 1), 0, entries[number % 20 : number % 20 + 1])

    with preparing(read_manifest(model), 1) as prepared:
        for taken, (batch, done) in enumerate(prepared(batches()), start=1):
            assert batch.shard.number == taken - 1
            assert len(done.sha256) == 1
            assert asked <= taken + AHEAD
    assert asked == 30


def test_a_process_that_dies_is_told(model: Path, pictures: Path) -> None:
    entries = tuple(Sources([str(pictures / "d0")]).entries())
    batches = [Batch(Shard(0, "0", 1), 0, entries[:1])] * 20

    def with_a_kill() -> None:
        with preparing(read_manifest(model), 1) as prepared:
            for _ in prepared(batches):
                for process in multiprocessing.active_children():
                    process.kill()

    with pytest.raises(OutOfMemory, match="goes on where this one was"):
        with_a_kill()
