"""Sections of the GPU suite about the CUDA kernel itself: build, parity, bandwidth, sanitizer, plugin harness."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from gpu_suite import ROOT, Section, SectionFailed, Skip, Suite, Values, find_tool, last_lines, need

from lit_deploy import native
from lit_deploy.doctor import installed_version

LAUNCHER = "liblit_deploy_cuda.so"
HARNESS = "lit_deploy_tensorrt_harness"
BUILT = (LAUNCHER, native.LIBRARY_NAME, native.PLUGIN_NAME, HARNESS)
SANITIZER_FAILED = 66
"""Exit code that compute-sanitizer is told to end with when it finds something; nothing else here uses it."""


def build(suite: Suite) -> Values:
    """Build the native libraries for this GPU's architecture alone, which takes a fraction of a full build."""
    if suite.given:
        raise Skip(f"--native names built libraries: {suite.native}")
    tools = {name: find_tool(name) for name in ("cmake", "nvcc")}
    if missing := [name for name, path in tools.items() if path is None]:
        raise Skip(f"not found: {', '.join(missing)} (--native DIR takes libraries that were built elsewhere)")
    # ONNX Runtime's headers are worth a download only where its CUDA provider could use the library.
    headers = "ON" if installed_version("onnxruntime-gpu") else "OFF"
    configure = [
        tools["cmake"], "-S", ROOT / "plugins", "-B", suite.native,
        "-DCMAKE_BUILD_TYPE=Release", "-DLIT_DEPLOY_CUDA=ON", "-DLIT_DEPLOY_TESTS=ON",
        f"-DCMAKE_CUDA_COMPILER={tools['nvcc']}", f"-DCMAKE_CUDA_ARCHITECTURES={suite.gpu.architecture}",
        f"-DLIT_DEPLOY_DOWNLOAD_HEADERS={headers}", *(["-G", "Ninja"] if find_tool("ninja") else []),
    ]  # fmt: skip
    log = suite.run_well(configure, 200)
    # The build's own words about what this machine has no headers for, each as one sentence.
    left_out = [" ".join(text.split()) for text in re.findall(r"The [^.]*? is NOT built:.*?\.(?=\s)", log, re.DOTALL)]
    suite.run_well([tools["cmake"], "--build", suite.native, "-j", str(len(os.sched_getaffinity(0)))], 300)
    built = {name: str(path.relative_to(suite.native)) if (path := suite.find_built(name)) else None for name in BUILT}
    if built[LAUNCHER] is None:
        raise SectionFailed(f"the build ended well but made no {LAUNCHER}", {"built": built})
    return {"architecture": suite.gpu.architecture, "built": built, "left_out": left_out}


def parity(suite: Suite) -> Values:
    """The kernel against the float64 reference and the golden cases."""
    return _measured(suite, "gpu_parity.py", "failures", 180)


def bandwidth(suite: Suite) -> Values:
    """The kernel against a copy, the merging step against torchvision and PyTorch."""
    return _measured(suite, "gpu_bandwidth.py", "contenders_apart", 240, *(["--quick"] if suite.quick else []))


def sanitizer(suite: Suite) -> Values:
    """compute-sanitizer over small parity cases that take every path through the kernel."""
    launcher = suite.built(LAUNCHER)
    need("torch", "numpy")
    tool = find_tool("compute-sanitizer")
    if tool is None:
        raise Skip("compute-sanitizer is not installed (it comes with the CUDA toolkit)")
    program = [sys.executable, Path(__file__).parent / "gpu_parity.py", "--launcher", launcher, "--small"]
    # Each tensor in an allocation of its own: inside PyTorch's big blocks a stray access would go unseen.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    checks: dict[str, str] = {}
    for check in ("memcheck",) if suite.quick else ("memcheck", "racecheck", "synccheck"):
        command = [tool, "--tool", check, "--error-exitcode", str(SANITIZER_FAILED)]
        if check == "memcheck":  # PyTorch probes for features with calls that are allowed to fail
            command += ["--report-api-errors", "no"]
        code, output = suite.run([*command, *program], 150, environment)
        if "Device not supported" in output:
            raise Skip("compute-sanitizer says that this device, or the machine's virtualisation, is not supported")
        checks[check] = last_lines(output, 1)
        if code != 0:
            print(last_lines(output), flush=True)
            raise SectionFailed(f"{check} ended with exit code {code} ({checks[check]})", {"checks": checks})
    return {"checks": checks}


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
    if code == 0 and "SKIPPED: " in text:
        raise Skip(text.split("SKIPPED: ", 1)[1].splitlines()[0])
    raise SectionFailed(f"{script} ended with exit code {code} ({last_lines(text, 1)})")


SECTIONS = (
    Section("build", "native libraries for this GPU's architecture", build, 60),
    Section("parity", "the CUDA kernel against the reference and the golden cases", parity, 30),
    Section("bandwidth", "the CUDA kernel against a copy, torchvision and PyTorch", bandwidth, 40),
    Section("sanitizer", "compute-sanitizer over the CUDA kernel", sanitizer, 60),
    Section("harness", "the TensorRT plugin's enqueue without TensorRT", harness, 10),
)
