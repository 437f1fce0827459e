"""Both ends of one benchmark process: ``Worker`` starts and commands it, ``main`` runs inside it.

One JSON object per line goes each way. A worker runs only while it is asked something: between turns its whole process
group is stopped (SIGSTOP), because idle thread pools of PyTorch, ONNX Runtime and OpenVINO spin and would take cores
from whoever is measured. Serving ONNX Runtime or OpenVINO imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.manifests import manifest_of_file
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import Phases, ProfiledSession, Session, SessionOptions, TimedSession
from lit_deploy.core import errors
from lit_deploy.core.errors import LitDeployError, LitDeployWarning
from lit_deploy.core.processes import die_with_parent, ending, worker_command, worker_environment
from lit_deploy.core.signals import ended_by_signals
from lit_deploy.core.text import first_line
from lit_deploy.tasks.table import task_of

COMMAND = worker_command("lit_deploy.bench.worker")
WARM_UP_SECONDS, WARM_UP_RUNS = 0.5, 3


class Worker:
    """A benchmark process as its parent sees it: ask, wait for the answer, stop it again.

    ``environment`` stands in for this process's own, for what must be set before a process starts. Leaving the context
    kills the whole process group, whatever state it is in.
    """

    def __init__(self, label: str, environment: Mapping[str, str] | None = None) -> None:
        self.label = label
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed in __exit__)
        self._process = subprocess.Popen(
            [*COMMAND, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            env=worker_environment(dict(os.environ if environment is None else environment)),
            start_new_session=True,  # its own group: Ctrl-C reaches the parent only, and signals reach its helpers too
        )
        self.pid = self._process.pid
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signal(signal.SIGKILL)  # works on a stopped process too
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            assert pipe is not None
            pipe.close()

    def ask(self, timeout: float, **request: Any) -> dict[str, Any]:
        """Let the worker run until it has answered one request.

        Args:
            timeout: seconds to wait.
            request: ``do`` and what it needs; see ``_serve``.

        Raises:
            LitDeployError: the worker refused (its own kind of error), died or did not answer in time.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        self._signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # a dead worker shows below, with its last words
            stdin.write(json.dumps(request).encode() + b"\n")
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if not select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise LitDeployError(
                    f"{self.label}: no answer to '{request['do']}' within {timeout:g} s; "
                    "try a smaller batch or leave this contender out"
                )
            chunk = os.read(stdout.fileno(), 1 << 20)
            if not chunk:
                raise LitDeployError(f"{self.label}: its process {self._last_words()}")
            self._buffer += chunk
        self._signal(signal.SIGSTOP)
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = getattr(errors, answer["error"], LitDeployError)
            raise kind(f"{self.label}: {answer['message']}")
        return answer

    def end(self) -> None:
        """Kill it before its context is left: it is not asked anything more."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _last_words(self) -> str:
        code = self._process.wait(timeout=10)
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it left no message")
        if code == -signal.SIGKILL:
            return ending(code)
        return f"{ending(code)} in the middle of the benchmark ({last}); leave this contender out or mend it"


def seeded_feed(manifest: Manifest, batch: int, size: tuple[int, int] | None = None) -> dict[str, NDArray[np.generic]]:
    """The common input: the same pixels for every contender, in the layout its manifest asks for.

    Args:
        size: height and width in pixels, for a file that takes any.
    """
    task = task_of(manifest)
    pictures = task.seeded(manifest, None if size is None else (size[0], size[1]))
    return task.feed([pictures[index % len(pictures)] for index in range(batch)], manifest)


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, in MiB.

    Linux's VmHWM; ``getrusage`` would count the parent's memory as well, which a new process inherits until it execs.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


class _OtherProcesses:
    """How busy everything but this process keeps the machine, from now on; a benchmark wants it near zero."""

    def __init__(self) -> None:
        self._begin = self._read()

    def busy_cores(self) -> float | None:
        """Average number of cores taken by others (time stolen by a hypervisor included); None where not known."""
        end = self._read()
        if self._begin is None or end is None:
            return None
        wall, own, machine = (after - before for before, after in zip(self._begin, end, strict=True))
        return (machine - own) / wall  # slightly negative at times: the kernel counts in ticks of 10 ms

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """Seconds: wall clock, CPU time of this process, CPU time of the whole machine."""
        try:
            user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
        except (OSError, ValueError):
            return None
        ticks = user + nice + system + irq + softirq + steal
        return time.perf_counter(), time.process_time(), ticks / os.sysconf("SC_CLK_TCK")


_OPTIONS: dict[str, dict[str, Any]] = {
    "torch": {},
    "torch-fp16": {"half": True},
    "torch.compile": {"compiled": True},
    "torch.compile-fp16": {"compiled": True, "half": True},
    "onnxruntime": {"library": True},
    "onnxruntime-stock": {"library": False},
    "openvino": {"backend": "openvino", "library": False},
    "openvino-kernels": {"backend": "openvino", "library": True},
    "openvino-bf16": {"backend": "openvino", "precision_hint": "bf16"},
    "engine": {},
    "engine-graph": {"cuda_graph": True},
}
"""What every kind of contender means for its session."""


def _open(request: dict[str, Any]) -> Session:
    chosen = _OPTIONS[request["kind"]]
    if chosen.get("compiled"):
        _compile_every_batch()
    common = {name: request[name] for name in ("device", "threads", "allow_engine_code")}
    like = manifest_of_file(request["like"]) if request.get("like") else None
    if like is not None and like.dense is None:  # a classifier normalises outside its network
        like = task_of(like).reference(like)
    options = SessionOptions(**common, **chosen, like=like, profiled=request.get("profiled", False))
    return open_session(request["source"], options)


def _compile_every_batch() -> None:
    """Let torch.compile specialise for each batch size: otherwise the second one would get slower, dynamic code."""
    import torch._dynamo.config as settings

    settings.automatic_dynamic_shapes = False
    settings.recompile_limit = 64  # beyond it torch would silently fall back to eager


def _serve(requests: IO[str], replies: IO[str]) -> None:
    """Answer requests until the pipe closes.

    ``open``; ``prepare`` (one batch size, warm-up; outputs go to a file where one is named); ``turn`` (timed);
    ``profile`` (of a session that was opened for it).
    """

    def reply(**answer: Any) -> None:
        replies.write(json.dumps(answer) + "\n")
        replies.flush()

    with contextlib.ExitStack() as stack:
        session: Session | None = None
        feed: dict[str, NDArray[np.generic]] = {}
        for line in requests:
            request = json.loads(line)
            try:
                if request["do"] == "open":
                    with warnings.catch_warnings(record=True) as said:  # nobody reads our stderr
                        session = stack.enter_context(_open(request))
                    reply(
                        notes=[str(each.message) for each in said if issubclass(each.category, LitDeployWarning)],
                        manifest=session.manifest.to_json(), description=session.description,
                        precision=session.precision, batches=session.batch_range,
                        timing=asdict(session.timing_settings) if isinstance(session, TimedSession) else None,
                    )  # fmt: skip
                    continue
                assert session is not None
                if request["do"] == "prepare":
                    feed = seeded_feed(session.manifest, request["batch"], request.get("size"))
                    outputs = session.run(feed)  # torch.compile compiles here
                    if "outputs" in request:
                        np.savez(request["outputs"], **outputs)  # type: ignore[arg-type]  # no output is 'allow_pickle'
                    del outputs
                    _time_runs(session, feed, WARM_UP_SECONDS, WARM_UP_RUNS)
                    reply()
                elif request["do"] == "profile":
                    feed = seeded_feed(session.manifest, 1, request["size"])
                    for _ in range(request["runs"]):
                        session.run(feed)
                    assert isinstance(session, ProfiledSession)
                    reply(times=session.node_times())
                else:
                    session.run(feed)  # wakes the threads and refills the caches after the others' turns
                    others = _OtherProcesses()
                    times, phases = _time_runs(session, feed, request["seconds"], 1)
                    reply(
                        ms=times, phases=[asdict(run) for run in phases], peak_mib=peak_memory_mib(),
                        other_cores=others.busy_cores(),
                    )  # fmt: skip
            except LitDeployError as error:
                reply(error=type(error).__name__, message=str(error))
            except Exception as error:
                traceback.print_exc()
                reply(error="LitDeployError", message=f"failed with {type(error).__name__}: {first_line(error)}")


def _time_runs(
    session: Session, feed: dict[str, NDArray[np.generic]], seconds: float, runs: int
) -> tuple[list[float], list[Phases]]:
    """Run for ``seconds`` and at least ``runs`` times; wall-clock milliseconds of every run, and phases if it tells."""
    times: list[float] = []
    phases: list[Phases] = []
    timed = session.timed_run if isinstance(session, TimedSession) else None
    begin = time.perf_counter()
    while len(times) < runs or time.perf_counter() - begin < seconds:
        start = time.perf_counter_ns()
        if timed is None:
            session.run(feed)
        else:
            phases.append(timed(feed)[1])
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times, phases


def main() -> None:
    """Serve the parent named by the only argument (its process id) over standard input and output."""
    die_with_parent(int(sys.argv[1]))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not land between the replies
    with ended_by_signals():
        _serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
