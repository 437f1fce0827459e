"""What the benchmarks of single operators share: contenders that take turns, quartiles, the file that is written."""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lit_deploy.machine.facts import cpu_name
from lit_deploy.machine.native import find_library

ROUND_SECONDS = 0.05


def required_library(parser: argparse.ArgumentParser) -> Path:
    """The custom-op library; the parser's error where it was not built."""
    if (library := find_library()) is None:
        parser.error(
            "the custom-op library is not built, and it is what this measures; build it with "
            "`cmake -S plugins -B build/native && cmake --build build/native`"
        )
    return library


def raced(
    names: Sequence[str], contend: Callable[..., None], arguments: tuple[Any, ...], rounds: int
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Let contenders take turns, each in a process of its own, so that no thread pool disturbs another.

    Args:
        names: of the contenders; ``contend``: what runs in each process, with a pipe, the name and ``arguments``. It
            sends what it has to say of itself once, and then serves (``serve``).
        rounds: turns of each; every second round goes backwards.

    Returns:
        What each said, and the seconds per run of each of its turns.
    """
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes, said = [], {}
    for name in names:
        pipes[name], theirs = context.Pipe()
        process = context.Process(target=contend, args=(theirs, name, *arguments), daemon=True)
        process.start()
        theirs.close()  # so that a contender that dies is an EOFError here and not a wait without end
        processes.append(process)
        said[name] = pipes[name].recv()
    times: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        for name in names if index % 2 == 0 else reversed(names):
            pipes[name].send(ROUND_SECONDS)
            times[name].append(pipes[name].recv())
    for name, process in zip(names, processes, strict=True):
        pipes[name].send(None)
        process.join()
    return said, times


def serve(pipe: Connection, run: Callable[[], object], least: int) -> None:
    """A contender's turns until the pipe says None: the median seconds of as many runs as fit, at least ``least``."""
    while (seconds := pipe.recv()) is not None:
        run()  # wakes the thread pool and refills the caches after the others' turns
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < least or time.perf_counter() < end:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        pipe.send(statistics.median(times))


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles, rounded to what they are worth."""
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(median, 4), "lower_quartile": round(lower, 4), "upper_quartile": round(upper, 4)}


def written(
    what: str,
    cases: list[dict[str, Any]],
    arguments: argparse.Namespace,
    load_before: float,
    packages: Sequence[str],
    disagreement: str,
) -> int:
    """Write the cases and all that decided over them, and return the exit code.

    Args:
        what: the first line of the file; ``cases``: the measurements.
        arguments: ``output``, ``threads`` and ``rounds``; ``load_before``: the load average before the first case.
        packages: whose versions matter.
        disagreement: printed where contenders gave different results, and nothing is written; empty where they did not.
    """
    if disagreement:
        print(f"{disagreement}: nothing written")
        return 1
    report = {
        "what": what,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu_name(), "cpus": os.cpu_count(), "platform": platform.platform()},
        "load_average_before": round(load_before, 2),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "cpu_isa": os.environ.get("LIT_DEPLOY_CPU_ISA", "widest supported"),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "cases": cases,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {arguments.output}")
    return 0
