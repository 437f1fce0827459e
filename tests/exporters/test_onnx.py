"""The exported graph: checked, named after the modules, clean, and free of traces of the machine that wrote it."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from support.exported import export_of
from support.golden import TINY, TINY_TI

import lit_deploy
from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.core.specs import ModelSpec
from lit_deploy.exporters.onnx import OPSET
from lit_deploy.models.layout import state_entries
from lit_deploy.ops.deformable_token_merging.schema import DOMAIN, OP_TYPE
from lit_deploy.ops.relative_position_attention.schema import OP_TYPE as ATTENTION

CheckpointFile = Callable[[str], Path]

ANY = [
    ("tiny", {}),
    ("tiny_ti", {}),
    ("tiny", {"precision": "fp16", "input": "uint8"}),
    ("tiny_ti", {"output": "top5"}),
]


@pytest.fixture(scope="module", params=ANY, ids=str)
def graph(request: pytest.FixtureRequest, checkpoint_file: CheckpointFile) -> tuple[ModelSpec, onnx.ModelProto, Path]:
    name, options = request.param
    path = export_of(checkpoint_file(name), **options)
    return {"tiny": TINY, "tiny_ti": TINY_TI}[name], onnx.load(str(path)), path


def test_checker_and_strict_shape_inference(graph: tuple[ModelSpec, onnx.ModelProto, Path]) -> None:
    _, model, path = graph
    onnx.checker.check_model(str(path), full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    assert versions == {"": OPSET, DOMAIN: 1}
    assert OPSET == 20
    shapes = {value.name: value.type.tensor_type for value in [*inferred.graph.value_info, *inferred.graph.output]}
    for name in [*read_manifest(path).layers, *(value.name for value in model.graph.output)]:
        dims = shapes[name].shape.dim
        assert len(dims) >= 2, name
        assert all(dim.HasField("dim_value") for dim in dims[1:]), f"{name}: only the batch is dynamic"
        assert dims[0].dim_param, name


def test_names_follow_the_modules(graph: tuple[ModelSpec, onnx.ModelProto, Path]) -> None:
    """Every weight has its official key, except where a documented rewrite made a new one from several."""
    spec, model, path = graph
    official = set(state_entries(spec))
    weights = {entry.name for entry in model.graph.initializer if "/" not in entry.name}
    assert weights <= official, weights - official
    gone = {key for key in official - weights if not key.endswith("num_batches_tracked")}
    assert all(re.search(r"norm_layer\.|relative_position_index", key) for key in gone), gone
    constants = [entry for entry in model.graph.initializer if "/" in entry.name]
    assert all(numpy_helper.to_array(entry).size <= 8 for entry in constants)

    modules = {key.rsplit(".", count)[0] for key in official for count in range(1, key.count(".") + 1)}
    activations = {f"{name}.act" for name in modules if name.endswith(".mlp")}
    own = 0
    for node in model.graph.node:
        module, _, kind = node.name.rpartition("/")  # no module: the network's own, outside every named module
        assert re.fullmatch(rf"{node.op_type}(_\d+)?", kind), node.name
        assert not module or module in modules | activations, node.name
        own += not module
    assert own < 12, "pooling, embeddings, class token, output"
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert set(read_manifest(path).layers) <= modules


def test_nothing_of_the_machine_is_in_the_file(graph: tuple[ModelSpec, onnx.ModelProto, Path]) -> None:
    _, model, path = graph
    content = path.read_bytes()
    root = Path(lit_deploy.__file__).resolve().parents[1]
    for word in (str(root), "site-packages", sys.prefix, str(path.parent), str(Path.home()), "Traceback", "pkg.torch"):
        if len(word) > 1:
            assert word.encode() not in content, word
    everything = [*model.graph.node, *model.graph.initializer, *model.graph.value_info, model.graph]
    assert [entry for entry in everything if entry.metadata_props] == []
    assert [entry.key for entry in model.metadata_props] == ["lit_deploy.manifest"]
    assert not any(name.startswith("model.") for node in model.graph.node for name in (node.name, *node.input))
    assert model.producer_name == "lit_deploy"


def test_graph_is_clean(graph: tuple[ModelSpec, onnx.ModelProto, Path]) -> None:
    spec, model, path = graph
    counts = Counter(node.op_type for node in model.graph.node)
    attention = sum(spec.depths[2:])
    class_token = spec.family == "lit_ti"
    manifest = read_manifest(path)
    half, pixels = manifest.precision == "fp16", manifest.input.kind == "uint8"
    assert counts[OP_TYPE] == 3
    assert counts["Gelu"] == 3 + sum(spec.depths)
    assert counts["LayerNormalization"] == 2 + sum(spec.depths) + attention
    assert counts[ATTENTION] == attention
    assert counts["Softmax"] == (manifest.output != "logits")
    assert counts["Transpose"] == 1
    assert counts["MatMul"] == 1 + 3 + 2 * sum(spec.depths) + 2 * attention + 1
    assert counts["Cast"] == 2 * half + pixels, "float32 where it matters: pixels, output"
    # the class token is repeated for a batch of any size, and read at the end; nothing else computes a shape
    allowed = {"Shape": 1, "Gather": 1, "Concat": 2, "Expand": 1} if class_token else {}
    for kind in ("Shape", "Gather", "Concat", "Expand", "Slice", "Unsqueeze", "Squeeze"):
        assert counts[kind] <= allowed.get(kind, 0), kind
    wanted = {
        "Gelu",
        "LayerNormalization",
        "Softmax",
        "Transpose",
        "MatMul",
        "Cast",
        "Add",
        "Reshape",
        OP_TYPE,
        ATTENTION,
    }
    assert counts.keys() <= wanted | allowed.keys() | {"ReduceMean", "TopK"}
    assert counts["BatchNormalization"] == counts["Identity"] == counts["Erf"] == 0


def test_node_finds_kernel_function_and_plugin(graph: tuple[ModelSpec, onnx.ModelProto, Path]) -> None:
    spec, model, _ = graph
    assert [(entry.domain, entry.name) for entry in model.functions] == [(DOMAIN, OP_TYPE), (DOMAIN, ATTENTION)]
    heads = [count for stage in (2, 3) for count in [spec.num_heads[stage - 2]] * spec.depths[stage]]
    attentions = [node for node in model.graph.node if node.op_type == ATTENTION]
    for node, count in zip(attentions, heads, strict=True):
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        assert attributes == {"num_heads": count, "scale": 1.0}, "the scale is in the weights"
    for node in (node for node in model.graph.node if node.op_type == OP_TYPE):
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        assert attributes == {"plugin_namespace": b"lit_deploy", "plugin_version": b"1"}


@pytest.mark.parametrize("name", ["tiny", "tiny_ti"])
def test_portable_graph_is_standard(name: str, checkpoint_file: CheckpointFile) -> None:
    path = export_of(checkpoint_file(name), portable=True)
    model = onnx.load(str(path))
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert sum(node.op_type == "GridSample" for node in model.graph.node) == 3
    spec = {"tiny": TINY, "tiny_ti": TINY_TI}[name]
    attention = sum(spec.depths[2:])
    inside = Counter(node.op_type for node in model.graph.node if node.name.rpartition("/")[0].endswith(".attn"))
    wanted = {"Split": 1, "Reshape": 4, "Transpose": 4, "MatMul": 2, "Softmax": 1}
    wanted |= {"Add": 1} if spec.family == "lit" else {}
    assert inside == {kind: count * attention for kind, count in wanted.items()}, "no shape, no gathering"
    assert not [tensor.name for tensor in model.graph.initializer if tensor.name.endswith("bias_table")]
    onnx.checker.check_model(model, full_check=True)
    assert read_manifest(path).portable
