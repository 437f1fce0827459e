"""The engine that is a Ray cluster: Ray Data reads, prepares and infers; this process lists, and writes the shards.

Shards go out as rows of a data set. A task turns each into prepared batches, an actor, which holds a session, turns
those into rows of results, and they come back in any order. Ray places, scales, retries and holds back; nothing of that
is ours.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import LitDeployError, UsageError, refuse_for_memory
from lit_deploy.core.files import atomic_path, cache_dir
from lit_deploy.core.text import last_line
from lit_deploy.machine.packages import require
from lit_deploy.score.engine import Engine, Opened
from lit_deploy.score.inference import Facts, Scored, Scorer
from lit_deploy.score.job import Job, Wanted
from lit_deploy.score.model import Model
from lit_deploy.score.preparing import Preparer
from lit_deploy.score.shards import Batch

OF_SESSION, OF_PREPARING = 0.75, 0.25
"""Cores that a thread of a session, and a task that prepares pictures, are counted as: so both fit on every machine."""

BLOCK_BYTES = 16 << 20
"""Prepared batches that go from task to actor together; Ray's own 128 MiB would let an actor wait for the first."""


@dataclass(frozen=True)
class Cluster:
    """Which cluster, and how much of it.

    Attributes:
        address: ``auto`` or ``HOST:PORT`` of one that runs; None starts one on this machine, for this run.
        workers: least and most sessions; by default from one to one a machine, or one a GPU.
        gpus_per_worker: GPUs of a session; a part of one where several share it.
    """

    address: str | None = None
    workers: tuple[int, int] | None = None
    gpus_per_worker: float = 0.0

    def __post_init__(self) -> None:
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise UsageError(
                f"--gpus-per-worker is {self.gpus_per_worker:g}, expected a part of one GPU or a whole number of them"
            )


@dataclass(frozen=True)
class _Network:
    """A network on its way to the machines of a cluster: its files are in Ray's store, and are fetched where needed.

    Attributes:
        name: of its first file, and its key; ``sha256``: of the model; ``files``: references to contents, by name.
    """

    name: str
    sha256: str
    files: Mapping[str, Any]
    options: SessionOptions
    wanted: Wanted

    def source(self) -> str:
        """Its path on this machine, in a folder that is named by its hash; written where it is not there yet."""
        import ray

        folder = cache_dir() / "models" / self.sha256
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            if not (folder / name).exists():
                with atomic_path(folder / name) as part:
                    part.write_bytes(ray.get(content))
        return str(folder / self.name)

    @contextlib.contextmanager
    def scorer(self) -> Iterator[Scorer]:
        """A session of it."""
        with open_session(self.source(), self.options) as session:
            yield Scorer(session, self.wanted)


def _facts(network: _Network) -> Facts:
    """What is known of a network, told by a machine that can run it."""
    with network.scorer() as scorer:
        return scorer.facts


def _prepared(row: dict[str, Any], manifest: Manifest) -> Iterator[dict[str, bytes]]:
    """A task: the batches of a shard, prepared."""
    prepare = Preparer(manifest)
    for batch in pickle.loads(row["shard"]):
        yield {"batch": pickle.dumps((batch, prepare(batch.entries)), pickle.HIGHEST_PROTOCOL)}


class _Inferring:
    """An actor: a session that is loaded once."""

    def __init__(self, network: _Network) -> None:
        self._open = contextlib.ExitStack()
        self._scorer = self._open.enter_context(network.scorer())

    def __call__(self, row: dict[str, Any]) -> dict[str, bytes]:
        batch, prepared = pickle.loads(row["batch"])
        scored = self._scorer(batch, prepared)
        return {"scored": pickle.dumps((replace(batch, entries=()), scored), pickle.HIGHEST_PROTOCOL)}


class _OnRay:
    """A network that is ready on a cluster."""

    def __init__(self, network: _Network, facts: Facts, cluster: Cluster, cores: float) -> None:
        self.facts, self._network, self._cluster, self._cores = facts, network, cluster, cores

    def scored(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Scored]]:
        import pyarrow
        import ray.data

        shards = []
        for _, parts in groupby(batches, lambda batch: batch.shard.number):
            packed = pickle.dumps(list(parts), pickle.HIGHEST_PROTOCOL)
            shards.append(ray.put(pyarrow.table({"shard": pyarrow.array([packed], pyarrow.large_binary())})))
        least, most = self._cluster.workers or _usual_workers(self._cluster)
        prepared = ray.data.from_arrow_refs(shards).flat_map(
            _prepared, fn_kwargs={"manifest": self.facts.manifest}, num_cpus=OF_PREPARING
        )
        done = prepared.map(
            _Inferring,
            fn_constructor_args=(self._network,),
            compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
            num_cpus=self._cores,
            num_gpus=self._cluster.gpus_per_worker,
        )
        with _refusals():
            for row in done.iter_rows():
                yield pickle.loads(row["scored"])


def on_ray(cluster: Cluster) -> Opened:
    """The engine that is a Ray cluster.

    Raises, once it is opened:
        MissingDependency: there is no Ray. UsageError: there is no cluster at that address, or it has too little.
    """

    @contextlib.contextmanager
    def opened(job: Job, model: Model) -> Iterator[Engine]:
        require("--engine ray", "ray")
        with _connected(cluster.address):
            import ray

            threads = job.options.threads or (1 if cluster.gpus_per_worker else _cores_of_a_machine())
            cores = OF_SESSION * threads
            _check_fits(cores, cluster.gpus_per_worker)
            names = model.names
            files = {name: ray.put(path.read_bytes()) for name, path in zip(names, model.files, strict=True)}
            name = names[0] + ("" if model.key is None else f"#{model.key}")
            network = _Network(name, model.sha256, files, replace(job.options, threads=threads), job.wanted)
            with _refusals():
                asked = ray.remote(_facts).options(num_cpus=cores, num_gpus=cluster.gpus_per_worker)
                facts = ray.get(asked.remote(network))
            yield _OnRay(network, facts, cluster, cores)

    return opened


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """A connection to Ray, or the one that is there; quiet, and telling nobody of its use."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of how Ray Data itself uses actors
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    before = context.target_max_block_size, context.enable_progress_bars
    logger = logging.getLogger("ray.data")
    level = logger.level
    ours = not ray.is_initialized()
    if ours:
        handler = signal.getsignal(signal.SIGTERM)
        place: dict[str, Any] = {"address": "local", "include_dashboard": False}
        try:
            ray.init(
                **(place if address is None else {"address": address}), log_to_driver=False,
                logging_level=logging.ERROR,
            )  # fmt: skip
        except Exception as error:  # a start that takes too long is no more than that
            refuse_for_memory(error)
            ray.shutdown()
            said = last_line(error)
            raise UsageError(
                f"Ray has not started on this machine ({said}); try again when it is less busy, or give --address"
                if address is None
                else f"there is no Ray cluster at {address} ({said}); start one with `ray start --head`, or leave out "
                "--address for one on this machine"
            ) from None
        finally:
            if threading.current_thread() is threading.main_thread():  # Ray has put its own there
                signal.signal(signal.SIGTERM, handler)
    try:
        context.target_max_block_size, context.enable_progress_bars = BLOCK_BYTES, False
        logger.setLevel(logging.ERROR)
        yield
    finally:
        context.target_max_block_size, context.enable_progress_bars = before
        logger.setLevel(level)
        if ours:
            ray.shutdown()


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Around what happens elsewhere: errors of ours come back as they were raised, Ray's own in a sentence."""
    import ray

    try:
        yield
    except (ray.exceptions.RayError, LitDeployError) as error:
        raise _cause(error) or UsageError(
            f"Ray gave the run up ({last_line(error)}); the same command goes on where it was"
        ) from None


def _cause(error: BaseException | None) -> LitDeployError | None:
    """The error of ours at the bottom of one that Ray has wrapped, in its own words."""
    while error is not None:
        if isinstance(error, LitDeployError) and type(error).__module__.startswith("lit_deploy."):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None


def _machines() -> list[Mapping[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _cores_of_a_machine() -> int:
    return max(1, int(min((machine["CPU"] for machine in _machines()), default=1)))


def _usual_workers(cluster: Cluster) -> tuple[int, int]:
    machines = _machines()
    if not cluster.gpus_per_worker:
        return 1, max(1, len(machines))
    return 1, max(1, int(sum(machine.get("GPU", 0) for machine in machines) / cluster.gpus_per_worker))


def _check_fits(cores: float, gpus: float) -> None:
    """Ray would wait for ever for what no machine has; one that is to be started by its autoscaler cannot be seen."""
    machines = _machines()
    if machines and not any(machine["CPU"] >= cores and machine.get("GPU", 0) >= gpus for machine in machines):
        most = max(machine["CPU"] for machine in machines), max(machine.get("GPU", 0) for machine in machines)
        raise UsageError(
            f"a session wants {cores:g} cores and {gpus:g} GPUs, and no machine of the cluster has more than "
            f"{most[0]:g} and {most[1]:g}; take fewer --threads or --gpus-per-worker"
        )
