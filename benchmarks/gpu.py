"""Run everything that needs a GPU, and write what came of it to one JSON file: what ``make gpu`` calls.

Sections run in a fixed order; what this machine lacks is skipped by name. ``machine`` and ``build`` always run, as the
others rest on them. The file is written after every section, so that a run that is ended from outside leaves one too.

    python benchmarks/gpu.py [--only parity,bandwidth] [--quick] [--native DIR] [--seconds 540] [--output FILE]

Exit code: 0 if nothing failed (skipped sections are no failure), 1 if a gate failed or a section crashed, 2 if there is
no GPU or the command cannot be used as given. A whole run writes benchmarks/results/gpu_<name of the GPU>.json; one
with ``--only`` or ``--quick`` is no record of the machine and stays in build/gpu.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a plain checkout need not be installed

import gpu_engine_section
import gpu_kernel_sections
import gpu_network_sections
from gpu_suite import ROOT, Gpu, Outcome, Section, Suite, Values, find_tool, run_section

from lit_deploy.core.files import write_text
from lit_deploy.machine import cuda
from lit_deploy.machine.facts import cpu_name, installed_version

BUDGET_SECONDS = 540.0
"""A whole run, with what it takes to end the last program, stays below ten minutes."""
BUILD_FOLDER = ROOT / "build" / "gpu"
PACKAGES = (
    "numpy", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "cuda-bindings",
    "tensorrt", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings", "tensorrt-rtx-cu13-bindings", "pytest",
)  # fmt: skip


def machine(suite: Suite) -> Values:
    """The GPU, its software, and the state of the checkout."""
    smi = _output("nvidia-smi")
    nvcc = find_tool("nvcc")
    commit = _output("git", "-C", str(ROOT), "rev-parse", "HEAD").strip() or None
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain").splitlines()
    return {
        "gpu": dataclasses.asdict(suite.gpu),
        "driver_cuda": _found(r"CUDA Version: *([\d.]+)", smi),
        "nvcc": _found(r"release ([\d.]+)", _output(nvcc, "--version")) if nvcc else None,
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := installed_version(name))},
        "commit": commit,
        "changed_files": len(changed) if commit else None,  # an exported tree has no git that could tell
    }


# In the order of their worth: what the budget does not reach is left out from the end.
SECTIONS: tuple[Section, ...] = (
    Section("machine", "GPU, driver, versions", machine),
    *gpu_kernel_sections.SECTIONS,
    *gpu_network_sections.SECTIONS,
    gpu_engine_section.SECTION,
    gpu_network_sections.TESTS,
    gpu_kernel_sections.SANITIZER,  # it slows everything down, and the budget is better spent on what it delays
)
ALWAYS = ("machine", "build")
CUT_SHORT = "the run was ended from outside before this section was done"


def main(arguments: Sequence[str] | None = None, sections: Sequence[Section] = SECTIONS) -> int:
    """Run the suite; returns the exit code."""
    parser = argparse.ArgumentParser(description="Run everything that needs a GPU; write one JSON file.")
    optional = [section.name for section in sections if section.name not in ALWAYS]
    parser.add_argument("--only", help=f"sections, separated by commas: {', '.join(optional)} [default: all]")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--native", type=Path, help="folder of built libraries [default: build them in build/gpu]")
    parser.add_argument("--seconds", type=float, default=BUDGET_SECONDS, help="budget of the whole run [default: 540]")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    chosen = options.only.split(",") if options.only else optional
    if unknown := [name for name in chosen if name not in (*optional, *ALWAYS)]:
        parser.error(f"--only names '{unknown[0]}', which is no section; expected some of {', '.join(optional)}")
    if options.native is not None and not options.native.is_dir():
        parser.error(
            f"--native is {options.native}, which is no folder; name one that a CMake build of plugins/ filled"
        )
    gpu = find_gpu()
    if gpu is None:
        print(
            "no NVIDIA GPU here (neither nvidia-smi nor the driver names one), and nothing was run: "
            "this suite needs a GPU and its driver",
            file=sys.stderr,
        )
        return 2

    partial = options.quick or options.only is not None
    default = BUILD_FOLDER / f"gpu_{gpu.slug}_partial.json" if partial else results_file(gpu)
    output = writable(options.output or default)
    with tempfile.TemporaryDirectory(prefix="lit-deploy-gpu-") as work:
        suite = Suite(
            gpu,
            (options.native or writable(BUILD_FOLDER / "any").parent).resolve(),
            options.native is not None,
            Path(work),
            options.quick,
            time.monotonic() + options.seconds,
        )
        wanted = [section for section in sections if section.name in (*ALWAYS, *chosen)]
        outcomes: list[Outcome] = []
        for index, section in enumerate(wanted):
            print(f"{section.name}: {section.what} ...", flush=True)
            outcomes.append(run_section(section, suite))
            print(_line(outcomes[-1]), flush=True)
            rest = [Outcome(s.name, s.what, "skipped", CUT_SHORT, 0, {}) for s in wanted[index + 1 :]]
            _write(output, as_report(gpu, options.quick, [*outcomes, *rest]))
    print(f"wrote {output}")
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0


def as_report(gpu: Gpu, quick: bool, outcomes: Sequence[Outcome]) -> Values:
    """What the JSON file holds; numbers that JSON lacks (NaN, infinity) become null."""
    report = {
        "what": "lit-deploy on one GPU; a section that did not run says why",
        "gpu": gpu.name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "failed": [outcome.name for outcome in outcomes if outcome.status == "failed"],
        "skipped": [outcome.name for outcome in outcomes if outcome.status == "skipped"],
        "sections": [dataclasses.asdict(outcome) for outcome in outcomes],
    }
    return json.loads(json.dumps(report, default=str), parse_constant=lambda name: None)


def results_file(gpu: Gpu) -> Path:
    """Where a whole run on that GPU is kept."""
    return Path(__file__).parent / "results" / f"gpu_{gpu.slug}.json"


def find_gpu() -> Gpu | None:
    """The first GPU that nvidia-smi names, else the first that the driver does, or None."""
    query = "--query-gpu=name,memory.total,driver_version,compute_cap"
    fields = [part.strip() for part in _output("nvidia-smi", query, "--format=csv,noheader").split("\n")[0].split(",")]
    if len(fields) == 4 and re.fullmatch(r"\d+\.\d+", fields[3]):
        return Gpu(*fields)
    found = cuda.find_gpu()  # containers may lack nvidia-smi, and old ones do not tell the compute capability
    return Gpu(found.name, "not known", "not known", found.compute_capability) if found else None


def writable(file: Path) -> Path:
    """That file, its folder made; the same name in the folder of temporary files if nothing can be written there."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            return file
    other = Path(tempfile.gettempdir()) / "lit-deploy-gpu" / file.name
    other.parent.mkdir(parents=True, exist_ok=True)
    print(f"cannot write in {file.parent}; using {other.parent}", flush=True)
    return other


def _write(output: Path, report: Values) -> None:
    write_text(json.dumps(report, indent=2, allow_nan=False), output)


def _line(outcome: Outcome) -> str:
    ending = f": {outcome.reason}" if outcome.reason else ""
    return f"  {outcome.status} after {outcome.seconds:.1f} s{ending}"


def _output(*command: str) -> str:
    """Standard output of a short command; empty when it is absent, fails or hangs."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout if result.returncode == 0 else ""


def _found(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match.group(1) if match else None


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what it started is ended with it
    raise SystemExit(main())
