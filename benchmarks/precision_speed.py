"""Speed of 8-bit files beside float32 ones, and where the time goes: the profilers of ONNX Runtime and OpenVINO.

In a profile one thread computes and every node counts with the least time it ever took, so that what else the machine
does hardly shows. Profilers read the clock in microseconds: nodes that take about one are not told exactly.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lit_deploy.artifacts.onnx_file import OnnxArtifact, read_manifest
from lit_deploy.bench.contenders import Contender, contenders_for
from lit_deploy.bench.result import BenchReport
from lit_deploy.bench.run import run_bench
from lit_deploy.bench.worker import seeded_feed
from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.core.errors import MissingDependency
from lit_deploy.core.progress import Progress, Step
from lit_deploy.core.specs import CalibrationMethod, EightBit, PrecisionName
from lit_deploy.exporters.onnx import OnnxOptions, onnx_from_checkpoint
from lit_deploy.images.calibration import CalibrationImages
from lit_deploy.machine import native
from lit_deploy.machine.facts import installed_version
from lit_deploy.quantize.run import QuantizeOptions, quantize_model

BASELINE = "fp32, ONNX Runtime + lit-deploy kernel"
TIMED = {
    ("fp32", "onnxruntime"): BASELINE,
    ("fp32_portable", "openvino"): "fp32, OpenVINO",
    ("int8", "onnxruntime"): "int8, ONNX Runtime + lit-deploy kernel",
    ("int8", "onnxruntime-stock"): "int8, ONNX Runtime",
    ("int8_portable", "openvino"): "int8, OpenVINO",
}
"""Labels of what is timed beside PyTorch, by file and kind of contender."""

RUNS = 100

PARTS = (
    ("Q/DQ", r" (Quantize|Dequantize)Linear$"),
    ("norms", r"LayerNorm|layer_norm| MVN$|\bnorm\d*/"),
    ("patch embedding", r"^patch_embed"),
    ("inside attention", r"\.attn/"),
    ("linear layers, GELU", r"\.(qkv|proj|fc\d|dconv)/|^head/|^logits |[Gg]elu"),
    ("residual sums", r"\.blocks\.\d+/"),
    ("merging and the rest", r""),
)
"""Parts of a network, each with a pattern for ``<name> <type>`` of its nodes; the first match wins. Names are those of
PyTorch modules, except where a fusion invented one."""


@dataclass(frozen=True)
class NodeTime:
    """One node that was executed.

    Attributes:
        name: in the file, or of a fusion; ``kind``: type of its operator, in the runtime's words.
        integer: an operand is of 8 bits.
        milliseconds: the least of all runs.
    """

    name: str
    kind: str
    integer: bool
    milliseconds: float


@dataclass(frozen=True)
class Share:
    """Nodes that belong together, and how long they take."""

    name: str
    nodes: int
    milliseconds: float


@dataclass(frozen=True)
class Profile:
    """Where the time of one image goes on one thread.

    Attributes:
        label: file and runtime.
        runs: how often the network ran.
        nodes, milliseconds: of all that was executed.
        operators: by type; ``parts``: by part of the network, see ``PARTS``.
        integer_products: matrix products that are nodes and computed on 8-bit integers; ``float_products``: those that
            are nodes and computed in a float type, by module with N for any number. What OpenVINO fuses into a Subgraph
            is no node, and so in neither.
    """

    label: str
    runs: int
    nodes: int
    milliseconds: float
    operators: tuple[Share, ...]
    parts: tuple[Share, ...]
    integer_products: int
    float_products: dict[str, int]


def onnxruntime_profile(label: str, path: Path, folder: Path, runs: int = RUNS) -> Profile:
    """Profile a file on ONNX Runtime's CPU, with the custom-op library where it was built.

    Args:
        label: of the result.
        path: exported file.
        folder: existing directory for the profiler's own file.
        runs: how often to run.
    """
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    settings.enable_profiling = True
    settings.profile_file_prefix = str(folder / path.stem)
    if library := native.find_library():
        settings.register_custom_ops_library(str(library))
    session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    feed = seeded_feed(read_manifest(path), 1)
    for _ in range(runs):
        session.run(None, feed)
    events = json.loads(Path(session.end_profiling()).read_text())
    return _profile(label, runs, (_onnxruntime_node(event) for event in events if event.get("cat") == "Node"))


def _onnxruntime_node(event: dict[str, Any]) -> tuple[str, NodeTime]:
    """One run of one node, and a key that no other node has."""
    details = event["args"]
    types = {name for operand in details["input_type_shape"] for name in operand}
    name = event["name"].removesuffix("_kernel_time")
    integer = not types.isdisjoint({"int8", "uint8"})
    return f"{details['node_index']} {name}", NodeTime(name, details["op_name"], integer, event["dur"] / 1000)


def openvino_profile(label: str, path: Path, runs: int = RUNS) -> Profile:
    """The same of a portable file on OpenVINO's CPU plugin, with the settings of ``runtime.openvino``."""
    try:
        import openvino
    except ImportError:
        raise MissingDependency("OpenVINO is not installed; run: pip install openvino") from None
    feed = seeded_feed(read_manifest(path), 1)["images"]
    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape({0: list(feed.shape)})
    settings = {
        "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "PERF_COUNT": True
    }  # fmt: skip
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    nodes = []
    for _ in range(runs):
        request.infer({0: feed}, share_inputs=True)
        for info in request.get_profiling_info():
            if info.status == openvino.ProfilingInfo.Status.EXECUTED:
                integer = info.exec_type.endswith(("_i8", "_u8"))
                milliseconds = info.real_time.total_seconds() * 1000
                nodes.append((info.node_name, NodeTime(info.node_name, info.node_type, integer, milliseconds)))
    return _profile(label, runs, nodes)


def _profile(label: str, runs: int, found: Iterable[tuple[str, NodeTime]]) -> Profile:
    """Sum up all runs of all nodes, each with a key of its node."""
    fastest: dict[str, NodeTime] = {}
    for key, node in found:
        if key not in fastest or node.milliseconds < fastest[key].milliseconds:
            fastest[key] = node
    nodes = list(fastest.values())
    products = [node for node in nodes if re.search("MatMul|Gemm|FullyConnected", node.kind)]
    return Profile(
        label, runs, len(nodes), sum(node.milliseconds for node in nodes),
        _shares(nodes, lambda node: node.kind), _shares(nodes, part_of),
        sum(node.integer for node in products),
        dict(Counter(re.sub(r"\d+", "N", node.name.partition("/")[0]) for node in products if not node.integer)),
    )  # fmt: skip


def part_of(node: NodeTime) -> str:
    """Which of ``PARTS`` a node belongs to."""
    return next(part for part, pattern in PARTS if re.search(pattern, f"{node.name} {node.kind}"))


def _shares(nodes: Sequence[NodeTime], name_of: Callable[[NodeTime], str]) -> tuple[Share, ...]:
    """Nodes by name, the slowest first."""
    times: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for node in nodes:
        times[name_of(node)] += node.milliseconds
        counts[name_of(node)] += 1
    return tuple(Share(name, counts[name], milliseconds) for name, milliseconds in times.most_common())


def profiles_markdown(profiles: Sequence[Profile]) -> str:
    """Parts of the network side by side, then every profile's operators and products."""
    lines = [
        f"One image, one thread, the least time of every node over {profiles[0].runs} runs, in milliseconds. Names of "
        "nodes tell the part; runtimes fuse differently, so that a part of one may hold a little of another's.",
        "",
        f"| part of the network | {' | '.join(profile.label for profile in profiles)} |",
        f"|-|{'-:|' * len(profiles)}",
    ]
    for part, _ in PARTS:
        cells = [next((s.milliseconds for s in p.parts if s.name == part), 0.0) for p in profiles]
        lines.append(f"| {part} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    lines.append(f"| all | {' | '.join(f'{profile.milliseconds:.2f}' for profile in profiles)} |")
    lines.append(f"| nodes | {' | '.join(str(profile.nodes) for profile in profiles)} |")
    for profile in profiles:
        floats = ", ".join(f"{count} {module}" for module, count in profile.float_products.items())
        operators = ", ".join(f"{share.name} {share.milliseconds:.2f} ({share.nodes})" for share in profile.operators)
        lines += [
            "",
            f"**{profile.label}**: {profile.integer_products} matrix products on integers, "
            f"{sum(profile.float_products.values())} in float{f' ({floats})' if floats else ''}. "
            f"By operator, with the number of nodes: {operators}.",
        ]
    return "\n".join(lines) + "\n"


def export_8bit(
    reference: Path,
    source: Path,
    out: Path,
    images: CalibrationImages,
    precision: EightBit,
    threads: int,
    progress: Progress,
    method: CalibrationMethod = "minmax",
) -> None:
    """Quantise the file ``source`` with the ranges that ``reference`` shows; see ``quantize_model``."""
    options = QuantizeOptions(images.source, method)
    wide, artifact = OnnxArtifact.read(reference), OnnxArtifact.read(source)
    quantize_model(wide, artifact, images, options, precision, threads, progress).write(out)


def export_timed(
    checkpoint: Path, files: Mapping[PrecisionName, Path], images: CalibrationImages, threads: int, progress: Progress
) -> dict[str, Path]:
    """The files that are timed, by the names of ``TIMED``."""
    folder = checkpoint.parent
    names = ("fp32_portable", "int8_portable")
    timed = {"fp32": files["fp32"], "int8": files["int8"], **{name: folder / f"{name}.onnx" for name in names}}
    progress(Step(f"{checkpoint.stem}: export portable"))
    onnx_from_checkpoint(load_checkpoint(checkpoint), OnnxOptions(portable=True)).write(timed["fp32_portable"])
    portable = timed["fp32_portable"]
    export_8bit(portable, portable, timed["int8_portable"], images, "int8", threads, progress)
    return timed


def measure_speed(
    checkpoint: Path,
    files: Mapping[str, Path],
    threads: int,
    rounds: int,
    batches: Sequence[int],
    progress: Progress = lambda step: None,
) -> BenchReport:
    """Time the files of ``TIMED`` and PyTorch in turns; speed-ups are over our fp32 file."""
    names = {path: name for name, path in files.items()}
    found: dict[str, Contender] = {}
    for contender in contenders_for(list(files.values()), checkpoint):
        label = TIMED.get((names.get(Path(contender.source), ""), contender.kind))
        if contender.kind == "torch":
            label = "fp32, PyTorch eager"
        if label is not None:
            found[label] = replace(contender, label=label)
    ordered = [*(found.pop(label) for label in TIMED.values()), *found.values()]
    result = run_bench(ordered, batches, threads=threads, rounds=rounds, progress=progress)
    return rebased(result, BASELINE)


def rebased(result: BenchReport, label: str) -> BenchReport:
    """The same report with another baseline: its speed-ups are computed again, pair by pair, from the rounds."""
    base = {m.batch: np.array(m.round_ms) for m in result.measurements if m.label == label}
    measurements = []
    for m in result.measurements:
        lower, median, upper = (float(v) for v in np.percentile(base[m.batch] / np.array(m.round_ms), (25, 50, 75)))
        measurements.append(replace(m, speedup=median, speedup_quartiles=(lower, upper)))
    return replace(result, baseline=label, measurements=tuple(measurements))


def measure_profiles(files: Mapping[str, Path], folder: Path, progress: Progress) -> tuple[Profile, ...]:
    """Profile fp32 and int8 on ONNX Runtime and, where it is installed, on OpenVINO."""
    found = []
    for name in ("fp32", "int8"):
        progress(Step(f"profile {name}"))
        found.append(onnxruntime_profile(f"{name}, ONNX Runtime", files[name], folder))
        if installed_version("openvino"):
            found.append(openvino_profile(f"{name}, OpenVINO", files[f"{name}_portable"]))
    return tuple(found)
