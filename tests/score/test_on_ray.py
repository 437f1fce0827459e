"""The engine that is a Ray cluster, on a real one of this machine, which all tests of this file share."""

from __future__ import annotations

import os
import re
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import Run, assert_one_sentence
from support.exported import export_of
from support.scoring import BAD, ONE, PICTURES, inline, rows, write_pictures

from lit_deploy.core.errors import MissingDependency, UsageError
from lit_deploy.core.files import sha256_of
from lit_deploy.machine import packages
from lit_deploy.score.job import Job, Wanted
from lit_deploy.score.on_ray import Cluster, _connected, on_ray
from lit_deploy.score.run import score

CORES = 2


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster of two cores; the cache folder of its processes."""
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    folder = tmp_path_factory.mktemp("ray")
    (folder / "token").write_text(secrets.token_hex(32))
    settings = {
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),  # Ray would write one into the home folder
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "300",  # of a machine that is busy
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield folder / "cache" / "lit-deploy"
        ray.shutdown()


@pytest.fixture(scope="module")
def model(checkpoint_file: Callable[[str], Path]) -> Path:
    return export_of(checkpoint_file("tiny"))


@pytest.fixture(scope="module")
def job(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    pictures = write_pictures(tmp_path_factory.mktemp("score") / "pictures")
    return Job(str(model), (str(pictures),), Wanted(batch=4), ONE, shard_size=16)


@pytest.fixture(scope="module")
def whole(job: Job, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of a run in one process."""
    out = tmp_path_factory.mktemp("whole")
    score(job, out, engine=inline)
    return rows(out)


def processes(title: str) -> list[int]:
    """Processes of our cluster, which Ray gives titles."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, parents = (folder / "cmdline").read_text(), _ancestors(int(folder.name))
        except OSError:
            continue
        if command.startswith(title) and os.getpid() in parents:
            found.append(int(folder.name))
    return found


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        status = Path(f"/proc/{pid}/status").read_text()
        pid = int(re.search(r"^PPid:\s+(\d+)", status, re.MULTILINE)[1])  # type: ignore[index]
        found.append(pid)
    return found


def test_rows_are_those_of_one_process(
    cluster: Path, job: Job, model: Path, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    summary = score(job, tmp_path, engine=on_ray(Cluster(workers=(1, 1))))
    assert (summary.pictures, summary.errors, summary.resumed) == (PICTURES, BAD, 0)
    assert rows(tmp_path) == whole
    shipped = cluster / "models" / sha256_of(model) / model.name
    assert shipped.read_bytes() == model.read_bytes()


def test_a_run_goes_on_from_one_engine_to_the_other_and_past_a_dead_session(
    cluster: Path, job: Job, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    def stop(step: Any) -> None:
        if step.name.startswith("20 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(job, tmp_path, engine=inline, progress=stop)
    killed: list[int] = []

    def kill(step: Any) -> None:
        if step.fraction and not killed:
            killed.extend(processes("ray::MapWorker"))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    assert score(job, tmp_path, engine=on_ray(Cluster(workers=(1, 1))), progress=kill).resumed == 16
    assert killed
    assert rows(tmp_path) == whole


def test_what_a_cluster_cannot_do_is_refused(cluster: Path, job: Job, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"wants 0\.75 cores and 8 GPUs, and no machine of the cluster has more than"):
        score(job, tmp_path, engine=on_ray(Cluster(gpus_per_worker=8)))
    hidden = Job(job.source, job.sources, Wanted(score_threshold=0.5), ONE)
    with pytest.raises(UsageError, match=r"^the file's task is classification, which knows no score threshold"):
        score(hidden, tmp_path, engine=on_ray(Cluster()))
    assert list(tmp_path.iterdir()) == []


def test_a_signal_still_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's start puts a handler of its own in the place of ours."""
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    try:
        with _connected(None):
            assert signal.getsignal(signal.SIGTERM) == before
    finally:
        signal.signal(signal.SIGTERM, before)


def test_without_ray_the_extra_is_named(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = packages.installed_version
    monkeypatch.setattr(packages, "installed_version", lambda name: None if name == "ray" else real(name))
    with pytest.raises(MissingDependency, match=r"--engine ray needs ray, .*'lit-deploy\[ray\]'"):
        score(job, tmp_path, engine=on_ray(Cluster()))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--address", "auto"), "are for --engine ray"),
        (("--gpus-per-worker", 1), "are for --engine ray"),
        (("--workers", "1:2"), "--workers is '1:2', expected a number (1 to 1024)"),
        (("--engine", "ray", "--gpus-per-worker", 1.5), "a part of one GPU or a whole number"),
        (("--engine", "ray", "--workers", "3:2"), "expected a number or MIN:MAX"),
        (("--workers", "0"), "expected a number"),
    ],
)
def test_options_that_are_refused(words: tuple[str, ...], told: str, run: Run) -> None:
    assert_one_sentence(run("score", "a.onnx", "b.png", "--out", "c", *words), told)
