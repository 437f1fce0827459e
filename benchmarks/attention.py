"""Time attention over a map, and measure its memory: PyTorch, ONNX Runtime and OpenVINO, with our kernel and without.

Packed projections [1, N, 3*C] in, [1, N, C] out; a bias by relative position; every size dynamic.

* ``ort_kernel``: ONNX Runtime with our custom-op library.
* ``ort_blocks``, ``ort_plain``: ONNX Runtime on the function in the file, which is standard operators alone.
* ``openvino_blocks``, ``openvino_plain``: OpenVINO on the same, inlined, in float32.
* ``torch``: the reference in eager PyTorch. ``torch_sdpa``: ``scaled_dot_product_attention`` with the gathered bias.

Each contender runs in a process of its own. They take turns in short rounds, so a slow spell of the machine meets all,
and ratios are taken within each round. Before any timing all must compute the same numbers.

    python benchmarks/attention.py [--rounds 12] [--output benchmarks/results/attention_cpu.json]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from operator_timing import quartiles, raced, required_library, serve, written

Array = NDArray[np.float32]

CASES = ((14, 14, 12), (50, 76, 12), (25, 38, 24))
"""(H, W, heads) of LIT-S: stage 3 at 224 x 224, stages 3 and 4 at 800 x 1216."""
HEAD_DIM = 32
KERNEL = "ort_kernel"
CONTENDERS = (KERNEL, "ort_blocks", "ort_plain", "openvino_blocks", "openvino_plain", "torch", "torch_sdpa")
MAX_DIFFERENCE = 1e-5
"""Largest difference allowed from the reference, of the largest output."""


def main() -> int:
    """Run every case, print the table, write the JSON file; 1 if the contenders disagree."""
    parser = argparse.ArgumentParser(description="Time attention over a map: our kernel against what others offer.")
    parser.add_argument("--rounds", type=int, default=12, help="rounds per case [default: 12]")
    parser.add_argument("--threads", type=int, default=2, help="threads of every contender [default: 2]")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "attention_cpu.json")
    arguments = parser.parse_args()
    library = required_library(parser)

    load_before = os.getloadavg()[0]
    cases = []
    for height, width, heads in CASES:
        case = measure((height, width, heads), arguments.rounds, arguments.threads, library)
        cases.append(case)
        print(f"{height}x{width}, {heads} heads of {HEAD_DIM}: difference {case['max_relative_difference']:.1e}")
        for name in CONTENDERS:
            ratio = case["over_kernel"][name]
            print(
                f"  {name:<16} {case['milliseconds'][name]['median']:9.3f} ms  {case['peak_mib'][name]:7.1f} MiB  "
                f"ratio {ratio['median']:5.2f} [{ratio['lower_quartile']:.2f}, {ratio['upper_quartile']:.2f}]",
                flush=True,
            )
    agreed = all(case["max_relative_difference"] < MAX_DIFFERENCE for case in cases)
    return written(
        "one attention with a relative position bias, float32, batch 1; over_kernel = time / ort_kernel time",
        cases,
        arguments,
        load_before,
        ("onnxruntime", "openvino", "torch", "onnx", "numpy"),
        "" if agreed else f"the contenders differ by more than {MAX_DIFFERENCE:g} of the largest output",
    )


def measure(case: tuple[int, int, int], rounds: int, threads: int, library: Path) -> dict[str, Any]:
    """Time every contender at one size; milliseconds, quartiles of the ratios, and memory."""
    os.environ.update(OMP_WAIT_POLICY="PASSIVE", KMP_BLOCKTIME="0")  # who waits its turn must leave the cores alone
    said, times = raced(CONTENDERS, contend, (case, threads, str(library)), rounds)
    outputs, peaks = ({name: each[place] for name, each in said.items()} for place in (0, 1))
    want = outputs["torch"]
    difference = max(float(np.abs(output - want).max()) for output in outputs.values()) / float(np.abs(want).max())
    height, width, heads = case
    return {
        "height": height,
        "width": width,
        "heads": heads,
        "head_dim": HEAD_DIM,
        "max_relative_difference": difference,
        "peak_mib": peaks,
        "milliseconds": {name: quartiles([1e3 * seconds for seconds in times[name]]) for name in CONTENDERS},
        "over_kernel": {
            name: quartiles([time / kernel for time, kernel in zip(times[name], times[KERNEL], strict=True)])
            for name in CONTENDERS
        },
    }


def contend(pipe: Connection, name: str, case: tuple[int, int, int], threads: int, library: str) -> None:
    """One contender's process: send the output and the memory of a run, then the median seconds of each round."""
    height, width, heads = case
    rng = np.random.default_rng(2105)
    qkv = rng.standard_normal((1, height * width, 3 * heads * HEAD_DIM), dtype=np.float32)
    table = rng.standard_normal((heads, 2 * height - 1, 2 * width - 1), dtype=np.float32)
    build = {"ort": onnxruntime_run, "openvino": openvino_run, "torch": torch_run}[name.split("_")[0]]
    run = build(name, qkv, table, heads, threads, library)

    # The peak of resident memory above what is there before the first run: reset, then read. Of three runs, as ONNX
    # Runtime's second one allocates by the pattern of the first, beside what that has left.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_mib("VmRSS")
    for _ in range(3):
        output = run()
    pipe.send((output, round(max(0.0, memory_mib("VmHWM") - before), 1)))
    serve(pipe, run, least=1)


def attention_model(name: str, heads: int) -> Any:
    """One node with its function, every size dynamic."""
    from onnx import TensorProto, helper

    from lit_deploy.core.specs import OP_VERSION
    from lit_deploy.ops.domain import DOMAIN
    from lit_deploy.ops.relative_position_attention.onnx_function import OPSET, onnx_function
    from lit_deploy.ops.relative_position_attention.schema import OP_TYPE

    node = helper.make_node(
        OP_TYPE, ["qkv", "table"], ["y"], domain=DOMAIN, num_heads=heads, scale=float(HEAD_DIM**-0.5)
    )
    shapes = {"qkv": ("batch", "tokens", 3 * heads * HEAD_DIM), "table": (heads, "rows", "columns")}
    inputs = [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in shapes.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("batch", "tokens", heads * HEAD_DIM))
    graph = helper.make_graph([node], "attention", inputs, [output])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    function = onnx_function(blocks=not name.endswith("plain"))
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)


def onnxruntime_run(name: str, qkv: Array, table: Array, heads: int, threads: int, library: str) -> Callable[[], Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if name == KERNEL:
        options.register_custom_ops_library(library)
    model = attention_model(name, heads).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"qkv": qkv, "table": table})[0]


def openvino_run(name: str, qkv: Array, table: Array, heads: int, threads: int, _: str) -> Callable[[], Array]:
    import onnx.inliner
    import openvino

    core = openvino.Core()
    model = onnx.inliner.inline_local_functions(attention_model(name, heads)).SerializeToString()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    request = core.compile_model(core.read_model(model), "CPU", options).create_infer_request()
    return lambda: np.array(request.infer({"qkv": qkv, "table": table})[0])


def torch_run(name: str, qkv: Array, table: Array, heads: int, threads: int, _: str) -> Callable[[], Array]:
    import torch

    from lit_deploy.models.keys import relative_position_index
    from lit_deploy.ops.relative_position_attention.reference import reference

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    packed, biases, scale = torch.from_numpy(qkv), torch.from_numpy(table), HEAD_DIM**-0.5
    if name == "torch":
        return lambda: reference(packed, biases, heads, scale).numpy()
    height, width = ((size + 1) // 2 for size in table.shape[1:])
    index = torch.from_numpy(relative_position_index(height, width)).flatten()

    def sdpa() -> Array:
        q, k, v = packed.unflatten(2, (3, heads, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        bias = biases.flatten(1).index_select(1, index).view(1, heads, height * width, height * width)
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
        result: Array = attended.transpose(1, 2).flatten(2).numpy()
        return result

    return sdpa


def memory_mib(entry: str) -> float:
    """One entry of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) / 1024


if __name__ == "__main__":
    raise SystemExit(main())
