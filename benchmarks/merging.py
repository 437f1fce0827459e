"""Time one merging step on ONNX Runtime: our kernel against the standard DeformConv operator.

The step is what stands between two stages of LIT: tokens [B, H*W, C] in, tokens [B, H*W/4, Cout] out, BatchNorm folded.

* ``kernel``: DeformableTokenMerging (our custom-op library), MatMul, Add, Gelu; the tokens stay channels-last.
* ``deform_conv``: Conv for the offsets, DeformConv, Gelu; the tokens are transposed to channels-first and back, as any
  export with the standard operator has to.

Each contender runs in a process of its own. They take turns in short rounds, so a slow spell of the machine meets both,
and the ratio is taken within each pair of rounds. Before any timing both must compute the same numbers.

    python benchmarks/merging.py [--rounds 40] [--output benchmarks/results/merging_cpu.json]
"""

from __future__ import annotations

import argparse
import os
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from operator_timing import quartiles, raced, required_library, serve, written

from lit_deploy.ops.deformable_token_merging.schema import DOMAIN, OP_TYPE

Array = NDArray[np.float32]

STEPS = ((56, 96, 192), (28, 192, 384), (14, 384, 768))
"""(H = W, C, Cout) of the three merges of LIT-S."""
BATCHES = (1, 8)
CONTENDERS = ("kernel", "deform_conv")
MAX_DIFFERENCE = 1e-4
"""Largest difference allowed between the contenders, of the largest output."""


def main() -> int:
    """Run every case, print the table, write the JSON file; 1 if the contenders disagree."""
    parser = argparse.ArgumentParser(description="Time the merging step: our kernel against DeformConv.")
    parser.add_argument("--rounds", type=int, default=40, help="pairs of rounds per case [default: 40]")
    parser.add_argument("--threads", type=int, default=2, help="intra-op threads [default: 2]")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "merging_cpu.json")
    arguments = parser.parse_args()
    library = required_library(parser)

    load_before = os.getloadavg()[0]
    cases = []
    for size, channels, channels_out in STEPS:
        for batch in BATCHES:
            case = measure(size, channels, channels_out, batch, arguments.rounds, arguments.threads, library)
            cases.append(case)
            milliseconds, ratio = case["milliseconds"], case["deform_conv_over_kernel"]
            print(
                f"{size:>3}x{size:<3} {channels:>4} -> {channels_out:<4} batch {batch}: "
                f"kernel {milliseconds['kernel']['median']:8.3f} ms, "
                f"deform_conv {milliseconds['deform_conv']['median']:8.3f} ms, "
                f"ratio {ratio['median']:.2f} [{ratio['lower_quartile']:.2f}, {ratio['upper_quartile']:.2f}], "
                f"difference {case['max_relative_difference']:.1e}",
                flush=True,
            )
    agreed = all(case["max_relative_difference"] < MAX_DIFFERENCE for case in cases)
    return written(
        "one merging step (op, projection, GELU), tokens to tokens; ratio = deform_conv time / kernel time",
        cases,
        arguments,
        load_before,
        ("onnxruntime", "onnx", "numpy"),
        "" if agreed else f"the contenders differ by more than {MAX_DIFFERENCE:g} of the largest output",
    )


def measure(
    size: int, channels: int, channels_out: int, batch: int, rounds: int, threads: int, library: Path
) -> dict[str, Any]:
    """Time both contenders at one size; milliseconds, quartiles and every pairwise ratio."""
    case = (size, channels, channels_out, batch)
    outputs, times = raced(CONTENDERS, contend, (case, threads, str(library)), rounds)
    scale = float(np.abs(outputs["deform_conv"]).max())
    difference = float(np.abs(outputs["kernel"] - outputs["deform_conv"]).max()) / scale
    ratios = [slow / fast for slow, fast in zip(times["deform_conv"], times["kernel"], strict=True)]
    return {
        "size": size,
        "channels": channels,
        "channels_out": channels_out,
        "batch": batch,
        "max_relative_difference": difference,
        "milliseconds": {name: quartiles([1e3 * seconds for seconds in times[name]]) for name in CONTENDERS},
        "deform_conv_over_kernel": quartiles(ratios),
        "ratios": [round(ratio, 4) for ratio in ratios],
    }


def contend(pipe: Connection, name: str, case: tuple[int, int, int, int], threads: int, library: str) -> None:
    """One contender's process: send the output once, then the median seconds per run of each round asked for."""
    size, channels, channels_out, batch = case
    rng = np.random.default_rng(2105)
    x = rng.standard_normal((batch, size * size, channels)).astype(np.float32)
    build = kernel_model if name == "kernel" else deform_conv_model
    model = build(size, batch, parameters(channels, channels_out, rng))

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # A contender that waits its turn must leave the cores to the other one.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    pipe.send(session.run(None, {"x": x})[0])
    serve(pipe, lambda: session.run(None, {"x": x}), least=3)


def parameters(channels: int, channels_out: int, rng: np.random.Generator) -> dict[str, Array]:
    """Random weights of one merge in the checkpoint's layout; offsets of about one pixel."""
    fan_in = 4 * channels
    return {
        "offset_weight": rng.standard_normal((8, channels, 2, 2)).astype(np.float32) / np.float32(fan_in**0.5),
        "offset_bias": rng.standard_normal(8).astype(np.float32) * np.float32(0.3),
        "weight": rng.standard_normal((channels_out, channels, 2, 2)).astype(np.float32) / np.float32(fan_in**0.5),
        "bias": rng.standard_normal(channels_out).astype(np.float32) * np.float32(0.1),
    }


def kernel_model(size: int, batch: int, weights: dict[str, Array]) -> onnx.ModelProto:
    """The step with our operator, channels-last throughout."""
    channels_out, channels = weights["weight"].shape[:2]
    offset_weight, projection = (
        weights[name].transpose(0, 2, 3, 1).reshape(-1, 4 * channels) for name in ("offset_weight", "weight")
    )
    constants = {
        "map_shape": np.array([batch, size, size, channels], np.int64),
        "offset_weight": offset_weight,
        "offset_bias": weights["offset_bias"],
        "projection": np.ascontiguousarray(projection.T),
        "bias": weights["bias"],
        "token_shape": np.array([batch, (size // 2) ** 2, channels_out], np.int64),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "map_shape"], ["map"]),
        helper.make_node(OP_TYPE, ["map", "offset_weight", "offset_bias"], ["gathered"], domain=DOMAIN),
        helper.make_node("MatMul", ["gathered", "projection"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["merged"]),
        helper.make_node("Gelu", ["merged"], ["activated"]),
        helper.make_node("Reshape", ["activated", "token_shape"], ["y"]),
    ]
    return step_model(nodes, constants, (batch, size * size, channels), (batch, (size // 2) ** 2, channels_out))


def deform_conv_model(size: int, batch: int, weights: dict[str, Array]) -> onnx.ModelProto:
    """The step with ONNX's standard DeformConv, which is channels-first."""
    channels_out, channels = weights["weight"].shape[:2]
    constants = {
        **weights,
        "map_shape": np.array([batch, channels, size, size], np.int64),
        "flat_shape": np.array([batch, channels_out, (size // 2) ** 2], np.int64),
    }
    window = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 0, 0]}
    nodes = [
        helper.make_node("Transpose", ["x"], ["channels_first"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["channels_first", "map_shape"], ["map"]),
        helper.make_node("Conv", ["map", "offset_weight", "offset_bias"], ["offset"], **window),
        helper.make_node("DeformConv", ["map", "weight", "offset", "bias"], ["merged"], **window),
        helper.make_node("Gelu", ["merged"], ["activated"]),
        helper.make_node("Reshape", ["activated", "flat_shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["y"], perm=[0, 2, 1]),
    ]
    return step_model(nodes, constants, (batch, size * size, channels), (batch, (size // 2) ** 2, channels_out))


def step_model(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], x_shape: tuple[int, ...], y_shape: tuple[int, ...]
) -> onnx.ModelProto:
    """A float32 model x -> y; opset 22 has both DeformConv and Gelu."""
    graph = helper.make_graph(
        nodes,
        "merging_step",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y_shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


if __name__ == "__main__":
    raise SystemExit(main())
