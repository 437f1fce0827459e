"""Time the detectors' operators on ONNX Runtime: our kernels against the functions of standard operators in the file.

* ``nms``: class-aware suppression of a RetinaNet's (box, class) pairs, few or many above the threshold, and of RPN.
* ``roi_align``: a Mask R-CNN's regions at 800 x 1216, 256 channels: 1,000 proposals at 7 x 7, 100 boxes at 14 x 14.

Both sessions live in one process and take turns call by call, so that a slow spell of the machine meets both; the ratio
is taken within each pair of calls. Before any timing both must give the same result.

    python benchmarks/detection_operators.py [--rounds 20] [--output benchmarks/results/detection_operators_cpu.json]
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper
from operator_timing import quartiles, required_library, written

from lit_deploy.core.specs import OP_VERSION
from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.multi_level_roi_align import onnx_function as roi_align_function
from lit_deploy.ops.multi_level_roi_align.schema import STRIDES
from lit_deploy.ops.nms import onnx_function as nms_function

Array = NDArray[Any]
HEIGHT, WIDTH, CHANNELS = 800, 1216, 256
TOLERANCE = 1e-5
"""Largest difference of pooled regions, of the largest value; indices must be equal."""


def main() -> int:
    """Run every case, print the table, write the JSON file; 1 if a kernel and its function disagree."""
    parser = argparse.ArgumentParser(description="Time the detectors' operators: our kernels against the functions.")
    parser.add_argument("--rounds", type=int, default=20, help="pairs of calls per case [default: 20]")
    parser.add_argument("--threads", type=int, default=2, help="intra-op threads [default: 2]")
    default = Path(__file__).parent / "results" / "detection_operators_cpu.json"
    parser.add_argument("--output", type=Path, default=default)
    arguments = parser.parse_args()
    library = required_library(parser)

    load_before = os.getloadavg()[0]
    cases = []
    for name, model, feed in all_cases():
        case = {"case": name, **measure(model, feed, arguments.rounds, arguments.threads, library)}
        cases.append(case)
        milliseconds, ratio = case["milliseconds"], case["function_over_kernel"]
        print(
            f"{name:<52} kernel {milliseconds['kernel']['median']:8.2f} ms, function "
            f"{milliseconds['function']['median']:8.2f} ms, ratio {ratio['median']:6.2f} "
            f"[{ratio['lower_quartile']:.2f}, {ratio['upper_quartile']:.2f}], difference {case['difference']:.1e}",
            flush=True,
        )
    agreed = all(case["difference"] <= TOLERANCE for case in cases)
    return written(
        "one operator on ONNX Runtime; ratio = time of the function of standard operators / time of the kernel",
        cases,
        arguments,
        load_before,
        ("onnxruntime", "numpy"),
        "" if agreed else "a kernel and its function disagree",
    )


def all_cases() -> list[tuple[str, onnx.ModelProto, dict[str, Array]]]:
    """Name, model and inputs of each case, from one seed."""
    cases = []
    for pairs, above, kept, iou, classes in (
        (350_000, 0.005, 100, 0.5, 80), (350_000, 0.5, 100, 0.5, 80), (350_000, 0.5, 1000, 0.5, 80),
        (4_819, 1.0, 1000, 0.7, 5),
    ):  # fmt: skip
        model = one_node(
            "Nms",
            {"iou_threshold": iou, "score_threshold": 0.05, "max_output": kept},
            {"boxes": (1, ("P", 4)), "scores": (1, ("P",)), "classes": (7, ("P",))},
            TensorProto.INT64,
            nms_function.onnx_function(),
        )
        name = f"nms {pairs} pairs, {above:.1%} above, {kept} kept"
        cases.append((name, model, boxes(pairs, above, classes)))
    for regions, size in ((1000, 7), (100, 14)):
        levels = {f"level{i}": (1, (1, "C", f"H{i}", f"W{i}")) for i in range(len(STRIDES))}
        inputs = {"rois": (1, ("K", 4)), **levels}
        function = roi_align_function.onnx_function()
        model = one_node("MultiLevelRoiAlign", {"output_size": size}, inputs, TensorProto.FLOAT, function)
        cases.append((f"roi_align {regions} regions, {CHANNELS} channels, {size} x {size}", model, regions_of(regions)))
    return cases


def one_node(
    op_type: str, attributes: dict[str, Any], inputs: dict[str, Any], element: int, function: onnx.FunctionProto
) -> onnx.ModelProto:
    node = helper.make_node(op_type, list(inputs), ["output"], domain=DOMAIN, **attributes)
    values = [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()]
    rank = 1 if op_type == "Nms" else 4
    outputs = [helper.make_tensor_value_info("output", element, [None] * rank)]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, OP_VERSION)]
    graph = helper.make_graph([node], op_type, values, outputs)
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)


def boxes(count: int, above: float, classes: int) -> dict[str, Array]:
    """Boxes all over a picture; the share ``above`` of them scores more than 0.05."""
    rng = np.random.default_rng(2105)
    corner = rng.random((count, 2), np.float32) * np.array([WIDTH, HEIGHT], np.float32)
    sides = np.exp(rng.random((count, 2), np.float32) * 5)
    score = rng.random(count, np.float32)
    return {
        "boxes": np.concatenate([corner, corner + sides], 1),
        "scores": np.where(rng.random(count) < above, 0.05 + 0.9 * score, 0.05 * score).astype(np.float32),
        "classes": rng.integers(0, classes, count),
    }


def regions_of(count: int) -> dict[str, Array]:
    """Regions of 8 to 800 pixels a side, clipped to the picture as proposals are, and the maps of its pyramid."""
    rng = np.random.default_rng(14217)
    size = np.array([WIDTH, HEIGHT])
    centre = rng.random((count, 2)) * size
    half = np.exp(rng.uniform(np.log(8), np.log(800), (count, 1)) + rng.normal(0, 0.4, (count, 2))) / 2
    rois = np.clip(np.concatenate([centre - half, centre + half], 1), 0, np.tile(size, 2)).astype(np.float32)
    maps = {
        f"level{i}": rng.standard_normal((1, CHANNELS, HEIGHT // stride, WIDTH // stride), np.float32)
        for i, stride in enumerate(STRIDES)
    }
    return {"rois": rois, **maps}


def measure(model: onnx.ModelProto, feed: dict[str, Array], rounds: int, threads: int, library: Path) -> dict[str, Any]:
    """Time both at one case: milliseconds, quartiles and every pairwise ratio."""
    sessions = {}
    for name in ("kernel", "function"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # A thread that waits in a busy loop would take the other session's core.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if name == "kernel":
            options.register_custom_ops_library(str(library))
        sessions[name] = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    got, want = (sessions[name].run(None, feed)[0] for name in ("kernel", "function"))
    exact = want.dtype == np.int64
    difference = float((got != want).sum()) if exact else float(np.abs(got - want).max() / np.abs(want).max())

    times: dict[str, list[float]] = {name: [] for name in sessions}
    for index in range(rounds + 1):
        for name in sessions if index % 2 == 0 else reversed(sessions):
            start = time.perf_counter()
            sessions[name].run(None, feed)
            if index > 0:  # the first round warms up
                times[name].append(1e3 * (time.perf_counter() - start))
    ratios = [slow / fast for slow, fast in zip(times["function"], times["kernel"], strict=True)]
    return {
        "difference": difference,
        "milliseconds": {name: quartiles(values) for name, values in times.items()},
        "function_over_kernel": quartiles(ratios),
        "ratios": [round(ratio, 4) for ratio in ratios],
    }


if __name__ == "__main__":
    raise SystemExit(main())
