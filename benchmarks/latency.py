"""Measure LIT-S on everything this machine has, beside a floor that no runtime on it can go below.

The contenders are those of ``lit-deploy bench``. The floor is an ONNX file that holds LIT-S's matrix products and
nothing else: no norm, no GELU, no softmax, no sampling, no residual sum. What it takes is the share of the time that
every float32 runtime has to spend; ONNX Runtime's products are the yardstick.

    python benchmarks/latency.py [--rounds 20] [--threads 2] [--folder benchmarks/results]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import manifest_of, metadata_of, set_manifest
from lit_deploy.bench.contenders import Contender, default_contenders
from lit_deploy.bench.run import run_bench
from lit_deploy.core.errors import LitDeployError
from lit_deploy.core.files import write_text
from lit_deploy.models.layout import mac_count
from lit_deploy.report.bench import bench_markdown, bench_table
from lit_deploy.report.charts import bench_plot, check_chart
from lit_deploy.report.terminal import as_json, show, steps

FLOOR = "matrix products only (floor)"


def main() -> int:
    """Run the benchmark and write latency_cpu.json, .md and .png; 2 if something is missing."""
    parser = argparse.ArgumentParser(description="Measure LIT-S on this machine's CPU.")
    parser.add_argument("--rounds", type=int, default=20, help="turns of every contender [default: 20]")
    parser.add_argument("--threads", type=int, default=2, help="threads of every contender [default: 2]")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "results", help="where results go")
    arguments = parser.parse_args()
    try:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        check_chart(arguments.folder / "latency_cpu.png")
        with tempfile.TemporaryDirectory(prefix="lit-deploy-bench-") as folder, steps() as progress:
            contenders = default_contenders(Path(folder), progress=progress)
            exported = next(Path(c.source) for c in contenders if c.kind == "onnxruntime-stock")
            floor, macs, whole = matrix_products(onnx.load(exported))
            path = exported.with_name("floor.onnx")
            onnx.save(floor, path)
            contenders += (Contender(FLOOR, path, "onnxruntime-stock", compared=False),)
            result = run_bench(contenders, threads=arguments.threads, rounds=arguments.rounds, progress=progress)
        note = (
            f"The floor computes {macs / 1e9:.3f} of the network's {whole / 1e9:.3f} GMACs per image; the rest are the "
            "offset branches inside the operator.\n"
        )
        write_text(as_json(result), arguments.folder / "latency_cpu.json")
        write_text(f"{bench_markdown(result)}\n{note}", arguments.folder / "latency_cpu.md")
        bench_plot(result, arguments.folder / "latency_cpu.png")
    except LitDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    show(bench_table(result))
    print(note, end="")
    return 0


class ProductChain:
    """Builds a graph of MatMuls whose shapes and weights are a network's.

    Every product feeds the next, so none can be skipped or overlapped. The pieces between them (Reshape, one Slice per
    attention) compute nothing. Norms are what keeps a network's values in range; here every weight is scaled by the
    root mean square that a sample chain shows, so that no value overflows or becomes denormal, which would be slow.
    """

    def __init__(self, weights: dict[str, NDArray[np.float32]], images: tuple[int, int, int]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[np.generic]] = {}
        self.macs = 0
        self.name = "images"
        self.sample = np.random.default_rng(0).standard_normal((1, *images), dtype=np.float32)
        self.stage_name, self.stage_sample = self.name, self.sample

    def begin_stage(self) -> None:
        """Remember the current value as the tokens that the attentions of this stage take keys and values from."""
        self.stage_name, self.stage_sample = self.name, self.sample

    def reshape(self, *shape: int) -> None:
        """Read the current value as ``[batch, *shape]``."""
        self.name = self._reshaped(self.name, shape)
        self.sample = self.sample.reshape(1, *shape)

    def product(self, weight_name: str) -> None:
        """Multiply by a weight ``[in, out]``."""
        weight = self.weights[weight_name]
        value = self.sample @ weight
        scale = np.float32(1 / value.std())
        self.constants[weight_name] = weight * scale
        self._matmul(self.name, weight_name)
        self.macs += self.sample.size * weight.shape[1]
        self.sample = value * scale

    def attention(self, block: str, heads: int) -> None:
        """The four products of an attention: qkv, q times keys, weights times values, projection.

        q is sliced from the qkv product; the tokens that entered the stage stand in for keys and values. The products
        cost the same, and the chain stays linear: cubed in every block, its values would soon leave float32's range.
        """
        tokens, channels = self.sample.shape[1:]
        depth = channels // heads
        keys = self._reshaped(self.stage_name, (heads, depth, tokens))
        values = self._reshaped(self.stage_name, (heads, tokens, depth))
        sample_keys = self.stage_sample.reshape(1, heads, depth, tokens)
        sample_values = self.stage_sample.reshape(1, heads, tokens, depth)
        self.product(f"{block}.attn.qkv.weight")
        self.reshape(3, tokens * channels)
        self.constants |= {"first": np.array([0]), "second": np.array([1]), "axis": np.array([1])}
        self._node("Slice", [self.name, "first", "second", "axis"])
        self.sample = self.sample[:, :1]
        self.reshape(heads, tokens, depth)
        self._matmul(self.name, keys)
        self._matmul(self.name, values)
        self.macs += 2 * heads * tokens * tokens * depth
        self.sample = self.sample @ sample_keys @ sample_values
        self.reshape(tokens, channels)
        self.product(f"{block}.attn.proj.weight")

    def first_token(self) -> None:
        """Keep one token, where the network takes the mean: the classifier reads one row per image."""
        self.constants["zero"] = np.array(0)
        self._node("Gather", [self.name, "zero"], axis=1)
        self.sample = self.sample[:, 0]

    def model(self, manifest: Manifest) -> onnx.ModelProto:
        """The finished model, with the inputs and outputs of the network it stands for."""
        spec = manifest.input
        self.nodes[-1].output[0] = "logits"
        graph = helper.make_graph(
            self.nodes,
            "matrix_products",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ("batch", 3, spec.height, spec.width))],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", manifest.model.num_classes))],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        set_manifest(proto, manifest)
        onnx.checker.check_model(proto, full_check=True)
        return proto

    def _reshaped(self, name: str, shape: tuple[int, ...]) -> str:
        constant = f"shape_{'_'.join(map(str, shape))}"
        self.constants[constant] = np.array((0, *shape), np.int64)  # 0: the batch stays as it is
        node = helper.make_node("Reshape", [name, constant], [f"value_{len(self.nodes)}"])
        self.nodes.append(node)
        return str(node.output[0])

    def _matmul(self, left: str, right: str) -> None:
        self._node("MatMul", [left, right])

    def _node(self, kind: str, inputs: list[str], **attributes: int) -> None:
        self.name = f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [self.name], **attributes))


def matrix_products(network: onnx.ModelProto) -> tuple[onnx.ModelProto, int, int]:
    """Take the matrix products out of an exported LIT-S/M/B.

    Returns:
        The model; its multiply-accumulates per image; those of the whole network.
    """
    manifest = manifest_of(metadata_of(network), Path("network.onnx"))
    spec = manifest.model
    weights = {value.name: numpy_helper.to_array(value) for value in network.graph.initializer}
    chain = ProductChain(weights, (spec.in_channels, *spec.image_size))
    tokens = [height * width for height, width in spec.map_sizes]
    chain.reshape(tokens[0], spec.in_channels * spec.patch_size**2)
    chain.product("patch_embed.proj.weight")
    for stage in range(4):
        chain.begin_stage()
        for index in range(spec.depths[stage]):
            block = f"layers.{stage}.blocks.{index}"
            if stage >= 2:
                chain.attention(block, spec.num_heads[stage - 2])
            chain.product(f"{block}.mlp.fc1.weight")
            chain.product(f"{block}.mlp.fc2.weight")
        if stage < 3:
            chain.reshape(tokens[stage + 1], 4 * spec.embed_dims[stage])
            chain.product(f"layers.{stage}.downsample.dconv.weight")
    chain.first_token()
    chain.product("head.weight")
    return chain.model(manifest), chain.macs, mac_count(spec)


if __name__ == "__main__":
    raise SystemExit(main())
