"""Time attention over a map, and measure its memory: PyTorch, ONNX Runtime and OpenVINO, with our kernel and without.

Packed projections [1, N, 3*C] in, [1, N, C] out; a bias by relative position; every size dynamic.

* ``ort_kernel``: ONNX Runtime with our custom-op library.
* ``ort_blocks``, ``ort_plain``: ONNX Runtime on the function in the file, which is standard operators alone.
* ``openvino_blocks``, ``openvino_plain``: OpenVINO on the same, inlined, in float32.
* ``torch``: the reference in eager PyTorch. ``torch_sdpa``: ``scaled_dot_product_attention`` with the gathered bias.
* ``ort_kernel_bf16``, ``openvino_blocks_bf16``, ``openvino_plain_bf16``: bfloat16 in and out, and inside whatever each
  makes of it; held to a tolerance of their own.

Each contender runs in a process of its own. They take turns in short rounds, so a slow spell of the machine meets all,
and ratios are taken within each round. Before any timing all must compute the same numbers. ``share_of_peak`` is the
rate of the two products, at the median time, over what multiply-adds of float32 reach on this machine in the same run
(``lit_deploy_fma_peak``, which is built with the C++ tests); in bfloat16 it may exceed 1.

    python benchmarks/attention.py [--rounds 12] [--output benchmarks/results/attention_cpu.json]
"""

from __future__ import annotations

import argparse
import os
import subprocess
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
BFLOAT16 = 16
"""``onnx.TensorProto.BFLOAT16``."""
KERNEL = "ort_kernel"
FLOATS = (KERNEL, "ort_blocks", "ort_plain", "openvino_blocks", "openvino_plain", "torch", "torch_sdpa")
BFLOATS = ("ort_kernel_bf16", "openvino_blocks_bf16", "openvino_plain_bf16")
CONTENDERS = FLOATS + BFLOATS
MAX_DIFFERENCE, MAX_DIFFERENCE_BF16 = 1e-5, 4e-2
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
        print(
            f"{height}x{width}, {heads} heads of {HEAD_DIM}: difference {case['max_relative_difference']:.1e}, "
            f"bf16 {case['max_relative_difference_bf16']}, peak {case['fma_peak_gflops']} GFLOP/s"
        )
        for name in CONTENDERS:
            ratio = case["over_kernel"][name]
            print(
                f"  {name:<20} {case['milliseconds'][name]['median']:9.3f} ms  {case['peak_mib'][name]:7.1f} MiB  "
                f"ratio {ratio['median']:5.2f} [{ratio['lower_quartile']:.2f}, {ratio['upper_quartile']:.2f}]  "
                f"{case['share_of_peak'][name]:4.0%} of the peak",
                flush=True,
            )
    agreed = all(
        case["max_relative_difference"] < MAX_DIFFERENCE
        and max(case["max_relative_difference_bf16"].values()) < MAX_DIFFERENCE_BF16
        for case in cases
    )
    return written(
        "one attention with a relative position bias, batch 1, float32 unless named bf16; "
        "over_kernel = time / ort_kernel time",
        cases,
        arguments,
        load_before,
        ("onnxruntime", "openvino", "torch", "onnx", "numpy"),
        ""
        if agreed
        else f"contenders differ by more than {MAX_DIFFERENCE:g}, or {MAX_DIFFERENCE_BF16:g}, of the largest output",
    )


def measure(case: tuple[int, int, int], rounds: int, threads: int, library: Path) -> dict[str, Any]:
    """Time every contender at one size; milliseconds, quartiles of the ratios, and memory."""
    os.environ.update(OMP_WAIT_POLICY="PASSIVE", KMP_BLOCKTIME="0")  # who waits its turn must leave the cores alone
    peak = fma_peak(library, threads)
    said, times = raced(CONTENDERS, contend, (case, threads, str(library)), rounds)
    outputs, peaks = ({name: each[place] for name, each in said.items()} for place in (0, 1))
    want = outputs["torch"]
    difference = {name: float(np.abs(output - want).max() / np.abs(want).max()) for name, output in outputs.items()}
    milliseconds = {name: quartiles([1e3 * seconds for seconds in times[name]]) for name in CONTENDERS}
    height, width, heads = case
    gflops = 4e-9 * heads * (height * width) ** 2 * HEAD_DIM  # two products
    return {
        "height": height,
        "width": width,
        "heads": heads,
        "head_dim": HEAD_DIM,
        "max_relative_difference": max(difference[name] for name in FLOATS),
        "max_relative_difference_bf16": {name: round(difference[name], 5) for name in BFLOATS},
        "fma_peak_gflops": peak,
        "share_of_peak": {
            name: round(gflops / (time["median"] / 1e3) / peak, 3) for name, time in milliseconds.items()
        },
        "peak_mib": peaks,
        "milliseconds": milliseconds,
        "over_kernel": {
            name: quartiles([time / kernel for time, kernel in zip(times[name], times[KERNEL], strict=True)])
            for name in CONTENDERS
        },
    }


def fma_peak(library: Path, threads: int) -> float:
    """GFLOP/s of multiply-adds in registers, float32, all threads together."""
    tool = library.parent / "lit_deploy_fma_peak"
    return float(subprocess.run([tool, str(threads)], check=True, capture_output=True, text=True).stdout)


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
    pipe.send((widened(output), round(max(0.0, memory_mib("VmHWM") - before), 1)))
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
    types = {"qkv": BFLOAT16 if name in BFLOATS else TensorProto.FLOAT, "table": TensorProto.FLOAT}
    inputs = [helper.make_tensor_value_info(key, kind, shapes[key]) for key, kind in types.items()]
    output = helper.make_tensor_value_info("y", types["qkv"], ("batch", "tokens", heads * HEAD_DIM))
    graph = helper.make_graph([node], "attention", inputs, [output])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    function = onnx_function(blocks="plain" not in name)
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)


def onnxruntime_run(
    name: str, qkv: Array, table: Array, heads: int, threads: int, library: str
) -> Callable[[], NDArray[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if name.startswith(KERNEL):
        options.register_custom_ops_library(library)
    model = attention_model(name, heads).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    if name not in BFLOATS:
        return lambda: session.run(None, {"qkv": qkv, "table": table})[0]
    narrow, y = narrowed(qkv), np.empty((1, qkv.shape[1], heads * HEAD_DIM), np.uint16)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, BFLOAT16) for bits in (narrow, y)]
    binding = session.io_binding()
    binding.bind_ortvalue_input("qkv", values[0])
    binding.bind_cpu_input("table", table)
    binding.bind_ortvalue_output("y", values[1])

    def run(_: object = narrow) -> NDArray[Any]:  # of which the values hold the address alone
        session.run_with_iobinding(binding)
        return y

    return run


def openvino_run(name: str, qkv: Array, table: Array, heads: int, threads: int, _: str) -> Callable[[], NDArray[Any]]:
    import onnx.inliner
    import openvino

    core = openvino.Core()
    model = onnx.inliner.inline_local_functions(attention_model(name, heads)).SerializeToString()
    half = name in BFLOATS
    options = {"INFERENCE_PRECISION_HINT": "bf16" if half else "f32", "INFERENCE_NUM_THREADS": threads}
    request = core.compile_model(core.read_model(model), "CPU", options).create_infer_request()
    if not half:
        return lambda: np.array(request.infer({"qkv": qkv, "table": table})[0])
    narrow = narrowed(qkv)
    feed = {"qkv": openvino.Tensor(narrow, openvino.Shape(qkv.shape), openvino.Type.bf16), "table": table}
    return lambda: request.infer(feed, share_outputs=True)[0].view(np.uint16)


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


def narrowed(values: Array) -> NDArray[np.uint16]:
    """The bits of bfloat16, rounded to nearest even; of finite values."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def widened(output: NDArray[Any]) -> Array:
    """The bits of bfloat16 as float32; float32 as it is."""
    return output if output.dtype == np.float32 else (output.astype(np.uint32) << 16).view(np.float32)


def memory_mib(entry: str) -> float:
    """One entry of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) / 1024


if __name__ == "__main__":
    raise SystemExit(main())
