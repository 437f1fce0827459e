"""Measure how many pictures `score` puts through a file: engine local against the bare session, Ray against local.

The bare session gets prepared batches, which are in memory before the clock starts, with as many threads as the
engine's; what is left of its speed is what reading, decoding and writing cost. All see the same JPEG files, 500 x 375
pixels, and run LIT-S with ONNX Runtime, in turns; what is told is the ratio of their speeds in the same turn. Peak
memory is that of a process of its own, of 2,000 and of 20,000 pictures, which are links to few files.

    python benchmarks/score.py [--images 512] [--rounds 5] [--no-ray] [--smoke]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from embedding import exported
from merging import quartiles
from predict import draw

from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.machine.facts import installed_version, this_machine
from lit_deploy.score.engine import local
from lit_deploy.score.inference import Scorer
from lit_deploy.score.job import Job, Wanted
from lit_deploy.score.on_ray import Cluster, on_ray
from lit_deploy.score.preparing import Preparer
from lit_deploy.score.run import score
from lit_deploy.score.shards import listed
from lit_deploy.score.sources import Sources

ROOT = Path(__file__).resolve().parents[1]
MEMORY = (2_000, 20_000)

PEAK = """
import re, sys
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.score.job import Job, Wanted
from lit_deploy.score.run import score
if __name__ == "__main__":
    model, pictures, out = sys.argv[1:]
    score(Job(model, (pictures,), Wanted(), SessionOptions()), out)
    # not getrusage: that begins with the memory of the process that started this one
    print(int(re.search("VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10)
"""


def main() -> int:
    """Run all in turns, print a line a turn, write the JSON file."""
    parser = argparse.ArgumentParser(description="Measure score on this machine's CPU.")
    parser.add_argument("--images", type=int, default=512, help="pictures of a turn [default: 512]")
    parser.add_argument("--rounds", type=int, default=5, help="turns, after one that does not count [default: 5]")
    parser.add_argument("--model", type=Path, help="a classifier's .onnx file [default: LIT-S with seeded weights]")
    parser.add_argument("--memory-model", type=Path, help="the same, for peak memory; a small one saves hours")
    parser.add_argument("--no-ray", action="store_true", help="leave Ray out")
    parser.add_argument("--smoke", action="store_true", help="a few pictures and two turns: does it run at all")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "score_cpu.json")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.images, arguments.rounds = 16, 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # where Ray's processes keep the model
        model = arguments.model or exported(folder, "float")
        draw(folder / "pictures", arguments.images)
        contenders = {"bare session": bare(model, folder), "local": run(model, folder, lambda: local())}
        if not arguments.no_ray:
            contenders["ray"] = run(model, folder, lambda: on_ray(Cluster()))
        turns = []
        for number in range(arguments.rounds + (not arguments.smoke)):
            turn = {kind: arguments.images / contender() for kind, contender in contenders.items()}
            print(", ".join(f"{kind} {speed:.1f} images/s" for kind, speed in turn.items()), flush=True)
            if number or arguments.smoke:
                turns.append(turn)
        counts = (50, 100) if arguments.smoke else MEMORY
        peaks = {count: peak_memory(arguments.memory_model or model, folder, count) for count in counts}
    ratios = {"local_over_bare_session": ("local", "bare session")}
    if not arguments.no_ray:
        ratios["ray_over_local"] = ("ray", "local")
    report = {
        "what": "images per second of whole runs, with what starts for them: sessions, processes, a cluster",
        "model": "LIT-S, seeded weights" if arguments.model is None else arguments.model.name,
        "machine": msgspec.to_builtins(this_machine()),
        "ray": None if arguments.no_ray else installed_version("ray"),
        "images": arguments.images,
        "picture": "JPEG, 500 x 375",
        "images_per_second": {kind: quartiles([turn[kind] for turn in turns]) for kind in contenders},
        **{key: quartiles([turn[a] / turn[b] for turn in turns]) for key, (a, b) in ratios.items()},
        "peak_memory_bytes": {str(count): peak for count, peak in peaks.items()},
        "peak_memory_ratio": peaks[counts[1]] / peaks[counts[0]],
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"peak memory of {counts[1]} over {counts[0]} pictures: {report['peak_memory_ratio']:.2f}x")
    print(f"wrote {arguments.output}")
    return 0


def bare(model: Path, folder: Path) -> Callable[[], float]:
    """Seconds of the network alone, on batches that are prepared."""

    def measure() -> float:
        sources = Sources([str(folder / "pictures")])
        with open_session(model) as session, listed(sources.entries(), 1024, b"", lambda step: None) as listing:
            scorer = Scorer(session, Wanted())
            prepare = Preparer(scorer.facts.manifest)
            ready = [(batch, prepare(batch.entries)) for batch in listing.batches(listing.shards, scorer.facts.batch)]
            began = time.perf_counter()
            for batch, prepared in ready:
                scorer(batch, prepared)
            return time.perf_counter() - began

    return measure


def run(model: Path, folder: Path, engine: Callable[[], Any]) -> Callable[[], float]:
    """Seconds of a whole run of an engine."""

    def measure() -> float:
        out = folder / "scores"
        shutil.rmtree(out, ignore_errors=True)
        job = Job(str(model), (str(folder / "pictures"),), Wanted(), SessionOptions())
        began = time.perf_counter()
        score(job, out, engine=engine())
        return time.perf_counter() - began

    return measure


def peak_memory(model: Path, folder: Path, count: int) -> int:
    """Bytes that the process of a run has held at most, without those that decode."""
    pictures, files = folder / f"links-{count}", sorted((folder / "pictures").rglob("*.jpg"))
    pictures.mkdir()
    for index in range(count):
        (pictures / f"{index:06}.jpg").symlink_to(files[index % len(files)])
    script = folder / "peak.py"
    script.write_text(PEAK)
    words = [sys.executable, str(script), str(model), str(pictures), str(folder / f"scores-{count}")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return int(subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout)


if __name__ == "__main__":
    raise SystemExit(main())
