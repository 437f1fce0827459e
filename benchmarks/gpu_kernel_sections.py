"""Sections of the GPU suite about the CUDA kernels: build, parity, bandwidth, operators, sanitizer, plugin harness."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import sys
from pathlib import Path

from gpu_suite import LAUNCHER, ROOT, SKIPPED, Section, SectionFailed, Skip, Suite, Values, find_tool, last_lines, need

from lit_deploy.machine import native
from lit_deploy.machine.facts import cpp_compiler, installed_version

HARNESS = "lit_deploy_tensorrt_harness"
BUILT = (LAUNCHER, native.LIBRARY_NAME, native.PLUGIN_NAME, HARNESS)
TARGETS = ("lit_deploy_cuda", "lit_deploy_onnxruntime", "lit_deploy_tensorrt", HARNESS)
SANITIZER_FAILED = 66
"""Exit code that compute-sanitizer is told to end with when it finds something; nothing else here uses it."""


def build(suite: Suite) -> Values:
    """Build the native libraries for this GPU's architecture alone, which takes a fraction of a full build."""
    if suite.given:
        raise Skip(f"--native names built libraries: {suite.native}")
    tools = {name: find_tool(name) for name in ("cmake", "nvcc")}
    missing = [name for name, path in tools.items() if path is None]
    missing += [] if cpp_compiler() else ["a C++ compiler"]
    ninja = find_tool("ninja")
    missing += [] if ninja or find_tool("make") else ["ninja or make"]
    if missing:
        raise Skip(f"not found: {', '.join(missing)} (--native DIR takes libraries that were built elsewhere)")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    if (suite.native / "CMakeCache.txt").exists():  # what an earlier run chose cannot be changed
        generator = []
    configure = [
        tools["cmake"], "-S", ROOT / "plugins", "-B", suite.native,
        "-DCMAKE_BUILD_TYPE=Release", "-DLIT_DEPLOY_CUDA=ON", "-DLIT_DEPLOY_TESTS=ON",
        f"-DCMAKE_CUDA_COMPILER={tools['nvcc']}", f"-DCMAKE_CUDA_ARCHITECTURES={suite.gpu.architecture}",
        *generator,
    ]  # fmt: skip
    # ONNX Runtime's headers are worth a download only where its CUDA provider could use the library.
    log = None
    if installed_version("onnxruntime-gpu"):
        with contextlib.suppress(SectionFailed):  # without a network it can take minutes until that is known
            log = suite.run_well([*configure, "-DLIT_DEPLOY_DOWNLOAD_HEADERS=ON"], 60)
    log = log or suite.run_well([*configure, "-DLIT_DEPLOY_DOWNLOAD_HEADERS=OFF"], 100)
    # The build's own words about what this machine has no headers for, each as one sentence.
    left_out = [" ".join(text.split()) for text in re.findall(r"The [^.]*? is NOT built:.*?\.(?=\s)", log, re.DOTALL)]
    jobs = str(len(os.sched_getaffinity(0)))
    for target in TARGETS:  # one by one: where one does not compile, the others are worth a run all the same
        code, output = suite.run([tools["cmake"], "--build", suite.native, "--target", target, "-j", jobs], 300)
        if code != 0 and not re.search("unknown target|No rule to make target", output):  # that is left out above
            print(last_lines(output), flush=True)
            suite.gate(target, f"the build ended with exit code {code} ({last_lines(output, 1)})")
    built = {name: str(path.relative_to(suite.native)) if (path := suite.find_built(name)) else None for name in BUILT}
    if built[LAUNCHER] is None:
        raise SectionFailed(f"the build made no {LAUNCHER}", {"built": built})
    return {"architecture": suite.gpu.architecture, "built": built, "left_out": left_out}


def parity(suite: Suite) -> Values:
    """The kernel against the float64 reference and the golden cases."""
    return _measured(suite, "gpu_parity.py", "failures", 180)


def bandwidth(suite: Suite) -> Values:
    """The kernel against a copy, the merging step against torchvision and PyTorch."""
    return _measured(suite, "gpu_bandwidth.py", "contenders_apart", 240, *(["--quick"] if suite.quick else []))


def operators(suite: Suite) -> Values:
    """Attention, RoIAlign and suppression against their references, PyTorch's and torchvision's."""
    return _measured(suite, "gpu_operators.py", "failures", 120, *(["--quick"] if suite.quick else []))


def sanitizer(suite: Suite) -> Values:
    """compute-sanitizer over small parity cases that take every path through the kernels."""
    launcher = suite.built(LAUNCHER)
    need("torch", "numpy")
    tool = find_tool("compute-sanitizer")
    if tool is None:
        raise Skip("compute-sanitizer is not installed (it comes with the CUDA toolkit)")
    # Each tensor in an allocation of its own: inside PyTorch's big blocks a stray access would go unseen.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    checks: dict[str, str] = {}
    suite.values["checks"] = checks
    tools = ("memcheck",) if suite.quick else ("memcheck", "racecheck", "synccheck")
    for check, script in itertools.product(tools, ("gpu_parity.py", "gpu_operators.py")):
        program = [sys.executable, Path(__file__).parent / script, "--launcher", launcher, "--small"]
        command = [tool, "--tool", check, "--error-exitcode", str(SANITIZER_FAILED)]
        if check == "memcheck":  # PyTorch probes for features with calls that are allowed to fail
            command += ["--report-api-errors", "no"]
        code, output = suite.run([*command, *program], 150, environment)
        if "device not supported" in output.lower():
            raise Skip("compute-sanitizer says that this device, or the machine's virtualisation, is not supported")
        if code == 0 and SKIPPED in output:
            raise Skip(output.split(SKIPPED, 1)[1].splitlines()[0])
        summary = re.findall(r"SUMMARY: .*", output)
        name = f"{check}, {script}"
        checks[name] = summary[-1] if summary else last_lines(output, 1)
        if code != 0 or not checks[name].startswith("SUMMARY: 0 "):  # without a summary, it watched nothing
            print(last_lines(output), flush=True)
            raise SectionFailed(f"{name} ended with exit code {code} ({checks[name]})")
    return {}


def harness(suite: Suite) -> Values:
    """The TensorRT plugin's enqueue on the golden cases, played by a C++ program without TensorRT."""
    program, plugin, cases = suite.built(HARNESS), suite.built(native.PLUGIN_NAME), suite.work / "dcn.bin"
    converter, golden = ROOT / "plugins" / "tests" / "golden_data.py", ROOT / "tests" / "data" / "dcn.npz"
    suite.run_well([sys.executable, converter, golden, cases], 60)
    return {"output": suite.run_well([program, plugin, cases], 120).splitlines()}


def _measured(suite: Suite, script: str, wrong: str, seconds: float, *options: str) -> Values:
    """Run one of the scripts beside this file; what its JSON file lists under ``wrong`` makes the section fail."""
    launcher = suite.built(LAUNCHER)
    need("torch", "numpy")
    output = suite.work / f"{script}.json"
    command = [sys.executable, Path(__file__).parent / script, "--launcher", launcher, "--output", output, *options]
    code, text = suite.run(command, seconds)
    print(last_lines(text, 20), flush=True)
    if output.exists():
        values: Values = json.loads(output.read_text())
        if values[wrong]:
            raise SectionFailed(f"{len(values[wrong])} wrong: {'; '.join(values[wrong][:3])}", values)
        if code == 0:
            return values
    if code == 0 and SKIPPED in text:
        raise Skip(text.split(SKIPPED, 1)[1].splitlines()[0])
    raise SectionFailed(f"{script} ended with exit code {code} ({last_lines(text, 1)})")


SECTIONS = (
    Section("build", "native libraries for this GPU's architecture", build, 60),
    Section("parity", "the CUDA kernel against the reference and the golden cases", parity, 30),
    Section("bandwidth", "the CUDA kernel against a copy, torchvision and PyTorch", bandwidth, 40),
    Section("operators", "attention, RoIAlign and suppression against PyTorch and torchvision", operators, 30),
    Section("harness", "the TensorRT plugin's enqueue without TensorRT", harness, 10),
)
SANITIZER = Section("sanitizer", "compute-sanitizer over the CUDA kernel", sanitizer, 30)
